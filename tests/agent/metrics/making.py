"""Views for tests: one with something of everything."""

from stocktake.accounting.capacity import RESOURCES, ResourceTotals
from stocktake.agent.metrics.life import HOLDERS, Life, NodeFigures
from stocktake.agent.metrics.table import ScrapeView
from stocktake.telemetry import Telemetry


def figures(**fields: object) -> NodeFigures:
    """A node with a value for everything."""
    values: dict[str, object] = {
        "uuid": "aaaaaaaa-0000-4000-8000-000000000001",
        "hypervisor_type": "QEMU",
        "disk_available_least": -11,
        "resources": {
            name: ResourceTotals(
                name=name,
                resource_class=resource.resource_class,
                total=16,
                reserved=1,
                ratio=4.0,
                capacity=60,
                allocated=63,
                free=-3,
            )
            for name, resource in RESOURCES.items()
        },
        "holders": dict.fromkeys(HOLDERS, 1),
        "problems": {("cell-overfull", "warning"): 2},
        "running_guests": 3,
        "updated_at_s": 1_700_000_000.0,
        "refreshed_at_s": 1_700_000_060.0,
        **fields,
    }
    return NodeFigures(**values)  # type: ignore[arg-type]


def a_view(**nodes: NodeFigures) -> ScrapeView:
    """What a scrape shows after a pass of half a second."""
    telemetry = Telemetry()
    telemetry.passed("fine", 0.5, {"audit": 0.4, "save": 0.1})
    telemetry.error("LedgerError")
    telemetry.error("OfSomebodyElse")
    life = Life(
        started_s=0.0,
        started_at_s=1_700_000_000.0,
        interval_s=60.0,
        limit_s=180.0,
        completed_s=60.0,
        completed_at_s=1_700_000_060.0,
        ended_at_s=1_700_000_060.0,
        took_s=0.5,
        parts={"driver": "", "ledger": "locked", "placement": ""},
        nodes=nodes or {"one": figures()},
    )
    return ScrapeView(life=life, counts=telemetry.counts(), now_s=61.0)
