"""A real machine built under a claim: it is the instance and no orphan, and a build that fails leaves nothing."""

from pathlib import Path
from typing import Any

import pytest

from tests.servers.libvirtd import GuestSpec, PrivateLibvirtd, guest_xml
from tests.system.running import Host

pytestmark = pytest.mark.system

SIZE = ("--vcpus", "2", "--memory", "32M", "--disk", "1G")


@pytest.fixture
def host(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Host:
    settings: dict[str, object] = {
        "compute_driver": "libvirt",
        "libvirt.connection_uri": libvirtd.uri,
        "libvirt.instances_path": str(libvirtd.images),
        "placement.mode": "embedded",
        "allocations": "own",
    }
    made = Host(tmp_path / "state", settings)
    made.ask("refresh")
    return made


def builder(libvirtd: PrivateLibvirtd, folder: Path) -> tuple[str, ...]:
    """What builds a machine with the claim's uuid and name, as virt-install does: by libvirt's own client."""
    xml = guest_xml(GuestSpec(name="$STOCKTAKE_NAME", uuid="$STOCKTAKE_UUID", vcpus=2, memory_mib=32))
    script = folder / "build.sh"
    script.write_text(
        f"cat >{folder}/guest.xml <<END\n{xml}\nEND\nvirsh -q -c '{libvirtd.uri}' create --paused {folder}/guest.xml\n"
    )
    return ("--", "sh", "-e", str(script))


def books(host: Host) -> dict[str, Any]:
    """What the node has, and who takes it."""
    (node,) = host.ask("refresh")["nodes"]
    with host.ledger() as ledger:
        entries = ledger.entries(node["uuid"])
    return {"node": node, "kinds": sorted(entry.kind for entry in entries)}


def test_given_a_machine_built_under_a_claim_then_it_is_the_instance_and_no_orphan(
    host: Host, libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    before = books(host)["node"]
    result = host.run("claim", "web-1", *SIZE, *builder(libvirtd, tmp_path))
    assert result.code == 0, result
    (instance,) = host.ask("instances")
    assert libvirtd.connection.lookupByName("web-1").UUIDString() == instance["uuid"]
    after = books(host)
    assert after["kinds"] == ["instance", "reserved"]
    assert after["node"]["memory_mb_used"] == before["memory_mb_used"] + 32
    assert after["node"]["problems"] == before["problems"]
    assert host.ask("orphans") == []


def test_given_a_claim_whose_machine_appears_by_itself_then_the_next_refresh_keeps_it(
    host: Host, libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    uuid = host.run("claim", "web-2", *SIZE, "--expires", "60").out.strip()
    libvirtd.start(GuestSpec(name="web-2", uuid=uuid, vcpus=2, memory_mib=32))
    assert books(host)["kinds"] == ["instance", "reserved"]
    (instance,) = host.ask("instances")
    assert (instance["uuid"], instance["vm_state"], instance["claim_expires_at"]) == (uuid, "active", None)


def test_given_a_build_that_fails_then_nothing_is_promised_and_what_it_left_behind_is_an_orphan(
    host: Host, libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    command = builder(libvirtd, tmp_path)
    Path(command[-1]).write_text(Path(command[-1]).read_text() + "exit 5\n")
    assert host.run("claim", "web-3", *SIZE, *command).code == 5
    assert host.ask("instances") == []
    assert books(host)["kinds"] == ["orphan", "reserved"]
