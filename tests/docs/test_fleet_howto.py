"""docs/howto/fleet.md, followed: two copies behind a real nginx that reads the page's own configuration."""

import re
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import trustme

from tests.servers.fleets import stocked
from tests.servers.nginx import nginx
from tests.servers.postgres import postgres, postgres_url
from tests.servers.serve import HOST, Served, headers_of, served

__all__ = ["postgres", "postgres_url"]

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "fleet.md"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two copies, and a client that asks through nginx."""

    copies: tuple[Served, Served]
    client: httpx2.Client


def configuration(directory: Path, copies: tuple[Served, Served], authority: trustme.CA) -> str:
    """Take nginx's configuration from the page, for these copies and a free port."""
    made = authority.issue_cert("stocktake.example.org", "127.0.0.1")
    made.cert_chain_pems[0].write_to_path(directory / "stocktake.pem")
    made.private_key_pem.write_to_path(directory / "stocktake.key")
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "the page shows a configuration"
    page = found[1].replace("/etc/nginx", str(directory))
    for shown, copy in zip(("127.0.0.1:8790", "127.0.0.1:8791"), copies, strict=True):
        assert shown in page
        page = page.replace(shown, copy.url.rpartition("//")[2])
    return page


@pytest.fixture
def fleet(tmp_path: Path, postgres_url: str) -> Iterator[Fleet]:
    """Two copies on one PostgreSQL."""
    stocked(tmp_path, postgres_url)
    authority = trustme.CA()
    trusted = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        served(tmp_path / "one", postgres_url) as one,
        served(tmp_path / "two", postgres_url) as two,
        nginx(tmp_path, configuration(tmp_path, (one, two), authority)) as url,
        httpx2.Client(base_url=url, verify=trusted, timeout=30) as client,
    ):
        yield Fleet(copies=(one, two), client=client)


def test_given_two_copies_behind_nginx_when_each_is_killed_in_turn_then_no_request_fails(fleet: Fleet) -> None:
    client, shown = fleet.client, headers_of("operator")
    assert client.get("/v1/nodes").status_code == 401
    assert len(client.get("/v1/nodes", headers=shown).json()["items"]) == 8
    for copy in fleet.copies:
        copy.stop(signal.SIGKILL)
        for _ in range(5):
            assert client.get("/v1/nodes", headers=shown).status_code == 200
            assert client.post(f"/v1/services/{HOST}/enable", headers=shown).status_code == 200
        copy.start()
    assert all(one["address"] == "127.0.0.1" for copy in fleet.copies for one in copy.records("stocktake.audit"))


def test_given_a_page_behind_nginx_when_it_writes_then_its_own_site_is_known_by_the_name_it_was_asked_by(
    fleet: Fleet,
) -> None:
    shown = headers_of("operator")
    path = f"/v1/services/{HOST}/enable"
    own = {"Host": "stocktake.example.org", "Origin": "https://stocktake.example.org"}
    assert fleet.client.post(path, headers={**shown, **own}).status_code == 200
    other = {**own, "Origin": "https://evil.example"}
    assert fleet.client.post(path, headers={**shown, **other}).status_code == 403
