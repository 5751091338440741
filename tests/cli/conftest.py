"""A program on a fresh state path, and one whose fleet was taken stock of."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.program import Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """One that never ran."""
    return Program(tmp_path)


@pytest.fixture
def fleet(tmp_path: Path) -> Program:
    """Eight nodes with instances, migrations, orphans and misplaced guests, after its agent's first pass."""
    program = Program(tmp_path, nodes=8)
    program.promise(datetime.now(UTC))
    result = program.run("agent", "--once", "--quiet")
    assert result.code == 0, result
    return program
