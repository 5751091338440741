"""
Make Ironic's schema and many nodes through its own database layer, which takes 7 ms a node instead of 110.

Runs in Ironic's own Python, with the server stopped:  ironic_nodes.py CONFIG_FILE NODES SHARDS
"""

import sys
import uuid

from ironic import objects
from ironic.conf import CONF
from ironic.db import api, migration
from ironic.objects.node import Node

KINDS = ("bios", "boot", "console", "deploy", "firmware", "inspect", "management", "power", "raid", "rescue", "vendor")
SPACE = uuid.UUID("6f1e2a30-0000-4000-8000-000000000000")


def main(file: str, nodes: int, shards: int) -> None:
    """Make them."""
    objects.register_all()
    CONF(["--config-file", file], project="ironic")
    migration.create_schema()
    database = api.get_instance()
    for number in range(nodes):
        node = database.create_node(
            {
                "uuid": str(uuid.uuid5(SPACE, str(number))),
                "name": f"bm-{number:05}",
                "driver": "fake-hardware",
                "provision_state": "available",
                "power_state": "power off",
                "resource_class": ("gold", "silver", "Big-Memory")[number % 3],
                "shard": f"s{number % shards}" if shards else None,
                "properties": {
                    "cpus": 32,
                    "memory_mb": 131072,
                    "local_gb": 894,
                    "cpu_arch": "x86_64",
                    "capabilities": f"boot_mode:uefi,rack:r{number // 40}",
                },
                **{f"{kind}_interface": "fake" for kind in KINDS},
                "network_interface": "noop",
                "storage_interface": "noop",
                "version": Node.VERSION,
            }
        )
        database.set_node_traits(node.id, ["CUSTOM_GOLD", "HW_CPU_X86_VMX"], "1.0")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
