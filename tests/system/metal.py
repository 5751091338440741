"""A host that keeps the books of an Ironic's nodes, and what somebody else sees of them."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.refresh.context import Context
from stocktake.settings import read_settings
from tests.system.readback import Readback

HOST = "metal-1"
# What a driver's answers are waited for in these tests: a failing one must not take half a minute.
QUICK = {"timeout_s": 2.0, "api_max_retries": 1, "api_retry_interval": 0.05}


@contextmanager
def metal_context(
    state: Path, url: str, *, placement: object, ironic: Mapping[str, object] | None = None, **settings: object
) -> Iterator[Context]:
    """Open a host's context on an Ironic."""
    flags = {
        "state_path": state,
        "host": HOST,
        "my_ip": "192.0.2.7",
        "compute_driver": "ironic",
        "ironic": {"endpoint_override": url, **QUICK, **(ironic or {})},
        "placement": placement,
        "provider_config_location": state / "provider_config",
        **settings,
    }
    context = open_context(read_settings(None, {}, flags), SystemClock(), RandomIds())
    try:
        yield context
    finally:
        context.close()


@dataclass(frozen=True, slots=True)
class Seen:
    """
    One node, read past the program.

    Attributes:
        ledger: its row, by plain SQL; None if it has none.
        inventory, traits: what Placement has, by plain HTTP; None if it has no such provider.
    """

    ledger: dict[str, Any] | None
    inventory: dict[str, tuple[int, int]] | None
    traits: frozenset[str] | None

    @property
    def stats(self) -> dict[str, Any]:
        """Its stats, our own names only."""
        assert self.ledger is not None
        names = ("provision_state", "power_state", "maintenance", "instance_uuid", "resource_class")
        stats = json.loads(self.ledger["stats"])
        return {name: stats[name] for name in names if name in stats}

    @property
    def problems(self) -> list[str]:
        """The codes of its problems, its failure first."""
        assert self.ledger is not None
        failure = [json.loads(self.ledger["failure"])] if self.ledger["failure"] else []
        return [problem["code"] for problem in (*failure, *json.loads(self.ledger["problems"]))]


def look(state: Path, there: Readback, uuid: str) -> Seen:
    """Look at a node."""
    with sqlite3.connect(state / "ledger.db") as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM compute_nodes WHERE uuid = ? AND deleted = 0", [uuid]).fetchall()
    connection.close()
    row = dict(rows[0]) if rows else None
    provider = there.providers().get(uuid)
    if provider is None:
        return Seen(row, None, None)
    assert provider["uuid"] == uuid, "a node's name is its uuid, and its provider's"
    held = {name: (one["total"], one["reserved"]) for name, one in there.inventories(uuid).items()}
    return Seen(row, held, there.traits(uuid))


def rows(state: Path) -> dict[str, str]:
    """Give the hosts of all nodes in an SQLite ledger, by uuid."""
    with sqlite3.connect(state / "ledger.db") as connection:
        found = connection.execute("SELECT uuid, host FROM compute_nodes WHERE deleted = 0").fetchall()
    connection.close()
    return dict(found)
