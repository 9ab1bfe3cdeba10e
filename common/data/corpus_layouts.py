"""Utterances of Mandarin corpora and of Common Voice, in the layouts that are published.

| name | corpus | sets |
| --- | --- | --- |
| aishell1 | AISHELL-1 (Bu et al. 2017), openslr.org/33 | train, dev, test |
| thchs30 | THCHS-30 (Wang, Zhang 2015), openslr.org/18 | train, dev, test |
| stcmds | Free ST Chinese Mandarin Corpus, openslr.org/38 | by speaker |
| primewords | Primewords Chinese Corpus Set 1, openslr.org/47 | by speaker |
| magicdata | MAGICDATA Mandarin Read Speech, openslr.org/68 | train, dev, test |
| aishell3 | AISHELL-3 (Shi et al. 2020), openslr.org/93 | train, test; val: training speakers |
| commonvoice | Mozilla Common Voice, any one language | train, dev, test |

Where a corpus has no official sets, or no development set, a twentieth of the speakers goes to val,
and to test: those that come first by the MD5 sums of their names, the same on every machine.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.data.manifest import Utterance, make_utterance
from common.utils.archives import unpack_all
from common.utils.errors import UserError
from common.utils.files import absolute_path, read_text
from common.utils.wording import counted

SETS = ("train", "val", "test")
_OFFICIAL = {"train": "train", "val": "dev", "test": "test"}  # their names in most corpora
_HELD_OUT = 20  # one of so many speakers
NO_TRANSCRIPT, NO_RECORDING = "no transcript", "no recording"


@dataclass(frozen=True)
class LeftOut:
    """An utterance that no manifest holds.

    Attributes:
        corpus: Its corpus.
        id: Its name there.
        reason: Why, such as NO_TRANSCRIPT.
        where: The file that should say more, or be there.
    """

    corpus: str
    id: str
    reason: str
    where: Path


@dataclass
class Corpus:
    """The utterances of a corpus.

    Attributes:
        name: Key of READERS.
        sets: Utterances by "train", "val" and "test".
        left_out: Utterances without a recording or a transcript.
        notes: What else the user should know.
    """

    name: str
    sets: dict[str, list[Utterance]] = field(default_factory=lambda: {name: [] for name in SETS})
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _taken: set[Path] = field(default_factory=set)

    def add(self, part: str, audio: Path, text: str, speaker: str, where: Path) -> None:
        """Add an utterance, or name it among those left out.

        Args:
            part: Its set.
            audio: Its recording; absolute.
            text: Its transcript.
            speaker: Who speaks.
            where: The file with the transcript.
        """
        if not text.strip():
            self.leave_out(audio.stem, NO_TRANSCRIPT, where)
        elif not is_file(audio):
            self.leave_out(audio.stem, NO_RECORDING, audio)
        elif audio in self._taken:
            self.leave_out(audio.stem, "listed again", where)
        else:
            utterance = make_utterance(audio.parent, audio.name, text)
            self.sets[part].append(replace(utterance, speaker=speaker))
        self._taken.add(audio)

    def readable(self, transcript: Path, what: str) -> Iterator[str]:
        """Yield the lines of one utterance's file; none, and a note, if it cannot be read."""
        try:
            yield from _lines(transcript, what)
        except UserError as error:
            self.notes.append(f"{self.name}: {error}")

    def leave_out(self, utterance: str, reason: str, where: Path) -> None:
        """Name an utterance that no manifest is to hold."""
        self.left_out.append(LeftOut(self.name, utterance, reason, where))

    def add_untold(self, recordings: Iterable[Path]) -> None:
        """Leave out the recordings that no transcript was found for."""
        for audio in recordings:
            if audio not in self._taken:
                self.leave_out(audio.stem, NO_TRANSCRIPT, audio)

    def hold_out(self, *parts: str) -> None:
        """Move the utterances of some training speakers to other sets."""
        speakers = sorted({u.speaker for u in self.sets["train"]}, key=_order)
        count = max(1, len(speakers) // _HELD_OUT)
        if len(speakers) < 2 * len(parts) + 1:
            self.notes.append(
                f"{self.name}: {counted(len(speakers), 'speaker')}, too few to set some aside: all "
                "utterances are in train"
            )
            return
        chosen = {
            speaker: part
            for place, part in enumerate(parts)
            for speaker in speakers[place * count : (place + 1) * count]
        }
        everything, self.sets["train"] = self.sets["train"], []
        for utterance in everything:
            self.sets[chosen.get(utterance.speaker, "train")].append(utterance)


def _order(speaker: str) -> str:
    return hashlib.md5(speaker.encode(), usedforsecurity=False).hexdigest()


def is_file(path: Path) -> bool:
    """Whether a recording is there; each folder is listed once, since corpora have many files."""
    return path.name in _names(str(path.parent))


@functools.lru_cache(maxsize=4096)
def _names(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def read_corpus(name: str, root: str | Path) -> Corpus:
    """Read the utterances of a corpus.

    Args:
        name: Key of READERS.
        root: Its folder, or the folder that it was unpacked in.

    Returns:
        The utterances.

    Raises:
        UserError: The name is not known, or the corpus is not there, or empty.
    """
    if name not in READERS:
        raise UserError(f"corpus {name}: expected one of {', '.join(READERS)}")
    _names.cache_clear()
    reader, folders, layout = READERS[name]
    base = absolute_path(root)
    for place in (base, *(base / folder for folder in folders)):
        corpus = Corpus(name)
        if reader(place, corpus):
            break
    else:
        raise UserError(f"{base}: no {name} found, expected a folder that holds {layout}")
    if not any(corpus.sets.values()):
        raise UserError(
            f"{base}: {name} holds no utterance with both a recording and a transcript"
            + (f" ({_first(corpus.left_out)})" if corpus.left_out else "")
        )
    return corpus


def _first(left_out: list[LeftOut]) -> str:
    first = left_out[0]
    return f"{len(left_out)} left out; the first: {first.id}, {first.reason}: {first.where}"


def _lines(path: Path, what: str) -> Iterator[str]:
    for line in read_text(path, what).split("\n"):  # texts may hold other ends of lines
        if line.strip():
            yield line


def _aishell1(root: Path, corpus: Corpus) -> bool:
    """`wav/train/S0002/*.wav`; transcript/*.txt: id, then words with spaces between."""
    transcripts = sorted((root / "transcript").glob("aishell_transcript*.txt"))
    if not transcripts:
        return False
    for archive in sorted((root / "wav").glob("S*.tar.gz")):  # as the official archive has them
        speaker = archive.name.removesuffix(".tar.gz")
        if next((root / "wav").glob(f"*/{speaker}"), None) is None:
            unpack_all(archive, root / "wav")
    parts = {
        audio.stem: (part, audio)
        for part, folder in _OFFICIAL.items()
        for audio in sorted((root / "wav" / folder).glob("*/*.wav"))
    }
    for line in _lines(transcripts[-1], "AISHELL-1 transcripts"):
        utterance, _, text = line.partition(" ")
        if utterance in parts:
            part, audio = parts[utterance]
            corpus.add(part, audio, text, audio.parent.name, transcripts[-1])
        else:
            corpus.leave_out(utterance, NO_RECORDING, root / "wav")
    corpus.add_untold(audio for _, audio in parts.values())
    return True


def _thchs30(root: Path, corpus: Corpus) -> bool:
    """`train/A11_0.wav` and `.wav.trn`, whose content is a path into `data/`, or the transcript."""
    if not any((root / folder).is_dir() for folder in ("train", "dev", "data")):
        return False
    found = False
    for part, folder in _OFFICIAL.items():
        for transcript in sorted((root / folder).glob("*.wav.trn")):
            found = True
            audio = transcript.with_suffix("")
            if not is_file(audio) and is_file(root / "data" / audio.name):
                audio = root / "data" / audio.name
            text = _thchs30_text(transcript, corpus)
            corpus.add(part, audio, text, audio.stem.partition("_")[0], transcript)
        corpus.add_untold(sorted((root / folder).glob("*.wav")))
    return found


def _thchs30_text(transcript: Path, corpus: Corpus) -> str:
    """Return the first line: words with spaces between; pinyin and phones are below."""
    first = next(corpus.readable(transcript, "THCHS-30 transcript"), "").strip()
    if first.endswith(".trn"):
        target = transcript.parent / first
        return next(corpus.readable(target, "THCHS-30 transcript"), "")
    return first


def _stcmds(root: Path, corpus: Corpus) -> bool:
    """`20170001P00001A0001.wav` and `.txt`; the first 14 characters are the speaker.

    The letter behind them (A or I) may be the telephone or another person: as in Kaldi's recipe
    multi_cn both are one speaker, so that nobody is in two sets.
    """
    recordings = sorted(root.glob("2017*P*.wav"))
    transcripts = {path.stem: path for path in root.glob("2017*P*.txt")}
    if not recordings and not transcripts:
        return False
    for stem, transcript in sorted(transcripts.items()):
        text = next(corpus.readable(transcript, "ST-CMDS transcript"), "")
        corpus.add("train", root / f"{stem}.wav", text, stem[:14], transcript)
    corpus.add_untold(recordings)
    corpus.hold_out("val", "test")
    return True


def _primewords(root: Path, corpus: Corpus) -> bool:
    """`set1_transcript.json`; `audio_files/0/00/00a1….wav`, in folders of the name's beginning."""
    transcripts = root / "set1_transcript.json"
    if not transcripts.is_file():
        return False
    try:
        records = json.loads(read_text(transcripts, "Primewords transcripts"))
        rows = [(str(row["file"]), str(row["user_id"]), str(row["text"])) for row in records]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{transcripts}: not as published ({error!r}), expected a JSON list of objects with "
            "file, user_id and text"
        ) from None
    for name, speaker, text in rows:
        audio = root / "audio_files" / name[:1] / name[:2] / name
        corpus.add("train", audio, text, speaker, transcripts)
    corpus.add_untold(sorted((root / "audio_files").glob("*/*/*.wav")))
    corpus.hold_out("val", "test")
    return True


def _magicdata(root: Path, corpus: Corpus) -> bool:
    """`train/TRANS.txt`: file, speaker and text with tabs between; `train/<speaker>/<file>`."""
    found = False
    for part, folder in _OFFICIAL.items():
        transcripts = root / folder / "TRANS.txt"
        if not transcripts.is_file():
            continue
        found = True
        for line in _lines(transcripts, "MAGICDATA transcripts"):
            name, _, rest = line.partition("\t")
            speaker, _, text = rest.partition("\t")
            if name == "UtteranceID":
                continue
            audio = root / folder / speaker / name
            # Marks of what is no speech, such as [FIL].
            corpus.add(part, audio, re.sub(r"\[[A-Z]+\]", " ", text), speaker, transcripts)
        corpus.add_untold(sorted((root / folder).glob("*/*.wav")))
    return found


def _aishell3(root: Path, corpus: Corpus) -> bool:
    """`train/content.txt`: file, then characters and pinyin in turn; `train/wav/<speaker>/`."""
    found = False
    for part in ("train", "test"):
        transcripts = root / part / "content.txt"
        if not transcripts.is_file():
            continue
        found = True
        for line in _lines(transcripts, "AISHELL-3 transcripts"):
            name, _, content = line.partition("\t")
            speaker = name[:7]
            audio = root / part / "wav" / speaker / name
            # Pinyin has a tone; 5 is neutral, and 6 a third tone that became a second one.
            words = (word for word in content.split() if not re.fullmatch("[a-z]+[1-6]", word))
            corpus.add(part, audio, "".join(words), speaker, transcripts)
        corpus.add_untold(sorted((root / part / "wav").glob("*/*.wav")))
    if found:
        corpus.hold_out("val")
    return found


def _commonvoice(root: Path, corpus: Corpus) -> bool:
    """`train.tsv`, `dev.tsv`, `test.tsv`, else `validated.tsv`; recordings are in `clips/`."""
    if not _common_voice_tables(root):
        folders = [path.parent for path in sorted(root.glob("*/validated.tsv"))]
        folders += [path.parent for path in sorted(root.glob("*/train.tsv"))]
        languages = sorted(set(folders))
        if len(languages) > 1:
            names = ", ".join(str(folder.relative_to(root)) for folder in languages)
            raise UserError(
                f"{root}: Common Voice in several languages, name the folder of one: {names}"
            )
        return bool(languages) and _commonvoice(languages[0], corpus)
    for part, table in _common_voice_tables(root).items():
        _common_voice_table(table, root / "clips", part, corpus)
    if not corpus.sets["val"] and not corpus.sets["test"]:
        corpus.hold_out("val", "test")
    return True


def _common_voice_tables(root: Path) -> dict[str, Path]:
    tables = {part: root / f"{name}.tsv" for part, name in _OFFICIAL.items()}
    tables = {part: table for part, table in tables.items() if table.is_file()}
    if not tables and (root / "validated.tsv").is_file():
        return {"train": root / "validated.tsv"}
    return tables


def _common_voice_table(table: Path, clips: Path, part: str, corpus: Corpus) -> None:
    lines = _lines(table, "Common Voice table")  # tabs between, and quotes stand for themselves
    columns = next(lines, "").split("\t")
    if missing := {"client_id", "path", "sentence"} - set(columns):
        raise UserError(f"{table}: no column {', '.join(sorted(missing))}; is it Common Voice's?")
    places = [columns.index(name) for name in ("path", "sentence", "client_id")]
    for number, line in enumerate(lines, 2):
        cells = line.split("\t")
        if len(cells) <= max(places):
            corpus.leave_out(f"line {number}", "line cut", table)
            continue
        name, text, speaker = (cells[place] for place in places)
        name += "" if Path(name).suffix else ".mp3"  # as the first releases have it
        corpus.add(part, clips / name, text, speaker, table)


Reader = Callable[[Path, Corpus], bool]  # whether the corpus is in the folder
# Reader, names of the folder that the archive has, layout for messages.
READERS: dict[str, tuple[Reader, tuple[str, ...], str]] = {
    "aishell1": (_aishell1, ("data_aishell",), "transcript/aishell_transcript_v0.8.txt and wav/"),
    "thchs30": (_thchs30, ("data_thchs30",), "train/, dev/ and test/ with *.wav.trn, and data/"),
    "stcmds": (_stcmds, ("ST-CMDS-20170001_1-OS",), "20170001P*.wav and .txt"),
    "primewords": (
        _primewords,
        ("primewords_md_2018_set1",),
        "set1_transcript.json and audio_files/",
    ),
    "magicdata": (_magicdata, ("magicdata", "MAGICDATA"), "train/, dev/ or test/ with TRANS.txt"),
    "aishell3": (_aishell3, ("data_aishell3", "AISHELL-3"), "train/ or test/ with content.txt"),
    "commonvoice": (_commonvoice, (), "train.tsv, dev.tsv, test.tsv and clips/ of one language"),
}


def by_reason(left_out: Iterable[LeftOut]) -> dict[str, list[LeftOut]]:
    """Sort utterances that are left out by why they are."""
    sorted_out: dict[str, list[LeftOut]] = defaultdict(list)
    for each in left_out:
        sorted_out[each.reason].append(each)
    return dict(sorted_out)
