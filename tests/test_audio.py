import io

import numpy as np
import pytest
import soundfile as sf

from common.audio.io import AudioInfo, FormatNotice, audio_info, encode_flac, load_audio
from common.utils.errors import UserError

RATE = 16000


@pytest.fixture(scope="module")
def voice():
    """Two seconds like speech: harmonics that come and go, on 16 bits."""
    time = np.arange(2 * RATE) / RATE
    tone = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(len(time))
    samples = 0.2 * tone * np.sin(2 * np.pi * 2 * time) ** 2 + 0.01 * noise
    return (np.rint(samples * 32768) / 32768).astype(np.float32)


def encoded(samples, **how) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, RATE, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "container, subtype, tolerance",
    [
        ("WAV", "PCM_16", 0.0),
        ("WAV", "PCM_U8", 1 / 128),
        ("WAV", "PCM_24", 0.0),
        ("WAV", "FLOAT", 0.0),
        ("WAV", "ULAW", 0.02),
        ("NIST", "PCM_16", 0.0),
        ("AIFF", "PCM_16", 0.0),
        ("FLAC", "PCM_16", 0.0),
        ("FLAC", "PCM_24", 0.0),
    ],
)
def test_formats_give_the_samples_that_were_written(voice, tmp_path, container, subtype, tolerance):
    path = tmp_path / "voice"
    path.write_bytes(encoded(voice, format=container, subtype=subtype))
    samples = load_audio(path, RATE)
    assert samples.dtype == np.float32 and samples.shape == voice.shape
    assert np.abs(samples - voice).max() <= tolerance
    assert audio_info(str(path)) == AudioInfo(RATE, 1, len(voice))
    assert audio_info(path).duration == 2.0


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_keeps_length_and_sound(voice, subtype):
    samples = load_audio(encoded(voice, format="OGG", subtype=subtype), RATE)
    assert samples.shape == voice.shape
    assert np.corrcoef(samples, voice)[0, 1] > 0.9


def test_channels_are_averaged(voice):
    stereo = np.stack([voice, -0.5 * voice], axis=1)
    data = encoded(stereo, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(load_audio(data, RATE), 0.25 * voice, atol=1e-7)
    assert audio_info(data).channels == 2


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_keeps_a_sine(tmp_path, rate):
    path = tmp_path / "sine.wav"
    sf.write(path, 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), rate, subtype="FLOAT")
    samples = load_audio(path, RATE)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert abs(len(samples) - RATE) <= 1
    middle = slice(RATE // 10, -RATE // 10)  # the filter rings at the ends
    np.testing.assert_allclose(samples[:RATE][middle], expected[: len(samples)][middle], atol=1e-4)


def test_resampling_removes_what_would_alias(tmp_path):
    path = tmp_path / "high.wav"
    sf.write(path, np.sin(2 * np.pi * 6000 * np.arange(RATE) / RATE), RATE, subtype="FLOAT")
    assert np.abs(load_audio(path, 8000)[800:-800]).max() < 1e-3


def test_a_part_of_a_recording_can_be_read(voice):
    data = encode_flac(voice, RATE)
    middle = load_audio(data, RATE, start=0.5, seconds=0.25)
    np.testing.assert_array_equal(middle, voice[8000:12000])
    np.testing.assert_array_equal(load_audio(data, RATE, start=1.5, seconds=9.0), voice[24000:])


def test_flac_in_memory_is_lossless_and_clips(voice):
    np.testing.assert_array_equal(load_audio(encode_flac(voice, RATE), RATE), voice)
    loud = load_audio(encode_flac(np.float32([2.0, -2.0, 0.5]), RATE), RATE)
    np.testing.assert_array_equal(loud, np.float32([32767 / 32768, -1.0, 0.5]))


@pytest.mark.parametrize("kept", [0.02, 0.6, -100, -1])
@pytest.mark.parametrize(
    "container, subtype, header_tells",
    [
        ("WAV", "PCM_16", True),
        ("WAV", "PCM_24", True),
        ("WAV", "FLOAT", True),
        ("WAVEX", "PCM_16", True),
        ("RF64", "PCM_16", True),
        ("W64", "PCM_16", True),
        ("AIFF", "PCM_16", True),
        ("AU", "PCM_16", True),
        ("NIST", "PCM_16", True),
        ("OGG", "VORBIS", True),
        ("OGG", "OPUS", True),
        ("FLAC", "PCM_16", False),
        ("MP3", "MPEG_LAYER_III", False),
    ],
)
def test_cut_files_are_refused_by_name(voice, tmp_path, container, subtype, header_tells, kept):
    data = encoded(voice, format=container, subtype=subtype)
    path = tmp_path / "cut.audio"
    path.write_bytes(data[: int(len(data) * kept) if 0 < kept < 1 else kept])
    with pytest.raises(UserError, match=r"cut\.audio: .*truncated") as caught:
        load_audio(path, RATE)
    assert "\n" not in str(caught.value)
    if header_tells:
        with pytest.raises(UserError, match=r"cut\.audio: .*truncated"):
            audio_info(path)


@pytest.mark.parametrize("container, subtype", [("WAV", "PCM_16"), ("OGG", "OPUS"), ("FLAC", None)])
def test_bytes_after_the_audio_are_ignored(voice, container, subtype):
    data = encoded(voice, format=container, subtype=subtype)
    assert len(load_audio(data + b"TAG" + bytes(125), RATE)) == len(voice)


def test_a_wav_written_through_a_pipe_is_read_completely(voice):
    data = bytearray(encoded(voice, format="WAV", subtype="PCM_16"))
    for size in (0xFFFFFFFF, 0x7FFFF000):  # as ffmpeg and sox write it
        data[40:44] = size.to_bytes(4, "little")
        np.testing.assert_array_equal(load_audio(bytes(data), RATE), voice)


def test_a_damaged_flac_is_refused(voice):
    data = bytearray(encode_flac(voice, RATE))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    with pytest.raises(UserError, match="audio of utterance 7: damaged"):
        load_audio(bytes(data), RATE, name="utterance 7")


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("nothing.wav", b"", "empty"),
        ("silence.wav", encoded(np.zeros(0), format="WAV"), "empty"),
        ("page.flac", b"<html>404</html>" * 99, "not audio"),
        ("bare.raw", bytes(1000), "not audio"),
        ("missing.wav", None, "No such file"),
    ],
)
def test_files_that_are_not_audio_are_refused_by_name(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for read in (audio_info, lambda path: load_audio(path, RATE)):
        with pytest.raises(UserError, match=f"{name}: .*{reason}"):
            read(path)
    with pytest.raises(UserError, match="directory"):
        load_audio(tmp_path, RATE)


def test_nan_and_infinite_samples_are_refused():
    samples = np.zeros(100, np.float32)
    samples[[3, 5]] = np.nan, np.inf
    data = encoded(samples, format="WAV", subtype="FLOAT")
    with pytest.raises(UserError, match="audio of clip: 2 of 100 samples"):
        load_audio(data, RATE, name="clip")


def test_resampling_is_reported_in_one_line():
    notice = FormatNotice(RATE)
    assert notice.line() is None
    for _ in range(563):
        notice.add(AudioInfo(8000, 1, 100))
    assert notice.line() == "563 of 563 recordings resampled from 8000 Hz to 16000 Hz"
    notice.add(AudioInfo(RATE, 2, 100))
    notice.add(AudioInfo(44100, 2, 100))
    assert notice.line() == (
        "564 of 565 recordings resampled from 8000 Hz and 44100 Hz to 16000 Hz,"
        " 2 of 565 recordings down-mixed to mono"
    )
