"""The pages as people meet them: in a browser, by keyboard, on a phone, in the dark, live."""

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from stocktake.claims import Claimed, Request
from stocktake.clock import SystemClock
from stocktake.model.workload import Flavor
from tests.servers.browser import MODES, Tab, browsing, tab
from tests.servers.fleets import stocked
from tests.servers.serve import Served, secret_of, served, served_here, served_in_thread
from tests.web.pages.fleet import DISABLED, DOWN_S, SILENT, SIZES, books_of

NODE = "compute-1-00003"
PAGES = {
    "fleet": "/",
    "node": f"/nodes/{NODE}",
    "fit": "/fit?vcpus=4&memory=8G&spec=hw:cpu_policy=dedicated",
    "problems": "/problems",
    "sign-in": "/sign-in",
    "error": "/nodes/nowhere",
}
# A browser says by itself that a page was not found.
_NOT_FOUND = "the server responded with a status of 404"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Served) -> Iterator[Tab]:
    """A tab of somebody who has signed in."""
    with tab(browser, server.url, token=secret_of("viewer")) as opened:
        yield opened
        assert opened.said == []


class Frozen(SystemClock):
    """A clock that stands: ages that two pages show are the same."""

    def __init__(self) -> None:
        self._now = super().now()

    def now(self) -> datetime:
        return self._now


@pytest.fixture
def still_page(browser: Browser, books: str, tmp_path: Path) -> Iterator[Tab]:
    """A tab of somebody who has signed in where no time passes."""
    with (
        served_here(tmp_path, books, clock=Frozen(), service_down_time=DOWN_S) as here,
        served_in_thread(here.web) as url,
        tab(browser, url, token=secret_of("viewer")) as opened,
    ):
        yield opened
        assert opened.said == []


def listed(server: Served, **query: Any) -> set[str]:
    """Ask the API for names of nodes."""
    with server.client("viewer") as client:
        return {one["hypervisor_hostname"] for one in client.get("/v1/nodes", params=query).json()["items"]}


@pytest.mark.parametrize(("name", "mode"), list(product(PAGES, MODES)))
def test_given_any_page_when_opened_then_it_is_accessible_fits_and_asks_nobody_else(
    browser: Browser, server: Served, name: str, mode: str
) -> None:
    with tab(browser, server.url, mode, token=secret_of("viewer")) as opened:
        assert opened.go(PAGES[name]) == (404 if name == "error" else 200)
        for closed in opened.page.locator("details").all()[:3]:
            closed.locator("summary").click()
        found = Axe().run(opened.page)
        assert found.violations_count == 0, found.generate_report()
        too_wide = opened.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert too_wide <= 0
        assert [line for line in opened.said if _NOT_FOUND not in line] == []
        root = urlsplit(server.url).netloc
        assert {urlsplit(address).netloc for address in opened.asked} == {root}


def test_given_dark_mode_when_opened_then_the_ground_is_dark(browser: Browser, server: Served) -> None:
    grounds = {}
    for mode in ("light", "dark"):
        with tab(browser, server.url, mode, token=secret_of("viewer")) as opened:
            opened.go("/")
            grounds[mode] = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds == {"light": "rgb(246, 247, 249)", "dark": "rgb(20, 22, 26)"}


def test_given_no_scripts_when_opened_then_every_page_is_whole(browser: Browser, server: Served) -> None:
    with tab(browser, server.url, token=secret_of("viewer"), scripts=False) as opened:
        opened.go("/")
        assert len(opened.texts("#tiles a")) == sum(SIZES.values())
        opened.page.fill("input[name=name]", "compute-2")
        opened.follow("text=Filter")
        assert len(opened.texts("#tiles a")) == SIZES[SILENT]
        opened.follow("#tiles a")
        assert opened.texts("h1") == ["compute-2-00000"]


@pytest.mark.parametrize(
    ("field", "value", "query"),
    [
        ("input[name=name]", "2-0000", {"name": "*2-0000*"}),
        ("input[name=name]", "*-0000[1]", {"name": "*-0000[1]"}),
        ("input[name=name]", "*-0000?", {"name": "*-0000?"}),
        ("select[name=state]", "down", {"state": "down"}),
        ("select[name=state]", "stale", {"state": "stale"}),
        ("select[name=state]", "disabled", {"state": "disabled"}),
        ("select[name=problem]", "DriverUnreachable", {"problem": "DriverUnreachable"}),
        ("select[name=problem]", "orphan", {"problem": "orphan"}),
        ("select[name=problem]", "none", {"problem": "none"}),
        ("input[name=trait]", "HW_CPU_X86_AVX2", {"trait": "HW_CPU_X86_AVX2"}),
        ("input[name=trait]", "CUSTOM_NONE", {"trait": "CUSTOM_NONE"}),
    ],
)
def test_given_a_filter_of_the_fleet_when_used_then_it_shows_what_the_api_lists(
    page: Tab, server: Served, field: str, value: str, query: dict[str, str]
) -> None:
    page.go("/")
    place = page.page.locator(field)
    place.select_option(value) if field.startswith("select") else place.fill(value)
    page.follow("main button")
    expect(page.page.locator(field)).to_have_value(value)
    assert set(page.texts("#tiles b")) == listed(server, **query)
    if page.texts("#tiles b"):
        assert page.texts("#totals-title")[0].startswith(f"{len(listed(server, **query))} node")


