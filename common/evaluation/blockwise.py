"""Log-probabilities of recordings of any length: the network runs over overlapping blocks."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

import numpy as np

from common.audio.features import Featurizer
from common.audio.parts import SampleParts
from common.audio.pauses import levels_of
from common.data.dataset import Dataset, Entry, Example
from common.evaluation.evaluate import recognise
from common.model.acoustic_model import AcousticModel
from common.model.decoder import SpeechDecoder
from common.utils.errors import UserError

BLOCK_SECONDS = 24.0
CONTEXT_SECONDS = 3.0  # on either side of a block, which the network hears and which is left out
_SILENT = -30.0  # natural logarithm of the probability of a label where the network gives none


class _Blocks(Dataset):
    """Blocks of a recording, which are read when they are asked for."""

    store = "audio"

    def __init__(
        self,
        recording: SampleParts,
        spans: Sequence[tuple[int, int]],
        name: str,
        featurizer: Featurizer,
    ) -> None:
        self._recording, self._spans = recording, spans
        rate = featurizer.config.sample_rate
        super().__init__(
            [
                Entry(name, "", (end - begin) / rate, featurizer.frames(end - begin), 0, 0)
                for begin, end in spans
            ]
        )

    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        """Yield blocks in the order of `indices`."""
        for index in indices:
            samples = self._recording.read(*self._spans[index])
            nothing = np.zeros(0, np.int32)
            yield Example(int(index), self.ids[index], nothing, audio=samples.copy())


def levels_of_parts(recording: SampleParts) -> np.ndarray:
    """Measure the level of each 10 ms of a recording, for `Loudness.of_levels`.

    Args:
        recording: Any.

    Returns:
        (L,) dB below full scale.
    """
    step = round(BLOCK_SECONDS) * recording.sample_rate
    levels = []
    for begin in range(0, recording.length, step):
        part = recording.read(begin, begin + step)
        if len(part):
            levels.append(levels_of(part, recording.sample_rate))
    return np.concatenate(levels)


def blockwise_log_probs(
    model: AcousticModel,
    decoder: SpeechDecoder,
    recording: SampleParts,
    name: str,
    batch_size: int = 4,
    progress: str | None = None,
) -> np.ndarray:
    """Run a CTC network over a recording, in blocks that overlap where it is long.

    Args:
        model: Network, tokenizer and features.
        decoder: A greedy one of the model.
        recording: At the network's rate.
        name: What errors call the recording.
        batch_size: Blocks that go through the network at once.
        progress: Name of the progress bar; None: no bar.

    Returns:
        (T', C) natural logarithms, one row each `model.frame_seconds` from the beginning of the
        recording, also where the network leaves out silence.

    Raises:
        UserError: The model is no CTC network.
    """
    rate, blank = model.featurizer.config.sample_rate, model.tokenizer.blank
    hop = round(model.frame_seconds * rate)  # samples of an output frame
    block, context = (
        round(seconds / model.frame_seconds) for seconds in (BLOCK_SECONDS, CONTEXT_SECONDS)
    )
    total = -(-recording.length // hop)
    if total <= block + 2 * context:
        block = total
    begins = list(range(0, total, block))
    spans = [
        (max(begin - context, 0) * hop, min((begin + block + context) * hop, recording.length))
        for begin in begins
    ]
    dataset = _Blocks(recording, spans, name, model.featurizer)
    result = np.full((total, len(model.tokenizer)), _SILENT, np.float32)
    if blank is not None:
        result[:, blank] = 0.0
    for prediction in recognise(model, decoder, dataset, batch_size, progress=progress):
        if prediction.log_probs is None:
            raise UserError(f"{name}: this model is no CTC network: it tells no times")
        begin = begins[prediction.index]
        first = max(begin - context, 0) + round(prediction.start / hop)
        kept = slice(max(begin - first, 0), begin + block - first)
        rows = prediction.log_probs[kept]
        place = first + kept.start
        rows = rows[: total - place]
        result[place : place + len(rows)] = rows
    return result
