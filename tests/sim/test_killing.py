"""A process is killed where it is told to, and what it had not committed is not there."""

from pathlib import Path

import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import open_ledger
from tests.context import an_instance
from tests.sim.killing import ended_or_killed

pytestmark = pytest.mark.unmeasured


def test_given_a_process_that_writes_when_it_is_killed_at_each_place_in_turn_then_all_is_there_or_nothing(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ours = open_ledger(url, clock=SystemClock(), ids=RandomIds())
    uuids = [RandomIds().uuid() for _ in range(2)]

    def writes() -> None:
        theirs = open_ledger(url, clock=SystemClock(), ids=RandomIds())
        theirs.put_instances([an_instance(uuid, host="alpha", node="node-alpha") for uuid in uuids])

    killed = 0
    while ended_or_killed(writes, killed).startswith("killed"):
        found = {one.uuid for one in ours.instances()}
        assert found in (set(), set(uuids))
        if found:
            break
        killed += 1
    assert killed > 1
    assert {one.uuid for one in ours.instances()} == set(uuids)
    ours.close()


def test_given_a_process_that_fails_by_itself_then_it_is_told() -> None:
    def fails() -> None:
        raise ValueError

    with pytest.raises(AssertionError, match="failed before"):
        ended_or_killed(fails, 10)
