"""Free devices for a guest: which are right, which are near enough, which are taken, and why there are none."""

from collections.abc import Iterable, Mapping

import pytest

from stocktake.accounting.fit import pci as pci_fit
from stocktake.accounting.fit.pci import TRIES_MAX, chosen_devices, lacking_devices
from stocktake.accounting.pci import Table, excluded
from stocktake.model.fitting import NoRoom
from stocktake.model.pci import Chosen, DeviceStatus, PciAffinity, PciAlias, PciRecord, PciRequest
from stocktake.model.value import replace

SOCKETS = {0: 0, 1: 0, 2: 1}
GPU = PciRecord(address="0000:10:00.0", vendor_id="10de", product_id="20b5", dev_type="type-PCI", numa_node=0)
PF = PciRecord(address="0000:01:00.0", vendor_id="8086", product_id="1528", dev_type="type-PF", numa_node=0)
VF = replace(PF, address="0000:01:10.0", product_id="1515", dev_type="type-VF", parent_addr=PF.address)

A_GPU = PciAlias(name="gpu", vendor_id="10de", product_id="20b5")
A_PF = PciAlias(name="pf", vendor_id="8086", product_id="1528", device_type="type-PF")
A_VF = PciAlias(name="vf", vendor_id="8086", product_id="1515", device_type="type-VF")


def asks(*specs: PciAlias, count: int = 1, policy: PciAffinity = "legacy") -> PciRequest:
    return PciRequest(alias=specs[0].name, count=count, specs=specs, numa_policy=policy)


def a_table(records: Iterable[PciRecord]) -> Table:
    return excluded({record.address: record for record in records})[0]


def gpus(*nodes: int | None) -> list[PciRecord]:
    return [replace(GPU, address=f"0000:1{number}:00.0", numa_node=node) for number, node in enumerate(nodes)]


def a_card(bus: int, functions: int, *, node: int | None = 0, used: int = 0, whole: bool = True) -> list[PciRecord]:
    """Make a PF and its functions, some of them in use; without `whole` only the functions are tracked."""
    pf = replace(PF, address=f"0000:{bus:02x}:00.0", numa_node=node)
    vfs = [
        replace(
            VF,
            address=f"0000:{bus:02x}:{16 + number // 8:02x}.{number % 8}",
            parent_addr=pf.address,
            numa_node=node,
            status="allocated" if number < used else "available",
        )
        for number in range(functions)
    ]
    return [pf, *vfs] if whole else vfs


def fit(
    requests: Iterable[PciRequest],
    records: Iterable[PciRecord],
    *,
    cells: set[int] | None = None,
    sockets: Mapping[int, int | None] = SOCKETS,
) -> tuple[Chosen, ...] | tuple[NoRoom, ...]:
    asked, table = tuple(requests), a_table(records)
    chosen = chosen_devices(asked, table, cells=cells, sockets=sockets)
    return lacking_devices(asked, table, cells=cells, sockets=sockets) if chosen is None else chosen


def addresses(answer: tuple[Chosen, ...] | tuple[NoRoom, ...]) -> list[list[str]]:
    chosen = [one for one in answer if isinstance(one, Chosen)]
    assert len(chosen) == len(answer), answer
    return [list(one.addresses) for one in chosen]


def reasons(answer: tuple[Chosen, ...] | tuple[NoRoom, ...]) -> dict[str, str]:
    """Give each alias's text, which opens with its numbers."""
    missing = [one for one in answer if isinstance(one, NoRoom)]
    assert missing
    assert len(missing) == len(answer), answer
    texts: dict[str, str] = {}
    for one in missing:
        alias = one.what.removeprefix("pci.")
        assert one.text.startswith(f"{one.asked} of {alias} wanted, {one.free} free of {one.total}")
        texts[alias] = one.text
    return texts


