"""
A day of guests starting and ending, as fast as the agent's books follow: memory, files and passes have to stay flat.

Once with the driver `fake`, where a guest appears together with its instance in the ledger, and once with real QEMU
guests. Each change is waited for until ledger and Placement have it. The agent is a process of its own, looked at from
outside, once everything in it has been warm for a tenth of the day, and at the day's end.
"""

import json
import statistics
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import libvirt
import psutil
from tests.servers.libvirtd import GuestSpec, guest_xml, private_libvirtd, qcow2_image
from tests.system.running import Agent, Host

from bench.guests import vcpus_used
from stocktake.model.workload import Flavor, Instance

# One every six minutes of a day: half of them starts, half of them ends.
CHANGES = 240
# Guests that live at the same time; the oldest ends first.
ALIVE = 20

Row = dict[str, str | float]


def measured(directory: Path) -> list[Row]:
    """Live through a day of each kind."""
    return [_fake_day(directory / "fake"), _real_day(directory / "real")]


@dataclass(slots=True)
class _Seen:
    """What was seen of the agent after a change."""

    cpu_ms: float
    memory_mb: float
    files: int


def _fake_day(state: Path) -> Row:
    state.mkdir()
    fleet = state / "fleet.json"
    guests: dict[str, object] = {}

    def show() -> None:
        totals = {"vcpus": 64, "memory_mb": 262_144, "local_gb": 4000}
        resources = {**totals, "vcpus_used": 0, "memory_mb_used": 512, "local_gb_used": 0, "cpu_info": ""}
        fresh = fleet.with_suffix(".new")
        fresh.write_text(
            json.dumps({"nodes": [{"name": "a", "resources": resources, "guests": list(guests.values())}]})
        )
        fresh.replace(fleet)

    show()
    host = Host(state, {"host": "bench", "compute_driver": "fake", "fake.fleet": str(fleet)})
    with host.agent("-vv") as agent, host.ledger() as ledger:
        agent.until_said("passed")

        def start() -> None:
            name = str(uuid.uuid4())
            shape = {"vcpus": 1, "memory_mb": 512, "disk_mb": 1024}
            guests[name] = {"uuid": name, "name": name, "state": "running", "active": True, **shape}
            show()
            flavor = Flavor(vcpus=1, memory_mb=512, root_gb=1)
            ledger.put_instances([Instance(uuid=name, host="bench", node="a", vm_state="active", flavor=flavor)])

        def end() -> None:
            name = next(iter(guests))
            del guests[name]
            show()
            ledger.delete_instances([name])

        return _day("fake", agent, start, end)


def _real_day(state: Path) -> Row:
    with private_libvirtd() as server:
        settings = {"compute_driver": "libvirt", "libvirt.connection_uri": server.uri}
        host = Host(state, {"host": "bench", "libvirt.instances_path": str(server.images), **settings})
        alive: list[tuple[libvirt.virDomain, Path]] = []

        def start() -> None:
            image = server.images / f"{uuid.uuid4()}.qcow2"
            qcow2_image(image, 1024**3)
            server.give_away(image)
            xml = guest_xml(GuestSpec(name=image.stem, vcpus=1), ((image, "qcow2"),))
            alive.append((server.connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED), image))

        def end() -> None:
            domain, image = alive.pop(0)
            domain.destroy()
            image.unlink()

        with host.agent("-vv") as agent:
            agent.until_said("passed")
            return _day("real QEMU", agent, start, end)


def _day(kind: str, agent: Agent, start: Callable[[], None], end: Callable[[], None]) -> Row:
    process = psutil.Process(agent.pid)
    seen: list[_Seen] = []
    alive = 0
    for number in range(CHANGES):
        begun_s = agent.cpu_s()
        if grows := alive < ALIVE or number % 2 == 0:
            start()
        else:
            end()
        alive += 1 if grows else -1
        agent.until(partial(_has, agent, alive))
        used = process.memory_info().rss / 1_000_000
        seen.append(_Seen((agent.cpu_s() - begun_s) * 1000, used, process.num_fds()))
    tenth = CHANGES // 10
    early, late = seen[tenth : 2 * tenth], seen[-tenth:]
    return {
        "case": f"a day of {kind} guests, {CHANGES} starts and ends",
        "passes": agent.count("passed"),
        "early_mb": round(_median(early, "memory_mb"), 1),
        "late_mb": round(_median(late, "memory_mb"), 1),
        "early_files": _median(early, "files"),
        "late_files": _median(late, "files"),
        "early_cpu_ms": round(statistics.fmean(one.cpu_ms for one in early), 1),
        "late_cpu_ms": round(statistics.fmean(one.cpu_ms for one in late), 1),
    }


def _median(seen: list[_Seen], what: str) -> float:
    return float(statistics.median(getattr(one, what) for one in seen))


def _has(agent: Agent, vcpus: int) -> bool:
    return vcpus_used(agent) == vcpus
