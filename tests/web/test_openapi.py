"""The document says what the routes are, and the page what the document says."""

from pathlib import Path

from tools.api_page import api_page

from stocktake.web.openapi import document
from stocktake.web.routes import ROUTES

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "reference" / "api.md"


def test_given_the_page_of_the_api_then_it_is_what_the_routes_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == api_page(), "run `make docs`"


def test_given_the_routes_then_each_is_named_once_and_explained() -> None:
    # What is hidden is not in the document, and some of it answers in several places.
    names = [route.name for route in ROUTES if not route.hidden]
    assert len(set(names)) == len(names)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert [route.name for route in ROUTES if not route.summary.endswith(".")] == []


def test_given_the_document_then_every_route_that_is_not_hidden_is_in_it_with_its_roles() -> None:
    paths = document(ROUTES)["paths"]
    for route in ROUTES:
        operation = paths.get(route.path, {}).get(route.method.lower())
        assert (operation is None) == route.hidden
        if operation is not None:
            assert ("security" in operation) == (route.roles is not None)
            assert ("401" in operation["responses"]) == (route.roles is not None)
            assert ("requestBody" in operation) == (route.body is not None)
            told = operation.get("description", "").partition("Roles: ")[2].rstrip(".")
            assert told == ", ".join(sorted(route.roles or ()))


def test_given_the_document_then_nothing_refers_to_what_is_not_there() -> None:
    api = document(ROUTES)
    known = {f"#/components/schemas/{name}" for name in api["components"]["schemas"]}

    def refers(part: object) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*(refers(one) for one in part.values()))
        if isinstance(part, list):
            return set().union(*(refers(one) for one in part))
        return set()

    assert refers(api) - known == set()
