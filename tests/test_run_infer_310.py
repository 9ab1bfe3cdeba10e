"""run_infer_310.sh: in a copy of the scripts, with stand-ins for Python and the C++ program, and as
it is, with networks of either kind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launcher_clone import copy_launcher
from test_ascend310_infer import building, runner  # noqa: F401
from test_ascend310_infer import pytestmark as needs_a_compiler
from test_cpp_onnx import onnx_runner  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]

# Says how it was called, in the folder's calls.txt, and ends as PREPROCESS, POSTPROCESS tell it.
PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
*--runner_arguments*) printf '%s\\n' --mindir_path "$3" --result_dir "my results" ;;
preprocess.py*) exit "${PREPROCESS:-0}" ;;
*) echo "Test Summary"; exit "${POSTPROCESS:-0}" ;;
esac
"""
BUILD = """#!/bin/sh
mkdir -p "$(dirname "$0")/build"
cat >"$(dirname "$0")/build/infer" <<'END'
#!/bin/sh
for word in infer "$@"; do echo "<$word>"; done | tr '\\n' ' ' >>"$CALLS"
echo >>"$CALLS"
exit "${INFER:-0}"
END
chmod +x "$(dirname "$0")/build/infer"
echo "engine built: wheel (CPU)"
exit "${BUILD:-0}"
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    clone = tmp_path / "my clone"
    copy_launcher(clone)
    names = ["scripts/run_infer_310.sh"]
    names += [f"{model}/scripts/run_infer_310.sh" for model in ("deepspeech2", "jasper")]
    for name in names:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    for model in ("deepspeech2", "jasper"):
        (clone / model / "preprocess.py").touch()
    (clone / "ascend310_infer").mkdir()
    (clone / "ascend310_infer" / "build.sh").write_text(BUILD)
    (clone / "python").write_text(PYTHON)
    (clone / "python").chmod(0o755)
    (clone / "a model.mindir").touch()
    # The launcher that is asked for a Python needs one itself; this one lacks numpy.
    (clone / "any").mkdir()
    lacking = f'#!/bin/sh\n[ "${{2#*find_spec}}" = "$2" ] || exit 1\nexec {sys.executable} "$@"\n'
    (clone / "any" / "python3").write_text(lacking)
    (clone / "any" / "python3").chmod(0o755)
    return clone


def run(clone: Path, *arguments: str, model: str = "deepspeech2", **environment: str):
    """(exit code, calls, output, complaints), as typed in the clone's folder."""
    calls = clone / "calls.txt"
    calls.write_text("")
    path = f"{clone}/any:/usr/local/bin:/usr/bin:/bin"
    variables = {"PATH": path, "PYTHON": "./python", "CALLS": str(calls)}
    done = subprocess.run(
        ["bash", f"{model}/scripts/run_infer_310.sh", *arguments],
        cwd=clone,
        env=variables | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, calls.read_text().splitlines(), done.stdout, done.stderr


@pytest.mark.parametrize("model", ["deepspeech2", "jasper"])
def test_features_inference_score(clone, model):
    code, calls, said, complaints = run(
        clone, "a model.mindir", "y", "2,3", "--set", "post_out=t.txt", model=model
    )
    path = f"{clone}/a model.mindir"
    assert (code, complaints) == (0, "")
    assert calls == [
        f"preprocess.py --mindir_path {path} --set post_out=t.txt",
        f"preprocess.py --mindir_path {path} --runner_arguments --set post_out=t.txt",
        f"<infer> <--mindir_path> <{path}> <--result_dir> <my results> <--device_id> <2,3> ",
        f"postprocess.py --mindir_path {path} --set post_out=t.txt",
    ]
    assert "engine built: wheel (CPU)" in said and said.endswith("Test Summary\n")


@pytest.mark.parametrize("first", [["--model", "jasper"], ["--model=jasper"], []], ids=" ".join)
def test_from_the_projects_root_the_model_is_named(clone, first):
    code, calls, *_ = run(
        clone, "a model.mindir", "n", *first, model=".", MODEL="" if first else "jasper"
    )
    assert code == 0 and calls[-1] == f"postprocess.py --mindir_path {clone}/a model.mindir"


def test_the_launchers_rule_says_which_python(clone):
    code, calls, _, complaints = run(clone, "a model.mindir", "n", PYTHON="")
    assert (code, calls) == (1, [])
    assert complaints.startswith("error: no Python with soxr: there is no ")
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / "python").rename(clone / ".venv" / "bin" / "python")
    assert run(clone, "a model.mindir", "n", PYTHON="")[0] == 0


