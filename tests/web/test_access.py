"""Who may do what: every route there is, with every token there may be."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.model.access import digest_of
from stocktake.web.routes import ROUTES
from tests.claims.desk import Time
from tests.servers.serve import BAD, GOOD, HOST, ServedHere, secret_of, served_here

# Written out by hand: whoever adds a route decides here, a second time, who may use it. Which rows and which providers
# an agent reaches by the calls that it may make: tests/ledger/test_host_scope.py, test_own_providers.py.
ACCESS = """
GET    /healthz                                             anybody
GET    /v1/openapi.json                                     anybody
GET    /v1/whoami                                           viewer agent operator

GET    /v1/nodes                                            viewer operator
GET    /v1/nodes/{node}                                     viewer operator
DELETE /v1/nodes/{node}                                     operator
GET    /v1/nodes/{node}/explain                             viewer operator
GET    /v1/nodes/{node}/history                             viewer operator
GET    /v1/instances                                        viewer operator
GET    /v1/instances/{instance}                             viewer operator
DELETE /v1/instances/{instance}                             operator
GET    /v1/migrations                                       viewer operator
GET    /v1/migrations/{migration}                           viewer operator
GET    /v1/orphans                                          viewer operator
GET    /v1/problems                                         viewer operator
GET    /v1/services                                         viewer operator
GET    /v1/services/{host}                                  viewer operator
POST   /v1/services/{host}/disable                          operator
POST   /v1/services/{host}/enable                           operator

POST   /v1/fit                                              viewer operator
POST   /v1/claims                                           operator
POST   /v1/instances/{instance}/keep                        operator
POST   /v1/instances/{instance}/renew                       operator
POST   /v1/instances/{instance}/release                     operator
POST   /v1/instances/{instance}/unshelve                    operator
POST   /v1/instances/{instance}/move                        operator
POST   /v1/instances/{instance}/finish                      operator
POST   /v1/instances/{instance}/confirm                     operator
POST   /v1/instances/{instance}/revert                      operator
POST   /v1/instances/{instance}/abort                       operator

GET    /v1/ledger/changes                                   agent operator
POST   /v1/ledger/nodes                                     viewer agent operator
POST   /v1/ledger/nodes-in-brief                            viewer agent operator
POST   /v1/ledger/node                                      viewer agent operator
POST   /v1/ledger/deleted-nodes                             viewer agent operator
POST   /v1/ledger/entries                                   viewer agent operator
POST   /v1/ledger/all-entries                               viewer agent operator
POST   /v1/ledger/devices                                   viewer agent operator
POST   /v1/ledger/unmanaged                                 viewer agent operator
POST   /v1/ledger/service                                   viewer agent operator
POST   /v1/ledger/services                                  viewer agent operator
POST   /v1/ledger/work                                      viewer agent operator
POST   /v1/ledger/instances                                 viewer agent operator
POST   /v1/ledger/instances-page                            viewer operator
POST   /v1/ledger/migrations                                viewer agent operator
POST   /v1/ledger/known-consumers                           viewer agent operator
POST   /v1/ledger/history                                   viewer agent operator
POST   /v1/ledger/owners                                    viewer agent operator
POST   /v1/ledger/register                                  agent operator
POST   /v1/ledger/heartbeat                                 agent operator
POST   /v1/ledger/save                                      agent operator
POST   /v1/ledger/note-failures                             agent operator
POST   /v1/ledger/note-machine                              agent operator
POST   /v1/ledger/note-provider-deleted                     agent operator
POST   /v1/ledger/change-instances                          agent operator
POST   /v1/ledger/thin-history                              agent operator
POST   /v1/ledger/delete-node                               agent operator
POST   /v1/ledger/put-instances                             agent operator
POST   /v1/ledger/delete-instances                          agent operator
POST   /v1/ledger/put-migrations                            agent operator
POST   /v1/ledger/join-pool                                 agent operator
POST   /v1/ledger/snapshot                                  agent operator
POST   /v1/ledger/changed-snapshot                          agent operator
POST   /v1/ledger/count-locked                              agent operator
POST   /v1/ledger/settle-expired                            agent operator
POST   /v1/ledger/set-service                               operator
POST   /v1/ledger/take-nodes                                operator
POST   /v1/ledger/give-nodes                                operator

