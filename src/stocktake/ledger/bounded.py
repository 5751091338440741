"""
A connection to PostgreSQL that waits for no answer for ever. Invariant: after its limit the connection is closed.

The server's own limits don't help where the server, or what stands before it, says nothing more: TCP is content with a
peer whose kernel acknowledges.
"""

from collections.abc import Generator
from typing import Any, ClassVar, TypeVar

import psycopg

from stocktake.clock import SystemClock

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[Any]):
    """
    psycopg's connection, whose every exchange has a deadline.

    Attributes:
        answer_s: how long an exchange may take, in seconds.
    """

    answer_s: ClassVar[float]

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """
        Wait for an exchange to end.

        Raises:
            psycopg.OperationalError: it took too long.
        """
        return super().wait(self._limited(gen), *args, **options)

    def _limited(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        clock = SystemClock()
        until_s = clock.monotonic_s() + self.answer_s
        try:
            wants = next(gen)
            while True:
                # psycopg looks in every tenth of a second, whether anything came or not.
                ready = yield wants
                if clock.monotonic_s() >= until_s:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server gave no whole answer within {self.answer_s:g} s")
                wants = gen.send(ready)
        except StopIteration as end:
            done: T = end.value
            return done


def bounded(answer_s: float) -> type[BoundedConnection]:
    """Give a class of connections with a limit."""
    return type("BoundedConnection", (BoundedConnection,), {"answer_s": answer_s})
