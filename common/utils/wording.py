"""Wording of messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number of things, such as "1 epoch" or "0 copies".

    Args:
        number: How many there are.
        noun: What one of them is called.
        plural: What several are called; empty: the noun with an s.

    Returns:
        The number and the noun.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
