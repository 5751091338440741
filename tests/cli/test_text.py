"""Nothing that came from outside reaches a terminal or a text log as it came; programs get it exactly."""

import json
import logging
import sqlite3
from pathlib import Path

import pytest

from stocktake.cli.logs import LineFormatter
from stocktake.cli.main import COMMANDS
from stocktake.cli.screen import Screen
from stocktake.cli.text import clean, clean_painted
from tests.cli.program import Program, Result

# C0, DEL, C1, bidirectional marks, separators, and what looks like lines of ours and paint.
BAD = [*range(32), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF]
EVIL = f"evil{''.join(map(chr, BAD))}\nFORGED\x1b[31mred\x1b]0;title\x07"
NODE = f"node-00000{EVIL}"
FLAVOR = ["--vcpus", "1", "--memory", "512M"]

# What each command is asked, so that it prints names; `serve` runs until stopped and logs like the others.
ASKED: dict[str, list[list[str]]] = {
    "refresh": [[], ["-v"]],
    "agent": [["--once"]],
    "nodes": [[], ["--wide"], ["node-00000"]],
    "show": [[NODE], [f"x{EVIL}"], ["node-0000"]],
    "watch": [[]],
    "explain": [[NODE], [NODE, "vcpus_used"], [NODE, EVIL]],
    "history": [[NODE]],
    "instances": [[], ["--deleted"], ["--named", EVIL], ["--node", EVIL]],
    "migrations": [["--all"], ["--node", NODE]],
    "orphans": [[], ["adopt", EVIL]],
    "services": [[], ["disable", EVIL, "--reason", EVIL]],
    "fit": [FLAVOR, [*FLAVOR, "--node", NODE]],
    "claim": [[EVIL, "--node", "auto", *FLAVOR], ["x", "--node", EVIL, *FLAVOR], ["x", "--uuid", EVIL, *FLAVOR]],
    "keep": [[EVIL]],
    "release": [[EVIL]],
    "move": [["finish", EVIL], [EVIL]],
    "token": [["list"], ["revoke", EVIL]],
    "ledger": [["upgrade"], ["import", EVIL.replace("\0", "")]],
    "config": [["show"], ["show", EVIL]],
    "doctor": [[]],
    "tally": [[EVIL.replace("\0", "")]],
    "serve": [[EVIL]],
    "completion": [["bash"], [EVIL]],
}


def test_given_the_table_of_commands_then_each_is_tried() -> None:
    assert set(ASKED) == {command.name for command in COMMANDS}


@pytest.fixture
def evil(tmp_path: Path) -> Program:
    """A fleet in which everything that somebody may name is named badly."""
    program = Program(tmp_path, nodes=2)
    from datetime import UTC, datetime

    program.promise(datetime.now(UTC))
    assert program.run("agent", "--once", "--quiet").code == 0
    assert program.run("token", "create", "--role", "viewer", "--note", EVIL.replace("\0", "")).code == 0
    with sqlite3.connect(tmp_path / "ledger.db") as books:
        for table, columns in {
            "instances": ["display_name", "project_id", "user_id", "os_type", "task_state"],
            "services": ["disabled_reason"],
            "tokens": ["note"],
        }.items():
            for column in columns:
                books.execute(f"UPDATE {table} SET {column} = ?", [EVIL])
        books.execute("UPDATE services SET disabled = 1")
        for table, column in {
            "compute_nodes": "hypervisor_hostname", "instances": "node", "migrations": "source_node"
        }.items():  # fmt: skip
            books.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = 'node-00000'", [NODE])
        for column in ("hypervisor_type",):
            books.execute(f"UPDATE compute_nodes SET {column} = ?", [EVIL])
        quoted = json.dumps(EVIL)[1:-1]
        books.execute("UPDATE compute_node_entries SET entry = replace(entry, 'by-hand', ?)", [f"by-hand{quoted}"])
    books.close()
    return program


def bad_in(result: Result) -> set[str]:
    """Give what is in the output that must not be, and lines that are not ours."""
    text = result.out + result.err
    found = {letter for letter in text if not letter.isprintable() and letter != "\n"}
    return found | {line for line in text.split("\n") if line.startswith("FORGED")}


@pytest.mark.parametrize("command", ASKED)
def test_given_names_that_would_control_a_terminal_when_printed_then_they_are_seen_and_do_nothing(
    evil: Program, command: str
) -> None:
    seen = False
    for arguments in ASKED[command]:
        result = evil.run(command, *arguments)
        assert bad_in(result) == set(), (arguments, result)
        seen = seen or "\\x1b" in result.out + result.err
    assert seen or command in {"refresh", "agent", "ledger", "completion", "config", "doctor", "watch", "history"}


def test_given_such_names_when_a_program_asks_then_it_gets_them_exactly(evil: Program) -> None:
    assert {one["name"] for one in evil.run("instances", "--json").data} == {EVIL}
    assert NODE in {one["hypervisor_hostname"] for one in evil.run("nodes", "--json").data}


def test_given_a_terminal_with_colours_when_painted_then_only_our_paint_is_left() -> None:
    screen = Screen(width=80, colour=True, unicode=True)
    line = clean_painted(f"{screen.paint(EVIL, fg='red')} {screen.paint('x', bold=True)}")
    assert line.count("\x1b") == 4
    assert {letter for letter in line if not letter.isprintable()} == {"\x1b"}


def test_given_every_character_then_what_is_clean_can_be_printed() -> None:
    for code in BAD:
        shown = clean(chr(code))
        assert shown.isprintable(), hex(code)
        assert shown.startswith("\\"), hex(code)
    assert clean("Zürich 東京 🚀") == "Zürich 東京 🚀"


def test_given_an_error_with_such_text_when_logged_then_no_line_but_its_own_looks_like_one() -> None:
    error = ValueError(f"x\nerror: {EVIL}")
    record = logging.LogRecord("stocktake", logging.ERROR, "f", 1, f"said {EVIL}", (), (ValueError, error, None))
    first, *rest = LineFormatter().format(record).split("\n")
    assert first.startswith("error: said evil\\x00")
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
