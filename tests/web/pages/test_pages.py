"""The HTML that the server writes: links that lead somewhere, text that is only text, and who may see it."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stocktake.claims import Claimed, Request
from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import NodeSave, open_ledger
from stocktake.model.books import Metric, Tally
from stocktake.model.value import replace
from stocktake.model.workload import Flavor
from stocktake.web.pages import ROUTES
from stocktake.web.pages.frame import POLICY
from tests.servers.fleets import stocked
from tests.servers.serve import ServedHere, secret_of, served_here
from tests.web.pages.fleet import DOWN_S, REASON

HTML = {"Accept": "text/html,*/*;q=0.8"}
PAGES = ("/", "/nodes/compute-1-00003", "/fit", "/fit?vcpus=1&memory=1G", "/problems", "/tiles?node=x")


@pytest.fixture
def here(books: str, tmp_path: Path) -> Iterator[ServedHere]:
    with served_here(tmp_path, books, service_down_time=DOWN_S) as made:
        yield made


@dataclass
class Seen(HTMLParser):
    """What stands in a page: ids, where links lead, attributes, text."""

    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.names.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src"}:
                self.links.append(value or "")


def seen(text: str) -> Seen:
    found = Seen()
    found.feed(text)
    return found


def get(here: ServedHere, path: str) -> str:
    answer = here.client("viewer").get(path, headers=HTML)
    assert answer.status_code == 200, answer.text
    return str(answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_given_any_page_when_asked_for_then_its_policy_allows_nothing_inline_and_it_needs_nothing(
    here: ServedHere, path: str
) -> None:
    answer = here.client("viewer").get(path, headers=HTML)
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = seen(answer.text)
    assert "style" not in page.tags
    assert not {name for name in page.names if name == "style" or name.startswith("on")}
    assert not [link for link in page.links if not link.startswith(("/", "#"))]
    assert len(page.ids) == len(set(page.ids))


def test_given_the_pages_when_followed_then_every_link_leads_somewhere(here: ServedHere) -> None:
    client = here.client("viewer")
    paths = {link for path in PAGES for link in seen(get(here, path)).links if link.startswith("/")}
    assert len(paths) > 40
    broken = {path: status for path in sorted(paths) if (status := client.get(path).status_code) != 200}
    assert broken == {}


@pytest.mark.parametrize(
    ("number", "figures"),
    [
        pytest.param(0, 3 * 6, id="plain"),
        pytest.param(1, 3 * 6 + 2 * 3, id="two cells"),
        pytest.param(2, 4 * 6 + 2 * (3 + 1), id="two cells with large pages, dedicated CPUs"),
        pytest.param(3, 4 * 6 + 2 * 3 + 1, id="two cells, dedicated CPUs, GPUs"),
        pytest.param(4, 4 * 6 + 2 * 3 + 1, id="two cells, dedicated CPUs, VFs"),
    ],
)
def test_given_a_node_of_each_model_when_shown_then_every_number_leads_to_why(
    here: ServedHere, number: int, figures: int
) -> None:
    """
    Each resource has six: total, reserved, ratio, capacity, allocated, free. Resources are vCPUs, memory, disk, and
    dedicated CPUs where there are some. Each cell has three: vCPUs, pinned CPUs, memory; and one for each size of huge
    pages. Each kind of PCI device has one.
    """
    page = seen(get(here, f"/nodes/compute-1-{number:05d}"))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert sum(link.startswith("why-") for link in inside) == figures
    assert inside <= set(page.ids)


def test_given_names_with_markup_when_shown_then_they_are_text(here: ServedHere, books: str) -> None:
    web = here.web
    node = web.ledger.node("compute-1-00004")
    evil = "<script>alert(1)</script>\"'&"
    assert isinstance(web.claims.build(node.uuid, Request(name=evil, flavor=Flavor(vcpus=1, memory_mb=1))), Claimed)
    web.ledger.set_service("compute-1", disabled=True, reason=evil)
    for path in (f"/nodes/{node.uuid}", "/?name=%3Cscript%3Ealert(1)", f"/fit?vcpus=1&memory={evil}&trait={evil}"):
        text = here.client("viewer").get(path, headers=HTML).text
        assert "<script>" not in text
        assert seen(text).tags.count("script") == 1
        assert "&lt;script&gt;" in text


def test_given_racks_in_provider_yaml_when_shown_then_they_are_the_groups(tmp_path: Path) -> None:
    folder = tmp_path / "provider_config"
    folder.mkdir()
    providers = [
        {
            "identification": {"name": f"compute-1-{number:05d}"},
            "traits": {"additional": [f"CUSTOM_RACK_R{number % 3}"]},
        }
        for number in range(6)
    ]
    document = {"meta": {"schema_version": "1.0"}, "providers": providers}
    (folder / "racks.yaml").write_text(json.dumps(document))
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    stocked(tmp_path, url, nodes=8, provider_config_location=str(folder))
    with served_here(tmp_path, url) as here:
        titles = re.findall(r'<h2 id="g\d+">(\S+ ?\w+) ', get(here, "/"))
        assert [title.split()[0] for title in titles] == ["R0", "R1", "R2", "no"]
        assert len(re.findall("<b>", get(here, "/?trait=CUSTOM_RACK_R1"))) == 2


def test_given_bare_metal_when_shown_then_it_has_the_name_that_people_use_and_says_what_ironic_says(
    here: ServedHere, books: str
) -> None:
    with closing(open_ledger(books, clock=SystemClock(), ids=RandomIds())) as ledger:
        node = ledger.node("compute-1-00004")
        stats = {"name": "bm-7", "provision_state": "clean failed", "power_state": "power on", "maintenance": True}
        tally = Tally(node=replace(node, stats=stats), entries=())
        ledger.save([NodeSave(tally=tally, expected_generation=node.generation)])
    assert re.findall("<b>(.*?)</b>", get(here, "/?state=maintenance")) == ["bm-7"]
    assert re.findall("<b>(.*?)</b>", get(here, "/?name=BM-")) == ["bm-7"]
    assert "<option selected>maintenance</option>" in get(here, "/?state=maintenance")
    listed = here.client("viewer").get("/v1/nodes?machine=maintenance&machine=active").json()["items"]
    assert [one["uuid"] for one in listed] == [node.uuid]
    text = get(here, "/nodes/bm-7")
    assert '<h1 id="name">bm-7</h1>' in text
    assert "<dd>bm-7, clean failed, on, maintenance</dd>" in text
    assert f"<dd>{node.hypervisor_hostname}</dd>" in text


def test_given_a_link_with_another_filter_than_is_offered_when_shown_then_the_form_says_so(here: ServedHere) -> None:
    text = get(here, "/?state=cleaning&problem=placement-*")
    assert "<option selected>cleaning</option>" in text
    assert "<option selected>placement-*</option>" in text
    assert "No nodes match." in text


def test_given_an_empty_ledger_when_shown_then_it_says_what_to_do(tmp_path: Path) -> None:
    with served_here(tmp_path) as here:
        assert "stocktake refresh" in get(here, "/")
        assert "Nothing is wrong." in get(here, "/problems")
        assert "It fits none of 0 nodes" in get(here, "/fit?vcpus=1&memory=1G")
        answer = here.client("viewer").get("/nodes/x")
        assert (answer.status_code, "there is no node" in answer.text) == (404, True)


def test_given_readings_and_a_record_that_disagrees_when_shown_then_both_are_told(here: ServedHere) -> None:
    ledger = here.web.ledger
    node = ledger.node("compute-1-00001")
    reading = Metric(name="cpu.percent", value=12.5, timestamp=here.web.clock.now(), source="cpu")
    wrong = replace(node, metrics=(reading,), vcpus_used=node.vcpus_used + 1)
    tally = Tally(node=wrong, entries=())
    ledger.save([NodeSave(tally=tally, expected_generation=node.generation, record_only=True)])
    text = get(here, f"/nodes/{node.uuid}")
    assert "cpu.percent 12.5" in text
    assert f"but its parts make {node.vcpus_used}" in text
    assert "Some do not add up" in text


@dataclass(frozen=True)
class Then(SystemClock):
    """A clock that is behind by so much."""

    behind: timedelta

    def now(self) -> datetime:
        return super().now() - self.behind


def test_given_a_history_when_shown_then_a_day_and_a_month_are_drawn(books: str, tmp_path: Path) -> None:
    with served_here(tmp_path, books, service_down_time=DOWN_S) as here:
        node = here.web.ledger.node("compute-1-00001")
        path = f"/nodes/{node.uuid}"
        for days in (20, 10, 2):
            with closing(open_ledger(books, clock=Then(timedelta(days=days)), ids=RandomIds())) as then:
                node = then.node(node.uuid)
                used = Tally(node=replace(node, local_gb=100, local_gb_used=days), entries=())
                then.save([NodeSave(tally=used, expected_generation=node.generation, record_only=True)])
        text = get(here, path)
    assert text.index("The last day") < text.index("The last month")
    assert seen(text).tags.count("figure") == 6
    (now,) = set(re.findall(r"disk in the last \d+ d: from 2 to \d+ GB allocated, now (\d+) of 2,000", text))
    assert "disk in the last 30 d: from 2 to " + now in text


def test_given_a_disabled_and_a_silent_service_when_shown_then_their_nodes_say_so(here: ServedHere) -> None:
    assert REASON in get(here, "/nodes/compute-3-00001")
    down = get(here, "/nodes/compute-2-00001")
    assert "has not reported for 3 h" in down
    assert "the figures of its nodes are old" in down


def test_given_many_problems_when_shown_then_page_follows_page_and_none_is_lost(here: ServedHere) -> None:
    found = []
    path: str | None = "/problems?limit=10"
    for _ in range(10):
        if path is None:
            break
        text = get(here, path)
        found += re.findall(r'class="problem', text)
        more = [link for link in seen(text).links if "marker=" in link]
        path = f"{more[0]}&limit=10" if more else None
    every = here.client("viewer").get("/v1/problems").json()["items"]
    assert len(found) - text.count('class="problems"') * -(-len(every) // 10) == len(every)


def test_given_a_large_page_when_asked_for_packed_then_it_is(here: ServedHere) -> None:
    client = here.client("viewer")
    path = "/nodes/compute-1-00003"
    packed = client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) * 4 < int(plain.headers["content-length"])
    assert "Accept-Encoding" in plain.headers["vary"]


def test_given_files_when_asked_for_then_a_version_is_kept_for_good(here: ServedHere) -> None:
    client = here.client()
    (style,) = {link for link in seen(get(here, "/")).links if "css" in link}
    assert "immutable" in client.get(style).headers["cache-control"]
    assert client.get(style.partition("?")[0]).headers["cache-control"] == "no-cache"
    assert client.get("/static/routes.py").status_code == 404


@pytest.mark.parametrize("path", [one.path for one in ROUTES if one.roles is not None and one.path != "/live"])
@pytest.mark.parametrize("who", [None, "expired", "revoked", "wrong"])
def test_given_nobody_known_when_a_page_is_asked_for_then_he_is_led_to_sign_in(
    here: ServedHere, path: str, who: str | None
) -> None:
    path = path.replace("{node}", "compute-1-00001")
    answer = here.client(who).get(f"{path}?a=b", headers=HTML, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={path}%3Fa%3Db")


@pytest.mark.parametrize("path", PAGES)
def test_given_a_page_when_asked_for_then_viewers_and_operators_see_it_and_agents_do_not(
    here: ServedHere, path: str
) -> None:
    assert {who: here.client(who).get(path).status_code for who in ("viewer", "operator", "agent", "other")} == {
        "viewer": 200,
        "operator": 200,
        "agent": 403,
        "other": 403,
    }
    assert "a token of role agent may not do this" in here.client("agent").get(path).text


@pytest.mark.parametrize(
    ("who", "status"), [(None, 401), ("wrong", 401), ("expired", 401), ("revoked", 401), ("agent", 403)]
)
def test_given_nobody_who_may_when_he_listens_then_he_hears_nothing(
    here: ServedHere, who: str | None, status: int
) -> None:
    assert here.client(who).get("/live").status_code == status


def test_given_a_link_of_another_site_when_followed_then_the_browser_is_sent_there_once_more(here: ServedHere) -> None:
    headers = {**HTML, "Sec-Fetch-Site": "cross-site"}
    answer = here.client().get("/fit?vcpus=1&memory=1G", headers=headers)
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=/fit?vcpus=1&amp;memory=1G">' in answer.text
    assert here.client("viewer").get("/problems", headers=headers).text.count("http-equiv") == 0


@pytest.mark.parametrize(
    ("token", "status"),
    [("viewer", 303), ("operator", 303), ("agent", 403), ("expired", 403), ("revoked", 403), ("wrong", 403)],
)
def test_given_a_token_when_signing_in_then_only_readers_get_a_cookie(
    here: ServedHere, token: str, status: int
) -> None:
    client = here.client()
    form = {"token": f" {secret_of(token)} ", "next": "/problems"}
    answer = client.post("/sign-in", data=form, follow_redirects=False)
    assert answer.status_code == status
    assert ("set-cookie" in answer.headers) == (status == 303)
    if status == 303:
        assert answer.headers["location"] == "/problems"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "secure" not in cookie
        assert client.get("/problems", headers=HTML).status_code == 200
        assert client.post("/sign-out", follow_redirects=False).status_code == 303
        assert client.get("/problems", headers=HTML, follow_redirects=False).status_code == 303


@pytest.mark.parametrize("there", ["//evil.example", "https://evil.example", "/\\evil.example", "/\tx", "evil"])
def test_given_somewhere_else_to_go_next_when_signing_in_then_it_stays_here(here: ServedHere, there: str) -> None:
    form = {"token": secret_of("viewer"), "next": there}
    answer = here.client().post("/sign-in", data=form, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_given_tls_in_front_when_signing_in_then_the_cookie_is_for_tls_only(here: ServedHere) -> None:
    headers = {"X-Forwarded-Proto": "https"}
    answer = here.client().post(
        "/sign-in", data={"token": secret_of("viewer")}, headers=headers, follow_redirects=False
    )
    assert "secure" in answer.headers["set-cookie"].lower()


def test_given_a_page_of_another_site_when_it_signs_somebody_in_then_it_is_refused(here: ServedHere) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    for path in ("/sign-in", "/sign-out"):
        answer = here.client().post(path, data={"token": secret_of("viewer")}, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


def test_given_a_form_without_end_when_signing_in_then_it_is_cut_off(here: ServedHere) -> None:
    answer = here.client().post("/sign-in", data={"token": "x" * 20_000}, follow_redirects=False)
    assert answer.status_code == 413
