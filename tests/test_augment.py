import numpy as np
import pytest
import scipy.stats
import soundfile as sf

from common.audio.augmentation import Augmentation, mix
from common.config import AugmentationConfig
from common.utils.errors import UserError

RATE = 16000


def rng(seed=0):
    return np.random.default_rng(seed)


def sine(frequency=440.0, seconds=1.0):
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def strongest_frequency(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 18))
    return np.argmax(spectrum) * RATE / (1 << 18)


def level_db(samples):
    return 10 * np.log10(np.mean(np.square(samples[1600:-1600], dtype=np.float64)))


@pytest.fixture
def noises(tmp_path):
    (tmp_path / "street" / "night").mkdir(parents=True)
    sf.write(tmp_path / "hiss.wav", 0.1 * rng(1).standard_normal(5 * RATE), RATE)
    sf.write(tmp_path / "street" / "night" / "hum.flac", sine(50.0, 0.3), RATE)  # to be repeated
    (tmp_path / "README.txt").write_text("recorded at home")
    return tmp_path


@pytest.mark.parametrize("speed", [0.85, 1.0, 1.15])
def test_speed_changes_length_and_pitch(speed):
    augmentation = Augmentation(
        speed_volume_perturb=True, speed_min=speed, speed_max=speed, gain_min=0.0, gain_max=0.0
    )
    faster = augmentation.waveform(sine(), RATE, rng())
    assert faster.dtype == np.float32
    assert len(faster) == pytest.approx(RATE / speed, abs=1)
    assert strongest_frequency(faster) == pytest.approx(440 * speed, abs=0.5)
    assert level_db(faster) == pytest.approx(level_db(sine()), abs=0.05)


@pytest.mark.parametrize("gain", [-6.0, 8.0])
def test_gain_is_in_decibels(gain):
    augmentation = Augmentation(
        speed_volume_perturb=True, speed_min=1.0, speed_max=1.0, gain_min=gain, gain_max=gain
    )
    changed = augmentation.waveform(sine(), RATE, rng())
    assert level_db(changed) - level_db(sine()) == pytest.approx(gain, abs=0.05)


def test_speed_and_gain_are_drawn_from_their_ranges():
    augmentation = Augmentation(speed_volume_perturb=True)
    speech = sine()
    varied = [augmentation.waveform(speech, RATE, rng((7, 0, i))) for i in range(200)]
    speeds = np.array([RATE / len(samples) for samples in varied])
    gains = np.array([level_db(samples) - level_db(speech) for samples in varied])
    for drawn, low, high in ((speeds, 0.85, 1.15), (gains, -6.0, 8.0)):
        margin = 0.05 * (high - low)
        assert low - 0.1 * margin <= drawn.min() < low + margin
        assert high - margin < drawn.max() <= high + 0.1 * margin
        assert drawn.mean() == pytest.approx((low + high) / 2, abs=2 * margin)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5])
def test_noise_level_is_a_ratio_of_amplitudes(level):
    speech, noise = sine(), rng().standard_normal(RATE).astype(np.float32)
    added = mix(speech, noise, level) - speech
    assert np.sqrt(np.mean(added**2)) == pytest.approx(level * 0.5 / np.sqrt(2), rel=1e-4)
    if level:
        assert np.corrcoef(added, noise)[0, 1] == pytest.approx(1.0, abs=1e-4)
        assert level_db(speech) - level_db(added) == pytest.approx(-20 * np.log10(level), abs=0.1)


def test_silence_neither_adds_nor_takes_noise():
    silence, noise = np.zeros(100, np.float32), np.ones(100, np.float32)
    np.testing.assert_array_equal(mix(noise, silence, 0.5), noise)
    np.testing.assert_array_equal(mix(silence, noise, 0.5), silence)


