"""
A process that is killed with -9 where it is told to.

Whatever others can see of it is what it asked of the ledger and of Placement; so these are the places where a kill may
make a difference: before every statement and commit, before every request, and after its answer. A request whose answer
was waited for leaves nothing that would happen later.
"""

import http.client
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from sqlalchemy import Engine, event


def ended_or_killed(work: Callable[[], object], at: int) -> str:
    """
    Do something in a process of its own, and kill that when it comes to the so many-th place.

    Returns:
        Where it was killed, or that it ended before.

    Raises:
        AssertionError: it failed before it was killed; the process has written its traceback to stderr.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Newer Pythons warn of threads: those that there are wait, and the new process touches nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_killed(work, at)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return f"killed at {at}"
    assert os.WEXITSTATUS(status) == 0, "the process that was to be killed failed before"
    return f"ended before {at}"


def _be_killed(work: Callable[[], object], at: int) -> NoReturn:
    left = at

    def passes(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
            while True:
                signal.pause()

    try:
        for name in ("before_cursor_execute", "commit"):
            event.listen(Engine, name, passes)
        putrequest, getresponse = http.client.HTTPConnection.putrequest, http.client.HTTPConnection.getresponse

        def asks(connection: http.client.HTTPConnection, *arguments: Any, **named: Any) -> None:
            passes()
            putrequest(connection, *arguments, **named)

        def is_answered(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
            answer = getresponse(connection)
            passes()
            return answer

        http.client.HTTPConnection.putrequest = asks  # type: ignore[method-assign,assignment]
        http.client.HTTPConnection.getresponse = is_answered  # type: ignore[method-assign,assignment]
        work()
    except BaseException:  # noqa: BLE001  # nothing may go on in this process as if it were the other
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
