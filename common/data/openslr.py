"""Download of Mandarin corpora from OpenSLR.

Sizes in bytes are those that Kaldi's recipe multi_cn checks (github.com/kaldi-asr/kaldi,
egs/multi_cn/s5/local). MD5 sums are those of github.com/PaddlePaddle/PaddleSpeech, dataset/, for
AISHELL-1 and THCHS-30, and of github.com/yeyupiaoling/PPASR, download_data/, for ST-CMDS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.utils.archives import unpack, unpack_all
from common.utils.download import download
from common.utils.errors import UserError
from common.utils.files import check_writable

MIRRORS = {
    "main": "https://www.openslr.org/resources",
    "us": "https://us.openslr.org/resources",
    "eu": "https://openslr.elda.org/resources",
    "cn": "https://openslr.magicdatatech.com/resources",
}
_NOT_COMMERCIAL = "CC BY-NC-ND 4.0: not for commercial use"
_ON_ITS_PAGE = "licence: see its page"  # could not be looked up


@dataclass(frozen=True)
class Archive:
    """An archive of a corpus.

    Attributes:
        file: Its name.
        folder: What holds its content, below the corpora's folder.
        wrapped: Whether the last part of `folder` is in the archive.
        size: Bytes; None: not published.
        md5: MD5 sum; None: not published.
    """

    file: str
    folder: str
    wrapped: bool = True
    size: int | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Resource:
    """A corpus at OpenSLR.

    Attributes:
        number: Of its page, openslr.org/<number>.
        licence: As its page states it.
        archives: What is downloaded.
    """

    number: int
    licence: str
    archives: tuple[Archive, ...]


RESOURCES = {
    "aishell1": Resource(
        33,
        "Apache 2.0",
        (
            Archive(
                "data_aishell.tgz",
                "data_aishell",
                size=15_582_913_665,
                md5="2f494334227864a8a8fec932999db9d8",
            ),
        ),
    ),
    "thchs30": Resource(
        18,
        _ON_ITS_PAGE,
        (
            Archive(
                "data_thchs30.tgz",
                "data_thchs30",
                size=6_453_425_169,
                md5="2d2252bde5c8429929e1841d4cb95e90",
            ),
        ),
    ),
    "stcmds": Resource(
        38,
        _ON_ITS_PAGE,
        (
            Archive(
                "ST-CMDS-20170001_1-OS.tar.gz",
                "ST-CMDS-20170001_1-OS",
                size=8_231_662_593,
                md5="c28ddfc8e4ebe48949bc79a0c23c5545",
            ),
        ),
    ),
    "primewords": Resource(
        47,
        _NOT_COMMERCIAL,
        (Archive("primewords_md_2018_set1.tar.gz", "primewords_md_2018_set1", size=9_057_625_192),),
    ),
    "magicdata": Resource(
        68,
        _NOT_COMMERCIAL,
        (
            Archive("train_set.tar.gz", "magicdata/train", size=52_627_842_921),
            Archive("dev_set.tar.gz", "magicdata/dev", size=1_035_537_823),
            Archive("test_set.tar.gz", "magicdata/test", size=2_201_936_013),
        ),
    ),
    "aishell3": Resource(
        93, "Apache 2.0", (Archive("data_aishell3.tgz", "data_aishell3", wrapped=False),)
    ),
}


def fetch_corpus(
    root: Path,
    name: str,
    url: str = MIRRORS["main"],
    keep: bool = True,
    resources: Mapping[str, Resource] = RESOURCES,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Download, verify and unpack a corpus; each of its folders is complete or absent.

    Args:
        root: Where its folders go.
        name: Key of `resources`.
        url: The folder of all resources.
        keep: Keep the archives, in `root`.
        resources: What can be downloaded.
        log: Receives lines for the user.

    Returns:
        The folders, for `corpus_layouts.read_corpus`.

    Raises:
        UserError: The name is not known; or as `download` and `unpack`.
    """
    if name not in resources:
        raise UserError(f"corpus {name}: expected one of {', '.join(resources)}")
    resource, folders = resources[name], []
    log(f"{name}: openslr.org/{resource.number}, {resource.licence}")
    for archive in resource.archives:
        folder = root / archive.folder
        folders.append(folder)
        if folder.is_dir():
            log(f"{folder}: there already")
            continue
        path = root / archive.file
        check_writable(path.with_name(f"{path.name}.part"))
        address = f"{url.rstrip('/')}/{resource.number}/{archive.file}"
        log(f"{name}: from {address}")
        download(address, path, archive.md5, log, size=archive.size)
        log(f"{path}: whole; unpacking")
        if archive.wrapped:
            unpack(path, folder.name, folder.parent)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            unpack_all(path, folder)
        if not keep:
            path.unlink()
    return folders
