"""`token`: a token is shown once, and what is kept of it lets nobody in."""

from datetime import UTC, datetime, timedelta

import pytest

from stocktake.cli.token import PREFIX
from stocktake.model.access import digest_of
from tests.cli.program import Program


def test_given_a_role_when_a_token_is_made_then_it_is_printed_alone_and_only_its_digest_is_kept(
    program: Program,
) -> None:
    result = program.run("token", "create", "--role", "operator", "--note", "Ada")
    secret = result.out.strip()
    assert (result.code, len(result.out.splitlines())) == (0, 1)
    assert secret.startswith(PREFIX)
    # 256 random bits, six to a letter.
    assert len(secret) - len(PREFIX) == 43
    with program.ledger() as ledger:
        token = ledger.tokens.find(digest_of(secret))
        assert token is not None
        assert (token.role, token.note, token.expires_at) == ("operator", "Ada", None)
        assert token.uuid in result.err
    assert secret.encode() not in (program.state / "ledger.db").read_bytes()
    assert program.run("token", "create", "--role", "operator").out.strip() != secret


def test_given_a_host_and_a_time_when_an_agents_token_is_made_then_they_are_kept(program: Program) -> None:
    data = program.run("token", "create", "--role", "agent", "--host", "kvm-1", "--expires", "12h", "--json").data
    assert (data["role"], data["host"]) == ("agent", "kvm-1")
    assert data["token"].startswith(PREFIX)
    until = datetime.fromisoformat(data["expires_at"])
    assert timedelta(hours=11, minutes=50) < until - datetime.now(UTC) < timedelta(hours=12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--role"),
        (("--role", "king"), "king"),
        (("--role", "agent"), "--role agent needs --host"),
        (("--role", "viewer", "--host", "kvm-1"), "--role agent needs --host"),
        (("--role", "viewer", "--expires", "soon"), "no time such as 90d"),
        (("--role", "viewer", "--expires", "90"), "no time such as 90d"),
        (("--role", "viewer", "--expires", "0d"), "no time such as 90d"),
        (("--role", "viewer", "--expires", "99999999999d"), "no time such as 90d"),
    ],
)
def test_given_a_mistake_when_a_token_is_made_then_it_is_named_and_none_is(
    program: Program, options: tuple[str, ...], said: str
) -> None:
    result = program.run("token", "create", *options)
    assert (result.code, said in result.err) == (2, True)
    assert program.run("token", "list", "--json").data == []


def test_given_tokens_when_listed_then_their_states_are_told_and_nothing_that_lets_in(program: Program) -> None:
    assert "There are no tokens" in program.run("token", "list").out
    secrets = [
        program.run("token", "create", "--role", role, *more).out.strip()
        for role, more in (("viewer", ()), ("agent", ("--host", "kvm-1", "--expires", "90d")), ("operator", ()))
    ]
    uuids = [token["uuid"] for token in program.run("token", "list", "--json").data]
    result = program.run("token", "revoke", uuids[2])
    assert (result.code, result.out) == (0, f"Token {uuids[2]} (operator) is revoked.\n")
    lines = program.run("token", "list").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == uuids
    assert "good" in lines[1]
    assert "kvm-1" in lines[2]
    assert "until" in lines[2]
    assert "revoked" in lines[3]
    assert not any(secret in "\n".join(lines) for secret in secrets)


def test_given_an_unknown_token_when_revoked_then_the_next_step_is_named(program: Program) -> None:
    result = program.run("token", "revoke", "nobody")
    assert (result.code, "token list" in result.err) == (2, True)
