"""Export of trained networks as MindIR, AIR or ONNX, with a description, verified by running them.

MindIR files of LSTM networks are for one kind of device. On CPU and GPU they hold the operator
LSTM, which Ascend lacks; on Ascend DynamicRNN, in float16 and for static shapes, which no other
device has: such a file can be written anywhere, and run on a card alone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common import __version__
from common.data.dataset import mindspore_reason
from common.data.loader import padded_batch
from common.data.manifest import Utterance
from common.export import sherpa
from common.export.description import described_files, description_of, identify
from common.export.mindir import graph_facts, share_weights
from common.export.onnx import write_onnx
from common.export.onnx_metadata import CONTENT, DESCRIPTION, add_metadata, model_content
from common.export.quantization import (
    calibration_batches,
    quantise_dynamic,
    quantise_static,
    word_error_rates,
)
from common.export.running import graph_file, open_graph, open_onnx
from common.export.streaming import STREAM, StreamShape, streaming_tensors, write_streaming
from common.export.streaming_session import NetworkStream
from common.memory import forecast_forward
from common.model.checkpoint import check_weights
from common.model.decoder import LogProbs
from common.model.speech_model import Forward, Inference, SpeechModel
from common.nn.recurrent import Recurrent
from common.utils import runtime
from common.utils.atomic_directory import empty, locked
from common.utils.backend import Tensor, ms
from common.utils.errors import UserError
from common.utils.files import read_json, write_text
from common.utils.wording import counted

ENDINGS = {"MINDIR": ".mindir", "AIR": ".air", "ONNX": ".onnx"}
TOLERANCE = 1e-4  # on log-probabilities, between the file and the checkpoint
# ... on probabilities, where the file has float16 weights: the logarithms of improbable labels may
# move by more than matters to any decoder.
TOLERANCE_HALF = 2e-2
# ... where it has int8 weights: on the share of the probability that goes to other labels, as a
# mean over frames. Single frames between two labels may go either way. It was 0.02 at most for
# the trained networks, and 0.11 for small ones of random weights.
TOLERANCE_INT8 = 0.2
_MOST_WER_RISE = 0.3  # points, without a warning
_LENGTHS = (37, 160, 403)  # feature frames at which a dynamic file is compared


@dataclass(frozen=True)
class Options:
    """Form of the exported files.

    Attributes:
        file_format: One of ENDINGS.
        batch_size: Utterances in a batch; 0: any number, on CPU and GPU only.
        frames: Feature frames that inputs are padded to; 0: any number, on CPU and GPU only.
        buckets: Several numbers of frames instead of `frames`, ascending: a file for each.
        device: Kind of device that the file is for; empty: the one that this process runs on.
        half: Weight matrices in float16.
        int8: Of an ONNX file: "weights": matrices in int8, which compute in float32; "compute":
            8-bit arithmetic of onnxruntime; empty: neither.
        calibration: Recordings from which the ranges of 8-bit convolutions are taken.
        scored: Recordings whose word error rate is told, of the file and in float32.
        style: "sherpa": an ONNX file as sherpa-onnx wants it; empty: as our own programs do.
        input: Of an ONNX file: "samples", from which it computes the features itself, or
            "features"; empty: samples, but features where `frames` is given or the file is for
            Ascend, whose converters want fixed shapes.
        license: Of the weights, for the file's metadata; empty: what the checkpoint says.
        streaming: An ONNX file that takes a recording piece by piece.
    """

    file_format: str = "MINDIR"
    batch_size: int = 0
    frames: int = 0
    buckets: tuple[int, ...] = ()
    device: str = ""
    half: bool = False
    int8: str = ""
    calibration: Sequence[Utterance] = ()
    scored: Sequence[Utterance] = ()
    style: str = ""
    input: str = ""
    license: str = ""
    streaming: bool = False

    @property
    def precision(self) -> str:
        """Of the weights: "float32", "float16" or "int8"."""
        return "int8" if self.int8 else "float16" if self.half else "float32"

    @property
    def samples(self) -> bool:
        """Whether the file takes samples."""
        fixed = self.frames or self.device == "Ascend"
        return (
            self.file_format == "ONNX"
            and not self.streaming
            and self.input != "features"
            and not (fixed and not self.input)
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Feature frames of each file; 0: any number."""
        return self.buckets or (self.frames,)


