"""The digest of a node's entries: a sum, so that one can go and another come."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.digest import digest
from stocktake.model.books import Entry
from stocktake.model.topology import CellTake
from stocktake.model.value import replace

TAKES = st.builds(CellTake, cell=st.integers(0, 1), vcpus=st.integers(0, 2), memory_mb=st.integers(0, 2))
ENTRIES = st.builds(
    Entry,
    kind=st.sampled_from(("instance", "migration", "orphan")),
    id=st.sampled_from(("a", "b", "c")),
    why=st.sampled_from(("w", "v")),
    vcpus=st.integers(0, 3),
    cells=st.lists(TAKES, max_size=1).map(tuple),
)


def test_given_no_entry_when_digested_then_it_is_nothing_in_all_its_digits() -> None:
    assert digest(()) == digest((), base="") == "0" * 32


@given(st.lists(ENTRIES, max_size=6), st.lists(ENTRIES, max_size=6))
def test_given_entries_when_some_go_and_others_come_then_it_is_the_digest_of_what_is_there(
    stay: list[Entry], come: list[Entry]
) -> None:
    gone = stay[: len(stay) // 2]
    whole = digest(stay)
    assert digest(come, base=whole, gone=gone) == digest([*come, *stay[len(gone) :]])
    assert digest(gone, base=digest((), base=whole, gone=gone)) == whole
    assert len(digest(come, base=whole, gone=gone)) == 32


@given(st.lists(ENTRIES, max_size=4), st.lists(ENTRIES, max_size=4))
def test_given_two_lists_when_digested_then_they_are_alike_if_they_hold_the_same_in_whatever_order(
    these: list[Entry], those: list[Entry]
) -> None:
    assert digest(these) == digest(reversed(these))
    assert (digest(these) == digest(those)) is (Counter(these) == Counter(those))


def test_given_an_entry_when_any_field_of_it_changes_then_the_digest_does() -> None:
    entry = Entry(kind="instance", id="a", why="w")
    others = {
        "kind": "orphan",
        "id": "b",
        "name": "n",
        "why": "v",
        "vcpus": 1,
        "memory_mb": 1,
        "disk_mb": 1,
        "cells": (CellTake(cell=0, vcpus=0, memory_mb=0),),
        "pci": ("a",),
        "counts": ("num_vm_active",),
        "consumer": "c",
    }
    assert others.keys() == set(Entry.__struct_fields__)
    digests = {digest([entry]), *(digest([replace(entry, **{name: other})]) for name, other in others.items())}
    assert len(digests) == 1 + len(others)


def test_given_cpus_in_another_order_when_digested_then_it_is_the_same() -> None:
    def pinning(*cpus: int) -> Entry:
        return Entry(
            kind="instance",
            id="a",
            why="w",
            cells=(CellTake(cell=0, vcpus=0, memory_mb=0, pinned_cpus=frozenset(cpus)),),
        )

    assert digest([pinning(1, 17, 33)]) == digest([pinning(33, 1, 17)])
