"""Metadata of ONNX files: beside onnx's own reader, and of damaged files."""

from __future__ import annotations

import zlib

import numpy as np
import onnx
import pytest

from common.export.onnx import Graph
from common.export.onnx_metadata import (
    add_metadata,
    check_model_content,
    copy_without_metadata,
    embedded_description,
    model_content,
    read_metadata,
)
from common.utils.errors import UserError

ENTRIES = {"description": '{"model": "jasper"}', "labels": "ä" * 200, "empty": ""}


@pytest.fixture
def file(tmp_path):
    """A file with a weight of 800 bytes, metadata of its writer and ours."""
    graph = Graph()
    graph.output(graph.op("Add", "x", graph.weight("w", np.arange(200))), "y", 1)
    model = graph.model("sum", {"x": (1, ["n"])}, {"y": (1, ["n"])})
    onnx.helper.set_model_props(model, {"author": "somebody"})
    onnx.save(model, str(tmp_path / "sum.onnx"))
    assert read_metadata(tmp_path / "sum.onnx") == {"author": "somebody"}
    add_metadata(tmp_path / "sum.onnx", ENTRIES)
    return tmp_path / "sum.onnx"


def test_metadata_is_what_onnx_reads(file):
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert read_metadata(file) == {entry.key: entry.value for entry in model.metadata_props}
    assert read_metadata(file) == {"author": "somebody", **ENTRIES}
    assert embedded_description(file) == {"model": "jasper"}


def test_a_file_that_ends_early_is_damaged(file):
    content = file.read_bytes()
    boundaries = 0
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        try:
            found = read_metadata(file)
        except UserError as error:
            assert str(file) in str(error) and "export the model anew" in str(error)
        else:  # cut between two fields
            boundaries += 1
            assert found.items() <= {"author": "somebody", **ENTRIES}.items()
    assert boundaries < 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"RIFF, and a recording", "damaged, or no ONNX file"),
        (b"\xff" * 40, "damaged, or no ONNX file"),
        (b"{}", "damaged, or no ONNX file"),
    ],
)
def test_other_files_are_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "speech.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"speech.onnx: {message}"):
        read_metadata(path)
    with pytest.raises(UserError, match="missing.onnx: cannot be read"):
        read_metadata(tmp_path / "missing.onnx")


def test_a_damaged_description_is_said(file):
    add_metadata(file, {"description": "{"})
    with pytest.raises(UserError, match="sum.onnx: its description is damaged"):
        embedded_description(file)


def test_no_metadata_are_added_to_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        add_metadata(tmp_path / "missing.onnx", ENTRIES)
    assert not list(tmp_path.iterdir())


def test_a_copy_without_metadata_is_the_same_model(file, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy_without_metadata(file, copy)
    expected = onnx.load(file)
    del expected.metadata_props[:]
    assert onnx.load(copy) == expected and read_metadata(copy) == {}
    bare = copy.read_bytes()
    add_metadata(copy, ENTRIES)
    assert copy.read_bytes().startswith(bare)
    copy_without_metadata(copy, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == bare


def test_damage_anywhere_in_the_model_is_said(file):
    content = model_content(file)
    intact = file.read_bytes()
    assert content == {"bytes": len(intact), "crc32": f"{zlib.crc32(intact):08x}"}
    add_metadata(file, {"more": "metadata"})
    check_model_content(file, {"content": content})
    check_model_content(file, {})  # of an earlier version
    whole = file.read_bytes()
    for place in range(0, len(intact), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=f"^{file}: its model has the checksum .* copy it anew"):
            check_model_content(file, {"content": content})
    file.write_bytes(intact[:-1])
    with pytest.raises(UserError, match=f"{len(intact) - 1} bytes, but .* at least {len(intact)}"):
        check_model_content(file, {"content": content})


@pytest.mark.parametrize("content", [3, {}, {"bytes": "1", "crc32": ""}, {"bytes": -1}])
def test_content_of_other_types_is_damaged(content, file):
    with pytest.raises(UserError, match="sum.onnx: its content is damaged"):
        check_model_content(file, {"content": content})
