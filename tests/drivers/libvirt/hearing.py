"""Hearing what libvirt tells, and counting what it is asked."""

import threading
from collections import Counter
from typing import Any

import libvirt
import pytest

WAIT_S = 10.0
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


class Wakes:
    """Counts wakes, and waits for them."""

    def __init__(self) -> None:
        self.count = 0
        self._said = threading.Condition()

    def wake(self) -> None:
        with self._said:
            self.count += 1
            self._said.notify_all()

    def until(self, count: int) -> None:
        """Wait for so many in all."""
        with self._said:
            assert self._said.wait_for(lambda: self.count >= count, WAIT_S), f"{self.count} wakes, not {count}"


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
