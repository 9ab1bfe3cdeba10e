"""Import of MindSpore, after setting the environment that it reads while loading.

All modules write `from common.utils.backend import Tensor, ms, nn, ops` instead of
`import mindspore`, so that the environment is always set first. Where MindSpore is not installed,
the import raises ImportError with the command that installs it.
"""

from __future__ import annotations

import importlib.util
import sys

from common.utils import runtime
from common.utils.packages import MissingPackageError

if importlib.util.find_spec("mindspore") is None:
    raise MissingPackageError(
        "mindspore", "runs checkpoints, trains and exports", runtime.INSTALL_COMMAND
    )
if "mindspore" not in sys.modules:
    runtime.set_environment()

import mindspore as ms  # noqa: E402
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops  # noqa: E402
from mindspore.graph import api as graph_api  # noqa: E402

__all__ = ["Parameter", "ParameterTuple", "Tensor", "graph_api", "ms", "nn", "ops"]
