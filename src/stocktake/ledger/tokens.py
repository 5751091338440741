"""
Who may use the fleet through the server: the table of tokens. Invariant: what lets somebody in is never stored.

Tokens are not exported: an export gives no one access.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from stocktake.clock import Clock, Ids
from stocktake.errors import NotFound
from stocktake.ledger.engine import Database
from stocktake.ledger.tables import TOKENS
from stocktake.model.access import Role, Token

_COLUMNS = tuple(TOKENS.c[name] for name in Token.__struct_fields__)


class Tokens:
    """The tokens of one database; every call raises LedgerUnreachable and LedgerError as the ledger's do."""

    def __init__(self, database: Database, clock: Clock, ids: Ids) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids

    def all(self) -> tuple[Token, ...]:
        """Read all tokens, the first made first; revoked and expired ones too."""
        with self._database.reading() as connection:
            return tuple(map(_token, connection.execute(select(*_COLUMNS).order_by(TOKENS.c.id))))

    def any(self) -> bool:
        """Say whether there ever was a token."""
        with self._database.reading() as connection:
            return bool(connection.execute(select(func.count()).select_from(TOKENS)).scalar())

    def add(
        self, digest: str, *, role: Role, host: str | None = None, note: str = "", expires_at: datetime | None = None
    ) -> Token:
        """Remember a token by its digest."""
        made = self._clock.now()
        token = Token(uuid=self._ids.uuid(), role=role, host=host, note=note, created_at=made, expires_at=expires_at)
        with self._database.writing() as connection:
            connection.execute(insert(TOKENS).values(**msgspec.structs.asdict(token), digest=digest))
        return token

    def find(self, digest: str) -> Token | None:
        """Look a token up; whether it is still good is the caller's to ask."""
        with self._database.reading() as connection:
            row = connection.execute(select(*_COLUMNS).where(TOKENS.c.digest == digest)).first()
            return _token(row) if row else None

    def revoke(self, uuid: str) -> Token:
        """
        Take a token back; one that was stays so.

        Raises:
            NotFound: no such token.
        """
        with self._database.writing() as connection:
            there = TOKENS.c.uuid == uuid
            connection.execute(
                update(TOKENS).where(there, TOKENS.c.revoked_at.is_(None)).values(revoked_at=self._clock.now())
            )
            return _one(connection, uuid)


def _one(connection: Connection, uuid: str) -> Token:
    row = connection.execute(select(*_COLUMNS).where(TOKENS.c.uuid == uuid)).first()
    if row is None:
        raise NotFound(f"no token {uuid!r}", where="ledger", remedy="`stocktake token list` lists them.")
    return _token(row)


def _token(row: object) -> Token:
    return msgspec.convert(row._mapping, Token)  # type: ignore[attr-defined]  # noqa: SLF001  # SQLAlchemy's name
