"""`claim`, `keep`, `release` and `move`: what a script reads, what a person is told, and every exit code."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Program, Result

SIZE = ("--vcpus", "2", "--memory", "4G", "--disk", "20G")


@pytest.fixture
def host(tmp_path: Path) -> Program:
    """Three nodes with nobody on them."""
    state = tmp_path / "state"
    state.mkdir()
    program = Program(state, nodes=3, settings={"fake.guests": "false"})
    assert program.run("refresh").code == 0
    return program


def instances(host: Program) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.run("instances", "--json").data
    return found


def used_mb(host: Program) -> int:
    return sum(int(node["memory_mb_used"]) - 512 for node in host.run("nodes", "--json").data)


def test_given_a_claim_then_stdout_is_the_uuid_and_stderr_says_until_when(host: Program) -> None:
    result = host.run("claim", "web-1", *SIZE)
    (instance,) = instances(host)
    assert (result.code, result.out) == (0, f"{instance['uuid']}\n")
    assert "expires at" in result.err
    assert instance["node"] in result.err
    assert used_mb(host) == 4096


def test_given_a_claim_when_the_command_is_repeated_with_its_uuid_then_it_claims_once(host: Program) -> None:
    uuid = "aaaaaaaa-0000-4000-8000-000000000001"
    for _ in range(2):
        result = host.run("claim", "web-1", *SIZE, "--uuid", uuid)
        assert (result.code, result.out) == (0, f"{uuid}\n"), result.err
    assert (len(instances(host)), used_mb(host)) == (1, 4096)
    other = host.run("claim", "web-2", *SIZE, "--uuid", uuid)
    assert (other.code, "another name" in other.err) == (3, True)


def test_given_no_node_named_then_the_best_is_taken_as_fit_says(host: Program) -> None:
    best = host.run("fit", *SIZE, "--json").data["fitting"][0]["hypervisor_hostname"]
    host.run("claim", "web-1", *SIZE)
    assert instances(host)[0]["node"] == best


@pytest.mark.parametrize("by", ["uuid", "name"])
def test_given_a_claim_when_kept_and_released_then_it_is_an_instance_and_then_none(host: Program, by: str) -> None:
    uuid = host.run("claim", "web-1", *SIZE).out.strip()
    which = uuid if by == "uuid" else "web-1"
    assert host.run("keep", which).out == f"{uuid}\n"
    assert instances(host)[0]["vm_state"] == "active"
    assert host.run("release", which).code == 0
    assert (instances(host), used_mb(host)) == ([], 0)
    again = host.run("release", which)
    assert (again.code, "no instance" in again.err) == (2, True)


def test_given_no_room_when_claimed_then_the_code_is_1_and_every_reason_is_told(host: Program) -> None:
    result = host.run("claim", "big", "--vcpus", "4000", "--memory", "4T")
    assert (result.code, result.out) == (1, "")
    for node in ("node-00000", "node-00001", "node-00002"):
        assert node in result.err
    assert "4,000 vCPUs" in result.err
    assert "MiB of memory" in result.err
    answer = json.loads(host.run("claim", "big", "--vcpus", "4000", "--memory", "4T", "--json").out)
    assert (answer["exit_code"], answer["error"]["code"]) == (1, "ClaimRefused")


def test_given_a_limit_when_it_is_reached_then_that_node_refuses(host: Program) -> None:
    limited = ("claim", "db", "--node", "node-00000", *SIZE, "--limit", "memory_mb=8000")
    assert host.run(*limited).code == 0
    result = host.run(*limited)
    assert result.code == 1
    assert "4,096 MiB of memory wanted, 3,392 free of 8,000" in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--node", "node-00000", "--limit", "memory=1"), "Did you mean memory_mb"),
        (("--node", "node-00000", "--limit", "memory_mb=much"), "must be a number of 0 or more"),
        (("--node", "node-00000", "--limit", "vcpus=-1"), "must be a number of 0 or more"),
        (("--node", "node-00000", "--limit", "vcpus=nan"), "must be a number of 0 or more"),
        (("--expires", "soon"), "must be a number of seconds"),
        (("--expires", "0"), "must be a number of seconds"),
        (("--node", "node-0000"), "Did you mean node-0000"),
        (("--spec", "hw:numa_nodes=some"), "hw:numa_nodes"),
        (("--pci", "gpu:1"), "gpu"),
        (("--trait", "HW_CPU_X86_AVX3"), "HW_CPU_X86_AVX2"),
    ],
)
def test_given_a_mistake_when_claimed_then_it_is_named_with_code_2_and_nothing_is_promised(
    host: Program, options: tuple[str, ...], said: str
) -> None:
    result = host.run("claim", "web-1", *SIZE, *options)
    assert result.code == 2
    assert said in result.err
    assert instances(host) == []


def under(host: Program, *command: str) -> Result:
    return host.spawn("claim", "web-1", *SIZE, "--", *command)


def test_given_a_command_that_ends_well_then_the_claim_is_kept_and_the_command_knew_it(host: Program) -> None:
    result = under(host, "sh", "-c", "echo $STOCKTAKE_UUID {uuid} {name} {node} $STOCKTAKE_NODE ${HOME:+home}")
    (instance,) = instances(host)
    uuid, node = instance["uuid"], instance["node"]
    assert result.out.split() == [uuid, uuid, "web-1", node, node, "home"]
    assert (result.code, instance["vm_state"]) == (0, "active")


@pytest.mark.parametrize(("end", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_given_a_command_that_fails_then_the_claim_is_given_back_with_its_code(
    host: Program, end: str, code: int
) -> None:
    assert under(host, "sh", "-c", end).code == code
    assert (instances(host), used_mb(host)) == ([], 0)


def test_given_no_such_command_then_it_is_named_and_nothing_is_promised(host: Program) -> None:
    result = under(host, "no-such-command")
    assert (result.code, "no-such-command: can't be run" in result.err) == (2, True)
    assert instances(host) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_given_a_signal_when_the_command_runs_then_it_gets_it_and_the_claim_is_given_back(
    host: Program, number: signal.Signals
) -> None:
    words = ["claim", "web-1", *SIZE, "--", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen([*host.command, *words], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        # As a terminal and as `timeout` do: more than once.
        running.send_signal(number)
        running.send_signal(number)
        assert running.wait(30) == 128 + number
    assert instances(host) == []


def test_given_a_machine_when_it_is_resized_then_each_step_is_a_command(host: Program) -> None:
    uuid = host.run("claim", "web-1", "--node", "node-00000", *SIZE).out.strip()
    host.run("keep", uuid)
    begun = host.run("move", "resize", "web-1", "--node", "node-00001", "--vcpus", "4", "--memory", "8G")
    assert (begun.code, begun.out) == (0, f"{uuid}\n")
    assert used_mb(host) == 4096 + 8192
    assert "can't be confirmed" in host.run("move", "confirm", "web-1").err
    assert "is on node-00001" in host.run("move", "finish", "web-1").err
    assert host.run("move", "abort", "web-1").code == 2
    assert host.run("move", "revert", "web-1").code == 0
    assert (instances(host)[0]["node"], used_mb(host)) == ("node-00000", 4096)


@pytest.mark.parametrize(("command", "kind"), [("migrate", "migration"), ("live-migrate", "live-migration")])
def test_given_a_machine_when_it_is_to_move_to_the_best_node_then_it_may_be_given_up(
    host: Program, command: str, kind: str
) -> None:
    host.run("keep", host.run("claim", "web-1", "--node", "node-00000", *SIZE).out.strip())
    result = host.run("move", command, "web-1", "--node", "auto", "--json")
    assert (result.code, result.data["migration"]["migration_type"]) == (0, kind)
    assert result.data["expires_at"] is not None
    assert host.run("move", "abort", "web-1").code == 0
    assert used_mb(host) == 4096


def test_given_a_host_whose_agent_lives_when_evacuated_then_force_is_needed(host: Program) -> None:
    host.run("keep", host.run("claim", "web-1", "--node", "node-00000", *SIZE).out.strip())
    with host.ledger() as ledger:
        ledger.heartbeat("compute-1", version="1")
    refused = host.run("move", "evacuate", "web-1", "--node", "node-00001")
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert host.run("move", "evacuate", "web-1", "--node", "node-00001", "--force").code == 0
    assert host.run("move", "finish", "web-1").code == 0
    assert instances(host)[0]["node"] == "node-00001"


def test_given_a_shelved_machine_when_unshelved_then_it_takes_room_again(host: Program) -> None:
    uuid = host.run("claim", "web-1", *SIZE).out.strip()
    host.run("keep", uuid)
    with host.ledger() as ledger:
        from stocktake.model.value import replace

        (instance,) = ledger.instances()
        ledger.change_instances([replace(instance, host=None, node=None, vm_state="shelved_offloaded")])
    host.run("refresh")
    assert used_mb(host) == 0
    assert host.run("move", "unshelve", "web-1", "--node", "auto").out == f"{uuid}\n"
    assert used_mb(host) == 4096
    assert host.run("keep", "web-1").code == 0


def test_given_two_of_one_name_when_named_then_the_uuids_are_asked_for(host: Program) -> None:
    uuids = [host.run("claim", "twin", *SIZE).out.strip() for _ in range(2)]
    result = host.run("release", "twin")
    assert result.code == 2
    assert all(uuid in result.err for uuid in uuids)
    near = host.run("move", "finish", "twim")
    assert (near.code, "Did you mean twin" in near.err) == (2, True)
