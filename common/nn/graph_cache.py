"""Compiled graphs on disk, so that only the first process compiles a graph.

MindSpore needs from 3 s (a small network) to more than 90 s (Jasper 10x5) to compile the graph of a
training step, at the start of each process and for each static shape. It can keep the optimised
graph in a file, but names the files by the order in which a process compiles them and compares
nothing else: a process with another configuration would silently run the wrong graph. Here a file's
name is a digest of all that the graph depends on (`graph_digest`), and MindSpore gets each file
under the name that it expects next, in a folder of this process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import inspect
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.utils import runtime
from common.utils.backend import Parameter, Tensor, graph_api, ms, nn

_log = logging.getLogger(__name__)

FOLDER_VARIABLE = "SPEECH_GRAPH_CACHE"  # a folder, or "off"
_MAX_BYTES = 512 << 20  # of the folder; the graphs that were used longest ago go first
_GRAPH_NAME = re.compile(r"[0-9a-f]{64}\.mindir")
_UNFINISHED = ".graph-"  # begins the name of a file that is being written
_ABANDONED_SECONDS = 3600.0
_STARTED = time.time()
_CHECKSUM_BYTES = hashlib.sha256().digest_size
_ROLES = ("", "MS_WORKER")  # of the process, which MindSpore's file names begin with
# They differ from run to run, and the graph does not depend on them.
_ADDRESSES = ("MS_SCHED_", "MS_NODE_", "MS_ROLE", "MS_TOPO_", "MS_COMPILER_")
# MindSpore's own switches: who sets one of them decides about the cache.
_MINDSPORE_VARIABLES = ("MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH")


class GraphCell(nn.Cell):
    """A cell that is called from Python, whose compiled graph is taken from the cache."""

    def compile(self, *args, **kwargs):
        """Compile the graph for these inputs, or load it.

        MindSpore calls this before each run.
        """
        cache = _graph_cache()
        if cache.folder is None or kwargs:
            return super().compile(*args, **kwargs)
        known = self.__dict__.setdefault("_compiled_signatures", set())
        signature = (_signature(self.get_inputs() or args), self.phase)
        if signature in known:
            return super().compile(*args, **kwargs)
        with cache.graph(self, signature):
            result = super().compile(*args, **kwargs)
        known.add(signature)
        return result


class GraphCache:
    """Files of compiled graphs, by the digest of what each graph depends on.

    Args:
        folder: Where they are; None: no cache.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.compiled = 0  # graphs of this process that MindSpore numbered
        self.loaded = 0  # of them, those that came from a file
        self._files: Path | None = None

    @contextlib.contextmanager
    def graph(self, cell: nn.Cell, inputs: object) -> Iterator[None]:
        """Have MindSpore load the graph that is compiled within, or keep it.

        Args:
            cell: The graph's outermost cell.
            inputs: Types and shapes of its inputs.
        """
        digest = graph_digest(cell, inputs)
        if self.folder is None or digest is None:
            yield
            return
        kept = self.folder / f"{digest}.mindir"
        try:
            files = self._next_files()
            found = _read(kept)
            if found is not None:
                for file in files:
                    file.write_bytes(found)
        except OSError:  # a full disk, a folder of someone else
            self.folder = None
            yield
            return
        before = len(cell.compile_cache)
        script = graph_api.entry_script_path
        try:
            # MindSpore would digest the sources that the script imports; `python -c` has no script.
            graph_api.entry_script_path = None
            ms.set_context(enable_compile_cache=True)
            yield
        except BaseException:
            self.folder = None  # MindSpore's next number is not known any more
            raise
        finally:
            ms.set_context(enable_compile_cache=False)
            graph_api.entry_script_path = script
        if len(cell.compile_cache) > before:
            self.compiled += 1
            self.loaded += found is not None
            action = "compiled" if found is None else "loaded"
            _log.debug("%s %s: %s", action, type(cell).__name__, kept.name)
        try:
            for file in filter(Path.exists, files):
                if found is None:
                    _write(kept, file.read_bytes())
                file.unlink()
        except OSError:
            self.folder = None

    def _next_files(self) -> list[Path]:
        """Return the names under which MindSpore may look for the next graph."""
        if self._files is None:
            own = tempfile.mkdtemp(prefix="mindspore-graphs-")
            atexit.register(_remove, own, os.getpid())
            ms.set_context(compile_cache_path=own)
            rank = ms.communication.get_rank() if runtime.is_rank() else 0
            self._files = Path(own) / f"rank_{rank}" / "graph_cache"
            self._files.mkdir(parents=True)
        # A rank that msrun started has its role in the name.
        return [self._files / f"{role}compile_cache_{self.compiled}.mindir" for role in _ROLES]


