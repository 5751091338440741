"""
What others may watch: the metrics, the health, and the HTTP server that shows them. Invariant: a scrape asks no
hypervisor and no database; it reads what the last pass left.
"""

from stocktake.agent.metrics.figures import Life, NodeFigures, after, parts_after
from stocktake.agent.metrics.health import Health, health, limit_s

__all__ = ["Health", "Life", "NodeFigures", "after", "health", "limit_s", "parts_after"]
