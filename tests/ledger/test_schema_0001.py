"""A ledger of an older schema: brought up to date with all that it holds, from the database or from an export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import stocktake.ledger
from stocktake.accounting.incremental import with_entries
from stocktake.errors import LedgerError
from stocktake.ledger import Database, DatabaseLedger
from stocktake.ledger.schema import HEAD
from stocktake.model.books import Entry
from stocktake.model.topology import CellTake, PagesTaken
from tests.ledger.making import HOST, NODE, again, exported, node, opened, saved

KNOWN, NEVER, EMPTY = (f"00000000-0000-4000-8000-00000000000{number}" for number in range(3))
GUEST = "00000000-0000-4000-8000-00000000bbbb"
TAKE = CellTake(cell=0, vcpus=1, memory_mb=1024, pinned_cpus=frozenset({2, 3}), pages=(PagesTaken(size_kb=4, count=9),))
# As that version wrote them: without the counts and the consumer of today's.
ENTRIES = (
    {"kind": "reserved", "id": "host", "name": None, "why": "kept", "vcpus": 0, "memory_mb": 512, "disk_mb": 100},
    {
        "kind": "instance",
        "id": GUEST,
        "name": "böx \u2028",
        "why": "it counts",
        "vcpus": 2,
        "memory_mb": 1024,
        "disk_mb": 1536,
        "cells": [
            {"cell": 0, "memory_mb": 1024, "pages": [{"count": 9, "size_kb": 4}], "pinned_cpus": [2, 3], "vcpus": 1}
        ],
        "pci": ["0000:05:00.0"],
    },
    {"kind": "migration", "id": GUEST, "name": "m", "why": "room", "vcpus": 1, "memory_mb": 1, "disk_mb": 0},
)
THOSE = (
    Entry(kind="reserved", id="host", why="kept", memory_mb=512, disk_mb=100),
    Entry(
        kind="instance",
        id=GUEST,
        name="böx \u2028",
        why="it counts",
        vcpus=2,
        memory_mb=1024,
        disk_mb=1536,
        cells=(TAKE,),
        pci=("0000:05:00.0",),
    ),
    Entry(kind="migration", id=GUEST, name="m", why="room", vcpus=1, memory_mb=1),
)
FIGURES: Mapping[str, Any] = {
    "vcpus": 8,
    "memory_mb": 16384,
    "local_gb": 100,
    "vcpus_used": 3,
    "memory_mb_used": 1537,
    "local_gb_used": 2,
    "free_ram_mb": 14847,
    "free_disk_gb": 98,
    "running_vms": 1,
    "current_workload": 0,
    "cpu_allocation_ratio": 4.0,
    "ram_allocation_ratio": 1.0,
    "disk_allocation_ratio": 1.0,
    "cpu_info": "",
    "entries_digest": "fedcba9876543210fedcba9876543210",
    "generation": 3,
}


def insert(connection: Connection, table: str, **values: Any) -> None:
    names = ", ".join(values)
    connection.execute(
        text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})"), values
    )


def make_0001(url: str, *, entries: str | None = None) -> None:
    """Make a ledger as the first version did, with something of everything that has changed since."""
    database = Database(url)
    if database.path is not None:
        database.path.parent.mkdir(parents=True, exist_ok=True)
        database.path.touch()
    config = Config()
    config.set_main_option("script_location", str(Path(stocktake.ledger.__file__).parent / "alembic"))
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        lists = dict.fromkeys(
            ("supported_instances", "pci_stats", "metrics", "traits", "owned_traits", "owned_classes", "problems"), "[]"
        )
        for number, uuid in enumerate((KNOWN, NEVER, EMPTY)):
            name = NODE if uuid == KNOWN else f"n{number}"
            place = {"uuid": uuid, "host": HOST, "hypervisor_hostname": name}
            insert(connection, "compute_nodes", **place, **FIGURES, **lists, stats="{}")
        insert(connection, "compute_node_entries", node_uuid=KNOWN, entries=entries or json.dumps(ENTRIES))
        insert(connection, "compute_node_entries", node_uuid=EMPTY, entries="[]")
        sizes = {"vcpus": 2, "memory_mb": 1024, "root_gb": 1, "ephemeral_gb": 0}
        flavor = json.dumps({"vcpus": 2, "memory_mb": 1024, "root_gb": 1})
        where = {"host": HOST, "node": NODE, "vm_state": "active"}
        insert(connection, "instances", uuid=GUEST, **where, **sizes, flavor=flavor, volume_backed=False, adopted=False)
        insert(
            connection, "migrations", id=4, instance_uuid=GUEST, status="finished", dest_compute=HOST, dest_node=NODE
        )
        kind = {"vendor_id": "10de", "product_id": "20b5", "dev_type": "type-PCI", "status": "allocated"}
        row_id = connection.scalar(text("SELECT id FROM compute_nodes WHERE uuid = :uuid"), {"uuid": KNOWN})
        at = {"compute_node_id": row_id, "address": "0000:05:00.0", "instance_uuid": GUEST}
        insert(connection, "pci_devices", **at, **kind, traits="[]")
    database.close()


def check(ledger: DatabaseLedger) -> None:
    """Hold a ledger to what `make_0001` made."""
    assert ledger.entries(KNOWN) == THOSE
    assert ledger.entries(NEVER) == ledger.entries(EMPTY) == ()
    known = ledger.node(KNOWN)
    assert (known.vcpus_used, known.memory_mb_used, known.local_gb_used, known.generation) == (3, 1537, 2, 3)
    work = ledger.work(HOST, [NODE], {})[NODE]
    assert [(one.uuid, one.claim_expires_at, one.pci_devices) for one in work.instances] == [
        (GUEST, None, ("0000:05:00.0",))
    ]
    assert [(one.id, one.claim_expires_at) for one in work.migrations] == [(4, None)]
    assert [(one.address, one.tags) for one in work.pci_devices] == [("0000:05:00.0", {})]
    # Whoever claims before the first refresh finds disk that is never understated.
    assert known.disk_mb_used == 2048
    assert with_entries(known, THOSE[1:], ()).local_gb_used == 1


def test_given_a_ledger_of_the_first_version_when_opened_then_it_is_upgraded_and_keeps_all(empty_url: str) -> None:
    """And can be written to, and opened again."""
    make_0001(empty_url)
    ledger = opened(empty_url)
    try:
        assert ledger.schema_version() == HEAD
        check(ledger)
        record = ledger.node(KNOWN)
        assert again(ledger, record, entries=THOSE[:2]).keys() == {KNOWN}
        assert ledger.entries(KNOWN) == THOSE[:2]
        saved(ledger, node("new"))
    finally:
        ledger.close()
    opened(empty_url).close()


@pytest.mark.parametrize("entries", ["[{", "[1]", "7", '[{"kind": "instance"}]'])
def test_given_rubbish_in_the_entries_when_upgraded_then_they_are_named_and_the_ledger_is_as_it_was(
    empty_url: str, entries: str
) -> None:
    """Nothing is skipped in silence, and what to do is said."""
    make_0001(empty_url, entries=entries)
    with pytest.raises(LedgerError, match=f"compute_node_entries node_uuid {KNOWN}") as raised:
        opened(empty_url)
    assert "the next refresh" in raised.value.remedy
    database = Database(empty_url)
    with database.writing() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0001"
        assert connection.execute(text("SELECT count(*) FROM compute_node_entries")).scalar() == 2
        connection.execute(text("DELETE FROM compute_node_entries WHERE node_uuid = :uuid"), {"uuid": KNOWN})
    database.close()
    ledger = opened(empty_url)
    assert ledger.entries(KNOWN) == ()
    ledger.close()


def test_given_an_export_of_the_first_version_when_imported_then_it_is_the_same(ledger: DatabaseLedger) -> None:
    """Its lines know nothing of claims; the form of the entries' lines has stayed."""
    rows: list[object] = [
        {"table": "compute_nodes", "row": {"uuid": uuid, "host": HOST, "hypervisor_hostname": name, **FIGURES}}
        for uuid, name in ((KNOWN, NODE), (NEVER, "n1"), (EMPTY, "n2"))
    ]
    flavor = {"vcpus": 2, "memory_mb": 1024, "root_gb": 1}
    instance = {"uuid": GUEST, "host": HOST, "node": NODE, "vm_state": "active", "flavor": flavor}
    move = {"id": 4, "instance_uuid": GUEST, "status": "finished", "dest_compute": HOST, "dest_node": NODE}
    device = {"address": "0000:05:00.0", "vendor_id": "10de", "product_id": "20b5", "dev_type": "type-PCI"}
    rows += [
        {"table": "compute_node_entries", "node_uuid": KNOWN, "entries": ENTRIES},
        {"table": "compute_node_entries", "node_uuid": EMPTY, "entries": []},
        {"table": "instances", "row": instance},
        {"table": "migrations", "row": move},
        {
            "table": "pci_devices",
            "node_uuid": KNOWN,
            "row": {**device, "status": "allocated", "instance_uuid": GUEST},
        },
    ]
    lines = [{"table": "ledger", "version": "0001"}, *rows, {"table": "end", "rows": len(rows)}]
    assert ledger.import_([json.dumps(line) for line in lines]) == len(rows)
    check(ledger)


def test_given_a_ledger_of_the_first_version_when_upgraded_and_exported_then_it_imports_as_it_is(
    empty_url: str, ledger: DatabaseLedger
) -> None:
    """Disk in MiB too."""
    make_0001(empty_url)
    old = opened(empty_url)
    lines = exported(old)
    ledger.import_(lines)
    assert exported(ledger) == lines
    check(ledger)
    old.close()


def test_given_several_lines_of_a_node_alike_when_imported_then_the_last_of_them_holds(ledger: DatabaseLedger) -> None:
    """A hand may have written an entry twice; each holder has one."""
    record = saved(ledger)
    twice = [{"kind": "orphan", "id": "a", "why": why} for why in ("first", "second")]
    lines = [
        {"table": "ledger", "version": HEAD},
        {"table": "compute_node_entries", "node_uuid": record.uuid, "entries": twice},
        {"table": "end", "rows": 1},
    ]
    assert ledger.import_([json.dumps(line) for line in lines]) == 1
    assert ledger.entries(record.uuid) == (Entry(kind="orphan", id="a", why="second"),)
