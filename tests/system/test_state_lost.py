"""What the agent keeps is removed or replaced while it runs: it says so in the next pass, and makes nothing anew."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.context import Fleet, a_guest
from tests.system.running import Host
from tests.system.scraping import health

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"


def removed(path: Path) -> None:
    path.rename(path.parent.parent / f"away-{path.name}")


def replaced(path: Path) -> None:
    """By a copy, as from a backup: nobody who has the old one open would notice."""
    removed(path)
    away = path.parent.parent / f"away-{path.name}"
    (shutil.copytree if away.is_dir() else shutil.copy2)(away, path)


def put_back(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    (path.parent.parent / f"away-{path.name}").rename(path)


def listing(path: Path) -> set[str]:
    """Name what is there, without SQLite's own files beside a database."""
    names = {str(one.relative_to(path)) for one in path.rglob("*")} if path.is_dir() else set()
    return {name for name in names if not name.endswith(("-wal", "-shm", "-journal"))}


@pytest.mark.parametrize(
    ("what", "taken", "said"),
    [
        ("", removed, ("the directory was removed while the agent runs", "state-away")),
        ("", replaced, ("another directory took its place while the agent runs", "state-away")),
        ("compute_id", removed, ("it was removed while the agent runs", "state-away")),
        ("ledger.db", removed, ("the file was removed while it was open", "ledger-away")),
        ("ledger.db", replaced, ("another file took the place of the one that is open", "ledger-away")),
        ("placement.db", removed, ("the file was removed while it was open", "placement-away")),
        ("placement.db", replaced, ("another file took the place of the open one", "placement-away")),
    ],
)
def test_given_an_agent_when_what_it_keeps_is_taken_away_then_it_says_so_makes_nothing_and_goes_on_once_it_is_back(
    tmp_path: Path, fleet: Fleet, what: str, taken: Callable[[Path], None], said: tuple[str, str]
) -> None:
    fleet.has("one", guests=[a_guest(GUEST)])
    state = tmp_path / "of" / "state"
    host = Host(tmp_path / "settings", {"host": "alpha", "compute_driver": "fake", "fake.fleet": str(fleet.path)})
    host.set(state_path=str(state), metrics__listen="127.0.0.1:0", update_resources_interval=1, report_interval=1)
    lost = state / what if what else state
    with host.agent("-vv", environ={"STOCKTAKE_STATE_PATH": str(state)}) as agent:
        agent.until_said("passed")
        agent.until(lambda: health(agent)[0] == 200)
        taken(lost)
        # Everything is read back and written again where Placement is concerned.
        fleet.has("one", report={"vcpus": 32}, guests=[a_guest(GUEST)])
        there = listing(tmp_path / "of")
        agent.until_said(said[0])
        agent.until(lambda: health(agent)[0] == 503)
        assert said[1] in {one["code"] for one in health(agent)[1]["reasons"]}
        failed = agent.count("StateLost") + agent.count("LedgerUnreachable") + agent.count("PlacementUnreachable")
        assert failed > 0
        assert listing(tmp_path / "of") == there
        put_back(lost)
        agent.until_said("fine again")
        agent.until(lambda: health(agent)[0] == 200)
        assert agent.count("Traceback") == 0, agent.text
    assert host.ask("nodes")[0]["vcpus"] == 32
