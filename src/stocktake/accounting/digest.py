"""
Step 6: one short text for all entries of a node. Invariant: it is a sum, so that one entry can be taken out or put in.
"""

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from stocktake.model.books import Entry

_ENCODER = msgspec.json.Encoder(order="deterministic")
_BYTES = 16
_MASK = (1 << 8 * _BYTES) - 1


def digest(come: Iterable[Entry], *, base: str = "", gone: Iterable[Entry] = ()) -> str:
    """
    Add up the digests of entries, whatever their order, as 32 hexadecimal digits.

    Args:
        base: the digest of what is there already; empty for nothing.
        gone: entries that were in `base` and are no longer.
    """
    total = int(base, 16) if base else 0
    total += sum(map(_of, come)) - sum(map(_of, gone))
    return f"{total & _MASK:0{2 * _BYTES}x}"


def _of(entry: Entry) -> int:
    return int.from_bytes(blake2b(_ENCODER.encode(entry), digest_size=_BYTES).digest())
