"""What is known of Ascend chips and of CANN, Huawei's software for them, without loading either.

MindSpore 2.10's own check is `AscendEnvChecker` in mindspore/run_check/_check_version.py: it warns,
at a log level that `runtime.set_environment` hides, and goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

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