def test_given_filters_by_problem_and_disabled_when_used_then_orphans_and_services_count(page: Tab) -> None:
    page.go("/?state=disabled")
    assert len(page.texts("#tiles b")) == SIZES[DISABLED]
    page.go("/?problem=orphan&name=compute-1")
    assert page.texts("#tiles b") == [f"compute-1-{number:05d}" for number in range(0, 24, 3)]
    page.go("/?problem=none&state=up")
    clean = page.texts("#tiles b")
    page.go("/?problem=any&state=up")
    assert clean
    assert not set(clean) & set(page.texts("#tiles b"))
    page.follow("text=Show all")
    assert len(page.texts("#tiles b")) == sum(SIZES.values())


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("input[name=host]", "compute-2", lambda text: "compute-2" in text),
        ("select[name=severity]", "error", lambda text: text.startswith("error")),
        ("select[name=code]", "misplaced", lambda text: " misplaced " in text),
    ],
)
def test_given_a_filter_of_problems_when_used_then_all_that_are_so_are_shown(
    still_page: Tab, field: str, value: str, wanted: Any
) -> None:
    still_page.go("/problems")
    before = still_page.texts(".problem")
    assert "agent-down" in before[0]
    assert "DriverUnreachable" in before[1]
    place = still_page.page.locator(field)
    place.select_option(value) if field.startswith("select") else place.fill(value)
    still_page.follow("main button")
    assert still_page.texts(".problem") == [text for text in before if wanted(text)]
    assert still_page.texts(".problem")


def test_given_a_claim_when_made_elsewhere_then_fleet_and_node_show_it_without_a_reload(
    browser: Browser, server: Served
) -> None:
    with (
        tab(browser, server.url, token=secret_of("viewer")) as fleet,
        tab(browser, server.url, token=secret_of("viewer")) as node,
        books_of(server.directory, server.database) as (ledger, claims),
    ):
        name = "compute-1-00001"
        before = ledger.node(name)
        for opened, path in ((fleet, "/"), (node, f"/nodes/{name}")):
            opened.go(path)
            expect(opened.page.locator("#live")).to_have_text("live")
            opened.page.evaluate("window.stays = true")
        node.page.click("#resources a[href='#why-memory_mb_used']")
        sums = fleet.texts("#totals tbody tr")
        flavor = Flavor(vcpus=1, memory_mb=before.free_ram_mb - 1024)
        assert isinstance(claims.build(before.uuid, Request(name="just-now", flavor=flavor)), Claimed)
        tile = fleet.page.locator(f"#tiles a[href='/nodes/{before.uuid}']")
        expect(tile).to_have_attribute("aria-label", f"{name}: 100 % of memory, up, 1 problem")
        assert fleet.texts("#totals tbody tr") != sums
        expect(node.page.locator("#takers")).to_contain_text("just-now")
        # What somebody opened stays open, and tells of the new one too.
        expect(node.page.locator("#why-memory_mb_used")).to_be_visible()
        expect(node.page.locator("#why-memory_mb_used")).to_contain_text("just-now")
        for opened in (fleet, node):
            assert opened.page.evaluate("window.stays")
            assert opened.said == []


