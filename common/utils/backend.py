"""The one door to MindSpore: sets the environment that it reads while loading, then imports it.

Modules write `from common.utils.backend import Tensor, ms, nn, ops` instead of `import mindspore`,
so that the order is right whatever is imported first. Raises ImportError with the command that
mends it where MindSpore is not installed.
"""

from __future__ import annotations

import importlib.util
import sys

from common.utils import runtime

if importlib.util.find_spec("mindspore") is None:
    raise ImportError(
        f"{sys.executable} has no mindspore, which training, evaluation and export need: "
        f"install it with {runtime.INSTALL_COMMAND}",
        name="mindspore",
    )
if "mindspore" not in sys.modules:
    runtime.set_environment()

import mindspore as ms  # noqa: E402
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops  # noqa: E402

__all__ = ["Parameter", "ParameterTuple", "Tensor", "ms", "nn", "ops"]
