"""Who may do what: every route there is, with every token there may be."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.model.access import digest_of
from stocktake.web.calls import AGENTS, Route
from stocktake.web.pages import ROUTES as PAGES
from stocktake.web.routes import ROUTES
from tests.claims.desk import Time
from tests.servers.serve import BAD, GOOD, HOST, ServedHere, secret_of, served_here

ROLE = {"viewer": "viewer", "agent": "agent", "other": "agent", "operator": "operator"}
NAMES = {"host": HOST}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHere]:
    with served_here(tmp_path_factory.mktemp("served")) as made:
        yield made


def path_of(route: Route) -> str:
    """Fill a path's parts with names that nothing has, but for the host's."""
    path = route.path
    for name in ("host", *(part.strip("{}") for part in path.split("/") if part.startswith("{"))):
        path = path.replace(f"{{{name}}}", NAMES.get(name, "nobody"))
    return path


def denied(route: Route, name: str | None) -> int:
    """Say with which status somebody is sent away; 0 if he is not."""
    if route.roles is None:
        return 0
    if name is None or name in BAD:
        return 401
    foreign = name == "other" and "{host}" in route.path
    return 403 if ROLE[name] not in (route.roles or ()) or foreign else 0


@pytest.mark.parametrize("name", [None, *BAD, *GOOD])
@pytest.mark.parametrize(
    "route",
    # Pages lead to where one signs in: tests/web/pages/test_pages.py.
    [route for route in ROUTES if route not in PAGES],
    ids=lambda route: f"{route.method} {route.path}",
)
def test_given_a_route_and_a_token_when_asked_then_only_its_roles_get_in(
    here: ServedHere, route: Route, name: str | None
) -> None:
    answer = here.client(name).request(route.method, path_of(route))
    expected = denied(route, name)
    if expected:
        assert answer.status_code == expected, answer.text[:300]
    else:
        assert answer.status_code not in {401, 403}, answer.text[:300]
        assert answer.status_code < 500 or answer.status_code == 503, answer.text[:300]


def test_given_the_routes_then_an_agent_reaches_none_that_is_not_made_for_agents() -> None:
    """What of the ledger's door and of Placement is an agent's is looked at call by call: tests of their own."""
    reached = [route.path for route in ROUTES if "agent" in (route.roles or ()) and route.roles != AGENTS]
    assert [path for path in reached if not path.startswith(("/v1/ledger/", "/placement/"))] == ["/v1/whoami"]


def test_given_a_token_when_shown_in_any_of_its_forms_then_it_lets_in(here: ServedHere) -> None:
    secret = secret_of("viewer")
    basic = base64.b64encode(f"anybody:{secret}".encode()).decode()
    for headers in (
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"bearer  {secret}"},
        {"Authorization": f"Basic {basic}"},
        {"X-Auth-Token": secret},
        {"Cookie": f"stocktake_token={secret}"},
    ):
        answer = here.client().get("/v1/whoami", headers=headers)
        assert (answer.status_code, answer.json().get("role")) == (200, "viewer"), headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Basic !"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff").decode()},
        {"Authorization": "Digest a=b"},
        {"Authorization": f"Bearer {secret_of('viewer')[:-1]}"},
        {"X-Auth-Token": "notused"},
        {"Cookie": "stocktake_token=x"},
        # One that is wrong is not made good by another.
        {"Authorization": "Bearer wrong", "X-Auth-Token": secret_of("viewer")},
    ],
    ids=str,
)
def test_given_something_that_is_no_token_when_shown_then_nobody_gets_in(
    here: ServedHere, headers: dict[str, str]
) -> None:
    answer = here.client().get("/v1/nodes", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "NotSignedIn"


def test_given_a_ledger_without_tokens_when_asked_from_this_machine_then_reading_is_open_and_writing_is_not(
    tmp_path: Path,
) -> None:
    with served_here(tmp_path, tokens=False) as open_:
        client = open_.client()
        assert client.get("/v1/nodes").status_code == 200
        assert client.post("/v1/claims", json={}).status_code == 403
        assert client.get("/v1/nodes", headers={"X-Auth-Token": "notused"}).status_code == 200
        # A proxy speaks for others; a page elsewhere can point its own name at this machine.
        for headers in ({"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}, {"Host": "evil.example"}):
            assert client.get("/v1/nodes", headers=headers).status_code == 401, headers
        open_.web.ledger.tokens.add(digest_of("first"), role="viewer")
        assert client.get("/v1/nodes").status_code == 401


def test_given_a_server_that_others_reach_when_asked_without_a_token_then_nothing_is_open(tmp_path: Path) -> None:
    with served_here(tmp_path, tokens=False, loopback=False) as closed:
        assert closed.client().get("/v1/nodes").status_code == 401


def test_given_a_token_when_its_time_is_over_or_it_is_revoked_then_it_lets_in_no_more(tmp_path: Path) -> None:
    clock = Time()
    with served_here(tmp_path, clock=clock) as here:
        (viewer,) = [one for one in here.web.ledger.tokens.all() if one.role == "viewer"]
        here.web.ledger.tokens.revoke(viewer.uuid)
        assert here.client("viewer").get("/v1/nodes").status_code == 401
        until = clock.now()
        clock.pass_by(-60)
        here.web.ledger.tokens.add(digest_of("short"), role="viewer", expires_at=until)
        shown = {"Authorization": "Bearer short"}
        assert here.client().get("/v1/nodes", headers=shown).status_code == 200
        clock.pass_by(60)
        assert here.client().get("/v1/nodes", headers=shown).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
def test_given_another_sites_page_when_it_writes_with_somebodys_cookie_then_it_is_refused(
    here: ServedHere, headers: dict[str, str]
) -> None:
    cookie = {"Cookie": f"stocktake_token={secret_of('operator')}"}
    answer = here.client().post(f"/v1/services/{HOST}/enable", headers={**cookie, **headers})
    assert answer.status_code == 403
    same = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert here.client().post(f"/v1/services/{HOST}/enable", headers={**cookie, **same}).status_code == 404
