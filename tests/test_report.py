"""The page of an evaluation, read back as a browser reads it: figures, escapes, sound, pictures."""

from __future__ import annotations

import base64
import io
import random
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile as sf
from PIL import Image
from synthetic_corpus import LABELS, RATE, spoken

from common.audio.features import FeatureConfig, Featurizer
from common.audio.pauses import Loudness
from common.data.dataset import ManifestDataset
from common.data.manifest import Utterance
from common.decoding.confidence import ConfidenceMap
from common.decoding.word_alignment import Word
from common.evaluation import html_report as report
from common.evaluation.error_rates import EditCounts, alignment, character_errors, word_errors
from common.evaluation.evaluate import Evaluation, ScoredUtterance
from common.evaluation.html_report import (
    aligned,
    confusions,
    spectrogram,
    worst_first,
    write_report,
)
from common.evaluation.pictures import waveform
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from common.utils.files import check_writable

SCRIPT = "<script>alert('1')</script> & \"x\""
SPOKEN = {  # id: reference, hypothesis
    "right": ("AB CD", "AB CD"),
    SCRIPT: ("AB <script>alert(1)</script> & CD", "AB <SCRIPT CD"),
    "one of one": ("CAB", "CUB"),
    "one of two": ("AB CD", "AB"),
    "longer": ("ABCD DCBA AB", "ABCD AB CA DA"),
}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    inside: list[Element | str] = field(default_factory=list)

    def find(self, tag: str = "", of_class: str = "") -> list[Element]:
        """Elements below this one, in order."""
        found = []
        for each in self.inside:
            if isinstance(each, Element):
                if (not tag or each.tag == tag) and of_class in each.attributes.get("class", ""):
                    found.append(each)
                found += each.find(tag, of_class)
        return found

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.inside)


class _Parser(HTMLParser):
    VOID = ("br", "img", "meta", "input")

    def __init__(self):
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes))
        self.open[-1].inside.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].inside.append(data)


def parse(html: str) -> Element:
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert len(parser.open) == 1  # everything opened is closed
    return parser.open[0]


def pairs(reference: str, hypothesis: str) -> list[tuple[str | None, str | None]]:
    return alignment(reference.split(), hypothesis.split())


def scored(
    name: str, reference: str, hypothesis: str, duration: float = 1.0, **more
) -> ScoredUtterance:
    return ScoredUtterance(
        name,
        reference,
        hypothesis,
        word_errors(reference, hypothesis),
        character_errors(reference, hypothesis),
        [],
        duration,
        more.get("letters", ""),
        np.array(more.get("times", [])),
        pairs(reference, hypothesis),
    )


def evaluation(utterances: list[ScoredUtterance]) -> Evaluation:
    words = sum((each.words for each in utterances), EditCounts())
    characters = sum((each.characters for each in utterances), EditCounts())
    return Evaluation(utterances, words, characters, blanks=5, frames=8)


@dataclass
class Written:
    path: Path
    page: Element
    utterances: list[ScoredUtterance]
    lengths: dict[str, int]  # samples of each recording

    def __post_init__(self):
        self.cards = {card.attributes["data-id"]: card for card in self.page.find("article")}


def recorded(folder: Path, sample_rate: int = RATE) -> tuple[ManifestDataset, dict[str, int]]:
    """The utterances of SPOKEN as a source, and the samples of each recording."""
    rng = np.random.default_rng(0)
    utterances, lengths = [], {}
    for number, (name, (reference, _)) in enumerate(SPOKEN.items()):
        samples = spoken("".join(set(reference) & set("ABCD")) * (number + 1), rng)
        path = folder / f"{number}.wav"
        sf.write(path, samples, RATE)
        utterances.append(Utterance(name, path, reference))
        lengths[name] = len(samples)
    featurizer = Featurizer(FeatureConfig(kind="logmel", sample_rate=sample_rate, bands=16))
    tokenizer = CharacterTokenizer(tuple(LABELS))
    return ManifestDataset(utterances, featurizer, tokenizer, labelled=False, log=None), lengths


