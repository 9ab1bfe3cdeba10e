"""The header of a MindRecord file, checked before MindSpore reads it.

A file begins with the header's length in 8 bytes, least significant first, and the header itself,
which is JSON. MindSpore 2.10 ends the process, without a message to Python, where a key is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.utils.errors import UserError
from common.utils.json_parsing import parse_json

_LONGEST = 1 << 28  # bytes
_NUMBERS_OF_A_PAGE = (
    *("page_id", "shard_id", "page_type_id", "page_size", "start_row_id", "end_row_id"),
)


def check_header(path: Path) -> None:
    """Refuse a MindRecord file whose header is damaged.

    Args:
        path: The file.

    Raises:
        UserError: Its header cannot be read, or lacks what MindSpore reads of it.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length < _LONGEST else b""
        whole = _is_whole(parse_json(text.decode()))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; convert again") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path}: its header is damaged; convert again")


def _is_whole(header: dict[str, Any]) -> bool:
    """Whether a header has the keys of MindSpore's; KeyError, TypeError where one is missing."""
    pages, fields, schemas = header["page"], header["index_fields"], header["schema"]
    numbers = [page[key] for page in pages for key in _NUMBERS_OF_A_PAGE]
    numbers += [group[key] for page in pages for group in page["row_group_ids"] for key in group]
    numbers += [field["schema_id"] for field in fields]
    numbers += [header[key] for key in ("header_size", "page_size", "shard_id")]
    texts = [field["index_field"] for field in fields] + [page["page_type"] for page in pages]
    texts += [*header["shard_addresses"], header["version"]]
    texts += [value["type"] for schema in schemas for value in schema["schema"].values()]
    texts += [name for schema in schemas for name in schema["blob_fields"]]
    texts += [schema["desc"] for schema in schemas]
    groups = [group for page in pages for group in page["row_group_ids"]]
    return (
        bool(pages and fields and schemas)
        and all(group.keys() == {"id", "offset"} for group in groups)
        and all(type(number) is int and number >= 0 for number in numbers)
        and all(isinstance(text, str) for text in texts)
    )
