"""
What others may watch: the metrics, the health, and the HTTP server that shows them. Invariant: a scrape asks no
hypervisor and no database; it reads what the last pass left.
"""

from stocktake.agent.metrics.life import Health, Life, NodeFigures, after, health, limit_s, parts_after

__all__ = ["Health", "Life", "NodeFigures", "after", "health", "limit_s", "parts_after"]
