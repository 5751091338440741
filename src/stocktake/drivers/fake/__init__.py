"""
Step 4, the driver `fake`: a fleet from a file or a seed. Invariant: it fails only as its description says.

The file (setting `fake.fleet`, JSON or TOML by its ending) describes a fleet:

    nodes:   a list of tables:
      name       the node's name
      resources  its report, as in docs/accounting.md, "What the driver must report"
      guests     what it runs (the fields of stocktake.model.hypervisor.Guest); left out, it can't list guests
      fault      {raise = "DriverError", text = "..."}, {hang_s = 5}, {lie = {memory_mb = -1}}, {omit = ["vcpus"]}
      listed     false: the hypervisor has the node, but it is another service's
    listing: a fault of the list of nodes itself
    uptime_s: the host's uptime

It is read again whenever it changes. Without a file, `fake.nodes` nodes grow from `fake.seed`.
"""

import threading
import tomllib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from stocktake.clock import Clock
from stocktake.drivers.fake.fleet import FakeFleet, Fault, FleetNode, generate_fleet
from stocktake.drivers.fake.work import generate_work
from stocktake.errors import (
    DriverError,
    DriverUnreachable,
    InvalidData,
    LedgerError,
    NodeNotFound,
    SettingsError,
    StocktakeError,
)
from stocktake.model.hypervisor import Survey
from stocktake.model.value import convert, decode, replace
from stocktake.settings import Settings

# What a fault may raise; one that is not a driver's to raise tests who catches it.
FAULTS: Mapping[str, type[StocktakeError]] = {
    kind.__name__: kind
    for kind in (DriverError, DriverUnreachable, NodeNotFound, SettingsError, InvalidData, LedgerError)
}
# The generated guests don't depend on the time; their rows in the ledger do.
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def open_driver(settings: Settings, clock: Clock) -> "FakeDriver":
    """Open the fleet that the settings describe."""
    return FakeDriver(settings, clock)


class _Stamp(NamedTuple):
    """By what a changed file is known."""

    mtime_ns: int
    size: int
    inode: int


class FakeDriver:
    """
    A fleet that is kept in memory.

    Attributes:
        name: `fake`.
    """

    name = "fake"

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._closed = threading.Event()
        self._stamp: _Stamp | None = None
        self._fleet: FakeFleet | None = None
        self._nodes: dict[str, FleetNode] = {}
        self._surveys: dict[str, Survey] = {}

    def node_names(self) -> tuple[str, ...]:
        """
        List the nodes that are this service's, in the file's order.

        Raises:
            DriverUnreachable: the file is gone, or the description says so.
            DriverError: the file can't be read, or the description says so.
        """
        fleet = self._current()
        if fleet.listing is not None:
            self._act(fleet.listing, "the list of nodes")
            if "nodes" in fleet.listing.lie:
                return tuple(str(name) for name in fleet.listing.lie["nodes"])
        return tuple(node.name for node in fleet.nodes if node.listed)

    def survey(self, nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        """
        Say what the description says of these nodes.

        Raises:
            DriverUnreachable, DriverError: as for the list.
        """
        self._current()
        return {node: self._surveys.get(node) or self._special(node) for node in nodes}

    def node_exists(self, node: str) -> bool:
        """Say whether the description has the node, listed or not."""
        self._current()
        return node in self._nodes

    def uptime_s(self) -> float | None:
        """Give what the description says."""
        return self._current().uptime_s

    def close(self) -> None:
        """End whatever hangs."""
        self._closed.set()

    def _special(self, name: str) -> Survey | StocktakeError:
        """Answer for a node that is not there or has a fault."""
        node = self._nodes.get(name)
        if node is None:
            return NodeNotFound("the fleet has no such node", where=name)
        if node.fault is not None:
            try:
                self._act(node.fault, name)
            except StocktakeError as error:
                return error
        return _survey(node)

    def _act(self, fault: Fault, where: str) -> None:
        if fault.hang_s > 0:
            self._clock.wait(self._closed, fault.hang_s)
        if fault.error is not None:
            raise FAULTS[fault.error](fault.text, where=where)

    def _current(self) -> FakeFleet:
        """Give the fleet, read again if its file has changed."""
        path = self._settings.fake.fleet
        if path is None:
            return self._fleet or self._keep(self._generated())
        try:
            status = path.stat()
            stamp = _Stamp(status.st_mtime_ns, status.st_size, status.st_ino)
            if self._fleet is None or stamp != self._stamp:
                self._keep(read_fleet(path))
                self._stamp = stamp
        except OSError as error:
            raise DriverUnreachable(f"can't be read: {error.strerror or error}", where=str(path)) from error
        except InvalidData as error:
            raise DriverError(error.what, where=error.where, remedy="Correct the fleet's description.") from error
        assert self._fleet is not None, "a fleet was read or an error raised"
        return self._fleet

    def _generated(self) -> FakeFleet:
        fake = self._settings.fake
        nodes = generate_fleet(fake.nodes, fake.seed, prefix=fake.prefix)
        if not fake.guests:
            return FakeFleet(nodes=nodes)
        host = self._settings.host
        guests = generate_work(fake.seed, fake.nodes, host=host, now=_ANY_TIME, prefix=fake.prefix).guests
        return FakeFleet(nodes=tuple(replace(node, guests=guests.get(node.name, ())) for node in nodes))

    def _keep(self, fleet: FakeFleet) -> FakeFleet:
        self._nodes = {node.name: node for node in fleet.nodes}
        self._surveys = {node.name: _survey(node) for node in fleet.nodes if node.fault is None}
        self._fleet = fleet
        return fleet


def read_fleet(path: Path) -> FakeFleet:
    """
    Read a fleet's description.

    Raises:
        OSError: the file can't be read.
        InvalidData: it holds something else; says what and where.
    """
    data = path.read_bytes()
    where = str(path)
    fleet = (
        convert(_toml(data, where), FakeFleet, where=where)
        if path.suffix == ".toml"
        else decode(data, FakeFleet, where=where)
    )
    names: set[str] = set()
    for node in fleet.nodes:
        if node.name in names:
            raise InvalidData(f"there are two nodes {node.name!r}", where=where)
        names.add(node.name)
    faults = [fleet.listing, *(node.fault for node in fleet.nodes)]
    for fault in faults:
        if fault is not None and fault.error is not None and fault.error not in FAULTS:
            raise InvalidData(f"a fault raises {fault.error!r}; it may raise {', '.join(sorted(FAULTS))}", where=where)
    return fleet


def _toml(data: bytes, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InvalidData(f"is not TOML: {error}", where=where) from error


def _survey(node: FleetNode) -> Survey:
    """Give the report; a name and the absence of NUMA, which TOML has no word for, need not be written."""
    report = {"hypervisor_hostname": node.name, "numa_topology": None, **node.report}
    if node.fault is not None:
        report |= node.fault.lie
        report = {key: value for key, value in report.items() if key not in node.fault.omit}
    return Survey(report=report, guests=node.guests)