def test_noise_comes_from_the_directory_as_often_as_asked(noises):
    augmentation = Augmentation(noise_dir=str(noises), noise_prob=0.4, noise_min=0.2, noise_max=0.3)
    assert [path.name for path in augmentation.noise_files] == ["hiss.wav", "hum.flac"]
    speech, noisy, hums = sine(), 0, 0
    for i in range(300):
        added = augmentation.waveform(speech, RATE, rng((0, 0, i))) - speech
        if not added.any():
            continue
        noisy += 1
        hums += strongest_frequency(added) < 60
        ratio = np.sqrt(np.mean(added**2)) / np.sqrt(np.mean(speech**2))
        assert 0.2 - 1e-3 < ratio < 0.3 + 1e-3
        assert added[-800:].any()  # noise to the end, though the hum is shorter
    assert noisy == pytest.approx(0.4 * 300, abs=30)
    assert hums == pytest.approx(noisy / 2, abs=30)


def test_noise_of_another_rate_is_resampled(tmp_path):
    time = np.arange(2 * 44100) / 44100
    sf.write(tmp_path / "tone.wav", np.sin(2 * np.pi * 1000 * time), 44100)
    augmentation = Augmentation(noise_dir=str(tmp_path), noise_prob=1.0, noise_min=0.5)
    added = augmentation.waveform(sine(), RATE, rng()) - sine()
    assert strongest_frequency(added) == pytest.approx(1000, abs=1)


def test_a_noise_folder_without_recordings_is_refused(tmp_path):
    for directory, reason in ((tmp_path, "no audio files"), (tmp_path / "gone", "no such dir")):
        augmentation = Augmentation(noise_dir=str(directory), noise_prob=1.0)
        with pytest.raises(UserError, match=f"noise_dir .*{reason}"):
            augmentation.waveform(sine(), RATE, rng())
        with pytest.raises(UserError, match=reason):
            _ = augmentation.noise_files


def test_a_damaged_noise_recording_is_named_before_training(noises):
    Augmentation(noise_dir=str(noises)).check("audio")
    other = noises.parent / f"{noises.name}-damaged"
    other.mkdir()
    (other / "fine.wav").write_bytes((noises / "hiss.wav").read_bytes())
    (other / "half.wav").write_bytes((noises / "hiss.wav").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"noise_dir .*-damaged: .*half\.wav: truncated"):
        Augmentation(noise_dir=str(other), noise_prob=0.01).check("audio")


def test_masks_are_bands_and_spans_of_zeros_no_wider_than_asked():
    augmentation = Augmentation(
        spec_augment=True, freq_masks=1, freq_width=12, time_masks=1, time_width=0.125
    )
    features = np.ones((64, 200), np.float32)
    heights, lengths = [], []
    for seed in range(300):
        masked = augmentation.features(features, rng(seed)) == 0
        rows, columns = masked.all(axis=1), masked.all(axis=0)
        np.testing.assert_array_equal(masked, rows[:, None] | columns[None])
        for hidden, found in ((rows, heights), (columns, lengths)):
            places = np.flatnonzero(hidden)
            assert len(places) == 0 or np.ptp(places) == len(places) - 1  # one piece
            found.append(len(places))
    assert (min(heights), max(heights)) == (0, 12)
    assert (min(lengths), max(lengths)) == (0, 25)
    assert (features == 1).all()


def widths(augmentation: Augmentation, rows: int, frames: int) -> tuple[set[int], set[int]]:
    """Bands and frames hidden by one mask of each kind, over many draws."""
    heights, lengths = set(), set()
    for seed in range(200):
        masked = augmentation.features(np.ones((rows, frames), np.float32), rng(seed)) == 0
        heights.add(int(masked.all(axis=1).sum()))
        lengths.add(int(masked.all(axis=0).sum()))
    return heights, lengths


