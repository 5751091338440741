"""The commands' page, and what shells complete."""

from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from tools.commands_page import commands_page

from stocktake.cli.main import main
from stocktake.cli.session import Session
from tests.cli.program import Program, run

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def test_given_the_commands_when_their_page_is_made_then_it_is_the_one_in_the_docs() -> None:
    assert PAGE.read_text() == commands_page(), "run: make docs"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_given_a_shell_when_its_completion_is_asked_for_then_a_script_is_printed(shell: str) -> None:
    result = run(["completion", shell])
    assert result.code == 0
    assert "_STOCKTAKE_COMPLETE" in result.out


def completed(program: Program, words: list[str], incomplete: str) -> list[str]:
    shell = BashComplete(main, {"obj": Session()}, "stocktake", "_STOCKTAKE_COMPLETE")
    return [item.value for item in shell.get_completions([*program.options, *words], incomplete)]


def test_given_a_beginning_when_completed_then_commands_options_and_nodes_are(fleet: Program) -> None:
    assert completed(fleet, [], "or") == ["orphans"]
    assert completed(fleet, ["services"], "dis") == ["disable"]
    assert "--json" in completed(fleet, ["nodes"], "--j")
    assert completed(fleet, ["show"], "node-00003") == ["node-00003"]
    assert len(completed(fleet, ["explain"], "")) == 8


def test_given_a_ledger_that_cant_be_read_when_completed_then_nothing_is_and_nobody_is_bothered(
    program: Program,
) -> None:
    program.settings["database.connection"] = "sqlite:////proc/nowhere/ledger.db"
    assert completed(program, ["show"], "") == []
