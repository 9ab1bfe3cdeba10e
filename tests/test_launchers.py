"""The shell side, tried in a copy of it with a stand-in for Python."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launcher_clone import copy_launcher

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), *ROOT.glob("*/scripts/*.sh"), ROOT / ".ci" / "run"])
MODELS = ("deepspeech2", "jasper")
BINARIES = "/usr/local/bin:/usr/bin:/bin"

# Says where and how it was called, then ends as told.
STAND_IN = """#!/bin/sh
echo "cwd=$(pwd)"
for argument in "$@"; do echo "argument=$argument"; done
[ -z "$STAND_IN_SIGNAL" ] || kill -s "$STAND_IN_SIGNAL" $$
exit "${STAND_IN_EXIT:-0}"
"""


# A Python that has none of the modules that it is asked for.
LACKING = f'#!/bin/sh\n[ "${{2#*find_spec}}" = "$2" ] || exit 1\nexec {sys.executable} "$@"\n'


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone, in a folder with a space, that holds the scripts and empty entry points."""
    clone = tmp_path / "my clone"
    copy_launcher(clone)
    for script in SCRIPTS:
        copy = clone / script.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(script, copy)
    for model in MODELS:
        for entry in ("train", "eval"):
            (clone / model / f"{entry}.py").touch()
    executable(clone / "stand-in", STAND_IN)
    # The launcher itself needs a Python, any; it is not the job's.
    executable(clone / "any" / "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    return clone


def run(clone: Path, script: str, *arguments: str, cwd: Path | None = None, **environment: str):
    path = f"{clone}/any:{BINARIES}"
    variables = {"PATH": path, "HOME": str(clone), "PYTHON": str(clone / "stand-in")}
    return subprocess.run(
        ["bash", str(clone / script), *arguments],
        cwd=cwd or clone / "deepspeech2",
        env={name: value for name, value in {**variables, **environment}.items() if value},
        capture_output=True,
        text=True,
    )


def called_with(done: subprocess.CompletedProcess) -> list[str]:
    marked = [line for line in done.stdout.splitlines() if line.startswith("argument=")]
    return [line.removeprefix("argument=") for line in marked]


TRAIN = "deepspeech2/scripts/run_standalone_train_cpu.sh"
EVAL = "deepspeech2/scripts/run_eval_cpu.sh"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_valid_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_training_from_scratch_passes_options_on(clone):
    done = run(clone, TRAIN, "--set", "train.epochs=2", "--config", "a b.yaml")
    assert done.returncode == 0
    assert called_with(done) == [
        "train.py",
        "--device_target",
        "CPU",
        "--set",
        "train.epochs=2",
        "--config",
        "a b.yaml",
    ]
    assert f"cwd={clone}/deepspeech2" in done.stdout
    assert f"log in {clone}/deepspeech2/train.log" in done.stdout


def test_a_relative_checkpoint_starts_where_the_command_was_typed(clone, tmp_path):
    (tmp_path / "the best.ckpt").touch()
    absolute = str(tmp_path / "the best.ckpt")
    trained = run(clone, TRAIN, "the best.ckpt", "--resume", cwd=tmp_path)
    assert called_with(trained) == [
        "train.py",
        "--device_target",
        "CPU",
        "--pre_trained_model_path",
        absolute,
        "--resume",
    ]
    scored = run(clone, EVAL, "the best.ckpt", cwd=tmp_path)
    assert called_with(scored) == [
        "eval.py",
        "--device_target",
        "CPU",
        "--pretrain_ckpt",
        absolute,
    ]


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [("", "an argument is empty"), ("gone.ckpt", "checkpoint gone.ckpt not found")],
)
@pytest.mark.parametrize("script", [TRAIN, EVAL])
def test_an_argument_that_is_no_checkpoint_is_refused(clone, script, argument, complaint):
    done = run(clone, script, argument)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not called_with(done)


@pytest.mark.parametrize("options", [(), ("--set", "eval.verbose=true")])
def test_evaluation_without_a_checkpoint_uses_the_one_that_ships(clone, options):
    called = called_with(run(clone, EVAL, *options))
    assert called[0].endswith("eval.py")
    assert "--pretrain_ckpt" not in called
    assert called[-len(options) :] == list(options) or not options


def test_the_exit_code_is_that_of_the_job(clone):
    assert run(clone, TRAIN, STAND_IN_EXIT="7").returncode == 7


@pytest.mark.parametrize("name", ["INT", "TERM", "KILL"])
def test_a_signal_that_ends_the_job_ends_the_launcher(clone, name):
    done = run(clone, TRAIN, STAND_IN_SIGNAL=name)
    assert done.returncode == -getattr(signal, f"SIG{name}")


