"""The hash ring: everybody gets the same answer, and little changes hands."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.model.ring import Ring

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