@dataclass
class ExportedFile:
    """One file of an export.

    Attributes:
        file: Name of the file.
        frames: Feature frames that its inputs are padded to; 0: any number.
        difference: Largest difference from the checkpoint's outputs; None: could not be run here.
        graph: Inputs and operators of a MindIR file (`graph_facts`), for programs that run it.
    """

    file: str
    frames: int
    difference: float | None = None
    graph: dict[str, Any] | None = None


def export(
    speech_model: SpeechModel,
    path: str | Path,
    options: Options = Options(),
    log: Callable[[str], None] = print,
) -> Path:
    """Export a network, verify the files, and write their description.

    Writes `path`, or for buckets `<path without ending>_<frames>.mindir` each, and a description
    (`common.export.description`). Files are written in a folder beside `path` and read back. They
    replace those of an earlier export in this format only when their log-probabilities equal the
    checkpoint's. Buckets share their weights, in `<path without ending>_variables/`. The
    description is written after the files, so that a file with a description is a good one. An ONNX
    file holds it itself, and one that takes samples has none beside it.

    Args:
        speech_model: The network, with its configuration.
        path: File to write; the ending of the format is added where it lacks one.
        options: Form of the files.
        log: Takes lines of progress.

    Returns:
        Path of the description; of the file itself where there is none beside it.

    Raises:
        UserError: The device cannot have this format or these shapes, weights are not finite, the
            folder cannot be written, another export is writing there, MindSpore cannot export the
            network, or a file differs from the checkpoint.
    """
    target = options.device or speech_model.device
    _check(speech_model, options, target)
    check_weights(
        {p.name: p.asnumpy() for p in speech_model.network.get_parameters()},
        f"the {speech_model.recipe.name} network",
    )
    path, ending = Path(path), ENDINGS[options.file_format]
    if not path.name:
        raise UserError("--file_name: expected the name of a file")
    if path.suffix != ending:
        path = path.with_name(path.name + ending)
    description = description_of(path)
    if description.is_file() and b'"file_format"' not in description.read_bytes():
        raise UserError(f"{description}: would be overwritten and is no earlier export; rename one")
    staging = path.with_name(f".{path.stem}.partial")
    busy = f"{path}: another export is writing there; wait for it, or give another --file_name"
    try:
        with locked(staging, busy):
            try:
                empty(staging)  # of an export that was interrupted
                weights = speech_model.parameters()
                log(f"writing a network of {weights / 1e6:.1f} million weights as {path.name}")
                shape = None
                if options.streaming:
                    exported, shape = _streaming(speech_model, staging / path.name, options, log)
                    device = "any"
                elif options.file_format == "ONNX":
                    exported = _onnx(speech_model, staging / path.name, options, log)
                    device = "any"
                else:
                    exported, device = _mindir(
                        speech_model, staging / path.name, options, target, log
                    )
                content = describe(speech_model, options, device, exported)
                if shape:
                    content["streaming"] = dataclasses.asdict(shape)
                if options.file_format == "ONNX":
                    file = staging / path.name
                    embedded = {**content, CONTENT: model_content(file)}
                    add_metadata(file, metadata(speech_model, options, embedded))
                content["files"] = identify(sorted(staging.iterdir()), staging)
                _publish(staging, path, content, log)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or repr(error)
        raise UserError(f"{path}: could not be written ({reason})") from error
    except RuntimeError as error:
        reason = mindspore_reason(error)
        raise UserError(f"{path}: MindSpore could not export it ({reason})") from error
    return path if options.samples or options.streaming else description


def _mindir(
    speech_model: SpeechModel,
    path: Path,
    options: Options,
    target: str,
    log: Callable[[str], None],
) -> tuple[list[ExportedFile], str]:
    """Write MindIR or AIR files, one for each length; return them and the device they are for."""
    source = for_device(speech_model, target, options.half)
    exported, files = [], []
    for frames in options.lengths:
        name = f"{path.stem}_{frames}{path.suffix}" if options.buckets else path.name
        files.append(path.with_name(name))
        _write(source, files[-1], options, frames)
        exported.append(ExportedFile(name, frames))
    if options.file_format == "AIR":  # runs outside of MindSpore alone
        return exported, target
    if len(files) > 1:
        graphs = [graph_file(file) for file in files]
        share_weights(graphs, path.with_name(f"{path.stem}_variables"))
        for file, graph in zip(files, graphs):
            if graph != file:  # split by MindSpore, which needs its own variables no more
                shutil.rmtree(file.with_name(f"{file.stem}_variables"))
                graph.rename(file)
    for entry, file in zip(exported, files):
        entry.graph = graph_facts(graph_file(file))
    operators = set(exported[0].graph["operators"]) if exported[0].graph else set()
    specific = operators & _SPECIFIC or not runtime.native_convolutions(target)
    device = target if specific or not (options.batch_size and all(options.lengths)) else "any"
    if operators & {"DynamicRNN"} and speech_model.device != "Ascend":
        log(
            "not verified by running it: its LSTMs are the operator DynamicRNN, which Ascend alone "
            f"has, and this is {speech_model.device}"
        )
        return exported, device
    for entry, file in zip(exported, files):
        entry.difference = verify(
            speech_model, file, options.batch_size, entry.frames, options.precision, log
        )
    return exported, device


