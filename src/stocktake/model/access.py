"""Who may use the fleet: a token and its role. Invariant: a token itself is never kept, only its digest."""

import hashlib
from datetime import datetime
from typing import Final, Literal

from stocktake.model.value import Value

Role = Literal["viewer", "agent", "operator"]
ANY_TOKEN: Final[frozenset[Role]] = frozenset({"viewer", "agent", "operator"})
READERS: Final[frozenset[Role]] = frozenset({"viewer", "operator"})
# For what an agent does, to its own host's rows.
AGENTS: Final[frozenset[Role]] = frozenset({"agent", "operator"})
OPERATORS: Final[frozenset[Role]] = frozenset({"operator"})


class Token(Value, frozen=True, kw_only=True):
    """
    What is known of a token.

    Attributes:
        uuid: its name; of no use for signing in.
        role: `viewer` reads, `agent` keeps the records of one host, `operator` does everything.
        host: an agent's; None for the other roles.
        note: whose it is, what for.
        expires_at: from when on it is refused; None is never.
        revoked_at: when an operator took it back.
    """

    uuid: str
    role: Role
    host: str | None = None
    note: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def good(self, now: datetime) -> bool:
        """Say whether it still lets somebody in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class WhoAmI(Value, frozen=True, kw_only=True):
    """What the token that was shown is good for; `host` is an agent's."""

    role: Role
    host: str | None
    token: str | None


def digest_of(secret: str) -> str:
    """
    Give what is kept of a token's text.

    SHA-256 once, without salt: a token is 256 random bits, so that there is nothing to guess and no table of guesses.
    """
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