def write(folder: Path, players: int = 3, sample_rate: int = RATE) -> Written:
    source, lengths = recorded(folder, sample_rate)
    featurizer = Featurizer(FeatureConfig(kind="logmel", sample_rate=sample_rate, bands=16))
    found = [
        scored(name, *texts, lengths[name] / RATE, letters="A B", times=[0.1, 0.12, 0.3])
        for name, texts in SPOKEN.items()
    ]
    path = folder / "report.html"
    facts = {"Checkpoint": "<b>x</b>.ckpt", "Not read": ""}
    write_report(path, "tones", facts, evaluation(found), source, featurizer, players)
    return Written(path, parse(path.read_text(encoding="utf-8")), found, lengths)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    return write(tmp_path_factory.mktemp("report"))


def embedded(element: Element, kind: str) -> bytes:
    head, _, content = element.attributes["src"].partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(content, validate=True)


# ---- words


def columns(html: str) -> list[tuple[str, str, str]]:
    """Above, below, and what is marked: sub, del, ins or nothing."""
    found = []
    for column in parse(html).inside[0].find("span"):
        above, below = column.inside
        marks = {column.attributes.get("class", ""), above.tag, below.tag} & {"sub", "del", "ins"}
        found.append((above.text, below.text, "".join(marks)))
    return found


def test_columns_count_what_jiwer_counts_and_spell_both_texts():
    rng = random.Random(0)
    words = ["ONE", "TEN", "<B>", "A&B"]
    for _ in range(300):
        reference, hypothesis = (" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in "rh")
        found = columns(aligned(pairs(reference, hypothesis)))
        theirs = jiwer.process_words(reference, hypothesis)
        counts = Counter(kind for _, _, kind in found)
        assert (counts["sub"], counts["del"], counts["ins"]) == (
            theirs.substitutions,
            theirs.deletions,
            theirs.insertions,
        )
        assert [above for above, _, _ in found if above] == reference.split()
        assert [below for _, below, _ in found if below] == hypothesis.split()
        assert all(above == below for above, below, kind in found if not kind)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "marked"),
    [
        ("EXTENSION", "EXTANSION", ["E", "A"]),
        ("TEXT", "TEXTS", ["S"]),
        ("R&B", "RNB", ["&", "N"]),
        ("ABC", "XYZ", []),  # nothing in common: the word as a whole is another
        ("ABC", "ABC", []),
    ],
)
def test_differing_characters_are_marked_where_words_agree_in_part(reference, hypothesis, marked):
    found = parse(aligned(pairs(reference, hypothesis)))
    assert [mark.text for mark in found.find("mark")] == marked
    assert [
        above + "/" + below for above, below, _ in columns(aligned(pairs(reference, hypothesis)))
    ] == [f"{reference}/{hypothesis}"]


def test_the_worst_come_first():
    utterances = [
        scored("right", "A B", "A B"),
        scored("one of two, a letter", "AAA B", "AAB B"),
        scored("two of four", "A B C D", "A B"),
        scored("one of one", "A", "B"),
        scored("one of two, a word", "AAA B", "CCC B"),
        scored("two of two", "A B", "C D"),
    ]
    assert [utterances[index].id for index in worst_first(utterances)] == [
        "two of two",
        "two of four",
        "one of one",
        "one of two, a word",
        "one of two, a letter",
        "right",
    ]


def test_confusions_are_counted():
    utterances = [
        scored("a", "GO ONE TWO", "GO WON TWO"),
        scored("b", "ONE TWO SIX", "WON TWO"),
        scored("c", "SIX", "SIX TEN"),
    ]
    found = confusions(utterances)
    assert found == {
        "substituted": {("ONE", "WON"): 2},
        "deleted": {"SIX": 1},
        "inserted": {"TEN": 1},
    }


def test_the_most_frequent_ten_are_listed():
    utterances = [scored(str(n), f"W{n:02}", "") for n in reversed(range(15))] + [
        scored("x", "W14", "")
    ]
    tables = [parse(each) for each in report._confusions(utterances).split("\n")]
    assert [row.text for row in tables[1].find("tr")] == ["W142"] + [f"W{n:02}1" for n in range(9)]
    assert [table.find("caption")[0].text for table in tables] == [
        "Words substituted",
        "Words deleted",
        "Words inserted",
    ]
    assert tables[0].find("tr")[0].text == "none"


