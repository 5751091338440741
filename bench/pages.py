"""
The fleet page of 5,000 nodes in headless Chromium, and one node's page beside it.

The floor is the same page, already written, given to the same browser: what is above it is the server's and the
ledger's work. The floor of the server's answer is the rows by the database's own client.
"""

import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from playwright.sync_api import Browser, Route
from tests.servers.browser import Tab, browsing, tab
from tests.servers.fleets import stocked
from tests.servers.serve import Served, secret_of, served

NODES = 5000
RUNS = 7
# A promise, because the page's policy lets nobody evaluate text again and again.
_PAINTED = """
new Promise((done) => new PerformanceObserver((list) => {
  for (const paint of list.getEntriesByName("first-contentful-paint")) done(paint.startTime);
}).observe({ type: "paint", buffered: true }))
"""
_TILES = "document.querySelectorAll('#tiles a').length"
_LOADED = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def measured(directory: Path) -> list[dict[str, str | float]]:
    """Fill a ledger with the fleet, serve it, and look at it."""
    url = f"sqlite:///{directory / 'ledger.db'}"
    stocked(directory, url, host="bench", nodes=NODES)
    with served(directory, url, service_down_time=86_400) as server, browsing() as browser:
        cases = ((f"fleet of {NODES:,} nodes", "/"), ("one node of them", "/nodes/bench-00002"))
        rows = [_seen(server, browser, name, path) for name, path in cases]
        return [*rows, _answered(server, directory)]


def _seen(server: Served, browser: Browser, name: str, path: str) -> dict[str, str | float]:
    """Open a page again and again, each time in a browser that has nothing in its cache."""
    pairs = [_looked(browser, server, path) for _ in range(RUNS)]
    paints, loads = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    floors = [_looked(browser, server, path, written=True)[0] for _ in range(RUNS)]
    paint, floor = statistics.median(paints), statistics.median(floors)
    return {
        "case": name,
        "first_paint_ms": round(paint),
        "loaded_ms": round(statistics.median(loads)),
        "floor_ms": round(floor),
        "ratio": round(paint / floor, 1),
    }


def _looked(browser: Browser, server: Served, path: str, *, written: bool = False) -> tuple[float, float]:
    """Give the milliseconds until something was painted, and until the page was read and its script had run."""
    with tab(browser, server.url, token=secret_of("viewer")) as opened:
        if written:
            _keep(server, opened, path)
        opened.go(path)
        painted = opened.page.evaluate(_PAINTED)
        assert path != "/" or opened.page.evaluate(_TILES) == NODES
        return painted, opened.page.evaluate(_LOADED)


def _keep(server: Served, opened: Tab, path: str) -> None:
    """Let the browser have the page without asking the server."""
    with server.client("viewer") as client:
        answer = client.get(path)
    headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": "default-src 'self'"}

    def give(route: Route) -> None:
        route.fulfill(body=answer.content, headers=headers)

    opened.page.route(server.url + path, give)


def _answered(server: Served, directory: Path) -> dict[str, str | float]:
    with server.client("viewer") as client:
        taken = [_ms(lambda: _get(client)) for _ in range(RUNS)]
        size = len(client.get("/", headers={"Accept-Encoding": "identity"}).content)
    floor = statistics.median(_ms(lambda: _rows(directory / "ledger.db")) for _ in range(RUNS))
    answer = statistics.median(taken)
    return {
        "case": f"the server's answer, {NODES:,} nodes",
        "kib": size // 1024,
        "answer_ms": round(answer),
        "floor_ms": round(floor),
        "ratio": round(answer / floor, 1),
    }


def _get(client: httpx2.Client) -> None:
    assert client.get("/").status_code == 200


def _rows(path: Path) -> None:
    connection = sqlite3.connect(path)
    columns = "uuid, host, hypervisor_hostname, vcpus, vcpus_used, memory_mb, memory_mb_used, traits, problems, failure"
    connection.execute(f"SELECT {columns} FROM compute_nodes WHERE deleted = 0").fetchall()
    connection.execute("SELECT node_uuid, entry FROM compute_node_entries WHERE kind = 'reserved'").fetchall()
    connection.close()


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000
