"""`watch` in a real terminal: what it shows, and that it leaves the terminal as it was."""

import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stocktake.cli.watch.command import looked, waited
from stocktake.cli.watch.reader import Look
from stocktake.ledger import NodeSave
from stocktake.model.books import Tally
from stocktake.model.value import replace
from tests.cli.program import HOST, Program, clean_environ
from tests.cli.watch.making import NOON, row, snapshot, view
from tests.servers.terminal import Terminal

ALTERNATE, NORMAL, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"
COLOUR = re.compile(rb"\x1b\[[0-9;]*3[1-7]m")
FIRST = "node-00000"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Twenty-four nodes with instances, migrations and orphans."""
    made = Program(tmp_path, nodes=24)
    made.promise(datetime.now(UTC))
    assert made.run("refresh", "--quiet").code == 0
    return made


@pytest.fixture
def terminal(program: Program) -> Iterator[Terminal]:
    """It runs, and has shown everything once."""
    with watching(program) as opened:
        opened.until(FIRST, "CHANGES", "q quit")
        yield opened


def watching(program: Program, *arguments: str, columns: int = 80, rows: int = 24, **environ: str) -> Terminal:
    command = [*program.command, "watch", "--interval", "0.1", *arguments]
    return Terminal(command, {**clean_environ(), **environ}, columns=columns, rows=rows)


def use(program: Program, node: str, vcpus: int) -> None:
    """Write into the ledger that more is used."""
    with program.ledger() as ledger:
        record = ledger.node(node)
        tally = Tally(node=replace(record, vcpus_used=vcpus), entries=ledger.entries(record.uuid))
        assert not ledger.save([NodeSave(tally=tally, expected_generation=record.generation)]).conflicts


def left_well(terminal: Terminal) -> None:
    """The terminal is as it was: settings, screen, cursor."""
    assert terminal.after() == terminal.before
    _, alternate, rest = terminal.raw.partition(ALTERNATE)
    assert alternate
    assert NORMAL in rest
    assert CURSOR in rest
    assert b"Traceback" not in rest


def test_given_a_terminal_when_q_is_pressed_then_it_ends_and_leaves_everything_as_it_was(terminal: Terminal) -> None:
    assert COLOUR.search(terminal.raw)
    # Of the 24 made-up nodes every third has a guest started by hand, and every seventh from the second on one that is
    # another node's: 8 orphans and 4 misplaced ones.
    orphans, misplaced = len(range(0, 24, 3)), len(range(1, 24, 7))
    assert terminal.lines[0].startswith(f"stocktake watch  24 nodes, {orphans + misplaced} problems")
    assert terminal.lines[-1].endswith("1-12 of 24")
    terminal.type("q")
    assert terminal.end() == 0
    left_well(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_given_a_signal_when_it_comes_then_the_terminal_is_left_as_it_was(
    terminal: Terminal, number: signal.Signals
) -> None:
    if number == signal.SIGINT:
        terminal.type("\x03")
    else:
        terminal.send(number)
    assert terminal.end() == 128 + number
    left_well(terminal)


def test_given_a_bug_then_the_terminal_is_left_as_it_was_and_the_bug_is_told_after(program: Program) -> None:
    script = (
        "from stocktake.cli.watch.terminal import terminal\n"
        "with terminal(colour=True, unicode=True) as shown:\n"
        "    shown.draw([])\n"
        "    raise ValueError('a bug')\n"
    )
    with Terminal([sys.executable, "-c", script], clean_environ()) as opened:
        assert opened.end() == 1
        assert opened.after() == opened.before
        _, normal, rest = opened.raw.partition(NORMAL)
        assert normal
        assert b"ValueError: a bug" in rest


def test_given_another_size_when_it_comes_then_everything_is_drawn_anew(terminal: Terminal) -> None:
    terminal.resize(200, 50)
    lines = terminal.until("CHANGED", "node-00023", "q quit")
    assert len(lines) == 50
    assert "q quit" in lines[-1]
    terminal.resize(60, 10)
    lines = terminal.until("1-6 of 24", gone="CHANGED")
    assert all(len(line) <= 60 for line in lines)


def test_given_a_ledger_that_changes_then_the_change_and_the_new_figures_appear(
    program: Program, terminal: Terminal
) -> None:
    use(program, FIRST, 15)
    lines = terminal.until(f"{FIRST}  vCPUs 11 → 15", " 15/64")
    assert re.search(rf"^\d\d:\d\d:\d\d {FIRST}  vCPUs 11 → 15$", "\n".join(lines), re.MULTILINE)
    with program.ledger() as ledger:
        ledger.set_service(HOST, disabled=True, reason="new kernel")
    terminal.until("and 23 more  disabled: new kernel", "── PROBLEMS")


def test_given_a_ledger_that_goes_away_when_it_comes_back_then_both_are_seen_and_nothing_is_made_in_its_place(
    program: Program, terminal: Terminal
) -> None:
    file = program.state / "ledger.db"
    away = file.rename(program.state / "away.db")
    terminal.until("LEDGER UNREACHABLE, figures are", "there is no such file", FIRST)
    assert not file.exists()
    away.rename(file)
    terminal.until(FIRST, gone="LEDGER UNREACHABLE")
    use(program, FIRST, 14)
    terminal.until("vCPUs 11 → 14")


def test_given_no_ledger_at_the_start_when_it_is_made_then_its_nodes_appear(tmp_path: Path) -> None:
    program = Program(tmp_path, nodes=2)
    with watching(program) as terminal:
        terminal.until("NO LEDGER: there is no such file", "stocktake refresh")
        assert not (tmp_path / "ledger.db").exists()
        assert program.run("refresh", "--quiet").code == 0
        terminal.until("stocktake watch  2 nodes", FIRST)


def test_given_keys_when_pressed_then_they_scroll_sort_and_filter(terminal: Terminal) -> None:
    terminal.type("G")
    terminal.until("13-24 of 24", "node-00023")
    terminal.type("\x1bOA")
    terminal.until("12-23 of 24")
    terminal.type("g")
    terminal.until("1-12 of 24")
    terminal.type("\x1b[6~")
    terminal.until("13-24 of 24")
    terminal.type("s")
    terminal.until("VCPUS▼", "s sort: vcpus")
    terminal.type("/0002q\x7f")
    terminal.until("filter: 0002", "node-00023", "4 nodes")
    terminal.type("\r")
    terminal.until("q quit", "/ filter: 0002")
    terminal.type("\x1b")
    terminal.until("1-12 of 24")


def test_given_a_thousand_nodes_then_all_can_be_scrolled_to(tmp_path: Path) -> None:
    program = Program(tmp_path, nodes=1200, settings={"fake.guests": "false"})
    assert program.run("refresh", "--quiet").code == 0
    with watching(program) as terminal:
        # Without problems they have no title and no line: of 24 rows 15 are nodes'.
        terminal.until("1,200 nodes, 0 problems", "1-15 of 1200")
        terminal.type("G")
        terminal.until("node-01199", "1186-1200 of 1200")
        terminal.type("q")
        assert terminal.end() == 0


def test_given_no_color_then_nothing_is_coloured_and_everything_is_there(program: Program) -> None:
    with watching(program, NO_COLOR="1") as terminal:
        terminal.until(FIRST, "CHANGES")
        terminal.type("q")
        assert terminal.end() == 0
        assert not COLOUR.search(terminal.raw)


def test_given_a_locale_without_bars_then_they_are_drawn_with_what_there_is(program: Program) -> None:
    with watching(program, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") as terminal:
        terminal.until(f"{FIRST} manual #|..", "-- CHANGES (none yet) ---", "NODE^")


@pytest.mark.parametrize("term", ["dumb", "no-such-terminal"])
def test_given_a_terminal_that_cant_move_its_cursor_then_it_gets_one_picture(program: Program, term: str) -> None:
    command = ["env", f"TERM={term}", *program.command, "watch"]
    with Terminal(command, clean_environ(), rows=60) as terminal:
        assert terminal.end() == 0
        assert "░ free" in terminal.text
        assert ALTERNATE not in terminal.raw


def test_given_no_terminal_or_once_then_one_picture_is_printed_whole(program: Program) -> None:
    for arguments in ((), ("--once",)):
        result = program.run("watch", *arguments)
        assert result.code == 0
        lines = result.out.splitlines()
        assert lines[0].startswith("stocktake watch  24 nodes")
        assert sum(line.startswith("node-") for line in lines) == 24
        assert max(map(len, lines)) <= 80
        assert "\x1b" not in result.out
    assert max(map(len, program.spawn("watch", COLUMNS="150").out.splitlines())) > 100


def test_given_json_then_it_is_what_nodes_says(program: Program) -> None:
    nodes = program.run("nodes", "--json").data
    watched = program.run("watch", "--json").data
    assert nodes == watched
    assert watched[0]["resources"]["memory_mb"]["reserved"] == 512


def test_given_no_ledger_and_no_terminal_then_it_ends_with_3_and_makes_none(tmp_path: Path) -> None:
    result = Program(tmp_path).run("watch", "--once")
    assert result.code == 3
    assert "there is no such file" in result.err
    assert not (tmp_path / "ledger.db").exists()


def test_given_looks_then_only_what_differs_between_two_is_a_change_and_the_newest_is_first() -> None:
    one = view(fleet=None)
    for used in (0, 0, 2, 2, 5):
        one = looked(one, Look(snapshot(row(vcpus_used=used))))
    assert [change.text for change in one.changes] == ["vCPUs 2 → 5", "vCPUs 0 → 2"]
    for used in range(700):
        one = looked(one, Look(snapshot(row(vcpus_used=used))))
    assert len(one.changes) == 500
    assert looked(one, Look(one.fleet, "away")).changes == one.changes


@pytest.mark.parametrize(("late_s", "told"), [(0, ""), (6.9, ""), (7.1, "no answer yet")])
def test_given_a_ledger_that_hangs_then_after_a_while_that_is_said(late_s: float, told: str) -> None:
    assert waited(view(row(), now=NOON + timedelta(seconds=late_s)), 1.0).trouble == told
    away = view(row(), now=NOON + timedelta(seconds=late_s), trouble="gone")
    assert waited(away, 1.0) == away
    assert waited(changed(away, fleet=None), 1.0).fleet is None
