"""The building blocks against numpy formulas, on padded batches."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from benchmarks import reference
from common.nn.dropout import Dropout
from common.nn.layers import frame_mask
from common.nn.losses import CTCLoss
from common.nn.norm import MaskedBatchNorm
from common.nn.recurrent import AscendLSTM, Lookahead, Recurrent

pytestmark = pytest.mark.usefixtures("cpu")


class WithGradient(nn.Cell):
    """*inputs, probe -> output, gradient of sum(output * probe) to the first input and weights."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.objective = Probed(cell)
        weights = ms.ParameterTuple(cell.trainable_params())
        self.names = [weight.name for weight in weights]
        self.differentiate = ops.value_and_grad(
            self.objective, 0, weights if len(weights) else None, has_aux=True
        )

    def construct(self, *inputs):
        (_, output), gradients = self.differentiate(*inputs)
        return output, gradients


class Probed(nn.Cell):
    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell

    def construct(self, *inputs):
        output = self.cell(*inputs[:-1])
        return ops.sum(output * inputs[-1]), output


def open_floats(*shape: int | None) -> Tensor:
    return Tensor(shape=shape, dtype=ms.float32)


def open_integers(*shape: int | None) -> Tensor:
    return Tensor(shape=shape, dtype=ms.int32)


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [
        Tensor(array.astype(np.int32 if array.dtype.kind == "i" else np.float32))
        for array in arrays
    ]


def test_frame_mask():
    expected = [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    mask = frame_mask(Tensor([3, 1, 4], ms.int32), 4)
    assert mask.dtype == ms.float32 and mask.asnumpy().tolist() == expected


# MaskedBatchNorm: `frames` brings an array of either layout to (unpadded frames, channel).

LENGTHS = np.array([7, 4, 1])


def padding_mask(layout: str, lengths: np.ndarray) -> np.ndarray:
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.float32)
    return mask.T if layout == "TBC" else mask


def draw(layout: str, rng: np.random.Generator, batch: int, frames: int) -> np.ndarray:
    shapes = {
        "BCFT": (batch, 3, 2, frames),
        "1CBT": (1, 3, batch, frames),
        "TBC": (frames, batch, 3),
    }
    shape = shapes[layout]
    scale, offset = np.array([1.0, 0.1, 5.0]), np.array([0.5, -2.0, 3.0])
    if layout != "TBC":
        scale, offset = scale.reshape(3, 1, 1), offset.reshape(3, 1, 1)
    return rng.standard_normal(shape) * scale + offset


def frames(layout: str, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if layout == "1CBT":
        return x[0].transpose(1, 2, 0)[mask > 0]
    if layout == "BCFT":
        return np.moveaxis(x, 1, 3).transpose(0, 2, 1, 3)[mask > 0].reshape(-1, x.shape[1])
    return x[mask > 0]


@pytest.mark.parametrize("use_matmul", [True, False])
@pytest.mark.parametrize("layout", ["BCFT", "1CBT", "TBC"])
def test_masked_batch_norm(layout, use_matmul):
    rng = np.random.default_rng(1)
    norm = MaskedBatchNorm(3, layout, use_matmul=use_matmul)
    gamma, beta = np.array([0.5, 2.0, 1.0]), np.array([0.0, 1.0, -1.0])
    norm.gamma.set_data(Tensor(gamma, ms.float32))
    norm.beta.set_data(Tensor(beta, ms.float32))
    mask = padding_mask(layout, LENGTHS)
    x = draw(layout, rng, 3, 7)
    over = {"BCFT": (3, 1, 1, 7), "1CBT": (1, 1, 3, 7), "TBC": (7, 3, 1)}[layout]
    probe = rng.standard_normal(x.shape) * mask.reshape(over)
    rows, probe_rows = frames(layout, x, mask), frames(layout, probe, mask)

    cell = WithGradient(norm).set_train()
    output, (to_x, (to_gamma, to_beta)) = cell(*tensors(x, mask, probe))

    assert not frames(layout, output.asnumpy(), 1 - mask).any()
    mean, variance = rows.mean(0), rows.var(0)
    hat = (rows - mean) / np.sqrt(variance + norm.eps)
    np.testing.assert_allclose(
        frames(layout, output.asnumpy(), mask), hat * gamma + beta, atol=2e-4
    )
    expected = (
        gamma
        / np.sqrt(variance + norm.eps)
        * (probe_rows - probe_rows.mean(0) - hat * (probe_rows * hat).mean(0))
    )
    np.testing.assert_allclose(frames(layout, to_x.asnumpy(), mask), expected, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(to_gamma.asnumpy(), (probe_rows * hat).sum(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(to_beta.asnumpy(), probe_rows.sum(0), rtol=1e-3, atol=1e-3)
    moving_mean, moving_variance = 0.1 * mean, 0.9 + 0.1 * rows.var(0, ddof=1)
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), moving_mean, rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.asnumpy(), moving_variance, rtol=1e-3)

    norm.moving_mean.set_data(Tensor([1.0, 2.0, 3.0], ms.float32))
    norm.moving_variance.set_data(Tensor([4.0, 0.25, 1.0], ms.float32))
    norm.set_train(False)
    expected = (rows - [1.0, 2.0, 3.0]) / np.sqrt(np.array([4.0, 0.25, 1.0]) + norm.eps)
    output = norm(*tensors(x, mask)).asnumpy()
    np.testing.assert_allclose(
        frames(layout, output, mask), expected * gamma + beta, rtol=1e-4, atol=1e-4
    )
    assert not frames(layout, output, 1 - mask).any()
    assert norm.moving_mean.asnumpy().tolist() == [1.0, 2.0, 3.0]


def test_masked_batch_norm_without_padding_is_batch_norm():
    x = draw("BCFT", np.random.default_rng(2), 4, 6)
    ours, theirs = MaskedBatchNorm(3).set_train(), nn.BatchNorm2d(3).set_train()
    found, expected = ours(*tensors(x, np.ones((4, 6)))), theirs(*tensors(x))
    np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), atol=2e-4)
    assert set(nn.SequentialCell([ours]).parameters_dict()) == set(
        nn.SequentialCell([theirs]).parameters_dict()
    )
    for mine, other in (
        (ours.moving_mean, theirs.moving_mean),
        (ours.moving_variance, theirs.moving_variance),
    ):
        np.testing.assert_allclose(mine.asnumpy(), other.asnumpy(), rtol=1e-3, atol=1e-5)


