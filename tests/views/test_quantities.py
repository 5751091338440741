"""Numbers and times as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from stocktake.views.quantities import count, gib, moment, ratio, since, span

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(("memory_mb", "told"), [(0, "0"), (512, "0.5"), (1024, "1"), (13_416, "13.1"), (-512, "-0.5")])
def test_given_mib_when_told_in_gib_then_a_needless_decimal_is_left_out(memory_mb: int, told: str) -> None:
    assert gib(memory_mb) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (90_061, "1 d 1 h"),
        (864_000, "10 d"),
    ],
)
def test_given_a_span_when_told_then_its_two_largest_units_are(seconds: float, told: str) -> None:
    assert span(seconds) == told


def test_given_a_moment_when_told_then_it_says_how_long_ago() -> None:
    assert since(None, NOW) == "never"
    assert since(NOW - timedelta(minutes=3), NOW) == "3 min"
    assert moment(NOW) == "2026-03-01 12:00:00 UTC"
    assert moment(None) == ""


def test_given_numbers_when_told_then_they_agree_with_their_nouns() -> None:
    assert (count(1, "guest"), count(1_200, "guest"), count(2, "box", "boxes")) == (
        "1 guest",
        "1,200 guests",
        "2 boxes",
    )
    assert (ratio(4.0), ratio(1.5)) == ("4", "1.5")
