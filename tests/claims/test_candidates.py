"""Where a machine would go: every node of a ledger, the best first, the others with their reasons."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.fit.request import Wanted, wanted
from stocktake.claims import Claimed, Refused, Request
from stocktake.claims.candidates import Candidates, candidates, claim_best, narrowed
from stocktake.ledger import DatabaseLedger
from stocktake.model.books import Entry
from stocktake.model.fitting import Limits
from stocktake.model.pci import PciAlias
from stocktake.model.problem import Problem
from stocktake.model.workload import Flavor
from stocktake.settings import Settings, read_settings
from tests.claims.desk import SMALL, Desk, open_desk
from tests.ledger.making import START, counting, device, node, opened, saved

# The ledger's clock goes on by a second whenever it is asked; all that these tests do takes less.
NOW = START + timedelta(seconds=30)
LATER = NOW + timedelta(hours=1)
ALIAS = PciAlias(name="nic", vendor_id="8086", product_id="1520")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[DatabaseLedger]:
    made = opened(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.close()


def some_settings(**given: object) -> Settings:
    return read_settings(Path("/dev/null"), {}, given)


def look(
    ledger: DatabaseLedger, asked: Wanted | None = None, *, settings: Settings | None = None, **how: Any
) -> Candidates:
    want = asked or wanted(SMALL, ())
    return candidates(ledger, settings or some_settings(), want, **{"now": NOW, **how})


def names(found: Candidates) -> list[str]:
    return [one.node.hypervisor_hostname for one in found.fitting]


def reasons(found: Candidates) -> dict[str, list[str]]:
    return {one.node.hypervisor_hostname: [reason.what for reason in one.reasons] for one in found.refused}


def a_node(ledger: DatabaseLedger, name: str, *, host: str = "alive", used_mb: int = 0, **fields: Any) -> str:
    """Save a node of 8 CPUs, 16,384 MiB and 100 GiB, and give its uuid; `alive` has an agent."""
    ledger.heartbeat("alive", version="t")
    entry = Entry(kind="instance", id=name, why="it counts", memory_mb=used_mb)
    tally = {name: fields.pop(name) for name in ("pci_devices",) if name in fields}
    record = node(name, host=host, memory_mb_used=used_mb, free_ram_mb=16384 - used_mb, **fields)
    return saved(ledger, record, entries=(entry,), **tally).uuid


def test_given_nodes_when_looked_at_then_the_emptiest_is_first_and_equals_are_in_order(ledger: DatabaseLedger) -> None:
    a_node(ledger, "full", used_mb=12000)
    a_node(ledger, "b")
    a_node(ledger, "a")
    a_node(ledger, "too-full", used_mb=15000)
    found = look(ledger)
    assert names(found) == ["a", "b", "full"]
    assert reasons(found) == {"too-full": ["MEMORY_MB"]}
    scores = [one.weighed.score for one in found.fitting]
    assert scores == sorted(scores, reverse=True)
    memory = next(room for room in found.fitting[2].resources if room.what == "MEMORY_MB")
    assert (memory.free, memory.free_after) == (4384, 2336)


def test_given_services_when_looked_at_then_who_is_away_or_disabled_gets_nothing_and_says_why(
    ledger: DatabaseLedger,
) -> None:
    ledger.register("by-hand", version="t")
    ledger.heartbeat("off", version="t")
    ledger.set_service("off", disabled=True, reason="new memory")
    a_node(ledger, "up")
    a_node(ledger, "manual", host="by-hand")
    a_node(ledger, "disabled", host="off")
    a_node(ledger, "unknown", host="nobody")
    a_node(ledger, "stale", failure=Problem(code="DriverUnreachable", about="stale", text="no answer"))
    a_node(ledger, "stale-and-full", used_mb=16000, failure=Problem(code="a", about="b", text="c"))
    found = look(ledger)
    assert names(found) == ["manual", "up"]
    assert reasons(found) == {
        "disabled": ["state.disabled"],
        "stale": ["state.stale"],
        "stale-and-full": ["state.stale", "MEMORY_MB"],
        "unknown": ["state.down"],
    }
    later = look(ledger, now=LATER)
    assert names(later) == ["manual"]
    assert reasons(later)["disabled"] == ["state.down", "state.disabled"]


def test_given_nodes_by_name_when_looked_at_then_no_other_is(ledger: DatabaseLedger) -> None:
    first, second = a_node(ledger, "a"), a_node(ledger, "b", used_mb=16000)
    a_node(ledger, "c")
    found = look(ledger, nodes=(first, second))
    assert (names(found), reasons(found)) == (["a"], {"b": ["MEMORY_MB"]})
    assert look(ledger, nodes=()) == Candidates(fitting=(), refused=())


@pytest.mark.parametrize(
    ("given", "pack", "order"),
    [
        ({}, None, ["empty", "full"]),
        ({}, True, ["full", "empty"]),
        ({"filter_scheduler.ram_weight_multiplier": -1.0}, None, ["full", "empty"]),
        ({"filter_scheduler.ram_weight_multiplier": -1.0}, False, ["empty", "full"]),
    ],
)
def test_given_settings_and_a_wish_when_looked_at_then_the_wish_wins(
    ledger: DatabaseLedger, given: dict[str, object], order: list[str], *, pack: bool | None
) -> None:
    a_node(ledger, "empty")
    a_node(ledger, "full", used_mb=8000)
    assert names(look(ledger, settings=some_settings(**given), pack=pack)) == order


def test_given_devices_when_looked_at_then_each_nodes_own_are_chosen(ledger: DatabaseLedger) -> None:
    a_node(ledger, "a", pci_devices=(device("0000:05:00.0"),))
    a_node(ledger, "b", pci_devices=(device("0000:06:00.0", status="allocated", instance_uuid="x"),))
    a_node(ledger, "c")
    asked = wanted(Flavor(vcpus=1, memory_mb=1, extra_specs={"pci_passthrough:alias": "nic:1"}), (ALIAS,))
    found = look(ledger, asked)
    (only,) = found.fitting
    assert only.node.hypervisor_hostname == "a"
    assert [chosen.addresses for chosen in only.placed.devices] == [("0000:05:00.0",)]
    assert reasons(found) == {"b": ["pci.nic"], "c": ["pci.nic"]}


@pytest.mark.parametrize("count", [1, 30])
def test_given_any_number_of_nodes_when_looked_at_then_the_number_of_queries_is_the_same(
    ledger: DatabaseLedger, count: int
) -> None:
    for number in range(count):
        a_node(ledger, f"n{number}", pci_devices=(device(),))
    with counting(ledger) as sent:
        assert len(look(ledger).fitting) == count
    assert len([statement for statement, _ in sent if statement.lstrip().startswith("SELECT")]) == 5


def test_given_an_empty_ledger_when_looked_at_then_there_is_nothing(ledger: DatabaseLedger) -> None:
    assert look(ledger) == Candidates(fitting=(), refused=())


most = st.none() | st.floats(min_value=0, max_value=1e6)
limits = st.builds(Limits, **dict.fromkeys(Limits.__struct_fields__, most))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path, f"sqlite:///{tmp_path}/ledger.db", bare=True) as opened:
        yield opened


def best(desk: Desk, flavor: Flavor, *, meanwhile: bool = False) -> Claimed | tuple[Refused, ...]:
    """Claim on the best; `meanwhile` lets somebody else take all of the first between the look and the claim."""
    context = desk.context["alpha"]
    asked: list[str] = []

    def claim(node: str, limits: Limits) -> Claimed | Refused:
        if meanwhile and not asked:
            hog = Flavor(vcpus=1, memory_mb=60_000)
            assert isinstance(desk.claims.build(node, Request(flavor=hog)), Claimed)
        asked.append(node)
        return desk.claims.build(node, Request(flavor=flavor), limits=limits)

    return claim_best(context.ledger, context.settings, wanted(flavor, ()), claim, now=desk.clock.now())


def test_given_nodes_when_claimed_then_the_emptiest_is_taken_and_filled_by_its_capacity(desk: Desk) -> None:
    desk.built("alpha")
    took = []
    big = Flavor(vcpus=1, memory_mb=32_000)
    for _ in range(3):
        done = best(desk, big)
        took.append(done.instance.host if isinstance(done, Claimed) else None)
    # One more fits beside the small machine; the scheduler would grant a third to nobody.
    assert took == ["beta", "alpha", "beta"]
    refused = best(desk, big)
    assert isinstance(refused, tuple)
    assert {one.node for one in refused} == {"node-alpha", "node-beta"}
    assert {reason.what for one in refused for reason in one.reasons} == {"MEMORY_MB"}


def test_given_others_who_were_faster_when_claimed_then_the_next_best_is_taken(desk: Desk) -> None:
    first = best(desk, SMALL)
    assert isinstance(first, Claimed)
    desk.claims.release(first.instance.uuid)
    done = best(desk, Flavor(vcpus=1, memory_mb=32_000), meanwhile=True)
    assert isinstance(done, Claimed)
    assert done.instance.host != first.instance.host


def test_given_others_who_were_faster_everywhere_when_claimed_then_each_nodes_lack_is_told(desk: Desk) -> None:
    for host in ("alpha", "beta"):
        assert isinstance(desk.claims.build(f"node-{host}", Request(flavor=Flavor(vcpus=1, memory_mb=30_000))), Claimed)
    refused = best(desk, Flavor(vcpus=1, memory_mb=32_000), meanwhile=True)
    assert isinstance(refused, Claimed) or len(refused) == 2


@given(capacity=limits, further=st.none() | limits)
def test_given_limits_of_two_then_neither_is_exceeded_and_nothing_else_holds(
    capacity: Limits, further: Limits | None
) -> None:
    both = narrowed(capacity, further)
    for name in Limits.__struct_fields__:
        given_ = [most for one in (capacity, further) if one and (most := getattr(one, name)) is not None]
        assert getattr(both, name) == (min(given_) if given_ else None)
