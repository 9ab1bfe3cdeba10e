"""The house rules: what may import what, and a third model that needs no change in `common/`."""

from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from synthetic_corpus import LABELS, RATE, make_corpus

from common import config as shared
from common.audio.features import FeatureConfig, Featurizer
from common.model.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a folder (or module) of `common` imports only from those before it.
FLOORS = (  # noqa: SIM905
    "utils launching text nn config decoding audio model data interop memory evaluation training "
    "export doctor cli"
).split()
WITHOUT_MINDSPORE = ("launching", "text", "decoding", "audio", "data")
ENTRY_POINTS = (  # noqa: SIM905
    "create_mindrecord doctor eval export mind2pt postprocess preprocess pt2mind train transcribe "
    "validate"
).split()

MODELS = ("deepspeech2", "jasper")


def in_a_new_process(code: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((ROOT / "common").rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """The project's modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


def floor(module: str) -> str:
    """The folder, or the module beside the folders."""
    return module.split(".")[1]


def height(module: str) -> int:
    return FLOORS.index(floor(module))


def test_imports_of_common_run_down():
    for module, path in MODULES.items():
        if module == "common":
            continue
        for imported in imports_of(path):
            package = imported.split(".")[0]
            assert package not in ("scripts", "tests", "benchmarks", *MODELS), (module, imported)
            if package == "common" and imported != "common":
                assert height(imported) <= height(module), f"{module} imports {imported}"


def test_every_folder_of_common_has_a_floor():
    on_disk = {floor(name) for name in MODULES if "." in name}
    assert on_disk == set(FLOORS)


def test_benchmarks_import_nothing_of_the_tests():
    of_tests = {path.stem for path in (ROOT / "tests").glob("*.py")}
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & of_tests, path


def test_folders_without_mindspore_and_the_recipes_import_none():
    modules = [
        name for name in MODULES if name.split(".")[1:2] and name.split(".")[1] in WITHOUT_MINDSPORE
    ]
    modules += ["deepspeech2.src.recipe", "jasper.src.recipe", "common.cli"]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'mindspore' in sys.modules: sys.exit(name + ' imports mindspore')\n"
    )
    assert in_a_new_process(code) == ""


def test_mindspore_is_imported_through_one_module():
    for path in (
        p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] in ("common", *MODELS)
    ):
        for name in imports_of(path):
            if name.split(".")[0] == "mindspore":
                assert module_name(path) == "common.utils.backend", path


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_code_is_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, ROOT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_types_are_consistent():
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_documents_have_no_gaps_left():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]
    assert documents
    for document in documents:
        assert not re.search(r"@[A-Z0-9]+@", document.read_text(encoding="utf-8")), document


def test_importing_an_entry_point_does_nothing(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv += ['--nonsense']\n"
        "import importlib\n"
        f"for model in {MODELS!r}:\n"
        f"    for name in {ENTRY_POINTS!r}: importlib.import_module(f'{{model}}.{{name}}')\n"
        "assert 'mindspore' not in sys.modules\n"
    )
    assert in_a_new_process(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


# ---- the README in two languages

README, README_CN = ROOT / "README.md", ROOT / "README_CN.md"
HEADING = re.compile(r"#+(?= )")
# 43.0, -10, 1e-5, 21x11, the 512 of AVX-512; not the 2 of DeepSpeech2
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)*(?:[ex]-?\d+(?:\.\d+)*)*", re.ASCII)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
LISTING = re.compile(r"(\S+/) {2,}(.+)")  # a line of a listing of folders
FILE = re.compile(r"[\w{},.*/-]*(?:/|\.\w)[\w{},.*/-]*", re.ASCII)


def parts_of(document: Path) -> list[tuple[str, str]]:
    """(kind, text) of each heading (#, ##, ...), paragraph, item, row of a table and fenced block
    (```, ```bash, ...), in order."""
    parts, fence, goes_on = [], "", False
    for line in document.read_text(encoding="utf-8").splitlines():
        bare = line.strip()
        if fence:
            if bare == "```":
                fence = ""
            else:
                parts[-1] = fence, f"{parts[-1][1]}{line}\n"
            continue
        if bare.startswith("```"):
            fence, goes_on = bare, False
            parts.append((fence, ""))
        elif heading := HEADING.match(bare):
            parts.append((heading[0], bare[heading.end() :].strip()))
            goes_on = False
        elif bare.startswith("|"):
            parts.append(("row", bare))
            goes_on = False
        elif bare.startswith("- "):
            parts.append(("item", bare))
            goes_on = True
        elif bare and goes_on:
            parts[-1] = parts[-1][0], f"{parts[-1][1]} {bare}"
        elif bare:
            parts.append(("paragraph", bare))
            goes_on = True
        else:
            goes_on = False
    assert not fence, f"{document}: {fence} is not closed"
    return parts


def sections_of(document: Path) -> list[list[tuple[str, str]]]:
    """The parts, from each heading to the next; a document begins with a heading."""
    sections = []
    for kind, text in parts_of(document):
        if kind.startswith("#"):
            sections.append([])
        sections[-1].append((kind, text))
    return sections


def anchors_of(document: Path) -> list[str]:
    """What GitHub calls the headings."""
    titles = [section[0][1] for section in sections_of(document)]
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def links_in(text: str) -> list[tuple[str, str]]:
    """("!" of a picture, or "", target) of each."""
    return LINK.findall(CODE.sub("", text))


def untranslated(kind: str, text: str, anchors: list[str]) -> list:
    """What a part has in any language; anchors: of its document."""
    if kind.startswith("```"):
        return _untranslated_block(kind, text.splitlines())
    return [
        {
            "figures": sorted(NUMBER.findall(cell)),
            "code": sorted(CODE.findall(cell)),
            "links": sorted(
                (mark, f"heading {anchors.index(target[1:])}" if target[0] == "#" else target)
                for mark, target in links_in(cell)
            ),
        }
        for cell in (re.split(r"(?<!\\)\|", text) if kind == "row" else [text])
    ]


def _untranslated_block(kind: str, lines: list[str]) -> list:
    if kind != "```":  # code, and of its comments no more than files and figures
        parts = [re.split(r"(?:^|\s+)#", line, maxsplit=1) for line in lines]
        return [(code, *map(_names, comment)) for code, *comment in parts]
    found = [LISTING.fullmatch(line) for line in lines]
    if all(found):  # folders, and the files that their descriptions name
        return [(line[1], _names(line[2])) for line in found]
    return lines


def _names(text: str) -> list[str]:
    files = [name.rstrip(",.") for name in FILE.findall(text)]
    return sorted([*files, *NUMBER.findall(text)])


def test_each_readme_begins_with_a_link_to_the_other():
    for document, link in ((README, "[中文](README_CN.md)"), (README_CN, "[English](README.md)")):
        assert parts_of(document)[1] == ("paragraph", link)


def test_links_in_the_readmes_lead_somewhere():
    of_models = [ROOT / model / "README.md" for model in MODELS]
    for document in (README, README_CN, *of_models, *sorted((ROOT / "docs").glob("*.md"))):
        for kind, text in parts_of(document):
            for _, target in [] if kind.startswith("```") else links_in(text):
                if target.startswith(("http://", "https://")):
                    continue
                path, _, anchor = target.partition("#")
                there = document.parent / path if path else document
                assert there.exists(), f"{document}: {target}"
                assert not anchor or anchor in anchors_of(there), f"{document}: {target}"


def test_the_readmes_say_the_same_in_both_languages():
    ours, theirs = sections_of(README), sections_of(README_CN)
    del ours[0][1], theirs[0][1]  # the links to each other
    assert [section[0][0] for section in ours] == [section[0][0] for section in theirs]
    anchors, their_anchors = anchors_of(README), anchors_of(README_CN)
    for section, their_section in zip(ours, theirs):
        title = section[0][1]  # where a difference is
        assert [kind for kind, _ in section] == [kind for kind, _ in their_section], title
        for (kind, text), (_, their_text) in zip(section, their_section):
            here, there = f"{title}:\n{text}", f"{their_section[0][1]}:\n{their_text}"
            assert untranslated(kind, text, anchors) == untranslated(
                kind, their_text, their_anchors
            ), f"{here}\n\n{there}"


# ---- a third model, in this file alone


@dataclass
class ThirdSpectrum:
    bands: int = 12


@dataclass
class ThirdData(shared.DataConfig):
    Spectrum: ThirdSpectrum = field(default_factory=ThirdSpectrum)


@dataclass
class ThirdModel:
    channels: int = 16


@dataclass
class ThirdTrain:
    TrainingConfig: shared.TrainingConfig = field(default_factory=shared.TrainingConfig)
    DataConfig: ThirdData = field(default_factory=ThirdData)
    ModelConfig: ThirdModel = field(default_factory=ThirdModel)
    OptimConfig: shared.OptimConfig = field(default_factory=shared.OptimConfig)
    CheckpointConfig: shared.CheckpointConfig = field(default_factory=shared.CheckpointConfig)
    LMConfig: shared.LMConfig = field(default_factory=shared.LMConfig)


def third_network(config: ThirdModel, dimension: int, classes: int, rng, device: str):
    from mindspore import Tensor, nn, ops

    from common.nn.layers import frame_mask

    def weight(*shape: int) -> Tensor:
        return Tensor(rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32))

    class Third(nn.Cell):
        """Two convolutions over time, every second frame kept by the first."""

        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(
                dimension,
                config.channels,
                (1, 7),
                (1, 2),
                pad_mode="pad",
                padding=(0, 0, 3, 3),
                weight_init=weight(config.channels, dimension, 1, 7),
            )
            self.last = nn.Conv2d(
                config.channels,
                classes,
                (1, 5),
                pad_mode="pad",
                padding=(0, 0, 2, 2),
                weight_init=weight(classes, config.channels, 1, 5),
            )

        def construct(self, features, lengths):
            mask = frame_mask(lengths, features.shape[2]).reshape((features.shape[0], 1, 1, -1))
            x = ops.relu(self.first(ops.expand_dims(features, 2) * mask))
            lengths = (lengths - 1) // 2 + 1
            mask = frame_mask(lengths, x.shape[3]).reshape((features.shape[0], 1, 1, -1))
            x = self.last(x * mask).squeeze(2).transpose((2, 0, 1))
            return ops.log_softmax(x, -1), lengths

    return Third()


def third_recipe(folder: Path) -> Recipe:
    return Recipe(
        name="third",
        folder=folder,
        train_config=ThirdTrain,
        eval_config=shared.EvalConfig,
        build_network=third_network,
        build_featurizer=lambda data: Featurizer(
            FeatureConfig(kind="logmel", sample_rate=RATE, bands=data.Spectrum.bands)
        ),
        output_frames=lambda config, frames: (frames - 1) // 2 + 1,
        activation_bytes=lambda config, dimension: 40.0 * config.channels,
        head="last",
    )


@pytest.fixture
def third(tmp_path, monkeypatch) -> tuple[Recipe, list[str]]:
    make_corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["train_manifest=train.csv", "val_manifest=val.csv", "test_manifest=test.csv"]
    options += ["epochs=24", "eval_every=24", "batch_size=4", "learning_rate=0.02"]
    return third_recipe(tmp_path), ["--set", *options]


def weights(path: str) -> dict[str, np.ndarray]:
    from common.model import checkpoint

    return checkpoint.load(path).parameters


def test_a_third_model_needs_no_change_in_common(cpu, third, tmp_path, capsys):
    from common import cli

    recipe, options = third
    cli.create_mindrecord(recipe, options)
    cli.train(recipe, options)
    whole = weights("checkpoint/model-last.ckpt")
    assert whole["first.weight"].shape == (16, 12, 1, 7)

    cli.train(recipe, [*options, "epochs=8"])
    cli.train(recipe, ["--resume", "--set", "epochs=24"])
    for name, value in weights("checkpoint/model-last.ckpt").items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)

    capsys.readouterr()
    cli.evaluate(recipe, ["--pretrain_ckpt", "checkpoint/model-best.ckpt"])
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.startswith("Test Summary")
    assert float(summary.split("CER")[1]) < 95  # it has begun to hear the tones

    cli.export(recipe, ["--pre_trained_model_path", "checkpoint/model-best.ckpt"])
    assert (tmp_path / "third.mindir").stat().st_size > 0

    assert (
        cli.transcribe(recipe, ["test/test0.wav", "--pretrain_ckpt", "checkpoint/model-best.ckpt"])
        == 0
    )
    assert set(capsys.readouterr().out.splitlines()[-1]) <= set(LABELS)
    logging.getLogger("speech").handlers.clear()
