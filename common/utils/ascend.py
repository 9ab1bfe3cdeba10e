"""What is known of Ascend chips and of CANN, Huawei's software for them, without loading either.

MindSpore 2.10's own check is `AscendEnvChecker` in mindspore/run_check/_check_version.py: it warns,
at a log level that `runtime.set_environment` hides, and goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.utils.errors import UserError

CANN_VERSIONS = ("8.2", "8.3", "8.5", "9.0", "9.1")  # that MindSpore 2.10 accepts
# Files with a line "Version=8.2.RC1", relative to ASCEND_HOME_PATH; MindSpore reads the first.
_VERSION_FILES = ("compiler/version.info", "toolkit/version.info", "runtime/version.info")
# Names of MindSpore's get_ascend_soc_version() and of npu-smi. Ascend910B1 to B4 are the 910B; the
# chip that was once sold as "Ascend910B" without a digit is of the first generation.
_CHIPS = (
    (r"(ascend)?910_?93.*", "A3"),
    (r"(ascend)?910b\d.*|ascend910b", "910B"),
    (r"(ascend)?910(a|b|proa|prob|premiuma)?", "910A"),
    (r"(ascend)?310p\d?.*", "310P"),
    (r"(ascend)?310b\d?.*", "310B"),
    (r"(ascend)?310", "310"),
)


def generation(name: str) -> str:
    """Name the generation of a chip.

    Args:
        name: As npu-smi lists it ("910B3", "310P3"), or as MindSpore calls it ("ascend910b").

    Returns:
        "910A", "910B", "A3", "310", "310P", "310B", or "" for another name.
    """
    lower = name.strip().lower().replace(" ", "")
    return next((chip for pattern, chip in _CHIPS if re.fullmatch(pattern, lower)), "")


def cann_version(environment: Mapping[str, str]) -> str:
    """Read the version of the CANN whose set_env.sh was sourced.

    Args:
        environment: Variables, of which ASCEND_HOME_PATH names its folder.

    Returns:
        Such as "8.2"; "" where no file tells.
    """
    home = environment.get("ASCEND_HOME_PATH", "")
    for name in _VERSION_FILES if home else ():
        try:
            text = Path(home, name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if match := re.search(r"^Version=(\d+\.\d+)", text, re.MULTILINE):
            return match[1]
    return ""


def cann_complaint(version: str) -> str:
    """Say what is wrong with a version of CANN; "" for one that MindSpore accepts, or no version.

    Args:
        version: Of `cann_version`.
    """
    if not version or version in CANN_VERSIONS:
        return ""
    return (
        f"CANN is {version}, and MindSpore 2.10 accepts {', '.join(CANN_VERSIONS)}: install one of "
        "these, and source its set_env.sh"
    )


# ---- how operators are compiled and in which precision

JIT_LEVELS = ("O0", "O1", "O2")
# Of MindSpore's mindspore.device_context.ascend.op_precision.precision_mode.
PRECISIONS = (
    "must_keep_origin_dtype",
    "allow_fp32_to_fp16",
    "allow_fp32_to_bf16",
    "allow_mix_precision",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "force_fp16",
    "force_fp32",
)
JIT_LEVEL, PRECISION = "ASCEND_JIT_LEVEL", "ASCEND_OPERATOR_PRECISION"  # in the environment


@dataclass(frozen=True)
class Settings:
    """How a chip runs a network.

    Attributes:
        chip: As MindSpore names it.
        jit_level: O0: operator by operator; O1: with fused ones; O2: the whole graph, by CANN.
        precision: What operators make of float32.
        chosen: Which of the two a user has set; the others are MindSpore's own for the chip.
    """

    chip: str
    jit_level: str
    precision: str
    chosen: tuple[str, ...] = ()

    @property
    def saturates(self) -> bool:
        """Whether float16 stops at 65504, where other chips give inf: overflow is in a register."""
        return generation(self.chip) == "910A"

    def line(self) -> str:
        """Describe the settings for the log."""
        products = {
            "must_keep_origin_dtype": "float32 stays float32",
            "allow_fp32_to_fp16": "convolutions and matrix products of float32 are in float16",
        }.get(self.precision, "see the documentation of CANN's precision modes")
        kind = generation(self.chip) or "a chip unknown here"
        return (
            f"{self.chip or 'Ascend'} ({kind}): jit level {self.jit_level}, operators "
            f"{self.precision} ({products})"
        )


def settings(chip: str, environment: Mapping[str, str]) -> Settings:
    """Choose how a chip runs a network: as the environment says, or as MindSpore 2.10 does.

    MindSpore runs whole graphs on a 910A, where matrix products are in float16 alone, and operator
    by operator elsewhere, in the precision that the network asks for.

    Args:
        chip: As MindSpore names it.
        environment: Variables, of which ASCEND_JIT_LEVEL and ASCEND_OPERATOR_PRECISION count.

    Returns:
        The settings.

    Raises:
        UserError: A variable has an unknown value.
    """
    first = generation(chip) == "910A"
    usual = {
        JIT_LEVEL: "O2" if first else "O0",
        PRECISION: "allow_fp32_to_fp16" if first else "must_keep_origin_dtype",
    }
    wanted = {name: environment[name] for name in usual if environment.get(name)}
    for name, known in ((JIT_LEVEL, JIT_LEVELS), (PRECISION, PRECISIONS)):
        if name in wanted and wanted[name] not in known:
            raise UserError(f"{name}={wanted[name]}: expected one of {', '.join(known)}")
    found = usual | wanted
    return Settings(chip, found[JIT_LEVEL], found[PRECISION], tuple(wanted))
