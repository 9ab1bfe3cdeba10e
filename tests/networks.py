"""What the tests of every network need."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from common.model import checkpoint as checkpoints
from common.model.recipe import Recipe
from common.model.speech_model import Forward


def forward(network: ms.nn.Cell, dimension: int, static: bool = False) -> Forward:
    """The network as evaluation runs it; `Forward` asks a speech_model for no more than this."""
    featurizer = type("Featurizer", (), {"dimension": dimension})
    return Forward(
        type("SpeechModel", (), {"network": network, "static": static, "featurizer": featurizer})
    )


def randomize_norms(network: ms.nn.Cell) -> None:
    """Gives averages and norms values that are not 0 and 1."""
    rng = np.random.default_rng(1)
    for parameter in network.get_parameters():
        leaf = parameter.name.split(".")[-1]
        if leaf in ("moving_mean", "beta"):
            parameter.set_data(Tensor(rng.normal(0, 0.3, parameter.shape), ms.float32))
        elif leaf in ("moving_variance", "gamma"):
            parameter.set_data(Tensor(rng.uniform(0.5, 2, parameter.shape), ms.float32))


def batch_of(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features (F, T) of some utterances as a padded batch (B, F, T), and lengths (B,)."""
    lengths = np.array([row.shape[1] for row in rows])
    features = np.zeros((len(rows), rows[0].shape[0], lengths.max()), np.float32)
    for index, row in enumerate(rows):
        features[index, :, : row.shape[1]] = row
    return features, lengths


def named_shapes(network: ms.nn.Cell) -> dict[str, tuple[int, ...]]:
    return {
        parameter.name: parameter.shape
        for parameter in network.get_parameters()
        if checkpoints.STATELESS not in parameter.name
    }


def check_padding(run: Forward, dimension: int, classes: int, recipe: Recipe, model: Any) -> None:
    """An utterance gives the same alone and in any batch, whatever lies in the padding, and as
    many frames as the length arithmetic says."""
    rng = np.random.default_rng(2)
    rows = [rng.standard_normal((dimension, frames)) for frames in (1, 2, 9, 14, 31)]
    alone = []
    for row in rows:
        log_probs, lengths = run(*batch_of([row]))
        assert log_probs.shape == (recipe.output_frames(model, row.shape[1]), 1, classes)
        assert lengths.tolist() == [len(log_probs)]
        np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, atol=1e-5)
        alone.append(log_probs[:, 0])
    for chosen in ([0, 1, 2, 3, 4], [4, 2], [1, 3, 0]):
        features, lengths = batch_of([rows[index] for index in chosen])
        features += np.where(np.arange(features.shape[2]) < lengths[:, None, None], 0, 7)
        log_probs, found_lengths = run(features.astype(np.float32), lengths)
        for row, index in enumerate(chosen):
            assert found_lengths[row] == len(alone[index])
            np.testing.assert_allclose(
                log_probs[: found_lengths[row], row], alone[index], atol=1e-4
            )
