"""`config`: every value with its origin, no secret, and everything that is wrong at once."""

import pytest

from tests.cli.program import Program


def test_given_settings_of_all_origins_when_shown_then_each_says_where_it_is_from(program: Program) -> None:
    (program.state / "stocktake.toml").write_text("# ours\n\nreserved_host_cpus = 1\n")
    result = program.spawn("config", "show", "--json", STOCKTAKE_RESERVED_HOST_MEMORY_MB="1024")
    shown = {one["name"]: one for one in result.data}
    assert set(shown["reserved_host_cpus"]) == {"name", "value", "origin", "unit"}
    assert shown["reserved_host_cpus"]["origin"].endswith("stocktake.toml line 3")
    assert shown["reserved_host_memory_mb"]["origin"] == "environment STOCKTAKE_RESERVED_HOST_MEMORY_MB"
    assert shown["report_interval"]["origin"] == "default"
    table = program.run("config", "show").out
    assert all(name in table for name in shown)


def test_given_only_those_changed_when_shown_then_defaults_are_left_out(program: Program) -> None:
    shown = program.run("config", "show", "--changed", "--json").data
    assert {one["name"] for one in shown} >= {"host", "compute_driver"}
    assert all(one["origin"] != "default" for one in shown)


@pytest.mark.parametrize("command", ["show", "check"])
def test_given_passwords_when_shown_then_they_are_hidden(program: Program, command: str) -> None:
    program.settings |= {
        "database.connection": "postgresql://me:s3cret@db/books",
        "placement.mode": "remote",
        "placement.auth_type": "password",
        "placement.auth.password": "s3cret",
    }
    for form in ((), ("--json",)):
        result = program.run("config", command, *form)
        assert result.code == 0
        assert "s3cret" not in result.out + result.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("reserved_host_cpus = -1\nreport_intervall = 3\n", ("line 1", "line 2", "report_interval")),
        ('compute_driver = "xen"\n', ("xen", "libvirt")),
        ('compute_monitors = ["gpu"]\n', ("gpu", "cpu")),
        ("a = [\n", ("TOML",)),
    ],
)
def test_given_wrong_settings_when_checked_then_each_is_told_and_the_code_is_2(
    program: Program, text: str, told: tuple[str, ...]
) -> None:
    (program.state / "stocktake.toml").write_text(text)
    options = ["--config", str(program.state / "stocktake.toml"), "--state-path", str(program.state)]
    program.settings = {}
    from tests.cli.program import run

    result = run([*options, "config", "check"])
    assert result.code == 2
    assert all(word in result.err for word in told)
    assert result.err.count("\n") == 1


def test_given_a_wrong_provider_file_when_checked_then_it_is_named(program: Program) -> None:
    folder = program.state / "provider_config"
    folder.mkdir()
    (folder / "gpu.yaml").write_text("meta: {schema_version: '9.0'}\nproviders: 3\n")
    result = program.run("config", "check")
    assert (result.code, "gpu.yaml" in result.err) == (2, True)


def test_given_good_settings_when_checked_then_it_says_so_and_makes_nothing(program: Program) -> None:
    assert program.run("config", "check").code == 0
    assert not (program.state / "ledger.db").exists()
