"""
The fleet from afar, over `stocktake serve`. Invariant: answers and errors are what the ledger itself would give.

    with connected("https://stocktake.example.org", token="stk_...") as fleet:
        for node in fleet.ledger.nodes():
            print(node.hypervisor_hostname, node.vcpus_used)
        fleet.claims.build("auto", Request(flavor=Flavor(vcpus=2, memory_mb=2048)))

`RemoteLedger` is what an agent uses whose setting `ledger` is a URL, and what commands read where `server.url` is set.
"""

from stocktake.client.fleet import Fleet, connected
from stocktake.client.ledger import RemoteLedger
from stocktake.client.transport import Transport

__all__ = ["Fleet", "RemoteLedger", "Transport", "connected"]