GET    /                                                    viewer operator
GET    /tiles                                               viewer operator
GET    /nodes/{node}                                        viewer operator
GET    /fit                                                 viewer operator
GET    /problems                                            viewer operator
GET    /live                                                viewer operator
GET    /sign-in                                             anybody
POST   /sign-in                                             anybody
POST   /sign-out                                            anybody
GET    /static/{name}                                       anybody

GET    /compute                                             anybody
GET    /compute/                                            anybody
GET    /compute/v2.1                                        anybody
GET    /compute/v2.1/                                       anybody
GET    /compute/v2.1/os-hypervisors                         viewer operator
GET    /compute/v2.1/os-hypervisors/detail                  viewer operator
GET    /compute/v2.1/os-hypervisors/statistics              viewer operator
GET    /compute/v2.1/os-hypervisors/{uuid}                  viewer operator
GET    /compute/v2.1/os-hypervisors/{uuid}/uptime           viewer operator
GET    /compute/v2.1/os-services                            viewer operator
PUT    /compute/v2.1/os-services/{uuid}                     operator
GET    /compute/v2.1/os-hosts                               viewer operator
GET    /compute/v2.1/os-hosts/{host}                        viewer operator
GET    /compute/v2.1/os-aggregates                          viewer operator
GET    /compute/v2.1/{rest:path}                            viewer operator
POST   /compute/v2.1/{rest:path}                            viewer operator
PUT    /compute/v2.1/{rest:path}                            viewer operator
PATCH  /compute/v2.1/{rest:path}                            viewer operator
DELETE /compute/v2.1/{rest:path}                            viewer operator

GET    /placement                                           anybody
GET    /placement/                                          anybody
GET    /placement/{rest:path}                               viewer agent operator
POST   /placement/{rest:path}                               agent operator
PUT    /placement/{rest:path}                               agent operator
PATCH  /placement/{rest:path}                               agent operator
DELETE /placement/{rest:path}                               agent operator
"""
LINES = [line for line in ACCESS.splitlines() if line]
PAGES = {"/", "/tiles", "/nodes/{node}", "/fit", "/problems"}
ROLE = {"viewer": "viewer", "agent": "agent", "other": "agent", "operator": "operator"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHere]:
    with served_here(tmp_path_factory.mktemp("served")) as made:
        yield made


def test_given_the_table_then_it_has_every_route_that_is_served_and_no_other() -> None:
    listed = [tuple(line.split()[:2]) for line in LINES]
    assert sorted(listed) == sorted((route.method, route.path) for route in ROUTES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line.split()[:2]))
def test_given_a_route_and_any_token_when_asked_then_the_roles_of_the_table_get_in_and_nobody_else(
    here: ServedHere, line: str
) -> None:
    method, path, *roles = line.split()
    # Names that nothing has, but for the host's.
    url = re.sub(r"{[^}]*}", "nothing", path.replace("{host}", HOST))
    # A stream would go on: whoever gets in is told 406.
    headers = {"Accept": "image/png"} if path == "/live" else {}
    form = {"token": secret_of("viewer")} if path == "/sign-in" and method == "POST" else None
    for name in (None, *BAD, *GOOD):
        answer = here.client(name).request(method, url, data=form, headers=headers, follow_redirects=False)
        told = f"{name}: {answer.status_code} {answer.text[:300]}"
        asked_to_sign_in = answer.headers.get("location", "").startswith("/sign-in?next=")
        if roles == ["anybody"] or (name is not None and ROLE.get(name) in roles):
            assert answer.status_code not in {401, 403}, told
            assert not asked_to_sign_in, told
            assert answer.status_code < 500 or answer.status_code == 503, told
        elif name in ROLE:
            assert answer.status_code == 403, told
        elif path in PAGES:
            assert (answer.status_code, asked_to_sign_in) == (303, True), told
        else:
            assert answer.status_code == 401, told


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
