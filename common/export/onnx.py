"""Networks as ONNX files, written operator by operator from the weights of a checkpoint.

A model folder's part adds its network to a `Graph` (`Recipe.onnx_network`). Operator set 11, which
MindSpore's own exporter writes, too, and so what the converters of MindSpore Lite and CANN have
seen most; nothing here needs a later one. Batch normalisation becomes part of the convolution
before it. The operators: https://github.com/onnx/onnx/blob/main/docs/Operators.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.utils.errors import UserError

if TYPE_CHECKING:
    from common.model.speech_model import SpeechModel

OPSET = 11
IR_VERSION = 6  # of the files of that operator set
CONSTANT = "constant_"  # beginning of the names of tensors that are no weights
_LARGEST = 127  # magnitude of a weight in int8
_FLOAT, _INT32, _INT64 = 1, 6, 7  # numbers of ONNX's element types
_MOST = 2**31 - 2**20  # bytes of a protocol-buffers message


class Graph:
    """An ONNX graph under construction; tensors are known by their names.

    Args:
        weights: Precision in which weight matrices are kept: "float32", "float16" or "int8", which
            come back to float32 where they are used; or "int8 convolutions", with the other
            matrices in float32.
    """

    def __init__(self, weights: str = "float32"):
        self.weights, self.size = weights, 0
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants: dict[tuple, str] = {}

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator.

        Args:
            kind: Its ONNX name.
            *inputs: Names of its inputs.
            outputs: Number of its outputs.
            **attributes: Its attributes.

        Returns:
            Name of its output; a list where there are several.
        """
        from onnx import helper

        names = [f"{kind}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, names[0], **attributes))
        return names[0] if outputs == 1 else names

    def weight(
        self, name: str, values: np.ndarray, channels: int | None = None, convolves: bool = False
    ) -> str:
        """Add a weight of the network.

        Args:
            name: Name of the tensor, unique in the graph.
            values: Its values.
            channels: Axis of the output channels, each of which has a scale where the weights are
                kept as int8; None: these keep their precision.
            convolves: It is of a convolution.

        Returns:
            Name of the float32 tensor to compute with.

        Raises:
            UserError: The weights exceed what an ONNX file can hold.
        """
        values = np.ascontiguousarray(values, np.float32)
        if self.weights == "float16" and values.ndim > 1:
            return self.op("Cast", self._store(name, values.astype(np.float16)), to=_FLOAT)
        integers = self.weights == "int8" or (self.weights == "int8 convolutions" and convolves)
        if not integers or channels is None:
            return self._store(name, values)
        others = tuple(axis for axis in range(values.ndim) if axis != channels)
        scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(_LARGEST)
        scale[scale == 0] = 1.0
        kept = self._store(name, np.round(values / scale).astype(np.int8))
        return self.op("Mul", self.op("Cast", kept, to=_FLOAT), self._store(f"{name}.scale", scale))

    def constant(self, values: Any, kind: type = np.int64) -> str:
        """Add a small constant tensor; the same values are kept once.

        Args:
            values: A number, or numbers in any shape.
            kind: numpy type of the tensor.

        Returns:
            Name of the tensor.
        """
        values = np.asarray(values, kind)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = self._store(f"{CONSTANT}{len(self._constants)}", values)
        return self._constants[key]

    def output(self, x: str, name: str, kind: int) -> None:
        """Name a tensor as an output of the graph.

        Args:
            x: Its name so far.
            name: Name of the output.
            kind: Number of its ONNX element type.
        """
        from onnx import helper

        self.nodes.append(helper.make_node("Cast", [x], [name], f"output_{name}", to=kind))

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[int, list]],
        outputs: Mapping[str, tuple[int, list]],
    ) -> Any:
        """Make the ONNX model of the graph.

        Args:
            name: Of the graph.
            inputs: Name -> number of the ONNX element type, and shape: numbers, or names of axes of
                any length.
            outputs: The same.

        Returns:
            The checked `onnx.ModelProto`.
        """
        from onnx import checker, helper

        tensors = [
            [helper.make_tensor_value_info(key, *values) for key, values in each.items()]
            for each in (inputs, outputs)
        ]
        content = helper.make_graph(self.nodes, name, *tensors, self.initializers)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(content, producer_name=name, opset_imports=[opset])
        model.ir_version = IR_VERSION
        checker.check_model(model)
        return model

    def _store(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        self.size += values.nbytes
        if self.size > _MOST:
            raise UserError(
                "the weights exceed the 2 GB that an ONNX file can hold: use --half or --int8"
            )
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    # ---- layers and lengths

    def size_of(self, x: str, axis: int) -> str:
        """Add the length of an axis of a tensor, as a scalar int64.

        Args:
            x: Name of the tensor.
            axis: The axis.

        Returns:
            Name of the scalar.
        """
        return self.op("Gather", self.op("Shape", x), self.constant(axis), axis=0)

    def shorter(self, lengths: str, stride: int) -> str:
        """Add the lengths after a convolution that is padded by half a kernel.

        Args:
            lengths: Name of the lengths (B,) int64 before it.
            stride: Its stride.

        Returns:
            Name of the lengths (B,) int64 after it.
        """
        if stride == 1:
            return lengths
        raised = self.op("Add", lengths, self.constant([stride - 1]))
        return self.op("Div", raised, self.constant([stride]))

    def frame_mask(self, lengths: str, x: str) -> str:
        """Add a mask of the frames that belong to their utterance.

        Args:
            lengths: Name of the lengths (B,) int64.
            x: Name of the padded tensor (B, C, F, T).

        Returns:
            Name of the mask (B, 1, 1, T): 1 for a frame of the utterance, 0 for padding.
        """
        count = self.size_of(x, 3)
        frames = self.op("Range", self.constant(0), count, self.constant(1))
        frames = self.op("Reshape", frames, self.constant([1, 1, 1, -1]))
        ends = self.op("Reshape", lengths, self.constant([-1, 1, 1, 1]))
        return self.op("Cast", self.op("Less", frames, ends), to=1)

    def convolution(
        self,
        x: str,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        norm: Norm | None = None,
        stride: Sequence[int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
        padding: Sequence[int] | None = None,
    ) -> str:
        """Add a convolution over bins and frames, with the normalisation after it.

        Args:
            x: Name of the input (B, C, F, T).
            name: Beginning of the names of its weights.
            weight: (O, C / groups, kernel bins, kernel frames).
            bias: (O,); None: no bias.
            norm: The batch normalisation after it, which becomes part of the weights; None: none.
            stride: Stride over bins and over frames.
            dilation: Dilation over frames.
            groups: Number of groups.
            padding: Zeros before and after the bins, before and after the frames; None: half a
                kernel on each side.

        Returns:
            Name of the output (B, O, F', T').
        """
        if norm is not None:
            scale, shift = norm.scale_and_shift()
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None else bias * scale + shift
        height, width = weight.shape[2:]
        half = height // 2, width // 2 * dilation
        padding = padding or (half[0], half[0], half[1], half[1])
        inputs = [x, self.weight(f"{name}.weight", weight, channels=0, convolves=True)]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias))
        return self.op(
            "Conv",
            *inputs,
            kernel_shape=[height, width],
            strides=list(stride),
            dilations=[1, dilation],
            group=groups,
            pads=[padding[0], padding[2], padding[1], padding[3]],
        )


