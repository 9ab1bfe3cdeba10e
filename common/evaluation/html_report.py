"""Write an evaluation as one self-contained HTML page, with recordings and spectrograms.

`html_report.html` beside this module is the template. All text that comes from manifests, file
names or the network is escaped.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import Levenshtein
import numpy as np

from common.audio.features import Featurizer
from common.audio.io import encode_opus
from common.data.dataset import Dataset
from common.decoding.confidence import ConfidenceMap
from common.evaluation.calibration import calibration_error, reliability, word_confidences
from common.evaluation.error_rates import EditCounts
from common.evaluation.pictures import reliability_diagram, waveform
from common.utils.files import write_text
from common.utils.packages import package
from common.utils.wording import counted

if TYPE_CHECKING:  # it loads mindspore, which a page can do without
    from common.evaluation.evaluate import Evaluation, ScoredUtterance

_PIXELS_PER_SECOND = 240
_LETTER_WIDTH = 7  # pixels
_SHADES = 32  # of a spectrogram: with 256 the file is twice as large and looks the same
_MAX_CONFUSIONS = 10  # listed of each kind
_GROUPS = 5  # of utterances, by duration or loudness
_MAX_SPEAKERS = 15
_COLUMNS_PER_SECOND = 80  # of a waveform
_SURE, _FAIR = 0.8, 0.5  # confidences from which a word has another colour


def write_report(
    path: str | Path,
    model: str,
    facts: dict[str, str],
    evaluation: Evaluation,
    dataset: Dataset,
    featurizer: Featurizer,
    players: int,
    speakers: Sequence[str] = (),
    calibration: ConfidenceMap | None = None,
) -> None:
    """Write the page of an evaluation: figures, confusions, utterances worst first.

    Args:
        path: The HTML file.
        model: Name of the model.
        facts: Shown at the top, by name; empty ones are left out.
        evaluation: The figures.
        dataset: The utterances of the evaluation, in the same order.
        featurizer: Makes the spectrograms.
        players: Number of utterances, the worst, that get their recording (as the network receives
            it) and their spectrogram. Only these are decoded, again.
        speakers: Who speaks in each utterance; empty: unknown.
        calibration: Of the confidences; None: they are those of the network.

    Raises:
        MissingPackageError: Spectrograms need a package that is not installed.
        UserError: The file cannot be written, or a recording can no longer be read.
    """
    order, count = worst_first(evaluation.utterances), len(dataset)
    media: dict[int, str] = {}  # by index
    for example in dataset.read(order[:players]):  # one at a time: encoded they are small
        samples = example.samples(featurizer)
        utterance = evaluation.utterances[example.index]
        media[example.index] = _media(utterance, samples, featurizer, calibration)
    cards = [_card(evaluation.utterances[index], media.get(index, "")) for index in order]
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    rows = {**facts, "Words": evaluation.words_note, "Date": date}
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=escape(
            f"{model}: {evaluation.headline} {evaluation.rates[evaluation.headline]:.1f} %"
        ),
        model=escape(model),
        facts="".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"
            for name, value in rows.items()
            if value
        ),
        tiles=_tiles(evaluation, dataset),
        confusions=_confusions(evaluation.utterances),
        breakdowns=_breakdowns(evaluation.utterances, speakers),
        confidence=_confidence(evaluation.utterances, calibration),
        features=escape(_features_line(featurizer)),
        players=f"All {count}" if len(media) == count else f"The worst {len(media)} of {count}",
        count=count,
        utterances="\n".join(cards),
    )
    write_text(path, page)


def check_packages(featurizer: Featurizer, players: int) -> None:
    """Refuse a page whose pictures need a package that is missing, before hours of recognition.

    Args:
        featurizer: Makes the spectrograms.
        players: Number of utterances that get one.

    Raises:
        MissingPackageError: The package is not installed.
    """
    if players > 0:
        spectrogram(featurizer(np.zeros(featurizer.config.sample_rate, np.float32)))


def worst_first(utterances: Sequence[ScoredUtterance]) -> list[int]:
    """Return indices by word errors, then WER, then CER, each from the highest down."""

    def key(index: int) -> tuple[float, ...]:
        words, characters = utterances[index].words, utterances[index].characters
        return -words.errors, -words.rate, -characters.rate

    return sorted(range(len(utterances)), key=key)


# ---- the figures


def _tiles(evaluation: Evaluation, dataset: Dataset) -> str:
    words, characters = evaluation.words, evaluation.characters
    count, seconds = len(dataset), dataset.durations.sum()
    correct = sum(utterance.words.errors == 0 for utterance in evaluation.utterances)

    def share(errors: int) -> str:
        return f"{_percent(errors / max(words.length, 1))} of the words"

    counts = {
        "WER": (_percent(words.rate), f"{words.errors} of {words.length} words"),
        "CER": (
            _percent(characters.rate),
            f"{characters.errors} of {characters.length} characters",
        ),
    }
    tiles = [
        *((name, *counts[name]) for name in evaluation.rates),
        ("Substitutions", words.substitutions, share(words.substitutions)),
        ("Deletions", words.deletions, share(words.deletions)),
        ("Insertions", words.insertions, share(words.insertions)),
        ("No error", _percent(correct / max(count, 1)), f"in {correct} of {count} utterances"),
        *(
            [("Blank frames", _percent(evaluation.blank_share), "emit no letter")]
            if evaluation.blank_share is not None
            else []
        ),
        (
            "Utterances",
            count,
            f"{seconds / 3600:.2f} hours, {seconds / max(count, 1):.1f}\u00a0s each",
        ),
    ]
    return "\n".join(
        f'<div class="tile"><span>{name}</span><b>{value}</b><small>{note}</small></div>'
        for name, value, note in tiles
    )


def confusions(utterances: Iterable[ScoredUtterance]) -> dict[str, Counter]:
    """Count confused words.

    Args:
        utterances: Scored utterances.

    Returns:
        Counts of "substituted" pairs (reference, hypothesis), "deleted" and "inserted" words.
    """
    counts: dict[str, Counter] = {
        kind: Counter() for kind in ("substituted", "deleted", "inserted")
    }
    for utterance in utterances:
        for reference, hypothesis in utterance.pairs:
            if hypothesis is None:
                counts["deleted"][reference] += 1
            elif reference is None:
                counts["inserted"][hypothesis] += 1
            elif reference != hypothesis:
                counts["substituted"][reference, hypothesis] += 1
    return counts


def _confusions(utterances: Iterable[ScoredUtterance]) -> str:
    forms = {
        "substituted": lambda pair: f"{escape(pair[0])} <i>→</i> {escape(pair[1])}",
        "deleted": lambda word: f"<del>{escape(word)}</del>",
        "inserted": lambda word: f"<ins>{escape(word)}</ins>",
    }
    tables = []
    for kind, counts in confusions(utterances).items():
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_CONFUSIONS]
        rows = "".join(
            f'<tr><td>{forms[kind](what)}</td><td class="number">{count}</td></tr>'
            for what, count in most
        )
        rows = rows or "<tr><td><i>none</i></td></tr>"
        tables.append(f"<table><caption>Words {kind}</caption>{rows}</table>")
    return "\n".join(tables)


def _breakdowns(utterances: Sequence[ScoredUtterance], speakers: Sequence[str]) -> str:
    """Return tables of WER by duration, loudness, noise and speaker."""
    tables = [
        _table(
            "Duration",
            _quantiles([(each.duration, each) for each in utterances], "{:.1f} to {:.1f} s"),
        )
    ]
    measured = [(each.loudness, each) for each in utterances if each.loudness is not None]
    for title, values in (
        ("Loudness of speech", [(loudness.speech, each) for loudness, each in measured]),
        (
            "Speech over noise",
            [(loudness.speech - loudness.noise, each) for loudness, each in measured],
        ),
    ):
        if values:
            tables.append(_table(title, _quantiles(values, "{:.0f} to {:.0f} dB")))
    if speakers:
        groups: dict[str, list[ScoredUtterance]] = {}
        for name, each in zip(speakers, utterances):
            groups.setdefault(name, []).append(each)
        worst = sorted(groups.items(), key=lambda group: -_rate(group[1]))
        shown = worst[:_MAX_SPEAKERS]
        title = "Speaker" if len(shown) == len(worst) else f"Speaker, worst {_MAX_SPEAKERS}"
        tables.append(_table(title, [(escape(name), part) for name, part in shown]))
    return "\n".join(tables)


def _quantiles(
    values: Sequence[tuple[float, ScoredUtterance]], form: str
) -> list[tuple[str, list[ScoredUtterance]]]:
    """Group utterances by a figure, about equally many in each group."""
    ordered = sorted(values, key=lambda value: value[0])
    return [
        (
            form.format(ordered[part[0]][0], ordered[part[-1]][0]).replace("-", "\u2212"),
            [ordered[number][1] for number in part],
        )
        for part in np.array_split(np.arange(len(ordered)), _GROUPS)
        if len(part)
    ]


def _rate(utterances: Sequence[ScoredUtterance]) -> float:
    return sum((each.words for each in utterances), EditCounts()).rate


def _table(title: str, groups: Sequence[tuple[str, Sequence[ScoredUtterance]]]) -> str:
    """Return a table of WER by group; the longest bar is the highest WER."""
    rates = [_rate(part) for _, part in groups]
    highest = max(rates, default=0) or 1
    rows = "".join(
        f'<tr><td>{name}</td><td class="number">{len(part)}</td><td class="number">'
        f'{_percent(rate)}</td><td class="bar"><i style="width:{100 * rate / highest:.1f}%"></i>'
        "</td></tr>\n"
        for (name, part), rate in zip(groups, rates)
    )
    return (
        f'<table class="breakdown"><tr><th>{title}</th><th class="number">Utterances</th>'
        f'<th class="number">WER</th><th></th></tr>\n{rows}</table>'
    )


def _confidence(utterances: Sequence[ScoredUtterance], calibration: ConfidenceMap | None) -> str:
    """Return the section on confidences, empty where words have none."""
    raw, correct = word_confidences(utterances)
    if not len(raw):
        return ""
    before = reliability(raw, correct)
    after = [] if calibration is None else reliability(calibration(raw), correct)
    errors = f"{_percent(calibration_error(before))} of the network itself"
    if after:
        errors = f"{_percent(calibration_error(after))} calibrated, {errors}"
    rows = "".join(
        f'<tr><td>{100 * each.low:.0f} – {100 * each.high:.0f} %</td><td class="number">'
        f'{each.words}</td><td class="number">{_percent(1 - each.correct)}</td><td class="bar">'
        f'<i style="width:{100 * (1 - each.correct):.1f}%"></i></td></tr>\n'
        for each in reversed(after or before)
        if each.words
    )
    return (
        '<h2>Confidence against error</h2>\n<section class="confidence">\n'
        f"<figure>{reliability_diagram(before, after)}<figcaption>"
        "Dashed: as often right as confident. Bars: words.</figcaption></figure>\n"
        f'<div><p class="legend">Of {len(raw)} recognised words, {_percent(correct.mean())} are '
        f"right. Expected calibration error: {errors}.</p>\n"
        '<table class="breakdown"><tr><th>Confidence</th><th class="number">Words</th>'
        f'<th class="number">Wrong</th><th></th></tr>\n{rows}</table></div>\n</section>'
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _features_line(featurizer: Featurizer) -> str:
    config = featurizer.config
    kind = f"{config.bands} log-mel bands"
    if config.bands is None:
        kind = f"log-spectrogram of {featurizer.dimension} bins"
    return f"{kind}, 0 to {config.sample_rate / 2000:g} kHz"


# ---- an utterance


def _card(utterance: ScoredUtterance, media: str) -> str:
    words, characters = utterance.words, utterance.characters
    find = f"{utterance.id}\n{utterance.reference}\n{utterance.hypothesis}".lower()
    errors = f"{counted(words.errors, 'error')} in {counted(words.length, 'word')}"
    return (
        f'<article data-id="{escape(utterance.id)}" data-wer="{words.rate:.6g}" '
        f'data-duration="{utterance.duration:.3f}" data-find="{escape(find)}">\n'
        f"<h3>{escape(utterance.id)}</h3><p><span>{errors}</span> "
        f"<span>WER {_percent(words.rate)}</span> <span>CER {_percent(characters.rate)}</span> "
        f"<span>{utterance.duration:.2f} s</span></p>\n"
        f"{aligned(utterance.pairs)}{media}</article>"
    )


def aligned(pairs: Iterable[tuple[str | None, str | None]]) -> str:
    """Return columns with the reference's word above the hypothesis's, errors marked."""
    columns = []
    for reference, hypothesis in pairs:
        if hypothesis is None:
            columns.append(f"<span><del>{escape(reference or '')}</del><i></i></span>")
        elif reference is None:
            columns.append(f"<span><i></i><ins>{escape(hypothesis)}</ins></span>")
        elif reference == hypothesis:
            columns.append(f"<span><b>{escape(reference)}</b><i>{escape(hypothesis)}</i></span>")
        else:
            above, below = _marked_differences(reference, hypothesis)
            columns.append(f'<span class="sub"><b>{above}</b><b>{below}</b></span>')
    return f'<div class="aligned" dir="auto">{" ".join(columns)}</div>'


def _marked_differences(reference: str, hypothesis: str) -> tuple[str, str]:
    """Return both words; where they agree in part, with what differs marked."""
    operations = Levenshtein.opcodes(reference, hypothesis)
    if all(kind != "equal" for kind, *_ in operations):
        return escape(reference), escape(hypothesis)
    above, below = "", ""
    for kind, i, i_end, j, j_end in operations:
        form = "{}" if kind == "equal" else "<mark>{}</mark>"
        above += form.format(escape(reference[i:i_end])) if i < i_end else ""
        below += form.format(escape(hypothesis[j:j_end])) if j < j_end else ""
    return above, below


def _media(
    utterance: ScoredUtterance,
    samples: np.ndarray,
    featurizer: Featurizer,
    calibration: ConfidenceMap | None,
) -> str:
    """Return waveform, words and letters at their times, spectrogram, and player."""
    sound = encode_opus(samples, featurizer.config.sample_rate)
    seconds = len(samples) / featurizer.config.sample_rate
    marks = "".join(
        f'<time style="left:{100 * second / seconds:.2f}%">{second} s</time>'
        for second in range(1, int(seconds) + 1)
    )
    width = seconds * _PIXELS_PER_SECOND
    return (
        f'\n<div class="scroll"><div class="timeline" style="width:{width:.0f}px">'
        f"{waveform(samples, max(round(seconds * _COLUMNS_PER_SECOND), 1))}"
        f"{_words(utterance, seconds, calibration)}"
        f'<img alt="spectrogram" src="{_data("image/png", spectrogram(featurizer(samples)))}">'
        f'<div class="letters" aria-hidden="true">{_letters(utterance, seconds)}</div>'
        f'<div class="seconds">{marks}</div><i class="playhead"></i></div></div>\n'
        f'<audio controls preload="none" src="{_data("audio/ogg", sound)}"></audio>\n'
    )


def _words(utterance: ScoredUtterance, seconds: float, calibration: ConfidenceMap | None) -> str:
    """Return the recognised words from start to end, in colours by confidence."""
    boxes = []
    for raw in utterance.timed:
        word = raw if calibration is None else calibration.word(raw)
        sure = "sure" if word.confidence >= _SURE else "fair" if word.confidence >= _FAIR else "low"
        left, width = 100 * word.start / seconds, 100 * (word.end - word.start) / seconds
        title = f"{word.start:.2f} – {word.end:.2f} s, confidence {_percent(word.confidence)}"
        boxes.append(
            f'<span class="{sure}" style="left:{left:.2f}%;width:{width:.2f}%" '
            f'title="{escape(word.word)}: {title}">{escape(word.word)}</span>'
        )
    return f'<div class="words" aria-hidden="true">{"".join(boxes)}</div>' if boxes else ""


def _letters(utterance: ScoredUtterance, seconds: float) -> str:
    spans, last = [], -np.inf
    for letter, time in zip(utterance.letters, utterance.times):
        lower = _PIXELS_PER_SECOND * (time - last) < _LETTER_WIDTH  # no room beside the last one
        last = -np.inf if lower else time
        spans.append(
            f'<span style="left:{100 * time / seconds:.2f}%"{" class=low" if lower else ""}>'
            f"{'␣' if letter == ' ' else escape(letter)}</span>"
        )
    return "".join(spans)


def spectrogram(features: np.ndarray) -> bytes:
    """Encode features (F, T) as PNG: time to the right, frequency upwards, a pixel each."""
    colormaps = package("matplotlib", "draws the spectrograms of reports").colormaps
    from PIL import Image  # matplotlib needs it, too

    low, high = np.percentile(features, [2, 99.5])
    shades = np.clip((features - low) / max(high - low, 1e-6), 0, 1) * (_SHADES - 1)
    image = Image.fromarray(np.rint(shades[::-1]).astype(np.uint8))
    colours = colormaps["magma"](np.linspace(0, 1, _SHADES), bytes=True)[:, :3]
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