@pytest.mark.parametrize(
    ("spec", "record", "right"),
    [
        (A_GPU, GPU, True),
        (PciAlias(name="a"), GPU, True),
        (PciAlias(name="a", vendor_id="10DE", product_id="20B5"), GPU, True),
        (replace(A_GPU, vendor_id="8086"), GPU, False),
        (replace(A_GPU, product_id="1db6"), GPU, False),
        # The type is type-PCI unless the alias says otherwise; a PF is had only by asking for one.
        (PciAlias(name="a"), VF, False),
        (PciAlias(name="a"), PF, False),
        (PciAlias(name="a", device_type=None), GPU, True),
        (PciAlias(name="a", device_type=None), VF, True),
        (PciAlias(name="a", device_type=None), PF, False),
        (PciAlias(name="a", device_type="type-PF"), PF, True),
        (PciAlias(name="a", device_type="type-PF"), VF, False),
        (PciAlias(name="a", device_type="type-VF"), VF, True),
        # A class that device_spec does not name is made of the ids.
        (PciAlias(name="a", resource_class="CUSTOM_PCI_10DE_20B5"), GPU, True),
        (PciAlias(name="a", resource_class="CUSTOM_GPU"), GPU, False),
        (PciAlias(name="a", resource_class="CUSTOM_GPU"), replace(GPU, resource_class="CUSTOM_GPU"), True),
        (PciAlias(name="a", resource_class="CUSTOM_PCI_10DE_20B5"), replace(GPU, resource_class="CUSTOM_GPU"), False),
        (PciAlias(name="a", traits=frozenset({"CUSTOM_A"})), GPU, False),
        (PciAlias(name="a", traits=frozenset({"CUSTOM_A"})), replace(GPU, traits=frozenset({"CUSTOM_A", "B"})), True),
        (PciAlias(name="a", traits=frozenset({"CUSTOM_A", "C"})), replace(GPU, traits=frozenset({"C"})), False),
    ],
)
def test_given_an_alias_when_a_device_is_looked_at_then_all_that_it_says_must_be_so(
    spec: PciAlias, record: PciRecord, *, right: bool
) -> None:
    answer = fit([asks(spec)], [record])
    assert isinstance(answer[0], Chosen) is right


def test_given_an_alias_of_several_entries_then_each_of_them_will_do() -> None:
    other = replace(GPU, address="0000:20:00.0", product_id="1db6")
    both = asks(A_GPU, replace(A_GPU, product_id="1db6"), count=2)
    assert addresses(fit([both], [GPU, other])) == [[GPU.address, other.address]]


@pytest.mark.parametrize("status", ["claimed", "allocated", "removed", "unavailable", "unclaimable"])
def test_given_a_device_that_is_not_available_then_nobody_gets_it(status: DeviceStatus) -> None:
    total = 0 if status == "removed" else 1
    answer = fit([asks(A_GPU)], [replace(GPU, status=status)])
    assert reasons(answer) == {"gpu": f"1 of gpu wanted, 0 free of {total}"}


UNKNOWN: dict[int, int | None] = {0: 0, 1: 0, 2: None}


@pytest.mark.parametrize(
    ("policy", "node", "cells", "sockets", "near"),
    [
        ("required", 0, {0}, SOCKETS, True),
        ("required", 1, {0, 1}, SOCKETS, True),
        ("required", 1, {0}, SOCKETS, False),
        ("required", None, {0}, SOCKETS, False),
        ("legacy", 0, {0}, SOCKETS, True),
        ("legacy", 1, {0}, SOCKETS, False),
        ("legacy", None, {0}, SOCKETS, True),
        ("preferred", 0, {0}, SOCKETS, True),
        ("preferred", 2, {0}, SOCKETS, True),
        ("preferred", None, {0}, SOCKETS, True),
        ("socket", 0, {0}, SOCKETS, True),
        ("socket", 1, {0}, SOCKETS, True),
        ("socket", 2, {0}, SOCKETS, False),
        ("socket", 2, {0, 2}, SOCKETS, True),
        ("socket", None, {0}, SOCKETS, False),
        # One socket that nobody knows, and no device but a near one will do, as in Nova.
        ("socket", 1, {0}, UNKNOWN, False),
        ("socket", 0, {0}, UNKNOWN, True),
        ("socket", 1, {0}, {}, False),
        ("socket", 3, {0}, SOCKETS, False),
        # A guest without cells takes any.
        *((policy, node, None, SOCKETS, True) for policy in ("required", "socket", "legacy") for node in (0, None)),
    ],
)
def test_given_a_policy_when_a_device_is_looked_at_then_it_must_be_near_enough(
    policy: PciAffinity, node: int | None, cells: set[int] | None, sockets: dict[int, int | None], *, near: bool
) -> None:
    answer = fit([asks(A_GPU, policy=policy)], gpus(node), cells=cells, sockets=sockets)
    assert isinstance(answer[0], Chosen) is near


