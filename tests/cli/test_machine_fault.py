"""What the machine refuses, a disk or memory, is one sentence and exit code 3, never a page of Python."""

import errno

import pytest

from stocktake.cli.main import _machine_fault
from stocktake.errors import exit_code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "there is not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "there is not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device (disk /"),
        (OSError(errno.ENOSPC, "No space left on device"), "what the output goes to"),
        (OSError(errno.EACCES, "Permission denied", b"/tmp/x"), "/tmp/x: Permission denied (disk /"),
    ],
)
def test_given_what_the_machine_refuses_when_named_then_it_says_what_where_and_what_to_do(
    error: OSError | MemoryError | RuntimeError, said: str
) -> None:
    named = _machine_fault(error)
    assert said in str(named)
    assert exit_code(named) == 3
