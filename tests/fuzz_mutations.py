"""Damages inputs: bytes of any kind, lines and fields of text, values of JSON and YAML."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator

# Numbers at the ends of what formats and languages hold.
_SIZES = [0, 1, 2, 3, 127, 128, 255, 256, 32767, 65535, 65536]
_SIZES += [2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2, 2**63 - 1, 2**63, 2**64 - 1]
_NUMBERS = "0 -1 1 2 3.5 -0 1e999 -1e999 1e-320 NaN nan Infinity -inf .inf .nan 007 0x10 1_000 1,5"
_NUMBERS += f" {2**31} {2**63} {2**64} {'9' * 25} {'9' * 400} {'9' * 5000} 1e400000 0o8 12:30:45"
_STRINGS = [
    *("", " ", "\t", "\0", "a\0b", "\x1b[31mred", "\x85", "\u2028", "\ufeff", "\u202e", "e\u0301"),
    *(
        "\ud800",
        "\U0001f600",
        "ß",
        "İ",
        "中文",
        "/",
        "/dev/zero",
        "/dev/null",
        "..",
        "../../..",
        ".",
    ),
    *("~", "-", "--", "%s%n", "{}", "{0}", "$(id)", '"', "'", "\\", "null", "true", "2020-13-45"),
    *("a" * 300, "/" + "b" * 5000, "x" * 100_000, "\n", "a\nb", "\r", "a\rb", "#", "!!int x", "*a"),
]
_LEAVES: list[Any] = [None, True, False, [], {}, [[]], [None], {"a": 1}, {"": None}]
_LEAVES += [0, -1, 1, 10**20, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf")]
_DEEP = (10, 200, 5000, 100_000)


def _pick(rng: Rng, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _span(rng: Rng, size: int, longest: int) -> slice:
    """A place in `size` items, and a few to `longest` of them; small ones are as likely."""
    start = int(rng.integers(size + 1))
    return slice(start, start + int(longest ** rng.random()))


# ---- bytes


def _flip_bits(rng: Rng, data: bytearray, other: bytes) -> None:
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def _overwrite(rng: Rng, data: bytearray, other: bytes) -> None:
    place = _span(rng, len(data), 1000)
    count = len(data[place])
    data[place] = _pick(rng, [bytes(count), b"\xff" * count, rng.bytes(count)])


def _cut_end(rng: Rng, data: bytearray, other: bytes) -> None:
    del data[int(rng.integers(len(data))) :]


def _cut_start(rng: Rng, data: bytearray, other: bytes) -> None:
    del data[: int(rng.integers(1, min(len(data), 5000) + 1))]


def _leave_out(rng: Rng, data: bytearray, other: bytes) -> None:
    del data[_span(rng, len(data), 5000)]


def _insert(rng: Rng, data: bytearray, other: bytes) -> None:
    count = int(5000 ** rng.random())
    place = int(rng.integers(len(data) + 1))
    data[place:place] = _pick(rng, [bytes(count), rng.bytes(count)])


def _repeat(rng: Rng, data: bytearray, other: bytes) -> None:
    piece = bytes(data[_span(rng, len(data), 20_000)])
    place = int(rng.integers(len(data) + 1))
    data[place:place] = piece


def _splice(rng: Rng, data: bytearray, other: bytes) -> None:
    data[int(rng.integers(len(data))) :] = other[int(rng.integers(len(other) + 1)) :]


def _insert_other(rng: Rng, data: bytearray, other: bytes) -> None:
    place = int(rng.integers(len(data) + 1))
    data[place:place] = other[_span(rng, len(other), 20_000)]


def _append(rng: Rng, data: bytearray, other: bytes) -> None:
    tag = b"TAG" + bytes(125)  # ID3v1
    data += _pick(rng, [tag, bytes(7), bytes(4096), rng.bytes(33), rng.bytes(4096), other, data[:]])


def _number_field(rng: Rng, data: bytearray, other: bytes) -> None:
    """A number as headers hold them, mostly near the start, becomes another."""
    width = int(_pick(rng, [1, 2, 4, 4, 4, 8]))
    limit = len(data) if rng.random() < 0.3 else min(len(data), 200)
    place = int(rng.integers(limit))
    order = _pick(rng, ["little", "big"])
    present = int.from_bytes(data[place : place + width], order)
    near = [present + 1, present - 1, present * 2, present // 2, len(data), len(data) - 8]
    number = int(_pick(rng, near if rng.random() < 0.5 else _SIZES)) % (1 << 8 * width)
    data[place : place + width] = number.to_bytes(width, order)


BytesMutation = Callable[[Rng, bytearray, bytes], None]
_BYTES: tuple[BytesMutation, ...] = (
    *(_flip_bits, _overwrite, _cut_end, _cut_start, _leave_out, _insert, _repeat, _splice),
    *(_insert_other, _append, _number_field, _number_field, _number_field, _cut_end),
)


def damage_bytes(rng: Rng, data: bytes, other: bytes, most: int = 3) -> bytes:
    """`data` with one to `most` changes; `other` is an input to take pieces from."""
    changed = bytearray(data)
    for _ in range(1 if rng.random() < 0.6 else int(rng.integers(1, most + 1))):
        if changed:
            _pick(rng, _BYTES)(rng, changed, other)
    return bytes(changed)


# ---- text


def _change_line(rng: Rng, lines: list[str]) -> None:
    place = int(rng.integers(len(lines)))
    line = lines[place]
    action = int(rng.integers(7))
    if action == 0:
        del lines[place]
    elif action == 1:
        lines.insert(int(rng.integers(len(lines) + 1)), line)
    elif action == 2:
        lines[place] = line[: int(rng.integers(len(line) + 1))]
    elif action == 3:
        lines.insert(place, "")
    elif action == 4:
        lines[place : place + 2] = ["".join(lines[place : place + 2])]
    elif action == 5:
        lines[place] = _pick(rng, [" ", "\t", "  ", "#", "- ", '"', "\ufeff"]) + line
    else:
        lines[place] = line * int(rng.integers(2, 50))


def _change_number(rng: Rng, text: str) -> str:
    found = list(re.finditer(r"-?\d+(?:\.\d+)?(?:[eE]-?\d+)?", text))
    if not found:
        return text
    match = _pick(rng, found)
    return text[: match.start()] + _pick(rng, _NUMBERS.split()) + text[match.end() :]


def _change_word(rng: Rng, text: str) -> str:
    found = list(re.finditer(r"\w+", text))
    if not found:
        return text
    match, other = _pick(rng, found), _pick(rng, found)[0]
    word = _pick(rng, [other, _pick(rng, _STRINGS), match[0].upper(), match[0] + "s", match[0][1:]])
    return text[: match.start()] + word + text[match.end() :]


def _change_mark(rng: Rng, text: str) -> str:
    """A comma, bracket, quotation mark or white space becomes another, or none."""
    found = list(re.finditer(r"[^\w\s]|\s", text))
    if not found:
        return text
    match = _pick(rng, found)
    if rng.random() < 0.1:  # all of them
        return text.replace(match[0], _pick(rng, [";", "\t", "", ", ", "'", "  ", "|"]))
    mark = _pick(rng, list(",;\t:\"'[]{}()<>&*!|>%@`#\\\n\r \0-") + ["", '""', "\r\n", "\\u0000"])
    return text[: match.start()] + mark + text[match.end() :]


def _insert_text(rng: Rng, text: str) -> str:
    place = int(rng.integers(len(text) + 1))
    piece = _pick(
        rng, [_pick(rng, _STRINGS), "\\ud800", "\\u0000", text[_span(rng, len(text), 99)]]
    )
    return text[:place] + piece + text[place:]


def _nest(rng: Rng, text: str) -> str:
    place, depth = int(rng.integers(len(text) + 1)), _pick(rng, _DEEP)
    opening, closing = _pick(rng, [("[", "]"), ('{"a":', "}"), ("(", ")"), ("- ", "")])
    closing = closing if rng.random() < 0.5 else ""
    return text[:place] + opening * depth + closing * depth + text[place:]


def _change_lines(rng: Rng, text: str) -> str:
    lines = text.split("\n")
    for _ in range(int(rng.integers(1, 4))):
        if lines:
            _change_line(rng, lines)
    return _pick(rng, ["\n"] * 8 + ["\r\n", "\r", "\n\n", "", "\u2028"]).join(lines)


_TEXT: tuple[Callable[[Rng, str], str], ...] = (
    *(_change_lines, _change_number, _change_word, _change_mark, _insert_text),
    *(_change_lines, _change_number, _change_word, _change_mark, _nest),
)
_ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "gb18030", "cp1252", "cp037"]


def damage_text(rng: Rng, text: str, other: str) -> bytes:
    """A text with one to three changes, sometimes in another encoding or with bytes changed."""
    for _ in range(1 if rng.random() < 0.6 else int(rng.integers(2, 4))):
        text = _pick(rng, _TEXT)(rng, text)[:2_000_000]
    if rng.random() < 0.05:
        text = text[: int(rng.integers(len(text) + 1))] + other
    encoding = _pick(rng, _ENCODINGS) if rng.random() < 0.08 else "utf-8"
    data = text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
    return damage_bytes(rng, data, other.encode(), 1) if rng.random() < 0.1 else data


# ---- values


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Each value of a tree as its holder and its key."""
    found: list[tuple[Any, Any]] = []
    holders = [tree]
    while holders:
        holder = holders.pop()
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                holders.append(holder[key])
    return found


