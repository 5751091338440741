"""
Something happens and the books have it: no periodic pass helps, as none is due for an hour.

A libvirtd that dies under load, a guest that hangs, ten thousand events at once, many guests that start together.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from stocktake.agent.loop import Agent
from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import read_settings
from tests.context import an_instance
from tests.servers.libvirtd import GuestSpec, PrivateLibvirtd, private_libvirtd
from tests.system import running
from tests.system.running import Host

pytestmark = pytest.mark.system

INTERVAL_S = 3600
WAIT_S = 150.0


@pytest.fixture
def own() -> Iterator[PrivateLibvirtd]:
    """A libvirtd that a test may kill and start."""
    with private_libvirtd() as server:
        yield server


def host_of(server: PrivateLibvirtd, state: Path, **more: object) -> Host:
    settings: dict[str, object] = {
        "host": "alpha",
        "compute_driver": "libvirt",
        "libvirt.connection_uri": server.uri,
        "libvirt.instances_path": str(server.images),
        "placement.mode": "none",
        "update_resources_interval": INTERVAL_S,
        "driver_timeout_s": 10,
        **more,
    }
    return Host(state, settings)


def settled(agent: running.Agent) -> None:
    """Wait for the first pass; the second comes by lot within the interval, hardly while a test runs."""
    agent.until_said("passed")


def vcpus_used(host: Host) -> int | None:
    with host.ledger() as ledger:
        return next((row.vcpus_used for row in ledger.nodes()), None)


def running_guests(server: PrivateLibvirtd) -> dict[str, int]:
    """Give the vCPUs of the guests that run."""
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    found = server.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_VCPU, flags)
    return {domain.name(): int(stats["vcpu.maximum"]) for domain, stats in found}


def test_given_a_guest_that_starts_and_ends_when_the_agent_runs_then_the_record_has_it_soon(
    libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    host = host_of(libvirtd, tmp_path)
    libvirtd.define(GuestSpec(name="a", vcpus=3, disks_gib=(1,)))
    with host.agent("-vv") as agent:
        settled(agent)
        libvirtd.boot("a")
        agent.until(lambda: vcpus_used(host) == 3)
        libvirtd.destroy("a")
        agent.until(lambda: vcpus_used(host) == 0)


def test_given_a_libvirtd_that_is_killed_under_load_when_it_is_back_then_nothing_is_lost_and_events_are_heard_again(
    own: PrivateLibvirtd, tmp_path: Path
) -> None:
    for number in range(6):
        own.define(GuestSpec(name=f"g{number}", vcpus=1 + number % 3))
    host = host_of(own, tmp_path)
    with host.agent("-vv") as agent:
        settled(agent)
        for round_ in range(2):
            for number in range(3):
                own.boot(f"g{number + 3 * round_}")
            own.kill()
            own.start_daemon()
            # Whether this is told to anybody is left to chance: the agent may not be back yet.
            os.kill(own.guest_pid(f"g{3 * round_}"), signal.SIGKILL)
            agent.until(lambda: vcpus_used(host) == sum(running_guests(own).values()))
        own.boot("g0")
        agent.until(lambda: vcpus_used(host) == sum(running_guests(own).values()))
        os.kill(own.guest_pid("g1"), signal.SIGKILL)
        agent.until(lambda: "g1" not in running_guests(own))
        agent.until(lambda: vcpus_used(host) == sum(running_guests(own).values()))
        assert agent.count("Traceback") == 0, agent.text


def test_given_a_libvirtd_that_hangs_when_it_goes_on_then_the_books_are_fresh_again(
    own: PrivateLibvirtd, tmp_path: Path
) -> None:
    own.define(GuestSpec(name="a", vcpus=2))
    host = host_of(own, tmp_path, driver_timeout_s=1)
    with host.agent("-vv") as agent:
        settled(agent)
        own.signal(signal.SIGSTOP)
        # It asks because a promise changed, and gets no answer in time.
        with host.ledger() as ledger:
            ledger.put_instances([an_instance("bbbbbbbb-0000-4000-8000-000000000001", host="alpha", node="nowhere")])
        agent.until(lambda: host.ask("nodes")[0]["state"] == "stale")
        own.signal(signal.SIGCONT)
        agent.until(lambda: host.ask("nodes")[0]["state"] != "stale")
        own.boot("a")
        agent.until(lambda: vcpus_used(host) == 2)


def test_given_a_guest_that_hangs_when_another_starts_then_the_pass_is_not_held_up(
    libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    libvirtd.start(GuestSpec(name="hangs", vcpus=2, disks_gib=(1,), balloon="virtio"))
    libvirtd.define(GuestSpec(name="starts", vcpus=3))
    host = host_of(libvirtd, tmp_path)
    qemu = libvirtd.guest_pid("hangs")
    os.kill(qemu, signal.SIGSTOP)
    try:
        with host.agent("-vv") as agent:
            settled(agent)
            assert vcpus_used(host) == 2
            libvirtd.boot("starts")
            agent.until(lambda: vcpus_used(host) == 5)
            # Nor is one that reads everything anew.
            agent.send(signal.SIGHUP)
            agent.until_said("the settings were read again")
            agent.until(lambda: "passed" in agent.text.rpartition("settings were read again")[2])
            assert host.ask("nodes")[0]["failure"] is None
    finally:
        os.kill(qemu, signal.SIGCONT)


def test_given_many_guests_that_start_together_then_passes_are_few_and_the_record_is_right(
    libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    specs = [GuestSpec(name=f"g{number:02}", vcpus=1 + number % 3, disks_gib=(1,)) for number in range(20)]
    for spec in specs:
        libvirtd.define(spec)
    host = host_of(libvirtd, tmp_path)
    with host.agent("-vv") as agent:
        settled(agent)
        before, began_s = agent.count("passed"), time.monotonic()
        with ThreadPoolExecutor(10) as threads:
            list(threads.map(libvirtd.boot, [spec.name for spec in specs]))
        agent.until(lambda: vcpus_used(host) == sum(spec.vcpus for spec in specs))
        passes, took_s = agent.count("passed") - before, time.monotonic() - began_s
        assert passes <= 3 + took_s, agent.text


# Within this process, where libvirt's test driver can be made to tell as much as one likes.


@contextmanager
def context_on(uri: str, state: Path, **more: object) -> Iterator[Context]:
    given = {"state_path": state, "host": "alpha", "my_ip": "192.0.2.7", "compute_driver": "libvirt"}
    given |= {"libvirt.connection_uri": uri, "placement.mode": "none", **more}
    context = open_context(read_settings(None, {}, given), SystemClock(), RandomIds())
    yield context
    context.close()


class Waited:
    """A ledger's records, waited for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pause = threading.Event()

    def until(self, holds: Callable[[], bool]) -> None:
        """Look every so often, as nothing tells a test of it."""
        due_s = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < due_s
            self._pause.wait(0.01)

    def vcpus_used(self) -> int | None:
        return next((row.vcpus_used for row in self._context.ledger.nodes()), None)


