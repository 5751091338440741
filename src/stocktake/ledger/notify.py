"""
Step 7a, telling agents that promises of theirs changed. Invariant: what is told is committed, and what is rolled back
is not.

A transaction collects the hosts; at its end PostgreSQL gets a NOTIFY for each, and a SQLite file, which has nobody to
notify, another `user_version`. What an agent saves itself is no promise and is not told.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, text

CHANNEL = "stocktake"
# The payload that means all hosts.
EVERYONE = ""

_OPTION = "stocktake_told"
# SQLite's `user_version` is a signed number of 32 bits.
_VERSIONS = 2**31


def begin(connection: Connection) -> None:
    """Begin to collect, for the transaction that follows."""
    connection.execution_options(**{_OPTION: set[str]()})


def tell(connection: Connection, hosts: Iterable[str | None]) -> None:
    """Note that promises on these hosts change in this transaction."""
    connection.get_execution_options()[_OPTION].update(host for host in hosts if host is not None)


def send(connection: Connection) -> None:
    """Say it, as the transaction's last act."""
    hosts = connection.get_execution_options()[_OPTION]
    if not hosts:
        return
    if connection.dialect.name == "sqlite":
        version = read_version(connection.exec_driver_sql("PRAGMA user_version").scalar())
        connection.exec_driver_sql(f"PRAGMA user_version = {(version + 1) % _VERSIONS}")
        return
    notices = text("SELECT pg_notify(:channel, host) FROM unnest(CAST(:hosts AS text[])) AS host")
    connection.execute(notices, {"channel": CHANNEL, "hosts": sorted(hosts)})


def read_version(answer: object) -> int:
    """Take the answer to `PRAGMA user_version`."""
    assert isinstance(answer, int), "SQLite always has one"
    return answer
