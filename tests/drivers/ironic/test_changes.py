"""Which nodes changed: found by small requests, whatever the database sorts first."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.drivers.ironic.api import Listed, Node, Order
from stocktake.drivers.ironic.changes import PAGES, Dated, changed

KNOWN = 1500


class Ironic:
    """Nodes in the order in which they were made, and when each was changed last."""

    def __init__(self, *, nulls_first: bool) -> None:
        self.nodes: list[Node] = []
        self.at: dict[str, int | None] = {}
        self.asked: list[int] = []
        self._nulls_first = nulls_first

    def has(self, count: int, *, changed: bool = True) -> None:
        """Make nodes."""
        for _ in range(count):
            number = len(self.nodes)
            self.nodes.append(Node(uuid=str(number), name="a"))
            self.at[str(number)] = number if changed else None

    def change(self, *numbers: int) -> None:
        """Change nodes."""
        for number in numbers:
            self.nodes[number] = Node(uuid=str(number), name="changed")
            self.at[str(number)] = max(at or 0 for at in self.at.values()) + 1

    def known(self) -> dict[str, Listed]:
        """All that there is."""
        return {node.uuid: node for node in self.nodes}

    def latest(self, order: Order, limit: int, *, oldest: bool = False) -> Dated:
        """Sort as a database does."""
        self.asked.append(limit)
        if order == "created_at":
            return self._page(self.nodes if oldest else self.nodes[::-1], limit)
        dated = sorted(
            (node for node in self.nodes if self._at(node) is not None), key=lambda node: self._at(node) or 0
        )
        never = [node for node in self.nodes if self._at(node) is None]
        # `desc` is `asc` backwards, in both.
        rising = [*dated, *never] if self._nulls_first else [*never, *dated]
        return self._page(rising if oldest else rising[::-1], limit)

    def _at(self, node: Node) -> int | None:
        return self.at[node.uuid]

    def _page(self, nodes: Sequence[Node], limit: int) -> Dated:
        return [(node, None if self._at(node) is None else f"{self._at(node):09}") for node in nodes[:limit]]


@pytest.mark.parametrize("nulls_first", [True, False])
@pytest.mark.parametrize("never", [0, 5, 19, 20, 21, 250, 999])
@pytest.mark.parametrize("numbers", [(), (3,), (1, 2, 3), tuple(range(0, 400, 7)), tuple(range(600))])
def test_given_changes_when_looked_for_then_all_are_found(
    *, nulls_first: bool, never: int, numbers: tuple[int, ...]
) -> None:
    ironic = Ironic(nulls_first=nulls_first)
    ironic.has(KNOWN - never)
    ironic.has(never, changed=False)
    known = ironic.known()
    ironic.change(*numbers)
    reach = PAGES[-1] - (never if nulls_first else 0)
    if len(numbers) < reach:
        assert changed(known, ironic.latest) == {str(number): ironic.nodes[number] for number in numbers}


@pytest.mark.parametrize("nulls_first", [True, False])
@pytest.mark.parametrize("count", [1, 19, 20, 300])
def test_given_new_nodes_when_looked_for_then_they_are_found_though_they_were_never_changed(
    *, nulls_first: bool, count: int
) -> None:
    ironic = Ironic(nulls_first=nulls_first)
    ironic.has(50)
    known = ironic.known()
    ironic.has(count, changed=False)
    assert len(changed(known, ironic.latest)) == count


@pytest.mark.parametrize(("never", "nulls_first"), [(0, True), (0, False), (KNOWN, True), (KNOWN, False), (9, False)])
def test_given_nothing_new_when_looked_for_then_it_costs_two_or_three_small_requests(
    *, never: int, nulls_first: bool
) -> None:
    ironic = Ironic(nulls_first=nulls_first)
    ironic.has(KNOWN - never)
    ironic.has(never, changed=False)
    assert changed(ironic.known(), ironic.latest) == {}
    assert sum(ironic.asked) <= 2 * PAGES[0] + 1


@given(changes=st.lists(st.integers(0, 39), max_size=12), never=st.integers(0, 25), nulls_first=st.booleans())
def test_given_any_changes_when_looked_for_then_what_is_found_is_what_changed(
    *, changes: list[int], never: int, nulls_first: bool
) -> None:
    ironic = Ironic(nulls_first=nulls_first)
    ironic.has(40)
    ironic.has(never, changed=False)
    known = ironic.known()
    ironic.change(*changes)
    assert changed(known, ironic.latest).keys() == {str(number) for number in changes}