def test_dry_run_prints_the_command_and_starts_nothing(clone):
    done = run(clone, TRAIN, "--config", "a b.yaml", DRY_RUN="1", STAND_IN_EXIT="7")
    assert done.returncode == 0
    where, command = done.stdout.splitlines()
    assert where.startswith("cd ")
    assert command.startswith("PYTHONUNBUFFERED=1 ")
    assert "train.py --device_target CPU --config 'a b.yaml'" in command
    # The lines are what the launcher does: the shell can run them.
    again = subprocess.run(["bash", "-c", done.stdout], capture_output=True, text=True, check=True)
    assert called_with(again) == ["train.py", "--device_target", "CPU", "--config", "a b.yaml"]


def test_the_clones_own_environment_is_used_first(clone):
    executable(clone / ".venv" / "bin" / "python", STAND_IN)
    assert called_with(run(clone, TRAIN, PYTHON=""))[0] == "train.py"


def test_without_mindspore_the_error_names_setup_sh(clone):
    executable(clone / "bin" / "python3", "#!/bin/sh\nexit 1\n")
    done = run(clone, TRAIN, PYTHON="", PATH=f"{clone}/bin:{BINARIES}")
    assert done.returncode == 1
    assert "none with mindspore" in done.stderr
    assert "scripts/setup.sh" in done.stderr

    executable(clone / "bin" / "python3", LACKING)
    done = run(clone, TRAIN, PYTHON="", PATH=f"{clone}/bin:{BINARIES}")
    assert done.returncode == 1
    assert "no Python with mindspore" in done.stderr
    assert "scripts/setup.sh" in done.stderr


def test_which_python_prints_the_interpreter_that_a_job_uses(clone):
    theirs = f"{clone}/any:{BINARIES}", "python3"
    executable(clone / "bin" / "python3", LACKING)
    none = f"{clone}/bin:{BINARIES}", ".venv/bin/python"  # which setup.sh would make
    for path, python in (theirs, none):
        done = run(clone, TRAIN, PYTHON="", PATH=path, **DRY)
        where = clone / "any" / python if python == "python3" else clone / python
        assert shlex.split(done.stdout.splitlines()[-1])[1] == str(where)
    asked = run(clone, "scripts/launch.sh", "--which-python", PYTHON="")
    assert (asked.returncode, asked.stdout) == (0, f"{clone}/any/python3\n")
    asked = run(clone, "scripts/launch.sh", "--which-python", "no_such_module", PYTHON="")
    assert asked.returncode == 1 and "no Python with no_such_module: " in asked.stderr


def test_a_missing_interpreter_is_an_error(clone):
    done = run(clone, TRAIN, PYTHON="/no/such/python")
    assert (done.returncode, done.stderr) == (1, "error: PYTHON=/no/such/python is not a command\n")


def test_unknown_models_are_an_error(clone):
    assert run(clone, "scripts/launch.sh", "deepspeech2").returncode == 2
    done = run(clone, "scripts/launch.sh", "deepspeech9", "train", "CPU")
    assert done.returncode == 2
    assert "deepspeech9/train.py not found" in done.stderr


def test_launchers_work_through_a_symbolic_link(clone, tmp_path):
    (tmp_path / "link").symlink_to(clone)
    variables = {"PATH": f"{clone}/any:{BINARIES}", "PYTHON": f"{clone}/stand-in", **DRY}
    script = "link/scripts/run_standalone_train_cpu.sh"
    done = run(tmp_path, script, cwd=tmp_path, MODEL="deepspeech2", **variables)
    assert done.stdout.startswith(f"cd {shlex.quote(f'{clone}/deepspeech2')}\n"), done.stderr


def test_all_models_have_the_same_scripts():
    """What model they belong to is the name of the folder that they lie in."""
    first, second, third = (
        {p.name: p.read_text() for p in ROOT.glob(f"{m}/scripts/*.sh")} for m in (*MODELS, "asrt")
    )
    ours = {name for name in first if name != "run_infer_310.sh"}
    assert len(ours) == 11
    assert {name: first[name] for name in ours} == {name: second.get(name) for name in ours}
    speech = {name for name in ours if not name.endswith("_librispeech.sh")}  # which is English
    assert {name: first[name] for name in speech} == {name: third.get(name) for name in speech}
    for name in ours:
        root = (ROOT / "scripts" / name).read_text()
        assert root == first[name].replace("/../../scripts/launch.sh", "/launch.sh")


