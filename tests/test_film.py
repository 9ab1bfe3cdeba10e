"""The film of a run: what it keeps, what a resumed run goes on with, and the colours it shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from benchmarks.reference import log_softmax
from common.audio.features import FeatureConfig, Featurizer
from common.data.dataset import Dataset, Entry, Example
from common.text.tokenizer import CharacterTokenizer
from common.training import emission_animation as films
from common.training import emission_plots as pictures
from common.training.emission_animation import EmissionAnimation
from common.training.metrics_log import EpochMetrics
from common.utils.errors import UserError

VOCABULARY = CharacterTokenizer(("A", "B", " ", "_", "C"))
FEATURIZER = Featurizer(FeatureConfig(sample_rate=8000))
FRAMES = 25  # output frames of the utterance in the middle


class Prompts(Dataset):
    """Three utterances; the last is the one of median length."""

    store = "features"

    def __init__(self, reference: str = "AB C"):
        entries = [("long", "A", 90), ("short", "B", 10), ("middle", reference, 50)]
        super().__init__(
            Entry(name, text, frames / 100, frames, len(text), len(text))
            for name, text, frames in entries
        )

    def read(self, indices):
        for index in indices:
            features = np.random.default_rng(index).normal(size=(9, self.frames[index]))
            yield Example(index, self.ids[index], np.zeros(1, int), features=features)


def emitted(number: int, labels: int = len(VOCABULARY)) -> np.ndarray:
    """Log-probabilities (FRAMES, C): blanks, out of which labels rise with the evaluations."""
    scores = np.random.default_rng(number).normal(size=(FRAMES, labels))
    scores[:, 3] += 4
    scores[np.arange(number, FRAMES, 5), 0] += 2 * number
    return log_softmax(scores).astype(np.float32)


def evaluated(film: EmissionAnimation, number: int, labels: int = len(VOCABULARY)) -> None:
    """As `fit` does it: all three utterances pass, and the figures follow."""
    for index in range(3):
        log_probs = emitted(number, labels) if index == 2 else np.zeros((3, labels), np.float32)
        film.watch(SimpleNamespace(index=index, log_probs=log_probs))
    zeros = dict.fromkeys(EpochMetrics.__dataclass_fields__, 0)
    known = {"epoch": number / 2, "step": 5 * number, "val_wer": 90.0, "blank_share": 99.0}
    film.add(EpochMetrics(**zeros | known))


@pytest.fixture
def stem(tmp_path) -> Path:
    return tmp_path / "emissions"


def filmed(
    stem: Path, *numbers: int, source: Dataset | None = None, step: int = 0
) -> EmissionAnimation:
    film = EmissionAnimation(stem, source or Prompts(), FEATURIZER, VOCABULARY, step)
    for number in numbers:
        evaluated(film, number)
    return film


def steps(film: EmissionAnimation) -> list[int]:
    return [frame.step for frame in film.frames]


def colours(path: Path) -> list[np.ndarray]:
    """The frames of a GIF as a viewer shows them, (H, W, 3) each."""
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(np.asarray(image.convert("RGB")))
        return found


def test_the_file_holds_the_log_probabilities_of_the_median_utterance(stem):
    filmed(stem, 1, 2, 3)
    with np.load(stem.with_suffix(".npz")) as found:
        assert (found["id"], found["reference"], found["seconds"]) == ("middle", "AB C", 0.5)
        assert "".join(found["labels"]) == "AB _C"
        assert found["step"].tolist() == [5, 10, 15] and found["epoch"].tolist() == [0.5, 1, 1.5]
        assert found["wer"].tolist() == [90] * 3 and found["blanks"].tolist() == [99] * 3
        assert found["log_probs"].dtype == np.float16
        expected = np.stack([emitted(number) for number in (1, 2, 3)])
        np.testing.assert_allclose(found["log_probs"], expected, rtol=1e-3)
        for number, text in zip((1, 2, 3), found["text"], strict=True):
            path = [VOCABULARY.labels[label] for label in emitted(number).argmax(axis=1)]
            merged = "".join(a for a, b in zip(path, ["", *path]) if a != b).replace("_", "")
            assert text == " ".join(merged.split())
        assert found["text"][2]
    assert [path.name for path in stem.parent.iterdir()] == ["emissions.npz"]


def test_a_resumed_run_keeps_the_frames_up_to_its_checkpoint(stem):
    before = filmed(stem, 1, 2, 3).frames
    resumed = filmed(stem, step=10)
    assert steps(resumed) == [5, 10]
    for frame, kept in zip(resumed.frames, before[:2], strict=True):
        np.testing.assert_array_equal(frame.log_probs, kept.log_probs)
        assert (frame.epoch, frame.wer, frame.text) == (kept.epoch, kept.wer, kept.text)
    evaluated(resumed, 4)
    resumed.draw()
    assert len(colours(resumed.gif)) == 3
    assert steps(filmed(stem, step=1000)) == [5, 10, 20]
    assert steps(filmed(stem)) == []  # a new run begins a new film
    assert steps(filmed(stem, source=Prompts("ABBA"), step=1000)) == []  # of something else
    assert steps(filmed(stem.with_name("elsewhere"), step=10)) == []


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_film_is_refused(stem, content):
    stem.with_suffix(".npz").write_bytes(content)
    with pytest.raises(UserError, match=r"emissions\.npz: not the frames .* move it away"):
        filmed(stem, step=10)
    with stem.with_suffix(".npz").open("wb") as file:
        np.savez(file, id="middle", reference="AB C")
    with pytest.raises(UserError, match=r"emissions\.npz: not the frames"):
        filmed(stem, step=10)


def test_the_film_has_a_frame_for_each_evaluation_in_the_colours_of_its_probabilities(stem):
    film = filmed(stem)
    for number in (1, 2, 3, 4):
        evaluated(film, number)
        film.draw()
        assert len(colours(film.gif)) == number
    found = colours(film.gif)
    assert all((a != b).any() for a, b in zip(found, found[1:]))
    painter = film._painter
    assert painter.names == ["A", "B", " ", "C", "_"]  # the blank last
    top = pictures.LINE + 6 + pictures.STRIP + 4
    x = pictures.LEFT + painter.scale * np.arange(FRAMES) + painter.scale // 2
    for number, frame in enumerate(found, 1):
        for row, label in enumerate((0, 1, 2, 4, 3)):
            y = top + row * painter.row + painter.row // 2
            expected = colormaps["viridis"](np.exp(emitted(number)[:, label]))[:, :3]
            np.testing.assert_allclose(frame[y, x] / 255, expected, atol=0.02)
    features = slice(pictures.LINE + 6, top - 4), slice(pictures.LEFT, -pictures.RIGHT)
    strip = found[0][features]
    assert all((frame[features] == strip).all() for frame in found)
    assert np.ptp(strip) > 200 and (np.ptp(strip, axis=2) == 0).all()  # ink, grey
    with Image.open(film.gif) as image:
        assert image.info["loop"] == 0
        assert image.info["duration"] == 500
        image.seek(3)
        assert image.info["duration"] == 3000


def test_the_still_picture_holds_chosen_frames(stem):
    film = filmed(stem, *range(1, 21))
    film.draw()
    first, *_, last = colours(film.gif)
    with Image.open(film.png) as image:
        still = np.asarray(image.convert("RGB"))
    assert still.shape[1] == first.shape[1]
    strip, line = pictures.STRIP + 4, pictures.LINE + 6  # the features and the reference come once
    assert len(still) == strip + line + films.STILLS * (len(first) - strip - line)
    np.testing.assert_array_equal(still[: len(first) - line], first[:-line])
    below = len(first) - line - strip  # heat map and texts, below the title and the features
    np.testing.assert_array_equal(still[-below:], last[-below:])


def test_of_many_labels_the_likely_ones_are_kept_and_shown(stem):
    labels = [chr(0x4E00 + number) for number in range(5000)]
    labels[3] = "_"
    film = EmissionAnimation(stem, Prompts("丁丄"), FEATURIZER, CharacterTokenizer(tuple(labels)))
    evaluated(film, 0, 5000)
    film.draw()
    few = list(film._rows)
    evaluated(film, 6, 5000)
    film.draw()
    for number, rows in ((0, few), (6, film._rows)):
        ever = np.exp(emitted(number, 5000)).max(axis=0)
        assert set(np.flatnonzero(ever >= 0.05)) | {3} <= set(rows) and rows[-1] == 3
    assert len(few) < len(film._rows) <= films.MAX_SHOWN
    assert len(colours(film.gif)) == 2
    with np.load(film.npz) as found:
        assert found["labels"].tolist() == [labels[column] for column in found["columns"]]
        assert len(found["columns"]) < 1000
        kept = found["log_probs"][1] > -np.inf
        expected = emitted(6, 5000)[:, found["columns"]]
        np.testing.assert_allclose(found["log_probs"][1][kept], expected[kept], rtol=1e-3)
        assert expected[~kept].max(initial=-np.inf) < np.log(films.MIN_KEPT_PROBABILITY)
    resumed = EmissionAnimation(
        stem, Prompts("丁丄"), FEATURIZER, CharacterTokenizer(tuple(labels)), 1000
    )
    resumed.draw()
    assert resumed._rows == film._rows and len(colours(resumed.gif)) == 2


@pytest.mark.parametrize("reference", ["", "A", "AB " * 400])
def test_references_of_any_length(stem, reference):
    film = filmed(stem, 1, 2, source=Prompts(reference.strip()))
    film.draw()
    assert len(colours(film.gif)) == 2


def test_without_a_validation_set_there_is_no_film(stem):
    film = EmissionAnimation(stem, None, FEATURIZER, VOCABULARY, 10)
    film.add(EpochMetrics(*[0] * len(EpochMetrics.__dataclass_fields__)))
    film.draw()
    assert film.files == [] and list(stem.parent.iterdir()) == []


def test_what_cannot_be_written_is_told_and_the_film_goes_on(stem):
    film = filmed(stem)
    film.npz.mkdir()
    with pytest.raises(UserError, match=r"emissions\.npz: cannot be written"):
        evaluated(film, 1)
    film.npz.rmdir()
    film.gif.mkdir()
    evaluated(film, 2)
    with pytest.raises(UserError, match=r"emissions\.gif: cannot be written"):
        film.draw()
    film.gif.rmdir()
    film.draw()
    assert steps(film) == [5, 10] and len(colours(film.gif)) == 2
