"""What claims are made on: two hosts of a made-up fleet, with cells and devices, on both databases."""

from tests.ledger.conftest import (
    empty_url,
    postgres,
    postgres_template,
    postgres_url,
    sqlite_template,
    url,
)

__all__ = ["empty_url", "postgres", "postgres_template", "postgres_url", "sqlite_template", "url"]
