"""LibriSpeech from a server on loopback to manifests, on archives made of the shipped prompts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from loopback import Server

from common.data.librispeech import ARCHIVES, fetch_librispeech, prepare_librispeech
from common.data.manifest import read_manifest
from common.utils.download import download
from common.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ROOT / "data" / "telephone_prompts"


CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


def fetched(server: Server, path: Path, md5: str = MD5) -> tuple[list[str], list[float]]:
    """What was said and how long was waited."""
    said, slept = [], []
    download(f"{server.url}/a", path, md5, said.append, slept.append)
    return said, slept


def test_an_interrupted_download_goes_on(server, tmp_path):
    server.files["a"], server.cut = CONTENT, [1_000_000, 0, 700_000]
    said, slept = fetched(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=1000000-", "bytes=1000000-", "bytes=1700000-"]
    assert slept == [1, 2, 1]  # longer where nothing came
    early = "the connection ended 2,000,000 bytes early; continuing at 1,000,000 bytes in 1 s"
    assert f"a.bin: {early}" in said
    assert any(" % of 0.00 GB, " in line and "minutes left" in line for line in said)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    server.asked.clear()
    assert fetched(server, tmp_path / "a.bin") == ([], [])
    assert server.asked == []  # there, and whole


def test_a_partial_download_of_an_earlier_process_is_continued(server, tmp_path):
    server.files["a"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:2_999_000])
    fetched(server, tmp_path / "a.bin")
    assert server.asked == ["bytes=2999000-"]
    (tmp_path / "a.bin").rename(tmp_path / "a.bin.part")  # killed before it was renamed
    fetched(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_is_downloaded_from_the_start(server, tmp_path):
    server.files["a"], server.ranges = CONTENT, False
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    fetched(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again_once(server, tmp_path):
    server.files["a"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(b"x" + CONTENT[1:5000])
    said, _ = fetched(server, tmp_path / "a.bin")
    assert any("downloading it once more from the start" in line for line in said)
    assert server.asked == ["bytes=5000-", ""]
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1])
    said, _ = fetched(server, tmp_path / "a.bin")
    assert "damaged: downloading it again" in said[0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT

    with pytest.raises(UserError, match=f"md5 {MD5} instead of {'0' * 32} twice"):
        fetched(server, tmp_path / "b.bin", "0" * 32)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_refusing_server_is_named(server, tmp_path):
    server.files["a"], server.refuse = CONTENT, [503, 429]
    said, slept = fetched(server, tmp_path / "a.bin")
    assert (len(said) >= 2, slept) == (True, [2, 4])
    server.refuse = [503] * 6
    (tmp_path / "b.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match=r"HTTP 503.*6 attempts; 1,000 bytes are kept"):
        fetched(server, tmp_path / "b.bin")
    assert (tmp_path / "b.bin.part").stat().st_size == 1000
    server.files.clear()
    with pytest.raises(UserError, match="HTTP 404 Not Found; is the address right"):
        fetched(server, tmp_path / "c.bin")


def test_a_full_disk_is_named(server, tmp_path, monkeypatch):
    from common.utils import download as module

    usage = type("Usage", (), {"free": 2_000_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    server.files["a"] = CONTENT
    with pytest.raises(UserError, match=r"0.0 GB are missing, and the disk has only 0.0 GB"):
        fetched(server, tmp_path / "a.bin")


# ---- LibriSpeech in small

SETS = {"train-clean-100": 6, "dev-clean": 2, "test-clean": 2}  # utterances


@pytest.fixture(scope="module")
def packed() -> dict[str, bytes]:
    """Archives in LibriSpeech's layout, of short prompts, 8 kHz."""
    rows = [json.loads(line) for line in (PROMPTS / "train.jsonl").read_text().splitlines()]
    rows = sorted(rows, key=lambda row: row["duration"])[:10]
    archives = {}
    for number, (name, count) in enumerate(SETS.items()):
        buffer, chapter, texts = io.BytesIO(), f"{number}-7", []
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:

            def add(path: str, content: bytes, tar=tar) -> None:
                member = tarfile.TarInfo(f"LibriSpeech/{path}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

            add("SPEAKERS.TXT", b"")
            for index, row in enumerate(rows[:count]):
                samples, rate = soundfile.read(PROMPTS / row["audio"])
                flac = io.BytesIO()
                soundfile.write(flac, np.clip(samples, -1, 1), rate, format="FLAC")
                add(f"{name}/{number}/7/{chapter}-{index:04d}.flac", flac.getvalue())
                texts.append(f"{chapter}-{index:04d} {row['text']}\n")
            add(f"{name}/{number}/7/{chapter}.trans.txt", "".join(texts).encode())
        archives[f"{name}.tar.gz"] = buffer.getvalue()
    return archives


def test_checksums_are_the_official_ones():
    assert len(ARCHIVES) == 7
    assert all(len(bytes.fromhex(md5)) == 16 for md5 in ARCHIVES.values())


def test_from_the_server_to_manifests_of_both_models(server, packed, tmp_path, monkeypatch):
    server.files = dict(packed)
    sums = {name: hashlib.md5(packed[f"{name}.tar.gz"]).hexdigest() for name in SETS}
    server.cut = [2000]
    monkeypatch.setattr("common.data.librispeech.download", quick_download)
    fetch_librispeech(tmp_path, SETS, server.url, archives=sums, log=lambda line: None)
    monkeypatch.undo()
    corpus = tmp_path / "LibriSpeech"
    assert sorted(path.name for path in corpus.iterdir()) == sorted([*SETS, *packed])

    server.files.clear()  # nothing is fetched twice
    fetch_librispeech(tmp_path, SETS, server.url, archives=sums, log=lambda line: None)

    done = script("preprocess_librispeech.sh", "0.9 1.1", "--data_dir", corpus, "--workers", "1")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in corpus.glob("*.json")}
    assert names == {f"librispeech-{name}-wav.json" for name in SETS}
    entries = json.loads((corpus / "librispeech-train-clean-100-wav.json").read_text())
    assert len(entries) == 6
    entry = entries[0]
    assert entry["transcript"].islower()
    assert [file["fname"] for file in entry["files"]] == [
        "train-clean-100/0/7/0-7-0000.flac",
        "train-clean-100-flac/0/7/0-7-0000-0.9.flac",
        "train-clean-100-flac/0/7/0-7-0000-1.1.flac",
    ]
    assert [file["speed"] for file in entry["files"]] == [1.0, 0.9, 1.1]
    for file in entry["files"]:
        there = soundfile.info(corpus / file["fname"])
        assert (there.samplerate, there.frames) == (8000, file["num_samples"])
        assert file["duration"] * file["speed"] == pytest.approx(
            entry["original_duration"], abs=1.01 / 8000
        )
    # Our reader takes each file for an utterance; other sets have no copies.
    read = read_manifest(corpus / "librispeech-train-clean-100-wav.json")
    assert (len(read), read[1].speed) == (18, 0.9)
    assert len(read_manifest(corpus / "librispeech-dev-clean-wav.json")) == 2
    csv = {path.name: len(read_manifest(path)) for path in corpus.glob("*.csv")}
    assert csv == {
        "libri_train_clean_100_manifest.csv": 6,
        "libri_train_manifest.csv": 6,
        "libri_dev_clean_manifest.csv": 2,
        "libri_val_manifest.csv": 2,
        "libri_test_clean_manifest.csv": 2,
    }


