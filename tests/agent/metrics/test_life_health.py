"""When the agent counts as healthy, and every reason why not."""

import pytest

from stocktake.agent.metrics.life import Life, health, limit_s
from stocktake.model.value import replace

FINE = Life(
    started_s=0.0,
    started_at_s=1e9,
    interval_s=60.0,
    limit_s=180.0,
    completed_s=1000.0,
    parts={"driver": "", "ledger": "", "placement": ""},
)


@pytest.mark.parametrize(
    ("changes", "now_s", "codes"),
    [
        ({}, 1000.0, []),
        ({}, 1180.0, []),
        ({}, 1180.1, ["stale-pass"]),
        ({"completed_s": None}, 5.0, ["no-pass"]),
        ({"completed_s": None, "parts": {"ledger": "locked"}}, 5.0, ["no-pass", "ledger-away"]),
        ({"parts": {"driver": "no answer", "ledger": "locked"}}, 1000.0, ["ledger-away", "driver-away"]),
        ({"parts": {"placement": "503"}}, 1000.0, []),
        # Without a periodic pass none is late, but one may hang.
        ({"interval_s": None}, 99999.0, []),
        ({"interval_s": None, "began_s": 2000.0}, 2180.0, []),
        ({"interval_s": None, "began_s": 2000.0}, 2181.0, ["long-pass"]),
        ({"began_s": 1060.0}, 1181.0, ["stale-pass"]),
    ],
)
def test_given_a_life_when_judged_then_every_reason_is_said(
    changes: dict[str, object], now_s: float, codes: list[str]
) -> None:
    verdict = health(replace(FINE, **changes), now_s)
    assert [reason.code for reason in verdict.reasons] == codes
    assert verdict.healthy == (not codes)


def test_given_a_late_pass_when_judged_then_the_text_has_the_numbers() -> None:
    (reason,) = health(FINE, 1500.0).reasons
    assert reason.text == "no pass has completed for 500 s; the limit is 180 s"


@pytest.mark.parametrize(
    ("interval_s", "asked_s", "limit"),
    [(60.0, 0.0, 180.0), (1.0, 0.0, 180.0), (600.0, 0.0, 1800.0), (None, 0.0, 180.0), (60.0, 5.0, 5.0)],
)
def test_given_settings_when_the_limit_is_worked_out_then_it_is_three_intervals_unless_asked(
    interval_s: float | None, asked_s: float, limit: float
) -> None:
    assert limit_s(interval_s, asked_s) == limit