_SPECIFIC = {"LSTM", "DynamicRNN"}  # operators of CPU and GPU, or of Ascend alone


def for_device(speech_model: SpeechModel, device: str, half: bool = False) -> SpeechModel:
    """Rebuild a network in the form for a device, with the same weights, for export alone.

    Args:
        speech_model: The network in the form for the device that this process runs on.
        device: Kind of device that runs the exported file.
        half: Keep weight matrices in float16, and bring them to float32 where they are used.

    Returns:
        The network in that form; `speech_model` itself where nothing differs.
    """
    if device == speech_model.device != "Ascend" and not half:
        return speech_model
    converted = SpeechModel.create(
        speech_model.recipe, speech_model.config, speech_model.tokenizer, device
    )
    weights = {weight.name: weight for weight in speech_model.network.get_parameters()}
    for weight in converted.network.get_parameters():
        weight.set_data(Tensor(weights[weight.name].asnumpy()))
    recurrent = [c for _, c in converted.network.cells_and_names() if isinstance(c, Recurrent)]
    for cell in recurrent:
        cell.pack()
    if half:
        for weight in converted.network.get_parameters():
            if len(weight.shape) > 1 and weight.dtype == ms.float32:
                weight.set_dtype(ms.float16)
        converted.network.to_float(ms.float32)
        for cell in recurrent:
            if cell.packed:
                cell.add_flags_recursive(fp32=False)
    return converted


def _onnx(
    speech_model: SpeechModel, path: Path, options: Options, log: Callable[[str], None]
) -> list[ExportedFile]:
    batch_size, frames, precision = options.batch_size, options.frames, options.precision
    if options.style:
        write_onnx(speech_model, path, batch_size, 0, precision, True, options.style)
        write_text(sherpa.tokens_path(path), sherpa.tokens_text(speech_model.tokenizer))
        return [ExportedFile(path.name, 0, verify_for_sherpa(speech_model, path, precision, log))]
    if options.int8 == "compute":
        _write_quantised(speech_model, path, options, log)
    else:
        write_onnx(speech_model, path, batch_size, frames, precision, options.samples)
    check = verify_samples if options.samples else verify
    difference = check(speech_model, path, batch_size, frames, precision, log)
    if options.scored:
        _tell_word_error_rates(speech_model, path, options, log)
    return [ExportedFile(path.name, frames, difference)]


def _streaming(
    speech_model: SpeechModel, path: Path, options: Options, log: Callable[[str], None]
) -> tuple[list[ExportedFile], StreamShape]:
    """Write a file that takes recordings piece by piece; return it, and how its output lies."""
    recipe, model = speech_model.recipe, speech_model.config.ModelConfig
    weights = {p.name: p.asnumpy() for p in speech_model.network.get_parameters()}
    dimension, classes = speech_model.featurizer.dimension, len(speech_model.tokenizer)
    shape = write_streaming(recipe, model, weights, dimension, classes, path, options.precision)
    difference = verify_streaming(speech_model, path, shape, options.precision, log)
    return [ExportedFile(path.name, 0, difference)], shape


def _write_quantised(
    speech_model: SpeechModel, path: Path, options: Options, log: Callable[[str], None]
) -> None:
    """Write an ONNX file of 8-bit arithmetic."""
    recurrent = any("lstm" in p.name.lower() for p in speech_model.network.get_parameters())
    # The few convolutions before LSTMs lose more than they win.
    precision = "int8 convolutions" if recurrent else "float32"
    if not recurrent and not options.calibration:
        raise UserError(
            "--int8 compute: the convolutions need recordings to take the ranges of their inputs "
            "from: give --calibration_manifest, or use --int8 weights"
        )
    with _folder_beside(path) as folder:
        source = folder / "unquantised.onnx"
        shape = options.batch_size, options.frames
        write_onnx(speech_model, source, *shape, precision, options.samples)
        if recurrent:
            quantise_dynamic(source, path)
            return
        featurizer = speech_model.featurizer
        batches = calibration_batches(featurizer, options.calibration, options.samples, log)
        log(f"taking the ranges of 8-bit values from {len(batches)} pieces of the recordings")
        quantise_static(source, path, batches)


