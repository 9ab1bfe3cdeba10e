"""Damaged checkpoints, files of PyTorch, converted corpora and exported models.

Beside what every reader owes (fuzz_runner.py): a converted corpus that opens gives as many
utterances as it names.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import Rng, change_tree, damage_bytes, damage_text
from fuzz_runner import Finding, Seed, Target
from synthetic_corpus import make_corpus, settings

from common import config as configs
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src.recipe import RECIPE as JASPER

_BLOCKS = [
    {"filters": 8, "kernel_size": 3, "stride": 2},
    {"filters": 8, "kernel_size": 3, "repeat": 2, "residual": True},
    {"filters": 8, "kernel_size": 1},
]
# As deepspeech.pytorch has it, but for its size.
_DEEPSPEECH = {"hidden_size": 8, "hidden_layers": 1, "norm": "batch", "activation": "hardtanh"}
_NETWORKS: dict[str, dict[str, Any]] = {
    DEEPSPEECH2.name: {**_DEEPSPEECH, "conv_bias": True},
    JASPER.name: {"blocks": _BLOCKS},
}
_RECIPES = {recipe.name: recipe for recipe in (DEEPSPEECH2, JASPER)}


def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _silent(line: str) -> None:
    pass


def _tiny_model(name: str) -> Any:
    """A small network with fresh weights."""
    from common.model.speech_model import SpeechModel
    from common.text.tokenizer import CharacterTokenizer
    from common.utils import runtime

    recipe = _RECIPES[name]
    config = recipe.train_config()
    configs.override(config, {"ModelConfig": _NETWORKS[name]}, "fuzz")
    tokenizer = CharacterTokenizer(tuple("ABCD _"))
    return SpeechModel.create(recipe, config, tokenizer, runtime.set_device("CPU"))


def _models() -> dict[str, Any]:
    return {name: _tiny_model(name) for name in _RECIPES}


# ---- checkpoints


def _save(path: Path, parameters: dict[str, np.ndarray], text: str | None) -> None:
    """Write a checkpoint with any text in the place of its metadata."""
    from common.model.checkpoint import METADATA
    from common.utils.backend import Tensor, ms

    entries = [{"name": name, "data": Tensor(value)} for name, value in parameters.items()]
    more = {} if text is None else {"append_dict": {METADATA: text}}
    ms.save_checkpoint(entries, str(path), **more)
    path.chmod(0o644)


def _checkpoints(folder: Path) -> dict[str, tuple[Seed, dict[str, np.ndarray]]]:
    seeds = {}
    for name, model in _models().items():
        weights = {each.name: each.asnumpy() for each in model.network.get_parameters()}
        weights["moment1.fc"] = np.ones(3, np.float32)
        metadata = model.metadata(progress={"epoch": 1, "step": 7, "best": 12.5})
        path = folder / f"{name}.ckpt"
        _save(path, weights, json.dumps(metadata))
        seeds[name] = Seed(path.name, path.read_bytes(), metadata), weights
    return seeds


def _damage_checkpoint(rng: Rng, seeds: dict, folder: Path) -> Path:
    """Bytes of the file, values or the text of its metadata, or its weights."""
    name = _pick(rng, list(seeds))
    seed, weights = seeds[name]
    path, action = folder / seed.name, rng.random()
    if action < 0.4:
        other, _ = seeds[_pick(rng, list(seeds))]
        path.write_bytes(damage_bytes(rng, seed.data, other.data))
        return path
    text: str | None = json.dumps(seed.tree)
    changed = dict(weights)
    if action < 0.75:
        text = json.dumps(change_tree(rng, seed.tree))
    elif action < 0.85:
        text = damage_text(rng, text or "", "").decode(errors="replace").replace("\0", "")
    else:
        key = _pick(rng, list(changed))
        changed[key] = _other_weights(rng, changed[key])
        if changed[key] is None:
            del changed[key]
        text = None if rng.random() < 0.05 else text  # then the default network is built
    _save(path, changed, text)
    return path


def _other_weights(rng: Rng, value: np.ndarray) -> Any:
    spoilt = np.array(value, np.float32)
    if spoilt.size:
        spoilt.flat[int(rng.integers(spoilt.size))] = _pick(rng, [np.nan, np.inf, -1e30, 3e38])
    shapes = [value[None], value.reshape(-1), value[..., :1]] if value.ndim else [value]
    kinds = [value.astype(kind) for kind in (np.float16, np.float64, np.int32)]
    return _pick(rng, [None, spoilt, *shapes, *kinds])


def _read_checkpoint(path: Path, seeds: dict) -> str:
    from common.model.speech_model import SpeechModel

    recipe = _RECIPES[path.stem]
    model = SpeechModel.from_checkpoint(recipe, path, "CPU", log=_silent)
    for weight in model.network.get_parameters():
        if not np.isfinite(weight.asnumpy()).all():
            raise Finding(f"{weight.name} has values that are not finite")
    json.dumps(model.metadata())
    return "read"


# ---- files of PyTorch


def _torch_files(folder: Path) -> dict[str, Seed]:
    from deepspeech2.src.deepspeech_pytorch import mind2pt as to_deepspeech
    from jasper.src.nvidia import mind2pt as to_nvidia

    seeds = {}
    for name, (seed, _) in _checkpoints(folder).items():
        source, target = folder / seed.name, folder / f"{name}.pt"
        convert = to_deepspeech if name == DEEPSPEECH2.name else to_nvidia
        with redirect_stdout(io.StringIO()):
            convert(_RECIPES[name], ["--ckpt", str(source), "--pth", str(target)])
        seeds[name] = Seed(target.name, target.read_bytes())
    return seeds


def _damage_torch(rng: Rng, seeds: dict, folder: Path) -> Path:
    """Bytes of the file, or of one of the files in it, whose checksum is then right."""
    name = _pick(rng, list(seeds))
    seed, path = seeds[name], folder / seeds[name].name
    if rng.random() < 0.4:
        path.write_bytes(damage_bytes(rng, seed.data, seeds[_pick(rng, list(seeds))].data))
        return path
    with (
        zipfile.ZipFile(io.BytesIO(seed.data)) as good,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as damaged,
    ):
        entries = good.namelist()
        chosen = entries[0] if rng.random() < 0.6 else _pick(rng, entries)  # data.pkl comes first
        for entry in entries:
            data = good.read(entry)
            if entry == chosen:
                data = damage_bytes(rng, data, good.read(entries[0]))
            damaged.writestr(entry, data)
    return path


def _read_torch(path: Path, seeds: dict) -> str:
    from deepspeech2.src.deepspeech_pytorch import pt2mind as of_deepspeech
    from jasper.src.nvidia import pt2mind as of_nvidia

    convert = of_deepspeech if path.stem == DEEPSPEECH2.name else of_nvidia
    written = path.with_name("written.ckpt")
    convert(_RECIPES[path.stem], ["--pth", str(path), "--ckpt", str(written)])
    return "read"


# ---- converted corpora


def _records(folder: Path) -> list[Path]:
    from common.data.splits import convert_split

    made = []
    corpus = make_corpus(folder / "corpus", train=5, val=1, test=1)
    for store in ("features", "audio"):
        values = settings(corpus)
        values["DataConfig"]["store"] = store
        values["DataConfig"]["mindrecord_format"] = str(folder / store / "{split}" / "tones{}.md")
        config = DEEPSPEECH2.train_config()
        configs.override(config, values, "fuzz")
        convert_split(DEEPSPEECH2, config, "train", log=_silent)
        made.append(folder / store / "train")
    return made


def _damage_records(rng: Rng, seeds: list[Path], folder: Path) -> Path:
    """Bytes of one of the files, or values of the description and of the list of utterances."""
    source = _pick(rng, seeds)
    path = folder / f"{source.parent.name}-records"
    shutil.copytree(source, path, copy_function=os.link)  # a file has 50 MB, mostly zeros
    chosen = _pick(rng, sorted(path.iterdir()))
    data = chosen.read_bytes()
    for file in (chosen, path / "dataset.json"):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    if chosen.suffix == ".json" and rng.random() < 0.7:
        data = json.dumps(change_tree(rng, json.loads(data))).encode()
    elif chosen.suffix == ".jsonl":
        lines = change_tree(rng, [json.loads(line) for line in data.splitlines()])
        data = "\n".join(map(json.dumps, lines if isinstance(lines, list) else [lines])).encode()
        description = json.loads((path / "dataset.json").read_text())
        description["files"][chosen.name] = len(data)
        (path / "dataset.json").write_text(json.dumps(description))
    else:
        # What is in it: its header, and the first pages.
        used = len(data.rstrip(b"\0")) if rng.random() < 0.5 else 1000
        changed = damage_bytes(rng, data[:used], data[:used]) + data[used:]
        if rng.random() < 0.7:  # of the right size
            changed = changed[: len(data)].ljust(len(data), b"\0")
        data = changed
    chosen.write_bytes(data)
    return path


def _read_records(path: Path, seeds: list[Path]) -> str:
    from common.data.mindrecord import open_dataset

    corpus = open_dataset(path)
    featurizer = DEEPSPEECH2.build_featurizer(DEEPSPEECH2.train_config().DataConfig)
    found = 0
    for example in corpus.read(range(len(corpus))):
        found += 1
        if example.audio is not None:
            example.samples(featurizer)
    if found != len(corpus):
        raise Finding(f"{found} of {len(corpus)} utterances were read")
    return "read"


# ---- exported models


def _exports(folder: Path) -> dict[str, Path]:
    """Name of the folder of an exported model -> its description, or the file that holds it."""
    from common.export.export import Options, export

    made = {}
    for name, model in _models().items():
        for file_format, input in (("ONNX", "features"), ("ONNX", "samples"), ("MINDIR", "")):
            place = folder / f"{name}-{file_format}{input}"
            place.mkdir()
            target = place / name
            options = Options(file_format=file_format, input=input)
            made[place.name] = Path(export(model, target, options, log=_silent))
    return made


def _damage_export(rng: Rng, seeds: dict, folder: Path) -> Path:
    """Values or the text of the description, or bytes of the model beside it."""
    description = seeds[_pick(rng, list(seeds))]
    for file in description.parent.iterdir():
        shutil.copy(file, folder / file.name)
    path, action = folder / description.name, rng.random()
    if path.suffix == ".onnx":
        content = path.read_bytes()
        if action < 0.5:  # what it holds of itself, as long as before
            start = content.index(b'{"format"')
            text = damage_bytes(rng, content[start:], content)
            path.write_bytes(content[:start] + text)
        else:
            path.write_bytes(damage_bytes(rng, content, content))
    elif action < 0.5:
        path.write_text(json.dumps(change_tree(rng, json.loads(path.read_text()))))
    elif action < 0.8:
        path.write_bytes(damage_text(rng, path.read_text(), ""))
    else:
        model = next(file for file in sorted(folder.iterdir()) if file != path)
        model.write_bytes(damage_bytes(rng, model.read_bytes(), path.read_bytes()))
    return path


def _read_export(path: Path, seeds: dict) -> str:
    from common.export.offline_inference import read_description

    model = read_description(_RECIPES[path.name.split(".")[0]], path)
    forward = model.forward()
    json.dumps([model.features, model.frame_seconds, model.output_frames(100)])
    if model.buckets()[0].path.suffix == ".onnx" and model.max_frames >= 50:
        count = 50 * model.featurizer.config.hop_length if model.takes_samples else 50
        dimension = 1 if model.takes_samples else model.featurizer.dimension
        given = np.zeros((1, dimension, count), np.float32)
        log_probs, lengths = forward(given, np.array([count]))
        frames = model.featurizer.frames(count) if model.takes_samples else 50
        expected = [model.output_frames(frames)]
        if log_probs.shape[2] != len(model.tokenizer) or lengths.tolist() != expected:
            raise Finding(f"outputs of shape {log_probs.shape}, lengths {lengths.tolist()}")
    return "read"


# ---- what postprocess.py scores


def _results(folder: Path) -> Path:
    """The folders that preprocess.py and the C++ program write, for two utterances."""
    from common.export.offline_inference import DATA, FEATURES, INDEX, LENGTHS

    model = _described_model(folder)
    made = folder / "made"
    for name in ("results", f"features/{DATA}", f"features/{LENGTHS}"):
        (made / name).mkdir(parents=True)
    lines = []
    for number, text in enumerate(("AB", "C D")):
        frames = 41 + 20 * number
        count = model.output_frames(frames)
        line = {"id": f"u{number}", "text": text, "name": f"u{number}", "duration": 0.5}
        lines.append({**line, "features": f"{DATA}/u{number}.bin", "frames": frames})
        values = np.log(np.random.default_rng(number).dirichlet(np.ones(6), count))
        values.astype("<f4").tofile(made / "results" / f"u{number}_0.bin")
        np.array([count], "<i4").tofile(made / "results" / f"u{number}_1.bin")
    (made / "features" / INDEX).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (made / "features" / FEATURES).write_text(json.dumps(model.features))
    return made


def _described_model(folder: Path) -> Any:
    from common.export.offline_inference import ExportedModel
    from common.text.tokenizer import CharacterTokenizer

    config, path = DEEPSPEECH2.train_config(), folder / "deepspeech2.json"
    tokenizer = CharacterTokenizer(tuple("ABCD _"))
    featurizer = DEEPSPEECH2.build_featurizer(config.DataConfig)
    return ExportedModel(path, DEEPSPEECH2, config, tokenizer, featurizer, "any", path)


def _damage_results(rng: Rng, made: Path, folder: Path) -> Path:
    path = folder / "work"
    shutil.copytree(made, path)
    chosen = _pick(rng, sorted(file for file in path.rglob("*.*") if file.is_file()))
    data = chosen.read_bytes()
    if chosen.suffix == ".bin":
        chosen.write_bytes(damage_bytes(rng, data, data))
    elif rng.random() < 0.5:
        tree = [json.loads(line) for line in data.splitlines()]
        changed = change_tree(rng, tree)
        changed = changed if isinstance(changed, list) else [changed]
        chosen.write_text("\n".join(map(json.dumps, changed)))
    else:
        chosen.write_bytes(damage_text(rng, data.decode(), ""))
    return path


def _read_results(path: Path, made: Path) -> str:
    from common.config import LMConfig
    from common.decoding.decoders import make_decoder
    from common.export.offline_inference import score_results

    model = _described_model(path)
    decoder = make_decoder(LMConfig(), model.tokenizer)
    evaluation, problems = score_results(model, path / "features", path / "results", decoder)
    index = (path / "features").glob("*.jsonl")
    lines = sum(bool(line.strip()) for file in index for line in file.read_text().split("\n"))
    if len(evaluation.utterances) + len(problems) != lines:
        raise Finding(f"{len(evaluation.utterances)} scored, {len(problems)} named, of {lines}")
    return "read"


# A message that names a key of the configuration, or the model beside its description.
_KEYS = r"\.onnx: |\.mindir: |Config\.|^(window|features|bands|sample_rate|convention|pre|frame_)"
_MEMORY = 6 << 30
TARGETS = (
    # Without a description, the default network is built, with 1.3 GB of weights.
    Target(
        *("checkpoint", 4000, _checkpoints, _damage_checkpoint, _read_checkpoint),
        *(_KEYS, _MEMORY, 4 << 30),
    ),
    Target("torch", 3000, _torch_files, _damage_torch, _read_torch, _KEYS, _MEMORY),
    Target("mindrecord", 3000, _records, _damage_records, _read_records, memory=_MEMORY),
    Target("results", 2000, _results, _damage_results, _read_results),
    Target("export", 3000, _exports, _damage_export, _read_export, _KEYS, _MEMORY),
)
