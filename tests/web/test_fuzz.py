"""
Whatever its document allows and forbids is asked of the real server: never a 5xx, never an answer of another form.

`STOCKTAKE_TEST_FUZZ_S` makes it last longer.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import open_ledger
from stocktake.web.openapi import document
from stocktake.web.routes import ROUTES
from tests.servers.serve import Served, secret_of, served

SECONDS = int(os.environ.get("STOCKTAKE_TEST_FUZZ_S", "6"))
_SHOWN = 80


@pytest.mark.timeout(SECONDS * 4 + 120)
def test_given_whatever_the_document_allows_and_forbids_when_asked_then_answers_are_as_described(
    fleet_url: str, tmp_path: Path
) -> None:
    name_what_is_there(tmp_path, fleet_url)
    with served(tmp_path, fleet_url) as server:
        asked(server, f"{server.url}/v1/openapi.json", SECONDS)


@pytest.mark.timeout(SECONDS * 4 + 120)
def test_given_whatever_comes_to_the_routes_for_agents_when_asked_then_it_is_no_mistake_of_ours(
    fleet_url: str, tmp_path: Path
) -> None:
    """It is in no document, being for programs of ours: here it is, what a driver says included, which is anything."""
    rpc = [route for route in ROUTES if route.path.startswith("/v1/ledger/")]
    shown = document([replace(route, hidden=False) for route in rpc])
    (tmp_path / "rpc.json").write_bytes(msgspec.json.encode(shown))
    with served(tmp_path, fleet_url) as server:
        asked(
            server,
            str(tmp_path / "rpc.json"),
            max(SECONDS // 2, 1),
            "--url",
            server.url,
            "--checks",
            "not_a_server_error",
            # One of them is a stream without end.
            "--request-timeout",
            "1",
        )


def asked(server: Served, document_: str, seconds: int, *more: str) -> None:
    """Ask what a document describes for a while."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            document_,
            "--header",
            f"Authorization: Bearer {secret_of('operator')}",
            "--max-time",
            str(seconds),
            "--continue-on-failure",
            "--no-color",
            *more,
        ],
        cwd=server.directory,
        capture_output=True,
        text=True,
        timeout=SECONDS * 4 + 60,
        check=False,
    )
    failures = done.stdout.partition(" FAILURES ")[2] or done.stdout
    assert done.returncode == 0, "\n".join(failures.splitlines()[:_SHOWN]) + done.stderr
    assert [record for record in server.records("uvicorn.error") if record["level"] == "ERROR"] == []


def name_what_is_there(directory: Path, url: str) -> None:
    """Tell the fuzzer names that it can't guess."""
    ledger = open_ledger(url, clock=SystemClock(), ids=RandomIds())
    names = {
        "instance": [one.uuid for one in ledger.instances()],
        "migration": [str(one.id) for one in ledger.migrations(all=True)],
        "node": [one.hypervisor_hostname for one in ledger.nodes()],
        "host": [one.host for one in ledger.services()],
    }
    ledger.close()
    lines = [f'"path.{name}" = {known}' for name, known in names.items()]
    (directory / "schemathesis.toml").write_text("\n".join(["[parameters]", *lines, ""]))
