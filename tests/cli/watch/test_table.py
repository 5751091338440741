"""The nodes as lines with bars."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.capacity import ResourceTotals, capacity_of
from stocktake.cli.watch.table import (
    SORTS,
    bar_line,
    figures,
    heading,
    laid_out,
    node_line,
    sums_line,
    text_of,
    width_of,
)
from tests.cli.watch.making import NOON, fleet, problem, row


def amount(
    total: int = 8, allocated: int = 0, reserved: int = 0, ratio: float = 1.0, name: str = "vcpus"
) -> ResourceTotals:
    """A resource of one node."""
    capacity = capacity_of(total, reserved, ratio)
    return ResourceTotals(
        name=name,
        resource_class="X",
        total=total,
        reserved=min(reserved, total),
        ratio=ratio,
        capacity=capacity,
        allocated=allocated,
        free=capacity - allocated,
    )


@pytest.mark.parametrize(
    ("shown", "drawn"),
    [
        (amount(8, 0, 0), "░░░░░░░░"),
        (amount(8, 0, 2), "▒▒░░░░░░"),
        (amount(8, 4, 2), "▒▒████░░"),
        (amount(8, 6, 2), "▒▒██████"),
        (amount(8, 7, 2), "▒▒█████»"),
        (amount(8, 99, 8), "▒▒▒▒▒▒▒»"),
        # Where more may be given out than there is, the hardware's total is marked.
        (amount(4, 0, 0, 2.0), "░░░░│░░░"),
        (amount(4, 6, 0, 2.0), "████│█░░"),
        (amount(4, 9, 0, 2.0), "████│██»"),
        # However little is allocated, it is seen.
        (amount(8000, 1, 0), "█░░░░░░░"),
        (amount(0, 5, 0), "        "),
    ],
)
def test_given_an_amount_then_its_bar_shows_what_is_reserved_allocated_and_free(
    shown: ResourceTotals, drawn: str
) -> None:
    assert text_of(bar_line(shown, 8)) == drawn


@given(
    st.builds(amount, st.integers(0, 99), st.integers(0, 150), st.integers(0, 150), st.sampled_from((0.5, 1.0, 4.0))),
    st.integers(1, 40),
)
def test_given_any_amount_then_its_bar_has_its_length(shown: ResourceTotals, length: int) -> None:
    drawn = text_of(bar_line(shown, length))
    assert len(drawn) == length
    most = shown.reserved + shown.capacity
    assert ("»" in drawn) == (shown.total > 0 and most > 0 and shown.allocated > shown.capacity)


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (amount(64, 12), "12/64"),
        (amount(64, 12, 0, 4.0), "12/256"),
        (amount(65536, 18944, name="memory_mb"), "18.5/64"),
        (amount(83_099, 12_301, name="local_gb"), "12.4k/83k"),
        (amount(10_250_000, 10_240_001, name="memory_mb"), "10.1k/10k"),
        (amount(9_999, 9_999), "9999/9999"),
    ],
)
def test_given_an_amount_then_its_figures_are_allocated_and_capacity_and_long_ones_in_thousands(
    shown: ResourceTotals, told: str
) -> None:
    assert figures(shown) == told


@pytest.mark.parametrize("columns", [70, 80, 100, 120, 200, 300])
def test_given_room_for_bars_then_all_lines_are_as_wide_as_the_layout_and_fit(columns: int) -> None:
    rows = fleet(30)
    layout = laid_out(rows, columns)
    assert layout.bar >= 4
    assert layout.width <= columns
    lines = [heading(layout, "name"), *(node_line(layout, one, NOON) for one in rows)]
    assert {width_of(line) for line in lines} == {layout.width}
    assert "…" not in text_of(sums_line(layout, rows))
    assert layout.changed == (11 if columns >= 120 else 0)


def test_given_long_names_and_little_room_then_the_domain_is_left_out_where_that_is_clear() -> None:
    rows = [row(f"compute-{number}.rack-4.example.org") for number in range(9)]
    assert laid_out(rows, 80).short
    assert not laid_out(rows, 200).short
    twins = [*rows, row("compute-1.rack-5.example.org")]
    assert not laid_out(twins, 80).short


def test_given_no_room_for_bars_then_figures_are_whole() -> None:
    rows = fleet(1200)
    layout = laid_out(rows, 55)
    assert layout.bar == 0
    assert "1,200 nodes" in text_of(sums_line(layout, rows))
    assert figures(amount(108_000, 0, name="local_gb")) in text_of(sums_line(layout, rows))


def test_given_several_hosts_and_room_then_they_are_shown() -> None:
    rows = [row(f"node-{number}", host=f"ironic-{number % 2}") for number in range(4)]
    layout = laid_out(rows, 200)
    assert text_of(heading(layout, "name")).split()[-2:] == ["HOST", "CHANGED"]
    assert "ironic-1" in text_of(node_line(layout, rows[1], NOON))
    assert laid_out(rows, 80).host == 0


def test_given_an_order_then_the_largest_comes_first_and_its_title_has_an_arrow() -> None:
    rows = [
        row("a", vcpus_used=1, memory_mb_used=9000, local_gb_used=5, running_vms=1),
        row("b", vcpus_used=7, memory_mb_used=600, local_gb_used=50, running_vms=3, problems=(problem(),)),
        row("c", vcpus_used=3, memory_mb_used=7000, local_gb_used=70, running_vms=2, word="down"),
    ]
    orders = {name: "".join(one.name for one in sorted(rows, key=key)) for name, key in SORTS.items()}
    assert orders == {"name": "abc", "vcpus": "bca", "memory": "acb", "disk": "cba", "vms": "bca", "problems": "cba"}
    layout = laid_out(rows, 80)
    for name in SORTS:
        title = text_of(heading(layout, name))
        assert title.count("▲") + title.count("▼") == 1, name


def test_given_a_node_that_is_disabled_then_its_state_says_so_unless_it_is_worse() -> None:
    rows = [row("a", off="x"), row("b", off="x", word="down"), row("c")]
    layout = laid_out(rows, 80)
    assert [text_of(node_line(layout, one, NOON)).split()[1] for one in rows] == ["disabled", "down", "up"]


def test_given_a_fleet_then_its_sums_are_those_of_its_nodes() -> None:
    rows = fleet(3)
    words = text_of(sums_line(laid_out(rows, 80), rows)).split()
    assert words[:2] == ["3", "nodes"]
    assert [word for word in words if "/" in word] == ["37/72", "0/45", "0/270"]
