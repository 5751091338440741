"""The servers that only some of these tests need."""

from tests.servers.postgres import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
