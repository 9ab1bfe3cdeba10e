"""Descriptions of exported models: where they are, and whether their files are the described ones.

A description is a JSON file beside the files that it describes: NAME.json for NAME.mindir and for
its buckets, NAME.onnx.json for NAME.onnx, NAME.air.json for NAME.air. Earlier versions wrote
NAME.json for every format, so that an export in another format took the place of the first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.utils.errors import UserError
from common.utils.files import read_json

_CHUNK = 1 << 22  # bytes read at a time


def description_of(file: Path) -> Path:
    """Return where the description of an exported file is written.

    Args:
        file: The exported file.

    Returns:
        NAME.json for NAME.mindir; for other formats the file's name with .json behind it.
    """
    if file.suffix == ".mindir":
        return file.with_suffix(".json")
    return file.with_name(f"{file.name}.json")


def find_description(model: Path) -> Path:
    """Find the description of a model.

    Args:
        model: The description itself; an exported file, also NAME_graph.mindir, which MindSpore
            writes above 1 GB; or what converter_lite made: NAME.mindir or NAME.onnx.mindir of
            NAME.onnx, NAME.offline.mindir of NAME.mindir.

    Returns:
        The first of its descriptions that is there; where none is, the one that export.py writes.
    """
    if model.suffix == ".json":
        return model
    usual = description_of(model)
    stem = usual.name.removesuffix(".json")  # of a MindIR file; NAME.onnx of an ONNX file
    candidates = [stem]
    if model.suffix == ".mindir":
        plain = stem.removesuffix("_graph")
        candidates += [plain, f"{stem}.onnx", plain.removesuffix(".offline")]
    for name in candidates:
        if (path := model.with_name(f"{name}.json")).is_file():
            return path
    # Of earlier versions: NAME.json for NAME.onnx.
    path = model.with_name(f"{Path(stem).stem}.json")
    if stem.endswith((".onnx", ".air")) and stem in described_files(read_json(path)):
        return path
    return usual


def described_files(content: dict[str, Any] | None) -> list[str]:
    """List the names of the model files of a description, one for each bucket.

    Args:
        content: Of the description; None: there is none.
    """
    content = content or {}
    names = [bucket.get("file") for bucket in content.get("buckets", [])] or [content.get("file")]
    return [name for name in names if isinstance(name, str) and name]


def identify(paths: Iterable[Path], folder: Path) -> list[dict[str, Any]]:
    """Describe the content of files, so that they can be told from others.

    Args:
        paths: Files, and folders of files.
        folder: What the names are relative to.

    Returns:
        For each file its name, its size in bytes and its CRC-32 (ISO 3309) as eight hexadecimal
        digits.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file()
    ]
    return [
        {
            "file": file.relative_to(folder).as_posix(),
            "bytes": file.stat().st_size,
            "crc32": checksum(file),
        }
        for file in files
    ]


def check_content(content: Mapping[str, Any], where: str | Path) -> None:
    """Refuse a description whose lists of files are damaged; those of earlier versions lack some.

    Args:
        content: Of the description.
        where: Its path, for the message.

    Raises:
        UserError: What is read of it here is not of the right types.
    """
    lists: dict[str, dict[str, type]] = {
        "buckets": {"file": str, "batch_size": int, "frames": int},
        "files": {"file": str, "bytes": int, "crc32": str},
    }
    for key, kinds in lists.items():
        entries = content.get(key, [])
        if not isinstance(entries, list) or not all(_has(entry, kinds) for entry in entries):
            raise UserError(f"{where}: its {key} are damaged; export the model anew")
    graphs = [bucket["graph"] for bucket in content.get("buckets", []) if "graph" in bucket]
    if not all(_has(graph, {"operators": list}) for graph in graphs):
        raise UserError(f"{where}: what it says of the graph is damaged; export the model anew")


def _has(entry: object, kinds: Mapping[str, type]) -> bool:
    """Whether a dictionary has all of some keys, each with a value of its type."""
    return isinstance(entry, dict) and all(
        type(entry.get(key)) is kind for key, kind in kinds.items()
    )


def checksum(path: Path) -> str:
    """Compute the CRC-32 of a file, as eight hexadecimal digits."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def check_files(description: Path, renamed: Mapping[str, Path] | None = None) -> None:
    """Check that files are those that their description was written for.

    A model beside the description of another one would be recognised with wrong labels or features.
    Descriptions of earlier versions do not tell, and pass.

    Args:
        description: Path of the description.
        renamed: Names in the description -> the copies under other names that are used instead.

    Raises:
        UserError: A file is missing or another one.
    """
    for entry in (read_json(description) or {}).get("files", []):
        path = (renamed or {}).get(entry["file"], description.parent / entry["file"])
        if not path.is_file():
            raise UserError(f"{path}: no such file, and {description} describes it")
        size = path.stat().st_size
        if size != entry["bytes"]:
            found, expected = f"{size} bytes", f"{entry['bytes']} bytes"
        elif (found := checksum(path)) != entry["crc32"]:
            found, expected = f"checksum {found}", f"checksum {entry['crc32']}"
        else:
            continue
        raise UserError(
            f"{path}: {found}, but {description} describes a file of {expected}: one of the two "
            "is of another export; copy both from the same export, or export the model anew"
        )
