"""
A column's value is one of many. Invariant: the list is one parameter, however long it is.

Databases limit how many parameters a statement may have, and each length would be a statement of its own to plan.
"""

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType


class Among(FunctionElement[Any]):
    """`column IN list`, the list given as JSON text."""

    # Said to be boolean, SQLAlchemy would write `(...) = 1` for SQLite, which no index serves.
    type = NullType()
    inherit_cache = True
    name = "among"


def among(column: ColumnElement[Any], values: Iterable[str] | Iterable[int]) -> ColumnElement[bool]:
    """Say that a column's value is one of these."""
    return Among(column, _listed(values))


def _listed(values: Iterable[str] | Iterable[int]) -> BindParameter[str]:
    return bindparam(None, json.dumps(list(values)), type_=Text(), unique=True)


@compiles(Among, "sqlite")
def _sqlite(element: Among, compiler: SQLCompiler, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({listed})))"  # noqa: S608  # parts that the compiler wrote


@compiles(Among, "postgresql")
def _postgresql(element: Among, compiler: SQLCompiler, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    kind = compiler.dialect.type_compiler_instance.process(next(iter(element.clauses)).type)
    rows = f"json_array_elements_text(CAST({listed} AS json)) AS listed"
    return f"({column} IN (SELECT CAST(listed AS {kind}) FROM {rows}))"  # noqa: S608  # parts that the compiler wrote
