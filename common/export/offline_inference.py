"""Either side of a C++ inference: features written for it, and its results scored.

preprocess_Result/00_data/<name>.bin  float32 features (F, T), little endian, without padding; for a
                                      model that takes samples, these (T)
preprocess_Result/01_data/<name>.bin  int32 T
preprocess_Result/index.jsonl         a line for each utterance: `IndexEntry`
preprocess_Result/features.json       which features these are
result_Files/<name>_0.bin             float32 log-probabilities (T', C)
result_Files/<name>_1.bin             int32 T'
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common import config as configs
from common.audio.features import Featurizer
from common.data.durations import DurationNotice
from common.data.manifest import Log, Utterance
from common.decoding.decoders import Decoder
from common.evaluation.scoring import Evaluation, Prediction, Scorer
from common.export.description import check_content, check_files, find_description
from common.export.onnx_metadata import check_model_content, embedded_description
from common.export.running import Bucket, ExportedForward, graph_file, onnx_runtime
from common.export.streaming import STREAM
from common.model.acoustic_model import SampleFrontEnd
from common.model.decoder import SpeechDecoder
from common.model.recipe import Recipe
from common.text.tokenizer import Tokenizer, restored_tokenizer
from common.utils.errors import UserError
from common.utils.files import file_name, read_json, replacing, write_text
from common.utils.json_parsing import parse_json
from common.utils.worker_pool import worker_pool

DATA, LENGTHS, INDEX, FEATURES = "00_data", "01_data", "index.jsonl", "features.json"
TIMES = "time_Result"  # beside the folder of results
_LONGEST_NAME = 200  # bytes; file systems take 255, with endings
_EACH = 500  # utterances that are worth a process
_TOGETHER = 32  # utterances decoded at a time
# Memory of ONNX Runtime: of the process before any weight, in copies of the file, and in shares of
# MindSpore's memory for a frame, of which it took 0.09 (DeepSpeech2) and 0.37 (Jasper).
_ONNX_PROCESS, _ONNX_COPIES, _ONNX_SHARE = 0.15 * (1 << 30), 3, 0.4


@dataclass(frozen=True)
class ExportedModel:
    """An exported model, as its description has it.

    Attributes:
        path: Of the description.
        recipe: The model.
        config: The training configuration of its network.
        tokenizer: Spells its labels.
        featurizer: Computes its features.
        device: Kind of device that its files are for; "any" for all.
        given: The file that was named on the command line, or `path` itself.
        embedded: The description that an ONNX file holds, with `path` the file; None: it has none.
    """

    path: Path
    recipe: Recipe
    config: Any
    tokenizer: Tokenizer
    featurizer: Featurizer
    device: str
    given: Path
    embedded: dict[str, Any] | None = None

    @property
    def description(self) -> dict[str, Any]:
        """Its description."""
        return read_json(self.path) or {} if self.embedded is None else self.embedded

    @property
    def takes_samples(self) -> bool:
        """Whether the file computes its features itself."""
        return self.description.get("input") == "samples"

    def buckets(self) -> list[Bucket]:
        """Return its files, from the shortest inputs to the longest."""
        buckets = [
            Bucket(
                self.path if self.embedded else self.path.with_name(bucket["file"]),
                max(bucket["batch_size"], 0),
                max(bucket["frames"], 0),
            )
            for bucket in self.description.get("buckets", [])
        ]
        return sorted(buckets, key=lambda bucket: bucket.frames)

    @property
    def convolves(self) -> bool:
        """Whether its MindIR files have the device's convolutions, not matrix products."""
        buckets = self.description.get("buckets", [])
        graphs = [bucket["graph"] for bucket in buckets if "graph" in bucket]
        names = [name for graph in graphs for name in graph["operators"]]
        return any("Conv" in name for name in names) or (self.device == "any" and not graphs)

    @property
    def max_frames(self) -> float:
        """Feature frames of the longest utterance that its files take."""
        return max((bucket.frames or math.inf for bucket in self.buckets()), default=math.inf)

    @property
    def front_end(self) -> Featurizer:
        """Makes what its files take."""
        return SampleFrontEnd(self.featurizer.config) if self.takes_samples else self.featurizer

    @property
    def onnx(self) -> bool:
        """Whether its files are ONNX files."""
        return any(bucket.path.suffix == ".onnx" for bucket in self.buckets())

    @property
    def runs_on(self) -> str:
        """Device, and what runs the files there where that is not MindSpore."""
        if not self.onnx:
            return "any device" if self.device == "any" else self.device
        return f"CPU (ONNX Runtime {onnx_runtime().__version__})"

    @property
    def static(self) -> bool:
        """Whether batches must come in few shapes: files of fixed shapes pad by themselves."""
        return False

    def decoder(self, decoding: Any = None) -> SpeechDecoder:
        """Build the decoder; see `AcousticModel.decoder`."""
        return self.recipe.build_decoder(self, decoding or configs.LMConfig())

    def forward_memory(self) -> tuple[float, float] | None:
        """Forecast the bytes of a forward pass; see `AcousticModel.forward_memory`."""
        forecast = self.description.get("memory")
        if not isinstance(forecast, dict):  # of an earlier version, or there is none of the model
            return None
        try:
            fixed, per_frame = (float(forecast[key]) for key in ("fixed_bytes", "bytes_per_frame"))
            if not self.onnx:
                return fixed, per_frame
            size = max(bucket.path.stat().st_size for bucket in self.buckets())
        except (KeyError, TypeError, ValueError, OSError):
            return None
        return _ONNX_PROCESS + _ONNX_COPIES * size, _ONNX_SHARE * per_frame

    def forward(self) -> ExportedForward:
        """Its files, run from Python.

        Raises:
            UserError: A file is not the described one, or damaged.
        """
        buckets, renamed = self.buckets(), {}
        if self.description.get("input") == STREAM:
            raise UserError(
                f"{self.path}: takes a recording piece by piece (transcribe.py --stream); export "
                "the checkpoint without --streaming for whole recordings"
            )
        if not buckets:
            raise UserError(f"{self.path}: names no files of the model; export it anew")
        names = [name for bucket in buckets for name in (bucket.path, graph_file(bucket.path))]
        if self.given != self.path and self.given.exists() and self.given not in names:
            if len(buckets) > 1 or self.given.suffix != buckets[0].path.suffix:
                described = ", ".join(bucket.path.name for bucket in buckets)
                raise UserError(
                    f"{self.given}: {self.path} describes {described}, not this file; give one of "
                    "these, or that description"
                )
            renamed[buckets[0].path.name] = self.given
            buckets = [dataclasses.replace(buckets[0], path=self.given)]
        if self.embedded is None:
            check_files(self.path, renamed)
        else:
            check_model_content(self.path, self.embedded)
        return ExportedForward(buckets, len(self.tokenizer), self.takes_samples)

    @property
    def features(self) -> dict[str, Any]:
        """Content of features.json."""
        return {
            "model": self.recipe.name,
            "input": "samples" if self.takes_samples else "features",
            "features": self.featurizer.config.to_dict(),
        }

    def output_frames(self, frames: int) -> int:
        """Return the output frames for `frames` feature frames, or samples where it takes these.

        At most so many, where the file leaves out silence.
        """
        if self.takes_samples:
            frames = self.featurizer.frames(frames)
        return int(self.recipe.output_frames(self.config.ModelConfig, frames))

    @property
    def frame_seconds(self) -> float:
        """Seconds from one output frame to the next."""
        features = self.featurizer.config
        stride = self.recipe.frame_stride(self.config.ModelConfig)
        return stride * features.hop_length / features.sample_rate


