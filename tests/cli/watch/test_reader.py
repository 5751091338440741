"""Looking at the ledger: what is read, how often, and what happens while it is away."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stocktake.cli.watch.reader import Look, Reader, Watcher
from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import LedgerUnreachable
from stocktake.ledger import DatabaseLedger, NodeSave, open_ledger
from stocktake.model.books import Entry, Tally
from stocktake.model.value import replace
from tests.ledger.making import node

WAIT_S = 20.0
CLOCK = SystemClock()


class Books:
    """A ledger in a file, written beside who looks at it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.url = f"sqlite:///{file}"
        self.opened = 0

    def save(self, name: str = "one", *, reserved_mb: int = 512) -> None:
        """Save a new node with what is reserved on it."""
        entry = Entry(kind="reserved", id="host", why="x", vcpus=1, memory_mb=reserved_mb, disk_mb=1025)
        record = node(name, entries_digest=f"{name} {reserved_mb}")
        ledger = open_ledger(self.url, clock=CLOCK, ids=RandomIds())
        ledger.save([NodeSave(tally=Tally(node=record, entries=(entry,)), expected_generation=None)])
        ledger.close()

    def open(self) -> DatabaseLedger:
        self.opened += 1
        return open_ledger(self.url, clock=CLOCK, ids=RandomIds(), upgrade=False)

    def reader(self) -> Reader:
        return Reader(self.open, self.file, CLOCK, 60)


@pytest.fixture
def books(tmp_path: Path) -> Books:
    made = Books(tmp_path / "ledger.db")
    made.save()
    return made


def test_given_nodes_then_each_comes_with_its_state_and_what_is_reserved(books: Books) -> None:
    books.save("two", reserved_mb=1024)
    reader = books.reader()
    one, two = reader.read().rows
    assert (one.name, one.state.word) == ("one", "down")
    assert [amount.reserved for amount in one.resources.values()] == [1, 512, 2]
    assert two.resources["memory_mb"].reserved == 1024
    books.save("three")
    assert [row.name for row in reader.read().rows] == ["one", "three", "two"]
    assert books.opened == 1
    reader.close()


def test_given_another_file_in_its_place_then_that_one_is_read(books: Books, tmp_path: Path) -> None:
    reader = books.reader()
    assert [row.name for row in reader.read().rows] == ["one"]
    other = Books(tmp_path / "other.db")
    other.save("from elsewhere")
    other.file.rename(books.file)
    assert [row.name for row in reader.read().rows] == ["from elsewhere"]
    reader.close()


def test_given_no_file_then_it_says_so_and_makes_none(tmp_path: Path) -> None:
    books = Books(tmp_path / "ledger.db")
    with pytest.raises(LedgerUnreachable, match="there is no such file"):
        books.reader().read()
    assert not books.file.exists()
    assert books.opened == 0


class Turns:
    """A clock whose waits end when the test says so."""

    def __init__(self) -> None:
        self.turn = threading.Semaphore(0)
        self.waiting = threading.Semaphore(0)
        self.pauses_s: list[float | None] = []
        self.now_s = 0.0
        self.now = CLOCK.now

    def monotonic_s(self) -> float:
        return self.now_s

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        self.pauses_s.append(timeout_s)
        self.waiting.release()
        assert self.turn.acquire(timeout=WAIT_S)
        return event.is_set()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def watcher(books: Books, turns: Turns) -> Iterator[Watcher]:
    made = Watcher(books.reader(), turns, 1.0)
    assert turns.waiting.acquire(timeout=WAIT_S)
    yield made
    made.stop()
    turns.turn.release()


def look(watcher: Watcher, turns: Turns) -> Look:
    """Let it look once."""
    turns.turn.release()
    assert turns.waiting.acquire(timeout=WAIT_S)
    taken = watcher.taken()
    assert taken is not None
    assert watcher.taken() is None
    return taken


def test_given_a_ledger_that_goes_away_when_looked_at_then_the_last_look_stays_with_the_reason(
    books: Books, watcher: Watcher, turns: Turns
) -> None:
    first = look(watcher, turns)
    assert first.fleet is not None
    assert first.trouble == ""
    away = books.file.rename(books.file.with_name("away.db"))
    second = look(watcher, turns)
    assert (second.fleet, second.trouble) == (
        first.fleet,
        "there is no such file. `stocktake refresh` makes it.",
    )
    away.rename(books.file)
    third = look(watcher, turns)
    assert third.fleet is not None
    assert (third.trouble, [row.name for row in third.fleet.rows]) == ("", ["one"])
    assert turns.pauses_s == [0.0, 1.0, 1.0, 1.0]


def test_given_looks_that_take_long_then_half_the_time_is_pause(books: Books, turns: Turns) -> None:
    def open_slowly() -> DatabaseLedger:
        turns.now_s += 7.5
        return books.open()

    watcher = Watcher(Reader(open_slowly, books.file, CLOCK, 60), turns, 1.0)
    assert turns.waiting.acquire(timeout=WAIT_S)
    look(watcher, turns)
    assert turns.pauses_s == [0.0, 7.5]
    watcher.stop()
    turns.turn.release()


def test_given_a_bug_when_looking_then_who_asks_gets_it(books: Books, turns: Turns) -> None:
    def broken() -> DatabaseLedger:
        raise ZeroDivisionError

    watcher = Watcher(Reader(broken, books.file, CLOCK, 60), turns, 1.0)
    assert turns.waiting.acquire(timeout=WAIT_S)
    turns.turn.release()
    watcher._thread.join(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        watcher.taken()


def test_given_a_node_whose_cpus_become_dedicated_then_all_its_entries_are_read_though_they_are_the_same(
    books: Books,
) -> None:
    kept = Entry(kind="reserved", id="host", why="x", vcpus=1, memory_mb=512, disk_mb=0)
    guest = Entry(kind="instance", id=RandomIds().uuid(), why="x", vcpus=3, memory_mb=1024, disk_mb=0)
    with closing(open_ledger(books.url, clock=CLOCK, ids=RandomIds())) as ledger:
        first = node("two", vcpus=8, vcpus_used=4, entries_digest="same")
        saved = ledger.save([NodeSave(tally=Tally(node=first, entries=(kept, guest)), expected_generation=None)])
        reader = books.reader()
        assert reader.read().rows[1].resources["vcpus"].allocated == 3
        before = saved.saved[first.uuid]
        after = replace(before, owned_classes=frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"}))
        ledger.save([NodeSave(tally=Tally(node=after, entries=(kept, guest)), expected_generation=before.generation)])
        assert reader.read().rows[1].resources["vcpus"].allocated == 3
    reader.close()
