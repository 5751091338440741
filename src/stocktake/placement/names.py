"""
Step 7b: names that the scheduler accepts. Invariant: a name is a standard one or starts with `CUSTOM_`.

Pure; the standard names are os_traits' and os_resource_classes' data.
"""

import re
from collections.abc import Iterable
from functools import cache

import os_resource_classes
import os_traits

_CUSTOM = re.compile(r"CUSTOM_[A-Z0-9_]{1,248}")


@cache
def standard_traits() -> frozenset[str]:
    """Give every trait that os_traits names."""
    return frozenset(os_traits.get_traits())


def is_custom(name: str) -> bool:
    """Say whether a trait or class is a well-formed `CUSTOM_` one (at most 255 characters)."""
    return _CUSTOM.fullmatch(name) is not None


def is_trait(name: str) -> bool:
    """Say whether the scheduler may know a trait."""
    return name in standard_traits() or is_custom(name)


def is_standard_class(name: str) -> bool:
    """Say whether a resource class is one of os_resource_classes."""
    return name in os_resource_classes.STANDARDS


def class_name(name: str) -> str:
    """Make a resource class of what an operator wrote: upper case, and `CUSTOM_` unless it is a standard one."""
    upper = name.strip().upper()
    return upper if is_standard_class(upper) or is_custom(upper) else _custom(upper)


def trait_names(names: Iterable[str]) -> frozenset[str]:
    """Make traits of what an operator wrote: standard ones as they are, others in upper case with `CUSTOM_`."""
    stripped = (name.strip() for name in names)
    return frozenset(
        name if name in standard_traits() else (upper if is_custom(upper) else _custom(upper))
        for name, upper in ((name, name.upper()) for name in stripped if name)
    )


def _custom(upper: str) -> str:
    # Placement's names end at 255 characters.
    return ("CUSTOM_" + (re.sub(r"[^A-Z0-9_]+", "_", upper.removeprefix("CUSTOM_")) or "_"))[:255]
