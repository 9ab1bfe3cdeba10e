"""Mixed precision: which products of a network are computed in float16 while it trains.

| level | convolutions, dense and recurrent products | between the layers | all else |
| --- | --- | --- | --- |
| O0 | float32 | float32 | float32 |
| O2 | float16 | float32 | float32 |
| O3 | float16 | float16 | float32 |

All else: the weights that are kept and updated, the statistics of normalisation, softmax and the
loss. Evaluation and export are in float32 at every level. bfloat16 is not among them: MindSpore
2.10 has no such products on the CPU.

What a cell does for it: one that multiplies has an attribute `half = False` (which `apply` sets),
takes its input and its weights through `maybe_half(..., self.half and self.training)`, and gives
its result the type of its input. One that normalises computes in float32 and does the same. Masks
are brought to the type of what they mask, or else the product is float32 again. So float16 between
the layers needs nothing but float16 at the entrance, which `common.training.optimizers` sees to.
"""

from __future__ import annotations

from common.utils.backend import Tensor, ms, nn
from common.utils.errors import UserError

LEVELS = ("O0", "O2", "O3")


def maybe_half(x: Tensor, half: bool) -> Tensor:
    """Return a tensor in float16, or as it is.

    Args:
        x: The tensor.
        half: Whether it becomes float16.
    """
    return x.astype(ms.float16) if half else x


def apply(network: nn.Cell, level: str) -> int:
    """Set the precision that a network trains in, before its first step.

    Args:
        network: The network.
        level: One of LEVELS.

    Returns:
        Number of its cells that multiply in float16.

    Raises:
        UserError: There is no such level, or no cell can multiply in float16.
    """
    if level not in LEVELS:
        raise UserError(f"TrainingConfig.precision={level}: expected one of {', '.join(LEVELS)}")
    cells = [cell for _, cell in network.cells_and_names() if hasattr(cell, "half")]
    for cell in cells:
        cell.half = level != "O0"
    if level == "O0":
        return 0
    if not cells:
        raise UserError(
            f"TrainingConfig.precision={level}: no cell of this network can multiply in float16; "
            "use O0"
        )
    return len(cells)
