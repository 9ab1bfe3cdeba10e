"""What recognition needs of a network, in whatever form it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from common.audio.features import FeatureConfig, Featurizer
from common.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from common.model.decoder import SpeechDecoder
    from common.model.recipe import Recipe


class AcousticModel(Protocol):
    """A trained network with all that must travel with it.

    `common.model.speech_model.SpeechModel` is the network of a checkpoint, which runs in MindSpore;
    `common.export.offline_inference.ExportedModel` is an exported file.
    """

    @property
    def recipe(self) -> Recipe:
        """The model."""

    @property
    def config(self) -> Any:
        """The training configuration of the network."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What the labels stand for."""

    @property
    def featurizer(self) -> Featurizer:
        """The features that the network was trained on."""

    @property
    def front_end(self) -> Featurizer:
        """Makes what goes into it: the featurizer, or one that leaves the samples as they are."""

    @property
    def frame_seconds(self) -> float:
        """Seconds from one output frame to the next."""

    @property
    def static(self) -> bool:
        """Whether batches must come in a finite set of shapes."""

    @property
    def max_frames(self) -> float:
        """Feature frames of the longest utterance that it takes; infinite: any."""

    @property
    def runs_on(self) -> str:
        """Device, and what runs it there where that is not MindSpore; for people."""

    def decoder(self, decoding: Any = None) -> SpeechDecoder:
        """Build the decoder of an `LMConfig`; None: greedy."""

    def forward_memory(self) -> tuple[float, float] | None:
        """Forecast the bytes of a forward pass: without a frame, and for each feature frame.

        Returns:
            Both; None: no forecast.
        """


class SampleFrontEnd(Featurizer):
    """In the place of a featurizer, for files that compute features themselves.

    Args:
        config: Of the features that the file computes.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        self.dimension = 1

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples as one bin, with a frame for each: (1, N)."""
        return np.asarray(samples, np.float32)[None]

    def sounding(self, samples: np.ndarray) -> slice:
        """Keep all samples: the file trims them."""
        return slice(0, len(samples))