def quick_download(url, path, md5, log) -> None:
    download(url, path, md5, log, lambda seconds: None)


def script(name: str, *arguments, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", ROOT / "jasper" / "scripts" / name, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


def test_recordings_are_converted_to_wav_and_copied_at_other_speeds(tmp_path):
    """A tone of 1000 Hz, played 1.1 times as fast, is one of 1100 Hz and 1/1.1 as long."""
    chapter = tmp_path / "LibriSpeech" / "train-clean-100" / "1" / "2"
    chapter.mkdir(parents=True)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000)
    soundfile.write(chapter / "1-2-0000.flac", tone, 16000)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 A TONE\n")
    out = tmp_path / "out"
    made = prepare_librispeech(tmp_path, out, speeds=[1.1], wav=True, log=lambda line: None)
    assert list(made.values()) == [1, 1, 1]
    (entry,) = json.loads((out / "librispeech-train-clean-100-wav.json").read_text())
    plain, fast = (Path(file["fname"]) for file in entry["files"])
    wav = tmp_path / "LibriSpeech" / "train-clean-100-wav" / "1" / "2"
    assert (plain, fast) == (wav / "1-2-0000.wav", wav / "1-2-0000-1.1.wav")
    assert soundfile.info(plain).subtype == "PCM_16"
    np.testing.assert_array_equal(
        soundfile.read(plain, dtype="int16")[0],
        soundfile.read(chapter / "1-2-0000.flac", dtype="int16")[0],
    )
    samples, rate = soundfile.read(fast)
    assert len(samples) == round(8000 / 1.1)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(1100, abs=2)
    assert np.abs(samples[500:-500]).max() == pytest.approx(0.5, abs=0.01)
    assert read_manifest(out / "libri_train_manifest.csv")[0].audio == plain

    before = fast.stat().st_mtime_ns
    prepare_librispeech(tmp_path, out, speeds=[1.1], wav=True, log=lambda line: None)
    assert fast.stat().st_mtime_ns == before  # made once
    with pytest.raises(UserError, match="no set dev-clean, found train-clean-100"):
        prepare_librispeech(tmp_path, out, ["dev-clean"])
    with pytest.raises(UserError, match="speed 3: expected 0.5 to 2"):
        prepare_librispeech(tmp_path, out, speeds=[3.0])


