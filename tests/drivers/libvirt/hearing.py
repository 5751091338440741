"""Hearing what libvirt tells, and counting what it is asked."""

from collections import Counter
from typing import Any

import libvirt
import pytest

# What asks libvirtd once per guest, image or device, or for what hardly ever changes.
DEAR = (
    ("virDomain", "XMLDesc"),
    ("virDomain", "blockInfo"),
    ("virDomain", "info"),
    ("virNodeDevice", "XMLDesc"),
    ("virConnect", "getCapabilities"),
    ("virConnect", "baselineCPU"),
    ("virConnect", "listAllDevices"),
)


class Asked:
    """Counts the dear calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        for kind, name in DEAR:
            monkeypatch.setattr(getattr(libvirt, kind), name, self._counting(getattr(getattr(libvirt, kind), name)))

    def _counting(self, call: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.calls[call.__qualname__] += 1
            return call(*arguments)

        return counted

    def taken(self) -> dict[str, int]:
        """Give what was called since the last time."""
        calls, self.calls = self.calls, Counter()
        return dict(calls)