def _tell_word_error_rates(
    speech_model: SpeechModel, path: Path, options: Options, log: Callable[[str], None]
) -> None:
    """Recognise recordings with a file, and with float32 beside it."""
    with _folder_beside(path) as folder:
        files = [path]
        if options.precision != "float32":
            files.append(folder / "float32.onnx")
            write_onnx(speech_model, files[-1], samples=options.samples)
        rates, scored = word_error_rates(
            files,
            speech_model.featurizer,
            speech_model.tokenizer,
            options.scored,
            options.samples,
            log,
        )
    if not scored:
        log("warning: --test_manifest: not one of its recordings can be read: no WER is told")
        return
    told = f"WER {rates[0]:.3f} % of {counted(scored, 'utterance')}"
    log(told + "".join(f", in float32 {rate:.3f} %" for rate in rates[1:]))
    if (rise := rates[0] - rates[-1]) > _MOST_WER_RISE:
        log(
            f"warning: WER is {rise:.2f} points higher than in float32, more than "
            f"{_MOST_WER_RISE}: take another precision (--int8 weights, --half)"
        )


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Provide a folder for temporary files, where no name is that of an exported file."""
    with TemporaryDirectory(dir=path.parent) as folder:
        yield Path(folder)


def _write(speech_model: SpeechModel, path: Path, options: Options, frames: int) -> None:
    cell = Inference(speech_model.network)
    cell.set_train(False)
    inputs = _inputs(speech_model, options.batch_size or None, frames or None)
    ms.export(cell, *inputs, file_name=str(path), file_format=options.file_format)
    for part in parts(path):  # mindspore's are read-only, its folder is for one user
        if part.is_dir():
            part.chmod(0o755)
        for file in part.iterdir() if part.is_dir() else [part]:
            file.chmod(0o644)


def verify(
    speech_model: SpeechModel,
    path: Path,
    batch_size: int,
    frames: int,
    precision: str = "float32",
    log: Callable[[str], None] = print,
    forward: Forward | None = None,
) -> float:
    """Compare an exported file with the network, on noise of several lengths.

    Args:
        speech_model: The network.
        path: MindIR or ONNX file.
        batch_size: Utterances in a batch of the file; 0: any number.
        frames: Feature frames that inputs of the file are padded to; 0: any number.
        precision: Of the file's weights; float16 or int8: probabilities are compared instead of
            log-probabilities.
        log: Takes a line for each comparison.
        forward: The compiled network; None: compiled here.

    Returns:
        Largest difference over the unpadded frames.

    Raises:
        UserError: Output lengths differ, or outputs by more than TOLERANCE (TOLERANCE_HALF).
    """
    run, forward = _both(speech_model, path, forward, log)
    rng = np.random.default_rng(0)
    rows = batch_size or 3
    worst = 0.0
    for padded in (frames,) if frames else _LENGTHS:
        for longest in (padded, max(1, padded // 3)) if frames else (padded,):
            lengths = _shorter_and_shorter(longest, rows)
            features = np.zeros((rows, speech_model.featurizer.dimension, padded), np.float32)
            for row, length in enumerate(lengths):
                features[row, :, :length] = rng.standard_normal((features.shape[1], length))
            expected = forward(features, lengths)
            found = run(features, lengths)
            worst = max(worst, _difference(path, found, expected, f"{longest} frames", precision))
            log(f"verified with {rows} x {longest} frames: difference {worst:.1e}")
    return worst


def verify_samples(
    speech_model: SpeechModel,
    path: Path,
    batch_size: int,
    frames: int = 0,
    precision: str = "float32",
    log: Callable[[str], None] = print,
    forward: Forward | None = None,
) -> float:
    """Compare a file that takes samples with featurizer and network, on sounds like speech.

    Args:
        speech_model: The network.
        path: ONNX file.
        batch_size: Utterances in a batch of the file; 0: any number.
        frames: 0: such a file takes any number.
        precision: As in `verify`.
        log: Takes a line for each comparison.
        forward: The compiled network; None: compiled here.

    Returns:
        Largest difference over the unpadded frames.

    Raises:
        UserError: As in `verify`.
    """
    run, forward = _both(speech_model, path, forward, log)
    featurizer, worst, rng = speech_model.featurizer, 0.0, np.random.default_rng(0)
    for length in _LENGTHS:
        counts = _shorter_and_shorter(length, batch_size or 3) * featurizer.config.hop_length
        rows = [speech_like(rng, count, featurizer.config.sample_rate) for count in counts]
        expected = forward(*padded_batch([featurizer(featurizer.trim(row)) for row in rows]))
        samples, lengths = padded_batch([row[None] for row in rows])
        found = run(samples[:, 0], lengths)
        worst = max(worst, _difference(path, found, expected, f"{max(counts)} samples", precision))
        log(f"verified with {len(rows)} x {max(counts)} samples: difference {worst:.1e}")
    return worst


def verify_for_sherpa(
    speech_model: SpeechModel,
    path: Path,
    precision: str = "float32",
    log: Callable[[str], None] = print,
    forward: Forward | None = None,
) -> float:
    """Compare a file for sherpa-onnx with featurizer and network, on sounds like speech.

    Args:
        speech_model: The network.
        path: ONNX file.
        precision: As in `verify`.
        log: Takes a line for each comparison.
        forward: The compiled network; None: compiled here.

    Returns:
        Largest difference.

    Raises:
        UserError: As in `verify`.
    """
    log(f"reading {path.name} back, and compiling the network that it is compared with")
    run, forward = sherpa.open_for_sherpa(path), forward or Forward(speech_model)
    featurizer, worst, rng = speech_model.featurizer, 0.0, np.random.default_rng(0)
    for frames in _LENGTHS:
        count = frames * featurizer.config.hop_length
        given = sherpa.normalised(speech_like(rng, count, featurizer.config.sample_rate))
        features = featurizer(featurizer.trim(given * np.float32(sherpa.DEVIATION)))
        expected = forward(*padded_batch([features]))
        outputs = run(given)[:, None]
        found = outputs, np.array([len(outputs)])
        worst = max(worst, _difference(path, found, expected, f"{count} samples", precision))
        log(f"verified with {count} samples: difference {worst:.1e}")
    if sherpa.loudness_matters(featurizer.config):
        log(
            "sherpa-onnx brings recordings to one loudness, on which these features depend: texts "
            "may differ a little from those of other programs"
        )
    return worst


def verify_streaming(
    speech_model: SpeechModel,
    path: Path,
    shape: StreamShape,
    precision: str = "float32",
    log: Callable[[str], None] = print,
    forward: Forward | None = None,
) -> float:
    """Compare a file that takes noise piece by piece with the network, which takes it whole.

    Args:
        speech_model: The network.
        path: ONNX file.
        shape: How its output lies to its input.
        precision: As in `verify`.
        log: Takes a line for each comparison.
        forward: The compiled network; None: compiled here.

    Returns:
        Largest difference.

    Raises:
        UserError: As in `verify`.
    """
    log(f"reading {path.name} back, and compiling the network that it is compared with")
    session, forward = open_onnx(path), forward or Forward(speech_model)
    rng, worst = np.random.default_rng(0), 0.0
    for frames, chunk in zip(_LENGTHS, (1, 4, 10)):
        features = rng.standard_normal((speech_model.featurizer.dimension, frames))
        features = features.astype(np.float32)
        expected = forward(features[None], np.array([frames], np.int32))
        stream = NetworkStream(session, shape, speech_model.output_frames, chunk * shape.stride)
        log_probs = np.concatenate((stream.accept(features), stream.finish()))
        found = log_probs[:, None], np.array([len(log_probs)])
        worst = max(worst, _difference(path, found, expected, f"{frames} frames", precision))
        pieces = f"{frames} frames in pieces of {chunk * shape.stride}"
        log(f"verified with {pieces}: difference {worst:.1e}")
    return worst


def _both(
    speech_model: SpeechModel, path: Path, forward: Forward | None, log: Callable[[str], None]
) -> tuple[LogProbs, Forward]:
    """Open an exported file, and compile the network that it is compared with."""
    log(f"reading {path.name} back, and compiling the network that it is compared with")
    return open_graph(path), forward or Forward(speech_model)


def _shorter_and_shorter(longest: int, rows: int) -> np.ndarray:
    return np.linspace(longest, max(1, longest // 2), rows).astype(np.int32)


def _difference(
    path: Path,
    found: tuple[np.ndarray, np.ndarray],
    expected: tuple[np.ndarray, np.ndarray],
    where: str,
    precision: str,
) -> float:
    """Return how far the outputs of a file are from the checkpoint's; UserError if too far."""
    if not np.array_equal(found[1], expected[1]):
        raise UserError(f"{path.name}: its output lengths differ from the checkpoint's")
    valid = np.arange(len(expected[0]))[:, None] < expected[1]
    outputs, wanted = (each[0][: len(valid)][valid] for each in (found, expected))
    what, tolerance = "log-probabilities", TOLERANCE
    if precision == "float32":
        difference = np.abs(outputs - wanted).max()
    else:
        distance = np.abs(np.exp(outputs) - np.exp(wanted))
        what, tolerance, difference = "probabilities", TOLERANCE_HALF, distance.max()
        if precision == "int8":
            what, tolerance = "on average, probabilities", TOLERANCE_INT8
            difference = distance.sum(1).mean() / 2
    if not difference <= tolerance:
        raise UserError(
            f"{path.name}: {what} differ from the checkpoint's by {difference:.2e} at {where}, "
            f"expected at most {tolerance:.0e}; do not use this file"
        )
    return float(difference)


