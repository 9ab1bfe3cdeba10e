"""Long recordings are cut at silences, all speech is kept, and overlaps are joined."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest

from common.audio.segmentation import SegmentationRules, speech_segments
from common.audio.voice_activity import FRAME_SECONDS, SileroDetector
from common.decoding.overlap_joining import join_place

RATE = 16000
FRAME = 512
RULES = SegmentationRules(longest=10.0, overlap=2.0, padding=0.3)


class Loudness:
    """In the place of a detector: what is loud is speech."""

    def __init__(self, sample_rate: int):
        self._frame = round(FRAME_SECONDS * sample_rate)
        self.reset()

    def reset(self) -> None:
        self._waiting = np.zeros(0, np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        waiting = np.concatenate((self._waiting, samples))
        count = len(waiting) // self._frame
        self._waiting = waiting[count * self._frame :]
        frames = waiting[: count * self._frame].reshape(count, self._frame)
        return np.minimum(1.0, 10 * np.sqrt(np.square(frames).mean(1)))


def noise(*parts: tuple[float, float]) -> np.ndarray:
    """(N,) noise of parts (seconds, loudness)."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [rng.normal(0, level, round(seconds * RATE)) for seconds, level in parts]
    ).astype(np.float32)


def in_blocks(samples: np.ndarray, size: int) -> list[np.ndarray]:
    """(N,) or (N, channels) in blocks (size, channels)."""
    samples = samples.reshape(len(samples), -1)
    return [samples[at : at + size] for at in range(0, len(samples), size)]


def cut(samples, size=RATE, rules=RULES, **more):
    return list(speech_segments(in_blocks(samples, size), RATE, rules, detector=Loudness, **more))


# ---- segmentation


def test_segments_lie_where_speech_is_with_padding_around_it():
    samples = noise((2.0, 0), (3.0, 0.2), (1.5, 0), (4.0, 0.2), (0.5, 0))
    first, second = cut(samples)
    for segment, start, end in ((first, 2.0, 5.0), (second, 6.5, 10.5)):
        assert segment.start / RATE == pytest.approx(start - 0.3, abs=0.07)
        assert segment.end / RATE == pytest.approx(end + 0.3, abs=0.07)
        np.testing.assert_array_equal(segment.samples, samples[segment.start : segment.end])
        assert segment.shared == 0


def test_silence_and_clicks_alone_give_no_segment():
    assert cut(np.zeros(60 * RATE, np.float32)) == []
    assert cut(noise((3.0, 0), (0.02, 0.2), (3.0, 0))) == []
    assert cut(np.zeros(100, np.float32)) == []


def test_a_short_segment_goes_on_over_a_pause_at_which_a_long_one_ends():
    pause = 0.35
    assert RULES.silence(0.3) > pause > RULES.silence(5.0)
    (together,) = cut(noise((0.3, 0.2), (pause, 0), (0.4, 0.2), (2.0, 0)))
    assert together.end > 1.0 * RATE
    assert len(cut(noise((5.0, 0.2), (pause, 0), (0.5, 0.2), (2.0, 0)))) == 2


def test_speech_without_silence_is_cut_with_overlap_where_it_is_softest():
    samples = noise((7.5, 0.2), (0.2, 0.06), (12.0, 0.2))
    segments = cut(samples, grid=320)
    assert segments[0].end == pytest.approx((7.6 + 1.0) * RATE, abs=0.1 * RATE)
    covered = 0
    for segment in segments:
        assert segment.start == covered - segment.shared
        assert len(segment.samples) <= 10.1 * RATE
        np.testing.assert_array_equal(segment.samples, samples[segment.start : segment.end])
        covered = segment.end
    assert covered == len(samples)
    for before, after in zip(segments, segments[1:]):
        assert after.shared == pytest.approx(2.0 * RATE, abs=320)
        assert (after.start - before.start) % 320 == 0


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """A minute and a half: loud stretches of 0.2 to 20 s, silences of 0.02 to 2 s."""
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(14):
        parts += [(rng.choice([0.2, 1.0, 5.0, 20.0], p=[0.2, 0.3, 0.4, 0.1]), 0.2)]
        parts += [(rng.choice([0.02, 0.15, 0.35, 0.7, 2.0]), 0.001)]
    return noise(*parts)


def same(one, other) -> bool:
    return (one.start, one.end, one.shared, one.following, one.channel) == (
        (other.start, other.end, other.shared, other.following, other.channel)
    )


@pytest.mark.parametrize("size", [777, 16000, 10**9])
def test_cuts_do_not_depend_on_the_blocks(talk, size):
    expected = cut(talk, 5000)
    assert len(expected) > 8 and any(segment.shared for segment in expected)
    found = cut(talk, size)
    assert all(map(same, found, expected)) and len(found) == len(expected)


def test_segments_can_be_made_from_any_cut_on(talk):
    whole = cut(talk)
    for done in range(1, len(whole)):
        rest = cut(talk, places=[whole[done - 1].following])
        assert all(map(same, rest, whole[done:])) and len(rest) == len(whole) - done