def test_rates_by_duration_are_those_of_equally_many_utterances():
    rng = np.random.default_rng(1)
    durations = rng.permutation(np.arange(1.0, 13.0))  # 12 in 5 bins: 3, 3, 2, 2, 2
    utterances = [
        scored(str(n), "A B C D", " ".join("ABCD"[: rng.integers(0, 5)]), duration)
        for n, duration in enumerate(durations)
    ]
    expected, first = [], 1
    for count in (3, 3, 2, 2, 2):
        part = [each for each in utterances if first <= each.duration < first + count]
        wer = jiwer.wer([each.reference for each in part], [each.hypothesis for each in part])
        last = first + count - 1
        expected.append(f"{first}.0 to {last}.0 s{count}{100 * wer:.1f} %")
        first += count
    (table,) = parse(report._breakdowns(utterances, [])).find("table")
    assert [row.text for row in table.find("tr")] == ["DurationUtterancesWER", *expected]
    widths = re.findall(r"width:([\d.]+)%", report._breakdowns(utterances, []))
    assert max(map(float, widths)) == 100.0
    (table,) = parse(report._breakdowns(utterances[:2], [])).find("table")
    assert len(table.find("tr")) == 3


def test_rates_by_loudness_and_speaker():
    levels = {"quiet": -40.0, "loud": -12.0}
    said = {"quiet": "A X C D", "loud": "A B C D"}
    utterances = [
        replace(
            scored(name, "A B C D", said[name]),
            loudness=Loudness(levels[name], -60.0, np.zeros((0, 2))),
        )
        for name in ("loud", "quiet")
    ]
    found = parse(report._breakdowns(utterances, ["<Ann>", "Bob"])).find("table")
    rows = [[row.text for row in table.find("tr")] for table in found]
    assert rows[1] == [
        "Loudness of speechUtterancesWER",
        "−40 to −40 dB125.0 %",
        "−12 to −12 dB10.0 %",
    ]
    assert rows[2][1:] == ["20 to 20 dB125.0 %", "48 to 48 dB10.0 %"]
    assert rows[3] == ["SpeakerUtterancesWER", "Bob125.0 %", "<Ann>10.0 %"]


def test_confidences_stand_beside_errors_and_words_on_the_waveform(tmp_path):
    source, lengths = recorded(tmp_path)
    words = [Word("AB", 0.1, 0.4, 0.95), Word("CD", 0.5, 0.9, 0.35)]
    utterances = [
        replace(scored(name, *texts, lengths[name] / RATE), timed=words if name == "right" else [])
        for name, texts in SPOKEN.items()
    ]
    featurizer = Featurizer(FeatureConfig(kind="logmel", sample_rate=RATE, bands=16))
    path = tmp_path / "report.html"
    arguments = path, "tones", {}, evaluation(utterances), source, featurizer, 5
    write_report(*arguments)
    page = parse(path.read_text(encoding="utf-8"))
    (section,) = page.find("section", "confidence")
    assert "Of 2 recognised words, 100.0 % are right" in section.text
    assert "error: 35.0 % of the network itself" in section.text  # (0.05 + 0.65) / 2
    assert [row.text for row in section.find("table")[0].find("tr")[1:]] == [
        "90 – 100 %10.0 %",
        "30 – 40 %10.0 %",
    ]
    card = next(card for card in page.find("article") if card.attributes["data-id"] == "right")
    (box,) = card.find("div", "words")
    seconds = lengths["right"] / RATE
    sure, low = box.find("span")
    assert (sure.text, sure.attributes["class"], low.attributes["class"]) == ("AB", "sure", "low")
    left, width = re.findall(r"[\d.]+", low.attributes["style"])
    assert float(left) == pytest.approx(100 * 0.5 / seconds, abs=0.01)
    assert float(width) == pytest.approx(100 * 0.4 / seconds, abs=0.01)
    assert len(page.find("svg", "wave")) == 5

    write_report(*arguments, calibration=ConfidenceMap(0.5, 0.0))
    (section,) = parse(path.read_text(encoding="utf-8")).find("section", "confidence")
    # 0.95 becomes 0.8134 and 0.35 0.4232.
    assert "error: 38.2 % calibrated, 35.0 % of the network itself" in section.text


