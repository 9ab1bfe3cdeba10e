"""Prepare LibriSpeech: download, unpack, convert, copy at other speeds, write manifests.

Speed is changed by libsoxr, which is SoX's own resampler as a library (soxr.readthedocs.io): what
`sox IN OUT speed S rate R` computes, without the program, which pip cannot install.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from tqdm import tqdm

from common.audio.io import AudioInfo, audio_info, load_audio
from common.data.corpora import librispeech_sets, write_librispeech
from common.data.manifest import Utterance
from common.utils.archives import unpack
from common.utils.download import download
from common.utils.errors import UserError
from common.utils.files import absolute_path, check_writable, replacing, write_text
from common.utils.wording import counted
from common.utils.worker_pool import worker_pool

# From https://www.openslr.org/resources/12/md5sum.txt (NVIDIA's Jasper and others have the same).
ARCHIVES = {
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
}
MIRRORS = {
    "main": "https://www.openslr.org/resources/12",
    "us": "https://us.openslr.org/resources/12",
    "eu": "https://openslr.elda.org/resources/12",
    "cn": "https://openslr.magicdatatech.com/resources/12",
}
_CORPUS = "LibriSpeech"  # the folder in every archive
_SPEEDS = (0.5, 2.0)


def fetch_librispeech(
    root: Path,
    names: Iterable[str],
    url: str = MIRRORS["main"],
    keep: bool = True,
    archives: dict[str, str] = ARCHIVES,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Download, verify and unpack sets to `root/LibriSpeech/<name>`, each complete or absent.

    Args:
        root: Where `LibriSpeech/` goes.
        names: The sets, such as "dev-clean".
        url: The folder of the archives.
        keep: Keep the archives, in `root/LibriSpeech/`.
        archives: MD5 sum of each set's archive.
        log: Receives lines for the user.

    Returns:
        The folders of the sets.

    Raises:
        UserError: As `download` and `unpack`.
    """
    folders = []
    for name in names:
        folder = root / _CORPUS / name
        if folder.is_dir():
            log(f"{folder}: there already")
        else:
            archive = root / _CORPUS / f"{name}.tar.gz"
            check_writable(archive.with_name(f"{archive.name}.part"))
            log(f"{name}: from {url}")
            download(f"{url.rstrip('/')}/{archive.name}", archive, archives[name], log)
            log(f"{name}: whole; unpacking")
            unpack(archive, f"{_CORPUS}/{name}", root)
            if not keep:
                archive.unlink()
        folders.append(folder)
    return folders


# ---- preparation


@dataclass(frozen=True)
class _Copy:
    """A recording to make of another; of itself where `target` is `source`."""

    source: Path
    target: Path
    speed: float  # factor


