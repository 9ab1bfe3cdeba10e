"""Both forms of a convolution against a plain one in numpy, values and gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from benchmarks import reference
from common.nn.matmul_convolution import (
    MatmulConvolution,
    MatmulRowConvolution,
    convolution,
    time_convolution,
)

pytestmark = pytest.mark.usefixtures("cpu")


class Differentiated(nn.Cell):
    """x, probe -> output, gradients of sum(output * probe) to x and to the weights."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell
        weights = ms.ParameterTuple(cell.trainable_params())
        self.differentiate = ops.value_and_grad(self.probed, 0, weights, has_aux=True)

    def probed(self, x, probe):
        output = self.cell(x)
        return ops.sum(output * probe), output

    def construct(self, x, probe):
        (_, output), gradients = self.differentiate(x, probe)
        return output, gradients


def floats(*shape: int | None) -> Tensor:
    return Tensor(shape=shape, dtype=ms.float32)


def tensor(array: np.ndarray) -> Tensor:
    return Tensor(array.astype(np.float32))


def expected(x: np.ndarray, weight: np.ndarray, stride: tuple[int, int]) -> np.ndarray:
    return np.stack([reference.convolve(row, weight, stride) for row in x])


# weight (O, C, K, L), stride, bins: those of the presets and of Jasper in small, and odd corners
CASES = {
    "few channels, copied input": ((6, 1, 11, 7), (2, 2), 20),
    "many channels, added taps": ((4, 5, 7, 7), (2, 1), 10),
    "several outputs together": ((2, 3, 21, 3), (1, 1), 9),
    "together over a stride": ((9, 1, 41, 11), (2, 2), 37),
    "along time alone": ((3, 4, 1, 5), (1, 2), 1),
    "stride beyond the kernel": ((3, 2, 3, 3), (3, 3), 11),
    "stride of frames beyond its kernel": ((8, 1, 3, 1), (1, 4), 6),
    "a point": ((3, 2, 1, 1), (1, 1), 4),
}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_convolution(case, native):
    shape, stride, bins = CASES[case]
    rng = np.random.default_rng(len(case))
    weight, bias = rng.standard_normal(shape), rng.standard_normal(shape[0])
    cell = convolution(weight, stride, native, bias if "point" in case else None)
    offset = bias.reshape(-1, 1, 1) if "point" in case else 0
    names = ["weight", "bias"] if "point" in case else ["weight"]
    assert [parameter.name for parameter in cell.trainable_params()] == names
    assert cell.weight.shape == shape

    graph = Differentiated(cell)
    graph.set_inputs(floats(None, shape[1], bins, None), floats(None, shape[0], None, None))
    for batch, frames in ((2, 13), (1, 1), (3, 8)):  # one graph for all
        x = rng.standard_normal((batch, shape[1], bins, frames))
        result = expected(x, weight, stride) + offset
        probe = rng.standard_normal(result.shape)
        output, (to_x, to_weights) = graph(tensor(x), tensor(probe))
        np.testing.assert_allclose(output.asnumpy(), result, rtol=1e-4, atol=1e-4)

        # Linear in both, so that the change along any way is exact.
        way, weight_way = rng.standard_normal(x.shape), rng.standard_normal(shape)
        change = (expected(way, weight, stride) * probe).sum()
        assert float((to_x.asnumpy() * way).sum()) == pytest.approx(change, rel=1e-3, abs=1e-3)
        change = (expected(x, weight_way, stride) * probe).sum()
        found = float((to_weights[0].asnumpy() * weight_way).sum())
        assert found == pytest.approx(change, rel=1e-3, abs=1e-3)
        if "point" in case:
            np.testing.assert_allclose(
                to_weights[1].asnumpy(), probe.sum((0, 2, 3)), rtol=1e-3, atol=1e-3
            )


def test_the_taps_go_to_the_cheaper_side():
    def copies(*shape: int) -> bool:
        return MatmulConvolution(np.zeros(shape), (2, 1)).copies_input

    assert copies(32, 1, 41, 11) and not copies(32, 32, 21, 11)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="expected odd sizes"):
        MatmulConvolution(np.zeros((3, 1, 4, 3)), (1, 1))


@pytest.mark.parametrize("frames", [None, 9])
def test_matrix_products_export(frames, tmp_path):
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((4, 3, 5, 5))
    cell = convolution(weight, (2, 2), native=False)
    batch = None if frames is None else 2
    given = floats(batch, 3, 8, frames) if frames is None else tensor(np.zeros((2, 3, 8, frames)))
    ms.export(cell, given, file_name=str(tmp_path / "cell"), file_format="MINDIR")
    graph = nn.GraphCell(ms.load(str(tmp_path / "cell.mindir")))
    for length in (frames,) if frames else (4, 9):
        x = rng.standard_normal((2, 3, 8, length))
        found = graph(tensor(x)).asnumpy()
        np.testing.assert_array_equal(found, cell(tensor(x)).asnumpy())
        np.testing.assert_allclose(found, expected(x, weight, (2, 2)), atol=1e-4)