def test_a_waveform_reaches_from_the_lowest_to_the_highest_sample_of_a_column():
    samples = np.array([0.0, 0.5, -0.25, 0.1, -0.5, -0.4, 0.2, 0.3])
    assert 'd="M0 -48V0M1 -10V24M2 38V48M3 -29V-19"' in waveform(samples, 4)
    assert waveform(np.zeros(2), 100).count("V") == 2


# ---- the page


def test_figures_of_the_page_agree_with_jiwer(written):
    references, hypotheses = zip(*SPOKEN.values())
    theirs = jiwer.process_words(list(references), list(hypotheses))
    tiles = {
        tile.find("span")[0].text: tile.find("b")[0].text
        for tile in written.page.find("div", "tile")
    }
    assert tiles["WER"] == f"{100 * theirs.wer:.1f} %"
    assert tiles["CER"] == f"{100 * jiwer.cer(list(references), list(hypotheses)):.1f} %"
    errors = theirs.substitutions, theirs.deletions, theirs.insertions
    assert tuple(int(tiles[n]) for n in ("Substitutions", "Deletions", "Insertions")) == errors
    assert tiles["No error"] == "20.0 %" and tiles["Blank frames"] == "62.5 %"
    hours = sum(written.lengths.values()) / RATE / 3600
    assert tiles["Utterances"] == "5" and f">{hours:.2f} hours, " in written.path.read_text()


def test_text_from_outside_is_escaped(written):
    page = written.page
    assert len(page.find("script")) == 1 and "alert" not in page.find("script")[0].text
    card = written.cards[SCRIPT]
    assert card.find("h3")[0].text == SCRIPT
    assert card.attributes["data-find"] == "\n".join([SCRIPT, *SPOKEN[SCRIPT]]).lower()
    assert [above for above, _, _ in columns_of(card) if above] == SPOKEN[SCRIPT][0].split()
    facts = {
        entry.find("dt")[0].text: entry.find("dd")[0].text
        for entry in page.find("dl")[0].find("div")
    }
    assert facts["Checkpoint"] == "<b>x</b>.ckpt"
    assert list(facts) == ["Checkpoint", "Date"]  # what is empty is left out
    assert page.find("title")[0].text.startswith("tones: WER ")


def columns_of(card: Element) -> list[tuple[str, str, str]]:
    found = []
    for column in card.find("div", "aligned")[0].find("span"):
        above, below = column.inside
        found.append((above.text, below.text, column.attributes.get("class", "")))
    return found


def test_the_page_loads_nothing_from_elsewhere(written):
    for element in written.page.find():
        for name in ("src", "href", "srcset", "poster", "action"):
            assert element.attributes.get(name, "data:").startswith("data:")
    style = written.page.find("style")[0].text
    assert "url(" not in style and "@import" not in style


def test_all_utterances_are_listed_and_only_the_worst_have_sound(written):
    assert [each.words.errors for each in written.utterances] == [0, 2, 1, 1, 3]
    worst = ["longer", SCRIPT, "one of one", "one of two", "right"]
    assert list(written.cards) == worst
    with_sound = [name for name, card in written.cards.items() if card.find("audio")]
    assert with_sound == worst[:3]
    assert [name for name, card in written.cards.items() if card.find("img")] == with_sound


def test_the_sound_is_that_of_the_recording(written):
    for number, name in enumerate(SPOKEN):
        for player in written.cards[name].find("audio"):
            assert "controls" in player.attributes and player.attributes["preload"] == "none"
            samples, rate = sf.read(io.BytesIO(embedded(player, "audio/ogg")))
            assert (rate, len(samples)) == (RATE, written.lengths[name])
            original, _ = sf.read(written.path.parent / f"{number}.wav")
            assert np.corrcoef(samples, original)[0, 1] > 0.9