def test_all_loud_samples_are_in_a_segment_and_only_overlaps_in_two(talk):
    counts = np.zeros(len(talk), int)
    for segment in cut(talk):
        counts[segment.start + segment.shared : segment.end] += 1
    loud = np.abs(talk) > 0.05
    assert counts[loud].min() == counts[loud].max() == 1


def test_channels_are_cut_by_themselves(talk):
    other = talk[::-1].copy()
    segments = cut(np.stack((talk, other), axis=1))
    for channel, samples in enumerate((talk, other)):
        alone = cut(samples)
        found = [segment for segment in segments if segment.channel == channel]
        assert len(found) == len(alone)
        for one, expected in zip(found, alone):
            assert (one.start, one.end) == (expected.start, expected.end)
            np.testing.assert_array_equal(one.samples, expected.samples)


def test_memory_does_not_grow_with_the_recording():
    """What the generator holds while it reads ten minutes of one sound, and of silence."""
    for level in (0.2, 0.0):
        block = noise((10.0, level))[:, None]
        segments = speech_segments((block for _ in range(60)), RATE, RULES, detector=Loudness)
        most = 0
        for _ in segments:
            cutter = segments.gi_frame.f_locals["cutters"][0]
            most = max(most, len(cutter._samples))
        assert most <= 21 * RATE


# ---- the detector


def test_the_detector_gives_the_same_in_any_blocks_and_after_a_reset():
    samples = noise((3.0, 0.05))
    samples += (0.2 * np.sin(np.arange(len(samples)) / 20)).astype(np.float32)
    detector = SileroDetector(RATE)
    whole = detector(samples)
    assert whole.shape == (len(samples) // FRAME,) and ((whole >= 0) & (whole <= 1)).all()
    detector.reset()
    parts = np.concatenate([detector(samples[at : at + 999]) for at in range(0, len(samples), 999)])
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_the_detector_tells_speech_from_noise_at_any_rate():
    import soundfile as sf
    import soxr
    from test_light_engine import NINE

    speech, rate = sf.read(NINE, dtype="float32")
    quiet = np.random.default_rng(0).normal(0, 1e-3, rate).astype(np.float32)
    samples = np.concatenate((quiet, speech, quiet))
    for at in (8000, 16000, 44100):
        found = SileroDetector(at)(soxr.resample(samples, rate, at, "HQ"))
        seconds = np.arange(len(found)) * FRAME_SECONDS
        inside = (seconds > 1.0) & (seconds < 1.0 + len(speech) / rate)
        assert found[inside].max() > 0.9
        assert found[seconds < 0.9].max() < 0.3


def test_a_missing_onnx_runtime_is_named(monkeypatch):
    from common.audio import voice_activity
    from common.utils.packages import MissingPackageError

    assert onnxruntime.__name__ in sys.modules
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    voice_activity._session.cache_clear()
    with pytest.raises(MissingPackageError, match="finds silences in long recordings"):
        SileroDetector(RATE)(noise((1.0, 0.1)))


# ---- joining overlaps

BLANK, SPACE, CLASSES = 4, 3, 5  # and letters 0 to 2


def log_probs(path: str) -> np.ndarray:
    """(T, C): "." is the blank, "_" the space."""
    labels = np.array(["abc_.".index(sign) for sign in path])
    return np.log(np.eye(CLASSES)[labels] * 0.9 + 0.02)


def read(values: np.ndarray) -> str:
    from common.decoding.decoders import collapse

    return "".join("abc_."[label] for label in collapse(values.argmax(1), BLANK))


@pytest.mark.parametrize(
    ("before", "after", "text", "between"),
    [
        ("a.b...._...c..b.", "a.b...._...c..b.", "ab_cb", True),  # equal
        ("..b...._...c...a", "c......_...c....", "b_c", True),  # unsure at the ends
        ("..a..b....c..c..", "...a...b...c...c", "abcc", False),  # a frame or two apart
        ("ab.c._.ab.cab.ca", "ab.c._.ab.cab.ca", "abc_abcabca", True),  # not in the middle
        ("aabbccaabbcc_abc", "aabbccaabbcc_abc", "abcabc_abc", True),  # never silent
    ],
)
def test_no_letter_is_lost_or_doubled(before, after, text, between):
    one, other = log_probs(before), log_probs(after)
    place, found = join_place(one, other, BLANK, SPACE)
    assert read(np.concatenate((one[:place], other[place:]))) == text
    assert found == between
    if between:
        assert read(one[:place]) + read(other[place:]) == text


def test_scripts_without_spaces_join_between_any_two_labels():
    both = log_probs("a..b...c..a..b")
    assert join_place(both, both, BLANK, None)[1]
    assert join_place(both[:0], both[:0], BLANK, None) == (0, True)
    assert join_place(both[:0], both[:0], BLANK, SPACE) == (0, False)
