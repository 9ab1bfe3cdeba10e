"""The page in web/: its JavaScript in Node.js against Python's values, and the page in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from browser import CHROMIUM, Page, browser

from common.audio.io import load_audio
from common.decoding.decoders import GreedyDecoder
from common.decoding.word_alignment import Word, align_words
from common.export.onnx_metadata import copy_without_metadata
from common.text.tokenizer import CharacterTokenizer

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "web"
PROMPTS = ROOT / "data" / "telephone_prompts" / "audio"
LABELS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ' _")
RATE = 16000
KERNEL, HOP, CUT = 640, 320, 480  # samples: a frame, between frames, left out at the beginning

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
needs_runtime = pytest.mark.skipif(
    not (WEB / "vendor" / "ort.wasm.min.mjs").exists(),
    reason="needs a browser's ONNX Runtime: npm run setup in web/",
)


def node(module: str, expression: str, given: object = None) -> object:
    """Evaluate JavaScript with all that a module of the page exports, and `given`."""
    code = f"""
        import {{ readFileSync }} from "node:fs";
        import * as module from {json.dumps((WEB / "js" / module).as_uri())};
        const given = JSON.parse(readFileSync(0));
        const floats = (values) => Float32Array.from(values, (value) => value ?? -Infinity);
        console.log(JSON.stringify({expression}));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- decoding


def peaky_log_probs(rng: np.random.Generator, frames: int, classes: int) -> np.ndarray:
    logits = rng.normal(0, 4, (frames, classes))
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits.astype(np.float32)


DECODE = """given.map(({ logProbs, frames, labels, blank, frameSeconds }) => {
    const spelled = new module.Labels(labels, blank);
    const values = floats(logProbs);
    const text = module.greedyText(values, frames, spelled);
    return [text, module.alignWords(text, values, frames, spelled, frameSeconds)];
})"""


@needs_node
@pytest.mark.parametrize("labels", ["AB _", "_ab' ", "中文字_", "カ_ナ"])
def test_texts_words_times_and_confidences_are_pythons(labels):
    rng = np.random.default_rng(len(labels))
    tokenizer = CharacterTokenizer(tuple(labels))
    counts = [0, 1, 2, *rng.integers(3, 80, 40).tolist()]
    batch = [peaky_log_probs(rng, count, len(labels)) for count in counts]
    batch[-1][3:9, 0] = -np.inf
    found = node(
        "decoding.js",
        DECODE,
        [
            {
                "logProbs": [x if np.isfinite(x) else None for x in values.ravel().tolist()],
                "frames": len(values),
                "labels": list(labels),
                "blank": labels.index("_"),
                "frameSeconds": 0.02,
            }
            for values in batch
        ],
    )
    for values, (text, words) in zip(batch, found):
        (wanted,) = GreedyDecoder(tokenizer)(values[:, None], np.array([len(values)]))
        assert text == wanted
        aligned = align_words(text, values, tokenizer, 0.02)
        assert [(w["word"], w["start"], w["end"]) for w in words] == [
            (w.word, w.start, w.end) for w in aligned
        ]
        assert [w["confidence"] for w in words] == pytest.approx([w.confidence for w in aligned])
    assert any(len(words) > 3 for _, words in found)


# ---- samples