@pytest.mark.parametrize("device", ["Ascend", "GPU", "CPU"])
def test_every_script_of_every_model_and_of_the_root_prints_its_command(clone, device):
    """What each would start; the root's takes the model from an option or the environment."""
    (clone / "a.ckpt").touch()
    cards = device != "CPU"
    for script, arguments, expected in (
        ("standalone_train", ["3"] * cards + ["a.ckpt"], "train.py {} --pre_trained_model_path {}"),
        ("eval", ["3"] * cards + ["a.ckpt"], "eval.py {} --pretrain_ckpt {}"),
        (
            "distribute_train",
            ["2"] + ["4"] * (device == "Ascend") + ["a.ckpt"],
            "train.py {} --is_distributed true --pre_trained_model_path {}",
        ),
    ):
        name = f"run_{script}_{device.lower()}.sh"
        job = expected.format(f"--device_target {device}", shlex.quote(f"{clone}/a.ckpt"))
        line = [*arguments, "-x"]
        first, second = (
            run(clone, f"{model}/scripts/{name}", *line, cwd=clone, **DRY).stdout
            for model in MODELS
        )
        assert second == first.replace(MODELS[0], MODELS[1])
        option = run(clone, f"scripts/{name}", *line, "--model", MODELS[0], cwd=clone, **DRY)
        named = run(clone, f"scripts/{name}", *line, cwd=clone, MODEL=MODELS[1], **DRY)
        assert (option.stdout, named.stdout) == (first, second), option.stderr + named.stderr
        folder, *lines = first.splitlines()
        assert folder == f"cd {shlex.quote(f'{clone}/{MODELS[0]}')}"
        assert lines[-1].endswith(f"{job} -x")
        if script == "distribute_train":
            assert "--worker_num=2 --local_worker_num=2" in lines[-1]
            assert "# rank 1: " in lines[1]
            assert "RANK_ID=1 DEVICE_ID=1 " in lines[1] and lines[1].endswith(f"{job} -x")
            visible = "ASCEND_RT_VISIBLE_DEVICES=4,5 "
            assert (visible in lines[-1]) == (device == "Ascend")
        else:
            assert ("DEVICE_ID=3 " in lines[-1]) == cards
    neither = run(clone, f"scripts/run_eval_{device.lower()}.sh", **DRY)
    assert neither.returncode == 2
    assert "MODEL=NAME before it: deepspeech2, jasper" in neither.stderr


DRY = {"DRY_RUN": "1", "MASTER_PORT": "2222"}


def test_the_device_id_may_be_an_argument_or_a_variable(clone):
    """As an argument, in Jasper's order too, or from the environment."""
    (clone / "a.ckpt").touch()
    script = "jasper/scripts/run_eval_ascend.sh"
    for arguments in (["5", "a.ckpt"], ["a.ckpt", "5"]):
        done = run(clone, script, *arguments, cwd=clone, **DRY)
        assert "DEVICE_ID=5 " in done.stdout
    done = run(clone, script, "a.ckpt", cwd=clone, DEVICE_ID="6", **DRY)
    assert "DEVICE_ID=6 " in done.stdout
    assert "a.ckpt" in done.stdout
    done = run(clone, script, "5", "a.ckpt", cwd=clone, DEVICE_TARGET="cpu", **DRY)
    assert "eval.py --device_target CPU --pretrain_ckpt" in done.stdout
    assert "DEVICE_ID" not in done.stdout


def test_a_job_in_the_background(clone):
    done = run(clone, TRAIN, "--background", STAND_IN_EXIT="3")
    assert done.returncode == 0
    assert "in the background: process" in done.stdout
    output = clone / "deepspeech2" / "log" / "train.log"
    for _ in range(100):
        if "argument=train.py" in output.read_text():
            break
        time.sleep(0.05)
    assert "argument=train.py" in output.read_text()


def test_setup_installs_again_only_when_the_requirements_change(clone):
    requirements = clone / "requirements.txt"
    requirements.write_text("# nothing\n")
    first = run(clone, "scripts/setup.sh", PYTHON=sys.executable)
    assert first.returncode == 0, first.stderr
    assert "making .venv with Python 3." in first.stdout
    assert (clone / ".venv" / "bin" / "python").exists()

    second = run(clone, "scripts/setup.sh", PYTHON="/no/such/python")
    assert (second.returncode, second.stdout) == (0, "")

    requirements.write_text("# nothing, differently\n")
    third = run(clone, "scripts/setup.sh", PYTHON="/no/such/python")
    assert third.returncode == 0
    assert "making" not in third.stdout
    assert "installing requirements.txt" in third.stdout

    requirements.write_text("--no-index\nno-such-package==1\n")
    for _ in range(2):  # a failed installation is not taken for a finished one
        failed = run(clone, "scripts/setup.sh")
        assert failed.returncode == 1
        assert "pip could not install requirements.txt" in failed.stderr


