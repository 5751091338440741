"""
What is inconsistent on a node, shown where the operator looks. Invariant: a problem is data, never only a log line.
"""

from collections.abc import Iterable
from typing import Literal

from stocktake.model.value import Value

Severity = Literal["warning", "error"]


class Problem(Value, frozen=True, kw_only=True):
    """
    One inconsistency.

    Attributes:
        code: stable name in kebab-case, such as `pinned-cpu-taken`.
        about: who or what: a guest's uuid, a cell, a device's address, a key of the report.
        text: what is wrong, one sentence with the numbers.
        remedy: what the operator can do; empty if nothing.
    """

    code: str
    about: str
    text: str
    remedy: str = ""
    severity: Severity = "warning"


def ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Put problems into the order that every record has them in; what the scheduler said comes last."""
    return tuple(sorted(problems, key=lambda one: (one.code.startswith("placement-"), one.code, one.about, one.text)))
