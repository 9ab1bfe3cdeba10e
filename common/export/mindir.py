"""What MindIR files hold, and weights that several of them share.

A MindIR file is a protocol-buffers message, ModelProto of mind_ir.proto in MindSpore's sources.
Above 1 GB MindSpore keeps the weights out of it, in `<name>_variables/data_<n>`: 64 bytes, of which
the first is 1 where numbers are little endian, then the weights, each padded to 64 bytes; a weight
names its file, relative to the message's, with offset and length.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from common.utils.backend import ms
from common.utils.errors import UserError

mind_ir_pb2 = ms.train.mind_ir_pb2

_ALIGNMENT = 64  # bytes
_MOST = 2**30  # bytes of weights in a data file, unless a single one has more
_TYPES = {
    mind_ir_pb2.TensorProto.FLOAT: np.float32,
    mind_ir_pb2.TensorProto.FLOAT16: np.float16,
    mind_ir_pb2.TensorProto.INT32: np.int32,
}


def operators(path: Path) -> set[str]:
    """Return the names of the operators in a file: "LSTM", "MatMul", ..."""
    return _operators(_read(path))


def _operators(model: Any) -> set[str]:
    graphs = [model.graph, *model.functions]
    kinds = {node.op_type for graph in graphs for node in graph.node}
    return {kind.removeprefix("REF::").split(":")[0] for kind in kinds}


def graph_facts(path: Path) -> dict[str, Any]:
    """Describe the graph of a file for programs that do not read protocol buffers.

    Args:
        path: A MindIR file, or `<name>_graph.mindir` of one that MindSpore split.

    Returns:
        The file's size in bytes, its version of MindIR (older programs do not read newer ones), its
        inputs (name; type, such as "float32"; shape, in which -1 is an open axis), and the sorted
        names of its operators.
    """
    inputs, model = [], _read(path)
    for value in model.graph.input:
        tensor = value.tensor[0]
        kind = np.dtype(_TYPES[tensor.data_type]).name if tensor.data_type in _TYPES else "other"
        inputs.append({"name": value.name, "type": kind, "shape": list(tensor.dims)})
    return {
        "bytes": path.stat().st_size,
        "mind_ir_version": model.mind_ir_version,
        "inputs": inputs,
        "operators": sorted(_operators(model)),
    }


def parameters(path: Path) -> dict[str, np.ndarray]:
    """Read the weights in a file, or beside it, by their names in the network."""
    return {
        _name(tensor): np.frombuffer(_content(tensor, path), _TYPES[tensor.data_type]).reshape(
            tuple(tensor.dims)
        )
        for tensor in _read(path).graph.parameter
    }


def share_weights(paths: list[Path], folder: Path) -> None:
    """Rewrite graphs of the same weights so that they read them from one folder.

    Data files of their own become superfluous.

    Args:
        paths: The MindIR files, which are replaced.
        folder: Folder to make for the weights, beside the files.

    Raises:
        UserError: A weight differs from one graph to another.
    """
    folder.mkdir()
    places: dict[str, tuple[str, int, bytes]] = {}  # file, offset, content
    data, count = None, 0
    try:
        for path in paths:
            model = _read(path)
            for tensor in model.graph.parameter:
                name, content = _name(tensor), _content(tensor, path)
                if name not in places:
                    if data is None or data.tell() + len(content) > _MOST + _ALIGNMENT:
                        if data is not None:
                            data.close()
                        data = open(folder / f"data_{count}", "wb")
                        data.write(bytes([sys.byteorder == "little"]) + bytes(_ALIGNMENT - 1))
                        count += 1
                    places[name] = (f"{folder.name}/{Path(data.name).name}", data.tell(), content)
                    data.write(content + bytes(-len(content) % _ALIGNMENT))
                location, offset, expected = places[name]
                if content != expected:
                    raise UserError(f"{path.name}: {name} differs from {paths[0].name}'s")
                tensor.ClearField("raw_data")
                tensor.external_data.location = location
                tensor.external_data.offset = offset
                tensor.external_data.length = len(content)
            path.unlink()
            path.write_bytes(model.SerializeToString())
    finally:
        if data is not None:
            data.close()


def _read(path: Path) -> Any:
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def _name(tensor: Any) -> str:
    """Without the graph's, which comes before a colon."""
    return tensor.name.rpartition(":")[2]


def _content(tensor: Any, path: Path) -> bytes:
    if not tensor.HasField("external_data"):
        return tensor.raw_data
    with open(path.parent / tensor.external_data.location, "rb") as data:
        data.seek(tensor.external_data.offset)
        return data.read(tensor.external_data.length)
