"""What is the same is not counted again, and what is not is."""

from pathlib import Path

import pytest

from stocktake.model.hypervisor import Host, HostView, Refusal
from stocktake.model.value import replace
from stocktake.model.workload import NodeWork
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.run import refresh
from stocktake.report.save import Books
from stocktake.verify import verify
from tests.context import REPORT, Fleet, a_guest, an_instance, context_of

VIEW = HostView(node="n", report=REPORT)


class Counting:
    """Says how often it was asked."""

    def __init__(self) -> None:
        self.verified = 0
        self.counted = 0

    def verify(self, view: HostView) -> Host | Refusal:
        self.verified += 1
        return verify(view)

    def count(self) -> Books:
        self.counted += 1
        return Books.__new__(Books)


@pytest.mark.parametrize(
    ("changed", "times"),
    [
        (VIEW, 1),
        (HostView(node="n", report=dict(REPORT)), 1),
        (HostView(node="n", report={**REPORT, "vcpus": 17}), 2),
        (replace(VIEW, guests=()), 2),
    ],
)
def test_given_a_view_when_it_is_as_before_then_it_is_verified_once(changed: HostView, times: int) -> None:
    cache, counting = RefreshCache(), Counting()
    first = cache.verdict(VIEW, counting.verify)
    again = cache.verdict(changed, counting.verify)
    assert (counting.verified, again is first) == (times, times == 1)


@pytest.mark.parametrize(
    ("work", "uuid", "disabled", "times"),
    [
        (NodeWork(), "u", False, 1),
        (NodeWork(instances=(an_instance("i", host="h", node="n"),)), "u", False, 2),
        (NodeWork(), "v", False, 2),
        (NodeWork(), "u", True, 2),
    ],
)
def test_given_a_node_when_all_it_was_counted_from_is_the_same_then_it_is_counted_once(
    work: NodeWork, uuid: str, times: int, *, disabled: bool
) -> None:
    cache, counting = RefreshCache(), Counting()
    host = cache.verdict(VIEW, counting.verify)
    assert isinstance(host, Host)
    cache.books(host, NodeWork(), "u", disabled=False, count=counting.count)
    cache.books(host, work, uuid, disabled=disabled, count=counting.count)
    assert counting.counted == times


def test_given_a_node_that_is_gone_then_it_is_forgotten() -> None:
    cache, counting = RefreshCache(), Counting()
    cache.verdict(VIEW, counting.verify)
    cache.keep(())
    cache.verdict(VIEW, counting.verify)
    assert counting.verified == 2


def test_given_passes_with_and_without_a_memory_then_their_books_are_the_same(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet.json").has("a", guests=[a_guest("g1")]).has("b", guests=[])
    cache = RefreshCache()
    with context_of(tmp_path) as context:
        refresh(context, cache=cache)
        for change in (
            lambda: fleet.has("a", guests=[a_guest("g1"), a_guest("g2")]),
            lambda: context.ledger.put_instances([an_instance("i1", host="alpha", node="b")]),
            lambda: context.ledger.delete_instances(["i1"]),
            lambda: fleet.has("b", report={"vcpus": 3}),
            lambda: None,
        ):
            change()
            remembered = refresh(context, cache=cache).nodes
            # A pass that remembers nothing finds nothing to change.
            assert refresh(context).changed == set()
            assert {row.hypervisor_hostname: row for row in context.ledger.nodes()} == remembered
