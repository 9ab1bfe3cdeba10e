"""Recordings by the structure of their containers: all samples, or a refusal that says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import odd_recordings
import pytest
from odd_recordings import COUNT, RATE, encoded, voice

from common.audio.io import audio_info, encode_for_training, load_audio
from common.utils.errors import UserError

ODD = odd_recordings.odd_recordings()
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ODD)
def test_all_samples_are_read_or_none(name, tmp_path):
    odd, path = ODD[name], tmp_path / name
    path.write_bytes(odd.content)
    if odd.samples is None:
        for source in (path, odd.content):
            with pytest.raises(UserError, match=odd.refusal) as caught:
                load_audio(source, RATE)
            assert "\n" not in str(caught.value)
        if not odd.shows_late:
            with pytest.raises(UserError, match=odd.refusal):
                audio_info(path)
        return
    info = audio_info(path)
    samples = load_audio(path, info.sample_rate)
    assert (len(samples), info.samples) == (odd.samples, odd.samples)
    np.testing.assert_array_equal(load_audio(odd.content, info.sample_rate), samples)
    if odd.exact is not None:
        np.testing.assert_array_equal(samples, odd.exact)


def test_an_mp3_without_a_xing_frame_gives_what_one_with_it_leaves_out_at_the_ends():
    """LAME's tag counts them: 12 bits each of delay and padding, besides the decoder's 529."""
    recordings = odd_recordings.mp3_recordings()
    whole, bare = recordings["xing.mp3"].content, recordings["vbr.mp3"].content
    at = whole.index(b"LAME") + 21
    delays = int.from_bytes(whole[at : at + 3], "big")
    skipped = (delays >> 12) + 529
    samples, all_samples = load_audio(whole, RATE), load_audio(bare, RATE)
    assert len(all_samples) == len(samples) + (delays >> 12) + (delays & 0xFFF)
    np.testing.assert_allclose(all_samples[skipped:][: len(samples)], samples, atol=1e-6)


def test_chained_streams_follow_each_other():
    recordings = odd_recordings.ogg_recordings()
    first = load_audio(recordings["opus.ogg"].content, RATE)
    chained = load_audio(recordings["chained.opus"].content, RATE)
    np.testing.assert_array_equal(chained[: len(first)], first)
    assert np.corrcoef(chained[len(first) :], voice())[0, 1] > 0.9
    part = load_audio(recordings["chained.opus"].content, RATE, start=5.5, seconds=1.0)
    np.testing.assert_array_equal(part, chained[88000:104000])


def test_pipes_are_refused_at_once(tmp_path):
    fifo = tmp_path / "fifo.wav"
    os.mkfifo(fifo)
    reader, writer = os.pipe()
    for path in (fifo, f"/dev/fd/{reader}", "/dev/null"):
        with pytest.raises(UserError, match=f"{path}: a pipe or device"):
            audio_info(path)
    os.close(reader)
    os.close(writer)


def test_messages_of_the_mp3_decoder_do_not_reach_the_user(tmp_path):
    """Neither of libmpg123, nor is anything else of C code lost afterwards."""
    (tmp_path / "noisy.mp3").write_bytes(ODD["mp3-noisy.mp3"].content)
    code = (
        "import ctypes, sys\n"
        "import soundfile\n"
        "from common.audio.io import load_audio\n"
        "soundfile.read(sys.argv[1])\n"
        "ctypes.CDLL(None).fflush(None)\n"
        "print('ours', file=sys.stderr, flush=True)\n"
        "load_audio(sys.argv[1], 16000)\n"
        "ctypes.CDLL(None).perror(b'native')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "noisy.mp3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stderr.split("ours\n")
    assert "mpg123" in before  # what this is about
    assert after.startswith("native: ") and after.count("\n") == 1


@pytest.mark.parametrize("level, container", [(0.9, b"fLaC"), (5136.0, b"RIFF"), (1e-5, b"RIFF")])
def test_samples_are_stored_for_training_at_any_level(level, container):
    samples = voice()
    samples = (samples / np.abs(samples).max() * level).astype(np.float32)
    if container == b"fLaC":
        samples = np.rint(samples * 32768) / np.float32(32768)
    stored = encode_for_training(samples, RATE)
    assert stored[:4] == container
    np.testing.assert_array_equal(load_audio(stored, RATE), samples)


def test_features_of_a_loud_recording_are_the_same_after_conversion(tmp_path):
    """As evaluation reads it, from the file, and as training does, from the record."""
    from common.audio.features import FeatureConfig, Featurizer
    from common.data.manifest import Utterance
    from common.data.mindrecord_writer import Reader
    from common.data.selection import SelectionRules
    from common.text.tokenizer import CharacterTokenizer

    path = tmp_path / "loud.wav"
    path.write_bytes(encoded(voice() * 9, "WAV", "FLOAT"))
    config = FeatureConfig()
    rules = SelectionRules(lambda frames: frames, 0.1, 30.0, False)
    reader = Reader(config, CharacterTokenizer(["A", "_"]), "audio", rules)
    record = reader(Utterance(id="loud", audio=path, text="A"))
    featurizer = Featurizer(config)
    np.testing.assert_array_equal(
        featurizer(load_audio(record.example.audio, RATE)), featurizer(load_audio(path, RATE))
    )
    assert len(load_audio(path, RATE)) == COUNT
