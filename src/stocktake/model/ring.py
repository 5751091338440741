"""
Who of several has what, without anybody being asked. Invariant: who has the same members gets the same answer.

A consistent hash ring: when a member comes or goes, only what it gets or had changes hands. It gives what tooz's gives,
and so what Nova's and Ironic's give (32 points a member, MD5), for the same members and keys.
"""

import hashlib
from bisect import bisect
from collections.abc import Iterable

POINTS = 32


class Ring:
    """
    The ring of some members.

    Args:
        members: their names; at least one.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self._owners: dict[int, str] = {}
        for member in sorted(set(members)):
            name = member.encode()
            digest = hashlib.md5(name, usedforsecurity=False)
            for _ in range(POINTS):
                digest.update(name)
                self._owners[int.from_bytes(digest.digest())] = member
        assert self._owners, "a ring has members"
        self._points = sorted(self._owners)

    def owner(self, key: str) -> str:
        """Say which member has this key."""
        at = bisect(self._points, int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()))
        return self._owners[self._points[at % len(self._points)]]