def speech_like(rng: np.random.Generator, count: int, rate: int) -> np.ndarray:
    """Make samples with the spectrum and the pauses of speech, in 16 bits.

    Args:
        rng: Draws pitch, syllables and noise.
        count: Number of samples.
        rate: Hz.

    Returns:
        Samples (N,) float32: harmonics of a voice that goes up and down, louder and fainter, over
        the hiss of a room; silence in the first and the last tenth.
    """
    time = np.arange(count) / rate
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))  # Hz
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(number * phase) / number for number in range(1, 18))
    syllables = np.maximum(np.sin(2 * np.pi * rng.uniform(1, 3) * time), 0.0)
    sounding = np.abs(time / time[-1] - 0.5) < 0.4 if count > 1 else 1.0
    samples = sounding * (0.1 * voice * syllables + 0.001 * rng.standard_normal(count))
    return (np.round(np.clip(samples, -1, 1) * 32767) / 32768).astype(np.float32)


def describe(
    speech_model: SpeechModel,
    options: Options,
    device: str,
    exported: list[ExportedFile],
) -> dict[str, Any]:
    """Describe exported files for the programs that use them.

    Args:
        speech_model: The network that was exported.
        options: Form of the files.
        device: Kind of device that they are for; "any" for all.
        exported: The files.

    Returns:
        Content of the JSON description: inputs, outputs, features, labels, device, versions.
    """
    batch_size = options.batch_size or -1
    differences = [file.difference for file in exported if file.difference is not None]
    return {
        **speech_model.metadata(),
        "file": exported[0].file,
        "file_format": options.file_format,
        "device": device,
        "weights": options.precision,
        **_tensors(speech_model, options),
        "buckets": [
            {
                "file": file.file,
                "batch_size": batch_size,
                "frames": file.frames or -1,
                "verified_difference": file.difference,
                **({"graph": file.graph} if file.graph else {}),
            }
            for file in exported
        ],
        **_memory(speech_model),
        "frame_stride": speech_model.recipe.frame_stride(speech_model.config.ModelConfig),
        "features": speech_model.featurizer.config.to_dict(),
        "blank": speech_model.tokenizer.blank,
        "verified_difference": max(differences) if len(differences) == len(exported) else None,
    }


