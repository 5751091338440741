"""What counts on a node, chosen from records as the ledger chooses."""

import pytest

from stocktake.accounting.node_work import device_records, ended_consumers, select_work
from stocktake.model.workload import Place
from tests.accounting.making import ELSEWHERE, HOST, NODE, a_device, a_migration, a_resize, an_instance, uuid_of

AWAY = {"host": ELSEWHERE[0], "node": ELSEWHERE[1]}


def test_given_instances_of_several_nodes_when_selected_then_those_here_count_and_the_others_have_a_place() -> None:
    here, away, deleted = an_instance(1), an_instance(2, **AWAY), an_instance(3, deleted=True)
    other_node = an_instance(4, node="another.example.org")
    work = select_work(HOST, NODE, (here, away, deleted, other_node), ())
    assert work.record is None
    assert work.instances == (here,)
    assert work.places == {
        away.uuid: Place(host=ELSEWHERE[0], node=ELSEWHERE[1], deleted=False),
        deleted.uuid: Place(host=HOST, node=NODE, deleted=True),
        other_node.uuid: Place(host=HOST, node="another.example.org", deleted=False),
    }


def test_given_migrations_when_selected_then_those_with_an_end_here_count_and_name_their_instances() -> None:
    arriving = a_migration(1, of=1)
    leaving = a_migration(2, of=2, source_compute=HOST, source_node=NODE, dest_compute="cn-3", dest_node="n-3")
    passing = a_migration(3, of=3, dest_compute="cn-3", dest_node="n-3")
    same_host_other_node = a_migration(4, of=4, dest_node="another.example.org")
    instances = tuple(a_resize(number) for number in (1, 2, 3, 4))
    work = select_work(HOST, NODE, instances, (arriving, leaving, passing, same_host_other_node))
    assert work.migrations == (arriving, leaving)
    assert work.moving == {uuid_of(1): instances[0], uuid_of(2): instances[1]}
    assert work.instances == ()


def test_given_devices_that_instances_have_when_recorded_then_one_that_is_gone_keeps_only_its_address() -> None:
    device = a_device("0000:01:00.0")
    given = {"0000:01:00.0": (uuid_of(1), "claimed"), "0000:02:00.0": (uuid_of(2), "allocated")}
    records = device_records(given, (device, a_device("0000:03:00.0")))  # type: ignore[arg-type] # the keys are literals
    assert [(one.address, one.vendor_id, one.product_id, one.status, one.instance_uuid) for one in records] == [
        ("0000:01:00.0", "8086", "1515", "claimed", uuid_of(1)),
        ("0000:02:00.0", "", "", "allocated", uuid_of(2)),
    ]


@pytest.mark.parametrize(
    ("hidden", "new_node", "ended"),
    [
        (frozenset[str](), False, {uuid_of(1), uuid_of(2)}),
        (frozenset({uuid_of(2)}), False, {uuid_of(1)}),
        (frozenset[str](), True, set[str]()),
    ],
)
def test_given_deleted_instances_when_their_allocations_end_then_not_hidden_ones_nor_on_a_new_node(
    hidden: frozenset[str],
    new_node: bool,  # noqa: FBT001 - a parameter of the table
    ended: set[str],
) -> None:
    instances = (an_instance(1, deleted=True), an_instance(2, deleted=True, **AWAY), an_instance(3))
    assert ended_consumers(instances, hidden=hidden, new_node=new_node) == ended
