"""
What every noun is: a frozen, slotted value that reads and writes JSON. Invariant: no value changes after it is made,
and nothing in a document from outside is lost silently: it is refused, with its path.

The nouns are msgspec structs (see docs/decisions): frozen and slotted like a frozen dataclass, and decoded with the
path of whatever is wrong.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from stocktake.errors import InvalidData

T = TypeVar("T")
# The largest whole number that a database and JSON can hold.
LARGEST = 2**53
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INT_MAX = 2**63 - 1
_SHOWN_MAX = 5


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    The base of every noun.

    Values are trees: nothing in one refers back to it, so the garbage collector need not look at them.
    """


def encode(value: object) -> str:
    """Write a value as JSON with sorted keys and sets, so that equal values give equal text."""
    return msgspec.json.encode(plain(value)).decode()


def decode(text: str | bytes, kind: type[T], *, where: str) -> T:
    """
    Read JSON text as a `kind`.

    Raises:
        InvalidData: not JSON, or something missing or wrong; says which path.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidData(str(error), where=where) from error


def convert(data: object, kind: type[T], *, where: str) -> T:
    """
    Read plain Python data (of JSON, TOML or YAML) as a `kind`.

    Raises:
        InvalidData: something is missing or wrong; says which path.
    """
    try:
        return msgspec.convert(data, type=kind, str_keys=True)
    except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
        raise InvalidData(str(error), where=where) from error


def plain(value: object) -> Any:
    """Turn a value into plain data (dicts, lists, strings, numbers) as JSON would hold it, sets sorted."""
    return msgspec.to_builtins(value, str_keys=True, order="sorted")


@lru_cache(maxsize=1024)
def shared(names: frozenset[str]) -> frozenset[str]:
    """Give one set for all that are equal: thousands of nodes have the same traits."""
    return names


def replace(value: T, **changes: object) -> T:
    """Make a copy of a value with some fields changed."""
    return msgspec.structs.replace(value, **changes)  # type: ignore[type-var]


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
