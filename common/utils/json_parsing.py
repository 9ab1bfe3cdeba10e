"""JSON of users' files, whose every fault is a ValueError."""

from __future__ import annotations

import json
import re
from typing import Any

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # one of the two halves of a character, escaped


def parse_json(text: str) -> Any:
    """Parse JSON.

    Python's parser also ends in RecursionError, and takes half a surrogate pair for a character,
    which no file can hold.

    Args:
        text: The JSON.

    Returns:
        Its value.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or holds half a character.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if match := _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{match[0]}... without its other half, at character {match.start()}"
            ) from None
    return value
