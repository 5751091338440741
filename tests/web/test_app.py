"""Whatever is asked, the answer is one that we wrote; and what is asked is written down where it changes something."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktake.errors import (
    AccessDenied,
    AlreadyThere,
    ClaimRefused,
    DriverUnreachable,
    InvalidData,
    LedgerError,
    LedgerUnreachable,
    NotFound,
    NotNow,
    NotSignedIn,
    PlacementConflict,
    PlacementError,
    StocktakeError,
)
from stocktake.web.calls import ANYBODY, Call, route
from stocktake.web.status import problem_of, status_of
from tests.servers.serve import HOST, ServedHere, served_here

JSON = {"Content-Type": "application/json"}
FLAVOR = {"vcpus": 1, "memory_mb": 512}


@pytest.fixture
def here(books: str, tmp_path: Path) -> Iterator[ServedHere]:
    with served_here(tmp_path, books) as made:
        yield made


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidData("x"), 400),
        (NotSignedIn("x"), 401),
        (AccessDenied("x"), 403),
        (NotFound("x"), 404),
        (NotNow("x"), 409),
        (ClaimRefused(["x"]), 409),
        (AlreadyThere("x"), 409),
        (PlacementConflict("x"), 409),
        (LedgerError("x"), 500),
        (PlacementError("x"), 502),
        (LedgerUnreachable("x"), 503),
        (DriverUnreachable("x"), 503),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_given_an_error_when_answered_then_it_has_its_status_and_its_own_words(
    error: StocktakeError, status: int
) -> None:
    assert status_of(error) == status
    problem = problem_of(error)
    assert (problem.status, problem.code, problem.type) == (status, error.code, f"urn:stocktake:{error.code}")
    assert problem.what == "x"


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        (lambda client: client.get("/v1/nodez"), 404, "openapi.json"),
        (lambda client: client.get("/v1/nodes/compute-1-0000"), 404, "Did you mean compute-1-0000"),
        (lambda client: client.put("/v1/nodes"), 405, "PUT /v1/nodes"),
        (lambda client: client.get("/v1/nodes", headers={"Accept": "text/html"}), 406, "application/json"),
        (lambda client: client.get("/v1/nodes", headers={"Accept": "application/json;q=0"}), 406, "application/json"),
        (lambda client: client.post("/v1/fit", content=b"{}", headers={"Content-Type": "text/plain"}), 415, "text"),
        (lambda client: client.post("/v1/fit", content=b"{}"), 415, "application/json"),
        (lambda client: client.post("/v1/fit", json={"flavor": {"name": "x" * 3000}}), 413, "2,000 bytes"),
        (lambda client: client.post("/v1/fit", json={"flavor": {**FLAVOR, "vcpu": 1}}), 400, "`vcpu` - at `$.flavor`"),
        (lambda client: client.post("/v1/fit", json={"flavor": {"vcpus": "2"}}), 400, "$.flavor.vcpus"),
        (lambda client: client.post("/v1/fit", json={}), 400, "flavor"),
        (
            lambda client: client.post("/v1/fit", content=b"{", headers={"Content-Type": "application/json"}),
            400,
            "body",
        ),
        (lambda client: client.get("/v1/nodes?hots=x"), 400, "Did you mean host?"),
        (lambda client: client.get("/v1/nodes?limit=x"), 400, "limit"),
        (lambda client: client.get("/v1/nodes?limit=0"), 400, "limit"),
        (lambda client: client.get("/v1/nodes?host=a&host=b"), 400, "more than once"),
        (lambda client: client.get("/v1/nodes?host=%00"), 400, "host"),
        (lambda client: client.get("/v1/nodes/%00"), 400, "path node"),
        (lambda client: client.get("/v1/nodes?state=fine"), 400, "state"),
        (lambda client: client.get("/v1/services?disabled=null"), 400, "Leave it out"),
        (lambda client: client.get("/v1/instances?marker=x"), 400, "marker"),
    ],
)
def test_given_something_wrong_when_asked_then_the_problem_says_where(
    books: str, tmp_path: Path, how: Callable[[Any], Any], status: int, said: str
) -> None:
    with served_here(tmp_path, books, server__request_bytes_max=2000) as here:
        answer = how(here.client("operator"))
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], said in problem["detail"]) == (status, True), problem
    if status == 405:
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_given_what_is_known_already_when_asked_again_then_it_is_not_sent(here: ServedHere) -> None:
    client = here.client("viewer")
    first = client.get("/v1/nodes")
    tag = first.headers["ETag"]
    for known in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = client.get("/v1/nodes", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    here.web.ledger.heartbeat("another", version="1")
    other = client.get("/v1/services", headers={"If-None-Match": tag})
    assert other.status_code == 200
    head = client.head("/v1/nodes")
    assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", tag)


def test_given_a_ledger_that_is_locked_when_asked_then_it_is_503_with_when_to_try_again(
    books: str, tmp_path: Path
) -> None:
    # SQLite has one writer: whoever else would write waits for his turn, and not for ever.
    with served_here(tmp_path, books, wait_s=0.1) as here, here.web.ledger.transaction():
        answer = here.client("operator").post(f"/v1/services/{HOST}/enable")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "2"
    assert answer.json()["code"] == "LedgerUnreachable"


def test_given_somebody_who_asks_too_often_when_he_asks_again_then_he_is_told_to_wait(tmp_path: Path) -> None:
    with served_here(tmp_path, server__rate_per_s=1) as here:
        asked = [here.client("viewer").get("/v1/services") for _ in range(5)]
        assert [one.status_code for one in asked][:2] == [200, 200]
        assert asked[-1].status_code == 429
        assert int(asked[-1].headers["Retry-After"]) >= 1
        # Another's requests are counted apart.
        assert here.client("operator").get("/v1/services").status_code == 200
        unknown = [here.client("wrong").get("/v1/services").status_code for _ in range(5)]
        assert unknown[0] == 401
        assert unknown[-1] == 429


def test_given_an_answer_that_takes_too_long_when_asked_then_it_is_503(tmp_path: Path) -> None:
    def slow(call: Call[None, None]) -> dict[str, str]:
        """Take longer than allowed."""
        with call.web.ledger.transaction():
            # Waits for the row that the test holds, longer than a request may take.
            return {}

    routes = (route("GET", "/slow", slow, ANYBODY),)
    with (
        served_here(tmp_path, server__request_timeout_s=0.2, routes=routes) as here,
        here.web.ledger.transaction(),
    ):
        answer = here.client().get("/slow")
    assert answer.status_code == 503
    assert "no answer within 0.2 s" in answer.json()["detail"]


def test_given_a_mistake_of_ours_when_it_happens_then_the_answer_is_a_problem_and_tells_nothing(
    tmp_path: Path,
) -> None:
    def broken(call: Call[None, None]) -> dict[str, str]:
        """Fail."""
        raise RuntimeError(call.web.ledger.name)

    routes = (route("GET", "/broken", broken, ANYBODY),)
    with served_here(tmp_path, routes=routes) as here:
        client = here.client()
        client._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
        answer = client.get("/broken")
    assert answer.status_code == 500
    assert answer.json()["code"] == "InternalServerError"
    assert "sqlite" not in answer.text


def test_given_writes_when_done_or_refused_then_the_audit_log_says_who_did_what_and_reading_is_not_in_it(
    here: ServedHere, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stocktake.audit")
    here.client("operator").post(f"/v1/services/{HOST}/disable", json={"reason": "memory"})
    here.client("viewer").post(f"/v1/services/{HOST}/enable")
    here.client().delete("/v1/nodes/compute-1-00001")
    here.client("viewer").post("/v1/fit", json={"flavor": FLAVOR})
    here.client("viewer").get("/v1/nodes")
    told = [
        (record.getMessage(), *(getattr(record, name) for name in ("action", "by", "role", "status", "address")))
        for record in caplog.records
        if record.name == "stocktake.audit"
    ]
    (viewer,) = [one.uuid for one in here.web.ledger.tokens.all() if one.role == "viewer"]
    assert told == [
        (f"POST /v1/services/{HOST}/disable: 200", "fleet.disabled", "Ada", "operator", 200, "127.0.0.1"),
        (f"POST /v1/services/{HOST}/enable: 403", "fleet.enabled", viewer, "viewer", 403, "127.0.0.1"),
    ]
    assert not any("memory" in str(vars(record)) for record in caplog.records if record.name == "stocktake.audit")
