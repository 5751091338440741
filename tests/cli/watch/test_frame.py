"""The whole picture, in any size."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.cli.watch.frame import Size, View, areas, frame, last_top, problem_kinds
from stocktake.cli.watch.table import SORTS, text_of, width_of
from tests.cli.watch.making import LARGE, NOON, SMALL, change, fleet, picture, problem, row, snapshot, view

AWAY = "unable to open database file. Check that the database runs"


def test_given_a_fleet_on_a_small_terminal_then_it_is_this_picture() -> None:
    rows = [
        row("node-1", vcpus_used=6, memory_mb_used=9216, local_gb_used=35, running_vms=2),
        row("node-2", vcpus_used=27, running_vms=4, problems=(problem(severity="error"), problem(about="other"))),
        row("node-3", word="stale", reason="no answer within 5 s", memory_mb_used=1024),
    ]
    assert picture(view(*rows, changes=(change(7), change(3)))) == [
        "stocktake watch  3 nodes, 3 problems  …var/lib/stocktake/ledger.db  12:00:00 UTC",
        "NODE▲    STATE  VCPUS             MEMORY GiB       DISK GB            VMS  PROB",
        "node-1   up     ▒██│░░░░░░░  4/24 ▒█████░░░░░ 8/15 ▒███░░░░░░░ 25/90    2     0",
        "node-2   up     ▒██│██████» 25/24 ▒░░░░░░░░░░ 0/15 ▒░░░░░░░░░░  0/90    4     3",
        "node-3   stale  ▒░░│░░░░░░░  0/24 ▒░░░░░░░░░░ 0/15 ▒░░░░░░░░░░  0/90    0     0",
        "3 nodes         ▒██│█░░░░░░ 29/72 ▒██░░░░░░░░ 8/45 ▒█░░░░░░░░ 25/270    6     3",
        "── PROBLEMS (and 1 more kind: see `stocktake nodes`) ───────────────────────────",
        "error some-code  node-2: it is wrong",
        "stale  node-3: no answer within 5 s",
        "warning over-allocated  node-2: 25 vCPUs are allocated, the capacity is 24",
        "── CHANGES ─────────────────────────────────────────────────────────────────────",
        "12:00:00 node-00007  vCPUs 7 → 8",
        "12:00:00 node-00003  vCPUs 3 → 4",
        *[""] * 10,
        "q quit  j k scroll  s sort: name  / filter  ▒ reserved █ allocated ░ free",
    ]


VIEWS = st.builds(
    lambda count, wrong, **fields: view(
        *(replace(one, node=one.node) for one in fleet(count)),
        *(row(f"bad-{number}", problems=(problem(code=f"code-{number}"),)) for number in range(wrong)),
        **fields,
    ),
    count=st.sampled_from([0, 1, 2, 5, 24, 60]),
    wrong=st.integers(0, 6),
    changes=st.integers(0, 40).map(lambda count: tuple(change(number) for number in range(count))),
    sort=st.sampled_from(list(SORTS)),
    top=st.integers(0, 70),
    trouble=st.sampled_from(["", AWAY]),
    pattern=st.sampled_from(["", "node-0000", "nobody"]),
    typing=st.booleans(),
)


@given(VIEWS, st.builds(Size, st.integers(1, 220), st.integers(1, 60)))
def test_given_anything_on_any_screen_then_the_picture_has_its_rows_and_fits(of: View, size: Size) -> None:
    lines = frame(of, size)
    assert len(lines) == size.rows
    assert all(width_of(line) <= size.columns for line in lines)
    assert all(text_of(line).isprintable() for line in lines)


@given(VIEWS, st.integers(6, 60))
def test_given_any_fleet_when_scrolled_from_end_to_end_then_every_node_is_seen(of: View, rows: int) -> None:
    of, size = replace(of, pattern="", typing=False), Size(120, rows)
    assert of.fleet is not None
    found: set[str] = set()
    for top in range(last_top(of, size) + 1):
        given_nodes = areas(of, size).nodes
        lines = picture(replace(of, top=top), size)
        start = 2 + bool(of.trouble)
        found |= {line.split()[0] for line in lines[start : start + given_nodes] if line}
    assert {one.name for one in of.fleet.rows} <= found


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x50"])
def test_given_more_nodes_than_rows_then_problems_and_changes_keep_their_places(size: Size) -> None:
    wrong = [row(f"x-{number}", problems=(problem(code=f"code-{number}"),)) for number in range(20)]
    changes = tuple(change(number) for number in range(30))
    given_rows = areas(view(*fleet(1000), *wrong, changes=changes), size)
    assert given_rows.problems >= 3
    assert given_rows.changes >= 4
    assert given_rows.nodes >= 10
    lines = picture(view(*fleet(1000), *wrong, changes=changes), size)
    assert lines[-1].endswith(f"1-{given_rows.nodes} of 1020")
    assert any("more kinds" in line for line in lines)


def test_given_an_empty_ledger_then_it_says_what_to_do() -> None:
    assert "`stocktake refresh` takes stock" in "\n".join(picture(view()))


def test_given_one_node_then_there_are_no_sums() -> None:
    assert not any("1 node " in line for line in picture(view(row()))[2:])


def test_given_a_ledger_that_is_away_then_the_picture_says_so_and_how_old_it_is() -> None:
    lines = picture(view(*fleet(3), trouble=AWAY, now=NOON + timedelta(seconds=75)))
    assert lines[1].startswith("LEDGER UNREACHABLE, figures are 1 min 15 s old: unable to open")
    assert lines[3].startswith("node-00000")


def test_given_a_ledger_that_never_answered_then_that_is_all_there_is() -> None:
    lines = picture(view(fleet=None, trouble=AWAY))
    assert lines[1].startswith("NO LEDGER: unable to open database file.")
    assert not any(lines[2:-1])


def test_given_a_filter_then_only_what_has_it_is_shown_and_the_keys_say_so() -> None:
    rows = [row("alpha"), row("beta", word="down"), row("gamma", host="host-of-ALPHA")]
    lines = picture(view(*rows, pattern="alpha"))
    assert [line.split()[0] for line in lines[2:4]] == ["alpha", "gamma"]
    assert "/ filter: alpha" in lines[-1]
    assert [line.split()[0] for line in picture(view(*rows, pattern="down"))[2:3]] == ["beta"]
    assert "No node has 'x' in its name" in picture(view(*rows, pattern="x"))[1]
    assert picture(view(*rows, pattern="al", typing=True))[-1] == "filter: al▏  Enter keeps, Esc clears"


def test_given_the_same_trouble_on_many_nodes_then_it_is_told_once_the_worst_first() -> None:
    grave = problem(code="grave", severity="error")
    rows = [row(f"n{number}", problems=(problem(), *((grave,) if number == 4 else ()))) for number in range(5)]
    told = problem_kinds(
        snapshot(*rows, row("off", off="new kernel"), row("down", word="down", reason="silent for 2 min"))
    )
    assert [(one.word, one.nodes[:1], len(one.nodes), one.text) for one in told] == [
        ("down", ("down",), 1, "silent for 2 min"),
        ("error grave", ("n4",), 1, "it is wrong"),
        ("warning some-code", ("n0",), 5, "it is wrong"),
        ("disabled", ("off",), 1, "new kernel"),
    ]
    assert any("warning some-code  n0, n1, n2 and 2 more: it is wrong" in line for line in picture(view(*rows), LARGE))


def test_given_no_number_of_rows_then_everything_is_shown_without_keys() -> None:
    lines = picture(view(*fleet(300), changes=()), Size(80))
    assert len([line for line in lines if line.startswith("node-")]) == 300
    assert "▒ reserved █ allocated ░ free │ total" in lines
    assert not any("quit" in line or "CHANGES" in line for line in lines)


def test_given_names_that_would_steer_the_terminal_then_they_are_shown_and_do_not() -> None:
    evil = row("\x1b[2Jevil", problems=(problem("\x1b]0;title\x07"),))
    text = "\n".join(picture(view(evil, changes=(replace(change(1), node="\x1b[H", text="\r"),)), LARGE))
    assert "\x1b" not in text
    assert "\\x1b[2Jevil" in text
