"""Compiled graphs on disk: what their names depend on, and that they compute the same."""

import os

import numpy as np
import pytest

from common.nn import graph_cache
from common.nn.graph_cache import GraphCell, graph_digest
from common.training.optimizers import Gradients
from common.utils.backend import Parameter, Tensor, ms, nn, ops

INPUTS = ("Float32", (2, 3))


class Scaled(GraphCell):
    def __init__(self, factor=2.0, width=3, weight=1.0):
        super().__init__()
        self.factor = factor
        self.weight = Parameter(np.full(width, weight, np.float32), name="weight")
        self.constant = Tensor(np.arange(width, dtype=np.float32))

    def construct(self, x):
        return ops.sin(x) * self.weight * self.factor + self.constant


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of this process, with a folder of its own."""
    ms.set_context(mode=ms.GRAPH_MODE)
    cache = graph_cache._graph_cache()
    monkeypatch.setattr(cache, "folder", tmp_path)
    return cache


def test_equal_cells_have_equal_digests_whatever_their_weights():
    assert graph_digest(Scaled(), INPUTS) == graph_digest(Scaled(weight=7.0), INPUTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: setattr(cell, "factor", 3.0),
        lambda cell: setattr(cell, "factor", 2),  # an integer is another constant
        lambda cell: setattr(cell, "constant", Tensor(np.ones(3, np.float32))),
        lambda cell: setattr(cell.weight, "requires_grad", False),
        lambda cell: setattr(cell.weight, "name", "other"),
        lambda cell: cell.set_train(True),
        lambda cell: cell.to_float(ms.float16),
        lambda cell: setattr(cell, "further", nn.Dense(3, 3)),
        lambda cell: setattr(cell, "option", {"layers": (1, 2)}),
    ],
)
def test_digest_follows_what_the_graph_depends_on(change):
    cell = Scaled()
    before = graph_digest(cell, INPUTS)
    change(cell)
    assert graph_digest(cell, INPUTS) not in (before, None)


def test_digest_follows_inputs_width_class_sources_and_settings(monkeypatch):
    class Other(Scaled):
        pass

    digests = [
        graph_digest(Scaled(), INPUTS),
        graph_digest(Scaled(), ("Float32", (2, 4))),
        graph_digest(Scaled(), ("Float16", (2, 3))),
        graph_digest(Scaled(width=4), INPUTS),
        graph_digest(Other(), INPUTS),
    ]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    digests.append(graph_digest(Scaled(), INPUTS))
    monkeypatch.setattr(graph_cache, "_sources", lambda root: "edited")
    digests.append(graph_digest(Scaled(), INPUTS))
    assert len(set(digests)) == len(digests)


def test_gradients_of_equal_networks_have_equal_digests():
    def gradients(width):
        network = nn.Dense(3, width)
        return Gradients(network, list(network.trainable_params()))

    assert graph_digest(gradients(4), INPUTS) == graph_digest(gradients(4), INPUTS) is not None
    assert graph_digest(gradients(4), INPUTS) != graph_digest(gradients(5), INPUTS)


def test_cell_with_an_object_of_unknown_type_is_not_cached(cache):
    cell = Scaled()
    cell.mystery = object()
    assert graph_digest(cell, INPUTS) is None
    cell(Tensor(np.ones((2, 3), np.float32)))
    assert not list(cache.folder.iterdir())


def test_loaded_graph_computes_with_the_weights_of_its_own_cell(cache):
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    loaded = cache.loaded
    first = Scaled(weight=1.0)(Tensor(x)).asnumpy()
    assert cache.loaded == loaded and len(list(cache.folder.iterdir())) == 1
    second = Scaled(weight=5.0)
    np.testing.assert_allclose(
        second(Tensor(x)).asnumpy(), np.sin(x) * 5 * 2 + np.arange(3), rtol=1e-6
    )
    assert cache.loaded == loaded + 1
    second.weight.set_data(Tensor(np.ones(3, np.float32)))  # without compiling again
    np.testing.assert_array_equal(second(Tensor(x)).asnumpy(), first)
    wider = Scaled()(Tensor(np.ones((4, 3), np.float32)))  # another shape is another graph
    assert wider.shape == (4, 3) and cache.loaded == loaded + 1
    assert len(list(cache.folder.iterdir())) == 2


def test_process_without_a_script_has_the_cache_too(cache, monkeypatch):
    """As after `python -c`, and in the processes of pytest-xdist."""
    monkeypatch.setattr("mindspore.graph.api.entry_script_path", "/nowhere/-c")
    assert Scaled()(Tensor(np.ones((2, 3), np.float32))).shape == (2, 3)
    assert len(list(cache.folder.iterdir())) == 1


def test_damaged_file_is_compiled_anew_and_replaced(cache):
    x = Tensor(np.ones((2, 3), np.float32))
    expected = Scaled()(x).asnumpy()
    (file,) = cache.folder.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:100], whole[:-1] + b"?", b""):
        file.write_bytes(damaged)
        loaded = cache.loaded
        np.testing.assert_array_equal(Scaled()(x).asnumpy(), expected)
        assert cache.loaded == loaded and graph_cache._read(file) is not None


def test_graph_that_does_not_compile_leaves_nothing_behind(cache):
    class Wrong(GraphCell):
        def construct(self, x):
            return ops.matmul(x, x)  # (2, 3) by (2, 3)

    with pytest.raises(Exception, match="(?i)shape|dim"):
        Wrong()(Tensor(np.ones((2, 3), np.float32)))
    assert cache.folder is None  # from here on this process compiles by itself


def test_oldest_graphs_are_discarded_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "_MAX_BYTES", 3 * (300 + 32))
    for number in range(4):
        path = tmp_path / f"{number:064x}.mindir"
        graph_cache._write(path, bytes(300))
        os.utime(path, (1000 + number, 1000 + number))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{number:064x}.mindir" for number in (1, 2, 3)}


@pytest.mark.parametrize("off", ["off", "OFF"])
def test_cache_can_be_switched_off(monkeypatch, off):
    monkeypatch.setenv(graph_cache.FOLDER_VARIABLE, off)
    assert graph_cache.cache_folder() is None


def test_folder_that_cannot_be_written_switches_the_cache_off(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(graph_cache.FOLDER_VARIABLE, str(tmp_path / "file" / "graphs"))
    assert graph_cache.cache_folder() is None
    monkeypatch.setenv(graph_cache.FOLDER_VARIABLE, str(tmp_path / "new" / "graphs"))
    assert graph_cache.cache_folder() == tmp_path / "new" / "graphs"


def test_users_of_mindspores_own_cache_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv(graph_cache.FOLDER_VARIABLE, str(tmp_path))
    assert graph_cache.cache_folder() == tmp_path
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    assert graph_cache.cache_folder() is None


def test_files_of_others_in_the_folder_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "_MAX_BYTES", 100)
    (tmp_path / "thesis.txt").write_bytes(bytes(5000))
    (tmp_path / "other.mindir").write_bytes(bytes(5000))
    (tmp_path / ".graph-being-written").write_bytes(bytes(5000))
    os.utime(tmp_path / "thesis.txt", (0, 0))
    abandoned = tmp_path / ".graph-abandoned"
    abandoned.write_bytes(b"")
    os.utime(abandoned, (0, 0))
    graph_cache._write(tmp_path / f"{'a' * 64}.mindir", bytes(300))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"thesis.txt", "other.mindir", ".graph-being-written"}


def test_sources_are_those_of_packages_and_unchanged_since_the_start(tmp_path):
    package = tmp_path / "package"
    for folder in (package, package / "part", package / "data"):
        folder.mkdir()
    for path in (package / "__init__.py", package / "part" / "__init__.py"):
        path.write_text("")
    (package / "data" / "corpus.py").write_text("not part of the package")
    (package / ".#locked.py").symlink_to("nowhere")
    for path in package.rglob("*.py"):
        if path.is_file():
            os.utime(path, (1000, 1000))
    found = [path.relative_to(package).as_posix() for path in graph_cache._python_files(package)]
    assert found == ["__init__.py", "part/__init__.py"]
    assert len(graph_cache._sources(package)) == 64
    graph_cache._sources.cache_clear()
    (package / "part" / "__init__.py").write_text("edited = True")
    with pytest.raises(graph_cache._Unknown, match="has changed since the process began"):
        graph_cache._sources(package)


def test_what_is_not_known_is_not_cached(monkeypatch):
    class Typed(Scaled):
        pass

    monkeypatch.setattr(Typed, "__module__", "__main__")
    monkeypatch.delattr("__main__.__file__", raising=False)  # as in a notebook
    assert graph_digest(Typed(), INPUTS) is None
    hooked = Scaled()
    hooked.register_forward_pre_hook(lambda cell, inputs: None)
    assert graph_digest(hooked, INPUTS) is None
    waiting = Scaled()
    waiting.constant = Tensor(shape=(3,), dtype=ms.float32, init="zeros")
    assert graph_digest(waiting, INPUTS) is None
