"""Devices for a guest, against trying everything: all small tables, and any larger ones."""

from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement, product

import pytest
from hypothesis import given, settings

from stocktake.accounting.fit.pci import chosen_devices, lacking_devices
from stocktake.model.fitting import NoRoom
from stocktake.model.pci import DeviceType, PciAffinity, PciAlias, PciRecord, PciRequest
from tests.accounting.drawing import AFFINITIES, CELLS, PCI_REQUESTS, SOCKETS, a_card, tables
from tests.accounting.fit import brute_pci

NODES = (0, 1, None)
FAR_SOCKETS = {0: 0, 1: 1}
ONE_SOCKET = {0: 0, 1: 0}


def an_alias(name: str, *kinds: DeviceType | None) -> tuple[PciAlias, ...]:
    return tuple(PciAlias(name=name, device_type=kind) for kind in kinds)


ALIASES = {
    "pf": an_alias("pf", "type-PF"),
    "vf": an_alias("vf", "type-VF"),
    "pci": an_alias("pci", "type-PCI"),
    "any": an_alias("any", None),
    "either": an_alias("either", "type-PF", "type-VF"),
}


def small_tables() -> Iterator[list[PciRecord]]:
    """Give every table of two cards of at most two functions each, and a plain device or none."""
    shapes = [*product(NODES, (1, 2), (True, False)), *product(NODES, (0,), (True,))]
    for cards in combinations_with_replacement(shapes, 2):
        table = [
            record
            for number, (node, functions, whole) in enumerate(cards)
            for record in a_card(number, node, functions=functions, whole=whole)
        ]
        plain = PciRecord(address="0000:99:00.0", vendor_id="10de", product_id="3", dev_type="type-PCI", numa_node=0)
        yield table
        yield [*table, plain]


def wishes() -> Iterator[tuple[tuple[str, int], ...]]:
    """Give every wish for one or two aliases, one or two devices each, and for one device each of three."""
    counted = [(name, count) for name in ALIASES for count in (1, 2)]
    yield from ((one,) for one in counted)
    yield from (pair for pair in combinations(counted, 2) if pair[0][0] != pair[1][0])
    yield from combinations([(name, 1) for name in ALIASES], 3)


def judge(
    requests: list[PciRequest], records: list[PciRecord], cells: brute_pci.Cells, sockets: brute_pci.Sockets
) -> bool:
    """Hold an answer to what trying everything gives; say whether the devices are to be had."""
    table = {record.address: record for record in records}
    found = chosen_devices(requests, table, cells=cells, sockets=sockets)
    answer = lacking_devices(requests, table, cells=cells, sockets=sockets) if found is None else found
    missing = [one for one in answer if isinstance(one, NoRoom)]
    if missing:
        assert not brute_pci.fits(requests, records, cells, sockets), answer
        assert {one.what for one in missing} <= {f"pci.{request.alias}" for request in requests}
        return False
    chosen = [one for one in answer if not isinstance(one, NoRoom)]
    assert brute_pci.wrong_with(chosen, requests, records, cells, sockets) == []
    table = {record.address: record for record in records}
    taken = [table[address] for one in chosen for address in one.addresses]
    best = min(brute_pci.weight(one, cells, sockets) for one in brute_pci.choices(requests, records, cells, sockets))
    assert brute_pci.weight(taken, cells, sockets) == best
    return True


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("policy", "cells", "sockets"),
    [
        *((policy, {0}, FAR_SOCKETS) for policy in AFFINITIES),
        ("socket", {0}, ONE_SOCKET),
        ("required", {0, 1}, FAR_SOCKETS),
        ("required", None, FAR_SOCKETS),
    ],
)
def test_given_any_small_table_when_asked_for_anything_then_it_is_what_trying_everything_gives(
    policy: PciAffinity, cells: set[int] | None, sockets: dict[int, int]
) -> None:
    every = [
        [PciRequest(alias=name, count=count, specs=ALIASES[name], numa_policy=policy) for name, count in wish]
        for wish in wishes()
    ]
    had = [judge(requests, records, cells, sockets) for records in small_tables() for requests in every]
    assert set(had) == {True, False}


@settings(max_examples=400, deadline=None)
@given(requests=PCI_REQUESTS, records=tables(), cells=CELLS, sockets=SOCKETS)
def test_given_any_table_when_asked_for_anything_then_it_is_what_trying_everything_gives(
    requests: list[PciRequest], records: list[PciRecord], cells: frozenset[int] | None, sockets: dict[int, int | None]
) -> None:
    judge(requests, records, cells, sockets)
