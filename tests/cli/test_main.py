"""Exit codes, help, and what is written where when something goes wrong."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stocktake import __version__
from stocktake.cli.main import main
from tests.cli.program import Program, clean_environ, run


def every_command() -> Iterator[tuple[str, ...]]:
    """Name all commands, those below others too."""
    context = click.Context(main, info_name="stocktake")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, child) for child in command.list_commands(context))


ALL_COMMANDS = list(every_command())


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_given_any_command_when_help_is_asked_then_it_shows_an_example_and_fits_80_columns(
    path: tuple[str, ...],
) -> None:
    result = run([*path, "--help"])
    assert result.code == 0
    assert "Example:" in result.out
    assert f"$ stocktake {path[0]}" in result.out or "stocktake" in result.out.split("Example:")[1]
    assert "Traceback" not in result.err
    prose = result.out.split("Example:")[0]
    assert max(map(len, prose.splitlines())) <= 80


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_given_any_command_when_help_is_asked_then_json_is_an_option_of_it(path: tuple[str, ...]) -> None:
    assert "--json" in run([*path, "--help"]).out


def test_given_no_command_when_run_then_the_seven_most_useful_are_shown() -> None:
    result = run([])
    assert result.code == 0
    assert sum(line.startswith("  stocktake ") for line in result.out.splitlines()) == 7


def test_given_version_when_asked_then_it_is_printed() -> None:
    assert run(["--version"]).out == f"stocktake {__version__}\n"


def test_given_an_unknown_command_when_run_then_the_nearest_is_named() -> None:
    result = run(["nods"])
    assert result.code == 2
    assert "Did you mean nodes?" in result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "hosst=a", "nodes"], "did you mean host?"),
        (["--set", "nothing", "nodes"], "KEY=VALUE"),
        (["--set", "=x", "nodes"], "KEY=VALUE"),
        (["--set", "report_interval=soon", "nodes"], "report_interval"),
        (["--config", "/nowhere/stocktake.toml", "nodes"], "/nowhere/stocktake.toml"),
        (["nodes", "--force"], "--delete"),
        (["nodes", "extra"], "unexpected"),
        (["services", "disable", "a"], "--reason"),
        (["orphans", "adopt"], "--all"),
        (["show"], "NODE"),
        (["tally", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["ledger", "import", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["completion", "tcsh"], "bash"),
    ],
)
def test_given_wrong_input_when_run_then_it_ends_with_2_and_says_what(
    program: Program, arguments: list[str], told: str
) -> None:
    result = program.run(*arguments)
    assert result.code == 2
    assert told in result.err
    assert result.out == ""


def test_given_wrong_input_and_json_when_run_then_the_error_is_on_stdout_in_the_one_shape(program: Program) -> None:
    result = program.run("show", "nobody", "--json")
    assert result.code == 2
    assert result.answer["exit_code"] == 2
    assert result.answer["data"] is None
    assert result.answer["error"]["code"] == "NotFound"
    assert set(result.answer["error"]) == {"code", "what", "where", "remedy"}
    assert result.err.startswith("stocktake: ")
    assert result.err.count("\n") == 1


def test_given_a_usage_error_and_json_when_run_then_the_error_is_on_stdout(program: Program) -> None:
    result = program.run("--json", "nodes", "--force")
    assert (result.code, result.answer["error"]["code"]) == (2, "InvalidInput")
    assert result.answer["command"] == "nodes"
    assert program.run("services", "disable", "a", "--json").answer["command"] == "services disable"


def test_given_help_and_completion_of_commands_when_asked_then_no_commands_module_is_imported(program: Program) -> None:
    script = (
        "import sys\nfrom stocktake.cli.main import COMMANDS, main\n"
        "main.main(sys.argv[1:], prog_name='stocktake', standalone_mode=False)\n"
        "main.shell_complete(main.make_context('stocktake', [], resilient_parsing=True), 'or')\n"
        "loaded = {row.module for row in COMMANDS if f'stocktake.cli.{row.module}' in sys.modules}\n"
        "sys.exit(f'imported: {loaded}' if loaded else 0)\n"
    )
    command = [program.command[0], "-c", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environ(), timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for group in ("Take stock:", "Read the ledger:", "Claim room:", "Run the service:"):
        assert group in done.stdout


def test_given_a_ledger_that_cant_be_made_when_run_then_it_ends_with_3_and_one_line(program: Program) -> None:
    program.settings["database.connection"] = f"sqlite:///{program.state}/stocktake.toml/ledger.db"
    result = program.run("nodes")
    assert result.code == 3
    assert result.err.startswith("stocktake: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("place", ["before", "after"])
def test_given_a_common_option_when_it_stands_before_or_after_the_command_then_it_counts(
    program: Program, place: str
) -> None:
    arguments = ["--json", "nodes"] if place == "before" else ["nodes", "--json"]
    assert program.run(*arguments).answer == {"command": "nodes", "exit_code": 0, "error": None, "data": []}


def test_given_a_flag_when_file_and_environment_say_otherwise_then_the_flag_wins(program: Program) -> None:
    (program.state / "stocktake.toml").write_text("reserved_host_cpus = 1\n")
    program.settings["reserved_host_cpus"] = "3"
    result = program.spawn("config", "show", "--json", STOCKTAKE_RESERVED_HOST_CPUS="2")
    found = {one["name"]: one for one in result.data}["reserved_host_cpus"]
    assert (found["value"], found["origin"]) == (3, "flag")
    del program.settings["reserved_host_cpus"]
    result = program.spawn("config", "show", "--json", STOCKTAKE_RESERVED_HOST_CPUS="2")
    assert {one["name"]: one for one in result.data}["reserved_host_cpus"]["value"] == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["nodes", "show", "explain", "orphans", "adopt", "--json", "--node", "--all", "--host", "-"]
            ),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
        ),
        max_size=4,
    ).filter(lambda words: not {"agent", "refresh"} & set(words))
)
def test_given_any_arguments_when_run_then_there_is_an_exit_code_and_no_traceback(
    program: Program, words: list[str]
) -> None:
    result = program.run(*words, input_="")
    assert result.code in {0, 1, 2, 3}
    assert "Traceback" not in result.err


def test_given_a_reader_that_goes_away_when_much_is_written_then_it_ends_quietly(program: Program) -> None:
    program.nodes = 400
    program.run("refresh", "--quiet")
    with subprocess.Popen(
        [*program.command, "config", "show", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environ(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        process.wait(30)
    assert err == b""
    assert process.returncode == 141


def test_given_an_interrupt_when_the_agent_runs_then_it_ends_with_0(program: Program) -> None:
    with subprocess.Popen(
        [*program.command, "--verbose", "agent"], stderr=subprocess.PIPE, env=clean_environ()
    ) as process:
        assert process.stderr is not None
        # The first line it logs is written by the first pass.
        assert process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def on_terminal(program: Program, *arguments: str, columns: int = 80, **environ: str) -> str:
    """Run on a pseudo-terminal, and give what was written on it."""
    main_end, its_end = pty.openpty()
    with subprocess.Popen(
        [*program.command, *arguments],
        stdin=its_end,
        stdout=its_end,
        stderr=subprocess.DEVNULL,
        env={**clean_environ(), "COLUMNS": str(columns), "TERM": "xterm", "PYTHONUTF8": "1", **environ},
    ) as process:
        os.close(its_end)
        written = b""
        # The terminal reports an error once nobody is at its other end.
        with suppress(OSError):
            while chunk := os.read(main_end, 65536):
                written += chunk
        process.wait(30)
    os.close(main_end)
    return written.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 60, 200])
@pytest.mark.parametrize(
    "arguments",
    [("nodes",), ("show", "node-00003"), ("explain", "node-00001"), ("orphans",), ("instances",), ("migrations",)],
    ids=" ".join,
)
def test_given_a_terminal_when_a_table_is_written_then_no_line_is_wider(
    fleet: Program, arguments: tuple[str, ...], columns: int
) -> None:
    written = on_terminal(fleet, *arguments, columns=columns, NO_COLOR="1")
    assert "\x1b" not in written
    assert max(map(len, written.splitlines())) <= columns


def test_given_a_terminal_when_a_table_is_written_then_it_is_coloured_unless_told_otherwise(fleet: Program) -> None:
    assert "\x1b[32mup\x1b[0m" in on_terminal(fleet, "nodes")
    for text in ("1", "yes please"):
        assert "\x1b" not in on_terminal(fleet, "nodes", NO_COLOR=text)
    assert "\x1b" not in on_terminal(fleet, "nodes", "--no-color")
    assert "\x1b" not in fleet.spawn("nodes").out


def test_given_a_terminal_that_knows_only_ascii_when_written_then_nothing_fails(fleet: Program) -> None:
    written = on_terminal(fleet, "show", "node-00003", columns=120, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert written.isascii()
    assert "node-00003" in written


def test_given_a_log_for_machines_when_something_happens_then_every_line_is_json(program: Program) -> None:
    result = program.spawn("--verbose", "--log-json", "refresh", "--json")
    lines = [json.loads(line) for line in result.err.splitlines()]
    assert any(line["message"] == "final resource view" and line["node"] == "node-00000" for line in lines)
    assert {"time", "level", "logger"} <= lines[0].keys()


def test_given_the_state_path_of_another_user_when_read_then_it_is_an_error_and_not_a_crash(program: Program) -> None:
    program.settings["database.connection"] = "sqlite:////proc/nowhere/ledger.db"
    assert program.run("nodes").code == 3


def test_given_a_cold_start_when_nodes_or_help_is_asked_then_nothing_heavy_is_imported(program: Program) -> None:
    script = (
        "import sys\nfrom stocktake.cli.main import main\n"
        "code = main.main(sys.argv[1:], prog_name='stocktake', standalone_mode=False)\n"
        "print(sorted(name for name in sys.modules if '.' not in name), file=sys.stderr)\n"
    )

    def imported(*arguments: str) -> set[str]:
        command = [program.command[0], "-c", script, *program.options, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environ(), timeout=60, check=True)
        names: set[str] = set(eval(done.stderr.splitlines()[-1]))  # a list that we printed
        return names

    heavy = {"rich", "placement", "keystoneauth1", "requests", "libvirt", "alembic", "yaml", "oslo_config"}
    assert not imported("--help") & (heavy | {"sqlalchemy", "hypothesis"})
    program.run("ledger", "init")
    assert not imported("nodes") & heavy
    assert Path(program.state / "ledger.db").exists()