def _tensors(speech_model: SpeechModel, options: Options) -> dict[str, Any]:
    """Describe inputs and outputs of the files."""
    if options.streaming:
        return streaming_tensors(speech_model.featurizer.dimension)
    batch_size, frames = options.batch_size or -1, options.frames or -1
    each = {"type": "int32", "shape": [batch_size]}
    if options.samples:
        rate = speech_model.featurizer.config.sample_rate
        signal = {
            "name": "samples",
            "type": "float32",
            "shape": [batch_size, -1],
            "axes": f"utterance, sample; mono, {rate} Hz, full scale 1; padded with 0",
        }
    else:
        signal = {
            "name": "features",
            "type": "float32",
            "shape": [batch_size, speech_model.featurizer.dimension, frames],
            "axes": "utterance, bin, frame; padded with 0",
        }
    counted = "samples" if options.samples else "frames"
    onnx = options.file_format == "ONNX"
    outputs = [
        {"name": "log_probs", "type": "float32", "axes": "frame, utterance, label"},
        {
            "name": "output_lengths" if onnx else "lengths",
            "type": "int32",
            "axes": "utterance; frames that count",
        },
    ]
    if options.samples and speech_model.featurizer.config.trim_silence:
        axes = "utterance; samples cut from its start, which times of words do not count"
        outputs.append({"name": "starts", "type": "int32", "axes": axes})
    return {
        **({"input": signal["name"]} if onnx else {}),
        "inputs": [signal, {"name": "lengths", **each, "axes": f"utterance; {counted} that count"}],
        "outputs": outputs,
    }


