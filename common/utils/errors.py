"""Errors that a user can mend; they are printed as one line, without a traceback."""

from __future__ import annotations

import reprlib
from typing import Any

_START, _END = 1200, 400  # characters that are kept of a message that is longer than both

_values = reprlib.Repr()
_values.maxlevel = 3
_values.maxlist = _values.maxtuple = _values.maxdict = _values.maxset = 12
_values.maxstring = _values.maxother = _values.maxlong = 200


def shown(value: Any) -> str:
    """Show a value of a user's file in a message.

    A few lines of YAML whose aliases hold each other would fill gigabytes if all were written.

    Args:
        value: Any value.

    Returns:
        Its `repr`, with "..." for what is beyond a dozen items, three levels, or 200 characters.
    """
    try:
        return _values.repr(value)
    except ValueError:  # Python does not write whole numbers of more than 4300 digits
        return "a number of thousands of digits"


class UserError(Exception):
    """Bad input, in one line: what, where, what was found, what was expected, what to do."""

    def __str__(self) -> str:
        """Return the message in one printable line, whatever names and values it quotes."""
        text = super().__str__()
        if len(text) > _START + _END:
            text = f"{text[:_START]} [...] {text[-_END:]}"
        return "".join(
            character
            if character.isprintable()
            else character.encode("unicode_escape").decode("ascii")
            for character in text
        )
