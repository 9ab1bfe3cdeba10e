"""The house rules: what may import what, and a third model that needs no change in `common/`."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from synthetic_corpus import RATE, make_corpus

from common import config as shared
from common.audio.features import FeatureConfig, Featurizer
from common.model.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a folder (or module) of `common` imports only from those before it.
FLOORS = (  # noqa: SIM905
    "utils launching text nn config decoding audio model data interop memory evaluation training "
    "export api doctor cli"
).split()
WITHOUT_MINDSPORE = ("launching", "text", "decoding", "audio", "data")
MODELS = ("asrt", "deepspeech2", "jasper")
ENTRY_POINTS = [
    f"{model}.{path.stem}" for model in MODELS for path in sorted(ROOT.glob(f"{model}/[a-z]*.py"))
]


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
    benchmarks = list((ROOT / "benchmarks").glob("*.py"))
    assert "synthetic_corpus" in of_tests and benchmarks
    for path in benchmarks:
        assert not {name.split(".")[0] for name in imports_of(path)} & of_tests, path


@pytest.mark.launcher
def test_folders_without_mindspore_and_the_recipes_import_none():
    modules = [
        name for name in MODULES if name.split(".")[1:2] and name.split(".")[1] in WITHOUT_MINDSPORE
    ]
    modules += [*(f"{model}.src.recipe" for model in MODELS), "common.cli"]
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


@pytest.mark.launcher
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
    documents = [*ROOT.glob("*.md"), *ROOT.glob("*/README*.md"), *ROOT.glob("docs/*.md")]
    assert documents
    for document in documents:
        assert not re.search(r"@[A-Z0-9]+@", document.read_text(encoding="utf-8")), document


@pytest.mark.launcher
def test_importing_an_entry_point_does_nothing(tmp_path):
    common = "create_mindrecord doctor eval export lm postprocess preprocess train transcribe"
    assert {f"{m}.{name}" for m in MODELS for name in common.split()} <= set(ENTRY_POINTS)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv += ['--nonsense']\n"
        "import importlib\n"
        f"for name in {ENTRY_POINTS!r}: importlib.import_module(name)\n"
        "assert 'mindspore' not in sys.modules\n"
    )
    assert in_a_new_process(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


# ---- the documents

README = ROOT / "README.md"
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "[!.]*/README*.md", "[!.]*/*/README.md")
    for path in sorted(ROOT.glob(pattern))
]
CODE_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) +(.+)$", re.MULTILINE)
CODE_SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"(?<![\w.])\d[\d.]*")


def prose_of(document: Path) -> str:
    """The document without its code blocks."""
    return CODE_BLOCK.sub("", document.read_text(encoding="utf-8"))


def anchors_of(document: Path) -> set[str]:
    """GitHub's anchors of the headings."""
    titles = [title.lower() for _, title in HEADING.findall(prose_of(document))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def commands_of(document: Path) -> list[str]:
    """The code blocks without comments, which are translated."""
    blocks = CODE_BLOCK.findall(document.read_text(encoding="utf-8"))
    return [re.sub(r"\s*#.*", "", code) for language, code in blocks if language]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_documents_lead_somewhere(document):
    for target in LINK.findall(CODE_SPAN.sub("", prose_of(document))):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            linked = document.parent / path if path else document
            assert linked.exists(), target
            assert not anchor or anchor in anchors_of(linked), target


@pytest.mark.parametrize("folder", [".", *MODELS])
def test_readmes_in_both_languages_have_equal_headings_commands_tables_and_figures(folder):
    def parts_of(document: Path) -> dict[str, list]:
        prose = (
            prose_of(document).replace("_CN.md", ".md").replace("mindspore.cn/en", "mindspore.cn/")
        )
        rows = [line for line in prose.splitlines() if line.startswith("|")]
        return {
            "levels of headings": [level for level, _ in HEADING.findall(prose)],
            "commands": commands_of(document),
            "rows of tables": [NUMBER.findall(row) + LINK.findall(row) for row in rows],
            "links": sorted(LINK.findall(prose)),
            "inline code": sorted(CODE_SPAN.findall(prose)),
            "figures": sorted(number.rstrip(".") for number in NUMBER.findall(prose)),
        }

    english = parts_of(ROOT / folder / "README.md")
    assert all(english.values())
    assert parts_of(ROOT / folder / "README_CN.md") == english


@pytest.mark.parametrize("folder", [".", *MODELS])
def test_chinese_readmes_prefer_chinese_documents_and_mark_english_ones(folder):
    document = ROOT / folder / "README_CN.md"
    assert "\n[中文](README_CN.md)\n" in prose_of(document.with_name("README.md"))
    title, switch, text = re.split(r"\n+", prose_of(document), maxsplit=2)
    assert switch == "[English](README.md)"
    text = re.sub(r"^\| \[.*$", "", text, flags=re.MULTILINE)  # the list of English documents
    for target, mark in re.findall(LINK.pattern + "(（英文）)?", text):
        path = document.parent / target.partition("#")[0]
        if path.suffix == ".md":
            assert not path.with_name(f"{path.stem}_CN.md").exists(), target
            assert bool(mark) != path.stem.endswith("_CN"), target


def test_the_readme_is_at_most_1300_words_long():
    assert len(README.read_text(encoding="utf-8").split()) <= 1300


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


@pytest.mark.training
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
    *printed, summary = capsys.readouterr().out.splitlines()
    (end,) = [number for number, line in enumerate(printed) if line.endswith("  test0")]
    heard = printed[end - 1].removeprefix("Hyp: ")
    assert summary.startswith("Test Summary")
    assert float(summary.split("CER")[1]) < 95  # it has begun to hear the tones

    cli.export(recipe, ["--pre_trained_model_path", "checkpoint/model-best.ckpt"])
    assert (tmp_path / "third.mindir").stat().st_size > 0
    assert json.loads((tmp_path / "third.json").read_text())["verified_difference"] <= 1e-4

    assert (
        cli.transcribe(recipe, ["test/test0.wav", "--pretrain_ckpt", "checkpoint/model-best.ckpt"])
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == heard
    logging.getLogger("speech").handlers.clear()
