"""
Thousands of bare-metal nodes through one agent.

- 1,000 nodes on a real Ironic and a real Placement, nothing changed: what a pass takes beside the listing itself.
- One of them is changed: how long until the ledger and Placement say so, with the agent as it runs.
- 1,000 to 10,000 nodes from a server that only hands out pages made beforehand: time and memory by the number of nodes.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from tests.servers.ironic import PROPERTIES, VERSION, IronicServer, private_ironic
from tests.servers.placement import PlacementServer, free_port, private_placement
from tests.system.readback import Readback, remote
from tests.system.running import Host

from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import read_settings

NODES = 1000
RUNS = 15
CHANGES = 10
SIZES = (1000, 2000, 5000, 10_000)
_PAGE = 1000
_LOOK_S = 0.02
_FIELDS = (
    "uuid,name,resource_class,properties,provision_state,target_provision_state,power_state,maintenance,instance_uuid,"
    "traits,conductor_group,shard,fault,maintenance_reason,last_error"
)

Row = Mapping[str, str | float]


def measured(directory: Path) -> list[Row]:
    """Measure all cases."""
    rows: list[Row] = []
    for name in ("ironic", "placement"):
        (directory / name).mkdir()
    with (
        private_ironic(directory / "ironic", nodes=NODES) as ironic,
        private_placement(directory / "placement") as there,
    ):
        rows.append(_steady(directory / "steady", ironic, there))
        rows.append(_changed(directory / "steady", ironic, there))
    rows += [_sized(directory, size) for size in SIZES]
    return rows


def _steady(state: Path, ironic: IronicServer, there: PlacementServer) -> Row:
    """A pass over nodes of which none changed."""
    with _context(state, ironic.url, remote(there)) as context:
        listing = _timed_list(context)
        cache = RefreshCache()
        first_ms = _milliseconds(lambda: refresh(context, cache=cache))
        refresh(context, cache=cache)
        beside: list[float] = []
        lists: list[float] = []
        plain: list[float] = []
        for _ in range(RUNS):
            plain.append(_milliseconds(lambda: _plain_list(ironic.url)))
            listing.clear()
            whole_ms = _milliseconds(lambda: refresh(context, cache=cache))
            lists.append(sum(listing))
            beside.append(whole_ms - sum(listing))
        full_ms = _milliseconds(lambda: refresh(context, full=True, cache=cache))
    return {
        "case": f"{NODES:,} nodes, nothing changed",
        "first_ms": round(first_ms, 1),
        "plain_list_ms": round(statistics.median(plain), 1),
        "list_ms": round(statistics.median(lists), 1),
        "beside_ms": round(statistics.median(beside), 1),
        "beside_most_ms": round(max(beside), 1),
        "full_ms": round(full_ms, 1),
    }


def _changed(state: Path, ironic: IronicServer, there: PlacementServer) -> Row:
    """One node begins or ends its maintenance, while the agent runs."""
    host = Host(state)
    host.set(host="bench", compute_driver="ironic", ironic={"endpoint_override": ironic.url}, placement=remote(there))
    seen = Readback(there.url)
    spans: list[float] = []
    host.set(metrics__listen=f"127.0.0.1:{(port := free_port())}")
    with host.agent() as agent:
        with host.ledger() as ledger:
            uuids = [row.uuid for row in ledger.nodes()]
        # The first pass of an agent reads everything back from Placement: only then is it as it always is.
        agent.until(lambda: _healthy(port), timeout_s=120)
        for number in range(CHANGES):
            uuid_, reserved = uuids[97 * (number // 2) % NODES], (number + 1) % 2
            ironic.maintain(uuid_, "bench" if reserved else None)
            begun_s = time.monotonic()
            while not _says(host, seen, uuid_, reserved):
                assert time.monotonic() - begun_s < 60, agent.text
                time.sleep(_LOOK_S)
            spans.append(time.monotonic() - begun_s)
    return {
        "case": f"1 of {NODES:,} nodes changed, seen in ledger and Placement",
        "median_s": round(statistics.median(spans), 2),
        "most_s": round(max(spans), 2),
    }


def _healthy(port: int) -> bool:
    """Say whether the agent has completed a pass."""
    try:
        return bool(requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == HTTPStatus.OK)
    except requests.ConnectionError:
        return False


def _says(host: Host, seen: Readback, node: str, reserved: int) -> bool:
    """Say whether ledger and Placement both know."""
    held = seen.get(f"/resource_providers/{node}/inventories")["inventories"]
    if [one["reserved"] for one in held.values()] != [reserved]:
        return False
    with host.ledger() as ledger:
        return bool(ledger.node(node).stats.get("maintenance")) is bool(reserved)


def _sized(directory: Path, size: int) -> Row:
    """Time and memory of passes over so many nodes, in a process of their own."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.ironic", "serve", str(size), str(port)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline().strip() == "ready"
        state = directory / f"sized-{size}"
        command = [sys.executable, "-m", "bench.ironic", "pass", str(state), f"http://127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    figures: dict[str, float] = json.loads(done.stdout)
    return {
        "case": f"{size:,} nodes, pages made beforehand",
        "first_ms": round(figures["first_ms"], 1),
        "steady_ms": round(figures["steady_ms"], 1),
        "steady_cpu_ms": round(figures["cpu_ms"], 1),
        "cpu_us_a_node": round(figures["cpu_ms"] * 1000 / size, 1),
        "memory_mib": round(figures["memory_mib"], 1),
    }


def _pass(state: Path, url: str) -> dict[str, float]:
    """Take stock a few times; CPU time is this process's alone, whatever else the machine does, memory its most."""
    with _context(state, url, {"mode": "none"}) as context:
        cache = RefreshCache()
        first_ms = _milliseconds(lambda: refresh(context, cache=cache))
        steady: list[float] = []
        cpu: list[float] = []
        for _ in range(RUNS):
            begun = time.process_time()
            steady.append(_milliseconds(lambda: refresh(context, cache=cache)))
            cpu.append((time.process_time() - begun) * 1000)
    return {
        "first_ms": first_ms,
        "steady_ms": statistics.median(steady),
        "cpu_ms": statistics.median(cpu),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _serve(size: int, port: int) -> None:
    """Hand out pages as Ironic does, made before anybody asks."""
    pages: dict[str, bytes] = {}
    marker = ""
    for begin in range(0, size, _PAGE):
        nodes = [_node(number) for number in range(begin, min(begin + _PAGE, size))]
        after = {"next": f"http://127.0.0.1:{port}/v1/nodes?marker={nodes[-1]['uuid']}"} if len(nodes) == _PAGE else {}
        pages[marker] = json.dumps({"nodes": nodes, **after}).encode()
        marker = str(nodes[-1]["uuid"])
    pages.setdefault(marker, b'{"nodes": []}')

    class Pages(BaseHTTPRequestHandler):
        """Finds a page by its marker."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Send it."""
            body = pages[parse_qs(urlsplit(self.path).query).get("marker", [""])[0]]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", port), Pages)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()


def _node(number: int) -> dict[str, object]:
    """A node as Ironic tells it, links and all."""
    own = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
    return {
        "uuid": own,
        "name": f"bm-{number:05}",
        "resource_class": ("gold", "silver", "Big-Memory")[number % 3],
        "properties": {**PROPERTIES, "capabilities": f"boot_mode:uefi,rack:r{number // 40}"},
        "provision_state": "available",
        "target_provision_state": None,
        "power_state": "power off",
        "maintenance": False,
        "instance_uuid": None,
        "traits": ["CUSTOM_GOLD", "HW_CPU_X86_VMX"],
        "conductor_group": "",
        "shard": None,
        "fault": None,
        "maintenance_reason": None,
        "last_error": None,
        "links": [{"href": f"http://127.0.0.1/v1/nodes/{own}", "rel": rel} for rel in ("self", "bookmark")],
    }


@contextmanager
def _context(state: Path, url: str, placement: object) -> Iterator[Context]:
    flags = {
        "state_path": state,
        "host": "bench",
        "my_ip": "192.0.2.7",
        "compute_driver": "ironic",
        "ironic": {"endpoint_override": url},
        "placement": placement,
        "provider_config_location": state / "provider_config",
    }
    context = open_context(read_settings(None, {}, flags), SystemClock(), RandomIds())
    try:
        yield context
    finally:
        context.close()


def _timed_list(context: Context) -> list[float]:
    """Have the driver's listings timed, in ms."""
    spans: list[float] = []
    listed = context.driver.node_names

    def timed() -> tuple[str, ...]:
        begun = time.perf_counter()
        names = listed()
        spans.append((time.perf_counter() - begun) * 1000)
        return names

    context.driver.node_names = timed  # type: ignore[method-assign]
    return spans


def _plain_list(url: str) -> object:
    """The same list by a bare client: what anybody must wait for who wants to know of all nodes."""
    first = requests.get(f"{url}/v1/nodes?limit={_PAGE}&fields={_FIELDS}", headers=VERSION, timeout=60)
    after = first.json().get("next")
    return requests.get(after, headers=VERSION, timeout=60).content if after else first


def _milliseconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(_pass(Path(sys.argv[2]), sys.argv[3])))
