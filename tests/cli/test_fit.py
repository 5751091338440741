"""`fit`: where a machine would go, and why not elsewhere."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from stocktake.accounting.fit.request import wanted
from stocktake.claims.candidates import candidates
from stocktake.cli.fit import write_candidates
from stocktake.cli.screen import Screen
from stocktake.cli.session import Session
from stocktake.model.workload import Flavor
from stocktake.settings import read_settings
from tests.cli.program import HOST, Program
from tests.cli.test_nodes import Later

SMALL = ("fit", "--vcpus", "2", "--memory", "2G", "--disk", "10G")
ROOM = {"what", "asked", "used", "total", "limit", "free", "free_after"}
PART = {"weigher", "weight", "normalised", "multiplier", "score"}


def told(program: Program, *more: str, base: Sequence[str] = SMALL) -> dict[str, Any]:
    """Ask with --json: the answer, its exit code checked."""
    result = program.run(*base, *more, "--json")
    assert result.answer["exit_code"] == result.code == (0 if result.data["fitting"] else 1)
    data: dict[str, Any] = result.data
    return data


def names(found: list[dict[str, Any]]) -> list[str]:
    return [one["hypervisor_hostname"] for one in found]


def test_given_an_empty_ledger_when_asked_then_the_next_step_is_named(program: Program) -> None:
    result = program.run(*SMALL)
    assert (result.code, "has no nodes yet" in result.out, "stocktake refresh" in result.err) == (1, True, True)
    assert told(program) | {"wanted": None} == {"wanted": None, "fitting": [], "refused": []}


def test_given_a_fleet_when_asked_then_every_node_is_answered_the_best_first(fleet: Program) -> None:
    data = told(fleet)
    assert len(data["fitting"]) + len(data["refused"]) == 8
    assert [one["rank"] for one in data["fitting"]] == list(range(1, len(data["fitting"]) + 1))
    scores = [one["score"] for one in data["fitting"]]
    assert scores == sorted(scores, reverse=True)
    for one in data["fitting"]:
        assert {frozenset(room) for room in one["resources"]} == {frozenset(ROOM)}
        assert {frozenset(part) for part in one["weighers"]} == {frozenset(PART)}
        assert one["score"] == pytest.approx(sum(part["score"] for part in one["weighers"]))
    for one in data["refused"]:
        assert one["reasons"]
        assert {frozenset(reason) for reason in one["reasons"]} == {
            frozenset({"what", "asked", "free", "total", "text"})
        }


def test_given_a_node_when_asked_then_what_is_left_is_what_show_says_less_the_machine(fleet: Program) -> None:
    data = told(fleet, "--node", "node-00003")
    shown = fleet.run("show", "node-00003", "--json").data
    assert data["refused"] == []
    (one,) = data["fitting"]
    assert one["uuid"] == shown["uuid"]
    rooms = {room["what"]: room for room in one["resources"]}
    assert rooms["MEMORY_MB"]["free_after"] == shown["resources"]["memory_mb"]["free"] - 2048


def test_given_a_fleet_when_asked_then_the_table_says_the_same(fleet: Program) -> None:
    data, lines = told(fleet), fleet.run(*SMALL).out.splitlines()
    count = len(data["fitting"])
    assert lines[0].startswith(f"Fits {count} of 8 nodes")
    assert [line.split()[1] for line in lines[2 : 2 + count]] == names(data["fitting"])
    page = "\n".join(lines[2 + count :])
    for one in data["refused"]:
        assert one["hypervisor_hostname"] in page
        assert all(reason["text"] in page for reason in one["reasons"])


def test_given_a_machine_that_is_too_large_when_asked_then_nothing_fits_and_every_lack_is_told(fleet: Program) -> None:
    base = ("fit", "--vcpus", "999", "--memory", "999T", "--disk", "999T", "--trait", "CUSTOM_NOBODY_HAS_IT")
    data = told(fleet, base=base)
    assert data["fitting"] == []
    for one in data["refused"]:
        whats = {reason["what"] for reason in one["reasons"]}
        assert {"VCPU", "MEMORY_MB", "DISK_GB", "trait.CUSTOM_NOBODY_HAS_IT"} <= whats
    result = fleet.run(*base)
    assert result.code == 1
    assert result.out.startswith("Does not fit 8 nodes:")


def test_given_a_disabled_or_silent_service_when_asked_then_its_nodes_get_nothing_and_say_why(fleet: Program) -> None:
    fleet.run("services", "disable", HOST, "--reason", "new memory")
    assert f"{HOST} is disabled: new memory" in fleet.run(*SMALL).out
    fleet.clock = Later(timedelta(minutes=10))
    reasons = {reason["what"] for one in told(fleet)["refused"] for reason in one["reasons"]}
    assert {"state.down", "state.disabled"} <= reasons


def test_given_a_host_that_no_agent_ran_on_when_asked_then_its_nodes_may_be_had(program: Program) -> None:
    program.run("refresh")
    program.clock = Later(timedelta(days=10))
    assert names(told(program)["fitting"]) == ["node-00000"]


def test_given_dedicated_cpus_and_cells_when_asked_then_the_table_says_which(fleet: Program) -> None:
    pinned = (*SMALL, "--numa", "2", "--spec", "hw:cpu_policy=dedicated")
    data = told(fleet, base=pinned)
    (best, *_) = data["fitting"]
    cells = best["placed"]["numa"]["cells"]
    assert len(cells) == 2
    line = fleet.run(*pinned).out.splitlines()[2]
    assert all(f"cell {cell['id']} CPUs" in line for cell in cells)
    rooms = {room["what"]: room["asked"] for room in best["resources"]}
    assert (rooms["VCPU"], rooms["PCPU"]) in {(0, 2), (2, 0)}


def test_given_a_wish_to_pack_when_asked_then_full_nodes_come_first(fleet: Program) -> None:
    spread, packed = told(fleet, "--spread"), told(fleet, "--pack")
    assert spread == told(fleet)
    assert sorted(names(spread["fitting"])) == sorted(names(packed["fitting"]))

    def parts(data: dict[str, Any]) -> dict[tuple[str, str], float]:
        return {(one["uuid"], part["weigher"]): part["score"] for one in data["fitting"] for part in one["weighers"]}

    turned = {key for key, score in parts(spread).items() if score and parts(packed)[key] == -score}
    assert {weigher for _, weigher in turned} == {"ram", "cpu", "disk"}


def test_given_verbose_when_asked_then_each_weighers_part_is_shown(fleet: Program) -> None:
    out = fleet.run(*SMALL, "-v").out
    head = next(line for line in out.splitlines() if line.startswith("SCORE OF"))
    assert head.split()[:3] == ["SCORE", "OF", "ram"]
    assert head.split()[-1] == "SUM"
    assert "SCORE OF" not in fleet.run(*SMALL).out


def test_given_several_nodes_by_name_when_asked_then_no_other_is(fleet: Program) -> None:
    data = told(fleet, "--node", "node-00002", "--node", "node-00005")
    assert sorted(names([*data["fitting"], *data["refused"]])) == ["node-00002", "node-00005"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--vcpus", "2"), "Missing option '--memory'"),
        (("--vcpus", "0", "--memory", "1G"), "--vcpus"),
        (("--vcpus", "2", "--memory", "8X"), "'8X' is no size such as 8G, 512M or 40 (MiB)"),
        (("--vcpus", "2", "--memory", "1G", "--disk", "512M"), "512M is no whole number of GiB"),
        (("--vcpus", "2", "--memory", "1G", "--node", "node-0000"), "Did you mean node-0000"),
        (("--vcpus", "2", "--memory", "1G", "--trait", "HW_CPU_X86_AXV2"), "Did you mean HW_CPU_X86_AVX2"),
        (("--vcpus", "2", "--memory", "1G", "--pci", "gpu"), "gpu"),
        (("--vcpus", "3", "--memory", "1G", "--numa", "2"), "hw:numa_nodes"),
        (("--vcpus", "2", "--memory", "1G", "--spec", "x"), "is not KEY=VALUE"),
    ],
)
def test_given_wrong_input_when_asked_then_it_is_named(fleet: Program, arguments: tuple[str, ...], said: str) -> None:
    result = fleet.run("fit", *arguments)
    assert (result.code, said in result.err) == (2, True), result.err


@pytest.mark.parametrize("width", [80, 200])
def test_given_a_terminal_when_answers_are_written_then_every_line_fits(
    fleet: Program, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    asked = wanted(Flavor(vcpus=4, memory_mb=200 * 1024, extra_specs={"hw:cpu_policy": "dedicated"}), ())
    settings = read_settings(fleet.state / "stocktake.toml", {}, {"state_path": fleet.state})
    with fleet.ledger() as ledger:
        found = candidates(ledger, settings, asked, now=fleet.clock.now())
    assert found.fitting
    assert found.refused
    session = Session(fleet.clock)
    session.verbose = 1
    write_candidates(session, Screen(width=width, colour=False, unicode=True), found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert ("TOTAL" in "".join(lines)) is (width == 200)
