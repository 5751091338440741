"""
Step 4, the driver over one libvirt connection. Invariant: a wrong answer is the asked nodes' own, no answer is raised.
"""

from collections.abc import Callable, Collection

from stocktake.clock import Clock
from stocktake.drivers.libvirt.connection import Connection, is_local
from stocktake.drivers.libvirt.events import Events
from stocktake.drivers.libvirt.facts import Options
from stocktake.drivers.libvirt.sweep import Sweeper, read_uptime_s
from stocktake.errors import DriverUnreachable, NodeNotFound, StocktakeError
from stocktake.model.hypervisor import Survey


class LibvirtDriver:
    """
    One libvirt host as one node, called by the host name that libvirt gives.

    Args:
        uri: any libvirt URI; it is opened read-only, at the first call.
        deadline_s: how long one call may take.
    """

    name = "libvirt"

    def __init__(self, uri: str, options: Options, *, clock: Clock, deadline_s: float) -> None:
        self._events = Events()
        self._connection = Connection(uri, clock=clock, deadline_s=deadline_s, leaving=self._events.leave)
        self._sweeper = Sweeper(options, self._events)

    @property
    def cache_checks(self) -> int:
        """How often what is kept was compared with what is so, ever."""
        return self._sweeper.checks

    @property
    def cache_lies(self) -> int:
        """How many guests were found to have changed without libvirt telling, ever."""
        return self._sweeper.stale

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever libvirt tells that something changed, or that the connection is lost."""
        self._events.watch(wake)

    def settling(self) -> bool:
        """Whether guests were starting when they were last read."""
        return self._sweeper.starting > 0

    def node_names(self) -> tuple[str, ...]:
        """
        Give the one node's name.

        Raises:
            DriverUnreachable: libvirtd doesn't answer, or not in time.
            DriverError: it answered with an error.
        """
        return (self._connection.call(lambda hypervisor: hypervisor.getHostname()),)

    def survey(self, nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        """
        Read the host in one sweep; every asked node gets its survey, or the error that kept it from one.

        Raises:
            DriverUnreachable: libvirtd doesn't answer, or not in time.
        """
        if not nodes:
            return {}
        try:
            name, survey = self._connection.call(self._sweeper.sweep)
        except DriverUnreachable:
            raise
        except StocktakeError as error:
            return dict.fromkeys(nodes, error)
        return {node: survey if node == name else self._not_found(node, name) for node in nodes}

    def _not_found(self, node: str, name: str) -> NodeNotFound:
        return NodeNotFound(
            f"libvirt has no node {node}; its host is called {name}",
            where=self._connection.uri,
            remedy="If the host was renamed on purpose, move its records to the new name; else give it its old one.",
        )

    def node_exists(self, node: str) -> bool:
        """
        Whether libvirt's host is called `node`.

        Raises:
            DriverUnreachable, DriverError: as `node_names`.
        """
        return node in self.node_names()

    def uptime_s(self) -> float | None:
        """Seconds since this machine started; None if the URI means another one."""
        return read_uptime_s() if is_local(self._connection.uri) else None

    def close(self) -> None:
        """Close the connection; the driver can't be used afterwards."""
        self._connection.close()