def metadata(
    speech_model: SpeechModel, options: Options, description: dict[str, Any]
) -> dict[str, str]:
    """Return the metadata of an ONNX file.

    Args:
        speech_model: The network.
        options: Form of the file.
        description: What `describe` returned; our own programs read this alone.

    Returns:
        The description as JSON, and for people and other programs what they want first.
    """
    license = options.license or speech_model.license
    return {
        **({} if options.style else {DESCRIPTION: json.dumps(description)}),
        "model": speech_model.recipe.name,
        "version": __version__,
        "sample_rate": str(speech_model.featurizer.config.sample_rate),
        "frame_seconds": repr(speech_model.frame_seconds),
        "labels": json.dumps(description["labels"]),
        "weights": description["weights"],
        "input": description["input"],
        **({"license": license} if license else {}),
        **({"style": options.style} if options.style else {}),
    }


def _memory(speech_model: SpeechModel) -> dict[str, Any]:
    """Forecast what recognition takes on a CPU, for programs that refuse what is too long for it.

    Without a card: MindSpore's memory there is not measured.
    """
    forecast = forecast_forward(speech_model)
    if forecast.per_frame == 0:  # no forecast for this model
        return {}
    numbers = {"fixed_bytes": forecast.fixed, "bytes_per_frame": forecast.per_frame}
    return {"memory": {key: round(value) for key, value in numbers.items()}}


def _check(speech_model: SpeechModel, options: Options, target: str) -> None:
    file_format, batch_size, frames = options.file_format, options.batch_size, options.frames
    if not speech_model.recipe.exportable:
        raise UserError(f"{speech_model.recipe.name} cannot be exported: it is no CTC network")
    if file_format not in ENDINGS:
        raise UserError(f"--file_format {file_format}: expected one of {', '.join(ENDINGS)}")
    if file_format == "AIR" and speech_model.device != "Ascend":
        raise UserError(
            f"--file_format AIR needs an Ascend device, this is {speech_model.device}; use MINDIR"
        )
    if batch_size < 0 or frames < 0:
        raise UserError(f"--batch_size {batch_size} --frames {frames}: expected 0 or more")
    buckets = options.buckets
    if buckets:
        if frames:
            raise UserError(f"--frames {frames} and --buckets: expected one of them")
        if min(buckets) < 1 or list(buckets) != sorted(set(buckets)):
            listing = ",".join(map(str, buckets))
            raise UserError(f"--buckets {listing}: expected numbers of frames, ascending")
        if file_format != "MINDIR":
            raise UserError(
                f"--buckets with --file_format {file_format}: buckets are MindIR files; one ONNX "
                "file has all lengths, or with --frames a single one"
            )
    if options.style:
        _check_style(speech_model, options)
    if options.streaming:
        _check_streaming(options)
    if options.int8 not in ("", "weights", "compute"):
        raise UserError(f"--int8 {options.int8}: expected weights or compute")
    if options.int8 and options.half:
        raise UserError("--half and --int8: weights are quantised once; expected one of them")
    for option, given in (
        ("--int8", options.int8),
        ("--calibration_manifest", options.calibration),
        ("--test_manifest", options.scored),
    ):
        if given and file_format != "ONNX":
            raise UserError(f"{option} with --file_format {file_format}: expected ONNX")
    if options.calibration and options.int8 != "compute":
        raise UserError("--calibration_manifest: only --int8 compute has ranges to be found")
    for option, recordings in (
        ("--calibration_manifest", options.calibration),
        ("--test_manifest", options.scored),
    ):
        if recordings and (batch_size > 1 or frames):
            given = f"--frames {frames}" if frames else f"--batch_size {batch_size}"
            raise UserError(
                f"{option} with {given}: recordings are given to the file one by one, at their own "
                "lengths; leave out one of the two options"
            )
    if options.input not in ("", "samples", "features"):
        raise UserError(f"--input {options.input}: expected samples or features")
    if options.input == "samples":
        if file_format != "ONNX":
            raise UserError(
                f"--input samples with --file_format {file_format}: only ONNX files compute "
                "features; use --input features"
            )
        if frames:
            raise UserError(
                f"--frames {frames} with --input samples: such a file takes any number of samples; "
                "leave --frames out, or use --input features"
            )
    if file_format == "ONNX":
        return
    forms = dataclasses.replace(speech_model, device=target)
    if forms.static and not (batch_size and all(options.lengths)):
        raise UserError(
            f"this {speech_model.recipe.name} takes static shapes alone (because of its device or "
            "its kind of network): give --batch_size and --frames or --buckets"
        )


