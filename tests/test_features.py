import math
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal

from common.audio.features import WINDOWS, FeatureConfig, Featurizer, mel_filters, window
from common.audio.io import load_audio
from common.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def voice(rate: int) -> np.ndarray:
    """Three seconds like speech: harmonics that come and go over soft noise."""
    time = np.arange(3 * rate) / rate
    tone = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.2 * tone * np.sin(2 * np.pi * 2 * time) ** 2 + 0.005 * noise).astype(np.float32)


def librosa_log_spectrogram(samples, config):
    magnitude = librosa.stft(
        samples,
        n_fft=config.window_length,
        hop_length=config.hop_length,
        win_length=config.window_length,
        window=config.window,
    )
    features = np.log1p(np.abs(magnitude))
    return (features - features.mean()) / features.std()


def deepspeech_pytorch_spectrogram(samples, window):
    """As its releases computed it in their day, with torch's deviation over N - 1."""
    mirrored = np.pad(samples, 160, "reflect")
    magnitude = librosa.stft(
        mirrored, n_fft=320, hop_length=160, win_length=320, window=window, center=False
    )
    features = np.log1p(np.abs(magnitude))
    return (features - features.mean()) / features.std(ddof=1)


def librosa_log_mel(samples, config):
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.window_length,
        window=config.window,
        n_mels=config.bands,
        pad_mode="constant",
    )
    features = np.log(power.astype(np.float64) + 2.0**-24)
    return (features - features.mean(1, keepdims=True)) / features.std(1, keepdims=True)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("window", WINDOWS)
def test_spectrogram_is_librosas(rate, window):
    config = FeatureConfig("spectrogram", sample_rate=rate, window=window)
    features = Featurizer(config)(voice(rate))
    assert features.dtype == np.float32 and features.shape == (config.dimension, 301)
    np.testing.assert_allclose(features, librosa_log_spectrogram(voice(rate), config), atol=1e-4)


@pytest.mark.parametrize("samples", [1600, 16000 * 3 - 7])
def test_spectrogram_of_deepspeech_pytorch(samples):
    audio = voice(16000)[-samples:]
    found = {
        name: Featurizer(FeatureConfig(convention=name))(audio)
        for name in ("plain", "deepspeech.pytorch", "deepspeech.pytorch-2.0")
    }
    expected = deepspeech_pytorch_spectrogram(audio, "hamming")
    np.testing.assert_allclose(found["deepspeech.pytorch"], expected, atol=1e-5)
    symmetric = scipy.signal.windows.hamming  # called with a length, as librosa calls what it gets
    expected = deepspeech_pytorch_spectrogram(audio, symmetric)
    np.testing.assert_allclose(found["deepspeech.pytorch-2.0"], expected, atol=1e-5)
    assert np.abs(found["plain"] - found["deepspeech.pytorch"]).max() > 1e-4
    assert np.abs(found["deepspeech.pytorch-2.0"] - found["deepspeech.pytorch"]).max() > 1e-2