@pytest.mark.parametrize(
    ("nodes", "count", "expected"),
    [
        ((2, None, 1, 0), 1, ["0000:13:00.0"]),
        ((2, None, 1, 0), 2, ["0000:12:00.0", "0000:13:00.0"]),
        ((2, None, 1, 0), 3, ["0000:11:00.0", "0000:12:00.0", "0000:13:00.0"]),
        ((0, 0), 1, ["0000:10:00.0"]),
    ],
)
def test_given_a_guest_that_takes_any_then_near_ones_go_first_then_of_its_socket_then_unknown_ones(
    nodes: tuple[int | None, ...], count: int, expected: list[str]
) -> None:
    answer = fit([asks(A_GPU, count=count, policy="preferred")], gpus(*nodes), cells={0})
    assert addresses(answer) == [expected]


ANY = PciAlias(name="any", device_type=None)
EITHER = (replace(A_PF, name="either"), replace(A_VF, name="either"))


@pytest.mark.parametrize(
    ("requests", "records", "expected"),
    [
        # Functions of the card with the fewest left.
        ([asks(A_VF)], [*a_card(1, 3, used=1), *a_card(2, 3, used=2), *a_card(3, 3)], [["0000:02:10.2"]]),
        (
            [asks(A_VF, count=2)],
            [*a_card(1, 3, used=1), *a_card(2, 3, used=2), *a_card(3, 3)],
            [["0000:01:10.1", "0000:02:10.2"]],
        ),
        ([asks(A_VF)], [*a_card(1, 3, whole=False), *a_card(2, 2, whole=False)], [["0000:02:10.0"]]),
        # A card that is in use before one that is whole, though it has more left.
        ([asks(A_VF)], [*a_card(1, 1), *a_card(2, 4, used=1)], [["0000:02:10.1"]]),
        # A function that does not say whose it is breaks up nothing.
        ([asks(A_VF)], [*a_card(1, 1), replace(VF, address="0000:09:10.0", parent_addr=None)], [["0000:09:10.0"]]),
        # A plain device before a function.
        ([asks(ANY)], [*a_card(1, 2), GPU], [[GPU.address]]),
        # The PF that has the fewest functions; none if something else will do.
        ([asks(A_PF)], [*a_card(1, 2), *a_card(2, 1)], [["0000:02:00.0"]]),
        ([asks(*EITHER)], [*a_card(1, 2)], [["0000:01:10.0"]]),
        ([asks(*EITHER)], [*a_card(1, 0), *a_card(2, 3)], [["0000:02:10.0"]]),
        ([asks(*EITHER, count=2)], [*a_card(1, 0), *a_card(2, 1)], [["0000:01:00.0", "0000:02:10.0"]]),
        # What belongs to the network service goes last.
        ([asks(A_GPU)], [replace(GPU, physical_network="p"), *gpus(0, 0)[1:]], [["0000:11:00.0"]]),
        # A PF and functions, never of the same card; the smaller card goes as a whole.
        ([asks(A_PF), asks(A_VF)], [*a_card(1, 3), *a_card(2, 2)], [["0000:02:00.0"], ["0000:01:10.0"]]),
        (
            [asks(A_VF, count=2), asks(A_PF)],
            [*a_card(1, 1), *a_card(2, 2)],
            [["0000:02:10.0", "0000:02:10.1"], ["0000:01:00.0"]],
        ),
        # So there are enough functions left.
        (
            [asks(A_PF), asks(A_VF, count=3)],
            [*a_card(1, 2), *a_card(2, 3)],
            [["0000:01:00.0"], ["0000:02:10.0", "0000:02:10.1", "0000:02:10.2"]],
        ),
        # A device goes to the request that has no other, whichever comes first.
        ([asks(ANY), asks(A_GPU)], [GPU, *a_card(1, 1, whole=False)], [["0000:01:10.0"], [GPU.address]]),
        ([asks(A_GPU), asks(ANY)], [GPU, *a_card(1, 1, whole=False)], [[GPU.address], ["0000:01:10.0"]]),
        ([], [GPU], []),
    ],
)
def test_given_several_ways_then_the_one_that_breaks_up_least_is_taken(
    requests: list[PciRequest], records: list[PciRecord], expected: list[list[str]]
) -> None:
    assert addresses(fit(requests, records, cells={0})) == expected
    assert addresses(fit(requests, reversed(records), cells={0})) == expected