@pytest.fixture
def sample() -> Iterator[Any]:
    """The guest of libvirt's test driver, which all connections of a process share; it is left as it was."""
    connection = libvirt.open("test:///default")
    domain = connection.lookupByName("test")
    yield domain
    domain.setVcpus(2)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None, None, None)
    connection.close()


def test_given_ten_thousand_events_in_a_burst_then_few_passes_answer_them_and_the_last_change_is_in_the_record(
    tmp_path: Path, sample: Any
) -> None:
    settings = {"update_resources_interval": INTERVAL_S}
    with (
        context_on("test:///default", tmp_path, **settings) as context,
        context_on("test:///default", tmp_path) as other,
    ):
        agent = Agent(lambda: context, SystemClock(), lambda: 0.9)
        thread = threading.Thread(target=agent.run)
        thread.start()
        waited = Waited(other)
        waited.until(lambda: waited.vcpus_used() == 2)
        began_s = time.monotonic()
        for number in range(10_000):
            sample.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, str(number), None, None)
        more = sample.connect().createXML("<domain type='test'><name>more</name><memory>8192</memory>"
                                          "<vcpu>3</vcpu><os><type>hvm</type></os></domain>")  # fmt: skip
        try:
            waited.until(lambda: waited.vcpus_used() == 5)
            took_s = time.monotonic() - began_s
        finally:
            more.destroy()
            waited.until(lambda: waited.vcpus_used() == 2)
            agent.stop()
            thread.join(WAIT_S)
    counts = agent.counts
    assert counts.events >= 10_001
    assert counts.events == counts.event_passes + counts.coalesced
    assert counts.event_passes <= 4 + 10 * took_s


def test_given_a_guest_that_changed_untold_when_all_is_read_again_then_its_node_says_so_for_a_while(
    tmp_path: Path, sample: Any
) -> None:
    with context_on("test:///default", tmp_path, **{"libvirt.full_read_every": 3}) as context:
        context.driver.watch(lambda: None)  # type: ignore[attr-defined]

        def told() -> list[str]:
            (node,) = refresh(context).nodes.values()
            return [one.about for one in node.problems if one.code == "stale-definition"]

        assert told() == []
        sample.setVcpus(1)
        passes = [told() for _ in range(8)]
        assert passes == [[], [], [], *[[sample.UUIDString()]] * 3, [], []]
        assert context.ledger.nodes()[0].vcpus_used == 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_given_a_promise_that_somebody_makes_when_the_agent_runs_then_the_record_has_it_soon(
    tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    settings: dict[str, object] = {"host": "alpha", "compute_driver": "fake", "fake.nodes": 1, "fake.guests": False}
    settings |= {"placement.mode": "none", "update_resources_interval": INTERVAL_S}
    if database == "postgresql":
        settings["database.connection"] = request.getfixturevalue("postgres_url")
    host = Host(tmp_path, settings)
    with host.agent("-vv") as agent, host.ledger() as ledger:
        settled(agent)
        (node,) = ledger.nodes()
        name = node.hypervisor_hostname
        one = an_instance("bbbbbbbb-0000-4000-8000-000000000001", host="alpha", node=name)
        ledger.put_instances([one])
        agent.until(lambda: vcpus_used(host) == 2)
        ledger.delete_instances([one.uuid])
        agent.until(lambda: vcpus_used(host) == 0)
        # What the agent saved of that has not woken it again, for ever least of all.
        passes = agent.count("passed")
        assert passes <= 4
