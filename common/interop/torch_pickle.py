"""PyTorch's weight files, read and written without PyTorch; reading never runs code of a file.

A file of `torch.save` is a pickle and the raw numbers of its tensors, in a zip archive since
PyTorch 1.6. A pickle can call any function by its name. Here no name is imported: except for
tensors and OrderedDict each becomes a `Named` object, which stores its arguments and does nothing.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.utils.errors import UserError
from common.utils.files import replacing

Array = TypeVar("Array", "StoredTensor", np.ndarray)

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the files of PyTorch before 1.6
_MOST_UNPACKED = 1 << 30  # bytes of compressed entries; torch.save compresses none
_BFLOAT16 = "BFloat16Storage"  # numpy has no such type
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    _BFLOAT16: "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class Named:
    """Stands for an object that a file makes with the class or function `origin`.

    A subclass without an instance stands for the class itself; `named` makes one.

    Attributes:
        origin: "module.name".
        arguments: The arguments of the call.
        state: The attributes that the file sets, None if it sets none.
        entries: The items that the file sets, of a mapping or a list.
    """

    origin = ""
    arguments: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]

    def __new__(cls, *arguments: Any, **_: Any) -> Named:
        """Store the arguments."""
        instance = super().__new__(cls)
        instance.arguments, instance.state, instance.entries = arguments, None, {}
        return instance

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """Add an item, as of a list."""
        self.entries[len(self.entries)] = value


def named(origin: str) -> type[Named]:
    """Make a new class for a name, so that a file cannot change the classes of another file.

    Args:
        origin: "module.name".

    Returns:
        A subclass of `Named`.
    """
    return type("Named", (Named,), {"origin": origin})


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file; its numbers are read by `numpy`.

    Attributes:
        storage: The numbers that it is a view of.
        offset: Of the first element, in elements.
        shape: Its shape.
        strides: In elements.
    """

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        """Read the tensor.

        Returns:
            Its values, 16-bit floats as float32.

        Raises:
            UserError: The file is damaged.
        """
        values = self.storage.values()
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides))
        if last >= len(values) or math.prod(self.shape) > len(values):
            raise UserError(f"{self.storage.where}: a tensor of {self.shape} reaches beyond it")
        return np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, [step * values.itemsize for step in self.strides]
        ).copy()


@dataclass
class _Storage:
    """The numbers that one or more tensors are views of."""

    where: str  # the file and the key, for messages
    kind: str  # FloatStorage, ...
    count: int  # elements
    read: Callable[[int], bytes] | None = None  # number of bytes -> the bytes

    def values(self) -> np.ndarray:
        """Read all numbers; UserError where the file is damaged."""
        size = self.count * np.dtype(_TYPES[self.kind]).itemsize
        raw = self.read(size) if self.read else b""
        if len(raw) != size:
            raise UserError(f"{self.where}: {len(raw)} bytes, expected {size}; the file is damaged")
        values = np.frombuffer(raw, _TYPES[self.kind])
        if self.kind == _BFLOAT16:  # the upper half of a float32
            return (values.astype("<u4") << 16).view("<f4")
        return values.astype(np.float32) if self.kind == "HalfStorage" else values