@dataclass(frozen=True)
class IndexEntry:
    """One utterance of the index.

    The C++ program reads name, features and frames; scoring needs the others.

    Attributes:
        id: Of the utterance.
        text: Its normalised transcript.
        name: Beginning of the names of its files.
        features: Path of its features or samples, relative to the index.
        frames: How many feature frames or samples there are.
        duration: Length of the recording in seconds.
    """

    id: str
    text: str
    name: str
    features: str
    frames: int
    duration: float


def read_description(recipe: Recipe, model: str | Path) -> ExportedModel:
    """Read the description of an exported model.

    Args:
        recipe: The model that it must be of.
        model: A description that export.py wrote, a model beside it (see `find_description`), or an
            ONNX file that holds it.

    Returns:
        The exported model.

    Raises:
        UserError: There is no description, or it is of another model.
    """
    path, embedded = Path(model), None
    if path.suffix == ".onnx" and path.is_file():
        embedded = embedded_description(path)
    description = embedded
    if description is None:
        path = find_description(Path(model))
        if not path.is_file():
            raise _no_description(Path(model), path)
        description = read_json(path)
    if not isinstance(description, dict) or "file_format" not in description:
        raise UserError(f"{path}: not a description that export.py wrote")
    name = description.get("model")
    if name != recipe.name:
        raise UserError(
            f"{path}: of a {name} network, expected {recipe.name}; use the commands of {name}/"
        )
    check_content(description, path)
    config = recipe.train_config()
    try:
        configs.override(config, description["config"], str(path))
        if "labels" not in description:
            raise KeyError("labels")
        tokenizer = restored_tokenizer(recipe.tokenizer, description, str(path))
        device = description["device"]
    except KeyError as error:
        raise UserError(f"{path}: has no {error.args[0]}; export the model anew") from None
    try:
        configs.check(config.ModelConfig, "ModelConfig.")
        featurizer = recipe.build_featurizer(config.DataConfig)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    given = Path(model)
    return ExportedModel(path, recipe, config, tokenizer, featurizer, device, given, embedded)