def test_setup_writes_nothing_where_nothing_is_to_be_installed(clone):
    """A folder in the way of the lock stands for a read-only clone: root may write anywhere."""
    (clone / "requirements.txt").write_text("# nothing\n")
    (clone / ".venv.lock").mkdir()
    refused = run(clone, "scripts/setup.sh", PYTHON=sys.executable)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: requirements.txt must be installed into .venv, and {clone} cannot be written: "
        "start from a copy of it that is yours, or have its owner run scripts/setup.sh\n"
    )
    assert not (clone / ".venv").exists()

    (clone / ".venv.lock").rmdir()
    assert run(clone, "scripts/setup.sh", PYTHON=sys.executable).returncode == 0
    (clone / ".venv.lock").unlink()
    (clone / ".venv.lock").mkdir()
    done = run(clone, "scripts/setup.sh", PYTHON="/no/such/python")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_setup_refuses_another_python_by_version(clone):
    (clone / "requirements.txt").touch()
    old = executable(clone / "old", '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\nexit 1\n')
    done = run(clone, "scripts/setup.sh", PYTHON=str(old))
    assert done.returncode == 1
    assert "need Python 3.10, 3.11 or 3.12" in done.stderr
    assert "is Python 3.9.2" in done.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("module", "source", "remedy"),
    [
        ("ensurepip", "raise ImportError", "sudo apt-get install python3."),
        ("ctypes", "def CDLL(name): raise OSError(name)", "sudo apt-get install libgomp1"),
    ],
)
def test_setup_names_the_system_package_that_is_missing(clone, module, source, remedy):
    (clone / "requirements.txt").touch()
    (clone / "broken").mkdir()
    (clone / "broken" / f"{module}.py").write_text(source)
    done = run(clone, "scripts/setup.sh", PYTHON=sys.executable, PYTHONPATH=f"{clone}/broken")
    assert done.returncode == 1
    assert remedy in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (clone / ".venv").exists()


def test_setup_checks_for_openmp_also_where_the_light_packages_came_first(clone):
    """A stand-in for the .venv with these packages, which saves the time that pip takes."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    python = '#!/bin/sh\ncase "$*" in *libgomp*) exit 1;; *pip*) exit 0;; esac\n'
    executable(clone / ".venv/bin/python", f'{python}exec "{sys.executable}" "$@"\n')
    for name in ("requirements-light.txt", "requirements.txt"):
        (clone / name).write_text("# nothing\n")
    light = run(clone, "scripts/setup.sh", "requirements-light.txt")
    assert (light.returncode, light.stderr) == (0, "")
    for names in ([], ["requirements-light.txt", "requirements.txt"]):
        done = run(clone, "scripts/setup.sh", *names)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "sudo apt-get install libgomp1" in done.stderr
        assert "installing requirements.txt" not in done.stdout


TWO_AT_A_TIME = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


def test_run_tests_keeps_the_exit_code_and_passes_arguments_on(clone):
    executable(clone / "scripts" / "setup.sh", "echo set up: $*\n")
    executable(clone / ".venv" / "bin" / "python", STAND_IN)
    done = run(clone, "scripts/run_tests.sh", "-k", "a or b", STAND_IN_EXIT="5")
    assert done.returncode == 5
    assert "set up: requirements.txt requirements-test.txt" in done.stdout
    assert called_with(done) == ["-m", "pytest", *TWO_AT_A_TIME, "-k", "a or b"]
    assert f"cwd={clone}" in done.stdout.splitlines()

    executable(clone / "scripts" / "setup.sh", "exit 3\n")
    done = run(clone, "scripts/run_tests.sh")
    assert done.returncode == 3
    assert not called_with(done)


def test_quickstart_sets_up_and_stays_where_it_was_called(clone, tmp_path):
    executable(clone / "scripts" / "setup.sh", "echo set up\n")
    executable(clone / ".venv" / "bin" / "python", STAND_IN)
    done = run(clone, "scripts/quickstart.sh", "--an4", "my an4", cwd=tmp_path, STAND_IN_EXIT="4")
    assert done.returncode == 4
    assert called_with(done) == [f"{clone}/scripts/quickstart.py", "--an4", "my an4"]
    assert f"cwd={tmp_path}" in done.stdout.splitlines()
