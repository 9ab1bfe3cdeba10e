"""Checkpoints: whole at any moment, refused by name, laid on a network by rule."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from common.model import checkpoint as checkpoints
from common.model.checkpoint import CheckpointKeeper, load, load_into, save
from common.model.checkpoint_file import read_parameters
from common.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def parameter(name: str, value: float, *shape: int) -> Parameter:
    return Parameter(Tensor(np.full(shape or (2, 3), value, np.float32)), name=name)


def weights(value: float, *names: str) -> dict[str, Parameter]:
    return {name: parameter(name, value) for name in names or ("a.weight", "b.weight")}


def values(path: Path) -> set[float]:
    return {float(x) for array in load(path).parameters.values() for x in array.ravel()}


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_file_by_another_name_is_refused_for_its_name(tmp_path):
    save(tmp_path / "x.ckpt", weights(1.5), {})
    (tmp_path / "x.ckpt").rename(tmp_path / "x")
    with pytest.raises(
        UserError, match=r"checkpoint .*/x: MindSpore .* named \*\.ckpt alone; rename"
    ):
        load(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "y.ckpt")
    assert values(tmp_path / "y.ckpt") == {1.5}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "deep" / "er" / "x.ckpt"
    metadata = {"labels": ["Ä", "_"], "progress": {"step": 3}}
    save(path, weights(1.5) | {"step": parameter("step", 7, 1)}, metadata)
    found = load(path)
    assert found.metadata == metadata
    assert sorted(found.parameters) == ["a.weight", "b.weight", "step"]
    np.testing.assert_array_equal(found.parameters["a.weight"], np.full((2, 3), 1.5, np.float32))
    assert found.parameters["step"].shape == (1,)
    assert os.access(path, os.W_OK)
    assert [each.name for each in path.parent.iterdir()] == ["x.ckpt"]


def test_the_seed_of_dropout_is_never_stored(tmp_path):
    save(tmp_path / "x.ckpt", weights(1) | weights(2, "RNN.dropouts.0.dropout_seed"), {})
    assert sorted(load(tmp_path / "x.ckpt").parameters) == ["a.weight", "b.weight"]


# ---- a kill at any moment


class Killed(BaseException):
    """Ends the process at a certain call, as SIGKILL would: nothing tidies up after it."""


STEPS = {ms: ["save_checkpoint"], os: ["replace", "link", "fsync"], Path: ["unlink"]}


def killed_after(calls: int, monkeypatch) -> None:
    """The process 'dies' instead of the file operation after so many; a dying save leaves half."""
    left = itertools.count(calls, -1)

    def dying(name, real):
        def call(*arguments, **keywords):
            if next(left) <= 0:
                if name == "save_checkpoint":
                    Path(arguments[1]).write_bytes(b"half")
                raise Killed
            return real(*arguments, **keywords)

        return call

    for module, names in STEPS.items():
        for name in names:
            monkeypatch.setattr(module, name, dying(name, getattr(module, name)))


def test_a_kill_between_any_two_file_operations_leaves_whole_checkpoints(tmp_path):
    for calls in itertools.count():
        keeper = CheckpointKeeper(tmp_path / str(calls), "m", keep=2)
        for step in (1, 2):
            keeper.save_last(weights(step), {"step": step}, 0, step)
        keeper.save_best(weights(2), {"step": 2})
        with pytest.MonkeyPatch.context() as patch:
            killed_after(calls, patch)
            try:
                keeper.save_last(weights(3), {"step": 3}, 0, 3)
                keeper.save_best(weights(3), {"step": 3})
                finished = True
            except Killed:
                finished = False
        for path in keeper.folder.glob("[!.]*.ckpt"):
            assert values(path) == {load(path).metadata["step"]}
        assert values(keeper.last) in ({2}, {3})
        assert values(keeper.best) in ({2}, {3})
        assert {"m-last.ckpt", "m-best.ckpt", "m-0_2.ckpt"} <= visible(keeper.folder)
        keeper.save_last(weights(4), {"step": 4}, 0, 4)  # what was left behind is in nobody's way
        keeper.save_best(weights(4), {"step": 4})
        assert values(keeper.last) == values(keeper.best) == {4}
        if finished:
            break
    assert calls > 8


SAVER = """
import itertools, sys
import common
import numpy as np
from mindspore import Parameter, Tensor
from common.model.checkpoint import CheckpointKeeper
keeper = CheckpointKeeper(sys.argv[1], "m", 3)
for step in itertools.count(1):
    weights = {"w": Parameter(Tensor(np.full((512, 512), step, np.float32)), name="w")}
    keeper.save_last(weights, {"step": step}, 0, step)
    keeper.save_best(weights, {"step": step})
    print(step, flush=True)
