"""ONNX files of 8-bit arithmetic, and word error rates of files.

Weights alone need no tool: `common.export.onnx.Graph` writes them. For arithmetic in 8 bits this
has onnxruntime's own tools: LSTMs and matrix products find the range of their inputs as they run
(dynamic quantisation), convolutions get it from recordings (static quantisation).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from common.audio.features import Featurizer
from common.data.manifest import Utterance
from common.decoding.decoders import GreedyDecoder
from common.evaluation.error_rates import EditCounts, word_errors
from common.export.onnx import CONSTANT
from common.export.running import open_graph
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

_PIECES, _SECONDS = 80, 4  # of speech that ranges are taken from
# A percentile of the values instead of the extremes, which single outliers would set.
_PERCENTILE = 99.9
# Convolutions at the start and the end that stay in float32, as is usual: with them in 8 bits, WER
# rose by 2 to 4 points on held-out utterances of AN4, and without them (at 99.9) by none.
_FIRST, _LAST = 1, 2
# Channels of the weights have a scale each, which came with this operator set.
_CHANNELS_OPSET, _CHANNELS_IR = 13, 7


def quantise_dynamic(source: Path, target: Path) -> None:
    """Give the LSTMs and matrix products of a file 8-bit arithmetic.

    Args:
        source: ONNX file in float32.
        target: ONNX file to write.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["LSTM", "MatMul"],
            nodes_to_quantize=_weighted(onnx.load(source), "LSTM", "MatMul"),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def quantise_static(source: Path, target: Path, batches: Iterable[dict[str, np.ndarray]]) -> None:
    """Give the convolutions of a file 8-bit arithmetic, but for the first and the last ones.

    Args:
        source: ONNX file in float32.
        target: ONNX file to write.
        batches: Inputs of the file, all of one shape; their values set the ranges.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import QuantType

    converted = source.with_name(f"{source.stem}.converted.onnx")
    model = onnx.version_converter.convert_version(onnx.load(source), _CHANNELS_OPSET)
    model.ir_version = _CHANNELS_IR
    onnx.save(model, converted)
    convolutions = _weighted(model, "Conv")

    class Recordings(quantization.CalibrationDataReader):
        inputs = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    try:
        with _quiet():
            quantization.quantize_static(
                converted,
                target,
                Recordings(),
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=convolutions[_FIRST:-_LAST] or convolutions,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": _PERCENTILE},
            )
    finally:
        converted.unlink(missing_ok=True)


def calibration_batches(
    featurizer: Featurizer,
    utterances: Sequence[Utterance],
    samples: bool,
    log: Callable[[str], None],
) -> list[dict[str, np.ndarray]]:
    """Cut recordings into pieces of one length, as inputs of a file.

    Args:
        featurizer: Of the network.
        utterances: The recordings; few minutes are used.
        samples: The file takes samples.
        log: Gets a line for each recording that cannot be read; the others are used.

    Returns:
        Inputs of the file, one piece each.

    Raises:
        UserError: The recordings are too short together.
    """
    rate = featurizer.config.sample_rate
    length, batches = _SECONDS * rate, []
    for piece in _pieces(featurizer, utterances, length, log):
        # A file that trims silence would make pieces of several lengths.
        if len(featurizer.trim(piece)) == length:
            name, values = ("samples", piece[None]) if samples else ("features", featurizer(piece))
            values = values if samples else values[None]
            counts = np.array([values.shape[-1]], np.int32)
            batches.append({name: values, "lengths": counts})
        if len(batches) == _PIECES:
            break
    if not batches:
        raise UserError(
            f"--calibration_manifest: less than {_SECONDS} s of speech in its recordings, expected "
            f"at least {_SECONDS} s and better {_SECONDS * _PIECES} s"
        )
    return batches


def _pieces(
    featurizer: Featurizer,
    utterances: Sequence[Utterance],
    length: int,
    log: Callable[[str], None],
) -> Iterator[np.ndarray]:
    """Yield pieces of the recordings one after the other, spread over the whole list."""
    left = np.zeros(0, np.float32)
    step = max(1, len(utterances) // (2 * _PIECES))
    for start in range(step):
        for utterance in utterances[start::step]:
            samples = _load(utterance, featurizer, log)
            if samples is None:
                continue
            left = np.concatenate((left, featurizer.trim(samples)))
            while len(left) >= length:
                yield left[:length].astype(np.float32)
                left = left[length:]


def word_error_rates(
    paths: Sequence[Path],
    featurizer: Featurizer,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    samples: bool,
    log: Callable[[str], None],
) -> tuple[list[float], int]:
    """Recognise recordings greedily with ONNX files, and score the texts as eval.py does.

    Args:
        paths: The files.
        featurizer: Of the network.
        tokenizer: Of the network.
        utterances: Recordings and their texts.
        samples: The files take samples.
        log: Gets a line for each recording that cannot be read; the others are scored.

    Returns:
        Word error rate of each file, in percent; the number of recordings that were read.
    """
    decoder, runs = GreedyDecoder(tokenizer), [open_graph(path) for path in paths]
    counts, read = [EditCounts() for _ in paths], 0
    for utterance in utterances:
        values = _load(utterance, featurizer, log)
        if values is None:
            continue
        read += 1
        given = values[None] if samples else featurizer(featurizer.trim(values))[None]
        lengths = np.array([given.shape[-1]], np.int32)
        reference = tokenizer.normalise(utterance.text)
        for number, run in enumerate(runs):
            text = decoder(*run(given.astype(np.float32), lengths))[0]
            counts[number] += word_errors(reference, text, tokenizer.words)
    return [100 * each.rate for each in counts], read


def _load(
    utterance: Utterance, featurizer: Featurizer, log: Callable[[str], None]
) -> np.ndarray | None:
    """Load the samples of a recording; None, with a line that says why, if it cannot be read."""
    try:
        return utterance.segment.load(featurizer.config.sample_rate)
    except UserError as error:
        log(f"left out: utterance {utterance.id}: {error}")
        return None


def _weighted(model: Any, *kinds: str) -> list[str]:
    """List the operators of some kinds that have weights of the network, not of the features."""
    weights = {each.name for each in model.graph.initializer if not each.name.startswith(CONSTANT)}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in kinds and weights.intersection(node.input)
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the tools say of themselves away from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