def test_a_rate_that_opus_lacks_is_resampled(tmp_path):
    again = write(tmp_path, players=1, sample_rate=11025)
    (player,) = again.page.find("audio")
    samples, rate = sf.read(io.BytesIO(embedded(player, "audio/ogg")))
    (name,) = (name for name, card in again.cards.items() if card.find("audio"))
    assert rate == 16000 and abs(len(samples) / rate - again.lengths[name] / RATE) < 2 / rate


def test_pictures_show_frames_to_the_right_and_frequencies_upwards(written):
    features = np.zeros((16, 50), np.float32)
    features[3, 40] = 9.0
    pixels = np.asarray(Image.open(io.BytesIO(spectrogram(features))).convert("L")).astype(int)
    assert pixels.shape == (16, 50)
    assert np.argwhere(pixels > pixels.min()).tolist() == [[16 - 1 - 3, 40]]
    ramp = np.linspace(-1, 1, 200, dtype=np.float32)[None]
    shades = np.asarray(Image.open(io.BytesIO(spectrogram(ramp))).convert("RGB")).sum(-1)[0]
    assert (np.diff(shades.astype(int)) >= 0).all() and len(set(shades.tolist())) > 20

    (picture,) = written.cards["one of one"].find("img")
    image = Image.open(io.BytesIO(embedded(picture, "image/png")))
    assert image.size == (1 + written.lengths["one of one"] // 80, 16)  # a hop of 10 ms


def test_letters_are_placed_at_their_times(written):
    card = written.cards["one of one"]
    seconds = written.lengths["one of one"] / RATE
    assert float(card.attributes["data-duration"]) == pytest.approx(seconds, abs=1e-3)
    letters = card.find("div", "letters")[0].find("span")
    assert [each.text for each in letters] == ["A", "␣", "B"]
    at = [float(each.attributes["style"].removeprefix("left:").rstrip("%")) for each in letters]
    np.testing.assert_allclose(np.array(at) / 100 * seconds, [0.1, 0.12, 0.3], atol=1e-3)
    # The space has no room beside the letter 20 ms before it.
    assert ["low" in each.attributes.get("class", "") for each in letters] == [False, True, False]


def test_a_page_can_have_no_sound(tmp_path):
    assert not write(tmp_path, players=0).page.find("audio")


def test_empty_texts_align_to_nothing():
    assert columns(aligned(pairs("", ""))) == []
    assert columns(aligned(pairs("", "A"))) == [("", "A", "ins")]


def test_an_unwritable_path_is_named_and_an_existing_file_is_kept(tmp_path):
    there = tmp_path / "report.html"
    there.write_text("earlier")
    check_writable(there)
    check_writable(tmp_path / "new" / "report.html")
    assert there.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "report.html"]
    for path, reason in (
        ("/dev/null/x.html", "File exists"),
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UserError, match=f"{path}: cannot be written \\({reason}\\)"):
            check_writable(path)


def test_the_page_says_that_wer_counts_characters(tmp_path):
    source, _ = recorded(tmp_path)
    featurizer = Featurizer(FeatureConfig(sample_rate=RATE))
    found = evaluation([scored(name, *texts) for name, texts in SPOKEN.items()])
    note = CharacterTokenizer(("你", "_")).words_note
    path = tmp_path / "report.html"
    write_report(path, "tones", {}, replace(found, words_note=note), source, featurizer, 0)
    page = parse(path.read_text(encoding="utf-8"))
    assert note.startswith("WER counts characters") and note in path.read_text(encoding="utf-8")
    assert [each.inside for each in page.find("dt")] == [["Words"], ["Date"]]


def test_a_deleted_recording_is_named_and_no_page_is_written(tmp_path):
    source, _ = recorded(tmp_path)
    (tmp_path / "2.wav").unlink()
    featurizer = Featurizer(FeatureConfig(sample_rate=RATE))
    found = evaluation([scored(name, *texts) for name, texts in SPOKEN.items()])
    with pytest.raises(UserError, match=r"2\.wav: No such file"):
        write_report(tmp_path / "report.html", "tones", {}, found, source, featurizer, 5)
    assert not list(tmp_path.glob("*.html"))
