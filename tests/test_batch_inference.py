"""Features for the C++ program, and scores of its results: the figures are those of eval.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import soundfile as sf
from mindspore import Tensor, nn
from synthetic_corpus import LABELS, RATE, chdir, settings, spoken, trained

from common import cli
from common.export import offline_inference as batch_inference
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE
from jasper.src.recipe import RECIPE as JASPER

FIGURES = ("words:", "characters:", "Test Summary")


def described(folder: Path, **changes) -> Path:
    """A description of a network for the tones, without the network."""
    corpus = trained()
    content = {
        "model": "deepspeech2",
        "config": settings(corpus),
        "labels": LABELS,
        "file_format": "MINDIR",
        "device": "CPU",
        **changes,
    }
    (folder / "tiny.json").write_text(json.dumps(content))
    return folder / "tiny.json"


def run(entry, path: Path, *options: str) -> int:
    return entry(RECIPE, ["--mindir_path", str(path), *options])


def graph_runner(index: Path, model: Path, results: Path) -> None:
    """What the C++ program does, one utterance at a time, by the file itself."""
    graph = nn.GraphCell(ms.load(str(model)))
    results.mkdir(exist_ok=True)
    for line in index.read_text().splitlines():
        entry = json.loads(line)
        features = np.fromfile(index.parent / entry["features"], "<f4")
        (frames,) = np.fromfile(index.parent / "01_data" / f"{entry['name']}.bin", "<i4")
        assert frames == entry["frames"]
        features = Tensor(features.reshape(1, -1, frames))
        log_probs, count = graph(features, Tensor([frames], ms.int32))
        count = int(count.asnumpy()[0])
        log_probs.asnumpy()[:count, 0].astype("<f4").tofile(results / f"{entry['name']}_0.bin")
        np.array(count, "<i4").tofile(results / f"{entry['name']}_1.bin")


def test_figures_and_texts_are_those_of_eval(cpu, tmp_path, capsys):
    checkpoint = str(trained() / "checkpoint" / "tiny-best.ckpt")
    with chdir(tmp_path):
        cli.export(RECIPE, ["--pre_trained_model_path", checkpoint])
        cli.evaluate(RECIPE, ["--pretrain_ckpt", checkpoint])
        expected = capsys.readouterr().out.splitlines()
        assert run(cli.preprocess, Path("deepspeech2.mindir")) == 0
        graph_runner(
            Path("preprocess_Result/index.jsonl"), Path("deepspeech2.mindir"), Path("result_Files")
        )
        assert run(cli.postprocess, Path("deepspeech2.json")) == 0
        said = capsys.readouterr().out.splitlines()
        found = Path("infer_output.txt").read_text().splitlines()
    figures = [line for line in expected if line.startswith(FIGURES)]
    assert len(figures) == 3
    assert [line for line in said if line.startswith(FIGURES)] == figures
    assert found[-4:] == ["utterances: 5", *figures]
    assert texts(found) == texts(expected)
    assert len(texts(found)) == 5 and any(hypothesis for _, hypothesis, _ in texts(found))


def texts(lines: list[str]) -> list[tuple[str, ...]]:
    """(reference, hypothesis, rates and id) of each utterance, sorted: eval.py goes by length."""
    starts = [number for number, line in enumerate(lines) if line.startswith("Ref: ")]
    return sorted(tuple(lines[start : start + 3]) for start in starts)


@pytest.fixture
def prepared(tmp_path):
    """A folder with a description and the features of the test set; typed there."""
    path = described(tmp_path)
    with chdir(tmp_path):
        assert run(cli.preprocess, path) == 0
        yield tmp_path


def index_of(folder: Path) -> list[dict]:
    lines = (folder / "preprocess_Result" / "index.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def write_results(folder: Path) -> list[Path]:
    """Results that say "A" in every frame."""
    results = folder / "result_Files"
    results.mkdir()
    for entry in index_of(folder):
        frames = (entry["frames"] + 1) // 2
        log_probs = np.full((frames, len(LABELS)), -9, np.float32)
        log_probs[:, 0] = 0
        log_probs.tofile(results / f"{entry['name']}_0.bin")
        np.array(frames, np.int32).tofile(results / f"{entry['name']}_1.bin")
    return sorted(results.glob("*_0.bin"))


def test_a_file_that_is_the_same_keeps_its_time(prepared):
    files = sorted((prepared / "preprocess_Result").glob("0*/*.bin"))
    assert len(files) == 10
    before = [file.stat().st_mtime_ns for file in files]
    files[0].write_bytes(files[0].read_bytes()[:-4])
    run(cli.preprocess, prepared / "tiny.json")
    after = [file.stat().st_mtime_ns for file in files]
    assert before[1:] == after[1:] and before[0] != after[0]
    assert files[0].stat().st_size == index_of(prepared)[0]["frames"] * 16 * 4


def test_another_test_set_leaves_nothing_of_the_first(prepared):
    manifest = f"DataConfig.test_manifest={trained() / 'val.csv'}"
    assert run(cli.preprocess, prepared / "tiny.json", "--set", manifest) == 0
    names = {entry["name"] for entry in index_of(prepared)}
    assert names == {f"val{number}" for number in range(4)}
    for kind in ("00_data", "01_data"):
        found = (prepared / "preprocess_Result" / kind).iterdir()
        assert {path.stem for path in found} == names


def test_an_unreadable_recording_is_named_and_the_rest_goes_on(tmp_path, capsys):
    shutil.copy(trained() / "test" / "test0.wav", tmp_path / "good.wav")
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    (tmp_path / "mine.csv").write_text("good.wav,AB\nbad.wav,CD\n")
    path = described(tmp_path)
    with chdir(tmp_path):
        assert run(cli.preprocess, path, "--set", "test_manifest=mine.csv") == 1
        said = capsys.readouterr()
        assert "features of 1 utterance " in said.out
        assert "bad.wav" in said.err and "1 of 2 recordings were not read" in said.err
        assert [entry["id"] for entry in index_of(tmp_path)] == ["good"]


def test_a_test_set_that_fails_takes_the_features_of_the_last_one_away(prepared):
    with pytest.raises(UserError, match="gone.csv"):
        run(cli.preprocess, prepared / "tiny.json", "--set", "test_manifest=gone.csv")
    with pytest.raises(UserError, match="holds no features that preprocess.py wrote"):
        run(cli.preprocess, prepared / "tiny.json", "--runner_arguments")


def test_ids_become_file_names(tmp_path):
    sf.write(tmp_path / "a.wav", spoken("AB", np.random.default_rng(0)), RATE)
    ids = ["a/b", ".hidden", "x" * 300, "x" * 299 + "y", "twice", "twice"]
    names = list(batch_inference._names(ids))
    assert names[:2] == ["a%2Fb", "%2Ehidden"] and names[4:] == ["twice", "twice~2"]
    assert len(set(names)) == len(names) and max(map(len, names)) <= 200
    for name in names:
        (tmp_path / f"{name}_0.bin").touch()


RESULTS = {
    "missing": (lambda path: path.unlink(), "no result .*test0_0.bin"),
    "short": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "test0_0.bin has .* values"),
    "not finite": (
        lambda path: np.full(path.stat().st_size // 4, np.nan, "<f4").tofile(path),
        "holds values that are not finite",
    ),
    "of another length": (
        lambda path: np.array(3, "<i4").tofile(path.with_name("test0_1.bin")),
        r"says \[3\] frames, expected",
    ),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_bad_result_is_named_and_the_others_are_scored(case, prepared, capsys):
    spoil, complaint = RESULTS[case]
    spoil(write_results(prepared)[0])
    capsys.readouterr()
    assert run(cli.postprocess, prepared / "tiny.json") == 1
    said = capsys.readouterr()
    problem, summary = said.err.splitlines()
    assert problem.startswith("error: utterance test0: ")
    assert re.search(complaint, problem)
    assert summary.startswith("error: 1 of 5 utterances have no result")
    assert "utterances: 4" in said.out


def test_scores_of_known_results(prepared):
    """Every hypothesis is "A": of N words each N - 1 are deleted and one is replaced, or right."""
    write_results(prepared)
    assert run(cli.postprocess, prepared / "tiny.json") == 0
    found = (prepared / "infer_output.txt").read_text().splitlines()
    words = [word for entry in index_of(prepared) for word in entry["text"].split()]
    deleted = len(words) - 5
    assert (
        f"words: {len(words)}, errors {len(words)} = 5 substitutions + {deleted} deletions"
        in (found[-3])
    )


REFUSED = {
    "nothing": (None, "gone.mindir: no such file"),
    "other": ({"file_format": None}, "tiny.json: not a description that export.py wrote"),
    "model": ({"model": "jasper"}, "of a jasper network, expected deepspeech2; use the commands"),
    "labels": ({"labels": None}, "tiny.json: has no labels; export the model anew"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_descriptions_that_do_not_fit(case, tmp_path):
    changes, complaint = REFUSED[case]
    path = described(tmp_path, **(changes or {}))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if value}))
    given = path if changes else tmp_path / "gone.mindir"
    for entry in (cli.preprocess, cli.postprocess):
        with chdir(tmp_path), pytest.raises(UserError, match=complaint):
            run(entry, given)


def test_features_of_another_kind_are_refused(prepared):
    write_results(prepared)
    config = settings(trained())
    config["DataConfig"]["SpectConfig"]["window"] = "blackman"
    path = described(prepared, config=config)
    for entry, options in ((cli.preprocess, ["--runner_arguments"]), (cli.postprocess, [])):
        with pytest.raises(UserError, match="features.json: features is .* preprocess.py again"):
            run(entry, path, *options)


def test_jasper_has_the_same_entry_points(tmp_path):
    for name in ("preprocess", "postprocess"):
        text = (JASPER.folder / f"{name}.py").read_text()
        assert f"cli.run(cli.{name}, RECIPE)" in text and "jasper.src.recipe" in text
