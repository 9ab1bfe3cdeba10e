"""Manifests of corpora in their official layouts; `corpus_layouts` knows those of Mandarin."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.data.asrt_lists import read_asrt_lists
from common.data.corpus_layouts import (
    READERS,
    SETS,
    Corpus,
    LeftOut,
    by_reason,
    read_corpus,
)
from common.data.manifest import Utterance, make_utterance
from common.data.manifest_writers import write_csv, write_jsonl
from common.utils.archives import unpack
from common.utils.errors import UserError
from common.utils.files import absolute_path, read_text, write_text
from common.utils.wording import counted

AN4_ARCHIVE = "an4_sphere.tar.gz"
_LIBRISPEECH_SETS = ("train-", "dev-", "test-")
# Folders in which the recipes of DeepSpeech2 sort the sets, or their archives.
_LIBRISPEECH_PARTS = ("train", "val", "test_clean", "test_other")


def build_an4(root: str | Path, out_dir: str | Path) -> dict[Path, int]:
    """Write CSV manifests of CMU AN4: train, val and test.

    AN4 has no development set, so every 15th training speaker (5 of 74) goes to val. The official
    archive is unpacked where the folder holds nothing else of it.

    Args:
        root: The folder of the corpus (`etc/`, `wav/`), or one that holds it as `an4/`.
        out_dir: Where the manifests go.

    Returns:
        The number of utterances of each manifest.

    Raises:
        UserError: The corpus is not there, or not complete.
    """
    archive = Path(root, AN4_ARCHIVE)
    if archive.is_file() and not any(Path(root, name).is_dir() for name in ("an4", "etc")):
        unpack(archive, "an4", Path(root))
    for place in _places(root, "an4"):
        if (place / "etc/an4_train.fileids").is_file():
            break
    else:
        raise _not_found(root, "an4", "etc/an4_train.fileids and wav/")
    train, test = (_an4_set(place, name) for name in ("train", "test"))
    speakers = sorted({u.audio.parent.name for u in train})
    val_speakers = set(speakers[::15])
    parts = {
        "train": [u for u in train if u.audio.parent.name not in val_speakers],
        "val": [u for u in train if u.audio.parent.name in val_speakers],
        "test": test,
    }
    return _write_parts({f"an4_{name}": part for name, part in parts.items()}, Path(out_dir))


def _an4_set(root: Path, name: str) -> list[Utterance]:
    transcription = root / f"etc/an4_{name}.transcription"
    texts = {}
    for line in read_text(transcription, "AN4 transcription").splitlines():
        if match := re.fullmatch(r"(?:<s>)?(.*?)(?:</s>)?\s*\((\S+)\)\s*", line):
            texts[match[2]] = match[1]
    utterances = []
    for fileid in read_text(root / f"etc/an4_{name}.fileids", "AN4 file list").split():
        stem = Path(fileid).name
        if stem not in texts:
            raise UserError(f"{transcription}: no line for {stem}, which the file list holds")
        audio = root / "wav" / f"{fileid}.sph"
        if not audio.is_file():
            raise UserError(
                f"AN4 recording {audio} is missing: unpack {AN4_ARCHIVE} again (not the archive of "
                "raw recordings)"
            )
        utterances.append(make_utterance(root, str(audio), texts[stem]))
    return utterances


def build_librispeech(root: str | Path, out_dir: str | Path) -> dict[Path, int]:
    """Write CSV manifests of the LibriSpeech sets in a folder.

    Args:
        root: As in `librispeech_sets`.
        out_dir: Where the manifests go.

    Returns:
        The number of utterances of each manifest, as `write_librispeech` does.

    Raises:
        UserError: As `librispeech_sets`.
    """
    sets = {name: utterances for name, (_, utterances) in librispeech_sets(root).items()}
    return write_librispeech(sets, Path(out_dir))


def librispeech_sets(root: str | Path) -> dict[str, tuple[Path, list[Utterance]]]:
    """List the LibriSpeech sets (`train-*`, `dev-*`, `test-*`) in a folder.

    Official archives are unpacked first, to `LibriSpeech/` in the folder.

    Args:
        root: A folder with sets or archives in it or in `LibriSpeech/` in it, or in `train/`,
            `val/`, `test_clean/` and `test_other/` in one of these; the first that has a set takes
            precedence.

    Returns:
        Folder and utterances of each set, by its name.

    Raises:
        UserError: There is no set, or a recording is missing.
    """
    places = _librispeech_places(root)
    for archive in [path for place in places for path in sorted(place.glob("*.tar.gz"))]:
        name = archive.name.removesuffix(".tar.gz")
        unpacked = any((place / name).is_dir() for place in places)
        if name.startswith(_LIBRISPEECH_SETS) and not unpacked:
            unpack(archive, f"LibriSpeech/{name}", Path(root))
    folders = {folder.name: folder for place in places[::-1] for folder in _librispeech_sets(place)}
    if not folders:
        layout = (
            "train-*, dev-* or test-* with <speaker>/<chapter>/*.trans.txt, or their .tar.gz "
            f"archives, also in {', '.join(_LIBRISPEECH_PARTS)}"
        )
        raise _not_found(root, "LibriSpeech", layout)
    return {name: (folders[name], _librispeech_set(folders[name])) for name in sorted(folders)}


def write_librispeech(sets: dict[str, list[Utterance]], out_dir: Path) -> dict[Path, int]:
    """Write CSV manifests, such as `libri_test_clean_manifest.csv`, one for each set.

    All train sets and all dev sets are also joined, as `libri_train_manifest.csv` and
    `libri_val_manifest.csv`.

    Args:
        sets: The utterances of each set, by its name.
        out_dir: Where the manifests go.

    Returns:
        The number of utterances of each manifest.
    """
    parts = {f"libri_{name.replace('-', '_')}": part for name, part in sets.items()}
    for name, prefix in (("libri_train", "train-"), ("libri_val", "dev-")):
        joined = [u for set_name, part in sets.items() if set_name.startswith(prefix) for u in part]
        if joined:
            parts[name] = joined
    return _write_parts(parts, out_dir)


def _librispeech_places(root: str | Path) -> list[Path]:
    """Return the folders that may hold sets or archives, as absolute paths."""
    places = _places(root, "LibriSpeech")
    parts = [place / part for place in places for part in _LIBRISPEECH_PARTS]
    return [*places, *parts, *(part / "LibriSpeech" for part in parts)]


def _librispeech_sets(root: Path) -> Iterator[Path]:
    for folder in root.glob("*-*"):
        if folder.name.startswith(_LIBRISPEECH_SETS) and next(folder.glob("*/*/*.trans.txt"), None):
            yield folder


def _librispeech_set(folder: Path) -> list[Utterance]:
    utterances = []
    for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
        present = set(os.listdir(transcripts.parent))
        for line in read_text(transcripts, "LibriSpeech transcripts").splitlines():
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            if f"{name}.flac" not in present:
                raise UserError(
                    f"LibriSpeech recording {transcripts.parent / name}.flac is missing: "
                    "unpack the archive again"
                )
            utterances.append(make_utterance(transcripts.parent, f"{name}.flac", text))
    return utterances


def build_corpora(
    sources: Sequence[tuple[str, str | Path]],
    out_dir: str | Path,
    name: str = "",
    log: Callable[[str], None] = print,
) -> dict[Path, int]:
    """Write manifests (JSON lines, with speakers) of corpora: train, val and test.

    Each corpus has its own, such as `thchs30_train_manifest.jsonl`; several are also joined. A
    corpus that is not there is named, and the others go on; `left_out.tsv` names each utterance
    without a recording or a transcript.

    Args:
        sources: Name of each corpus, of `corpus_layouts.READERS`, and its folder.
        out_dir: Where the manifests go.
        name: Beginning of the joint manifests' names; empty: "all", where there are several
            corpora.
        log: Receives lines for the user.

    Returns:
        The number of utterances of each manifest.

    Raises:
        UserError: None of the corpora is there, or one is damaged.
    """
    corpora, missing = [], []
    for corpus, root in sources:
        try:
            corpora.append(read_corpus(corpus, root))
        except UserError as error:
            if corpus not in READERS:
                raise
            missing.append(str(error))
    if not corpora:
        raise UserError("; ".join(missing) or "no corpus is named")
    for line in missing:
        log(f"{line}; the others go on")
    groups: dict[str, list[Corpus]] = {}
    for found in corpora:
        groups.setdefault(found.name, []).append(found)
    if name in groups:
        raise UserError(f"--name {name}: one of the corpora is called that; choose another")
    if name or len(groups) > 1:
        groups[name or "all"] = corpora
    return _write_corpora(groups, out_dir, log)


def build_asrt(
    config: str | Path,
    out_dir: str | Path,
    data_path: str | Path | None = None,
    log: Callable[[str], None] = print,
) -> dict[Path, int]:
    """Write manifests of the corpora in ASRT's lists; their texts are syllables.

    Args:
        config: As in `read_asrt_lists`.
        out_dir: Where `asrt_train_manifest.jsonl` and so on go, and `left_out.tsv`.
        data_path: As in `read_asrt_lists`.
        log: Receives lines for the user.

    Returns:
        The number of utterances of each manifest.

    Raises:
        UserError: As `read_asrt_lists`.
    """
    return _write_corpora({"asrt": read_asrt_lists(config, data_path)}, out_dir, log)


def _write_corpora(
    groups: dict[str, list[Corpus]], out_dir: str | Path, log: Callable[[str], None]
) -> dict[Path, int]:
    """Write the manifests of groups of corpora, by the beginning of their names."""
    out_dir, counts = Path(out_dir), {}
    for name, corpora in groups.items():
        for part in SETS:
            utterances = [u for corpus in corpora for u in corpus.sets[part]]
            if utterances:
                path = out_dir / f"{name}_{part}_manifest.jsonl"
                write_jsonl(utterances, path)
                counts[path] = len(utterances)
    corpora = list({id(corpus): corpus for group in groups.values() for corpus in group}.values())
    left_out = [each for corpus in corpora for each in corpus.left_out]
    names = out_dir / "left_out.tsv"
    if left_out:
        rows = (f"{each.corpus}\t{each.id}\t{each.reason}\t{each.where}\n" for each in left_out)
        write_text(names, "corpus\tutterance\treason\tfile\n" + "".join(rows))
    else:
        names.unlink(missing_ok=True)  # of an earlier call
    for corpus in corpora:
        for line in [*corpus.notes, *_left_out(corpus, names)]:
            log(line)
    return counts


def _left_out(corpus: Corpus, names: Path) -> Iterator[str]:
    """Say how many utterances of a corpus are left out, and why."""
    if not corpus.left_out:
        return
    kept = sum(map(len, corpus.sets.values()))
    reasons: dict[str, list[LeftOut]] = by_reason(corpus.left_out)
    found = "; ".join(
        f"{reason}: {len(group)}, the first {group[0].id} ({group[0].where})"
        for reason, group in reasons.items()
    )
    yield (
        f"{corpus.name}: {counted(len(corpus.left_out), 'utterance')} left out beside {kept}: "
        f"{found}; all are named in {names}"
    )


def _places(root: str | Path, name: str) -> tuple[Path, Path]:
    """Return where a corpus may be, as absolute paths: `root`, or a folder of its own there."""
    root = absolute_path(root)
    return root, root / name


def _not_found(root: str | Path, name: str, layout: str) -> UserError:
    return UserError(
        f"{absolute_path(root)}: no {name} found, expected a folder that holds {layout}"
    )


def _write_parts(parts: dict[str, list[Utterance]], out_dir: Path) -> dict[Path, int]:
    counts = {}
    for name, utterances in parts.items():
        path = out_dir / f"{name}_manifest.csv"
        write_csv(utterances, path)
        counts[path] = len(utterances)
    return counts
