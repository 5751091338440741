"""Nodes as Ironic's API tells them: one that can't be read is its own trouble."""

import pytest

from stocktake.drivers.ironic.api import Node, Unreadable, read_node, read_updated_at
from stocktake.errors import DriverError

UUID = "6f1e2a30-0000-4000-8000-000000000001"


def test_given_a_node_with_more_than_is_read_then_the_rest_is_left_out() -> None:
    text = f'{{"uuid": "{UUID}", "name": "a", "links": [], "traits": ["CUSTOM_A"], "properties": {{"x": {{}}}}}}'
    node = read_node(text.encode(), where="ironic")
    assert node == Node(uuid=UUID, name="a", traits=("CUSTOM_A",), properties={"x": {}})


@pytest.mark.parametrize("wrong", ['"maintenance": "yes"', '"traits": 7', '"properties": []'])
def test_given_a_node_that_makes_no_sense_then_it_alone_is_unreadable(wrong: str) -> None:
    node = read_node(f'{{"uuid": "{UUID}", {wrong}}}'.encode(), where="ironic")
    assert isinstance(node, Unreadable)
    assert (node.uuid, node.error.where) == (UUID, UUID)


@pytest.mark.parametrize("text", ["{}", '{"uuid": 7}', '{"uuid": "x"}', '{"uuid": "../nodes"}', "[]", "<html>"])
def test_given_something_without_a_uuid_then_this_is_no_ironic(text: str) -> None:
    with pytest.raises(DriverError, match="can't be understood"):
        read_node(text.encode(), where="ironic")


@pytest.mark.parametrize(("said", "at"), [("null", None), ('"2026-01-02T03:04:05+00:00"', "2026-01-02T03:04:05+00:00")])
def test_given_a_node_then_its_last_change_is_read_as_it_is_told(said: str, at: str | None) -> None:
    assert read_updated_at(f'{{"uuid": "{UUID}", "updated_at": {said}}}'.encode(), where="ironic") == at