def read(path: str | Path) -> Any:
    """Read a file of `torch.save`.

    Args:
        path: The file.

    Returns:
        Its content: dictionaries, lists, numbers, strings, `StoredTensor` and `Named` objects.

    Raises:
        UserError: The file is missing, damaged, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        _refuse_other_kinds(path)
        return _read_legacy(path)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises whatever it runs into
        raise UserError(
            f"{path}: not a readable PyTorch file, truncated or another kind of file "
            f"({path.stat().st_size} bytes)"
        ) from error


def _refuse_other_kinds(path: Path) -> None:
    """Say of a file what it is, where its first bytes tell and it is none of torch.save."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        raise UserError(
            f"{path}: truncated: it begins as torch.save writes, but its end is missing ({size} "
            "bytes); take another copy of it"
        )
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        raise UserError(
            f"{path}: an archive, such as NeMo's .nemo (which jasper/pt2mind.py reads), not a file "
            "of torch.save"
        )
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        raise UserError(f"{path}: a file of safetensors, not of torch.save: save it with torch")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path, storages: dict[str, _Storage]):
        super().__init__(file, encoding="utf-8")
        self.path, self.storages = path, storages
        self.names: dict[str, type[Named]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for a name of the file; nothing is imported."""
        origin = f"{module}.{name}"
        if origin == "collections.OrderedDict":
            return OrderedDict
        # New functions in each call, since a file can set attributes of what it receives.
        if origin in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return lambda *arguments: _tensor(*arguments[:4])
        if origin.startswith("torch._utils._rebuild_parameter"):
            return lambda tensor, *_: tensor
        return self.names.setdefault(origin, named(origin))

    def persistent_load(self, identity: Any) -> Any:
        """Return the storage that a tensor refers to."""
        if identity[0] != "storage":  # ("module", a class, its source text)
            return identity[1]
        _, kind, key, _, count, *view = identity
        name = kind.origin.rsplit(".", 1)[-1]
        if name not in _TYPES or any(view):
            raise UserError(f"{self.path}: holds a {kind.origin}, which is not understood")
        where = f"{self.path}: storage {key}"
        return self.storages.setdefault(str(key), _Storage(where, name, int(count)))


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple) -> StoredTensor:
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(strides)
        or any(type(number) is not int or number < 0 for number in numbers)
    ):
        raise ValueError("malformed tensor")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {name.partition("/")[2]: name for name in archive.namelist()}
        if "data.pkl" not in entries:
            raise UserError(f"{path}: a zip archive, but none of torch.save: it has no data.pkl")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise UserError(f"{path}: written on a big-endian machine, which is not understood")
        packed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed and sum(info.file_size for info in packed) > _MOST_UNPACKED:
            raise UserError(
                f"{path}: {len(packed)} compressed entries, which torch.save does not write, of "
                f"more than {_MOST_UNPACKED} bytes"
            )
        storages: dict[str, _Storage] = {}
        content = _Unpickler(io.BytesIO(archive.read(entries["data.pkl"])), path, storages).load()

    def reader(key: str) -> Callable[[int], bytes]:
        def read_entry(size: int) -> bytes:
            with suppress(KeyError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
                if archive.getinfo(entries[f"data/{key}"]).file_size == size:
                    return archive.read(entries[f"data/{key}"])
            return b""

        return read_entry

    for key, storage in storages.items():
        storage.read = reader(key)
    return content


def _read_legacy(path: Path) -> Any:
    """Read a file of PyTorch before 1.6.

    It holds five pickles: magic number, version, system, content, keys of the storages; then each
    storage: its number of elements, its bytes.
    """
    storages: dict[str, _Storage] = {}
    with path.open("rb") as file:

        def load() -> Any:
            return _Unpickler(file, path, storages).load()

        if file.read(1) != b"\x80" or file.seek(0) or load() != _MAGIC:
            raise UserError(f"{path}: not a file of torch.save")
        load()
        if not load().get("little_endian", True):
            raise UserError(f"{path}: written on a big-endian machine, which is not understood")
        content = load()
        for key in load():
            (count,) = struct.unpack("<q", file.read(8))
            size = count * np.dtype(_TYPES[storages[key].kind]).itemsize
            storages[key].read = _slice(path, file.tell(), size)
            file.seek(size, os.SEEK_CUR)
    return content


def _slice(path: Path, start: int, stored: int) -> Callable[[int], bytes]:
    def read_bytes(size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(min(size, stored))

    return read_bytes


def plain(value: Any) -> Any:
    """Convert a configuration object of a file to dictionaries, lists and simple values.

    Args:
        value: omegaconf's containers and nodes, dataclasses, enumerations (converted to their
            value) and references to classes (converted to their name without the module).

    Returns:
        The plain value.
    """
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, type) and issubclass(value, Named):
        return value.origin.rsplit(".", 1)[-1]
    if not isinstance(value, Named):
        return value
    if isinstance(value.state, Mapping):
        for key in ("_content", "_val"):
            if key in value.state:
                return plain(value.state[key])
        return plain(value.state)
    if value.entries:
        return plain(value.entries)
    return plain(value.arguments[0]) if len(value.arguments) == 1 else None


def match(
    tensors: Mapping[str, Array],
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> dict[str, Array]:
    """Match the tensors of a file with the parameters of a network.

    Args:
        tensors: The tensors by the file's names.
        names: The file's names -> the network's.
        shapes: The network's names -> shapes. The tensors' may differ by axes of length 1.
        where: The file, for messages.

    Returns:
        The tensors by the network's names.

    Raises:
        UserError: Lists the tensors that are missing, superfluous or of another shape.
    """
    matched: dict[str, Array] = {}
    reshaped, superfluous = [], []
    for name, tensor in tensors.items():
        target = names.get(name)
        if target is None or target not in shapes:
            superfluous.append(f"{name} {tuple(tensor.shape)}")
            continue
        if _squeezed(tensor.shape) != _squeezed(shapes[target]):
            reshaped.append(f"{name} {tuple(tensor.shape)}, expected {tuple(shapes[target])}")
        matched[target] = tensor
    theirs = {target: name for name, target in names.items()}
    missing = [
        f"{theirs.get(name, name)} {tuple(shape)}"
        for name, shape in shapes.items()
        if name not in matched
    ]
    problems = [
        f"{len(listed)} {what} ({', '.join(listed[:4])}{', ...' if len(listed) > 4 else ''})"
        for what, listed in (
            ("missing", missing),
            ("of another shape", reshaped),
            ("not of this network", superfluous),
        )
        if listed
    ]
    if problems:
        good = len(matched) - len(reshaped)
        raise UserError(f"{where}: {good} of {len(shapes)} tensors match; {'; '.join(problems)}")
    return matched


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def write(path: str | Path, content: Any) -> None:
    """Write a file for `torch.load`; it is complete or not there.

    Args:
        path: The file.
        content: Dictionaries, lists, tuples, strings, numbers, None, numpy arrays (written as
            tensors; one that occurs twice is stored once), `Named` classes and objects (references
            that the reader must have installed).

    Raises:
        UserError: The file cannot be written.
    """
    writer = _Writer()
    writer.save(content)
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", bytes(writer.pickle) + b".")
        archive.writestr("archive/byteorder", b"little")
        for key, array in enumerate(writer.arrays):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", b"3\n")


class _Writer:
    """Pickles (protocol 2) names that are not installed here, and tensors as torch does."""

    def __init__(self) -> None:
        self.pickle = bytearray(b"\x80\x02")
        self.arrays: list[np.ndarray] = []
        self.keys: dict[int, str] = {}  # of the arrays, by identity

    def save(self, value: Any) -> None:
        """Append the pickle of a value."""
        put = self.pickle.extend
        if value is None or isinstance(value, bool):
            put({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            put(b"\x8a" + struct.pack("<B", len(raw)) + raw)
        elif isinstance(value, float):
            put(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            raw = value.encode()
            put(b"X" + struct.pack("<I", len(raw)) + raw)
        elif isinstance(value, np.ndarray):
            self._tensor(value)
        elif isinstance(value, tuple):
            put(b"(")
            self._all(value)
            put(b"t")
        elif isinstance(value, list):
            put(b"](")
            self._all(value)
            put(b"e")
        elif isinstance(value, Mapping):
            put(b"}(")
            self._all(part for item in value.items() for part in item)
            put(b"u")
        elif isinstance(value, type) and issubclass(value, Named):
            module, _, name = value.origin.rpartition(".")
            put(f"c{module}\n{name}\n".encode())
        elif isinstance(value, Named):
            self._call(type(value), *value.arguments)
            if value.state is not None:
                self.save(value.state)
                put(b"b")
        else:
            raise TypeError(f"{type(value).__name__} cannot be written to a PyTorch file")

    def _all(self, values: Any) -> None:
        for value in values:
            self.save(value)

    def _call(self, function: type[Named], *arguments: Any) -> None:
        self.save(function)
        self.save(arguments)
        self.pickle.extend(b"R")

    def _tensor(self, array: np.ndarray) -> None:
        kinds = {np.dtype(code): name for name, code in _TYPES.items() if name != _BFLOAT16}
        if id(array) not in self.keys:
            self.keys[id(array)] = str(len(self.arrays))
            self.arrays.append(array)
        key = self.keys[id(array)]
        self.save(named("torch._utils._rebuild_tensor_v2"))
        self.pickle.extend(b"(")
        self.save(("storage", named(f"torch.{kinds[array.dtype]}"), key, "cpu", array.size))
        self.pickle.extend(b"Q")
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        self._all((0, array.shape, tuple(strides), False))
        self._call(named("collections.OrderedDict"))  # of hooks
        self.pickle.extend(b"tR")
