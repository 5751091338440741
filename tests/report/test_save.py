"""Step 7: save what changed, then make the scheduler agree; nothing unsaved reaches the scheduler."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import LedgerError, PlacementUnreachable, StocktakeError
from stocktake.ledger import DatabaseLedger, SaveOutcome, Transaction, open_ledger
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory, Provider, ProviderTree
from stocktake.model.value import replace
from stocktake.model.workload import NodeWork
from stocktake.placement import NoScheduler, Synced
from stocktake.placement.scheduler import STRICT, Guard, never
from stocktake.report.save import ROUNDS_MAX, Books, Reported, Terms, carried, changed, save, save_of, sync
from tests.context import dump
from tests.refresh.test_identity import THEIRS, a_node
from tests.servers.postgres import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

REFUSED = Problem(code="placement-refused", about="n", text="no")


class Answering(NoScheduler):
    """A scheduler that says what the test wants, once the test knows what it would say."""

    def __init__(self, answer: Synced | StocktakeError) -> None:
        self.answer = answer
        self.told: list[Mapping[str, ProviderTree]] = []

    def sync(
        self,
        trees: Mapping[str, ProviderTree],
        guard: Guard = STRICT,
        *,
        full: bool = False,
        stop: Callable[[], bool] = never,
    ) -> dict[str, Synced | StocktakeError]:
        del guard, full, stop
        self.told.append(trees)
        return dict.fromkeys(trees, self.answer)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[DatabaseLedger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock=SystemClock(), ids=RandomIds())
    yield opened
    opened.close()


def a_tree(uuid: str, *, traits: frozenset[str] = frozenset({"COMPUTE_NODE"})) -> ProviderTree:
    vcpus = Inventory(total=4, max_unit=4)
    return ProviderTree(providers=(Provider(uuid=uuid, name="n", inventories={"VCPU": vcpus}, traits=traits),))


def books(node: ComputeNode, before: ComputeNode | None = None) -> Books:
    return Books(work=NodeWork(record=before), tally=Tally(node=node, entries=()), tree=a_tree(node.uuid))


def nobody(_: Sequence[str]) -> NoReturn:
    raise AssertionError("nobody else wrote")


def test_given_what_the_scheduler_refused_when_the_next_record_is_made_then_it_is_still_said() -> None:
    before = replace(a_node(), problems=(Problem(code="other", about="n", text="gone"), REFUSED))
    after = carried(a_node(), a_tree(before.uuid), before)
    assert after.problems == (REFUSED,)


def test_given_new_names_when_the_record_is_made_then_old_and_new_ones_are_ours_until_the_scheduler_agrees() -> None:
    tallied = replace(a_node(), owned_traits=frozenset({"CUSTOM_OLD"}), owned_classes=frozenset({"CUSTOM_GONE"}))
    after = carried(tallied, a_tree(tallied.uuid), None)
    assert after.owned_traits == {"CUSTOM_OLD", "COMPUTE_NODE"}
    assert after.owned_classes == {"CUSTOM_GONE", "VCPU"}
    assert after.traits == {"COMPUTE_NODE"}


def test_given_only_other_times_when_compared_then_nothing_changed() -> None:
    node = a_node()
    assert changed(node, None)
    assert not changed(node, replace(node, updated_at=SystemClock().now()))
    assert changed(replace(node, running_vms=1), node)


def test_given_a_record_like_the_saved_one_when_saved_then_the_ledger_is_not_asked_to_write(
    ledger: DatabaseLedger,
) -> None:
    first = save(ledger, {"n": books(a_node())}, nobody, nobody)
    assert first.changed == {"n"}
    before = dump(ledger)
    again = save(ledger, {"n": books(first.saved["n"], first.saved["n"])}, nobody, nobody)
    assert (again.changed, again.saved) == (set(), first.saved)
    assert dump(ledger) == before


def test_given_a_row_that_another_changed_when_saved_then_it_is_read_and_tallied_again(ledger: DatabaseLedger) -> None:
    read = save(ledger, {"n": books(a_node())}, nobody, nobody).saved["n"]
    theirs = save(ledger, {"n": books(replace(read, running_vms=7), read)}, nobody, nobody).saved["n"]
    asked: list[Sequence[str]] = []

    def again(names: Sequence[str]) -> Mapping[str, Books]:
        asked.append(names)
        return {"n": books(replace(theirs, current_workload=3), theirs)}

    result = save(ledger, {"n": books(replace(read, current_workload=3), read)}, again, nobody)
    assert asked == [("n",)]
    assert (result.saved["n"].running_vms, result.saved["n"].current_workload) == (7, 3)


@pytest.fixture(params=["sqlite", "postgresql"])
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseLedger]:
    """A ledger on either database, which several use at once."""
    of = f"sqlite:///{tmp_path}/busy.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = open_ledger(of, clock=SystemClock(), ids=RandomIds())
    yield made
    made.close()


def test_given_a_row_that_others_change_between_every_read_and_save_when_saved_then_the_last_round_holds_it(
    busy: DatabaseLedger,
) -> None:
    first = save(busy, {"n": books(a_node())}, nobody, nobody).saved["n"]
    quiet = save(busy, {"q": books(a_node(uuid=THEIRS, name="quiet"))}, nobody, nobody).saved["q"]
    readers: list[DatabaseLedger | Transaction] = []

    def claim() -> int:
        with busy.transaction() as held:
            (row,) = held.hold([first.uuid]).values()
            return held.write_books(row, replace(row, running_vms=row.running_vms + 1), gone=(), come=()).generation

    with ThreadPoolExecutor(1) as others:
        late: list[Future[int]] = []

        def counted(reader: DatabaseLedger | Transaction, names: Sequence[str]) -> Mapping[str, Books]:
            assert names == ("n",)
            readers.append(reader)
            record = reader.work(first.host, [first.hypervisor_hostname], {})[first.hypervisor_hostname].record
            assert record is not None
            # Others never pause: they claim after each read. While the row is held, they wait.
            late.append(others.submit(claim))
            if reader is busy:
                late[-1].result(20)
            return {"n": books(replace(record, current_workload=3), record)}

        def held(names: Sequence[str]) -> tuple[Mapping[str, Books], SaveOutcome]:
            with busy.transaction() as row:
                row.lock([first.uuid])
                fresh = counted(row, names)
                wanted = save_of(fresh["n"])
                assert wanted is not None
                return fresh, row.save([wanted])

        claim()
        both = {
            "n": books(replace(first, current_workload=3), first),
            "q": books(replace(quiet, current_workload=5), quiet),
        }
        result = save(busy, both, lambda names: counted(busy, names), held)
        assert late[-1].result(20) == result.saved["n"].generation + 1

    assert result.failed == {}
    assert [reader is busy for reader in readers] == [True] * (ROUNDS_MAX - 1) + [False]
    assert (result.saved["n"].current_workload, result.saved["n"].running_vms) == (3, ROUNDS_MAX)
    now = busy.node(first.uuid)
    assert (now.current_workload, now.running_vms) == (3, ROUNDS_MAX + 1)
    assert (result.saved["q"].current_workload, result.changed) == (5, {"n", "q"})


def test_given_a_row_that_is_as_it_should_be_in_the_last_round_when_saved_then_it_is_as_read(
    ledger: DatabaseLedger,
) -> None:
    read = save(ledger, {"n": books(a_node())}, nobody, nobody).saved["n"]
    old = replace(read, generation=read.generation + 99)
    nothing = SaveOutcome(saved={}, conflicts=frozenset())
    result = save(
        ledger,
        {"n": books(replace(old, running_vms=1), old)},
        lambda _: {"n": books(read, old)},
        lambda _: ({"n": books(read, read)}, nothing),
    )
    assert (result.saved, result.changed, result.failed) == ({"n": read}, set(), {})
    assert ledger.node(read.uuid) == read


def test_given_a_node_that_is_deleted_meanwhile_when_saved_then_it_is_made_again(ledger: DatabaseLedger) -> None:
    """The driver has it still: what it is counted from is what there is."""
    read = save(ledger, {"n": books(a_node())}, nobody, nobody).saved["n"]
    ledger.delete_node(read.uuid)
    result = save(ledger, {"n": books(replace(read, running_vms=1), read)}, lambda _: {"n": books(a_node())}, nobody)
    assert (result.failed, ledger.node(read.uuid)) == ({}, result.saved["n"])


def test_given_a_row_that_others_keep_changing_when_saved_then_it_ends_and_says_so(ledger: DatabaseLedger) -> None:
    read = save(ledger, {"n": books(a_node())}, nobody, nobody).saved["n"]
    old = replace(read, generation=read.generation + 99)
    late = books(read, old)
    lost = SaveOutcome(saved={}, conflicts=frozenset({read.uuid}))
    result = save(
        ledger, {"n": books(replace(old, running_vms=1), old)}, lambda _: {"n": late}, lambda _: ({"n": late}, lost)
    )
    assert isinstance(result.failed["n"], LedgerError)
    assert result.saved == {}


def test_given_an_unsaved_node_when_synced_then_the_scheduler_is_not_told_of_it(ledger: DatabaseLedger) -> None:
    scheduler = Answering(Synced())
    sync(ledger, scheduler, Reported(books={"n": books(a_node())}), Terms())
    assert scheduler.told == [{}]


def test_given_an_agreeing_scheduler_when_synced_then_only_wanted_names_stay_ours(ledger: DatabaseLedger) -> None:
    node = carried(replace(a_node(), owned_traits=frozenset({"CUSTOM_OLD"})), a_tree(a_node().uuid), None)
    result = save(ledger, {"n": books(node)}, nobody, nobody)
    sync(
        ledger,
        Answering(Synced(writes=2, kept_classes=frozenset({"CUSTOM_HELD"}))),
        result,
        Terms(),
    )
    kept = ledger.node(node.uuid)
    assert kept.owned_traits == {"COMPUTE_NODE"}
    assert kept.owned_classes == {"VCPU", "CUSTOM_HELD"}
    assert result.writes == 2


def test_given_a_scheduler_that_is_away_when_synced_then_the_node_carries_it_until_it_is_back(
    ledger: DatabaseLedger,
) -> None:
    node = carried(a_node(), a_tree(a_node().uuid), None)
    result = save(ledger, {"n": books(node)}, nobody, nobody)
    away = PlacementUnreachable("no answer", where="the scheduler")
    sync(ledger, Answering(away), result, Terms())
    carrying = ledger.node(node.uuid)
    assert result.unsynced == {"n": away}
    assert [problem.code for problem in carrying.problems] == ["placement-unreachable"]

    again = carried(replace(carrying, problems=()), a_tree(node.uuid), carrying)
    unchanged = save(ledger, {"n": books(again, carrying)}, nobody, nobody)
    sync(ledger, Answering(away), unchanged, Terms())
    assert (unchanged.changed, ledger.node(node.uuid)) == (set(), carrying)

    back = save(ledger, {"n": books(again, carrying)}, nobody, nobody)
    sync(ledger, Answering(Synced()), back, Terms())
    assert ledger.node(node.uuid).problems == ()