@needs_node
def test_resampling_is_that_of_soxr():
    rates = [(48000, 16000), (44100, 16000), (8000, 16000), (16000, 8000), (16000, 16000)]
    speech = [load_audio(PROMPTS / "call-forwarding.opus", source) for source, _ in rates]
    sounds = [sound[len(sound) // 3 :][:4000] * np.hanning(4000) for sound in speech]
    found = node(
        "resampling.js",
        "given.map(([sound, from, to]) => [...module.resample(floats(sound), from, to)])",
        [[sound.tolist(), *pair] for sound, pair in zip(sounds, rates)],
    )
    for sound, (source, target), result in zip(sounds, rates, found):
        wanted = soxr.resample(sound, source, target, "HQ")
        assert len(result) == len(wanted)
        assert np.abs(result - wanted).max() < 2e-3 * np.abs(wanted).max(), (source, target)
        assert np.abs(wanted).max() > 0.01


@needs_node
def test_resampling_leaves_nothing_above_half_the_new_rate():
    tone = np.sin(2 * np.pi * 8100 / 48000 * np.arange(9600)).tolist()
    found = node("resampling.js", "[...module.resample(floats(given), 48000, 16000)]", tone)
    assert np.abs(found[400:-400]).max() < 1e-5  # -100 dB


READ_RATE = """given.map((path) => {
    const bytes = readFileSync(path);
    return module.readSampleRate(bytes.buffer.slice(bytes.byteOffset).slice(0, bytes.length));
})"""


@needs_node
def test_sample_rates_are_read_from_headers(tmp_path):
    kinds = ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.opus"]
    given, wanted = [], []
    for rate in (8000, 16000, 24000, 44100, 48000):
        for name in kinds:
            path = tmp_path / f"{rate}{name}"
            opus = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
            if rate == 44100 and opus:
                continue  # Opus has no such rate
            sf.write(path, np.zeros((rate, 2)), rate, **opus)
            given.append(str(path))
            wanted.append(rate)
    tagged, late = tmp_path / "tagged.mp3", tmp_path / "late.wav"
    tag = b"ID3\x04\0\0" + bytes([0, 0, 2, 10]) + bytes(2 * 128 + 10)
    tagged.write_bytes(tag + Path(given[3]).read_bytes())
    wav = Path(given[0]).read_bytes()
    late.write_bytes(wav[:12] + b"JUNK\4\0\0\0abcd" + wav[12:])
    for index, path in enumerate(given[:5]):
        (tmp_path / f"cut{index}").write_bytes(Path(path).read_bytes()[:20])
    cut = [str(tmp_path / f"cut{index}") for index in range(5)]
    others = [str(ROOT / "LICENSE"), *cut]
    found = node("sample_rate.js", READ_RATE, [*given, str(tagged), str(late), *others])
    assert found[: len(given)] == wanted
    assert found[len(given) : len(given) + 2] == [8000, 8000]
    assert found[len(given) + 2] is None
    assert set(found[len(given) + 3 :]) <= {8000, None}


CUT_PIECES = "module.cutIntoPieces(floats(given.samples), given.rate)"


@needs_node
def test_long_recordings_are_cut_where_they_are_quiet():
    rate = 100
    noise = np.random.default_rng(0).normal(0, 0.1, 100 * rate)
    quiet = [(24.0, 24.5), (50.0, 50.4), (77.0, 78.0)]  # seconds
    for start, end in quiet:
        noise[int(start * rate) : int(end * rate)] *= 0.01
    pieces = node("pieces.js", CUT_PIECES, {"samples": noise.tolist(), "rate": rate})
    starts, ends = zip(*pieces)
    assert (starts[0], ends[-1]) == (0, len(noise))
    assert starts[1:] == ends[:-1]
    assert all(any(a <= end / rate <= b for a, b in quiet) for end in ends[:-1])
    assert len(pieces) == 4


@needs_node
@pytest.mark.parametrize("seconds", [0, 1, 30, 30.1, 61, 200])
def test_no_piece_is_longer_than_30_seconds_and_none_of_several_shorter_than_5(seconds):
    samples = [0.0] * int(seconds * 100)
    pieces = node("pieces.js", CUT_PIECES, {"samples": samples, "rate": 100})
    lengths = [end - start for start, end in pieces]
    assert sum(lengths) == len(samples)
    assert max(lengths) <= 3000
    assert len(lengths) == 1 or min(lengths) >= 500


# ---- files that it writes


RESULT = {
    "file": "a.wav",
    "model": {"file": "model.onnx", "model": "jasper", "version": "1.0"},
    "duration": 4000.0,
    "text": "ONE TWO THREE",
    "joint": " ",
    "pieces": [
        {
            "text": "ONE TWO",
            "start": 0,
            "end": 20,
            "words": [
                {"word": "ONE", "start": 0.5, "end": 0.75, "confidence": 0.5},
                {"word": "TWO", "start": 1.0, "end": 1.25, "confidence": 0.75},
            ],
        },
        {"text": "", "start": 20, "end": 30, "words": []},
        {
            "text": "THREE",
            "start": 30,
            "end": 4000,
            "words": [{"word": "THREE", "start": 3725.0625, "end": 3726, "confidence": 1}],
        },
    ],
}


@needs_node
def test_texts_subtitles_and_json_of_a_result():
    txt, srt, content = node(
        "exports.js", "[module.toTxt(given), module.toSrt(given), module.toJson(given)]", RESULT
    )
    assert txt == "ONE TWO\n\nTHREE\n"
    assert srt == (
        "1\n00:00:00,500 --> 00:00:01,250\nONE TWO\n\n2\n01:02:05,063 --> 01:02:06,000\nTHREE\n"
    )
    content = json.loads(content)
    assert content["words"] == [word for piece in RESULT["pieces"] for word in piece["words"]]
    assert (content["text"], content["duration"]) == ("ONE TWO THREE", 4000.0)


@needs_node
def test_wav_files_hold_the_samples(tmp_path):
    samples = [0.0, 0.25, -0.5, 1.0, -1.0, 2.0]
    written = node("exports.js", "[...new Uint8Array(module.toWav(floats(given), 8000))]", samples)
    (tmp_path / "a.wav").write_bytes(bytes(written))
    read, rate = sf.read(tmp_path / "a.wav", dtype="int16")
    assert (read.tolist(), rate) == ([0, 8192, -16384, 32767, -32768, 32767], 8000)


# ---- models


# ---- a small network with the inputs, outputs and metadata of an exported one


def write_model(path: Path, bare: bool = False, **changes: object) -> Path:
    """Write a network of one convolution, whose text depends on every sample.

    `bare` leaves the description out, `changes` are to it.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(4)
    filters = rng.normal(0, 8, (len(LABELS), 1, KERNEL)).astype(np.float32)
    filters[[LABELS.index(" "), LABELS.index("_")]] *= 1.5  # so that there are words
    constants = {
        "filters": filters,
        "cut": np.array([CUT], np.int64),
        "far": np.array([2**31 - 1], np.int64),
        "axis": np.array([1], np.int64),
        "hop": np.array([HOP], np.int64),
        "spare": np.array([CUT + KERNEL - HOP], np.int64),
        "zero": np.array([0], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Slice", ["samples", "cut", "far", "axis"], ["kept"]),
        node("Unsqueeze", ["kept"], ["channel"], axes=[1]),
        node("Conv", ["channel", "filters"], ["scores"], strides=[HOP], kernel_shape=[KERNEL]),
        node("Transpose", ["scores"], ["frames_first"], perm=[2, 0, 1]),
        node("LogSoftmax", ["frames_first"], ["log_probs"], axis=2),
        node("Cast", ["lengths"], ["samples_counted"], to=TensorProto.INT64),
        node("Sub", ["samples_counted", "spare"], ["framed"]),
        node("Div", ["framed", "hop"], ["frames"]),
        node("Cast", ["frames"], ["output_lengths"], to=TensorProto.INT32),
        node("Mul", ["samples_counted", "zero"], ["nothing"]),
        node("Add", ["nothing", "cut"], ["begins"]),
        node("Cast", ["begins"], ["starts"], to=TensorProto.INT32),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [
            tensor("samples", TensorProto.FLOAT, ["utterances", "samples"]),
            tensor("lengths", TensorProto.INT32, ["utterances"]),
        ],
        [
            tensor("log_probs", TensorProto.FLOAT, ["frames", "utterances", len(LABELS)]),
            tensor("output_lengths", TensorProto.INT32, ["utterances"]),
            tensor("starts", TensorProto.INT32, ["utterances"]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    description = {
        "model": "small",
        "project_version": "1.0",
        "input": "samples",
        "weights": "float32",
        "labels": list(LABELS),
        "blank": LABELS.index("_"),
        "frame_stride": 2,
        "features": {"sample_rate": RATE, "window_stride": HOP / 2 / RATE},
        **changes,
    }
    metadata = {"input": "samples"} if bare else {"description": json.dumps(description)}
    helper.set_model_props(model, metadata)
    save(model, str(path))
    return path


def expected(model: Path, samples: np.ndarray) -> tuple[str, list[Word]]:
    """Recognise samples as Python does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    lengths = np.array([len(samples)], np.int32)
    outputs = session.run(None, {"samples": samples[None], "lengths": lengths})
    tokenizer = CharacterTokenizer(LABELS)
    (text,) = GreedyDecoder(tokenizer)(outputs[0], outputs[1])
    words = align_words(text, outputs[0][: outputs[1][0], 0], tokenizer, HOP / RATE)
    late = outputs[2][0] / RATE
    return text, [Word(w.word, w.start + late, w.end + late, w.confidence) for w in words]


DESCRIBE = """(() => {
    try {
        const { labels, ...facts } = module.describeModel(readFileSync(given));
        return { ...facts, labels: labels.labels };
    } catch (error) {
        return error.key ?? String(error);
    }
})()"""


@needs_node
@needs_runtime
def test_the_description_is_read_from_the_model(tmp_path):
    description = node("metadata.js", DESCRIBE, str(write_model(tmp_path / "small.onnx")))
    assert description["labels"] == list(LABELS)
    assert (description["sampleRate"], description["frameSeconds"]) == (RATE, HOP / RATE)
    assert (description["model"], description["weights"]) == ("small", "float32")


@needs_node
@needs_runtime
def test_what_is_wrong_with_a_model_is_said(tmp_path):
    whole = write_model(tmp_path / "whole.onnx").read_bytes()
    bad = {
        "empty": (b"", "notOnnx"),
        "text": (b"version https://git-lfs.github.com/spec/v1\n", "notOnnx"),
        "zeros": (bytes(1000), "notOnnx"),
        "sound": ((PROMPTS / "added.opus").read_bytes(), "notOnnx"),
        "half": (whole[: len(whole) // 2], "truncated"),
        "no end": (whole[:-1], "truncated"),
        "features": (write_model(tmp_path / "f.onnx", input="features"), "takesFeatures"),
        "no rate": (write_model(tmp_path / "r.onnx", features={}), "damagedDescription"),
        "no blank": (write_model(tmp_path / "b.onnx", blank=99), "damagedDescription"),
        "bare": (write_model(tmp_path / "n.onnx", bare=True), "noDescription"),
    }
    paths = []
    for name, (content, _) in bad.items():
        paths.append(content if isinstance(content, Path) else tmp_path / name)
        if not isinstance(content, Path):
            paths[-1].write_bytes(content)
    found = node("metadata.js", f"given.map((given) => {DESCRIBE})", [str(path) for path in paths])
    assert dict(zip(bad, found)) == {name: key for name, (_, key) in bad.items()}


@needs_node
@needs_runtime
def test_damage_of_the_network_is_said(tmp_path):
    bare = tmp_path / "bare.onnx"
    copy_without_metadata(write_model(tmp_path / "plain.onnx"), bare)
    content = {"bytes": bare.stat().st_size, "crc32": f"{zlib.crc32(bare.read_bytes()):08x}"}
    whole = write_model(tmp_path / "whole.onnx", content=content)
    assert whole.read_bytes().startswith(bare.read_bytes())
    damaged = bytearray(whole.read_bytes())
    damaged[damaged.index(b"filters") + 40] ^= 1  # a weight
    (tmp_path / "damaged.onnx").write_bytes(damaged)
    others = [
        write_model(tmp_path / f"{number}.onnx", content=other)
        for number, other in enumerate([None, 3, {**content, "bytes": 10**6}, {"bytes": 1}])
    ]
    paths = [whole, tmp_path / "damaged.onnx", *others]
    found = node("metadata.js", f"given.map((given) => {DESCRIBE})", [str(path) for path in paths])
    assert found[0]["model"] == "small" and found[1:] == ["damagedNetwork"] * 5


@needs_node
@needs_runtime
def test_a_damaged_model_is_read_or_refused_in_one_message(tmp_path):
    path = write_model(tmp_path / "small.onnx")
    rng = np.random.default_rng(0)
    end = path.read_bytes()[-900:]  # the metadata and what stands before it
    changes = [
        [(int(place) - len(end), int(byte)) for place, byte in zip(places, values)]
        for places, values in zip(
            rng.integers(0, len(end), (2000, 2)), rng.integers(0, 256, (2000, 2))
        )
    ]
    found = node(
        "metadata.js",
        f"""given.changes.map((changes) => {{
            const bytes = readFileSync(given.path);
            for (const [place, byte] of changes) bytes[bytes.length + place] = byte;
            const readFile = () => bytes;
            return {DESCRIBE.replace("readFileSync(given)", "readFile()")};
        }})""",
        {"path": str(path), "changes": changes},
    )
    told = {"notOnnx", "truncated", "noDescription", "damagedDescription", "takesFeatures"}
    told.add("damagedNetwork")
    refused = [key for key in found if isinstance(key, str)]
    assert set(refused) <= told
    assert 100 < len(refused) < len(found)


@needs_node
def test_every_error_has_a_message():
    keys = {
        key
        for path in (WEB / "js").glob("*.js")
        for key in re.findall(r'PageError\(\s*"(\w+)"', path.read_text())
    }
    told = node("texts.js", "Object.keys(module.ERRORS)")
    assert {"notOnnx", "undecodable"} <= keys - {"cancelled"} <= set(told)


# ---- the page


class Handler(SimpleHTTPRequestHandler):
    """What `python -m http.server` answers, with another model beside the page."""

    model: Path

    def translate_path(self, path: str) -> str:
        return str(self.model) if path == "/model.onnx" else super().translate_path(path)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(handler: Callable[..., SimpleHTTPRequestHandler]) -> Iterator[str]:
    """Serve in a thread; gives the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def prompt(tmp_path_factory) -> Path:
    """A recording at the model's rate, which nobody has to resample."""
    path = tmp_path_factory.mktemp("prompt") / "prompt.wav"
    sf.write(path, load_audio(PROMPTS / "agent-alreadyon.opus", RATE), RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory, model, prompt) -> Iterator[Page]:
    if not CHROMIUM:
        pytest.skip("needs a browser: Chromium")
    pytest.importorskip("onnxruntime")
    Handler.model = model
    options = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={prompt}%noloop",
    )
    with (
        serve(partial(Handler, directory=str(WEB))) as address,
        browser(tmp_path_factory.mktemp("profile"), *options) as page,
    ):
        page.open(address)
        page.wait("!document.querySelector('#record').disabled")
        yield page


STATE = "import('/js/app.js').then(({ state }) => %s)"
IDLE = "document.querySelector('#progress').hidden && !document.querySelector('#record').disabled"


def recognised(page: Page) -> dict:
    return page.evaluate(
        STATE % "(({ words, pieces, text }) => ({ words, pieces, text }))(state.result)"
    )


@needs_runtime
def test_the_page_gives_pythons_text_words_and_confidences(page, model, prompt):
    page.choose("#recording-file", prompt)
    page.wait("document.querySelector('#status').innerText.startsWith('prompt.wav:')")
    text, words = expected(model, load_audio(prompt, RATE))
    assert page.text("#text") == text
    found = recognised(page)["words"]
    assert [word["word"] for word in found] == [word.word for word in words]
    for key in ("start", "end", "confidence"):
        assert [word[key] for word in found] == pytest.approx(
            [getattr(word, key) for word in words], abs=2e-3
        )
    assert len(words) > 5
    assert page.evaluate("document.querySelectorAll('#text button').length") == len(words)
    assert page.console == []


@needs_runtime
def test_a_long_recording_is_recognised_in_pieces(page, model, prompt, tmp_path):
    once = load_audio(prompt, RATE)
    sf.write(tmp_path / "long.wav", np.tile(once, 7), RATE, subtype="PCM_16")
    page.choose("#recording-file", tmp_path / "long.wav")
    page.wait("document.querySelector('#status').innerText.startsWith('long.wav:')")
    samples = load_audio(tmp_path / "long.wav", RATE)
    pieces = page.evaluate(STATE % "state.result.pieces")
    ends = [round(piece["end"] * RATE) for piece in pieces]
    assert len(pieces) == 2
    assert ends[-1] == len(samples)
    texts = []
    for piece, start, end in zip(pieces, [0, *ends], ends):
        text, words = expected(model, samples[start:end])
        texts.append(text)
        assert [word["start"] for word in piece["words"]] == pytest.approx(
            [word.start + start / RATE for word in words], abs=2e-3
        )
    assert page.text("#text") == " ".join(texts)


@needs_runtime
def test_the_microphone_is_recorded_and_recognised(page, model, prompt):
    page.evaluate("document.querySelector('#record').focus()")
    page.press("#record")
    page.wait("document.querySelector('#record').innerText === 'Stop'")
    page.wait(STATE % "state.recording?.seconds > 1.5")
    page.press("#record")
    page.wait("document.querySelector('#status').innerText.startsWith('microphone:')")
    recorded = np.array(page.evaluate(STATE % "[...state.samples]"), np.float32)
    text, _ = expected(model, recorded)
    assert page.text("#text") == text
    # What was recorded is the file: their correlation has a clear peak.
    source = load_audio(prompt, RATE)[: len(recorded)]
    spectra = np.fft.rfft(recorded, 1 << 18) * np.conj(np.fft.rfft(source, 1 << 18))
    peak = np.abs(np.fft.irfft(spectra)).max()
    assert peak > 0.8 * np.linalg.norm(recorded) * np.linalg.norm(source[:RATE])


@needs_runtime
def test_bad_files_are_told_and_leave_the_page_working(page, model, prompt, tmp_path):
    half, text = tmp_path / "half.onnx", tmp_path / "notes.txt"
    other = write_model(tmp_path / "other.onnx", labels=["A", "_"], blank=1)
    half.write_bytes(model.read_bytes()[:5000])
    text.write_text("no sound")
    sf.write(tmp_path / "nothing.wav", np.zeros(0), RATE)
    for file, chosen, said in [
        ("#model-file", half, "half.onnx is incomplete"),
        ("#model-file", other, "other.onnx: its description is damaged"),
        ("#recording-file", text, "notes.txt is no audio"),
        ("#recording-file", tmp_path / "nothing.wav", "nothing.wav is"),
    ]:
        page.choose(file, chosen)
        page.wait(f"document.querySelector('#error').innerText.startsWith({said!r})")
        page.wait(IDLE)
    page.choose("#recording-file", prompt)
    page.wait("document.querySelector('#status').innerText.startsWith('prompt.wav:')")
    assert page.text("#error") == ""


DROP = """(() => {
    const dataTransfer = new DataTransfer();
    for (const name of %s) dataTransfer.items.add(new File(["no model"], name));
    document.body.dispatchEvent(new DragEvent("dragenter", { bubbles: true }));
    const shown = document.querySelector("#drop").checkVisibility();
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
    return shown && !document.querySelector("#drop").checkVisibility();
})()"""


@needs_runtime
def test_files_are_taken_where_they_are_dropped(page):
    assert page.evaluate(DROP % json.dumps(["first.onnx", "second.wav"]))
    page.wait("document.querySelector('#status').innerText.includes('only first.onnx was taken')")
    assert page.text("#error").startswith("first.onnx is no ONNX model (8 bytes)")


@needs_runtime
def test_results_are_saved_and_words_are_played(page, prompt, tmp_path):
    page.choose("#recording-file", prompt)
    page.wait("document.querySelector('#status').innerText.startsWith('prompt.wav:')")
    page("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for format in ("txt", "srt", "json", "wav"):
        page.click(f"[data-format={format}]")
        page.wait_for_file(tmp_path / f"prompt.{format}")
    text = page.text("#text")
    assert (tmp_path / "prompt.txt").read_text() == f"{text}\n"
    saved = json.loads((tmp_path / "prompt.json").read_text())
    assert (saved["text"], saved["file"], saved["model"]["model"]) == (text, "prompt.wav", "small")
    assert saved["words"] == recognised(page)["words"]
    # Chromium scales positive samples of 16 bits by 1 / 32767, negative ones by 1 / 32768.
    written, original = sf.read(tmp_path / "prompt.wav")[0], sf.read(prompt)[0]
    assert len(written) == len(original)
    assert np.abs(written - original).max() <= 1 / 32768
    page.click("#text button")
    page.wait("document.querySelector('#text button').classList.contains('playing')")
    page.wait("document.querySelector('#play').innerText === 'Play all'")  # when it has ended
    assert page.console == []


@needs_runtime
def test_neither_page_nor_worker_reach_another_server(page):
    asked = []

    class Other(Handler):
        def translate_path(self, path: str) -> str:
            asked.append(path)
            return str(self.model)

    with serve(Other) as address:
        send = f"fetch({address!r}, {{ mode: 'no-cors' }}).then(() => 'sent', () => 'refused')"
        assert len(page.workers) == 1
        assert page.evaluate(send) == "refused"
        assert page.evaluate(send, worker=page.workers[0]) == "refused"
    assert asked == []


@needs_runtime
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_window(page, width):
    page(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=True,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_runtime
def test_all_that_can_be_pressed_has_a_name_and_takes_the_keyboard(page):
    controls = page.evaluate(
        """[...document.querySelectorAll("button, input, a, [tabindex]")]
            .filter((control) => control.checkVisibility())
            .map((control) => [control.tagName, control.tabIndex, control.innerText
                || control.getAttribute("aria-label") || ""])"""
    )
    assert len(controls) > 8
    assert all(index >= 0 and name for _, index, name in controls), controls
