"""`doctor`: each part that can be broken, broken."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import open_ledger
from tests.cli.program import Program
from tests.cli.test_refresh import describe, node


def checks(program: Program) -> tuple[int, dict[str, dict[str, Any]]]:
    result = program.run("doctor", "--json")
    order = ["ok", "warn", "fail"]
    worst: dict[str, dict[str, Any]] = {}
    for check in result.data:
        assert set(check) == {"part", "verdict", "text", "remedy", "unreachable"}
        before = worst.get(check["part"])
        if before is None or order.index(check["verdict"]) > order.index(before["verdict"]):
            worst[check["part"]] = check
    return result.code, worst


def test_given_a_host_that_was_taken_stock_of_when_examined_then_all_is_well(program: Program) -> None:
    describe(program, node())
    program.run("refresh")
    code, found = checks(program)
    assert code == 0
    assert {check["verdict"] for check in found.values()} == {"ok"}
    assert list(found) == [
        "settings",
        "ledger",
        "hypervisor",
        "permissions",
        "placement",
        "identity",
        "clock",
        "agent",
        "nodes",
    ]
    page = program.run("doctor").out.splitlines()
    assert all(line.startswith("ok    ") for line in page)


def test_given_a_fresh_host_when_examined_then_nothing_is_made(program: Program) -> None:
    code, found = checks(program)
    assert (code, found["ledger"]["verdict"]) == (0, "ok")
    assert "the first refresh makes it" in found["ledger"]["text"]
    assert sorted(path.name for path in program.state.iterdir()) == ["stocktake.toml"]


def test_given_wrong_settings_when_examined_then_that_is_told_and_no_more(program: Program) -> None:
    program.settings["report_interval"] = "never"
    code, found = checks(program)
    assert code == 1
    assert list(found) == ["settings"]
    assert "report_interval" in found["settings"]["text"]


def test_given_a_ledger_that_is_none_when_examined_then_it_fails(program: Program) -> None:
    (program.state / "ledger.db").write_text("no database, but long enough to look like something " * 40)
    code, found = checks(program)
    assert code in {1, 3}
    assert found["ledger"]["verdict"] == "fail"
    assert found["hypervisor"]["verdict"] == "ok"


def test_given_a_database_that_is_away_when_examined_then_the_code_is_3(program: Program) -> None:
    program.settings["database.connection"] = "postgresql://nobody:s3cret@127.0.0.1:1/books"
    code, found = checks(program)
    assert code == 3
    assert found["ledger"]["verdict"] == "fail"
    assert "s3cret" not in str(found)


def test_given_a_hypervisor_that_does_not_answer_when_examined_then_the_code_is_3(program: Program) -> None:
    describe(program, node(), listing={"raise": "DriverUnreachable", "text": "gone"})
    code, found = checks(program)
    assert (code, found["hypervisor"]["verdict"], found["hypervisor"]["unreachable"]) == (3, "fail", True)


def test_given_a_driver_that_is_not_there_when_examined_then_those_there_are_named(program: Program) -> None:
    program.settings["compute_driver"] = "xen"
    code, found = checks(program)
    assert code == 1
    assert "libvirt" in found["hypervisor"]["remedy"]


def test_given_a_placement_that_is_away_when_examined_then_the_code_is_3(program: Program) -> None:
    program.settings |= {
        "placement.mode": "remote",
        "placement.url": "http://127.0.0.1:1",
        "placement.auth_type": "none",
        "placement.retries_max": "0",
    }
    code, found = checks(program)
    assert (code, found["placement"]["verdict"]) == (3, "fail")
    assert found["clock"]["verdict"] == "ok"


def test_given_anothers_compute_id_when_examined_then_the_remedy_is_told(program: Program) -> None:
    program.settings["compute_driver"] = "host"
    program.run("refresh")
    program.settings["host"] = "compute-2"
    code, found = checks(program)
    assert code == 1
    assert "compute_id" in found["identity"]["remedy"]


def test_given_a_sign_of_life_from_the_future_when_examined_then_the_clocks_are_doubted(program: Program) -> None:
    program.run("refresh")

    class Ahead(SystemClock):
        def now(self) -> datetime:
            return datetime(2199, 1, 1, tzinfo=UTC)

    ledger = open_ledger(f"sqlite:///{program.state / 'ledger.db'}", clock=Ahead(), ids=RandomIds())
    ledger.heartbeat("compute-9", version="0")
    ledger.close()
    code, found = checks(program)
    assert (code, found["clock"]["verdict"]) == (1, "warn")
    assert "compute-9" in found["clock"]["text"]


def test_given_a_node_with_problems_when_examined_then_show_is_named(program: Program) -> None:
    describe(program, node(resources={"memory_mb_used": -1}))
    program.run("refresh")
    code, found = checks(program)
    assert (code, found["nodes"]["verdict"]) == (1, "warn")
    assert "stocktake show a" in found["nodes"]["remedy"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_given_a_state_path_that_cant_be_written_when_examined_then_it_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, found = checks(Program(tmp_path))
    assert (code, found["permissions"]["verdict"]) == (1, "fail")
