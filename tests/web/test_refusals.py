"""What the log says of tokens that were refused: whose, where, why, and never the secret."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from stocktake.model.access import digest_of
from tests.servers.serve import HOST, OTHER_HOST, ServedHere, secret_of, served, served_here

ACCESS = "stocktake.access"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[ServedHere]:
    with served_here(tmp_path) as made:
        yield made


def refused(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    """Give its warnings, and what each was told with."""
    wanted = ("by", "token_uuid", "address", "status")
    return [
        (record.getMessage(), {name: getattr(record, name) for name in wanted})
        for record in caplog.records
        if (record.name, record.levelname) == (ACCESS, "WARNING")
    ]


@pytest.mark.parametrize("name", ["wrong", "expired", "revoked"])
def test_given_a_token_that_lets_nobody_in_when_shown_then_the_log_says_who_showed_which_for_what(
    here: ServedHere, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    known = here.web.ledger.tokens.find(digest_of(secret_of(name)))
    assert here.client(name).delete("/v1/nodes/a%0Ab?x=1").status_code == 401
    ((said, told),) = refused(caplog)
    assert said == "DELETE /v1/nodes/a%0Ab is refused: the token is unknown, expired or revoked"
    assert told == {
        "by": known.uuid if known else "unknown",
        "token_uuid": known.uuid if known else "",
        "address": "127.0.0.1",
        "status": 401,
    }
    assert secret_of(name) not in caplog.text


def test_given_a_token_that_may_not_when_shown_then_the_log_has_its_name_and_what_it_is_for(
    here: ServedHere, caplog: pytest.LogCaptureFixture
) -> None:
    agent = here.web.ledger.tokens.find(digest_of(secret_of("agent")))
    assert agent is not None
    assert here.client("agent").get("/v1/nodes").status_code == 403
    assert here.client("agent").get(f"/v1/ledger/changes?host={OTHER_HOST}").status_code == 403
    (role, told), (other, _) = refused(caplog)
    assert role == "GET /v1/nodes is refused: a token of role agent may not do this: role operator or viewer is needed"
    assert other == f"GET /v1/ledger/changes is refused: this token is for host '{HOST}' only"
    assert (told["token_uuid"], told["status"]) == (agent.uuid, 403)


def test_given_the_form_when_a_token_is_refused_then_the_log_says_so(
    here: ServedHere, caplog: pytest.LogCaptureFixture
) -> None:
    def sign_in(client: TestClient, name: str) -> int:
        return client.post("/sign-in", data={"token": secret_of(name)}, follow_redirects=False).status_code

    assert [sign_in(here.client(), name) for name in ("wrong", "revoked", "agent", "viewer")] == [403, 403, 403, 303]
    found = refused(caplog)
    assert [told["status"] for _, told in found] == [403] * 3
    assert [bool(told["token_uuid"]) for _, told in found] == [False, True, True]
    assert found[0][0] == "POST /sign-in is refused: That token is unknown, expired or revoked."
    assert "stk_" not in caplog.text


def test_given_somebody_who_shows_no_token_when_asked_for_one_then_only_a_write_is_logged(
    here: ServedHere, caplog: pytest.LogCaptureFixture
) -> None:
    assert here.client().get("/v1/nodes").status_code == 401
    assert here.client().get("/", follow_redirects=False).status_code == 303
    assert refused(caplog) == []
    assert here.client().delete("/v1/nodes/nothing").status_code == 401
    assert [said for said, _ in refused(caplog)] == ["DELETE /v1/nodes/nothing is refused: a token is needed"]


def test_given_a_flood_of_refused_tokens_when_it_is_over_then_the_log_has_a_few_lines_and_the_number(
    tmp_path: Path,
) -> None:
    times = 1000
    with served(tmp_path) as server:
        with server.client() as client:
            for number in range(times):
                shown = {"Authorization": f"Bearer guess-{number}"}
                answer = client.request("DELETE" if number % 2 else "GET", "/v1/nodes/nothing", headers=shown)
                assert answer.status_code == 401
        assert server.stop() == 0
        said = [one["message"] for one in server.records(ACCESS)]
        lines = [one for one in said if "nothing is refused" in one]
        numbers = [int(one.split()[0]) for one in said if "more requests" in one]
        assert (len(lines) + sum(numbers), len(said)) == (times, len(lines) + len(numbers))
        assert 0 < len(lines) <= 10 * len(numbers)
        assert server.log.read_text().count("guess-") == 0
