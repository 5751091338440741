"""Tokens: what lets somebody in is found by its digest, and is not kept."""

from datetime import timedelta

import pytest

from stocktake.errors import LedgerError, NotFound
from stocktake.ledger import DatabaseLedger
from stocktake.model.access import digest_of
from stocktake.model.value import replace
from tests.ledger.making import START


def test_given_a_token_when_added_then_it_is_found_by_its_digest_only(ledger: DatabaseLedger) -> None:
    assert not ledger.tokens.any()
    until = START + timedelta(days=90)
    token = ledger.tokens.add(digest_of("secret"), role="agent", host="kvm-1", note="Ada's", expires_at=until)
    assert (token.role, token.host, token.note, token.expires_at) == ("agent", "kvm-1", "Ada's", until)
    assert ledger.tokens.any()
    assert ledger.tokens.find(digest_of("secret")) == token
    assert ledger.tokens.find(digest_of("Secret")) is None
    assert ledger.tokens.all() == (token,)


def test_given_a_token_when_revoked_then_it_stays_so_with_the_first_time(ledger: DatabaseLedger) -> None:
    token = ledger.tokens.add(digest_of("secret"), role="viewer")
    other = ledger.tokens.add(digest_of("other"), role="operator")
    gone = ledger.tokens.revoke(token.uuid)
    assert gone == replace(token, revoked_at=gone.revoked_at)
    assert ledger.tokens.revoke(token.uuid) == gone
    assert ledger.tokens.all() == (gone, other)
    with pytest.raises(NotFound, match="token list"):
        ledger.tokens.revoke("nobody")


def test_given_a_token_that_is_there_when_added_again_then_it_is_refused(ledger: DatabaseLedger) -> None:
    ledger.tokens.add(digest_of("secret"), role="viewer")
    with pytest.raises(LedgerError):
        ledger.tokens.add(digest_of("secret"), role="operator")
    assert [token.role for token in ledger.tokens.all()] == ["viewer"]


def test_given_tokens_when_the_ledger_is_exported_then_they_are_not_in_it(ledger: DatabaseLedger) -> None:
    token = ledger.tokens.add(digest_of("secret"), role="viewer")
    lines: list[str] = []
    ledger.export(lines.append)
    assert not any(token.uuid in line or digest_of("secret") in line for line in lines)


def test_given_times_when_asked_whether_a_token_is_good_then_its_end_is_exact(ledger: DatabaseLedger) -> None:
    until = START + timedelta(days=1)
    token = ledger.tokens.add(digest_of("secret"), role="viewer", expires_at=until)
    assert token.good(until - timedelta(microseconds=1))
    assert not token.good(until)
    assert not ledger.tokens.revoke(token.uuid).good(START)
