"""Lists of the recogniser ASRT: recordings and their syllables, of several corpora.

`asrt_config.json` names, under `dataset`, the corpora of `train`, `dev` and `test`: an object each
with `name`, `data_list`, `label_list` and `data_path`. A line of a `data_list` (`*.wav.lst`) is an
id and a path below `data_path`; a line of a `label_list` (`*.syllable.txt`) is an id and its
syllables, such as `lv4 shi4`, with spaces between (github.com/nl8590687/ASRT_SpeechRecognition).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.data.corpus_layouts import NO_RECORDING, NO_TRANSCRIPT, Corpus, is_file
from common.utils.errors import UserError
from common.utils.files import absolute_path, read_text
from common.utils.json_parsing import parse_json

_SETS = {"train": "train", "val": "dev", "test": "test"}
_KEYS = ("name", "data_list", "label_list", "data_path")


def read_asrt_lists(config: str | Path, data_path: str | Path | None = None) -> list[Corpus]:
    """Read the corpora that ASRT's configuration lists; the text of an utterance is its syllables.

    A corpus that is not there, be it its lists or all its recordings, has a note and no utterance.

    Args:
        config: `asrt_config.json`. Relative paths in it start in its folder.
        data_path: Folder of the corpora; None: `data_path` of each.

    Returns:
        The corpora, each with the one set that it is listed for.

    Raises:
        UserError: The file cannot be read, is of another kind, or none of its corpora is there.
    """
    path = absolute_path(config)
    corpora = []
    for part, entries in _entries(path).items():
        for entry in entries:
            folder = entry["data_path"] if data_path is None else str(absolute_path(data_path))
            corpora.append(_read(path.parent, entry, part, path.parent / folder))
    if not any(any(corpus.sets.values()) for corpus in corpora):
        notes = "; ".join(note for corpus in corpora for note in corpus.notes[:1])
        raise UserError(
            f"{path}: none of its corpora is there: {notes or 'it lists none'}; give the folder "
            "that they are in, --data_path"
        )
    return corpora


def _entries(path: Path) -> dict[str, list[dict[str, str]]]:
    expected = f'expected {{"dataset": {{"train": [{{{", ".join(_KEYS)}}}], "dev": …, "test": …}}}}'
    try:
        dataset = parse_json(read_text(path, "ASRT's configuration"))["dataset"]
        sets = {part: dataset.get(name, []) for part, name in _SETS.items()}
        return {part: [_entry(entry) for entry in entries] for part, entries in sets.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no configuration of ASRT ({error!r}); {expected}") from None


def _entry(entry: Any) -> dict[str, str]:
    values = {key: entry[key] for key in _KEYS}
    if not all(isinstance(value, str) for value in values.values()):
        raise TypeError(f"{entry['name']}: {', '.join(_KEYS)} are text")
    return values


def _read(base: Path, entry: dict[str, str], part: str, folder: Path) -> Corpus:
    corpus = Corpus(entry["name"])
    data_list, label_list = base / entry["data_list"], base / entry["label_list"]
    for path in (data_list, label_list):
        if not path.is_file():
            corpus.notes.append(f"{corpus.name}: left out, its list {path} is not there")
            return corpus
    recordings, labels = _list(data_list), _list(label_list)
    present = {id for id, name in recordings.items() if name and is_file(_below(folder, name))}
    if not present:
        corpus.notes.append(
            f"{corpus.name}: left out, none of the {len(recordings)} recordings of {data_list} is "
            f"in {folder}"
        )
        return corpus
    for id, name in recordings.items():
        if id not in labels:
            corpus.leave_out(id, NO_TRANSCRIPT, label_list)
        elif id not in present:
            corpus.leave_out(id, NO_RECORDING, _below(folder, name))
        else:
            corpus.add(part, _below(folder, name), labels[id], "", label_list)
    for id in labels:
        if id not in recordings:
            corpus.leave_out(id, NO_RECORDING, data_list)
    return corpus


def _below(folder: Path, name: str) -> Path:
    return absolute_path(folder / name)


def _list(path: Path) -> dict[str, str]:
    """Return the lines of a list: what follows an id, by id."""
    found = {}
    for line in read_text(path, "ASRT's list").split("\n"):
        parts = line.split(maxsplit=1)
        if parts:
            found[parts[0]] = parts[1].strip() if len(parts) > 1 else ""
    return found