def _no_description(model: Path, path: Path) -> UserError:
    """Say that there is no description, or not even a model."""
    if model.suffix == ".onnx" and model.is_file():
        return UserError(
            f"{model}: holds no description, and there is no {path.name} beside it: not a file "
            "that export.py wrote, or its end is missing; export the model anew"
        )
    if model != path and not graph_file(model).exists():
        return UserError(f"{model}: no such file")
    return UserError(f"{path}: no such file; export.py writes this description beside a model")


def runner_arguments(model: ExportedModel, given: str | Path, config: Any) -> list[str]:
    """Return the arguments that the C++ program is to be called with.

    Args:
        model: The exported model.
        given: Its file, as it was named on the command line.
        config: An InferConfig.

    Returns:
        The arguments, each option before its value.

    Raises:
        UserError: The features are not there, or those of another model.
    """
    check_features(model, Path(config.result_path))
    results = Path(config.result_dir)
    arguments = ["--mindir_path", str(given)]
    arguments += ["--index", str(Path(config.result_path) / INDEX)]
    arguments += ["--result_dir", str(results), "--time_dir", str(results.parent / TIMES)]
    arguments += ["--batch_size", str(config.batch_size_infer)]
    if model.device == "any" and any(Path("/dev").glob("davinci[0-9]*")):
        arguments += ["--device_target", "Ascend"]
    return arguments


# ---- before


def discard(folder: Path) -> None:
    """Delete features.json, without which a folder of features is refused.

    `write_features` writes it last. A failure in between must not leave the features of another
    test set to be recognised.

    Args:
        folder: The folder; it need not exist.

    Raises:
        UserError: It cannot be deleted.
    """
    try:
        (folder / FEATURES).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder / FEATURES}: cannot be removed ({error.strerror})") from error


