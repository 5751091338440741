"""An agent as it is set up on a host, with nothing but a server's URL and a token: ledger, Placement and all."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.cli.session import open_context
from stocktake.client import connected
from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import AccessDenied, IdentityError
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import placement_of, read_settings
from tests.context import REPORT
from tests.servers.serve import HOST, OTHER_HOST, Served, secret_of, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), placement__mode="embedded") as made:
        yield made


@contextlib.contextmanager
def an_agent(folder: Path, server: Served, host: str, token: str) -> Iterator[Context]:
    """Open what an agent works with."""
    folder.mkdir(exist_ok=True)
    (folder / "fleet.json").write_text(json.dumps({"nodes": [{"name": f"{host}.example", "resources": REPORT}]}))
    flags = {
        "host": host,
        "state_path": folder,
        "compute_driver": "fake",
        "fake.fleet": folder / "fleet.json",
        "ledger": server.url,
        "server.token": secret_of(token),
    }
    context = open_context(read_settings(None, {}, flags), SystemClock(), RandomIds())
    try:
        yield context
    finally:
        context.close()


def test_given_a_url_and_a_token_when_refreshed_then_ledger_and_placement_have_the_node(
    server: Served, tmp_path: Path
) -> None:
    with an_agent(tmp_path / "one", server, HOST, "agent") as context:
        assert placement_of(context.settings).url == f"{server.url}/placement"
        first = refresh(context)
        assert (first.fine, first.failed, first.unsynced) == (True, {}, {})
        assert first.writes > 0
        assert refresh(context).writes == 0
    node = first.nodes[f"{HOST}.example"]
    with server.client("operator") as client:
        stock = client.get(f"/placement/resource_providers/{node.uuid}/inventories").json()["inventories"]
        assert stock["VCPU"]["total"] == node.vcpus
    with connected(server.url, token=secret_of("viewer")) as fleet:
        (shown,) = [one for one in fleet.nodes() if one.uuid == node.uuid]
        assert (shown.hypervisor_hostname, shown.state) == (f"{HOST}.example", "manual")


def test_given_a_vanished_node_when_refreshed_then_its_provider_goes_too(server: Served, tmp_path: Path) -> None:
    with an_agent(tmp_path / "two", server, OTHER_HOST, "other") as context:
        node = refresh(context).nodes[f"{OTHER_HOST}.example"]
        (tmp_path / "two" / "fleet.json").write_text(json.dumps({"nodes": []}))
        assert refresh(context).deleted == [node.hypervisor_hostname]
        assert context.ledger.deleted_nodes(OTHER_HOST) == ()
    with server.client("operator") as client:
        assert client.get(f"/placement/resource_providers/{node.uuid}").status_code == 404


def test_given_another_hosts_token_or_identity_when_refreshed_then_nothing_is_written(
    server: Served, tmp_path: Path
) -> None:
    folder = tmp_path / "three"
    with an_agent(folder, server, "third", "agent") as context, pytest.raises(AccessDenied):
        refresh(context)
    with an_agent(tmp_path / "one", server, HOST, "agent") as context:
        refresh(context)
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "compute_id").write_text((tmp_path / "one" / "compute_id").read_text())
    with an_agent(tmp_path / "four", server, OTHER_HOST, "other") as context, pytest.raises(IdentityError, match=HOST):
        refresh(context)
