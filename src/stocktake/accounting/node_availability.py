"""
Step 6, whether a node takes new machines at all. Invariant: a node whose agent is down takes none.

A service is down if its agent has not reported lately, as in Nova. One that no agent ever ran for is refreshed by hand.
"""

from datetime import datetime, timedelta

from stocktake.model.books import ComputeNode
from stocktake.model.fitting import NoRoom
from stocktake.model.workload import Service


def is_alive(service: Service, now: datetime, down_time_s: float) -> bool:
    """Say whether the agent of a service reported within the last `down_time_s` seconds."""
    seen = service.last_seen_up
    return not service.forced_down and seen is not None and now - seen <= timedelta(seconds=down_time_s)


def is_by_hand(service: Service) -> bool:
    """Say whether no agent ever ran for a service: somebody refreshes its nodes by hand."""
    return service.last_seen_up is None and not service.forced_down


def obstacles(node: ComputeNode, service: Service | None, now: datetime, down_time_s: float) -> tuple[NoRoom, ...]:
    """
    Say why a node takes no new machine, however much room it has.

    `state.down`: its agent is down or unknown. `state.disabled`: an operator said so. `state.stale`: its last refresh
    failed, so that what is free is not known.
    """
    found: list[NoRoom] = []
    if service is None:
        found.append(_obstacle("down", f"there is no service {node.host!r}"))
    elif not is_by_hand(service) and not is_alive(service, now, down_time_s):
        silent_s = int((now - service.last_seen_up).total_seconds()) if service.last_seen_up else 0
        silent = "was forced down" if service.forced_down else f"has not reported for {silent_s:,} s"
        found.append(_obstacle("down", f"the agent of {node.host} {silent}"))
    if service is not None and service.disabled:
        found.append(
            _obstacle("disabled", f"{node.host} is disabled: {service.disabled_reason or 'no reason was given'}")
        )
    if node.failure is not None:
        found.append(_obstacle("stale", f"the last refresh failed: {node.failure.text}"))
    return tuple(found)


def _obstacle(word: str, text: str) -> NoRoom:
    """Say it as a dimension that ran out: 1 node asked for, 0 of 1 free."""
    return NoRoom(what=f"state.{word}", asked=1, free=0, total=1, text=text)
