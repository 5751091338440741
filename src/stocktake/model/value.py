"""
What every noun is: a frozen, slotted value that reads and writes JSON. Invariant: no value changes after it is made.

The nouns are msgspec structs (see docs/decisions): frozen and slotted like a frozen dataclass, and decoded with the
path of whatever is wrong.
"""

from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from stocktake.errors import InvalidData

T = TypeVar("T")


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
