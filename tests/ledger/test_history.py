"""History: what a node had and promised over time, on both databases."""

from contextlib import closing
from datetime import timedelta
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from stocktake.ledger import DatabaseLedger
from stocktake.ledger.history import floor, too_many
from stocktake.model.history import Ages, Moment
from stocktake.model.value import replace
from tests.ledger.making import START, Stepped, again, opened, saved

DAY_S = 86_400.0
AGES = Ages(interval_s=300, full_days=1, hourly_days=3, daily_days=10)


def later(ledger: DatabaseLedger, **span: float) -> None:
    cast(Stepped, ledger._clock).moment += timedelta(**span)


def used(found: tuple[Moment, ...]) -> list[int]:
    return [one.vcpus_used for one in found]


def test_given_saves_when_figures_change_then_the_last_of_each_interval_is_remembered(ledger: DatabaseLedger) -> None:
    record = saved(ledger)
    for vcpus in (1, 2):
        record = again(ledger, replace(record, vcpus_used=vcpus))[record.uuid]
    assert used(ledger.history(record.uuid, since_s=DAY_S)) == [2]
    later(ledger, minutes=20)
    # Not a figure: nothing to remember.
    record = again(ledger, replace(record, host_ip="192.0.2.9"))[record.uuid]
    assert used(ledger.history(record.uuid, since_s=DAY_S)) == [2]
    record = again(ledger, replace(record, vcpus_used=5))[record.uuid]
    found = ledger.history(record.uuid, since_s=DAY_S)
    assert used(found) == [2, 5]
    assert all(one.at == floor(one.at, 300) for one in found)
    # What held when the time that is asked for began is there too.
    later(ledger, hours=1)
    assert used(ledger.history(record.uuid, since_s=60)) == [5]
    assert ledger.history("nobody", since_s=DAY_S) == ()


def test_given_a_claim_when_its_books_are_written_then_that_is_remembered_too(ledger: DatabaseLedger) -> None:
    record = saved(ledger)
    later(ledger, minutes=20)
    with ledger.transaction() as held:
        (row,) = held.hold([record.uuid]).values()
        held.write_books(row, replace(row, vcpus_used=row.vcpus_used + 3), gone=(), come=())
    assert used(ledger.history(record.uuid, since_s=DAY_S)) == [record.vcpus_used, record.vcpus_used + 3]


def test_given_no_interval_then_nothing_is_remembered(url: str) -> None:
    with closing(opened(url, ages=Ages(interval_s=0))) as ledger:
        record = saved(ledger)
        assert ledger.history(record.uuid, since_s=DAY_S) == ()


def test_given_old_rows_when_thinned_then_hours_and_days_keep_their_last_and_the_rest_goes(url: str) -> None:
    with closing(opened(url, ages=AGES)) as ledger:
        record = saved(ledger)
        for number in range(12 * 24 * 2):
            later(ledger, minutes=30)
            record = again(ledger, replace(record, vcpus_used=number))[record.uuid]
        before = ledger.history(record.uuid, since_s=20 * DAY_S)
        gone = ledger.thin_history([record.uuid])
        kept = ledger.history(record.uuid, since_s=20 * DAY_S)
        assert gone == len(before) - len(kept) > 0
        now = cast(Stepped, ledger._clock).moment
        young = [one for one in before if now - one.at < timedelta(days=1, minutes=-1)]
        assert kept[-len(young) :] == tuple(young)
        assert kept[0].at >= now - timedelta(days=10, minutes=31)
        assert ledger.thin_history([record.uuid]) == 0
        # 48 of the last day, 24 of each of two days, and one of each day before.
        assert 48 + 2 * 24 + 6 <= len(kept) <= 48 + 2 * 24 + 12


@given(minutes=st.lists(st.integers(0, 15 * 24 * 60), min_size=1, max_size=80, unique=True))
def test_given_any_times_when_thinned_again_and_again_then_what_is_kept_is_what_once_would_keep(
    minutes: list[int],
) -> None:
    now = START + timedelta(days=15)
    times = sorted(START + timedelta(minutes=number) for number in minutes)
    rest = [at for at in times if at not in too_many(times, now, AGES)]
    assert too_many(rest, now, AGES) == ()
    # The last row of all that is kept by its age is always there: it still holds.
    last = [at for at in times if now - at <= timedelta(days=AGES.daily_days)]
    assert rest[-1:] == last[-1:]
