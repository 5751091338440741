"""Made-up fleets and their work: they are what they claim to be, and the books of them come out even."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.accounting.migrations import in_play
from stocktake.accounting.tally import tally
from stocktake.audit import stamped
from stocktake.drivers.fake.fleet import DEVICE_SPEC, PROFILES, Dice, FleetNode, generate_fleet
from stocktake.drivers.fake.work import MOVES, Kind, Work, generate_work
from stocktake.model.books import Tally
from stocktake.model.hypervisor import Host, HostView
from stocktake.model.workload import NodeWork, Place
from stocktake.settings import read_settings, rules
from stocktake.verify import verify

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOST = "h"
RULES = rules(
    read_settings(Path("/dev/null"), {}, {"host": HOST, "pci.device_spec": [dict(spec) for spec in DEVICE_SPEC]})
)


def made(seed: int, nodes: int) -> Work:
    return generate_work(seed, nodes, host=HOST, now=NOW)


def host_of(node: FleetNode, work: Work) -> Host:
    guests = work.guests.get(node.name, ())
    host = verify(HostView(node=node.name, report=stamped(node.report), guests=guests))
    assert isinstance(host, Host), host
    return host


def tally_of(node: FleetNode, work: Work) -> Tally:
    host = host_of(node, work)
    migrations = [row for row in work.migrations if node.name in {row.source_node, row.dest_node} and in_play(row)]
    named = {row.instance_uuid for row in migrations}
    here = [row for row in work.instances if row.host == HOST and row.node == node.name]
    orphans = {guest.uuid for guest in host.guests or ()} - {row.uuid for row in here}
    promises = NodeWork(
        instances=tuple(here),
        migrations=tuple(migrations),
        moving={row.uuid: row for row in work.instances if row.uuid in named},
        pci_devices=work.pci_devices.get(node.name, ()),
        places={
            row.uuid: Place(host=row.host, node=row.node, deleted=row.deleted)
            for row in work.instances
            if row.uuid in orphans
        },
    )
    assert host.uuid is not None
    return tally(host, promises, RULES, uuid=host.uuid)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**63), st.integers(1, 25))
def test_given_any_seed_then_everything_fits_and_no_node_has_a_problem(seed: int, nodes: int) -> None:
    work = made(seed, nodes)
    for node in generate_fleet(nodes, seed):
        counted = tally_of(node, work)
        assert counted.node.problems == ()
        assert counted.node.free_ram_mb >= 0


def test_given_a_fleet_of_demonstration_size_then_there_is_some_of_everything() -> None:
    fleet, work = generate_fleet(40, 1), made(1, 40)
    tallies = [tally_of(node, work) for node in fleet]
    kinds = Counter(entry.kind for counted in tallies for entry in counted.entries)
    assert set(kinds) == {"reserved", "instance", "migration", "orphan", "misplaced"}
    assert any(counted.stale_migrations for counted in tallies)
    assert {row.vm_state for row in work.instances} >= {
        "active", "building", "error", "paused", "rescued", "resized", "shelved", "shelved_offloaded", "soft-delete",
        "stopped", "suspended",
    }  # fmt: skip
    cells = [cell for counted in tallies if counted.node.numa_topology for cell in counted.node.numa_topology.cells]
    assert any(cell.pinned_cpus for cell in cells)
    assert any(pages.used for cell in cells for pages in cell.pages if pages.size_kb == 2048)
    devices = [device for counted in tallies for device in counted.pci_devices]
    assert {device.status for device in devices} == {"available", "allocated"}
    assert {row.status for rows in work.pci_devices.values() for row in rows} == {"claimed", "allocated"}
    assert {entry.pci != () for counted in tallies for entry in counted.entries if entry.kind == "orphan"} == {
        True,
        False,
    }


def test_given_two_sizes_then_the_nodes_they_share_are_equal() -> None:
    assert generate_fleet(30, 9)[:10] == generate_fleet(10, 9)


def test_given_equal_seeds_then_work_is_equal_and_its_ids_are_distinct() -> None:
    work = made(4, 30)
    assert work == made(4, 30)
    assert work != made(5, 30)
    uuids = [row.uuid for row in work.instances]
    assert len(set(uuids)) == len(uuids)
    ids = [row.id for row in work.migrations]
    assert len(set(ids)) == len(ids)
    assert len({node.report["uuid"] for node in generate_fleet(100, 4)}) == 100


def test_given_rows_then_none_is_from_the_future() -> None:
    work = made(2, 40)
    times = [row.updated_at for row in work.instances] + [row.updated_at for row in work.migrations]
    assert all(when is not None and when <= NOW for when in times)


def test_given_profiles_and_moves_then_every_pair_occurs() -> None:
    assert set(MOVES) == set(get_args(Kind))
    pairs = {(number % len(PROFILES), number % len(MOVES)) for number in range(len(PROFILES) * len(MOVES))}
    assert len(pairs) == len(PROFILES) * len(MOVES)


def test_given_a_seed_then_the_dice_fall_as_they_always_did() -> None:
    dice = Dice(1, "a")
    assert (dice.below(1000), dice.uuid()) == (139, "33cbb0a7-4511-4475-aecf-d39142372b60")