def test_a_dry_run_prints_what_would_be_done(clone):
    """As lines for bash, which do the same."""
    line = "a model.mindir", "y", "2", "--set", "post_out=a b.txt"
    settings = {"DEVICE_TARGET": "CPU", "RUNNER_OPTIONS": "--instances 2"}
    _, expected, *_ = run(clone, *line, **settings)
    shutil.rmtree(clone / "ascend310_infer" / "build")
    code, calls, said, complaints = run(clone, *line, DRY_RUN="1", **settings)
    assert (code, calls, complaints) == (0, [], "")
    assert not (clone / "ascend310_infer" / "build").exists()
    calls = {"CALLS": str(clone / "calls.txt"), "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", "-c", said], env=calls, check=True, capture_output=True)
    assert len(expected) == 4 and (clone / "calls.txt").read_text().splitlines() == expected


def test_the_environment_names_the_card_where_no_argument_does(clone):
    assert run(clone, "a model.mindir", "n", DEVICE_ID="3")[1][1].endswith("<--device_id> <3> ")
    assert run(clone, "a model.mindir", "n", "5", DEVICE_ID="3")[1][1].endswith("<5> ")


def test_a_root_script_that_is_told_no_model_asks_for_one(clone):
    code, calls, _, complaints = run(clone, "a model.mindir", "n", model=".")
    assert (code, calls) == (2, []) and complaints.startswith("error: which model? --model")
    code, calls, _, complaints = run(clone, "a model.mindir", "n", "--model", "x", model=".")
    assert (code, calls) == (2, []) and "no model x in" in complaints


def test_features_that_are_there_and_further_options(clone):
    code, calls, *_ = run(
        clone, "a model.mindir", "n", DEVICE_TARGET="CPU", RUNNER_OPTIONS="--instances 2"
    )
    assert code == 0 and len(calls) == 3
    assert calls[1].endswith("<--device_target> <CPU> <--device_id> <0> <--instances> <2> ")


# Exit codes of the steps -> that of the script, and how many steps there were.
FAILURES = {
    "some recordings": ({"PREPROCESS": "1"}, 1, 4),
    "some utterances": ({"INFER": "1", "POSTPROCESS": "1"}, 1, 4),
    "the model": ({"INFER": "2"}, 2, 3),
    "stopped": ({"INFER": "143"}, 143, 3),
    "the build": ({"BUILD": "1"}, 1, 0),
    "the score": ({"POSTPROCESS": "1"}, 1, 4),
}


@pytest.mark.parametrize("case", FAILURES)
def test_exit_codes(clone, case):
    steps, expected, count = FAILURES[case]
    code, calls, *_ = run(clone, "a model.mindir", "y", **steps)
    assert (code, len(calls)) == (expected, count)