"""


@pytest.mark.launcher
@pytest.mark.parametrize("saves", [1, 7, 20])
def test_sigkill_while_saving_leaves_whole_checkpoints(tmp_path, saves):
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for _ in range(saves):
        told = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    keeper = CheckpointKeeper(tmp_path, "m", 3)
    for path in [keeper.last, keeper.best, *keeper.numbered()]:
        assert values(path) == {load(path).metadata["step"]}
    assert load(keeper.last).metadata["step"] >= told
    assert load(keeper.best).metadata["step"] >= told


def test_a_full_disk_leaves_whole_checkpoints(tmp_path):
    """Full in the middle of the file: the system lets this process write no more of it."""
    keeper = CheckpointKeeper(tmp_path, "m", 3)

    def state(step: int) -> dict:
        return {"w": parameter("w", step, 512, 512)}

    keeper.save_last(state(1), {"step": 1}, 0, 1)
    keeper.save_best(state(1), {"step": 1})
    before = visible(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        for save in (
            lambda: keeper.save_last(state(2), {}, 0, 2),
            lambda: keeper.save_best(state(2), {}),
        ):
            with pytest.raises(UserError, match="cannot be written.*earlier checkpoints are unt"):
                save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert visible(tmp_path) == before and list(tmp_path.glob(".*")) == []
    assert values(keeper.last) == values(keeper.best) == {1}
    keeper.save_last(state(3), {"step": 3}, 0, 3)
    assert values(keeper.last) == {3}


# ---- which ones are kept


def test_only_the_newest_numbered_ones_are_kept(tmp_path):
    keeper = CheckpointKeeper(tmp_path, "m", keep=2)
    for epoch, step in ((1, 5), (2, 10), (10, 50), (11, 55)):
        keeper.save_last(weights(step), {}, epoch, step)
    keeper.save_best(weights(10), {})
    assert visible(tmp_path) == {"m-10_50.ckpt", "m-11_55.ckpt", "m-last.ckpt", "m-best.ckpt"}
    assert [path.name for path in keeper.numbered()] == ["m-10_50.ckpt", "m-11_55.ckpt"]
    assert values(keeper.last) == {55} and values(keeper.best) == {10}


def test_runs_begun_anew_in_a_folder_leave_each_earlier_one_whole(tmp_path):
    keeper, figures = CheckpointKeeper(tmp_path / "c", "m", keep=2), tmp_path / "metrics.csv"
    assert keeper.set_aside(figures) is None
    (tmp_path / "emissions.gif").mkdir()
    for run, expected in ((1, "earlier-1"), (2, "earlier-2")):
        for step in (70 - run, 80 - run):
            keeper.save_last(weights(step), {}, 7, step)
        keeper.save_best(weights(run), {})
        figures.write_text(f"of run {run}")
        found = keeper.set_aside(figures, tmp_path / "emissions.gif", tmp_path / "none.png")
        assert found == tmp_path / "c" / expected
    for step in (1, 2, 3):  # fewer steps than the earlier runs made
        keeper.save_last(weights(step), {}, 0, step)
    keeper.save_best(weights(3), {})
    third = {"m-0_2.ckpt", "m-0_3.ckpt", "m-last.ckpt", "m-best.ckpt"}
    assert visible(tmp_path / "c") == third | {"earlier-1", "earlier-2"}
    for run in (1, 2):
        folder = tmp_path / "c" / f"earlier-{run}"
        numbered = {f"m-7_{70 - run}.ckpt", f"m-7_{80 - run}.ckpt"}
        assert visible(folder) == {"m-last.ckpt", "m-best.ckpt", "metrics.csv"} | numbered
        assert values(folder / "m-last.ckpt") == {80 - run}
        assert values(folder / "m-best.ckpt") == {run}
        assert (folder / "metrics.csv").read_text() == f"of run {run}"


def test_a_killed_move_leaves_a_run_that_can_be_resumed_or_moved(tmp_path):
    keeper = CheckpointKeeper(tmp_path, "m", keep=2)
    keeper.save_last(weights(5), {}, 1, 5)
    keeper.save_best(weights(4), {})
    with pytest.MonkeyPatch.context() as patch:
        calls = itertools.count()
        moved = shutil.move

        def dying(*arguments):
            if next(calls) == 2:
                raise Killed
            return moved(*arguments)

        patch.setattr(shutil, "move", dying)
        with pytest.raises(Killed):
            keeper.set_aside()
    assert visible(tmp_path) == {"m-last.ckpt", "earlier-1"} and values(keeper.last) == {5}
    assert keeper.set_aside() == tmp_path / "earlier-2"
    assert values(tmp_path / "earlier-1" / "m-best.ckpt") == {4}
    assert values(tmp_path / "earlier-2" / "m-last.ckpt") == {5}


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    synced = os.fsync

    def refused(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        synced(handle)

    monkeypatch.setattr(os, "fsync", refused)
    keeper = CheckpointKeeper(tmp_path, "m", keep=1)
    keeper.save_last(weights(1), {}, 0, 1)
    assert values(keeper.last) == {1} and visible(tmp_path) == {"m-last.ckpt", "m-0_1.ckpt"}


def test_others_files_are_left_alone(tmp_path):
    others = ["m-first_try.ckpt", "other-1_1.ckpt", "m2-1_1.ckpt", "m-1_1.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    keeper = CheckpointKeeper(tmp_path, "m", keep=1)
    for step in (1, 2, 3):
        keeper.save_last(weights(step), {}, 0, step)
    assert visible(tmp_path) == {*others, "m-0_3.ckpt", "m-last.ckpt"}


def test_without_hard_links_last_is_a_copy(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refused)
    keeper = CheckpointKeeper(tmp_path, "m", keep=1)
    keeper.save_last(weights(1), {"step": 1}, 0, 1)
    assert values(keeper.last) == {1}


def test_what_cannot_be_written_or_kept_is_said_at_the_start():
    with pytest.raises(UserError, match=r"/dev/null/x: cannot be written \(Not a directory\)"):
        CheckpointKeeper("/dev/null/x", "m", 1).check_writable()
    with pytest.raises(UserError, match="keep_checkpoint_max=0: expected at least 1"):
        CheckpointKeeper("x", "m", 0)
    with pytest.raises(UserError, match=r"x\.ckpt: cannot be written.*earlier .* untouched"):
        save(Path("/dev/null/x.ckpt"), weights(1), {})


# ---- what cannot be loaded


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.ckpt: no such file$"):
        load("nowhere.ckpt")
    keeper = CheckpointKeeper(tmp_path, "m", keep=1)
    for step in (1, 2):
        keeper.save_best(weights(step), {})
        folder = keeper.set_aside()
        os.utime(folder / "m-best.ckpt", (1e9 + step, 1e9 + step))
    with pytest.raises(UserError, match=r"no such file; .* moved .*earlier-2/m-best\.ckpt$"):
        load(keeper.best)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "folder"])
def test_a_damaged_file_is_named_with_its_size(tmp_path, damage):
    path = tmp_path / "x.ckpt"
    save(path, {"w": parameter("w", 1, 100, 100)}, {"step": 1})
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        half = content[: len(content) // 2]
        path.write_bytes({"truncated": half, "text": b"hello\n" * 9, "empty": b""}[damage])
    with pytest.raises(UserError, match=r"x\.ckpt: (not a readable|no such file)") as caught:
        load(path)
    assert "\n" not in str(caught.value)


# ---- laying a checkpoint on a network


class Network(nn.Cell):
    def __init__(self, labels: int = 4):
        super().__init__()
        self.RNN = nn.Dense(3, 2)
        self.fc = nn.Dense(2, labels)
        self.dropout_seed = Parameter(Tensor(0, ms.int32), name="dropout_seed")


SHAPES = {"RNN.weight": (2, 3), "RNN.bias": (2,), "fc.weight": (4, 2), "fc.bias": (4,)}


def stored(tmp_path: Path, *, prefix: str = "", drop=(), **extra: tuple) -> checkpoints.Checkpoint:
    shapes = {prefix + name: shape for name, shape in SHAPES.items() if name not in drop}
    shapes |= {name.replace("__", "."): shape for name, shape in extra.items()}
    path = tmp_path / "x.ckpt"
    save(path, {name: parameter(name, 0.5, *shape) for name, shape in shapes.items()}, {})
    return load(path)


def half(network: nn.Cell, *names: str) -> list[bool]:
    found = {p.name: p.asnumpy() for p in network.get_parameters()}
    return [bool((found[name] == 0.5).all()) for name in names]


@pytest.mark.parametrize("prefix", ["", "network.", "_backbone.network.", "model.module."])
def test_wrapper_prefixes_are_passed_over(tmp_path, prefix):
    network = Network()
    report = load_into(network, stored(tmp_path, prefix=prefix))
    assert half(network, *SHAPES) == [True] * 4
    assert report.matched == sorted(SHAPES) and not report.missing + report.unused
    assert str(report) == "4 of 4 parameters match"


def test_older_names_are_renamed(tmp_path):
    network = Network()
    found = stored(tmp_path, drop=("RNN.weight", "RNN.bias"), rnn__weight=(2, 3), rnn__bias=(2,))
    load_into(network, found, lambda name: name.replace("rnn", "RNN"))
    assert half(network, *SHAPES) == [True] * 4


def test_the_recipe_renames_rnn():
    from deepspeech2.src.recipe import RECIPE

    assert RECIPE.rename_parameter("network.rnn.lstms.0.x") == "network.RNN.lstms.0.x"
    assert RECIPE.rename_parameter("conv.rnnish.weight") == "conv.rnnish.weight"


def test_the_optimizers_state_is_passed_over(tmp_path):
    network = Network()
    found = stored(
        tmp_path,
        moment1__RNN__weight=(2, 3),
        moment2__fc__bias=(4,),
        beta1_power=(1,),
        global_step=(1,),
        learning_rate=(1,),
        accum__RNN__weight=(2, 3),
        stat__fc__bias=(4,),
        momentum=(1,),
        ema__RNN__weight=(2, 3),
    )
    assert load_into(network, found).unused == []


def test_foreign_parameters_are_reported(tmp_path):
    report = load_into(Network(), stored(tmp_path, attention__weight=(2, 2)))
    assert report.unused == ["attention.weight"]
    assert str(report) == "4 of 4 parameters match; 1 not used (attention.weight)"


def test_a_parameter_too_few_is_an_error_and_changes_nothing(tmp_path):
    network = Network()
    with pytest.raises(UserError, match=r"3 of 4 parameters match.*fc\.bias is missing"):
        load_into(network, stored(tmp_path, drop=("fc.bias",)))
    assert half(network, *SHAPES) == [False] * 4


def test_another_size_is_an_error_with_both_shapes(tmp_path):
    network = Network(labels=7)
    with pytest.raises(UserError, match=r"fc\.\w+ is \(4.*\) in the file, \(7.*\) in the network"):
        load_into(network, stored(tmp_path))
    assert half(network, *SHAPES) == [False] * 4


def test_another_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"not of this network: 0 of 4 parameters match") as caught:
        load_into(Network(), stored(tmp_path, drop=tuple(SHAPES), encoder__x=(2,)), new_head="fc")
    assert "\n" not in str(caught.value)


def test_a_new_head_starts_anew(tmp_path):
    network = Network(labels=7)
    fresh = network.fc.weight.asnumpy().copy()
    report = load_into(network, stored(tmp_path), new_head="fc")
    assert half(network, "RNN.weight", "RNN.bias") == [True, True]
    np.testing.assert_array_equal(network.fc.weight.asnumpy(), fresh)
    assert sorted(report.reshaped) == ["fc.bias", "fc.weight"]
    assert str(report) == "2 of 4 parameters match; 2 of another shape (fc.weight, fc.bias)"


def test_the_seed_of_dropout_is_nobodys_loss(tmp_path):
    network = Network()
    network.dropout_seed.set_data(Tensor(9, ms.int32))
    load_into(network, stored(tmp_path))
    assert int(network.dropout_seed.asnumpy()) == 9


def test_a_checkpoint_of_another_project_carries_no_metadata(tmp_path):
    path = tmp_path / "zoo.ckpt"
    ms.save_checkpoint([{"name": "a", "data": parameter("a", 1)}], str(path))
    assert load(path).metadata is None


def test_the_metadata_is_readable_json(tmp_path):
    save(tmp_path / "x.ckpt", weights(1), {"format": 1})
    content = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    assert json.loads(content[checkpoints.METADATA]) == {"format": 1}


# ---- the file itself


def test_a_file_is_read_however_few_pages_are_free(tmp_path, monkeypatch):
    """The page cache leaves none after a large file was written; MindSpore counts those alone."""
    save(tmp_path / "x.ckpt", weights(1.5), {"step": 1})
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_AVPHYS_PAGES" else real(name))
    big = {"w": parameter("w", 1, 300, 300)}
    save(tmp_path / "big.ckpt", big, {})
    with pytest.raises(ValueError, match="exceeds current available memory"):
        ms.load_checkpoint(str(tmp_path / "big.ckpt"))
    assert values(tmp_path / "big.ckpt") == {1.0}


def test_every_type_is_read_as_mindspore_reads_it(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 100, (3, 5))
    kinds = ("bool_", "int8", "int32", "int64", "uint8", "float16", "float32", "float64")
    entries = [{"name": kind, "data": Tensor(numbers, getattr(ms, kind))} for kind in kinds]
    entries.append({"name": "scalar", "data": Tensor(2.5, ms.float32)})
    entries.append({"name": "half", "data": Tensor(numbers, ms.bfloat16)})
    # Above a kilobyte a parameter comes in parts.
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)
    long = rng.standard_normal((40, 50)).astype(np.float32)
    entries.append({"name": "long", "data": Tensor(long)})
    path = tmp_path / "x.ckpt"
    ms.save_checkpoint(entries, str(path), append_dict={"note": "Äß€"}, crc_check=True)
    assert path.read_bytes()[-17:-10] == b"crc_num"
    expected, found = ms.load_checkpoint(str(path)), read_parameters(path)
    assert found.keys() == expected.keys() and found.pop("note") == expected.pop("note") == "Äß€"
    assert expected.pop("half").dtype == ms.bfloat16  # which numpy lacks, but holds these numbers
    np.testing.assert_array_equal(found.pop("half"), numbers)
    for name, value in expected.items():
        assert found[name].dtype == value.asnumpy().dtype
        np.testing.assert_array_equal(found[name], value.asnumpy())
        assert found[name].flags.writeable


REASONS = {
    "cut in a parameter": (lambda content: content[:-3], "it ends within the parameter at byte"),
    "cut in a length": (lambda content: content[:2], "it ends within"),
    "bytes behind": (lambda content: content + b"more", "no parameter begins at byte"),
    "of zeros": (lambda content: bytes(len(content)), "no parameter begins at byte 0"),
    "another type": (lambda content: content.replace(b"Float32", b"Float99"), "of type Float99"),
    "other dimensions": (
        lambda content: content.replace(b"\x08\x64\x08\x64", b"\x08\x64\x08\x65"),
        r"40000 bytes do not fill \(100, 101\)",
    ),
    "PyTorch's": (lambda content: b"PK\x03\x04" + content, "PyTorch's, which pt2mind.py converts"),
    "an endless length": (lambda content: b"\x0a" + b"\xff" * 20, "no parameter has the length"),
    "a damaged description": (
        lambda content: content.replace("step".encode("utf-32-le"), 'st"p'.encode("utf-32-le")),
        "what it says of its network is damaged",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_the_reason_is_told(case, tmp_path):
    path = tmp_path / "x.ckpt"
    save(path, {"w": parameter("w", 1, 100, 100)}, {"step": 1})
    change, reason = REASONS[case]
    before = path.read_bytes()
    after = change(before)
    assert after != before
    path.write_bytes(after)
    with pytest.raises(UserError, match=rf"x\.ckpt: .*{reason}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_other_reasons_are_passed_on(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    save(path, weights(1), {})

    def failing(error):
        def read(file, size):
            raise error
            yield

        return read

    for error, said in (
        (OSError(errno.EIO, "Input/output error"), r"x\.ckpt: Input/output error$"),
        (MemoryError(), r"x\.ckpt: not enough memory for its \d+ bytes"),
    ):
        monkeypatch.setattr("common.model.checkpoint_file._values", failing(error))
        with pytest.raises(UserError, match=said):
            load(path)


# ---- numbers that no network can use


BAD_NUMBERS = {
    "nan": ("a.weight", [np.nan], r"a\.weight: 1 of 6 values is not finite"),
    "inf": ("a.weight", [np.inf, -np.inf], r"a\.weight: 2 of 6 values are not finite"),
    "average": ("ema.a.weight", [np.nan], r"ema\.a\.weight: 1 of 6 values is not finite"),
    "moment": ("moment1.a.weight", [np.nan], r"moment1\.a\.weight: 1 of 6 values is not"),
    "variance": ("bn.moving_variance", [-1e-3], r"bn\.moving_variance: 1 of 6 .* is negative, and"),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_numbers_that_no_network_can_use_are_refused(case, tmp_path):
    name, bad, said = BAD_NUMBERS[case]
    numbers = np.ones(6, np.float32)
    numbers[1 : 1 + len(bad)] = bad
    path = tmp_path / "x.ckpt"
    save(path, {"b": parameter("b", -1, 2), name: Parameter(Tensor(numbers), name=name)}, {})
    with pytest.raises(UserError, match=rf"checkpoint .*x\.ckpt: {said}"):
        load(path)


def test_large_and_negative_numbers_and_a_variance_of_zero_are_good(tmp_path):
    most = np.finfo(np.float32).max
    numbers = {"w": [-most, most], "bn.moving_variance": [0, most], "bn.moving_mean": [-1, 1]}
    path = tmp_path / "x.ckpt"
    save(path, {n: Parameter(Tensor(np.float32(v)), name=n) for n, v in numbers.items()}, {})
    assert load(path).parameters["w"].tolist() == [-most, most]