@pytest.mark.parametrize("samples", [400, 559, 560, 16000 * 3 - 7])
def test_spectrogram_of_asrt(samples):
    """By the formulas of speech_features/speech_features.py, in double precision."""
    heard = np.round(voice(16000)[-samples:] * 32768)  # 16-bit integers
    weights = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    starts = range(0, 160 * ((int(samples / 16 - 25)) // 10 + 1), 160)
    expected = [np.abs(np.fft.fft(heard[at : at + 400] * weights))[:200] for at in starts]
    featurizer = Featurizer(FeatureConfig(window_size=0.025, convention="asrt"))
    found = featurizer((heard / 32768).astype(np.float32))
    assert found.shape == (200, len(expected)) and featurizer.dimension == 200
    assert featurizer.frames(samples) == len(expected)
    np.testing.assert_allclose(found, np.log(np.array(expected) + 1).T, atol=1e-3)


def test_asrts_spectrogram_of_less_than_a_window_is_one_frame():
    featurizer = Featurizer(FeatureConfig(window_size=0.025, convention="asrt"))
    for samples in (0, 1, 399):
        found = featurizer(np.full(samples, 0.1, np.float32))
        assert found.shape == (200, 1) and np.isfinite(found).all()
        assert featurizer.frames(samples) == 1


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("window", WINDOWS)
def test_log_mel_is_librosas(rate, window):
    config = FeatureConfig("logmel", sample_rate=rate, window=window, bands=64)
    features = Featurizer(config)(voice(rate))
    assert features.dtype == np.float32 and features.shape == (64, 301)
    np.testing.assert_allclose(features, librosa_log_mel(voice(rate), config), atol=1e-4)


def jasper_mindspore(samples, rate, preemphasis):
    """The model zoo's: librosa throughout, normalised over all of its frames, biased."""
    emphasised = np.append(samples[:1], samples[1:] - np.float32(preemphasis) * samples[:-1])
    n_fft, hop = {16000: (512, 160), 8000: (256, 80)}[rate]
    spectrum = librosa.stft(
        emphasised,
        n_fft=n_fft,
        hop_length=hop,
        win_length=2 * hop,
        window="hann",
        pad_mode="reflect",
    )
    filters = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=64 if rate == 16000 else 40)
    features = np.log(filters @ np.abs(spectrum) ** 2 + 1e-20)
    features -= features.mean(1, keepdims=True)
    features /= features.std(1, keepdims=True) + 1e-5
    return features[:, : math.ceil(len(samples) / hop)]


def jasper_nvidia(samples, rate, preemphasis):
    """NVIDIA's: torch throughout, normalised over ceil(N / hop) frames, unbiased."""
    torch = pytest.importorskip("torch")
    n_fft, hop = {16000: (512, 160), 8000: (256, 80)}[rate]
    wave = torch.tensor(samples)
    spectrum = torch.stft(
        torch.cat((wave[:1], wave[1:] - preemphasis * wave[:-1])),
        n_fft,
        hop,
        2 * hop,
        torch.hann_window(2 * hop, periodic=False),
        return_complex=True,
    )
    filters = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=64 if rate == 16000 else 40)
    features = torch.log(
        torch.tensor(filters) @ torch.view_as_real(spectrum).pow(2).sum(-1) + 1e-20
    )
    features = features[:, : math.ceil(len(samples) / hop)]
    features = features - features.mean(1, keepdim=True)
    return (features / (features.std(1, keepdim=True) + 1e-5)).numpy()


