"""The backends through which the scheduler's contract is tested, and a second hand that writes past it."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stocktake.clock import Clock, SystemClock
from stocktake.placement import Scheduler
from stocktake.placement.client import PlacementClient
from stocktake.placement.embedded import Embedded
from stocktake.placement.opening import open_scheduler
from stocktake.placement.scheduler import Guard, Synced
from stocktake.placement.session import Answer, PlacementSession, open_embedded, open_remote
from tests.placement.making import Section
from tests.servers.placement import TOKEN, PlacementServer

# A ledger that knows whoever holds something.
EVERYBODY = Guard(known=lambda consumers: consumers)


@dataclass(slots=True)
class Backend:
    """One way to reach a Placement."""

    section: Section
    other: PlacementSession

    def open(self, section: Section | None = None, *, clock: Clock | None = None) -> Scheduler:
        """Open a scheduler that remembers nothing; it does not wait between retries."""
        return open_scheduler(section or self.section, clock or Hurried(), jitter=lambda: 0.0)

    def put(self, path: str, body: object) -> Answer:
        """Write as somebody else, and insist that it works."""
        answer = self.other.write("PUT", path, body)
        assert answer.fine, answer
        return answer

    def allocate(self, consumer: str, resources: dict[str, dict[str, int]], kind: str = "INSTANCE") -> None:
        """Give a new consumer resources of some providers, as a cloud's scheduler does."""
        self.put(
            f"/allocations/{consumer}",
            {
                "allocations": {there: {"resources": amounts} for there, amounts in resources.items()},
                "project_id": "p",
                "user_id": "u",
                "consumer_generation": None,
                "consumer_type": kind,
            },
        )

    def generation(self, there: str) -> int:
        """Read a provider's generation."""
        generation: int = self.other.get(f"/resource_providers/{there}").read(dict[str, object])["generation"]  # type: ignore[assignment]
        return generation


class Hurried(SystemClock):
    """The machine's clock, but nobody waits."""

    def wait(self, event: object, timeout_s: float | None) -> bool:
        """Don't."""
        del event, timeout_s
        return False


def http_backend(server: PlacementServer, **options: object) -> Backend:
    """A real server over HTTP."""
    section = Section(mode="remote", url=server.url, auth_type="admin_token", auth={"token": TOKEN}, **options)  # type: ignore[arg-type]
    other = open_remote(Section(mode="remote", url=server.url, auth_type="admin_token", auth={"token": TOKEN}))
    return Backend(section=section, other=other)


def embedded_backend(connection: str) -> Backend:
    """The real application in this process."""
    other = open_embedded(Embedded(connection, state_path=Path()))
    return Backend(section=Section(mode="embedded", connection=connection), other=other)


def some_name() -> str:
    """A node's name that no other test uses."""
    return f"node-{uuid.uuid4().hex[:12]}"


def agreed(answer: object) -> Synced:
    """Insist that a node was synced."""
    assert isinstance(answer, Synced), answer
    return answer


@dataclass(slots=True)
class Seen:
    """What Placement says of a consumer; no kind below microversion 1.38, and no generation if it holds nothing."""

    resources: dict[str, dict[str, int]]
    kind: str | None
    owner: tuple[str | None, str | None]
    generation: int | None


def seen(backend: Backend, consumer: str) -> Seen:
    """Read a consumer past the scheduler that is tested."""
    body = backend.other.get(f"/allocations/{consumer}").read(dict[str, Any])
    return Seen(
        resources={uuid: there["resources"] for uuid, there in body["allocations"].items()},
        kind=body.get("consumer_type"),
        owner=(body.get("project_id"), body.get("user_id")),
        generation=body.get("consumer_generation"),
    )


def before_writes(scheduler: Scheduler, *acts: Callable[[], object]) -> None:
    """Let somebody else act between a reading and each of the next writes."""
    assert isinstance(scheduler, PlacementClient)
    session, left = scheduler._session, list(acts)
    write = session.write

    def interrupted(*args: Any, **options: Any) -> Answer:
        if left:
            left.pop(0)()
        return write(*args, **options)

    session.write = interrupted  # type: ignore[method-assign]