class Norm:
    """Statistics and weights of a batch normalisation.

    Args:
        weights: Parameters of the network, by name.
        name: Beginning of the names of those of the normalisation.
        eps: Added to the variance.
    """

    def __init__(self, weights: dict[str, np.ndarray], name: str, eps: float = 1e-5):
        self.leaves = {
            leaf: weights[f"{name}.{leaf}"].astype(np.float64)
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        self.eps = eps

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scale (C,) and shift (C,): the normalisation is x * scale + shift."""
        scale = self.leaves["gamma"] / np.sqrt(self.leaves["moving_variance"] + self.eps)
        return scale, self.leaves["beta"] - self.leaves["moving_mean"] * scale


def write_onnx(
    speech_model: SpeechModel,
    path: Path,
    batch_size: int = 0,
    frames: int = 0,
    precision: str = "float32",
    samples: bool = False,
) -> None:
    """Write a network as an ONNX file.

    Args:
        speech_model: The network.
        path: File to write.
        batch_size: Utterances in a batch; 0: any number.
        frames: Feature frames that inputs are padded to; 0: any number.
        precision: Of the weights; see `Graph`.
        samples: The file takes samples (B, N) and computes the features itself.

    Raises:
        UserError: The network has parts that cannot be written as ONNX, or is too large.
    """
    from onnx import save

    recipe = speech_model.recipe
    if recipe.onnx_network is None:
        raise UserError(f"--file_format ONNX: there is none of {recipe.name}; use MINDIR")
    weights = {p.name: p.asnumpy() for p in speech_model.network.get_parameters()}
    graph = Graph(precision)
    batch = batch_size or "utterances"
    lengths = graph.op("Cast", "lengths", to=_INT64)
    outputs: dict[str, tuple[int, list]] = {}
    if samples:
        from common.export.onnx_features import Batch, add_features, add_trim

        inputs: dict[str, tuple[int, list]] = {"samples": (_FLOAT, [batch, "samples"])}
        recordings = Batch("samples", lengths)
        if speech_model.featurizer.config.trim_silence:
            recordings, starts = add_trim(graph, recordings)
            graph.output(starts, "starts", _INT32)
            outputs["starts"] = _INT32, [batch]
        batch_of_features = add_features(graph, speech_model.featurizer, recordings)
        features, lengths = batch_of_features.values, batch_of_features.lengths
    else:
        features = "features"
        shape = [batch, speech_model.featurizer.dimension, frames or "frames"]
        inputs = {features: (_FLOAT, shape)}
    config = speech_model.config.ModelConfig
    log_probs, lengths = recipe.onnx_network(graph, config, weights, features, lengths)
    graph.output(log_probs, "log_probs", _FLOAT)
    graph.output(lengths, "output_lengths", _INT32)
    output_frames = int(speech_model.output_frames(frames)) if frames else "output_frames"
    log_probs_shape = [output_frames, batch, len(speech_model.tokenizer)]
    outputs = {
        "log_probs": (_FLOAT, log_probs_shape),
        "output_lengths": (_INT32, [batch]),
        **outputs,
    }
    inputs["lengths"] = _INT32, [batch]
    save(graph.model(recipe.name, inputs, outputs), str(path))
