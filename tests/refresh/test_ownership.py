"""Whose a node is: one owner, whatever comes and goes."""

import uuid
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.model.hypervisor import Candidate
from stocktake.model.workload import Service
from stocktake.refresh.ownership import Pool, Ring, divide, gives_way

POOL = {"driver": "ironic"}
S1 = {"driver": "ironic", "shard": "s1"}
S2 = {"driver": "ironic", "shard": "s2"}
GROUP = {"driver": "ironic", "conductor_group": "g"}
BOTH = {"driver": "ironic", "conductor_group": "g", "shard": "s1"}
UUIDS = [str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number))) for number in range(60)]
NODES = {uuid: Candidate(uuid=uuid) for uuid in UUIDS}


def services(*hosts: str, pool: Pool | None = POOL) -> list[Service]:
    """Services that live."""
    return [Service(uuid=host, host=host, pool=pool) for host in hosts]


def test_given_nobody_else_when_divided_then_all_is_ours() -> None:
    division = divide(NODES, {}, me="a", pool=POOL, others=())
    assert (division.mine, division.leaving) == (tuple(UUIDS), {})


def test_given_new_nodes_when_divided_then_each_is_taken_by_one() -> None:
    hosts = ("A", "b", "c")
    shares = [divide(NODES, {}, me=me, pool=POOL, others=services(*(set(hosts) - {me}))).mine for me in hosts]
    assert sorted(name for share in shares for name in share) == sorted(UUIDS)
    assert all(shares)


def test_given_a_living_owner_when_divided_then_he_reports_it_and_gives_it_away_himself() -> None:
    owners = dict.fromkeys(UUIDS, "a")
    ours = divide(NODES, owners, me="a", pool=POOL, others=services("b"))
    theirs = divide(NODES, owners, me="b", pool=POOL, others=services("a"))
    assert ours.mine == tuple(UUIDS)
    assert ours.leaving == {uuid: "b" for uuid in UUIDS if Ring("ab").owner(uuid) == "b"}
    assert theirs.mine == ()


def test_given_a_dead_owner_when_divided_then_the_ring_of_the_living_has_his_nodes() -> None:
    owners = dict.fromkeys(UUIDS, "dead")
    shares = {me: divide(NODES, owners, me=me, pool=POOL, others=services(*({"a", "b"} - {me}))).mine for me in "ab"}
    assert sorted(shares["a"] + shares["b"]) == sorted(UUIDS)
    assert shares["a"] == tuple(uuid for uuid in UUIDS if Ring("ab").owner(uuid) == "a")


@pytest.mark.parametrize(
    ("theirs", "mine", "way"),
    [
        (S1, S2, True),
        (S1, S1, False),
        (POOL, S1, True),
        (S1, POOL, False),
        (GROUP, S1, False),
        (S1, GROUP, False),
        (GROUP, BOTH, True),
        (BOTH, GROUP, False),
        ({"driver": "other"}, POOL, True),
        (None, POOL, True),
    ],
)
def test_given_a_living_owner_of_another_pool_then_he_gives_way_if_he_can_not_have_the_node(
    *, theirs: Pool | None, mine: Pool, way: bool
) -> None:
    assert gives_way(theirs, mine) is way
    division = divide(NODES, dict.fromkeys(UUIDS, "a"), me="b", pool=mine, others=services("a", pool=theirs))
    assert bool(division.mine) is way


@given(st.sampled_from([POOL, S1, S2, GROUP, BOTH]), st.sampled_from([POOL, S1, S2, GROUP, BOTH]))
def test_given_two_pools_that_may_have_a_node_in_common_then_at_most_one_takes_it_from_the_other(
    one: Mapping[str, str], other: Mapping[str, str]
) -> None:
    apart = any(one[name] != other[name] for name in one.keys() & other.keys())
    assert apart or not (gives_way(one, other) and gives_way(other, one))


@given(st.data())
def test_given_services_that_come_and_go_then_every_node_has_one_owner_and_ends_where_the_ring_says(
    data: st.DataObject,
) -> None:
    """The ledger is the table of owners; a service that dies does nothing any more."""
    owners: dict[str, str] = {}
    living: set[str] = {"a"}
    for _ in range(data.draw(st.integers(1, 8))):
        living ^= {data.draw(st.sampled_from("abcd"))}
        living = living or {"a"}
        # Each has a pass of his own, in whatever order; twice, for who is given something has it at his next.
        for me in [*data.draw(st.permutations(sorted(living))), *sorted(living)]:
            division = divide(NODES, owners, me=me, pool=POOL, others=services(*(living - {me})))
            taken = {NODES[name].uuid: me for name in division.mine}
            assert all(owners.get(uuid, me) in {me} | (set("abcd") - living) for uuid in taken)
            owners.update(taken)
            owners.update(division.leaving)
        ring = Ring(living)
        assert owners == {uuid: ring.owner(uuid) for uuid in UUIDS}


MEMBERS = st.sets(st.text(min_size=1, max_size=12).filter(str.isprintable), min_size=1, max_size=6)
KEYS = [str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number))) for number in range(400)]


@pytest.mark.parametrize(
    ("members", "owners"),
    [
        (("metal-1",), "111111111111"),
        (("metal-1", "metal-2", "metal-3"), "223311132121"),
        (("metal-3", "metal-1", "metal-2", "metal-1"), "223311132121"),
    ],
)
def test_given_members_when_asked_then_the_owners_are_those_that_tooz_names(
    members: tuple[str, ...], owners: str
) -> None:
    """Recorded from tooz 9.1; tests/system/test_ironic_agents.py asks the installed one."""
    ring = Ring(members)
    assert "".join(ring.owner(key)[-1] for key in KEYS[:12]) == owners


@given(members=MEMBERS, gone=st.integers(0, 5))
def test_given_a_member_that_goes_then_only_what_it_had_changes_hands(members: set[str], gone: int) -> None:
    leaver = sorted(members)[gone % len(members)]
    rest = members - {leaver}
    before = Ring(members)
    if not rest:
        return
    after = Ring(rest)
    for key in KEYS[:50]:
        owner = before.owner(key)
        assert after.owner(key) == owner if owner != leaver else after.owner(key) in rest


def test_given_three_members_then_each_has_a_fair_share() -> None:
    ring = Ring(["metal-1", "metal-2", "metal-3"])
    counts = [sum(ring.owner(key) == member for key in KEYS) for member in ("metal-1", "metal-2", "metal-3")]
    assert sum(counts) == len(KEYS)
    assert min(counts) > len(KEYS) / 6