def test_masked_batch_norm_of_one_frame_stays_finite():
    norm = MaskedBatchNorm(3, "TBC").set_train()
    assert np.isfinite(norm(*tensors(np.ones((1, 1, 3)), np.ones((1, 1)))).asnumpy()).all()
    assert np.isfinite(norm.moving_variance.asnumpy()).all()


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return abs(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_dropout():
    rate, shape = 0.3, (120, 6, 64)
    cells = [Dropout(rate, shape[2], stream) for stream in (0, 1)]
    graphs = [WithGradient(cell).set_train() for cell in cells]
    for graph in graphs:
        graph.set_inputs(open_floats(None, None, shape[2]), open_floats(None, None, shape[2]))
    x = np.random.default_rng(0).uniform(1, 2, shape)

    def run(stream: int, seed: int, x=x):
        cells[stream].dropout_seed.set_data(Tensor(seed, ms.int32))
        output, gradient = graphs[stream](*tensors(x, np.ones(x.shape)))
        return output.asnumpy(), gradient.asnumpy()

    output, gradient = run(0, 12345)
    kept = output != 0
    noise = 4 / np.sqrt(kept.size)
    assert abs(kept.mean() - (1 - rate)) < noise
    np.testing.assert_allclose(output[kept], x[kept] / (1 - rate), rtol=1e-5)
    np.testing.assert_allclose(gradient, kept / (1 - rate), rtol=1e-5)

    np.testing.assert_array_equal(run(0, 12345)[0], output)
    for stream, seed in ((0, 12346), (0, 2**31 - 1), (0, 0), (1, 12345)):
        assert correlation(run(stream, seed)[0] != 0, kept) < noise, (stream, seed)
    for axis in range(3):  # no pattern along frames, utterances or units
        for step in (1, 2):
            first = np.moveaxis(kept, axis, 0)
            assert correlation(first[step:], first[:-step]) < noise, (axis, step)
            assert np.ptp(kept.mean(tuple({0, 1, 2} - {axis}))) < 0.3

    np.testing.assert_array_equal(run(0, 12345, x[:40, :2])[0], output[:40, :2])
    cells[0].set_train(False)
    np.testing.assert_array_equal(cells[0](*tensors(x)).asnumpy(), x.astype(np.float32))


@pytest.mark.parametrize("layout", ["1CBT", "BC1T"])
def test_dropout_is_the_same_in_every_layout(layout):
    x = np.random.default_rng(0).uniform(1, 2, (9, 3, 5))  # (T, B, C)
    there = {"1CBT": (2, 1, 0), "BC1T": (1, 2, 0)}[layout]
    axis = layout.index("1")
    outputs = []
    for given, chosen in ((x, "TBC"), (np.expand_dims(x.transpose(there), axis), layout)):
        cell = Dropout(0.4, 5, 3, chosen).set_train()
        cell.dropout_seed.set_data(Tensor(77, ms.int32))
        outputs.append(cell(*tensors(given)).asnumpy())
    expected, found = outputs
    assert 0 < (expected == 0).mean() < 1
    np.testing.assert_array_equal(found.squeeze(axis), expected.transpose(there))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_refuses(rate):
    with pytest.raises(ValueError, match="expected 0 <= rate < 1"):
        Dropout(rate, 4, 0)


@pytest.mark.parametrize(
    ("kind", "bidirectional"), [("LSTM", True), ("LSTM", False), ("GRU", True), ("RNN", True)]
)
def test_recurrent(kind, bidirectional):
    rng = np.random.default_rng(3)
    cell = Recurrent(kind, 5, 4, bidirectional, rng)
    graph = WithGradient(cell)
    if kind == "LSTM":
        graph.set_inputs(
            open_floats(None, None, 5), open_integers(None), open_floats(None, None, 4)
        )
    lengths = np.array([6, 2, 1, 5])
    x, probe = rng.standard_normal((6, 4, 5)), rng.standard_normal((6, 4, 4))
    probe *= padding_mask("TBC", lengths)[:, :, None]
    output, (to_x, to_weights) = graph(*tensors(x, lengths, probe))
    weights = {
        name.split(".")[-1]: weight.asnumpy().astype(np.float64)
        for name, weight in zip(graph.names, cell.trainable_params())
    }

    def expected(x, weights, row):
        return reference.recurrent_layer(kind, x[: lengths[row], row], weights)

    assert np.isfinite(output.asnumpy()).all()
    for row, length in enumerate(lengths):
        found = output.asnumpy()[:length, row]
        np.testing.assert_allclose(found, expected(x, weights, row), atol=1e-5)

    # The gradient along a random direction of input and weights, by central differences.
    x_way = rng.standard_normal(x.shape)
    ways = {name: rng.standard_normal(value.shape) for name, value in weights.items()}

    def objective(step: float) -> float:
        moved = {name: value + step * ways[name] for name, value in weights.items()}
        return sum(
            float((expected(x + step * x_way, moved, row) * probe[:length, row]).sum())
            for row, length in enumerate(lengths)
        )

    slope = (objective(1e-5) - objective(-1e-5)) / 2e-5
    found = float((to_x.asnumpy() * x_way).sum()) + sum(
        float((gradient.asnumpy() * ways[name.split(".")[-1]]).sum())
        for name, gradient in zip(graph.names, to_weights)
    )
    assert found == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_recurrent_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    cell = Recurrent("LSTM", 5, 4, True, rng)
    theirs = torch.nn.LSTM(5, 4, bidirectional=True)
    theirs.load_state_dict(
        {weight.name: torch.tensor(weight.asnumpy()) for weight in cell.trainable_params()}
    )
    lengths, x = np.array([4, 6, 1]), rng.standard_normal((6, 3, 5)).astype(np.float32)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x), torch.tensor(lengths), enforce_sorted=False
    )
    expected = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0])[0].detach().numpy()
    expected = expected[..., :4] + expected[..., 4:]
    found = cell(*tensors(x, lengths)).asnumpy() * padding_mask("TBC", lengths)[:, :, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_recurrent_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="expected one of LSTM, GRU, RNN"):
        Recurrent("lstm", 5, 4, True, np.random.default_rng(0))