def over_time(x: np.ndarray, weight: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """x (B, C, T), weight (O, C / G, K) -> (B, O, T'), tap by tap; G is C where there is one."""
    taps, (batch, _, frames) = weight.shape[2], x.shape
    half = taps // 2 * dilation
    padded = np.pad(x, ((0, 0), (0, 0), (half, half)))
    output = np.zeros((batch, len(weight), frames))
    for tap in range(taps):
        shifted = padded[:, :, tap * dilation : tap * dilation + frames]
        if weight.shape[1] == 1 and x.shape[1] > 1:
            output += shifted * weight[:, 0, tap].reshape(1, -1, 1)
        else:
            output += np.einsum("oc,bct->bot", weight[:, :, tap], shifted)
    return output[:, :, ::stride]


# weight (O, C / groups, 1, K), stride, dilation, groups
IN_TIME = {
    "of one frame": ((4, 3, 1, 1), 1, 1, 1),
    "plain": ((4, 3, 1, 5), 1, 1, 1),
    "stride": ((4, 3, 1, 5), 2, 1, 1),
    "stride of one frame": ((4, 3, 1, 1), 2, 1, 1),
    "dilation": ((4, 3, 1, 5), 1, 2, 1),
    "by channel": ((3, 1, 1, 5), 1, 1, 3),
    "by channel, stride": ((3, 1, 1, 5), 2, 1, 3),
    "by channel, dilation": ((3, 1, 1, 5), 1, 2, 3),
    "with a bias": ((4, 3, 1, 3), 1, 1, 1),
}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("case", IN_TIME)
def test_time_convolution(case, native):
    shape, stride, dilation, groups = IN_TIME[case]
    rng = np.random.default_rng(len(case))
    weight, bias = rng.standard_normal(shape), rng.standard_normal(shape[0])
    with_bias = "bias" in case
    cell = time_convolution(weight, stride, dilation, groups, native, bias if with_bias else None)
    assert cell.weight.shape == shape
    channels = shape[1] * groups

    def given(x: np.ndarray) -> Tensor:
        return tensor(np.expand_dims(x, 2) if native else np.expand_dims(x.swapaxes(0, 1), 0))

    def taken(x: Tensor) -> np.ndarray:
        return x.asnumpy().squeeze(2) if native else x.asnumpy().squeeze(0).swapaxes(0, 1)

    graph = Differentiated(cell)
    if native:
        graph.set_inputs(floats(None, channels, 1, None), floats(None, shape[0], 1, None))
    else:
        graph.set_inputs(floats(1, channels, None, None), floats(1, shape[0], None, None))
    for batch, frames in ((2, 12), (1, 1), (3, 7)):  # one graph for all
        x = rng.standard_normal((batch, channels, frames))
        result = over_time(x, weight[:, :, 0], stride, dilation)
        probe = rng.standard_normal(result.shape)
        output, (to_x, to_weights) = graph(given(x), given(probe))
        found = taken(output) - (bias.reshape(1, -1, 1) if with_bias else 0)
        np.testing.assert_allclose(found, result, rtol=1e-4, atol=1e-4)

        way, weight_way = rng.standard_normal(x.shape), rng.standard_normal(shape)
        change = (over_time(way, weight[:, :, 0], stride, dilation) * probe).sum()
        assert float((taken(to_x) * way).sum()) == pytest.approx(change, rel=1e-3, abs=1e-3)
        change = (over_time(x, weight_way[:, :, 0], stride, dilation) * probe).sum()
        found = float((to_weights[0].asnumpy() * weight_way).sum())
        assert found == pytest.approx(change, rel=1e-3, abs=1e-3)


def test_time_convolution_refuses():
    with pytest.raises(ValueError, match="expected an odd size"):
        time_convolution(np.zeros((3, 1, 1, 4)))
    with pytest.raises(ValueError, match="expected 1 or C = O"):
        time_convolution(np.zeros((4, 2, 1, 3)), groups=2, native=False)


def test_row_convolution():
    """One kernel for each row, looking ahead; sequences shorter and longer than the kernel."""
    rng = np.random.default_rng(4)
    cell = MatmulRowConvolution()
    cell.set_inputs(floats(3, None, None), floats(3, 4))
    weight = rng.standard_normal((3, 4))
    for batch, frames in ((2, 11), (1, 3), (2, 8)):
        x = rng.standard_normal((3, batch, frames))
        padded = np.pad(x, ((0, 0), (0, 0), (0, 3)))
        result = sum(
            padded[:, :, tap : tap + frames] * weight[:, tap].reshape(3, 1, 1) for tap in range(4)
        )
        found = cell(tensor(x), tensor(weight)).asnumpy()
        np.testing.assert_allclose(found, result, rtol=1e-4, atol=1e-5)
