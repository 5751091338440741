"""
Sizes as people write them: `8G`, `512M`, `8192`. Invariant: a size is whole in its unit or refused; nothing is rounded.

Units are of 1,024s, as everywhere here; a bare number is in the unit that was asked for.
"""

import re
from decimal import Decimal
from typing import Literal

from stocktake.errors import InvalidInput

Unit = Literal["MiB", "GiB"]

_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)\s*(?:([KMGT])(?:i?B)?)?", re.ASCII | re.IGNORECASE)
_KIB = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}
# What the ledger and JSON can hold.
_LARGEST = 2**53


def read_size(text: str, unit: Unit) -> int:
    """
    Read a size.

    Raises:
        InvalidInput: it is none, no whole number of the unit, or more than any machine has.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{text[:40]!r} is no size such as 8G, 512M or 40 ({unit})")
    letter = (found[2] or unit[0]).upper()
    size = Decimal(found[1]) * _KIB[letter] / _KIB[unit[0]]
    if size != int(size):
        raise InvalidInput(f"{text.strip()} is no whole number of {unit}")
    if size > _LARGEST:
        raise InvalidInput(f"{text.strip()} is more than any machine has")
    return int(size)
