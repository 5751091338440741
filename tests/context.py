"""A host's context for tests: a fleet in a file, a ledger of its own, and the scheduler that the test names."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stocktake.audit import TimeLimit
from stocktake.clock import Clock, RandomIds, SystemClock
from stocktake.drivers.fake import FakeDriver
from stocktake.drivers.monitors import load_monitors
from stocktake.ledger import DatabaseLedger, Ledger, open_ledger
from stocktake.model.workload import Flavor, Instance
from stocktake.placement import read_overrides
from stocktake.placement.opening import open_scheduler
from stocktake.refresh.context import Context
from stocktake.settings import read_settings, rules
from stocktake.telemetry import Telemetry

REPORT: Mapping[str, object] = {
    "vcpus": 16,
    "memory_mb": 65536,
    "local_gb": 500,
    "vcpus_used": 0,
    "memory_mb_used": 0,
    "local_gb_used": 0,
    "cpu_info": "",
    "numa_topology": None,
}


class Fleet:
    """The file that the fake driver reads; a node is what is special about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes: dict[str, dict[str, Any]] = {}
        self.listing: Mapping[str, object] | None = None

    def has(self, name: str, **special: object) -> "Fleet":
        """Add a node, or change what is special about it; `report` overrides keys of its report."""
        node = {"resources": {**REPORT, **dict(special.pop("report", {}))}, **special}  # type: ignore[call-overload]
        self.nodes[name] = node
        return self.write()

    def loses(self, *names: str) -> "Fleet":
        """Take nodes away."""
        for name in names:
            del self.nodes[name]
        return self.write()

    def write(self) -> "Fleet":
        """Write the file, whole."""
        fleet: dict[str, object] = {"nodes": [{"name": name, **node} for name, node in self.nodes.items()]}
        if self.listing is not None:
            fleet["listing"] = self.listing
        half = self.path.with_suffix(".half")
        half.write_text(json.dumps(fleet))
        half.replace(self.path)
        return self


def a_guest(uuid: str, **fields: object) -> dict[str, object]:
    """A running guest of 2 vCPUs, 1,024 MiB and 10 GiB."""
    sizes = {"vcpus": 2, "memory_mb": 1024, "disk_mb": 10240}
    return {"uuid": uuid, "name": f"guest-{uuid[:4]}", "state": "running", "active": True, **sizes, **fields}


def an_instance(uuid: str, *, host: str, node: str, **fields: Any) -> Instance:
    """An active instance of 2 vCPUs, 2,048 MiB and 20 GiB."""
    flavor = Flavor(vcpus=2, memory_mb=2048, root_gb=20)
    return Instance(**{"uuid": uuid, "host": host, "node": node, "vm_state": "active", "flavor": flavor, **fields})


@contextmanager
def context_of(
    tmp_path: Path, *, clock: Clock | None = None, ledger: Ledger | None = None, **settings: object
) -> Iterator[Context]:
    """Open a host's context; without a scheduler unless `placement` says otherwise."""
    flags = {
        "state_path": tmp_path,
        "host": "alpha",
        "my_ip": "192.0.2.7",
        "compute_driver": "fake",
        "fake": {"fleet": tmp_path / "fleet.json"},
        "placement": {"mode": "none"},
        **settings,
    }
    read = read_settings(None, {}, flags)
    clock, ids = clock or SystemClock(), RandomIds()
    books = ledger or open_ledger(read.database.connection, clock=clock, ids=ids)
    driver = FakeDriver(read, clock)
    telemetry = Telemetry()
    scheduler = open_scheduler(read.placement, clock, state_path=tmp_path, telemetry=telemetry)
    yield Context(
        settings=read,
        rules=rules(read),
        overrides=read_overrides(read.provider_config_location),
        driver=driver,
        monitors=load_monitors(read, clock),
        ledger=books,
        scheduler=scheduler,
        clock=clock,
        ids=ids,
        limit=TimeLimit(read.driver_timeout_s, "fake"),
        telemetry=telemetry,
    )
    driver.close()
    scheduler.close()
    books.close()


def database_of(context: Context) -> DatabaseLedger:
    """The ledger of context, which is in a database."""
    assert isinstance(context.ledger, DatabaseLedger)
    return context.ledger


def dump(ledger: Ledger) -> Sequence[str]:
    """Everything in the ledger, as exported."""
    assert isinstance(ledger, DatabaseLedger)
    lines: list[str] = []
    ledger.export(lines.append)
    return lines