def _other_value(rng: Rng, value: Any) -> Any:
    if isinstance(value, str) and rng.random() < 0.3:
        return _pick(rng, [value.upper(), value + " ", value[:-1], [value], {"a": value}])
    if isinstance(value, (int, float)) and abs(value) < 1e300 and rng.random() < 0.4:
        number = int(_pick(rng, [-1, 0, 2, 1000, 10**9, 10**30]))
        return _pick(rng, [number, -value, value + 1, str(value), [value], value + 0.5])
    return copy.deepcopy(_pick(rng, [_pick(rng, _LEAVES), _pick(rng, _STRINGS)]))


def change_tree(rng: Rng, tree: Any) -> Any:
    """A copy of a tree of dictionaries and lists with one to three values or keys changed."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        places = _places(tree)
        if not places:
            break
        holder, key = _pick(rng, places)
        action = rng.random()
        if action < 0.6:
            holder[key] = _other_value(rng, holder[key])
        elif action < 0.75:
            del holder[key]
        elif action < 0.85:
            other, name = _pick(rng, places)
            with_value = other[name] if _has(other, name) else None
            holder[key] = copy.deepcopy(with_value)
        elif isinstance(holder, dict):
            holder[_pick(rng, [str(key) + "s", str(key).lower(), _pick(rng, _STRINGS)])] = (
                holder.pop(key)
            )
        else:
            holder.insert(key, copy.deepcopy(holder[key]))
    return _pick(rng, _LEAVES) if rng.random() < 0.02 else tree


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def damage_json(rng: Rng, tree: Any, lines: bool = False) -> bytes:
    """JSON of a changed tree, or of its items a line each; sometimes its text is changed, too."""
    changed = change_tree(rng, tree)
    plain = bool(rng.random() < 0.5)
    indent = None if lines or rng.random() < 0.5 else 1

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=plain, indent=indent)

    items = lines and isinstance(changed, list)
    text = "\n".join(map(dump, changed)) if items else dump(changed)
    if rng.random() < 0.3:
        return damage_text(rng, text, json.dumps(tree))
    return text.encode("utf-8", "surrogatepass")
