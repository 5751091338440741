"""What is inconsistent on a node, shown where the operator looks. Law: a problem is data, never only a log line."""

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
