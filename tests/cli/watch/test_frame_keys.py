"""What keys do to the view."""

from functools import reduce

import pytest

from stocktake.cli.watch.frame import View, areas, pressed
from stocktake.cli.watch.table import SORTS
from tests.cli.watch.making import SMALL, fleet, view

PAGE = areas(view(*fleet(100)), SMALL).nodes
LAST = 100 - PAGE


def after(start: View, *keys: str) -> View:
    def press(one: View, key: str) -> View:
        then = pressed(one, key, SMALL)
        assert then is not None
        return then

    return reduce(press, keys, start)


@pytest.mark.parametrize(
    ("keys", "top"),
    [
        (("j",), 1),
        (("down", "down", "up"), 1),
        (("k",), 0),
        (("pgdn",), PAGE),
        ((" ", "pgdn", "pgup"), PAGE),
        (("G",), LAST),
        (("end", "j", "j", "k"), LAST - 1),
        (("G", "g"), 0),
        (("G", "home"), 0),
        (("j", "x", "resize"), 1),
        (("G", "s"), 0),
    ],
)
def test_given_keys_then_they_scroll_and_never_beyond_the_ends(keys: tuple[str, ...], top: int) -> None:
    assert after(view(*fleet(100)), *keys).top == top


def test_given_fewer_nodes_than_before_then_one_key_back_is_one_line_back() -> None:
    assert after(view(*fleet(100), top=5000), "k").top == LAST - 1


def test_given_s_then_it_goes_through_all_orders_and_big_s_goes_back() -> None:
    start = view(*fleet(3))
    assert [after(start, *"s" * times).sort for times in range(len(SORTS) + 1)] == [*SORTS, "name"]
    assert after(start, "S").sort == "problems"


def test_given_q_then_it_ends_but_not_while_a_filter_is_typed() -> None:
    start = view(*fleet(3))
    assert pressed(start, "q", SMALL) is None
    assert after(start, "/", "q", "backspace", "s", "q").pattern == "sq"


def test_given_a_filter_when_typed_then_enter_keeps_and_escape_clears_it() -> None:
    typing = after(view(*fleet(3)), "/", "0", "1")
    assert (typing.pattern, typing.typing) == ("01", True)
    kept = after(typing, "enter")
    assert (kept.pattern, kept.typing) == ("01", False)
    for cleared in (after(typing, "escape"), after(kept, "escape")):
        assert (cleared.pattern, cleared.typing) == ("", False)
    assert len(after(typing, *"x" * 500).pattern) == 64
    assert after(typing, "up", "resize") == typing
