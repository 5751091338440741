"""The nodes as lines with bars."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.cli.watch.fleet_snapshot import RESOURCES, Amount
from stocktake.cli.watch.table import SORTS, bar, figures, heading, laid_out, node_line, sums_line, text_of, width_of
from tests.cli.watch.making import NOON, fleet, problem, row


@pytest.mark.parametrize(
    ("amount", "drawn"),
    [
        (Amount(8, 0, 0), "░░░░░░░░"),
        (Amount(8, 2, 2), "▒▒░░░░░░"),
        (Amount(8, 6, 2), "▒▒████░░"),
        (Amount(8, 8, 2), "▒▒██████"),
        (Amount(8, 9, 2), "▒▒█████»"),
        (Amount(8, 99, 8), "▒▒▒▒▒▒▒»"),
        # However little is used, it is seen.
        (Amount(8000, 1, 0), "█░░░░░░░"),
        (Amount(0, 5, 0), "        "),
    ],
)
def test_given_an_amount_then_its_bar_shows_what_is_reserved_used_and_free(amount: Amount, drawn: str) -> None:
    assert text_of(bar(amount, 8)) == drawn


@given(st.builds(Amount, st.integers(0, 99), st.integers(0, 150), st.integers(0, 150)), st.integers(1, 40))
def test_given_any_amount_then_its_bar_has_its_length(amount: Amount, length: int) -> None:
    drawn = text_of(bar(amount, length))
    assert len(drawn) == length
    assert ("»" in drawn) == (0 < amount.total < amount.used)


@pytest.mark.parametrize(
    ("name", "amount", "told"),
    [
        ("vcpus", Amount(64, 12), "12/64"),
        ("memory", Amount(65536, 18944), "18.5/64"),
        ("disk", Amount(83_099, 12_301), "12.4k/83k"),
        ("memory", Amount(10_250_000, 10_240_001), "10.1k/10k"),
        ("vcpus", Amount(9_999, 9_999), "9999/9999"),
    ],
)
def test_given_an_amount_then_its_figures_are_used_and_total_and_long_ones_in_thousands(
    name: str, amount: Amount, told: str
) -> None:
    assert figures(name, amount) == told


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
    assert figures("disk", Amount(120_000, 0)) in text_of(sums_line(layout, rows))


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
    assert [word for word in words if "/" in word] == ["13/24", "1.5/48", "0/300"]
    assert len(RESOURCES) == 3