def prepare_librispeech(
    root: Path,
    out: Path,
    names: Sequence[str] = (),
    speeds: Sequence[float] = (),
    wav: bool = False,
    workers: int = 1,
    log: Callable[[str], None] = print,
) -> dict[Path, int]:
    """Write manifests of the sets in a folder, for both models.

    For each set: `libri_<set>_manifest.csv`, and Jasper's `librispeech-<set>-wav.json`, whose name
    its configurations expect even if recordings stay FLAC. All train sets and all dev sets are
    also joined, as `libri_train_manifest.csv` and `libri_val_manifest.csv`.

    Args:
        root: As in `corpora.librispeech_sets`.
        out: Where the manifests go.
        names: The sets; none: all that are there.
        speeds: Speeds at which training sets are copied, to `<set>-flac/` or `<set>-wav/`; the JSON
            lists the copies with each utterance. Existing copies are kept.
        wav: Convert to 16-bit WAV in `<set>-wav/` beside the set, rather than leave FLAC as it is.
        workers: Processes that convert.
        log: Receives lines for the user.

    Returns:
        The number of utterances of each manifest.

    Raises:
        UserError: A set is missing, or a recording cannot be read.
    """
    for speed in speeds:
        if not _SPEEDS[0] <= speed <= _SPEEDS[1]:
            raise UserError(f"speed {speed:g}: expected {_SPEEDS[0]:g} to {_SPEEDS[1]:g}")
    sets = librispeech_sets(root)
    if missing := [name for name in names if name not in sets]:
        raise UserError(f"{root}: no set {missing[0]}, found {', '.join(sets)}")
    out.mkdir(parents=True, exist_ok=True)
    written, listed = {}, {}
    for name, (folder, utterances) in sets.items():
        if names and name not in names:
            continue
        suffix = "wav" if wav else "flac"
        copies = [
            [*_copies(u.audio, folder, speeds if name.startswith("train-") else (), suffix, wav)]
            for u in utterances
        ]
        flat = [copy for copies_of_one in copies for copy in copies_of_one]
        infos = dict(zip(flat, _make_all(flat, f"{name}: recordings", workers)))
        path = out / f"librispeech-{name}-wav.json"
        entries = [
            _entry(utterance, recordings, infos, out)
            for utterance, recordings in zip(utterances, copies)
        ]
        write_text(path, json.dumps(entries, ensure_ascii=False, indent=1))
        written[path] = len(entries)
        written_copies = sum(copy.target != copy.source for copy in flat)
        made = f"{counted(written_copies, 'recording')} made of them"
        log(f"{name}: {counted(len(utterances), 'utterance')}, {made}")
        listed[name] = [
            replace(utterance, audio=recordings[0].target)
            for utterance, recordings in zip(utterances, copies)
        ]
    return {**written, **write_librispeech(listed, out)}


def _copies(
    source: Path, folder: Path, speeds: Sequence[float], suffix: str, convert: bool
) -> Iterable[_Copy]:
    """Yield the recordings of an utterance, at its own speed first, named as the original does."""
    stem = folder.with_name(f"{folder.name}-{suffix}") / source.relative_to(folder).with_suffix("")
    yield _Copy(source, stem.with_name(f"{stem.name}.{suffix}") if convert else source, 1.0)
    for speed in dict.fromkeys(speeds):
        if speed != 1.0:
            yield _Copy(source, stem.with_name(f"{stem.name}-{speed:g}.{suffix}"), speed)


def _entry(
    utterance: Utterance, copies: Sequence[_Copy], infos: dict[_Copy, AudioInfo], out: Path
) -> dict:
    """Return an entry as Jasper's convert_librispeech.py writes it.

    Paths are relative to the manifest's folder where they are inside it.
    """
    files, folder = [], absolute_path(out)
    for copy in copies:
        info, path = infos[copy], copy.target
        inside = path.is_relative_to(folder)
        files.append(
            {
                "channels": info.channels,
                "sample_rate": info.sample_rate,
                "duration": info.duration,
                "num_samples": info.samples,
                "fname": str(path.relative_to(folder) if inside else path),
                "speed": copy.speed,
            }
        )
    return {
        "transcript": utterance.text.lower(),
        "files": files,
        "original_duration": files[0]["duration"],
        "original_num_samples": files[0]["num_samples"],
    }


def _make_all(copies: Sequence[_Copy], label: str, workers: int) -> list[AudioInfo]:
    with tqdm(total=len(copies), desc=label, disable=None, leave=False) as bar:
        infos = []
        if workers < 2 or len(copies) < 2 * workers:
            for copy in copies:
                infos.append(_make(copy))
                bar.update()
            return infos
        pool = worker_pool(workers)
        try:
            for info in pool.map(_make, copies, chunksize=16):
                infos.append(info)
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
        return infos


def _make(copy: _Copy) -> AudioInfo:
    """Write a recording that does not exist yet; return its header."""
    if copy.target == copy.source:
        return audio_info(copy.source)
    if copy.target.is_file():  # complete, since it is renamed last
        return audio_info(copy.target)
    rate = audio_info(copy.source).sample_rate
    samples = load_audio(copy.source, rate)
    if copy.speed != 1.0:
        samples = soxr.resample(samples, rate * copy.speed, rate, "HQ")
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    with replacing(copy.target, durable=False) as partial:
        sf.write(partial, pcm, rate, subtype="PCM_16")
    return audio_info(copy.target)
