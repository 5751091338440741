"""
One KVM host with a hundred guests: what a pass costs, and how soon a change is in the books.

A libvirtd of its own runs real QEMU guests (TCG, paused: they take memory and no CPU time). Each figure stands beside
the bare calls of libvirt that any implementation must make, measured in turn with it, in the same run. How fresh the
books are is measured from outside: from the return of libvirt's call that starts or ends a guest, to the line of log
that the agent, a process of its own, writes once the record is saved and Placement agrees.
"""

import contextlib
import math
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import libvirt
import psutil
from tests.servers.libvirtd import GuestSpec, PrivateLibvirtd, guest_xml, private_libvirtd, qcow2_image
from tests.servers.placement import private_placement
from tests.system.readback import remote
from tests.system.running import Agent, Host
from tests.system.scraping import health

from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.drivers.base import Watching
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import read_settings

GUESTS = 100
CHANGES = 200
ROUNDS = 60
IDLE_S = 30.0

Row = dict[str, str | float]


def measured(directory: Path) -> list[Row]:
    """Measure with real guests; those of the driver and the pass, then how fresh the books are."""
    del directory  # The server has its own.
    with private_libvirtd() as server:
        for number in range(GUESTS):
            server.start(GuestSpec(name=f"g{number:03}", vcpus=_vcpus_of(number), disks_gib=(10,)))
        return [*_passes(server), *_freshness(server), _memory_with_remote_placement(server)]


def _vcpus_of(number: int) -> int:
    return 1 + number % 3


def _settings(server: PrivateLibvirtd) -> dict[str, object]:
    return {
        "host": "bench",
        "compute_driver": "libvirt",
        "libvirt.connection_uri": server.uri,
        "libvirt.instances_path": str(server.images),
    }


@contextlib.contextmanager
def _opened(server: PrivateLibvirtd) -> Iterator[Context]:
    with tempfile.TemporaryDirectory(prefix="stocktake-bench-") as state:
        given = {**_settings(server), "state_path": state}
        context = open_context(read_settings(None, {}, given), SystemClock(), RandomIds())
        assert isinstance(context.driver, Watching)
        # What an agent does: without it nothing is kept between passes.
        context.driver.watch(lambda: None)
        yield context
        context.close()


def _passes(server: PrivateLibvirtd) -> list[Row]:
    """Measure a first pass, and steady ones beside their floors."""
    with _opened(server) as context:
        cache = RefreshCache()
        # Most of a first pass is loading the embedded Placement, whoever asks it.
        loading_ms = _ms(context.scheduler.providers)
        first_ms = loading_ms + _ms(lambda: refresh(context, full=True, cache=cache))
        refresh(context, cache=cache)
        names = context.driver.node_names()
        bare = libvirt.openReadOnly(server.uri)
        timed: dict[str, list[float]] = {"survey": [], "bare": [], "refresh": [], "floor": []}
        for _ in range(ROUNDS):
            timed["survey"].append(_ms(lambda: context.driver.survey(names)))
            timed["bare"].append(_ms(lambda: _bare_calls(bare)))
            timed["refresh"].append(_ms(lambda: refresh(context, cache=cache)))
            timed["floor"].append(_ms(lambda: (_bare_calls(bare), _bare_rows(context), context.scheduler.providers())))
        bare.close()
    median = {name: statistics.median(times) for name, times in timed.items()}
    return [
        {
            "case": f"{GUESTS} guests, first pass, floor: loading Placement",
            "ms": round(first_ms, 1),
            "floor_ms": round(loading_ms, 1),
            "target_ms": 150,
        },
        _beside(f"{GUESTS} guests, steady pass, everything", median["refresh"], median["floor"], target_ms=25),
        _beside(f"{GUESTS} guests, steady, the driver alone", median["survey"], median["bare"], target_ms=math.nan),
    ]


def _beside(name: str, taken_ms: float, floor_ms: float, *, target_ms: float) -> Row:
    ratio = round(taken_ms / floor_ms, 2)
    row: Row = {"case": name, "ms": round(taken_ms, 2), "floor_ms": round(floor_ms, 2), "ratio": ratio}
    return row if math.isnan(target_ms) else row | {"target_ms": target_ms, "target_ratio": 4}


def _bare_calls(hypervisor: libvirt.virConnect) -> object:
    return (
        hypervisor.getInfo(),
        hypervisor.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS),
        hypervisor.listAllDomains(),
        hypervisor.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE),
    )


