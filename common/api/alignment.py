"""Alignment of a recording with its known text: what align.py and `Recognizer.align` do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.audio.parts import SampleParts
from common.audio.pauses import Loudness
from common.decoding.text_alignment import TextAlignment, align_text
from common.text.normalization import normaliser
from common.text.written_words import WrittenWord, listed_characters, written_words

if TYPE_CHECKING:
    from common.model.acoustic_model import AcousticModel
    from common.model.decoder import SpeechDecoder


@dataclass(frozen=True)
class Aligner:
    """Aligns recordings with their texts.

    Attributes:
        model: The network.
        decoder: A greedy one of the model.
        normalize: As DataConfig.normalize_transcripts; None: as the network was trained.
    """

    model: AcousticModel
    decoder: SpeechDecoder
    normalize: str | None = None

    def words(self, text: str, name: str, note: Callable[[str], None]) -> list[WrittenWord]:
        """Split a text into words and normalise them.

        Args:
            text: What was said in the recording.
            name: What messages call the text.
            note: Receives a line about punctuation that was passed over.

        Returns:
            The words.

        Raises:
            UserError: The text has no words, or characters that cannot be spelled.
        """
        kind = self.normalize
        if kind is None:
            kind = self.model.config.DataConfig.normalize_transcripts
        tokenizer = self.model.tokenizer
        words, passed_over = written_words(
            text, tokenizer, normaliser(kind, tokenizer.labels), name
        )
        if passed_over:
            note(f"{name}: passed over, without a label: {listed_characters(passed_over)}")
        return words

    def align(
        self,
        recording: str | Path | np.ndarray,
        words: list[WrittenWord],
        name: str,
        progress: str | None = None,
    ) -> TextAlignment:
        """Find the times of words.

        Args:
            recording: A file of any length, or samples (N,) float32 at the network's rate.
            words: What `words` gave.
            name: What errors call the recording.
            progress: Name of a progress bar; None: no bar.

        Returns:
            The alignment.

        Raises:
            UserError: The recording cannot be read, or the model tells no times.
        """
        from common.evaluation.blockwise import blockwise_log_probs, levels_of_parts

        parts = SampleParts(recording, self.model.featurizer.config.sample_rate)
        pauses = Loudness.of_levels(levels_of_parts(parts)).pauses
        log_probs = blockwise_log_probs(self.model, self.decoder, parts, name, progress=progress)
        return align_text(
            words,
            log_probs,
            self.model.tokenizer,
            self.model.frame_seconds,
            parts.duration,
            name,
            pauses,
        )