APART = ", and a PF is not allocated beside its own functions"


@pytest.mark.parametrize(
    ("requests", "records", "cells", "expected"),
    [
        ([asks(A_GPU, count=3)], gpus(0, 1), {0}, {"gpu": "3 of gpu wanted, 2 free of 2"}),
        ([asks(A_GPU)], [], None, {"gpu": "1 of gpu wanted, 0 free of 0"}),
        # Enough, but not near enough.
        (
            [asks(A_GPU, count=2, policy="required")],
            gpus(0, 1, 1, None),
            {0},
            {
                "gpu": "2 of gpu wanted, 4 free of 4; its policy required allows 1 for a guest on host cells 0: "
                "1 on host cell 0, 2 on host cell 1, 1 on an unknown cell"
            },
        ),
        (
            [asks(A_GPU)],
            gpus(1),
            {0, 2},
            {
                "gpu": "1 of gpu wanted, 1 free of 1; its policy legacy allows 0 for a guest on host cells 0,2: "
                "1 on host cell 1"
            },
        ),
        # Each that ran out.
        (
            [asks(A_GPU), asks(A_VF, count=2), asks(A_PF)],
            [*a_card(1, 2, used=1)],
            None,
            {
                "gpu": "1 of gpu wanted, 0 free of 0",
                "vf": "2 of vf wanted, 1 free of 2",
                "pf": "1 of pf wanted, 0 free of 1",
            },
        ),
        # Enough for each, not for all.
        (
            [asks(A_GPU), asks(A_VF), asks(A_PF)],
            [GPU, *a_card(1, 2)],
            None,
            {"pf": f"1 of pf wanted, 1 free of 1; vf wants them too{APART}"},
        ),
        ([asks(A_GPU), asks(ANY)], [GPU], None, {"any": "1 of any wanted, 1 free of 1; gpu wants them too"}),
        (
            [asks(A_GPU), asks(*EITHER, count=2)],
            [GPU, *a_card(1, 1)],
            None,
            {"either": f"2 of either wanted, 2 free of 2; some are parts of others{APART}"},
        ),
    ],
)
def test_given_devices_that_are_not_to_be_had_then_each_request_says_its_numbers_and_why(
    requests: list[PciRequest], records: list[PciRecord], cells: set[int] | None, expected: dict[str, str]
) -> None:
    assert reasons(fit(requests, records, cells=cells)) == expected


def tries(monkeypatch: pytest.MonkeyPatch, requests: list[PciRequest], records: list[PciRecord]) -> tuple[int, bool]:
    """Count the matchings that an answer takes, and say whether there are devices."""
    count = 0
    matching = pci_fit._matching

    def counted(*arguments: object) -> object:
        nonlocal count
        count += 1
        return matching(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pci_fit, "_matching", counted)
    chosen = pci_fit.chosen_devices(requests, a_table(records), cells={0}, sockets=SOCKETS)
    return count, chosen is not None


def test_given_many_functions_and_requests_then_a_few_matchings_do(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record for bus in range(1, 9) for record in a_card(bus, 32, node=bus % 2)]
    wholes = [asks(A_PF, count=1, policy=policy) for policy in ("required", "legacy", "preferred", "socket")]
    functions = [asks(A_VF, count=31, policy=policy) for policy in ("socket", "preferred", "preferred", "preferred")]
    count, found = tries(monkeypatch, [*wholes, *functions], records)
    assert found
    assert count <= 20


def test_given_cards_of_which_no_two_are_alike_when_none_will_do_then_the_search_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    products = [f"{number:04x}" for number in range(16)]
    records: list[PciRecord] = []
    for bus, product in enumerate(products, 1):
        pf, *vfs = a_card(bus, 3)
        records += [pf, *(replace(vf, product_id=product) for vf in vfs)]
    # Eight PFs leave eight cards their functions: 24, but each kind is wanted once.
    wanted = [asks(replace(A_VF, name=product, product_id=product)) for product in products[:9]]
    count, found = tries(monkeypatch, [asks(A_PF, count=8), *wanted], records)
    assert not found
    assert count <= TRIES_MAX