def _bare_rows(context: Context) -> object:
    connection = sqlite3.connect(context.settings.database.connection.removeprefix("sqlite:///"))
    tables = ("compute_nodes", "instances", "migrations")
    rows = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    connection.close()
    return rows


def _freshness(server: PrivateLibvirtd) -> list[Row]:
    """Start and end guests beside a running agent, one after the other, and see when its books have each."""
    with tempfile.TemporaryDirectory(prefix="stocktake-bench-") as state:
        host = Host(Path(state), _settings(server))
        with _settled(host) as agent:
            idle_percent = _idle_percent(agent)
            memory = _memory(agent, "embedded", target_mb=160)
        with host.agent("-vv") as agent:
            agent.until_said("passed")
            late_ms = [late for number in range(CHANGES // 2) for late in _change(server, agent, number)]
    late_ms.sort()
    return [
        {
            "case": f"a guest starts or ends, until ledger and Placement have it, {len(late_ms)} times",
            "p50_ms": round(_percentile(late_ms, 50), 1),
            "p99_ms": round(_percentile(late_ms, 99), 1),
            "max_ms": round(late_ms[-1], 1),
            "target_p50_ms": 100,
            "target_p99_ms": 300,
        },
        {
            "case": f"the agent's CPU while nothing happens, {IDLE_S:.0f} s",
            "percent_of_a_core": round(idle_percent, 3),
            "target": 0.2,
        },
        memory,
    ]


def _memory_with_remote_placement(server: PrivateLibvirtd) -> Row:
    with tempfile.TemporaryDirectory(prefix="stocktake-bench-") as name, private_placement(Path(name)) as placement:
        host = Host(Path(name) / "state", {**_settings(server), "placement": remote(placement)})
        with _settled(host) as agent:
            return _memory(agent, "remote", target_mb=80)


@contextlib.contextmanager
def _settled(host: Host) -> Iterator[Agent]:
    """Run an agent, with its metrics, on a ledger that is there, and wait for its first pass."""
    host.run("-q", "refresh")
    host.set(metrics__listen="127.0.0.1:0")
    with host.agent("-v") as agent:
        agent.until(lambda: health(agent)[0] == HTTPStatus.OK)
        yield agent


def _memory(agent: Agent, mode: str, *, target_mb: int) -> Row:
    taken_mb = psutil.Process(agent.pid).memory_info().rss / 1_000_000
    return {"case": f"the agent, {GUESTS} guests, Placement {mode}", "mb": round(taken_mb), "target_mb": target_mb}


def _change(server: PrivateLibvirtd, agent: Agent, number: int) -> Iterator[float]:
    """Start a guest and end it again; give how late the books were, in milliseconds."""
    image = server.images / f"late-{number}.qcow2"
    qcow2_image(image, 1024**3)
    server.give_away(image)
    spec = GuestSpec(name=f"late-{number}", vcpus=2)
    before = sum(map(_vcpus_of, range(GUESTS)))
    domain = server.connection.createXML(guest_xml(spec, ((image, "qcow2"),)), libvirt.VIR_DOMAIN_START_PAUSED)
    yield _until_recorded(agent, before + 2, time.monotonic())
    domain.destroy()
    yield _until_recorded(agent, before, time.monotonic())
    image.unlink()


def vcpus_used(agent: Agent) -> int | None:
    """Give the vCPUs in use of the record that was saved last, and that Placement has; None before there was one."""
    last = next((line for line in reversed(list(agent.lines)) if "final resource view" in line), "")
    words = last.partition("vcpus_used=")[2].split()
    return int(words[0]) if words else None


def _until_recorded(agent: Agent, vcpus: int, since_s: float) -> float:
    agent.until(lambda: vcpus_used(agent) == vcpus)
    # libvirt tells of a guest before it returns to whoever started it.
    return max(0.0, (agent.times_s("final resource view")[-1] - since_s) * 1000)


def _idle_percent(agent: Agent) -> float:
    """Measure what the agent takes of one core while nothing happens; a periodic pass may be among it."""
    before_s = agent.cpu_s()
    begun = time.monotonic()
    time.sleep(IDLE_S)
    return 100 * (agent.cpu_s() - before_s) / (time.monotonic() - begun)


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)]


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000
