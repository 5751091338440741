"""What the scheduler does when Placement misbehaves, goes away, or is written to by others at the same time."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import asdict

from stocktake.errors import PlacementConflict, PlacementError, PlacementUnreachable, SettingsError
from stocktake.model.provider import Allocation
from stocktake.model.value import replace
from stocktake.placement import Scheduler
from tests.placement.making import Section, child, tree, with_children, with_root
from tests.placement.schedulers import EVERYBODY, Backend, agreed, http_backend, some_name
from tests.servers.placement import PASSWORD, USER, PlacementServer, free_port, private_placement

CONCURRENT = "placement.concurrent_update"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def server(placement_server: PlacementServer) -> Iterator[PlacementServer]:
    yield placement_server
    placement_server.behave()


@pytest.fixture
def backend(server: PlacementServer) -> Iterator[Backend]:
    made = http_backend(server)
    yield made
    made.other.close()


@pytest.fixture
def scheduler(backend: Backend) -> Iterator[Scheduler]:
    opened = backend.open()
    yield opened
    opened.close()


def test_given_a_conflict_once_when_synced_then_it_is_read_again_and_done(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    server.misbehave("PUT", "/inventories", status=409, code=CONCURRENT, times=1)
    assert agreed(scheduler.sync({"n": node})["n"]).problems == ()
    (there,) = scheduler.providers(root_uuid=node.root.uuid, contents=True)
    assert there.inventories.keys() == node.root.inventories.keys()


def test_given_conflicts_for_ever_when_synced_then_it_gives_up_after_bounded_tries_and_others_go_on(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    stuck, fine = tree(some_name()), tree(some_name())
    server.misbehave("PUT", f"{stuck.root.uuid}/inventories", status=409, code=CONCURRENT)
    before = scheduler.requests
    answers = scheduler.sync({"stuck": stuck, "fine": fine})
    assert isinstance(answers["stuck"], PlacementConflict)
    agreed(answers["fine"])
    assert scheduler.requests - before < 40


def test_given_a_class_gets_used_between_reading_and_writing_when_synced_then_it_is_kept(
    server: PlacementServer, backend: Backend, scheduler: Scheduler
) -> None:
    name = some_name()
    node = tree(name)
    small = with_root(node, inventories={"VCPU": node.root.inventories["VCPU"]})
    scheduler.sync({name: node})
    server.misbehave("PUT", "/inventories", status=409, code="placement.inventory.inuse", times=1)
    assert agreed(scheduler.sync({name: small})[name]).problems == ()


def test_given_an_error_500_once_when_synced_then_that_node_fails_and_the_next_pass_puts_it_right(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    trees = {str(number): tree(some_name()) for number in range(4)}
    server.misbehave("PUT", f"{trees['1'].root.uuid}/traits", status=500, times=1)
    answers = scheduler.sync(trees)
    error = answers.pop("1")
    assert isinstance(error, PlacementUnreachable)
    assert "500" in error.what
    for answer in answers.values():
        agreed(answer)
    assert agreed(scheduler.sync(trees)["1"]).writes == 1


def test_given_errors_500_for_all_when_synced_then_only_the_first_few_are_asked(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    trees = {str(number): tree(some_name()) for number in range(50)}
    server.misbehave("POST", "/resource_providers", status=503)
    answers = scheduler.sync(trees)
    assert all(isinstance(answer, PlacementUnreachable) for answer in answers.values())
    assert len(answers) == 50
    assert scheduler.requests < 10


@pytest.mark.parametrize("path", ["/resource_providers?", "/resource_providers/"])
def test_given_it_hangs_when_many_are_synced_then_one_time_limit_is_waited_for(
    server: PlacementServer, backend: Backend, path: str
) -> None:
    trees = {str(number): tree(some_name()) for number in range(20)}
    first = backend.open()
    first.sync(trees)
    server.misbehave("GET", path, how="hang")
    scheduler = backend.open(replace(backend.section, timeout_s=0.5))
    scheduler.ping()
    before = scheduler.requests
    answers = scheduler.sync(trees)
    # Each request that hangs takes the whole limit: whoever asked for every node would send 20. Before the contents of
    # one the list of all is asked for.
    assert scheduler.requests - before == (2 if path.endswith("/") else 1)
    assert all(isinstance(answer, PlacementUnreachable) for answer in answers.values())
    assert len(answers) == 20
    scheduler.close()
    first.close()


def test_given_the_answer_breaks_off_when_synced_then_the_next_pass_puts_it_right(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    scheduler.ping()
    server.misbehave("POST", "/resource_providers", how="close")
    assert isinstance(scheduler.sync({"n": node})["n"], PlacementUnreachable)
    server.behave()
    agreed(scheduler.sync({"n": node})["n"])


def test_given_it_goes_away_when_it_is_back_then_the_next_pass_puts_it_right(tmp_path: Path) -> None:
    with private_placement(tmp_path) as own:
        backend = http_backend(own)
        scheduler = backend.open()
        trees = {name: tree(name) for name in (some_name(), some_name())}
        scheduler.sync(trees)
        own.stop()
        for answer in scheduler.sync(trees).values():
            assert isinstance(answer, PlacementUnreachable)
            assert own.url in str(answer)
        with pytest.raises(PlacementUnreachable):
            scheduler.delete_tree(str(uuid.uuid4()))
        own.start()
        for answer in scheduler.sync(trees).values():
            assert agreed(answer).writes == 0
        scheduler.close()
        backend.other.close()


def test_given_allocations_keep_changing_when_a_tree_is_deleted_then_it_ends_with_a_conflict(
    server: PlacementServer, backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    scheduler.sync({"n": node})
    stuck = str(uuid.uuid4())
    backend.allocate(stuck, {node.root.uuid: {"VCPU": 1}})
    server.misbehave("PUT", f"/allocations/{stuck}", status=409, code=CONCURRENT)
    with pytest.raises(PlacementConflict):
        scheduler.delete_tree(node.root.uuid, EVERYBODY)
    server.behave()
    scheduler.delete_tree(node.root.uuid, EVERYBODY)
    assert scheduler.providers(root_uuid=node.root.uuid) == ()


def test_given_somebody_allocates_while_a_tree_is_deleted_then_it_is_tried_again(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    full = with_children(node, child(node, "0000:01:00.0"))
    scheduler.sync({"n": full})
    server.misbehave("DELETE", node.root.uuid, status=409, code="placement.resource_provider.inuse", times=1)
    scheduler.delete_tree(node.root.uuid)
    assert scheduler.providers(root_uuid=node.root.uuid) == ()


@pytest.mark.parametrize(
    ("status", "ask"),
    [
        (400, lambda scheduler: scheduler.allocate([Allocation(consumer="c")])),
        (400, lambda scheduler: scheduler.allocations("p")),
        (403, lambda scheduler: scheduler.providers(root_uuid=str(uuid.uuid4()))),
        (400, lambda scheduler: scheduler.providers()),
        (401, lambda scheduler: scheduler.ping()),
    ],
)
def test_given_a_refusal_when_anything_is_asked_then_placements_own_words_are_told(
    server: PlacementServer, scheduler: Scheduler, status: int, ask: Callable[[Scheduler], object]
) -> None:
    scheduler.ping()
    server.misbehave("*", "/", status=status)
    with pytest.raises(PlacementError, match=f"{status}: told to"):
        ask(scheduler)


def test_given_basic_credentials_when_synced_then_it_works_and_wrong_ones_are_said(
    server: PlacementServer, backend: Backend
) -> None:
    auth = {"username": USER, "password": PASSWORD}
    node = tree(some_name())
    scheduler = backend.open(replace(backend.section, auth_type="http_basic", auth=auth))
    agreed(scheduler.sync({"n": node})["n"])
    wrong = backend.open(replace(backend.section, auth_type="http_basic", auth={**auth, "password": "no"}))
    error = wrong.sync({"n": node})["n"]
    assert isinstance(error, PlacementError)
    assert "401" in error.what
    assert "placement.auth" in error.remedy
    scheduler.close()
    wrong.close()


def test_given_no_keystone_when_synced_then_it_is_unreachable() -> None:
    auth = {"auth_url": f"http://127.0.0.1:{free_port()}/v3", "username": "u", "password": "p", "project_name": "s"}
    section = Section(
        mode="remote", auth_type="password", auth={**auth, "user_domain_id": "d", "project_domain_id": "d"}
    )
    backend = Backend(section=section, other=None)  # type: ignore[arg-type]
    scheduler = backend.open()
    assert isinstance(scheduler.sync({"n": tree("n")})["n"], PlacementUnreachable)


def test_given_an_embedded_placement_when_a_second_database_is_opened_then_the_error_says_why(
    embedded_connection: str, tmp_path: Path
) -> None:
    for connection, fine in ((embedded_connection, True), (f"sqlite:///{tmp_path}/other.db", False)):
        backend = Backend(section=Section(mode="embedded", connection=connection), other=None)  # type: ignore[arg-type]
        answer = backend.open().sync({"n": tree(some_name())})["n"]
        assert isinstance(answer, SettingsError) is not fine


def run_all(arguments: Sequence[object]) -> list[list[str]]:
    """Run as many processes at once and give the errors that each met."""
    command = [sys.executable, "-m", "tests.placement.syncing"]
    running = [
        subprocess.Popen(
            [*command, json.dumps(argument)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for argument in arguments
    ]
    outputs = [process.communicate(timeout=100) for process in running]
    assert all(process.returncode == 0 for process in running), outputs
    return [json.loads(out) for out, _ in outputs]


def as_json(section: Section) -> dict[str, object]:
    return {key: value for key, value in asdict(section).items() if value is not None}


def test_given_two_processes_when_they_sync_the_same_node_then_none_fails_otherwise_than_by_conflict(
    backend: Backend, scheduler: Scheduler
) -> None:
    nodes = {some_name(): str(uuid.uuid4()) for _ in range(2)}
    section = as_json(backend.section)
    given = [{"section": section, "nodes": nodes, "rounds": 15, "seed": seed} for seed in (1, 2)]
    errors = [error for errors in run_all(given) for error in errors]
    assert [error for error in errors if not error.startswith("PlacementConflict")] == []
    for name, root_uuid in nodes.items():
        agreed(scheduler.sync({name: tree(name, root_uuid=root_uuid)})[name])


def test_given_four_processes_on_one_file_when_they_write_at_once_then_none_fails(tmp_path: Path) -> None:
    section = as_json(Section(mode="embedded", connection=f"sqlite:///{tmp_path}/placement.db"))
    given = [
        {"section": section, "nodes": {some_name(): str(uuid.uuid4()) for _ in range(3)}, "rounds": 4, "seed": seed}
        for seed in range(4)
    ]
    assert run_all(given) == [[], [], [], []]
