"""
Make a generated fleet to look around in: nodes with NUMA and PCI, instances in all states, migrations, orphans.

    python -m tools.demo DIRECTORY [NODES]
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.drivers.fake.fleet import DEVICE_SPEC
from stocktake.drivers.fake.work import Work, generate_work
from stocktake.ledger import NodeSave
from stocktake.model.books import Tally
from stocktake.model.pci import PciRecord
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import read_settings

SEED = 1
NODES = 24

NEXT = """
The fleet is in {directory}. Look around:
  export STOCKTAKE_CONFIG={config}
  {program} nodes                       every node, with sums
  {program} watch                       the same live; q ends it
  {program} show {node}
  {program} explain {node} vcpus_used
  {program} orphans
  {program} instances; {program} migrations
  {program} serve                       all of it in a browser, http://127.0.0.1:8790/
  {program} services disable demo --reason "new kernel"; {program} refresh
"""


def main(arguments: Sequence[str]) -> int:
    """Make the fleet anew in the directory and show its nodes."""
    directory = Path(arguments[0]).absolute()
    nodes = int(arguments[1]) if len(arguments) > 1 else NODES
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = directory / "stocktake.toml"
    config.write_text(_settings(directory, nodes), encoding="utf-8")
    clock = SystemClock()
    settings = read_settings(config, {}, {})
    context = open_context(settings, clock, RandomIds())
    try:
        # The nodes must be in the ledger before devices of theirs can be held.
        refresh(context)
        work = generate_work(SEED, nodes, host=settings.host, now=clock.now())
        context.ledger.put_instances(work.instances)
        context.ledger.put_migrations(work.migrations)
        hold(context, work)
        refresh(context)
    finally:
        context.close()
    program = Path(sys.executable).with_name("stocktake")
    status = subprocess.call([program, "--config", config, "nodes"])
    print(NEXT.format(directory=directory, config=config, program=program, node="node-00001"))
    return 0 if status == 1 else status


def hold(context: Context, work: Work) -> None:
    """Let the generated instances hold their PCI devices."""
    held = work.pci_devices
    before = context.ledger.work(context.rules.host, tuple(held), {})
    saves: list[NodeSave] = []
    for name, devices in held.items():
        record = before[name].record
        assert record is not None, "the first refresh made it"
        there: Mapping[str, PciRecord] = {device.address: device for device in before[name].pci_devices}
        merged = {**there, **{device.address: device for device in devices}}
        tally = Tally(node=record, entries=context.ledger.entries(record.uuid), pci_devices=tuple(merged.values()))
        saves.append(NodeSave(tally=tally, expected_generation=record.generation))
    outcome = context.ledger.save(saves)
    assert not outcome.conflicts, "nobody else writes to the demonstration's ledger"


def _settings(directory: Path, nodes: int) -> str:
    specs = "\n".join(
        "[[pci.device_spec]]\n" + "".join(f'{name} = "{value}"\n' for name, value in spec.items())
        for spec in DEVICE_SPEC
    )
    return f"""# The demonstration's settings; `stocktake config show` explains every one there is.
host = "demo"
state_path = "{directory}"
compute_driver = "fake"

[fake]
nodes = {nodes}
seed = {SEED}

{specs}
[[pci.alias]]
name = "gpu"
vendor_id = "{DEVICE_SPEC[0]["vendor_id"]}"
product_id = "{DEVICE_SPEC[0]["product_id"]}"
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
