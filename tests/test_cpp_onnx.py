"""ONNX files through the C++ program, in OpenVINO: networks that are formulas, made here.

Output frame t of a row is the log-softmax of the first LABELS bins of feature frame STRIDE t, or of
LABELS filters over the samples of a frame.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile as sf
from onnx import TensorProto, helper, numpy_helper
from test_ascend310_infer import (  # noqa: F401
    BINS,
    LABELS,
    SOURCE,
    STRIDE,
    Job,
    pytestmark,
    runner,
    skip,
)

from common.audio.io import load_audio
from common.decoding.decoders import GreedyDecoder, collapse, emission_frames
from common.export.onnx_metadata import add_metadata
from common.text.tokenizer import CharacterTokenizer

RATE, HOP = 8000, 80  # of the model that takes samples
FRAME = STRIDE * HOP  # samples to an output frame
LETTERS = ["A", "B", "C", " ", "_"]


@pytest.fixture(scope="module")
def onnx_runner(runner) -> Path:  # noqa: F811
    if (
        "  openvino: "
        not in subprocess.run([runner, "--help"], capture_output=True, text=True).stdout
    ):
        skip("needs OpenVINO: bash scripts/setup.sh requirements-cpp.txt")
    return runner


# ---- networks


def integers(name: str, values: list[int], kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def save(path: Path, nodes: list, constants: list, shape: list, starts: bool = False) -> None:
    """Write a network of inputs (X, lengths) and outputs (log_probs, output_lengths)."""
    name = "samples" if len(shape) == 2 else "features"
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]),
    ]
    outputs = [
        helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["F", "B", LABELS]),
        helper.make_tensor_value_info("output_lengths", TensorProto.INT32, ["B"]),
    ]
    if starts:
        outputs.append(helper.make_tensor_value_info("starts", TensorProto.INT32, ["B"]))
    graph = helper.make_graph(nodes, "formula", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def of_features(path: Path, operator: str = "LogSoftmax") -> None:
    end = 1 << 30
    constants = [
        integers("from", [0, 0]),
        integers("to", [LABELS, end]),
        integers("axes", [1, 2]),
        integers("steps", [1, STRIDE]),
        integers("more", [STRIDE - 1], np.int32),
        integers("stride", [STRIDE], np.int32),
    ]
    nodes = [
        helper.make_node("Slice", ["features", "from", "to", "axes", "steps"], ["seen"]),
        helper.make_node("Transpose", ["seen"], ["turned"], perm=[2, 0, 1]),
        helper.make_node(operator, ["turned"], ["log_probs"], axis=2),
        helper.make_node("Add", ["lengths", "more"], ["longer"]),
        helper.make_node("Div", ["longer", "stride"], ["output_lengths"]),
    ]
    save(path, nodes, constants, ["B", BINS, "T"])


def filters() -> np.ndarray:
    """(LABELS, FRAME): tones, so that a label says which of them is in a frame."""
    turns = np.arange(1, LABELS + 1)[:, None] * np.arange(FRAME) / 16
    return np.sin(2 * np.pi * turns).astype(np.float32) / 4


def of_samples(path: Path, cut: int = 0) -> None:
    """`cut`: samples that it leaves out at the start, and says so."""
    constants = [
        numpy_helper.from_array(filters()[:, None], "filters"),
        integers("frame", [FRAME], np.int32),
        integers("cut", [cut], np.int32),
        integers("from", [cut]),
        integers("to", [1 << 30]),
        integers("axis", [1]),
    ]
    nodes = [
        helper.make_node("Slice", ["samples", "from", "to", "axis"], ["left"]),
        helper.make_node("Unsqueeze", ["left"], ["channel"], axes=[1]),
        helper.make_node("Conv", ["channel", "filters"], ["seen"], strides=[FRAME]),
        helper.make_node("Transpose", ["seen"], ["turned"], perm=[2, 0, 1]),
        helper.make_node("LogSoftmax", ["turned"], ["log_probs"], axis=2),
        helper.make_node("Sub", ["lengths", "cut"], ["shorter"]),
        helper.make_node("Div", ["shorter", "frame"], ["output_lengths"]),
    ]
    if cut:
        nodes.append(helper.make_node("Sub", ["lengths", "shorter"], ["starts"]))
    save(path, nodes, constants, ["B", "N"], bool(cut))


def description(takes_samples: bool, **changes) -> str:
    shape = [-1, -1] if takes_samples else [-1, BINS, -1]
    content = {
        "model": "deepspeech2",
        "labels": LETTERS,
        "device": "any",
        "input": "samples" if takes_samples else "features",
        "inputs": [{"shape": shape}, {"shape": [-1]}],
        "features": {"sample_rate": RATE, "window_stride": HOP / RATE},
        "frame_stride": STRIDE,
        "buckets": [{"file": "of-another-name.onnx", "batch_size": -1, "frames": -1}],
    }
    return json.dumps(content | changes)


@pytest.fixture
def job(tmp_path) -> Job:
    """A model that holds its description, and eleven utterances of features."""
    made = Job(tmp_path / "job")
    for path in made.folder.glob("*.mindir"):
        path.unlink()
    made.model.unlink()
    made.model = made.folder / "model.onnx"
    of_features(made.model)
    add_metadata(made.model, {"description": description(False)})
    for number, frames in enumerate((1, 2, 39, 40, 41, 99, 7, 8, 60, 20, 333)):
        made.add(f"utterance-{number}", frames)
    return made


@pytest.fixture
def recordings(tmp_path) -> dict[str, Path]:
    """Tones that the filters know: letters of two frames each, between noise."""
    rng, waves = np.random.default_rng(0), filters()
    found = {}
    for name, rate in {"one": RATE, "other": 2 * RATE, "longer": RATE}.items():
        letters = rng.integers(0, LABELS, 40 if name == "longer" else 12)
        samples = np.repeat(waves[letters], 2, axis=0).ravel()
        samples = 0.1 * samples + 0.001 * rng.standard_normal(len(samples))
        found[name] = tmp_path / f"{name}.wav"
        sf.write(found[name], np.repeat(samples, rate // RATE), rate, subtype="FLOAT")
    return found


def run(program: Path, *arguments) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


# ---- tests


def test_no_python_is_linked(onnx_runner):
    said = subprocess.run(["ldd", onnx_runner], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in said.splitlines()]
    assert any(name.startswith("libopenvino.so") for name in names)
    assert not any(name.startswith("libpython") for name in names)


@pytest.mark.parametrize("more", [(), ("--instances=3", "--threads=1", "--batch_size=2")])
def test_features_give_the_formula_in_one_process(onnx_runner, job, more):
    code, out, err = job.run(onnx_runner, *more)
    assert (code, err) == (0, "") and "11 done, 0 failed" in out
    job.check()
    figures = job.figures()
    assert (figures["engine"], figures["processes"]) == ("openvino", 1)
    assert figures["instances"] == (3 if more else 1)


def test_a_long_utterance_is_split_and_joined(onnx_runner, job):
    code, out, err = job.run(onnx_runner, "--max_frames=100", "--overlap=10")
    assert (code, err) == (0, "") and "1 utterance is longer" in out and "(100 frames)" in out
    job.check()


def test_an_earlier_export_has_its_description_beside_it(onnx_runner, job):
    of_features(job.model)
    beside = job.folder / "model.onnx.json"
    beside.write_text(
        description(False, buckets=[{"file": "model.onnx", "batch_size": -1, "frames": -1}])
    )
    assert job.run(onnx_runner)[0] == 0
    job.check()
    beside.unlink()
    code, _, err = job.run(onnx_runner, "--force")
    assert code == 2 and "has no description inside, nor model.json beside it" in err


def test_padding_does_not_enter_layers_that_run_backward(onnx_runner, job):
    """As in earlier exports of DeepSpeech2; rows of a batch must be what each is alone."""
    rng = np.random.default_rng(1)
    constants = [
        numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name)
        for name, shape in {"W": (2, 4 * LABELS, BINS), "R": (2, 4 * LABELS, LABELS)}.items()
    ]
    nodes = [
        helper.make_node("Transpose", ["features"], ["turned"], perm=[2, 0, 1]),
        helper.make_node(
            "LSTM",
            ["turned", "W", "R", "", "lengths"],
            ["both"],
            hidden_size=LABELS,
            direction="bidirectional",
        ),
        helper.make_node("ReduceSum", ["both"], ["seen"], axes=[1], keepdims=0),
        helper.make_node("LogSoftmax", ["seen"], ["log_probs"], axis=2),
        helper.make_node("Identity", ["lengths"], ["output_lengths"]),
    ]
    save(job.model, nodes, constants, ["B", BINS, "T"])
    reference = onnxruntime.InferenceSession(job.model.read_bytes())
    add_metadata(job.model, {"description": description(False, frame_stride=1)})
    code, out, err = job.run(onnx_runner)
    assert (code, err) == (0, "")
    assert job.figures()["batches"] < len(job.features)
    for name, values in job.features.items():
        lengths = np.array([values.shape[1]], np.int32)
        found, _ = reference.run(None, {"features": values[None], "lengths": lengths})
        np.testing.assert_allclose(job.result(name), found[:, 0], atol=1e-5)


def expected(path: Path, cut: int = 0) -> tuple[str, np.ndarray, np.ndarray]:
    """Text, path through the labels and log-probabilities, as Python computes them."""
    samples = load_audio(path, RATE)[cut:]
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    seen = frames.astype(np.float64) @ filters().T
    log_probs = seen - np.log(np.exp(seen).sum(axis=1, keepdims=True))
    decoder = GreedyDecoder(CharacterTokenizer(LETTERS))
    text = decoder(log_probs[:, None], np.array([len(seen)]))[0]
    return text, seen.argmax(axis=1), log_probs


@pytest.mark.parametrize("cut", [0, 3 * FRAME])
def test_samples_give_texts_and_times(onnx_runner, recordings, tmp_path, cut):
    """Of other rates, alone and in a batch; what the network leaves out moves the words."""
    model = tmp_path / "m.onnx"
    of_samples(model, cut)
    trims = {"features": {"sample_rate": RATE, "window_stride": HOP / RATE, "trim_silence": True}}
    add_metadata(model, {"description": description(True, **(trims if cut else {}))})
    paths = list(recordings.values())
    code, out, err = run(onnx_runner, "--mindir_path", model, "--json", "--audio", *paths)
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    for path, one in zip(paths, found, strict=True):
        text, best, _ = expected(path, cut)
        assert (one["path"], one["text"]) == (str(path), text) and text
        letters, begins = collapse(best, 4), emission_frames(best, 4)
        firsts = [
            frame
            for number, (frame, letter) in enumerate(zip(begins, letters))
            if letter != 3 and (number == 0 or letters[number - 1] == 3)
        ]
        starts = [(cut + FRAME * frame) / RATE for frame in firsts]
        assert [word["start"] for word in one["words"]] == pytest.approx(starts, abs=1e-3)
    alone = run(onnx_runner, "--mindir_path", model, "--json", "--audio", paths[1])
    assert json.loads(alone[1]) == found[1]
    split = ("--mindir_path", model, "--audio", paths[2], "--max_frames", "40")
    code, out, err = run(onnx_runner, *split)
    if cut:
        assert code == 2 and "leaves out silence" in err and err.count("\n") == 1
    else:
        assert (code, out) == (0, f"{found[2]['text']}\n") and "(3200 samples)" in err


def damaged(kind: str, path: Path) -> None:
    """Write a model with something wrong."""
    of_features(path)
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "no model":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "of another language":
        add_metadata(path, {"description": "<html>"})
    elif kind == "of no description":
        add_metadata(path, {"description": "{}"})
    elif kind == "described as samples":
        add_metadata(path, {"description": description(True)})
    elif kind in ("unknown operator", "newer operators"):
        model = onnx.load_from_string(content)
        if kind == "newer operators":
            model.opset_import[0].version = 99
        model.graph.node[2].op_type = "Nonsense"
        path.write_bytes(model.SerializeToString())
        add_metadata(path, {"description": description(False)})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "no such file"),
        ("truncated", "not an ONNX file, or damaged or truncated"),
        ("no model", "not an ONNX file, or damaged or truncated"),
        ("empty", "empty; export it anew, or copy it again"),
        ("no metadata", "has no description inside, nor m.json beside it"),
        ("of another language", "the description inside it is not one that export.py wrote"),
        ("of no description", 'inside it is not one that export.py wrote (has no "model")'),
        ("described as samples", "features, lengths, log_probs, output_lengths, expected samples"),
        ("unknown operator", "operators that it does not know"),
        ("newer operators", "not in this version of ONNX"),
    ],
)
def test_a_bad_model_is_refused_in_one_line(onnx_runner, tmp_path, kind, said):
    path = tmp_path / "m.onnx"
    if kind != "missing":
        damaged(kind, path)
    code, out, err = run(onnx_runner, "--mindir_path", path, "--audio", SOURCE / "none.wav")
    if kind == "described as samples":  # the recording comes first
        wav = tmp_path / "a.wav"
        sf.write(wav, np.zeros(8000), RATE)
        code, out, err = run(onnx_runner, "--mindir_path", path, "--audio", wav)
    assert (code, out) == (2, "") and err.startswith(f"error: {path}: ") and said in err
    assert err.count("\n") == 1


def test_a_card_and_another_engine_are_refused(onnx_runner, job):
    for more, said in {
        "--engine=wheel": "--engine wheel does not run .onnx files",
        "--engine=lite": "built with openvino",
        "--device_target=Ascend": "runs on Ascend after MindSpore Lite's converter_lite",
        "--device_id=1": "a CPU has device 0 alone",
    }.items():
        code, _, err = job.run(onnx_runner, more)
        assert code == 2 and said in err and err.count("\n") == 1


# ---- programs of others, with the installed library


def documented(language: str) -> str:
    """The block of code in the documents' section about the library."""
    page = (SOURCE.parent / "docs" / "inference.md").read_text(encoding="utf-8")
    section = page.split("\n## The library\n")[1].split("\n## ")[0]
    (block,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return block


def done(*command: object, **more) -> str:
    said = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_programs_build_against_the_installed_library(onnx_runner, recordings, tmp_path):
    """The example of the documents, two threads, and the example in C."""
    prefix, source = tmp_path / "prefix", tmp_path / "source"
    done("cmake", "--install", SOURCE / "build", "--prefix", prefix)
    source.mkdir()
    (source / "example.cpp").write_text(documented("cpp"))
    added = f'include("{SOURCE}/tests/installed/CMakeLists.txt")\n'
    (source / "CMakeLists.txt").write_text(documented("cmake") + added)
    done("cmake", "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    done("cmake", "--build", source / "build")
    library = next(prefix.glob("lib*/**/libspeech_recognizer.so")).parent
    in_c = source / "build" / "transcribe"
    done(
        *("cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"),
        *(SOURCE / "examples" / "transcribe.c", "-o", in_c, f"-I{prefix}/include"),
        *(f"-L{library}", f"-Wl,-rpath,{library}", "-lspeech_recognizer"),
    )

    model, paths = tmp_path / "m.onnx", list(recordings.values())
    of_samples(model)
    add_metadata(model, {"description": description(True)})
    said = done(prefix / "bin" / "infer", "--mindir_path", model, "--audio", *paths, "--json")
    found = [json.loads(line) for line in said.splitlines()]
    lines, precise = [], []
    for one in found:
        lines.append(one["text"])
        precise.append(one["text"])
        for word in one["words"]:
            lines.append(f"{word['start']:g} to {word['end']:g} s: {word['word']}")
            times = f"{word['start']:.3f} to {word['end']:.3f} s"
            precise.append(f"  {times}: {word['word']} ({word['confidence']:.2f})")
    assert len(lines) > 6
    said = done(source / "build" / "example", model, *paths)
    assert [line.split(" (")[0] for line in said.splitlines()] == lines
    assert done(in_c, model, *paths).splitlines() == precise
    raw = subprocess.run(
        [in_c, model, "-"],
        input=load_audio(paths[0], RATE).astype("<f4").tobytes(),
        capture_output=True,
        check=True,
    )
    assert raw.stdout.decode() == done(in_c, model, paths[0])

    said = done(source / "build" / "two_threads", model, *paths)
    for thread in ("first", "second"):
        own = [line for line in said.splitlines() if line.startswith(f"{thread}\t")]
        assert [line.split("\t")[1] for line in own] == [one["text"] for one in found]

    for name in ("example", "transcribe"):
        code, out, err = run(source / "build" / name, tmp_path / "none.onnx", paths[0])
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    code, out, err = run(in_c, model, tmp_path / "none.wav", paths[0])
    assert code == 1 and out == done(in_c, model, paths[0])
    assert err == f"failed: {tmp_path / 'none.wav'}: No such file or directory\n"