def test_masks_keep_their_least_width_and_their_greatest_in_frames():
    settings = {"freq_masks": 1, "freq_min": 3, "freq_width": 6, "time_masks": 1}
    augmentation = Augmentation(spec_augment=True, time_min=5, time_frames=9, **settings)
    assert widths(augmentation, 64, 200) == ({3, 4, 5, 6}, {5, 6, 7, 8, 9})
    assert widths(augmentation, 64, 7)[1] == {5, 6, 7}  # as wide as there is room for
    by_share = Augmentation(spec_augment=True, time_min=5, time_width=0.04, **settings)
    assert widths(by_share, 64, 200)[1] == {5, 6, 7, 8}


def test_cutout_is_rectangles_of_zeros():
    augmentation = Augmentation(
        cutout_masks=1, cutout_freq_min=4, cutout_freq_max=6, cutout_time_min=2, cutout_time_max=9
    )
    assert augmentation.active(0) and not augmentation.varies_waveform
    heights, lengths, corners = set(), set(), set()
    for seed in range(300):
        features = augmentation.features(np.ones((16, 40), np.float32), rng(seed))
        rows, columns = (np.flatnonzero((features == 0).any(axis=axis)) for axis in (1, 0))
        expected = np.ones((16, 40))
        expected[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 0
        np.testing.assert_array_equal(features, expected)
        heights.add(len(rows))
        lengths.add(len(columns))
        corners |= {(0, rows[0]), (1, columns[0])}
    assert (heights, lengths) == ({4, 5, 6}, set(range(2, 10)))
    assert corners >= {(0, n) for n in range(11)} | {(1, n) for n in range(32)}
    several = Augmentation(cutout_masks=4).features(np.ones((64, 200)), rng())
    assert 100 < (several == 0).sum() <= 4 * 20 * 5


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_discrete_speeds_change_length_and_pitch(speed):
    speech = sine()
    other = Augmentation(speeds=[speed]).waveform(speech, RATE, rng())
    assert other.dtype == np.float32 and len(other) == pytest.approx(RATE / speed, abs=1)
    assert strongest_frequency(other) == pytest.approx(440 * speed, abs=0.5)
    assert level_db(other) == pytest.approx(level_db(speech), abs=0.05)


def test_each_discrete_speed_is_drawn_as_often():
    augmentation, speech = Augmentation(speeds=[0.9, 1.0, 1.1]), sine(seconds=0.1)
    lengths = [len(augmentation.waveform(speech, RATE, rng((7, e, 0)))) for e in range(300)]
    counts = [lengths.count(length) for length in (1778, 1600, 1455)]
    assert sum(counts) == 300 and min(counts) > 70


def test_dither_is_gaussian_noise_of_its_deviation():
    speech = sine()
    dithered = Augmentation(dither=1e-3).waveform(speech, RATE, rng())
    added = (dithered - speech).astype(float)
    assert dithered.dtype == np.float32
    assert added.std() == pytest.approx(1e-3, rel=0.03) and abs(added.mean()) < 4e-5
    assert scipy.stats.kstest(added / 1e-3, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(added[1:], added[:-1])[0, 1]) < 0.03  # white


def test_random_draws_are_unchanged_for_older_configurations(noises):
    augmentation = Augmentation(
        speed_volume_perturb=True, spec_augment=True, noise_dir=str(noises), noise_prob=1.0
    )
    generator, reference = rng(5), rng(5)
    samples = augmentation.waveform(sine(), RATE, generator)
    reference.uniform(0.85, 1.15), reference.uniform(-6.0, 8.0), reference.random()
    noise = [5.0, 0.3][reference.integers(2)]  # seconds
    reference.uniform(0.0, max(noise - len(samples) / RATE, 0.0)), reference.uniform(0.0, 0.5)
    masked = augmentation.features(np.ones((64, 200)), generator)
    expected = np.ones((64, 200))
    for axis, size, widest in ((0, 64, 12), (0, 64, 12), (1, 200, 25), (1, 200, 25)):
        width = reference.integers(widest + 1)
        start = reference.integers(size - width + 1)
        np.moveaxis(expected, axis, 0)[start : start + width] = 0
    np.testing.assert_array_equal(masked, expected)
    assert generator.random() == reference.random()


def test_waveform_augmentation_of_features_is_refused_by_name():
    for keys, named in (
        ({"dither": 1e-5}, "^dither needs waveforms"),
        ({"speeds": [0.9]}, "^speeds needs waveforms"),
        ({"dither": 1e-5, "speed_volume_perturb": True}, "^speed_volume_perturb and dither need "),
    ):
        with pytest.raises(UserError, match=named):
            Augmentation(**keys).check("features")
        Augmentation(**keys).check("audio")
    Augmentation(spec_augment=True, cutout_masks=1).check("features")


def test_the_slowest_speed_makes_the_longest_utterance():
    assert Augmentation().slowest == 1.0
    assert Augmentation(speeds=[1.1, 1.2]).slowest == 1.0  # augmentation may begin later
    assert Augmentation(speeds=[0.9, 1.1]).slowest == 0.9
    assert Augmentation(speed_volume_perturb=True).slowest == 0.85


def test_masks_fit_short_and_narrow_features():
    augmentation = Augmentation(spec_augment=True, freq_width=100, time_width=1.0)
    for shape in ((1, 1), (3, 2), (64, 5)):
        for seed in range(20):
            assert augmentation.features(np.ones(shape, np.float32), rng(seed)).shape == shape


def test_augmentation_is_determined_by_its_generator(noises):
    augmentation = Augmentation(
        speed_volume_perturb=True, spec_augment=True, noise_dir=str(noises), noise_prob=1.0
    )

    def vary(seed, epoch, index):
        generator = rng((seed, epoch, index))
        samples = augmentation.waveform(sine(), RATE, generator)
        return samples, augmentation.features(np.ones((64, 100)), generator)

    for one, again in zip(vary(0, 3, 5), vary(0, 3, 5), strict=True):
        np.testing.assert_array_equal(one, again)
    for other in (vary(1, 3, 5), vary(0, 4, 5), vary(0, 3, 6)):
        assert not np.array_equal(other[0], vary(0, 3, 5)[0])
        assert not np.array_equal(other[1], vary(0, 3, 5)[1])


def test_without_augmentation_nothing_changes():
    augmentation, generator = Augmentation(), rng()
    speech, features = sine(), np.ones((64, 100))
    assert augmentation.waveform(speech, RATE, generator) is speech
    assert augmentation.features(features, generator) is features
    assert generator.random() == rng().random()  # nothing was drawn
    assert not augmentation.active(100)


def test_augmentation_is_active_from_its_first_epoch():
    augmentation = Augmentation(spec_augment=True, from_epoch=4)
    assert [augmentation.active(epoch) for epoch in (0, 3, 4, 5)] == [False, False, True, True]
    assert not augmentation.varies_waveform
    assert Augmentation(speed_volume_perturb=True).varies_waveform
    assert Augmentation(noise_dir="noise").varies_waveform


def test_augmentation_follows_its_configuration_group():
    group = AugmentationConfig(spec_augment=True, noise_max=0.7)
    augmentation = Augmentation(group)
    group.noise_max = 0.1
    assert augmentation.config == AugmentationConfig(spec_augment=True, noise_max=0.7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed_min": 1.2},
        {"speed_min": 0.0},
        {"gain_max": -7.0},
        {"noise_min": -0.1},
        {"noise_prob": 1.5},
        {"time_width": 12},
        {"freq_masks": -1},
        {"freq_min": 13},
        {"time_min": 10, "time_frames": 9},
        {"cutout_masks": -1},
        {"cutout_freq_min": 21, "cutout_masks": 1},
        {"cutout_time_max": 4, "cutout_masks": 1},
        {"dither": -1e-5},
        {"dither": float("nan")},
        {"speeds": [1.0, 0.0]},
        {"speeds": [0.9], "speed_volume_perturb": True},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Augmentation(**wrong)