def write_features(
    model: ExportedModel,
    utterances: Sequence[Utterance],
    folder: Path,
    workers: int,
    log: Log = print,
) -> list[str]:
    """Write the features or samples, lengths and index of a test set for the C++ program.

    A file that already has the right content keeps its time, so that the runner can skip it.

    Args:
        model: The exported model.
        utterances: The test set.
        folder: Folder to write.
        workers: Processes to use at most.
        log: Receives a line about recordings that last longer or shorter than the manifest says.

    Returns:
        One line for each utterance that was left out: what is wrong with it.
    """
    earlier = {entry.name for entry in _read_index(folder / INDEX)}
    for name in (DATA, LENGTHS):
        _make(folder / name)
    names = list(_names(utterance.id for utterance in utterances))
    tasks = list(zip(utterances, names))
    workers = min(workers, math.ceil(len(tasks) / _EACH))
    settings = model.featurizer, model.takes_samples, model.tokenizer, folder
    if workers > 1:
        with worker_pool(workers, _start, *settings) as pool:
            results = list(_shown(pool.map(_prepare_here, tasks, chunksize=16), len(tasks)))
    else:
        _start(*settings)
        results = list(_shown(map(_prepare_here, tasks), len(tasks)))
    entries, durations = [], DurationNotice()
    for utterance, result in zip(utterances, results):
        if isinstance(result, IndexEntry):
            entries.append(result)
            durations.add(utterance, result.duration)
    if line := durations.line():
        log(line)
    lines = [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries]
    write_text(folder / INDEX, "".join(lines))
    write_text(folder / FEATURES, json.dumps(model.features, indent=2) + "\n")
    for name in earlier - {entry.name for entry in entries}:
        for kind in (DATA, LENGTHS):
            (folder / kind / f"{name}.bin").unlink(missing_ok=True)
    return [result for result in results if isinstance(result, str)]


def check_features(model: ExportedModel, folder: Path) -> None:
    """Refuse features of another kind than the model takes.

    Args:
        model: The exported model.
        folder: Folder that preprocess.py wrote.

    Raises:
        UserError: There are no features, or they are of another kind.
    """
    written = read_json(folder / FEATURES)
    if written is None:
        raise UserError(f"{folder}: holds no features that preprocess.py wrote; run it first")
    written = {"input": "features", **written}  # those of earlier versions do not say so
    for key, value in model.features.items():
        if written.get(key) != value:
            raise UserError(
                f"{folder / FEATURES}: {key} is {written.get(key)}, and {value} in {model.path}: "
                "run preprocess.py again"
            )


_here: tuple[Featurizer, bool, Tokenizer, Path]  # of a worker process


def _start(*settings: Any) -> None:
    global _here
    _here = settings


def _prepare_here(task: tuple[Utterance, str]) -> IndexEntry | str:
    """Write the files of one utterance; return its entry, or what is wrong with it."""
    featurizer, takes_samples, tokenizer, folder = _here
    utterance, name = task
    try:
        duration = utterance.segment.info().duration
        samples = utterance.segment.load(featurizer.config.sample_rate)
        values = samples if takes_samples else featurizer(featurizer.trim(samples))
    except UserError as error:
        return str(error)
    frames = values.shape[-1]
    place = f"{DATA}/{name}.bin"
    _keep(folder / place, values.astype("<f4").tobytes())
    _keep(folder / LENGTHS / f"{name}.bin", np.array(frames, "<i4").tobytes())
    text = tokenizer.normalise(utterance.text)
    return IndexEntry(utterance.id, text, name, place, frames, float(duration))


def _keep(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    with replacing(path, durable=False) as partial:
        partial.write_bytes(content)


def _names(ids: Iterable[str]) -> Iterator[str]:
    """Give each id a file name of its own: no id becomes one with a tilde."""
    seen: dict[str, int] = {}
    for id in ids:
        name = file_name(id)
        if name.startswith("."):
            name = "%2E" + name[1:]
        if len(name.encode()) > _LONGEST_NAME:
            digest = hashlib.sha256(id.encode()).hexdigest()[:16]
            name = name.encode()[: _LONGEST_NAME - 20].decode(errors="ignore") + f"~{digest}"
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}~{seen[name]}"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error


def _shown(results: Iterator[Any], total: int) -> Iterable[Any]:
    return tqdm(results, total=total, desc="features", unit="utt", disable=None, leave=False)


# ---- after


