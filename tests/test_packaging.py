"""The package as `pip install .` leaves it, and what it does without MindSpore."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import __version__

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("asrt", "deepspeech2", "jasper")
ENTRY_POINTS = [
    f"{model}.{path.stem}" for model in MODELS for path in sorted(ROOT.glob(f"{model}/[a-z]*.py"))
]
# What a distribution is built from; a clone may also hold corpora and checkpoints.
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "common/**/*"]
SOURCES += [f"{model}/{part}" for model in MODELS for part in ("*.py", "labels.json", "src/*")]
SOURCES += [f"{model}/{part}/*" for model in MODELS for part in ("presets", "pretrained")]


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that pip has installed the project into, without its dependencies."""
    clone = tmp_path_factory.mktemp("clone")  # pip leaves files in the folder that it builds from
    for path in (path for pattern in SOURCES for path in ROOT.glob(pattern)):
        if path.is_file() and path.parent.name != "__pycache__":
            copy = clone / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    folder = tmp_path_factory.mktemp("installed")
    done = run(
        *("-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps"),
        *("--no-build-isolation", "--target", folder, clone),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_installed_package_has_every_module_and_data_file(installed):
    for path in (ROOT / "common").rglob("*"):
        if path.is_file() and path.parent.name != "__pycache__":
            assert (installed / path.relative_to(ROOT)).is_file(), path
    for model in MODELS:
        for pattern in ("*.py", "src/*.py", "labels.json", "presets/*.yaml", "pretrained/*"):
            for path in (ROOT / model).glob(pattern):
                assert (installed / path.relative_to(ROOT)).is_file(), path
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    assert distribution.metadata["Name"] == "mindspore-speech"
    assert distribution.version == __version__
    top = {path.parts[0] for path in distribution.files or []}
    assert {"common", *MODELS} <= top and not {"tests", "scripts", "benchmarks", "data"} & top


@pytest.mark.parametrize(
    ("model", "recording", "text"), [("deepspeech2", "2", "TWO"), ("jasper", "1", "one")]
)
def test_an_installed_package_transcribes_from_any_folder(
    installed, tmp_path, model, recording, text
):
    shutil.copy(ROOT / f"data/telephone_prompts/audio/digits/{recording}.opus", tmp_path / "a.opus")
    done = run("-m", f"{model}.transcribe", "a.opus", cwd=tmp_path, PYTHONPATH=str(installed))
    assert (done.returncode, done.stdout) == (0, f"{text}\n"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.opus"]


def test_every_console_script_of_the_package_can_be_loaded(installed, tmp_path):
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    scripts = {script.name: script.value for script in distribution.entry_points}
    entries = "create_mindrecord validate train eval export transcribe lm".split()
    for model in MODELS:
        further = [] if model == "asrt" else ["align", "calibrate"]
        for entry in [*entries, *further]:
            name = f"{model}-{entry.replace('_', '-')}"
            assert scripts.pop(name) == f"{model}.{entry}:main"
    assert not scripts
    code = f"import sys, {', '.join(ENTRY_POINTS)}\n"
    code += "".join(f"assert callable({module}.main)\n" for module in ENTRY_POINTS)
    code += f"assert deepspeech2.train.__file__.startswith({str(installed)!r})\n"
    code += "assert 'mindspore' not in sys.modules\n"
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr


def test_every_entry_point_prints_the_version(tmp_path):
    code = (
        "import importlib, sys\n"
        f"for name in {ENTRY_POINTS!r}:\n"
        "    sys.argv = [name, '--version']\n"
        "    try: importlib.import_module(name).main()\n"
        "    except SystemExit as ended: assert not ended.code, name\n"
    )
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"mindspore-speech {__version__}"] * len(ENTRY_POINTS)


def test_entry_points_started_by_their_path_find_the_clone(tmp_path):
    for model in MODELS:
        done = run("-I", ROOT / model / "train.py", "--version", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"mindspore-speech {__version__}\n")


def test_importing_everything_without_mindspore_names_the_command_that_installs_it(tmp_path):
    done = run(ROOT / "tests" / "import_all.py", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    needing = done.stdout.split()
    assert {"common.utils.backend", *(f"{m}.src.model" for m in MODELS)} <= set(needing)
    folders = {name.split(".")[1] for name in needing if name.startswith("common.")}
    assert not folders & {"text", "audio", "data", "decoding", "cli", "launching", "interop"}


def test_an_entry_point_without_mindspore_says_so_in_one_line(tmp_path):
    code = (
        "import sys; sys.modules['mindspore'] = None\n"
        "import deepspeech2.train; sys.argv = ['train.py']; deepspeech2.train.main()\n"
    )
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "pip install mindspore==" in line


def test_only_files_that_are_started_change_the_module_path():
    started = {f"{entry.replace('.', '/')}.py" for entry in ENTRY_POINTS}
    for folder in ("common", *MODELS):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
                    assert path.relative_to(ROOT).as_posix() in started, path
