"""PyTorch's files read and written without it: against PyTorch, and against malice."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from common.interop.torch_pickle import (
    Named,
    StoredTensor,
    _Writer,
    match,
    named,
    plain,
    read,
    write,
)
from common.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FORMATS = {"zip": True, "before 1.6": False}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def saved(torch, content, path: Path, form: str) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[form])
    return path


# ---- reading


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_equal_those_of_torch(torch, form, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    expected = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "repeated": torch.nn.Parameter(base),  # shares its storage
        **{
            str(kind): torch.tensor([0, 1, 3]).to(kind)
            for kind in (
                torch.float64,
                torch.float16,
                torch.bfloat16,
                torch.int64,
                torch.int32,
                torch.int16,
                torch.int8,
                torch.uint8,
                torch.bool,
            )
        },
    }
    path = saved(torch, {"state": OrderedDict(expected), "epoch": 3}, tmp_path / "w.pth", form)
    found = read(path)
    assert found["epoch"] == 3 and list(found["state"]) == list(expected)
    for name, tensor in expected.items():
        value = found["state"][name].numpy()
        assert found["state"][name].shape == value.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(value, tensor.detach().to(torch.float64).numpy())


@pytest.mark.parametrize("form", FORMATS)
def test_a_module_saved_whole_is_read_without_its_class(torch, form, tmp_path):
    lstm = torch.nn.LSTM(3, 2)
    found = read(saved(torch, {"model": lstm}, tmp_path / "w.pth", form))["model"]
    assert isinstance(found, Named) and found.origin == "torch.nn.modules.rnn.LSTM"
    weight = found.state["_parameters"]["weight_hh_l0"].numpy()
    np.testing.assert_array_equal(weight, lstm.weight_hh_l0.detach().numpy())


@pytest.mark.launcher
def test_reading_needs_no_torch(torch, tmp_path):
    path = saved(torch, {"w": torch.ones(2)}, tmp_path / "w.pth", "zip")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['torch'] = None\n"
        "from common.interop.torch_pickle import read\n"
        f"print(read({str(path)!r})['w'].numpy().sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2.0"


# ---- malice: each payload is shown to work with pickle before it is shown not to work here


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(mark: Path) -> dict[str, bytes]:
    """Pickles that make the file `mark`."""
    code = f"open({str(mark)!r}, 'w').close()"
    line = b"V" + code.encode() + b"\n"
    listed = b"c__builtin__\nmap\n(c__builtin__\nexec\n](" + line + b"etR"
    return {
        "system": f"cos\nsystem\n(Vtouch {mark}\ntR.".encode(),
        "exec": b"c__builtin__\nexec\n(" + line + b"tR.",
        "instance": b"(" + line + b"i__builtin__\nexec\n.",
        "map": b"c__builtin__\nlist\n(" + listed + b"tR.",
        "protocol 4": pickle.dumps(Calls(exec, code), protocol=4),
        "deep inside": pickle.dumps({"state_dict": {"w": Calls(exec, code)}}, protocol=2),
        "subprocess": pickle.dumps(Calls(subprocess.check_call, ["touch", str(mark)])),
    }


def in_a_file(evil: bytes, path: Path, form: str) -> Path:
    """A pickle in the place of the contents that torch.save would write."""
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", evil)
    elif form == "bare":
        path.write_bytes(evil)
    else:
        headers = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in headers) + evil)
        with path.open("ab") as file:
            pickle.dump([], file, 2)
    return path


@pytest.mark.parametrize("payload", payloads(Path("mark")))
@pytest.mark.parametrize("form", [*FORMATS, "bare"])
def test_no_code_of_a_file_is_run(payload, form, tmp_path):
    mark = tmp_path / "mark"
    evil = payloads(mark)[payload]
    path = in_a_file(evil, tmp_path / "w.pth", form)

    pickle.loads(evil)
    assert mark.exists(), "no payload at all"
    mark.unlink()
    if form == "bare":
        with pytest.raises(UserError, match="not a file of torch.save"):
            read(path)
    else:
        found = read(path)
        assert isinstance(found, (Named, dict))
        plain(found)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target", ["os system", "torch._utils _rebuild_tensor_v2", "collections OrderedDict"]
)
def test_a_file_cannot_change_the_classes_of_another(target, tmp_path):
    """setattr(target, "numpy", something) through the state of an object."""
    place = b"c" + target.replace(" ", "\n").encode() + b"\n"
    evil = b"\x80\x02" + place + b"N}X\x05\x00\x00\x00numpycos\nsystem\ns\x86b."
    before = [dict(vars(kind)) for kind in (Named, StoredTensor, OrderedDict)]
    with suppress(UserError):
        read(in_a_file(evil, tmp_path / "w.pth", "zip"))
    assert [dict(vars(kind)) for kind in (Named, StoredTensor, OrderedDict)] == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_an_error_with_its_name(torch, form, tmp_path):
    whole = saved(torch, {"w": torch.ones(300)}, tmp_path / "w.pth", form).read_bytes()
    for size in range(0, len(whole), 97):
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut.pth: "):
            read(path)["w"].numpy()
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="not a file of torch.save"):
        read(tmp_path / "text.pth")


def test_other_files_are_called_what_they_are(tmp_path):
    write(tmp_path / "w.pth", {"w": np.ones(300, np.float32)})
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    for mode in ("w:gz", "w"):
        with tarfile.open(tmp_path / f"{mode[2:]}model.nemo", mode) as archive:
            archive.add(tmp_path / "w.pth", "model_weights.ckpt")
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for name, said in {
        "cut.pth": rf"truncated: .* \({len(whole) // 2} bytes\)",
        "gzmodel.nemo": r"an archive, such as NeMo's \.nemo \(which jasper/pt2mind\.py reads\)",
        "w.safetensors": "a file of safetensors, not of torch.save",
    }.items():
        with pytest.raises(UserError, match=rf"{name}: {said}"):
            read(tmp_path / name)
    # Without compression, the zip archive in it is found where it is.
    np.testing.assert_array_equal(read(tmp_path / "model.nemo")["w"].numpy(), np.ones(300))


@pytest.mark.parametrize(
    "offset, shape, strides", [(0, (5,), (1,)), (3, (2,), (1,)), (0, (9,), (0,)), (-1, (2,), (1,))]
)
def test_tensors_outside_their_storage_are_refused(offset, shape, strides, tmp_path):
    write(tmp_path / "w.pth", {"w": np.ones(4, np.float32)})
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        pickled = archive.read("archive/data.pkl")
        numbers = archive.read("archive/data/0")
    start, end = pickled.index(b"Q") + 1, pickled.index(b"\x89ccollections")
    writer = _Writer()
    for value in (offset, shape, strides):
        writer.save(value)
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled[:start] + writer.pickle[2:] + pickled[end:])
        archive.writestr("archive/data/0", numbers)
    with pytest.raises(UserError, match="w.pth: .*(reaches beyond|not a readable)"):
        read(tmp_path / "w.pth")["w"].numpy()


# ---- writing, configurations, names


def test_torch_reads_written_files(torch, tmp_path):
    rng = np.random.default_rng(0)
    content = {
        "state_dict": {
            "w": rng.standard_normal((3, 4, 5)).astype(np.float32),
            "count": np.array(70_000, np.int64),
            "empty": np.zeros((0, 2), np.float32),
        },
        "numbers": [0, -1, 127, 128, 255, 256, -129, 2**40, 0.1, True, False, None],
        "labels": "é_'",
        "betas": (0.9, 0.999),
    }
    write(tmp_path / "w.pth", content)
    found = torch.load(tmp_path / "w.pth", weights_only=True)
    assert {key: found[key] for key in list(content)[1:]} == {
        key: content[key] for key in list(content)[1:]
    }
    ours = read(tmp_path / "w.pth")
    for name, value in content["state_dict"].items():
        tensor = found["state_dict"][name]
        assert tensor.is_contiguous() and tensor.numpy().dtype == value.dtype
        np.testing.assert_array_equal(tensor.numpy(), value)
        np.testing.assert_array_equal(ours["state_dict"][name].numpy(), value)
    assert list(tmp_path.iterdir()) == [tmp_path / "w.pth"]


def test_an_array_that_occurs_twice_is_stored_once(torch, tmp_path):
    values = np.arange(6, dtype=np.float32)
    write(tmp_path / "w.pth", {"raw": values, "ema": values, "other": values.copy()})
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 2
    found = torch.load(tmp_path / "w.pth", weights_only=True)
    for tensor in found.values():
        np.testing.assert_array_equal(tensor.numpy(), values)


def test_names_are_written_as_references(tmp_path):
    made = named("fractions.Fraction")(3, 4)
    write(tmp_path / "w.pth", {"share": made, "kind": named("collections.Counter")})
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        found = pickle.loads(archive.read("archive/data.pkl"))
    assert found == {"share": Fraction(3, 4), "kind": Counter}
    back = read(tmp_path / "w.pth")
    assert back["share"].origin == "fractions.Fraction" and back["share"].arguments == (3, 4)
    assert plain(back["kind"]) == "Counter"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "w.pth", {})


WANTED = {"a.weight": (2, 3), "b.weight": (4, 1, 1, 5), "b.bias": (4,)}
NAMES = {"A.w": "a.weight", "B.w": "b.weight", "B.b": "b.bias"}


def test_match_finds_tensors_by_name_and_shape():
    found = {"B.w": np.ones((4, 1, 5)), "A.w": np.ones((2, 3)), "B.b": np.ones(4)}
    matched = match(found, NAMES, WANTED, "w.pth")
    assert matched.keys() == WANTED.keys() and matched["b.weight"] is found["B.w"]


def test_match_lists_tensors_that_do_not_fit():
    found = {"A.w": np.ones((3, 2)), "B.b": np.ones(4), "C.w": np.ones(7)}
    with pytest.raises(UserError) as refusal:
        match(found, NAMES, WANTED, "w.pth")
    assert str(refusal.value) == (
        "w.pth: 1 of 3 tensors match; 1 missing (B.w (4, 1, 1, 5)); 1 of another shape "
        "(A.w (3, 2), expected (2, 3)); 1 not of this network (C.w (7,))"
    )
