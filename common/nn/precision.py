"""Mixed precision: which products of a network have 16 bits while it trains.

| level | convolutions, dense and recurrent products | between the layers | all else |
| --- | --- | --- | --- |
| O0 | float32 | float32 | float32 |
| O2 | float16 | float32 | float32 |
| O3 | float16 | float16 | float32 |
| BF16 | bfloat16 | float32 | float32 |

All else: the weights that are kept and updated, the statistics of normalisation, softmax and the
loss. Evaluation and export are in float32 at every level. BF16 is for Ascend 910B and later:
MindSpore 2.10 has no such products on a CPU. It has float32's range, and needs no loss scale. The
LSTMs of Ascend are in float16 at every level.

What a cell does for it: one that multiplies has an attribute `half = 0` (which `apply` sets to
HALF or BFLOAT16), takes its input and its weights through `maybe_half(..., half)` with
`half = self.half if self.training else 0`, and gives its result the type of its input. One that
normalises computes in float32 and does the same. Masks are brought to the type of what they mask,
or else the product is float32 again. So float16 between the layers needs nothing but float16 at the
entrance, which `common.training.optimizers` sees to.
"""

from __future__ import annotations

from common.utils.backend import Tensor, ms, nn
from common.utils.errors import UserError

LEVELS = ("O0", "O2", "O3", "BF16")
# What a cell multiplies in: numbers, since a graph takes no names of types as arguments.
HALF, BFLOAT16 = 1, 2  # 0: float32
_TYPES = {"O0": 0, "O2": HALF, "O3": HALF, "BF16": BFLOAT16}


def maybe_half(x: Tensor, half: int) -> Tensor:
    """Return a tensor in a type of 16 bits, or as it is.

    Args:
        x: The tensor.
        half: HALF, BFLOAT16, or 0.
    """
    if half == HALF:
        return x.astype(ms.float16)
    if half == BFLOAT16:
        return x.astype(ms.bfloat16)
    return x


def apply(network: nn.Cell, level: str) -> int:
    """Set the precision that a network trains in, before its first step.

    Args:
        network: The network.
        level: One of LEVELS.

    Returns:
        Number of its cells that multiply in 16 bits.

    Raises:
        UserError: There is no such level, or no cell can multiply in 16 bits.
    """
    if level not in LEVELS:
        raise UserError(f"TrainingConfig.precision={level}: expected one of {', '.join(LEVELS)}")
    cells = [cell for _, cell in network.cells_and_names() if hasattr(cell, "half")]
    for cell in cells:
        cell.half = _TYPES[level]
    if level == "O0":
        return 0
    if not cells:
        raise UserError(
            f"TrainingConfig.precision={level}: no cell of this network can multiply in 16 bits; "
            "use O0"
        )
    return len(cells)
