"""`ledger`: made, carried elsewhere, and whole or not at all."""

import json
from pathlib import Path

import pytest

from tests.cli.program import Program


def test_given_no_ledger_when_made_twice_then_the_second_changes_nothing(program: Program) -> None:
    assert program.run("ledger", "init").code == 0
    made = (program.state / "ledger.db").stat().st_size
    answer = program.run("ledger", "upgrade", "--json").answer
    assert answer["data"]["schema_version"]
    assert (program.state / "ledger.db").stat().st_size == made


def test_given_a_fleet_when_exported_and_imported_then_the_other_ledger_says_the_same(
    fleet: Program, tmp_path: Path
) -> None:
    out = tmp_path / "books.jsonl"
    result = fleet.run("ledger", "export", str(out))
    assert result.code == 0
    assert fleet.run("ledger", "export").out == out.read_text()
    assert not list(tmp_path.glob("*.part"))
    other = Program(tmp_path / "other", nodes=8)
    other.state.mkdir()
    assert other.run("ledger", "import", str(out)).code == 0
    for command in (("instances",), ("migrations", "--all"), ("explain", "node-00003"), ("orphans",)):
        assert other.run(*command, "--json").data == fleet.run(*command, "--json").data


def test_given_an_export_on_stdin_when_imported_then_it_is_read(fleet: Program, tmp_path: Path) -> None:
    text = fleet.run("ledger", "export").out
    other = Program(tmp_path / "other")
    other.state.mkdir()
    assert other.run("ledger", "import", "-", input_=text).code == 0
    assert len(other.run("nodes", "--json").data) == 8


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [*lines[:5], "{", *lines[6:]],
        lambda lines: lines[:-1],
        lambda lines: [*lines[:4], lines[3], *lines[4:]],
        lambda _: ["null"],
        lambda _: [],
    ],
    ids=["broken line", "cut off", "a line twice", "no export", "empty"],
)
def test_given_an_export_that_is_not_whole_when_imported_then_nothing_is(
    fleet: Program, tmp_path: Path, spoil: object
) -> None:
    assert callable(spoil)
    lines = fleet.run("ledger", "export").out.splitlines()
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(f"{line}\n" for line in spoil(lines)))
    other = Program(tmp_path / "other")
    other.state.mkdir()
    result = other.run("ledger", "import", str(bad))
    assert result.code == 2
    assert result.err.startswith("stocktake: ")
    assert other.run("nodes", "--json").data == []
    assert other.run("instances", "--deleted", "--json").data == []


def test_given_bytes_that_are_no_text_when_imported_then_it_is_said(program: Program) -> None:
    result = program.run("ledger", "import", "-", input_=b"\xff\xfe")
    assert (result.code, "UTF-8" in result.err) == (2, True)


def test_given_a_place_that_cant_be_written_when_exported_then_it_ends_with_2(fleet: Program) -> None:
    result = fleet.run("ledger", "export", "/nowhere/books.jsonl")
    assert (result.code, "/nowhere" in result.err) == (2, True)


def test_given_an_export_to_a_file_as_json_when_done_then_its_lines_are_counted(fleet: Program, tmp_path: Path) -> None:
    out = tmp_path / "books.jsonl"
    data = fleet.run("ledger", "export", str(out), "--json").data
    lines = out.read_text().splitlines()
    assert data == {"file": str(out), "lines": len(lines)}
    assert all(json.loads(line) for line in lines)