def nemo(samples, rate, preemphasis):
    """NeMo's: torch throughout, zeros beyond the ends, 2^-24, N // hop frames, unbiased."""
    torch = pytest.importorskip("torch")
    n_fft, hop = {16000: (512, 160), 8000: (256, 80)}[rate]
    wave = torch.tensor(samples)
    spectrum = torch.stft(
        torch.cat((wave[:1], wave[1:] - preemphasis * wave[:-1])),
        n_fft,
        hop,
        2 * hop,
        torch.hann_window(2 * hop, periodic=False),
        pad_mode="constant",
        return_complex=True,
    )
    filters = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=64 if rate == 16000 else 40)
    features = torch.log(torch.tensor(filters) @ spectrum.abs().pow(2) + 2**-24)
    features = features[:, : len(samples) // hop]
    features = features - features.mean(1, keepdim=True)
    return (features / (features.std(1, keepdim=True) + 1e-5)).numpy()


JASPER = {"jasper-mindspore": jasper_mindspore, "jasper-nvidia": jasper_nvidia, "nemo": nemo}


def heard() -> dict[str, tuple[np.ndarray, int]]:
    """Noise, whole hops of it and not, something like speech, and speech, with the rates."""
    noise = 0.1 * np.random.default_rng(1).standard_normal(16000).astype(np.float32)
    prompts = sorted((ROOT / "data" / "telephone_prompts" / "audio").glob("*.opus"))[:4]
    return {
        "short": (noise[:401], 16000),
        "hops": (noise, 16000),
        "voice": (voice(16000)[:-7], 16000),
        "speech": (np.concatenate([load_audio(path, 8000) for path in prompts]), 8000),
    }


@pytest.mark.parametrize("preemphasis", [0.97, 0.0])
@pytest.mark.parametrize("convention", JASPER)
def test_log_mel_is_jaspers_of_either_kind(convention, preemphasis):
    for name, (samples, rate) in heard().items():
        bands = 64 if rate == 16000 else 40
        config = FeatureConfig(
            "logmel",
            rate,
            window="hann",
            bands=bands,
            convention=convention,
            preemphasis=preemphasis,
        )
        featurizer = Featurizer(config)
        features = featurizer(samples)
        assert features.dtype == np.float32
        assert features.shape == (bands, featurizer.frames(len(samples)))
        expected = JASPER[convention](samples, rate, preemphasis)
        np.testing.assert_allclose(features, expected, atol=1e-3, err_msg=name)
        others = {"plain", *JASPER} - {convention}
        for other in (Featurizer(replace(config, convention=other)) for other in others):
            alike = [each[:, : len(samples) // 320] for each in (other(samples), features)]
            moved = np.abs(alike[0] - alike[1]).max()
            assert moved > 5e-3, (name, other.config.convention)


@pytest.mark.parametrize("samples", [1, 2, 160, 161])
@pytest.mark.parametrize("convention", JASPER)
def test_jaspers_features_of_very_short_audio_are_finite(convention, samples):
    featurizer = Featurizer(FeatureConfig("logmel", convention=convention, preemphasis=0.97))
    features = featurizer(np.ones(samples, np.float32))
    frames = max(1, samples // 160) if convention == "nemo" else math.ceil(samples / 160)
    assert features.shape == (64, frames) and np.isfinite(features).all()
    np.testing.assert_allclose(featurizer(np.zeros(1600, np.float32)), 0.0, atol=1e-6)


def test_preemphasis_filters_the_samples():
    samples = voice(16000)
    filtered = scipy.signal.lfilter([1, -0.9], [1], samples).astype(np.float32)
    for kind in ("spectrogram", "logmel"):
        expected = Featurizer(FeatureConfig(kind))(filtered)
        found = Featurizer(FeatureConfig(kind, preemphasis=0.9))(samples)
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("samples", [3000, 200])  # 19 frames, and fewer than are stacked
def test_frames_are_stacked_with_those_that_follow(count, samples):
    samples = voice(16000)[:samples]
    single = Featurizer(FeatureConfig("logmel", bands=8))(samples)
    featurizer = Featurizer(FeatureConfig("logmel", bands=8, frame_splicing=count))
    spliced = featurizer(samples)
    frames = single.shape[1]
    assert spliced.shape == (featurizer.dimension, frames) == (8 * count, frames)
    for frame in range(frames):
        for ahead in range(count):
            inside = frame + ahead < frames
            expected = single[:, frame + ahead] if inside else np.zeros(8)
            np.testing.assert_array_equal(spliced[8 * ahead : 8 * ahead + 8, frame], expected)


def test_silence_is_trimmed_as_by_librosa():
    featurizer = Featurizer(FeatureConfig(trim_silence=True))
    rng, cut = np.random.default_rng(3), 0
    for number in range(60):
        before, between, after = rng.integers(0, 6000, 3)
        spoken = rng.standard_normal(rng.integers(1, 5000)) * 10 ** rng.uniform(-3, 0)
        parts = [np.zeros(before), spoken, np.zeros(between), spoken / 30, np.zeros(after)]
        samples = np.concatenate(parts) + rng.choice([0, 1e-4, 1e-6]) * rng.standard_normal(
            sum(map(len, parts))
        )
        samples = samples.astype(np.float32)
        expected, _ = librosa.effects.trim(samples, top_db=60)
        found = featurizer.trim(samples)
        np.testing.assert_array_equal(found, expected, err_msg=str(number))
        assert featurizer.frames(len(found)) <= featurizer.frames(len(samples))
        cut += len(found) < len(samples)
        assert Featurizer(FeatureConfig()).trim(samples) is samples
    assert 20 < cut < 60
    for silence in (np.zeros(3000, np.float32), np.zeros(0, np.float32)):
        assert len(featurizer.trim(silence)) == len(silence)


@pytest.mark.parametrize("rate, n_fft, bands", [(16000, 512, 64), (8000, 256, 40), (1500, 65, 10)])
def test_mel_filters_are_librosas(rate, n_fft, bands):
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands)
    np.testing.assert_allclose(mel_filters(rate, n_fft, bands), expected, atol=1e-7)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 319, 320, 321, 512, 90000])
@pytest.mark.parametrize("kind", ["spectrogram", "logmel"])
@pytest.mark.parametrize("rate, window_size", [(16000, 0.02), (8000, 0.025), (11025, 0.0201)])
def test_frames_predicts_the_number_of_feature_frames(samples, kind, rate, window_size):
    featurizer = Featurizer(FeatureConfig(kind, rate, window_size, bands=32))
    config = featurizer.config
    features = featurizer(np.ones(samples, np.float32))
    assert features.shape == (featurizer.dimension, featurizer.frames(samples))
    padded = samples + 2 * (config.n_fft // 2)  # librosa's rule for centred frames
    assert featurizer.frames(samples) == 1 + (padded - config.n_fft) // config.hop_length


@pytest.mark.parametrize("kind", ["spectrogram", "logmel"])
def test_long_audio_is_transformed_in_blocks_without_seams(kind):
    samples = np.tile(voice(8000), 8)
    config = FeatureConfig(kind, sample_rate=8000, bands=40)
    reference = librosa_log_mel if kind == "logmel" else librosa_log_spectrogram
    np.testing.assert_allclose(Featurizer(config)(samples), reference(samples, config), atol=1e-4)


@pytest.mark.parametrize("kind", ["spectrogram", "logmel"])
def test_features_have_mean_0_and_deviation_1(kind):
    features = Featurizer(FeatureConfig(kind))(voice(16000)).astype(np.float64)
    axis = None if kind == "spectrogram" else 1
    np.testing.assert_allclose(features.mean(axis), 0.0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis), 1.0, atol=1e-4)


@pytest.mark.parametrize("kind", ["spectrogram", "logmel"])
def test_silence_and_constants_stay_finite(kind):
    featurizer = Featurizer(FeatureConfig(kind))
    np.testing.assert_allclose(featurizer(np.zeros(16000, np.float32)), 0.0, atol=1e-6)
    assert np.isfinite(featurizer(np.full(16000, 0.5, np.float32))).all()
    assert np.isfinite(featurizer(np.ones(1, np.float32))).all()


def test_sizes_follow_from_seconds():
    config = FeatureConfig()
    assert (config.window_length, config.hop_length, config.n_fft) == (320, 160, 320)
    assert config.dimension == 161
    assert FeatureConfig(sample_rate=8000).dimension == 81
    log_mel = FeatureConfig("logmel")
    assert (log_mel.window_length, log_mel.n_fft, log_mel.dimension) == (320, 512, 64)


def test_configuration_round_trips_and_equals_by_meaning():
    for config in (
        FeatureConfig(),
        FeatureConfig("logmel", 8000, 0.025, 0.0125, "hann", 40),
        FeatureConfig(convention="deepspeech.pytorch"),
        FeatureConfig("logmel", preemphasis=0.97, frame_splicing=3, trim_silence=True),
    ):
        assert FeatureConfig.from_dict(config.to_dict()) == config
    before = ["kind", "sample_rate", "window_size", "window_stride", "window", "bands"]
    assert list(FeatureConfig().to_dict()) == before  # as corpora have it that were made then
    assert FeatureConfig(window="hanning") == FeatureConfig(window="hann")
    assert FeatureConfig(bands=80) == FeatureConfig(bands=64)  # a spectrogram has no bands
    with pytest.raises(UserError, match="expected bands, convention, frame_splicing, kind"):
        FeatureConfig.from_dict({"kind": "logmel", "colour": "red"})


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"kind": "mfcc"}, "features 'mfcc'"),
        ({"window": "kaiser"}, "window 'kaiser'"),
        ({"sample_rate": 0}, "sample_rate 0"),
        ({"window_size": 0.0}, "window_size 0.0"),
        ({"window_stride": 0.0}, "window_stride 0.0"),
        ({"kind": "logmel", "bands": 0}, "bands 0"),
        ({"convention": "theirs"}, "convention 'theirs'"),
        ({"kind": "logmel", "convention": "deepspeech.pytorch"}, "plain, jasper-.* for logmel"),
        ({"convention": "jasper-nvidia"}, "convention 'jasper-nvidia'.* for spectrogram"),
        ({"preemphasis": 97.0}, "preemphasis 97"),
        ({"frame_splicing": 0}, "frame_splicing 0"),
    ],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(UserError, match=named):
        FeatureConfig(**wrong)


def test_more_bands_than_bins_are_refused():
    with pytest.raises(UserError, match="bands 300"):
        Featurizer(FeatureConfig("logmel", bands=300))


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_those_of_scipy_to_the_last_bit(kind):
    for size in (2, 3, 160, 200, 240, 320, 400, 441, 480, 512, 1024):
        for periodic in (True, False):
            expected = scipy.signal.get_window(kind, size, fftbins=periodic).astype(np.float32)
            found = window(kind, size, periodic).astype(np.float32)
            np.testing.assert_array_equal(found, expected)
