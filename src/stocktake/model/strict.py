"""
Documents from outside, read so that nothing in them is lost. Invariant: what would be passed over is refused, with its
path.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from stocktake.errors import InvalidData

T = TypeVar("T")
_INT_MAX = 2**63 - 1
_SHOWN_MAX = 5


def decode_strictly(text: bytes | str, kind: type[T], *, where: str) -> T:
    """
    Read JSON text as a `kind` that holds all that the text says.

    Raises:
        InvalidData: not JSON, something missing or wrong, or one of `oddities`; says which path.
    """
    try:
        raw = _whole(msgspec.json.decode(text))
        value = msgspec.convert(raw, kind)
        found = list(oddities(raw, value))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidData(str(error), where=where) from error
    if found:
        raise InvalidData("; ".join(found[:_SHOWN_MAX]), where=where)
    return value


def _whole(raw: Any) -> Any:
    """Read 5.0 and 1e18 as 5 and 10**18: JSON has one kind of number, and its schema calls these whole."""
    if isinstance(raw, dict):
        return {key: _whole(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_whole(value) for value in raw]
    if isinstance(raw, float) and raw.is_integer() and abs(raw) <= _INT_MAX:
        return int(raw)
    return raw


def oddities(raw: Any, value: object) -> Iterator[str]:
    """
    Find what decodes but must not come in, each with its path.

    That is a field nobody knows (a misspelt one would be lost), a number or a character that a database can't hold,
    a time without a zone.

    Args:
        raw: the document as plain data.
        value: what it was read as.
    """
    shape = msgspec.to_builtins(value, builtin_types=(datetime,), str_keys=True)
    return _odd(raw, shape, "$")


def _odd(raw: Any, shape: Any, path: str) -> Iterator[str]:
    if isinstance(raw, dict) and isinstance(shape, dict):
        for key, value in raw.items():
            if "\0" in key:
                yield f"a NUL character - at `{path}`"
            elif key not in shape:
                yield f"no such field `{key}` - at `{path}`"
            else:
                yield from _odd(value, shape[key], f"{path}.{key}")
    elif isinstance(raw, list):
        # A set may have lost duplicates and its order; it holds nothing but words and numbers.
        for place, value in enumerate(raw):
            nested = isinstance(value, dict | list) and isinstance(shape, list | tuple) and place < len(shape)
            like = shape[place] if nested else None
            yield from _odd(value, like, f"{path}[{place}]")
    elif isinstance(shape, datetime) and shape.tzinfo is None:
        yield f"a time without a zone - at `{path}`"
    elif isinstance(raw, str) and "\0" in raw:
        yield f"a NUL character - at `{path}`"
    elif isinstance(raw, int) and abs(raw) > _INT_MAX:
        yield f"a number over 63 bits - at `{path}`"