@functools.cache
def _graph_cache() -> GraphCache:
    return GraphCache(cache_folder())


def cache_folder() -> Path | None:
    """Return the folder of compiled graphs, or None where they are not kept.

    They are kept on the CPU alone: for cards MindSpore keeps files of other kinds too, which could
    not be tried.
    """
    chosen = os.environ.get(FOLDER_VARIABLE, "")
    if chosen.lower() == "off" or any(name in os.environ for name in _MINDSPORE_VARIABLES):
        return None
    if ms.get_context("device_target") != "CPU":
        return None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(chosen) if chosen else Path(home) / "mindspore-speech" / "graphs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # a forked process ends before its parent
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> bytes | None:
    """Return a kept graph, or None where there is no whole one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    checksum, graph = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if hashlib.sha256(graph).digest() != checksum:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return graph


def _write(path: Path, graph: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_UNFINISHED, delete=False) as file:
        file.write(hashlib.sha256(graph).digest() + graph)
    os.replace(file.name, path)
    _discard_oldest(path.parent)


def _discard_oldest(folder: Path) -> None:
    """Delete graphs beyond the limit, and what killed processes left; the folder may be shared."""
    now, graphs = time.time(), []
    for entry in os.scandir(folder):
        status = entry.stat()
        if _GRAPH_NAME.fullmatch(entry.name):
            graphs.append((status.st_mtime, status.st_size, entry.path))
        elif entry.name.startswith(_UNFINISHED) and now - status.st_mtime > _ABANDONED_SECONDS:
            Path(entry.path).unlink(missing_ok=True)
    excess = sum(size for _, size, _ in graphs) - _MAX_BYTES
    for _, size, path in sorted(graphs):
        if excess <= 0:
            break
        Path(path).unlink(missing_ok=True)
        excess -= size


# ---- what a graph depends on


class _Unknown(Exception):
    """Something whose influence on the graph is not known."""


_UNKNOWN = object()


def graph_digest(cell: nn.Cell, inputs: object) -> str | None:
    """Digest all that the compiled graph of a cell depends on.

    That is: the types and shapes of its inputs; class, attributes, mode and flags of each cell
    within; names, types and shapes of the parameters (not their values); constants; the sources of
    all packages that the cells come from; MindSpore's version and settings.

    Args:
        cell: The outermost cell.
        inputs: Types and shapes of its inputs.

    Returns:
        Hexadecimal digits; None where the cell holds an object of a type that is not known here.
    """
    digest = _Digest()
    try:
        digest.add((inputs, cell.phase, _settings()))
        digest.add(cell)
        digest.add([(root.name, _sources(root)) for root in sorted(digest.roots)])
    except (_Unknown, OSError, TypeError) as error:  # of inspect, where a class has no source
        _log.debug("%s is not cached: %s", type(cell).__name__, error)
        return None
    return digest.hexdigest()


def _settings() -> tuple:
    names = ("device_target", "mode", "jit_level", "deterministic")
    known = {}
    for name in names:
        with contextlib.suppress(ValueError, KeyError, RuntimeError):
            known[name] = str(ms.get_context(name))
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("MS_", "ONEDNN_")) and not name.startswith(_ADDRESSES)
    }
    versions = ms.__version__, platform.machine()
    return versions, sorted(known.items()), sorted(variables.items())


@functools.cache
def _plain_attributes() -> frozenset[str]:
    """Return the attributes that MindSpore gives to every cell."""
    return frozenset(vars(nn.Cell())) - {"training"}


class _Digest:
    """A SHA-256 over the structure of Python objects."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._visited: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps ids unique
        self.roots: set[Path] = set()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Take a value in.

        Raises:
            _Unknown: Its type is not known here.
        """
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self._put(type(value).__name__, repr(value))
        elif isinstance(value, (ms.Type, np.dtype)) or value is Ellipsis:
            self._put("type", str(value))
        elif not self._seen(value):
            self._structure(value)

    def _put(self, *words: str) -> None:
        for word in words:
            self._hash.update(f"{len(word)}:{word}".encode())

    def _seen(self, value: Any) -> bool:
        number = self._visited.setdefault(id(value), len(self._visited))
        if number < len(self._alive):
            self._put("again", str(number))
            return True
        self._alive.append(value)
        return False

    def _structure(self, value: Any) -> None:
        if isinstance(value, Parameter):
            self._put("parameter", value.name, str(value.dtype), str(value.shape))
            self._put(str(value.requires_grad), str(value.layerwise_parallel))
        elif isinstance(value, Tensor):
            if value.has_init:
                raise _Unknown("a constant that has no values yet")
            self._put("tensor", str(value.dtype), str(value.shape))
            self._hash.update(value.asnumpy().tobytes())
        elif isinstance(value, np.ndarray):
            self._put("array", str(value.dtype), str(value.shape))
            self._hash.update(value.tobytes())
        elif isinstance(value, nn.Cell):
            self._cell(value)
        elif isinstance(value, (list, tuple)):
            self._put(type(value).__name__, str(len(value)))
            for item in value:
                self.add(item)
        elif isinstance(value, dict):
            self._put("dict", str(len(value)))
            for key, item in value.items():
                self.add(key)
                self.add(item)
        elif isinstance(value, (set, frozenset)):
            self._put("set", *sorted(map(repr, value)))
        elif isinstance(value, ms.ops.Primitive):
            self._class(type(value))
            self._put(value.name)
            self.add({k: v for k, v in value.attrs.items() if k != "_id"})
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial, type)):
            self._callable(value)
        elif isinstance(value, (types.BuiltinFunctionType, types.ModuleType)):
            self._put("builtin", repr(getattr(value, "__name__", value)))
        elif type(value).__module__.startswith("mindspore") or hasattr(
            value, "__dataclass_fields__"
        ):
            self._class(type(value))
            self.add(dict(vars(value)))
        else:
            raise _Unknown(f"a {type(value).__module__}.{type(value).__qualname__}")

    def _cell(self, cell: nn.Cell) -> None:
        if any(name.endswith("_hook") and value for name, value in vars(cell).items()):
            raise _Unknown(f"hooks of {type(cell).__name__}")
        self._class(type(cell))
        own = {k: v for k, v in vars(cell).items() if k not in _plain_attributes()}
        own.pop("_compiled_signatures", None)
        self.add(dict(sorted(own.items())))
        self.add(cell.training)
        self.add(dict(cell.get_flags()))
        self.add(getattr(cell, "_jit_config_dict", None))
        self.add(dict(cell._cells))
        self.add(dict(cell._params))

    def _class(self, kind: type) -> None:
        self._put("class", kind.__module__, kind.__qualname__)
        for base in getattr(kind, "__mro__", (kind,)):
            self._source_of(base)

    def _callable(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            self.add((value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            self.add((value.__func__.__qualname__, value.__self__))
        elif isinstance(value, type):
            self._class(value)
        else:
            self._class(value)  # type: ignore[arg-type]  # it has the same two names
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
                if name == "hash_obj" and value.__module__.startswith("mindspore"):
                    continue  # the time at which mindspore.jit wrapped the function
                with contextlib.suppress(ValueError):  # an empty cell
                    self.add(cell.cell_contents)
            self.add(value.__defaults__)
            self.add(value.__kwdefaults__)

    def _source_of(self, value: Any) -> None:
        module = sys.modules.get(value.__module__)
        package = value.__module__.partition(".")[0]
        if package in ("mindspore", "builtins", "numpy") or module is None:
            return
        file = inspect.getsourcefile(module)
        if file is None:
            raise _Unknown(f"{value.__module__}: no source")
        top = sys.modules.get(package)
        folder = getattr(top, "__path__", None)
        # Modules beside a module that is in no package may be part of it, too.
        self.roots.add(Path(next(iter(folder))) if folder else Path(file).parent)


@functools.cache
def _sources(root: Path) -> str:
    """Digest the Python files of a package and its sub-packages.

    Raises:
        _Unknown: A file was changed after this process began: it may have loaded another text.
    """
    digest = hashlib.sha256()
    for path in _python_files(root):
        if path.stat().st_mtime > _STARTED:
            raise _Unknown(f"{path} has changed since the process began")
        digest.update(str(path.relative_to(root)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _python_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and path.is_file():
            yield path
        elif (path / "__init__.py").is_file():
            yield from _python_files(path)


def _signature(value: Any) -> Any:
    """Return types and shapes of inputs; numbers and the like, which are constants, as they are."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape)
    if isinstance(value, (list, tuple)):
        return tuple(_signature(item) for item in value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else _UNKNOWN