def _check_streaming(options: Options) -> None:
    for option, given in (
        (f"--file_format {options.file_format}", options.file_format != "ONNX"),
        (f"--style {options.style}", options.style),
        (f"--input {options.input}", options.input),
        (f"--batch_size {options.batch_size}", options.batch_size),
        (f"--frames {options.frames}", options.frames),
        ("--int8 compute", options.int8 == "compute"),
        ("--test_manifest", options.scored),
    ):
        if given:
            raise UserError(
                f"{option} with --streaming: expected --file_format ONNX alone, or with --half or "
                "--int8 weights"
            )


def _check_style(speech_model: SpeechModel, options: Options) -> None:
    if options.style != sherpa.STYLE:
        raise UserError(f"--style {options.style}: expected {sherpa.STYLE}")
    for option, given in (
        (f"--file_format {options.file_format}", options.file_format != "ONNX"),
        (f"--input {options.input}", options.input == "features"),
        (f"--frames {options.frames}", options.frames),
        ("--int8 compute", options.int8 == "compute"),
        ("--test_manifest", options.scored),
    ):
        if given:
            raise UserError(
                f"{option} with --style sherpa: expected --file_format ONNX of samples of any "
                "number, with float32, --half or --int8 weights, and no manifest"
            )
    sherpa.check_features(speech_model.featurizer.config)


def _inputs(speech_model: SpeechModel, batch_size: int | None, frames: int | None) -> list[Tensor]:
    shapes = [(batch_size, speech_model.featurizer.dimension, frames), (batch_size,)]
    kinds = [ms.float32, ms.int32]
    if batch_size and frames:
        return [
            Tensor(np.zeros(shapes[0], np.float32)),
            Tensor(np.full(shapes[1], frames, np.int32)),
        ]
    return [Tensor(shape=shape, dtype=kind) for shape, kind in zip(shapes, kinds)]


def parts(path: Path) -> list[Path]:
    """List the files and folders of an exported file.

    Above 1 GB MindSpore splits a MindIR file into a graph and a folder of its variables.
    """
    found = [path]
    if path.suffix == ".mindir":
        found.append(path.with_name(f"{path.stem}_graph.mindir"))
        found.append(path.with_name(f"{path.stem}_variables"))
    return [part for part in found if part.exists()]


def _publish(
    staging: Path, path: Path, content: dict[str, Any], log: Callable[[str], None]
) -> None:
    """Move exported files to their place and write their description.

    What an earlier export of that name and format left is replaced or, last, removed.
    """
    description, content_format = description_of(path), content["file_format"]
    shared = path.with_suffix(".json")  # of every format, in earlier versions
    if shared == description:
        _give_way(shared, content_format, log)
    superseded = [description]
    if shared != description and path.name in described_files(read_json(shared)):
        superseded.append(shared)
    new = {part.name for part in staging.iterdir()}
    earlier = [part for each in superseded for part in _files_of(each, content_format)]
    for each in superseded:
        each.unlink(missing_ok=True)
    for part in sorted(staging.iterdir()):
        destination = path.with_name(part.name)
        if destination.is_dir() and part.is_dir():
            shutil.rmtree(destination)
        part.replace(destination)
    if content.get("input") not in ("samples", STREAM):
        write_text(description, json.dumps(content, indent=2) + "\n")
    for part in earlier:
        if part.name not in new:
            log(f"{part}: of the earlier export {description}, which this one replaces: removed")
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def _give_way(description: Path, file_format: str, log: Callable[[str], None]) -> None:
    """Rename a description that an earlier version wrote for a file of another format."""
    content = read_json(description)
    if content is None or content.get("file_format") == file_format:
        return
    for name in described_files(content)[:1]:
        renamed = description_of(description.with_name(name))
        if renamed != description and not renamed.exists():
            description.rename(renamed)
            log(f"{description}: describes {name}; renamed to {renamed.name}")


def _files_of(description: Path, file_format: str) -> list[Path]:
    """List the files of an earlier export, its shared weights included."""
    content = read_json(description) or {}
    if content.get("file_format") != file_format:
        return []
    names = [name for name in described_files(content) if Path(name).name == name]
    if len(names) > 1:
        names.append(f"{description.stem}.mindir")  # the weights of buckets have its name
    found = {part for name in names for part in parts(description.with_name(name))}
    return sorted(found)