@pytest.mark.launcher
def test_another_file_at_the_address_is_refused_by_the_script(server, packed, tmp_path):
    server.files = dict(packed)
    line = ("download_librispeech.sh", "dev-clean", "data here", "--mirror", server.url)
    done = script(*line, cwd=tmp_path)
    assert done.returncode == 1
    found = hashlib.md5(packed["dev-clean.tar.gz"]).hexdigest()
    assert f"md5 {found} instead of {ARCHIVES['dev-clean']} twice" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "data here" / "LibriSpeech").iterdir()) == []
    wrong = script("download_librispeech.sh", "dev-dirty")
    assert wrong.returncode == 1 and "DATA_SET dev-dirty: expected LibriSpeech" in wrong.stderr


@pytest.mark.launcher
def test_a_dry_run_says_what_it_would_fetch_and_fetches_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DRY_RUN", "1")
    line = ("download_librispeech.sh", "dev-clean", "here", "--mirror", server.url)
    done = script(*line, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith(f"librispeech.py download dev-clean here --mirror {server.url}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.launcher
def test_ctrl_c_keeps_the_partial_download(server, tmp_path):
    server.files, server.cut = {"dev-clean.tar.gz": CONTENT}, [2_500_000]
    server.stalled.clear()
    line = ["download_librispeech.sh", "dev-clean", str(tmp_path), "--mirror", server.url]
    job = subprocess.Popen(
        ["bash", ROOT / "deepspeech2" / "scripts" / line[0], *line[1:]],
        env={**os.environ, "PYTHON": sys.executable},
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "LibriSpeech" / "dev-clean.tar.gz.part"
    deadline = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=30)
    assert (job.returncode, err) == (130, "interrupted; the same command continues\n")
    have = part.stat().st_size
    assert 0 < have <= 2_500_000
    server.stalled.set()
    script(*line)
    assert server.asked[:2] == ["", f"bytes={have}-"]