def dynamic_rnn(x, weights, bias, seq_length, state, memory):
    """Ascend's DynamicRNN as documented: float16, weights (I + H, 4 H), gates i, j, f, o."""
    assert seq_length is None and x.dtype == weights.dtype == bias.dtype == ms.float16
    assert state.shape == memory.shape == (1, *x.shape[1:2], weights.shape[1] // 4)
    x, weights, bias = (value.asnumpy().astype(np.float64) for value in (x, weights, bias))
    hidden, cell = (value.asnumpy()[0].astype(np.float64) for value in (state, memory))
    outputs = []
    for frame in x:
        gates = np.concatenate((frame, hidden), 1) @ weights + bias
        i, j, f, o = np.split(gates, 4, 1)
        cell = reference.sigmoid(f) * cell + reference.sigmoid(i) * np.tanh(j)
        hidden = reference.sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return (Tensor(np.stack(outputs).astype(np.float16)), None)


def test_ascend_lstm_packs_its_weights_for_dynamic_rnn():
    rng = np.random.default_rng(5)
    cell = AscendLSTM(4)
    cell.operator = dynamic_rnn
    x = rng.standard_normal((7, 2, 5))
    weights = [rng.normal(0, 0.5, shape) for shape in ((16, 5), (16, 4), (16,), (16,))]
    found = cell.construct(*tensors(x, *weights))
    assert found.dtype == ms.float32
    for row in range(2):
        expected = reference.recurrent("LSTM", x[:, row], *weights)
        np.testing.assert_allclose(found.asnumpy()[:, row], expected, atol=4e-3)


@pytest.mark.parametrize("native", [True, False])
def test_lookahead(native):
    rng = np.random.default_rng(6)
    cell = Lookahead(4, 3, rng, native)
    graph = WithGradient(cell)
    graph.set_inputs(
        open_floats(None, None, 4), open_floats(None, None), open_floats(None, None, 4)
    )
    weight = cell.conv.weight.asnumpy().reshape(4, 3)

    def expected(x, weight, length):
        ahead = np.pad(x[:length], ((0, 2), (0, 0)))
        return sum(ahead[tap : tap + length] * weight[:, tap] for tap in range(3))

    for lengths in (np.array([6, 4]), np.array([2, 1])):
        x = rng.standard_normal((lengths.max(), 2, 4))
        mask = padding_mask("TBC", lengths)
        probe = rng.standard_normal(x.shape) * mask[:, :, None]
        found, (to_x, (to_weight,)) = graph(*tensors(x, mask, probe))
        way, weight_way = rng.standard_normal(x.shape), rng.standard_normal(weight.shape)
        along_x = along_weight = 0
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(
                found.asnumpy()[:length, row], expected(x[:, row], weight, length), atol=1e-5
            )
            part = probe[:length, row]
            along_x += (expected(way[:, row], weight, length) * part).sum()
            along_weight += (expected(x[:, row], weight_way, length) * part).sum()
        assert float((to_x.asnumpy() * way).sum()) == pytest.approx(along_x, abs=1e-4)
        change = float((to_weight.asnumpy().reshape(4, 3) * weight_way).sum())
        assert change == pytest.approx(along_weight, abs=1e-4)


class CTCOfLogits(nn.Cell):
    def __init__(self, blank: int):
        super().__init__()
        self.loss = CTCLoss(blank)

    def construct(self, logits, lengths, targets, target_lengths):
        return self.loss(ops.log_softmax(logits, -1), lengths, targets, target_lengths)


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_loss_against_every_path(blank):
    rng = np.random.default_rng(7)
    first, second = [label for label in range(3) if label != blank]
    spelled = [[first, second], [first, first], [second], [second, first, second], []]
    lengths = np.array([6, 3, 1, 5, 4])
    targets = np.array([labels + [0] * (3 - len(labels)) for labels in spelled])
    counts = np.array([len(labels) for labels in spelled])
    logits, probe = rng.normal(0, 2, (6, 5, 3)), rng.uniform(0.5, 2, 5)

    graph = WithGradient(CTCOfLogits(blank))
    graph.set_inputs(
        open_floats(None, None, 3),
        open_integers(None),
        open_integers(None, None),
        open_integers(None),
        open_floats(None),
    )
    losses, gradient = graph(*tensors(logits, lengths, targets, counts, probe))

    def expected(logits):
        return np.array(
            [
                reference.ctc_loss(reference.log_softmax(logits[:length, row]), spelled[row], blank)
                for row, length in enumerate(lengths)
            ]
        )

    np.testing.assert_allclose(losses.asnumpy(), expected(logits), rtol=1e-5, atol=1e-5)
    way = rng.standard_normal(logits.shape)
    slope = (expected(logits + 1e-5 * way) - expected(logits - 1e-5 * way)) @ probe / 2e-5
    assert float((gradient.asnumpy() * way).sum()) == pytest.approx(slope, rel=1e-3)
    assert not gradient.asnumpy()[3:, 1].any(), "padded frames have no part in the loss"

    lengths[4] = 0  # a row that only fills the batch: one label, not the blank, in one frame
    found = graph(*tensors(logits, lengths, targets, counts, probe))[0].asnumpy()
    label = 0 if blank else 1
    np.testing.assert_allclose(found[4], -reference.log_softmax(logits[:1, 4])[0, label], rtol=1e-5)
    np.testing.assert_allclose(found[:4], losses.asnumpy()[:4], rtol=1e-6)