def test_given_more_tiles_than_are_asked_for_whole_when_one_changes_then_it_alone_is_asked_for(
    browser: Browser, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    stocked(tmp_path, url, nodes=320)
    with (
        served(tmp_path, url, service_down_time=DOWN_S) as many,
        tab(browser, many.url, token=secret_of("viewer")) as opened,
        books_of(tmp_path, url) as (ledger, claims),
    ):
        opened.go("/?trait=HW_CPU_X86_AVX2")
        expect(opened.page.locator("#live")).to_have_text("live")
        node = ledger.node("compute-1-00300")
        flavor = Flavor(vcpus=1, memory_mb=node.free_ram_mb)
        assert isinstance(claims.build(node.uuid, Request(name="just-now", flavor=flavor)), Claimed)
        tile = opened.page.locator(f"#tiles a[href='/nodes/{node.uuid}']")
        expect(tile).to_have_attribute("aria-label", re.compile("^compute-1-00300: 100 % of memory"))
        assert tile.get_attribute("tabindex") == "-1"
        (asked,) = [address for address in opened.asked if "/tiles" in address]
        assert asked.endswith(f"/tiles?trait=HW_CPU_X86_AVX2&node={node.uuid}")
        assert opened.said == []


def test_given_a_disabled_service_when_enabled_then_its_tiles_change(page: Tab, server: Served) -> None:
    page.go("/?name=compute-3-00004")
    tile = page.page.locator("#tiles a")
    enabled, _, disabled = (tile.get_attribute("aria-label") or "").rpartition(", ")
    assert disabled == "disabled"
    expect(page.page.locator("#live")).to_have_text("live")
    with books_of(server.directory, server.database) as (ledger, _claims):
        ledger.set_service(DISABLED, disabled=False, reason=None)
        expect(tile).to_have_attribute("aria-label", enabled)
        ledger.set_service(DISABLED, disabled=True, reason="again")
        expect(tile).to_have_attribute("aria-label", f"{enabled}, disabled")


def test_given_a_number_when_followed_then_it_says_why_by_keyboard_too(page: Tab) -> None:
    page.go(PAGES["node"])
    why = page.page.locator("#why-memory_mb_used")
    expect(why).to_be_hidden()
    page.page.locator("#resources a[href='#why-memory_mb_used']").focus()
    page.page.keyboard.press("Enter")
    expect(why).to_be_visible()
    summary = page.texts("details:has(#why-memory_mb_used) summary")[0]
    recorded = int(summary.partition("= ")[2].partition(" ")[0].replace(",", ""))
    parts = [int(text.replace(",", "")) for text in page.texts("#why-memory_mb_used td:first-child")]
    assert sum(parts) == recorded


def test_given_the_fit_form_when_filled_in_then_its_address_is_the_question(page: Tab) -> None:
    page.go("/fit")
    for name, value in (("vcpus", "4"), ("memory", "8G"), ("spec", "hw:cpu_policy=dedicated"), ("node", NODE)):
        page.page.fill(f"[name={name}]", value)
    page.page.select_option("[name=pack]", "pack")
    page.follow("text=Find a place")
    assert page.texts("#fits") == ["It fits 1 of 1 node, the best first"]
    rows = page.texts("section table tbody tr")
    assert NODE in rows[0]
    assert "CPUs" in rows[0]
    address = page.page.url
    page.page.goto("about:blank")
    page.page.goto(address)
    assert page.texts("section table tbody tr") == rows
    assert page.page.input_value("[name=spec]") == "hw:cpu_policy=dedicated"


def test_given_a_mistake_in_the_form_when_asked_then_it_says_where_and_keeps_what_was_typed(
    browser: Browser, server: Served
) -> None:
    with tab(browser, server.url, token=secret_of("viewer")) as opened:
        opened.go("/fit?vcpus=4&memory=8Q&trait=HW_CPU_X86_AVX2")
        assert opened.texts("[role=alert]") == ["memory: '8Q' is no size such as 8G, 512M or 40 (MiB)."]
        assert opened.page.input_value("[name=memory]") == "8Q"
        assert opened.go("/fit?vcpus=4&memory=8G&trait=HW_CPU_X86_AVX22") == 400
        assert "Did you mean" in opened.texts("[role=alert]")[0]


def test_given_tiles_when_walked_by_keyboard_then_tab_passes_a_group_and_arrows_go_through_it(page: Tab) -> None:
    page.go("/")
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.className") == "skip"
    tiles = page.page.locator("#tiles .tiles").first.locator("a")
    tiles.first.focus()
    expect(page.page.locator(".hint")).to_have_text(tiles.first.get_attribute("aria-label") or "")
    for key, place in (("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowDown", None), ("End", 23), ("Home", 0)):
        page.page.keyboard.press(key)
        if place is not None:
            expect(tiles.nth(place)).to_be_focused()
    page.page.keyboard.press("Tab")
    expect(page.page.locator("#tiles .tiles").nth(1).locator("a").first).to_be_focused()


def test_given_nobody_signed_in_when_a_page_is_opened_then_signing_in_leads_back_to_it(
    browser: Browser, server: Served
) -> None:
    with tab(browser, server.url) as opened:
        opened.go("/problems?severity=error")
        assert urlsplit(opened.page.url).path == "/sign-in"
        opened.page.fill("[name=token]", secret_of("revoked"))
        opened.follow("main button")
        assert opened.texts("[role=alert]") == ["That token is unknown, expired or revoked."]
        opened.page.fill("[name=token]", secret_of("viewer"))
        opened.page.keyboard.press("Enter")
        opened.page.wait_for_selector(".problems")
        assert opened.page.url == f"{server.url}/problems?severity=error"
        (cookie,) = opened.page.context.cookies()
        assert (cookie.get("httpOnly"), cookie.get("sameSite"), cookie.get("path")) == (True, "Strict", "/")
        opened.follow("text=Sign out")
        opened.page.wait_for_selector("[name=token]")
        assert opened.page.context.cookies() == []


def test_given_a_live_page_when_its_token_is_gone_then_it_is_led_to_sign_in(browser: Browser, server: Served) -> None:
    with (
        tab(browser, server.url, token=secret_of("viewer")) as opened,
        books_of(server.directory, server.database) as (ledger, _claims),
    ):
        opened.go("/problems?code=orphan")
        expect(opened.page.locator("#live")).to_have_text("live")
        opened.page.context.clear_cookies()
        with ledger.transaction([ledger.node(NODE).uuid]):
            pass
        expect(opened.page.locator("[name=token]")).to_be_visible()
        assert opened.page.input_value("[name=next]") == "/problems?code=orphan"