MISUSES = {
    "nothing": ((), "run_infer_310.sh MINDIR_PATH NEED_PREPROCESS"),
    "no answer": (("a model.mindir",), "run_infer_310.sh MINDIR_PATH NEED_PREPROCESS"),
    "no file": (("gone.mindir", "y"), "gone.mindir not found, nor gone.json"),
    "neither": (("a model.mindir", "maybe"), "NEED_PREPROCESS maybe: expected y or n"),
    "no number": (("a model.mindir", "y", "first"), "DEVICE_ID first: expected a number"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_in_one_line(clone, case):
    arguments, complaint = MISUSES[case]
    code, calls, _, complaints = run(clone, *arguments)
    assert (code, calls) == (2, [])
    assert complaints.startswith("error: ") and complaint in complaints
    assert len(complaints.splitlines()) == 1


def test_an_onnx_file_runs_on_the_cpu_or_goes_through_the_converter(clone):
    (clone / "a.onnx").touch()
    code, calls, *_ = run(clone, "a.onnx", "y")
    assert code == 0 and len(calls) == 4  # on the CPU, as it is
    assert calls[0] == f"preprocess.py --mindir_path {clone}/a.onnx"
    lacking = {"LITE_HOME": str(clone / "lite")}
    assert run(clone, "a.onnx", "y", DEVICE_TARGET="CPU", **lacking)[1][0] == calls[0]
    code, calls, _, complaints = run(clone, "a.onnx", "y", **lacking)
    assert code == 1 and not calls
    assert "a.onnx: an ONNX file runs on a card by way of MindSpore Lite's" in complaints

    converter = clone / "lite" / "tools" / "converter" / "converter" / "converter_lite"
    converter.parent.mkdir(parents=True)
    converter.write_text('#!/bin/sh\necho "$*" >>"$CALLS"; : >"${3#--outputFile=}.mindir"\n')
    converter.chmod(0o755)
    code, calls, *_ = run(clone, "a.onnx", "y", LITE_HOME=str(clone / "lite"))
    assert code == 0
    assert calls[0].startswith(
        f"--fmk=ONNX --modelFile={clone}/a.onnx --outputFile={clone}/a.onnx "
    )
    assert "--optimize=ascend_oriented" in calls[0]
    assert calls[1] == f"preprocess.py --mindir_path {clone}/a.onnx.mindir"
    again = run(clone, "a.onnx", "y", LITE_HOME=str(clone / "lite"))
    assert again[0] == 0 and len(again[1]) == 4  # nothing is converted twice
    (clone / "a.onnx.mindir").rename(clone / "a.onnx_graph.mindir")  # as it is called above 1 GB
    again = run(clone, "a.onnx", "y", LITE_HOME=str(clone / "lite"))
    assert again[0] == 0 and len(again[1]) == 4

    settings = clone / "a.onnx.cfg"  # of the converter
    assert settings.read_text() == "[ascend_context]\nprecision_mode=preferred_fp32\n"
    lite = {"LITE_HOME": str(clone / "lite"), "PRECISION_MODE": "enforce_fp16"}
    code, calls, *_ = run(clone, "a.onnx", "y", **lite)
    assert f"--configFile={settings}" in calls[0] and "enforce_fp16" in settings.read_text()
    assert "<--precision_mode> <enforce_fp16>" in calls[3]
    (clone / "a.onnx.mindir").unlink()

    (clone / "a.onnx_graph.mindir").unlink()
    converter.write_text('#!/bin/sh\n: >"${3#--outputFile=}.mindir"; exit 1\n')
    code, calls, _, complaints = run(clone, "a.onnx", "y", LITE_HOME=str(clone / "lite"))
    assert code == 1 and not calls and "a.onnx: not converted" in complaints
    assert not (clone / "a.onnx.mindir").exists()


def test_a_mindir_file_is_made_an_offline_model_where_that_is_asked_for(clone):
    converter = clone / "lite" / "tools" / "converter" / "converter" / "converter_lite"
    converter.parent.mkdir(parents=True)
    converter.write_text('#!/bin/sh\necho "$*" >>"$CALLS"; : >"${3#--outputFile=}.mindir"\n')
    converter.chmod(0o755)
    (clone / "lite/runtime/third_party/glog").mkdir(parents=True)
    (clone / "b.mindir").touch()
    lite = {"LITE_HOME": str(clone / "lite"), "OPTIMIZE": "ascend_oriented:310B4"}
    assert run(clone, "b.mindir", "n", **lite)[1][0].startswith("preprocess.py --mindir_path")
    line = {**lite, "OFFLINE": "1"}
    _, _, said, _ = run(clone, "b.mindir", "n", DRY_RUN="1", **line)
    assert "lite/runtime/third_party/glog" in said and f">{clone}".replace(" ", "\\ ") in said
    code, calls, *_ = run(clone, "b.mindir", "n", **line)
    assert code == 0
    assert calls[0].startswith(f"--fmk=MINDIR --modelFile={clone}/b.mindir --outputFile=")
    assert "b.offline --optimize=ascend_oriented:310B4" in calls[0]
    assert calls[-1] == f"postprocess.py --mindir_path {clone}/b.offline.mindir"
    (clone / "c.json").touch()  # of several buckets
    code, _, _, complaints = run(clone, "c.json", "n", **line)
    assert code == 1 and "OFFLINE=1 converts one file of one shape" in complaints


WAITING = """#!/bin/sh
trap 'echo "got TERM" >>"$CALLS"; exit 143' TERM
echo "$$" >"$CALLS.pid"
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_script_that_is_ended_ends_the_program(clone, how):
    """Its process would go on otherwise, for minutes where a batch takes as long."""
    (clone / "ascend310_infer" / "build.sh").write_text(
        'cd "$(dirname "$0")" && mkdir -p build\n'
        f"cat >build/infer <<'END'\n{WAITING}END\nchmod +x build/infer\n"
    )
    calls = clone / "calls.txt"
    pid = clone / "calls.txt.pid"
    script = subprocess.Popen(
        ["bash", "deepspeech2/scripts/run_infer_310.sh", "a model.mindir", "n"],
        cwd=clone,
        env={"PATH": f"{clone}/any:/usr/bin:/bin", "PYTHON": "./python", "CALLS": str(calls)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: pid.is_file() and pid.read_text().strip())
    program = int(pid.read_text())
    script.send_signal(how)
    until(lambda: not running(program))
    _, complaints = script.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert script.returncode == -how
        return
    assert script.returncode == 128 + how and "got TERM" in calls.read_text()
    assert f"stopped by {how.name}; the same command goes on" in complaints


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(process: int) -> bool:
    """A process that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- as it is


def tiny_jasper(folder: Path, corpus: Path) -> Path:
    """A checkpoint with weights as they are drawn."""
    from networks import randomize_norms
    from synthetic_corpus import RATE

    from common import config
    from common.model import checkpoint
    from common.model.speech_model import SpeechModel
    from common.text.tokenizer import CharacterTokenizer
    from jasper.src.recipe import RECIPE

    made = RECIPE.train_config()
    block = {"filters": 8, "kernel_size": 5, "residual": True}
    values = {
        "DataConfig": {
            "test_manifest": str(corpus / "test.csv"),
            "labels_path": str(corpus / "labels.json"),
            "SpectConfig": {"sample_rate": RATE, "bands": 12},
        },
        "ModelConfig": {"blocks": [{"filters": 8, "kernel_size": 5, "stride": 2}, block]},
    }
    config.override(made, values, "tests")
    tokenizer = CharacterTokenizer.from_file(corpus / "labels.json")
    speech_model = SpeechModel.create(RECIPE, made, tokenizer, "CPU")
    randomize_norms(speech_model.network)
    weights = {weight.name: weight for weight in speech_model.network.get_parameters()}
    checkpoint.save(folder / "jasper.ckpt", weights, speech_model.metadata())
    return folder / "jasper.ckpt"


@pytest.mark.cpp
@needs_a_compiler
@pytest.mark.parametrize("model", ["deepspeech2", "jasper"])
def test_figures_and_texts_are_those_of_eval(cpu, onnx_runner, tmp_path, model):  # noqa: F811
    from synthetic_corpus import trained

    corpus = trained()
    found = corpus / "checkpoint" / "tiny-best.ckpt"
    path = tiny_jasper(tmp_path, corpus) if model == "jasper" else found
    folder, here = ROOT / model, {**os.environ, "PYTHON": sys.executable}

    def said(*command: object) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # MindIR through MindSpore, ONNX through OpenVINO.
    ending = "onnx" if model == "jasper" else "mindir"
    form = ("--file_format", ending.upper())
    said(sys.executable, folder / "export.py", "--pre_trained_model_path", path, *form)
    expected = said(sys.executable, folder / "eval.py", "--pretrain_ckpt", path).splitlines()
    keys = {"result_path": "features", "result_dir": "results", "post_out": "texts.txt"}
    options = [f"{key}={tmp_path / name}" for key, name in keys.items()]
    script = folder / "scripts" / "run_infer_310.sh"
    with building():
        out = said("bash", script, f"{model}.{ending}", "y", "0", "--set", *options)
    assert "5 done, 0 failed" in out
    assert f"engine {'openvino' if model == 'jasper' else 'wheel'}, device CPU" in out

    def of(lines: list[str]) -> list[str]:
        kinds = ("Ref: ", "Hyp: ", "WER: ", "words: ", "characters: ", "Test Summary")
        return sorted(line for line in lines if line.startswith(kinds))

    assert len(of(expected)) == 5 * 3 + 3
    assert of((tmp_path / "texts.txt").read_text().splitlines()) == of(expected)