def score_results(
    model: ExportedModel, folder: Path, results: Path, decoder: Decoder
) -> tuple[Evaluation, list[str]]:
    """Score what the C++ program wrote for the utterances of an index.

    Args:
        model: The exported model.
        folder: Features and index that preprocess.py wrote.
        results: Folder that the C++ program wrote.
        decoder: Search over the log-probabilities.

    Returns:
        The evaluation of the utterances that have a result, and one line for each of the others:
        what is wrong with it.

    Raises:
        UserError: The features are not there, are of another model, or have no index.
    """
    check_features(model, folder)
    entries = _read_index(folder / INDEX)
    if not entries:
        raise UserError(f"{folder / INDEX}: names no utterance; run preprocess.py")
    scorer = Scorer(model.tokenizer, model.frame_seconds)
    problems: list[str] = []
    portion: list[tuple[int, np.ndarray]] = []
    shown = tqdm(entries, desc="scoring", unit="utt", disable=None, leave=False)
    for index, entry in enumerate(shown):
        try:
            portion.append((index, _read_result(model, entry, results)))
        except UserError as error:
            problems.append(str(error))
        if len(portion) == _TOGETHER:
            _score(scorer, decoder, entries, portion)
            portion = []
    _score(scorer, decoder, entries, portion)
    return scorer.evaluation(), problems


def _score(
    scorer: Scorer,
    decoder: Decoder,
    entries: Sequence[IndexEntry],
    portion: list[tuple[int, np.ndarray]],
) -> None:
    if not portion:
        return
    lengths = np.array([len(log_probs) for _, log_probs in portion])
    padded = np.zeros((lengths.max(), len(portion), portion[0][1].shape[1]), np.float32)
    for row, (_, log_probs) in enumerate(portion):
        padded[: len(log_probs), row] = log_probs
    for (index, log_probs), hypotheses in zip(portion, decoder.hypotheses(padded, lengths)):
        entry = entries[index]
        recognised = Prediction(index, entry.id, hypotheses, log_probs)
        scorer.add(recognised, entry.text, entry.duration)


def _read_result(model: ExportedModel, entry: IndexEntry, results: Path) -> np.ndarray:
    """Read the log-probabilities (T', C) of an utterance."""
    paths = [results / f"{entry.name}_{number}.bin" for number in (0, 1)]
    try:
        values, count = np.fromfile(paths[0], "<f4"), np.fromfile(paths[1], "<i4")
    except OSError as error:
        path = error.filename or paths[0]
        raise UserError(f"utterance {entry.id}: no result {path} ({error.strerror})") from error
    frames, classes = model.output_frames(entry.frames), len(model.tokenizer)
    if model.takes_samples and model.featurizer.config.trim_silence and count.size == 1:
        frames = min(frames, max(int(count[0]), 1))
    if count.tolist() != [frames] or values.size != frames * classes:
        raise UserError(
            f"utterance {entry.id}: {paths[0]} has {values.size} values and {paths[1]} says "
            f"{count.tolist()} frames, expected {frames} frames of {classes} for {entry.frames} "
            f"{'samples' if model.takes_samples else 'feature frames'}; remove them and run again"
        )
    if not np.isfinite(values).all():
        raise UserError(f"utterance {entry.id}: {paths[0]} holds values that are not finite")
    return values.reshape(frames, classes).astype(np.float32)


def _read_index(path: Path) -> list[IndexEntry]:
    try:
        # Not splitlines: an id may hold what that takes for the end of a line.
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError:
        return []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not an index that preprocess.py wrote ({error})") from error
    names = {entry.name for entry in dataclasses.fields(IndexEntry)}
    try:
        entries = [parse_json(line) for line in lines if line.strip()]
        return [_index_entry({key: entry[key] for key in names}) for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not an index that preprocess.py wrote ({error})") from error


def _index_entry(values: dict[str, Any]) -> IndexEntry:
    entry = IndexEntry(**values)
    texts = (entry.id, entry.text, entry.name, entry.features)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{entry.id}: id, text, name and features are not all texts")
    if not 0 < entry.frames < 1 << 31 or not 0 < entry.duration < math.inf:
        raise ValueError(f"{entry.id}: {entry.frames} frames, {entry.duration} s")
    return entry
