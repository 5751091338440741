"""Who may be connected, and how much is logged of those who may not."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.settings import ServerSection
from stocktake.web.limits import ConnectionLimits, Gate, InProgress, LogLimit, Terms, limits_of

HERE = "127.0.0.1"
LIMITS = ConnectionLimits(served=8, health=1, refused=2, per_client=2)


@given(st.integers(1, 100_000), st.integers(0, 100_000), st.integers(1, 1000))
def test_given_any_number_of_files_when_shared_out_then_all_connections_fit_and_some_files_are_left(
    files_max: int, connections_max: int, per_client_max: int
) -> None:
    settings = ServerSection(connections_max=connections_max, connections_per_client_max=per_client_max)
    limits = limits_of(settings, files_max)
    assert 1 <= limits.per_client <= limits.served
    assert limits.per_client <= per_client_max
    if files_max >= 8:
        assert limits.served + limits.health + limits.refused <= files_max - min(128, files_max // 2)
    if connections_max:
        assert limits.served <= connections_max


def test_given_the_process_when_nothing_is_said_of_files_then_its_own_limit_counts() -> None:
    assert limits_of(ServerSection(connections_max=5)).served == 5


def test_given_connections_of_many_when_let_in_then_each_address_has_its_share_and_the_last_hear_why() -> None:
    gate = Gate(LIMITS)

    def come(address: str, times: int) -> list[Terms | None]:
        return [gate.admit((address, number), address) for number in range(times)]

    # One address has its share, however much room there is; those who are too many hear why, as long as that is cheap.
    assert come("192.0.2.1", 5) == ["served", "served", "refused", "refused", None]
    for number in range(2, 5):
        assert come(f"192.0.2.{number}", 2) == ["served", "served"]
    # Full: this machine has one more for the health.
    assert come(HERE, 2) == ["health", None]
    assert come("192.0.2.9", 1) == [None]
    assert gate.terms((HERE, 0)) == "health"
    # Whoever leaves makes room on the terms on which he was there, and once.
    gate.leave(("192.0.2.1", 2))
    gate.leave(("192.0.2.1", 2))
    assert come("192.0.2.9", 2) == ["refused", None]
    gate.leave(("192.0.2.2", 0))
    assert gate.admit("one", "192.0.2.1") is None
    assert gate.admit("two", "192.0.2.2") == "served"


@pytest.mark.parametrize("address", [HERE, "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_given_this_machine_when_it_connects_then_it_is_not_counted_as_one_for_a_proxy_speaks_for_many(
    address: str,
) -> None:
    gate = Gate(LIMITS)
    assert [gate.admit(number, address) for number in range(8)] == ["served"] * 8


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.sampled_from([HERE, "192.0.2.1", "192.0.2.2"]))))
def test_given_any_coming_and_going_when_counted_then_no_limit_is_passed_and_none_is_forgotten(
    steps: list[tuple[bool, int, str]],
) -> None:
    gate, there = Gate(LIMITS), dict[int, tuple[str, str]]()
    for comes, key, address in steps:
        if not comes:
            gate.leave(key)
            there.pop(key, None)
        elif key not in there and (terms := gate.admit(key, address)) is not None:
            there[key] = address, terms
        by_terms = [terms for _, terms in there.values()]
        assert by_terms.count("served") <= LIMITS.served
        assert by_terms.count("health") <= LIMITS.health
        assert by_terms.count("refused") <= LIMITS.refused
        for other in ("192.0.2.1", "192.0.2.2"):
            assert list(there.values()).count((other, "served")) <= LIMITS.per_client
    for key in list(there):
        gate.leave(key)
    assert [gate.admit(number, HERE) for number in range(LIMITS.served)] == ["served"] * LIMITS.served


def test_given_a_tokens_requests_when_too_many_are_in_progress_then_one_more_waits_for_an_end() -> None:
    counted = InProgress(2)
    assert [counted.begin("a"), counted.begin("a"), counted.begin("a"), counted.begin("b")] == [True, True, False, True]
    counted.end("a")
    assert counted.begin("a")


def in_a_loop(work: Callable[[LogLimit], None], interval_s: float = 60.0) -> list[tuple[int, int]]:
    said: list[tuple[int, int]] = []

    async def run() -> None:
        work(LogLimit(lambda total, addresses: said.append((total, addresses)), lines_max=4, interval_s=interval_s))

    asyncio.run(run())
    return said


def test_given_a_flood_of_lines_when_logged_then_a_few_are_and_the_others_are_counted() -> None:
    def flood(limit: LogLimit) -> None:
        # Whoever is loud does not silence everybody else.
        assert [limit.allows("a") for _ in range(1000)].count(True) == 2
        assert limit.allows("b")
        assert [limit.allows(str(number)) for number in range(20_000)].count(True) == 1
        limit.end()
        # Nothing more to say, and the next interval begins.
        limit.end()
        assert limit.allows("a")

    assert in_a_loop(flood) == [(998 + 19_999, 10_000)]


def test_given_lines_that_were_left_out_when_the_interval_ends_then_their_number_is_said_by_itself() -> None:
    async def run() -> tuple[int, int]:
        said: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        limit = LogLimit(lambda *told: said.set_result(told), lines_max=1, interval_s=0.01)
        assert [limit.allows("a") for _ in range(3)] == [True, False, False]
        return await asyncio.wait_for(said, 60)

    assert asyncio.run(run()) == (2, 1)
