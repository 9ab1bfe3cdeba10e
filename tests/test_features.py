import librosa
import numpy as np
import pytest
import scipy.signal

from common.errors import UserError
from common.features import WINDOWS, FeatureConfig, Featurizer, mel_filters


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


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("window", WINDOWS)
def test_log_mel_is_librosas(rate, window):
    config = FeatureConfig("logmel", sample_rate=rate, window=window, bands=64)
    features = Featurizer(config)(voice(rate))
    assert features.dtype == np.float32 and features.shape == (64, 301)
    np.testing.assert_allclose(features, librosa_log_mel(voice(rate), config), atol=1e-4)


@pytest.mark.parametrize("rate, n_fft, bands", [(16000, 512, 64), (8000, 256, 40), (1500, 65, 10)])
def test_mel_filters_are_librosas(rate, n_fft, bands):
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands)
    np.testing.assert_allclose(mel_filters(rate, n_fft, bands), expected, atol=1e-7)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 319, 320, 321, 512, 90000])
@pytest.mark.parametrize("kind", ["spectrogram", "logmel"])
@pytest.mark.parametrize("rate, window_size", [(16000, 0.02), (8000, 0.025), (11025, 0.0201)])
def test_frames_are_what_comes_out(samples, kind, rate, window_size):
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
    ):
        assert FeatureConfig.from_dict(config.to_dict()) == config
    assert FeatureConfig(window="hanning") == FeatureConfig(window="hann")
    assert FeatureConfig(bands=80) == FeatureConfig(bands=64)  # a spectrogram has no bands
    with pytest.raises(UserError, match="expected bands, convention, kind"):
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
        ({"kind": "logmel", "convention": "deepspeech.pytorch"}, "one of spectrograms, not logmel"),
    ],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(UserError, match=named):
        FeatureConfig(**wrong)


def test_more_bands_than_bins_are_refused():
    with pytest.raises(UserError, match="bands 300"):
        Featurizer(FeatureConfig("logmel", bands=300))
