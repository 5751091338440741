"""How a Placement is reached: settings to plugin, versions, and answers that are not Placement's."""

import contextlib
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stocktake.clock import SystemClock
from stocktake.errors import PlacementError, PlacementUnreachable, SettingsError, StocktakeError
from stocktake.model.value import replace
from stocktake.placement import NoScheduler, embedded
from stocktake.placement.opening import open_scheduler
from stocktake.placement.session import open_embedded
from stocktake.telemetry import REQUESTS, Telemetry
from tests.placement.making import Section, tree

REPOSITORY = Path(__file__).parents[2]
REMOTE = Section(mode="remote", url="http://127.0.0.1:9", auth_type="admin_token", auth={"token": "admin"})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (Section(mode="remote"), "placement.url.*placement.auth_type"),
        (replace(REMOTE, auth_type="nonsense"), "no plugin 'nonsense'.*password"),
        (replace(REMOTE, auth={"tokn": "x"}), "no option tokn.*token"),
        (replace(REMOTE, auth_type="http_basic", auth={}, url=None), "placement.url.*no catalogue"),
        (replace(REMOTE, auth_type="password", auth={"username": "u"}), "auth"),
    ],
)
def test_given_wrong_settings_when_opened_then_the_error_says_what_to_do(section: Section, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        open_scheduler(section, SystemClock())


@pytest.mark.parametrize(
    "section",
    [
        REMOTE,
        replace(REMOTE, auth_type=None, auth={}),
        replace(REMOTE, auth_type="noauth", auth={}),
        replace(REMOTE, auth_type="none", auth={}),
        replace(REMOTE, auth_type="http_basic", auth={"username": "u", "password": "p"}),
        replace(
            REMOTE,
            auth_type="v3applicationcredential",
            auth={"auth-url": "http://k", "application-credential-id": "i", "application-credential-secret": "s"},
            url=None,
            region_name="r",
            interface="internal",
            cafile=Path("/nowhere/ca.pem"),
        ),
        replace(REMOTE, insecure=True),
    ],
)
def test_given_any_plugin_when_opened_then_nothing_is_asked_yet(section: Section) -> None:
    scheduler = open_scheduler(section, SystemClock())
    assert (scheduler.requests, scheduler.writes) == (0, 0)
    scheduler.close()


def test_given_no_scheduler_when_used_then_it_agrees_with_everything_and_says_so() -> None:
    scheduler = open_scheduler(Section(mode="none"), SystemClock())
    assert isinstance(scheduler, NoScheduler)
    (answer,) = scheduler.sync({"n": tree("n")}, full=True).values()
    assert not isinstance(answer, StocktakeError)
    assert (answer.problems, answer.writes) == ((), 0)
    assert scheduler.ping() == "none"
    assert (scheduler.providers(), scheduler.allocations("p")) == ((), {})
    scheduler.delete_tree("p")
    scheduler.close()
    assert (scheduler.requests, scheduler.writes) == (0, 0)


Served = Callable[..., str]


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve one answer to every request, as a wrong URL or an old Placement would."""
    servers: list[tuple[HTTPServer, threading.Thread]] = []

    def serve(body: str, status: int = 200, **headers: str) -> str:
        class Always(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body.encode())))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                del format, args

        server = HTTPServer(("127.0.0.1", 0), Always)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def versions(newest: str, oldest: str = "1.0") -> str:
    return json.dumps({"versions": [{"id": "v1.0", "max_version": newest, "min_version": oldest, "links": []}]})


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        (versions("1.27"), 200, PlacementError, "newest microversion is 1.27, 1.28 is needed"),
        (versions("2.9", "2.0"), 200, PlacementError, "oldest microversion is 2.0"),
        (versions("nonsense"), 200, PlacementError, "newest microversion is 0.0"),
        ('{"versions": []}', 200, PlacementError, "newest microversion is 0.0"),
        ("<html>", 200, PlacementError, "Is this URL Placement's"),
        ("{}", 200, PlacementError, "versions"),
        ("<html>no", 404, PlacementError, "404: <html>no.*placement.url"),
        ('{"errors": []}', 418, PlacementError, "no reason given"),
        ("gateway", 502, PlacementUnreachable, "502: gateway"),
        ("", 503, PlacementUnreachable, "503: no reason given"),
    ],
)
def test_given_no_usable_placement_at_the_url_when_asked_then_the_error_says_so(
    served: Served, body: str, status: int, kind: type[StocktakeError], said: str
) -> None:
    scheduler = open_scheduler(replace(REMOTE, url=served(body, status)), SystemClock())
    with pytest.raises(kind, match=said):
        scheduler.ping()
    assert isinstance(scheduler.sync({"n": tree("n")})["n"], kind)
    scheduler.close()


@pytest.mark.parametrize(
    ("status", "answered"), [(200, "ok"), (404, "refused"), (409, "conflict"), (503, "unreachable"), (0, "unreachable")]
)
def test_given_an_answer_when_it_came_then_it_is_counted_by_what_it_means(
    served: Served, status: int, answered: str
) -> None:
    telemetry = Telemetry()
    # 0: nobody listens there.
    url = served(versions("1.39"), status) if status else REMOTE.url
    scheduler = open_scheduler(replace(REMOTE, url=url), SystemClock(), telemetry=telemetry)
    with contextlib.suppress(StocktakeError):
        scheduler.ping()
    scheduler.close()
    totals = telemetry.counts().totals
    assert {label: number for (name, label), number in totals.items() if name == REQUESTS and number} == {answered: 1}


@pytest.mark.parametrize(("newest", "agreed"), [("1.28", "1.28"), ("1.36", "1.36"), ("1.39", "1.39"), ("1.44", "1.39")])
def test_given_a_version_when_negotiated_then_the_newest_that_both_know_is_taken(
    served: Served, newest: str, agreed: str
) -> None:
    scheduler = open_scheduler(replace(REMOTE, url=served(versions(newest), 200)), SystemClock())
    assert scheduler.ping() == agreed
    scheduler.close()


EMPTY_CATALOGUE = json.dumps(
    {
        "token": {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2020-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "u", "domain": {"id": "d", "name": "d"}},
            "catalog": [],
        }
    }
)


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        ("{}", 401, PlacementError, "refused the sign-in of user u: .*401.*Check placement.auth: username"),
        ("{}", 503, PlacementUnreachable, "503"),
        (EMPTY_CATALOGUE, 201, PlacementError, "empty catalogue.*placement.auth.project_name"),
    ],
)
def test_given_keystone_does_not_lead_to_placement_when_asked_then_the_error_says_so(
    served: Served, body: str, status: int, kind: type[StocktakeError], said: str
) -> None:
    auth = {"auth_url": f"{served(body, status, X_Subject_Token='t')}/v3", "username": "u", "password": "p"}
    full = {**auth, "user_domain_id": "d", "project_name": "s", "project_domain_id": "d"}
    section = Section(mode="remote", auth_type="v3password", auth=full)
    scheduler = open_scheduler(section, SystemClock())
    with pytest.raises(kind, match=said):
        scheduler.ping()
    scheduler.close()


def in_process(code: str) -> str:
    """Run code in a process of its own, as Placement can be loaded once per process."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_given_the_package_when_imported_and_opened_then_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    code = f"""
import sys
from stocktake.clock import SystemClock
from stocktake.placement.opening import open_scheduler
from tests.placement.making import Section
open_scheduler(Section(mode="none"), SystemClock())
print([name for name in ("keystoneauth1", "requests", "yaml", "placement", "tenacity") if name in sys.modules])
open_scheduler(Section(mode="embedded", connection="sqlite:///{tmp_path}/p.db"), SystemClock())
print([name for name in ("placement", "oslo_db", "sqlalchemy") if name in sys.modules])
"""
    assert in_process(code) == "[]\n[]\n"


def test_given_a_file_that_is_no_database_when_asked_then_it_is_unreachable_and_works_once_it_is_moved(
    tmp_path: Path,
) -> None:
    (tmp_path / "placement.db").write_bytes(b"this is no database" * 100)
    code = f"""
from pathlib import Path
from stocktake.clock import SystemClock
from stocktake.errors import PlacementUnreachable
from stocktake.placement.opening import open_scheduler
from tests.placement.making import Section
scheduler = open_scheduler(Section(mode="embedded", connection="sqlite:///{tmp_path}/placement.db"), SystemClock())
try:
    scheduler.ping()
except PlacementUnreachable as error:
    print("placement.db" in str(error))
Path("{tmp_path}/placement.db").unlink()
print(scheduler.ping())
print(sorted(path.name for path in Path("{tmp_path}").iterdir()))
"""
    assert in_process(code) == "True\n1.39\n['placement.db', 'placement.db.lock']\n"


def test_given_a_folder_that_cant_be_written_when_asked_then_it_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = f"""
from stocktake.clock import SystemClock
from stocktake.errors import PlacementUnreachable
from stocktake.placement.opening import open_scheduler
from tests.placement.making import Section
section = Section(mode="embedded", connection="sqlite:///{tmp_path}/file/folder/placement.db")
scheduler = open_scheduler(section, SystemClock())
try:
    scheduler.ping()
except PlacementUnreachable as error:
    print(error.code)
"""
    assert in_process(code) == "PlacementUnreachable\n"


def test_given_the_lock_is_kept_when_asked_then_it_is_unreachable_and_works_once_it_is_free(
    embedded_connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = open_scheduler(Section(mode="embedded", connection=embedded_connection), SystemClock())
    scheduler.ping()
    monkeypatch.setattr(embedded, "LOCK_WAIT_S", 0.1)
    name = f"node-{uuid.uuid4()}"
    file = embedded_connection.removeprefix("sqlite:///") + ".lock"
    code = "import fcntl, sys; k = open(sys.argv[1], 'a'); fcntl.lockf(k, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "1\n"
        error = scheduler.sync({name: tree(name)})[name]
        assert isinstance(error, PlacementUnreachable)
        assert "another process keeps the lock" in str(error)
        keeper.communicate("\n", timeout=10)
    assert not isinstance(scheduler.sync({name: tree(name)})[name], StocktakeError)


def test_given_another_thread_keeps_the_lock_when_asked_then_it_is_unreachable(
    embedded_connection: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = embedded.Embedded(embedded_connection, state_path=tmp_path)
    session = open_embedded(backend)
    session.ping()
    monkeypatch.setattr(embedded, "LOCK_WAIT_S", 0.1)
    kept, free = threading.Event(), threading.Event()

    def keep() -> None:
        with backend._mutex:
            kept.set()
            free.wait(10)

    thread = threading.Thread(target=keep)
    thread.start()
    kept.wait(10)
    with pytest.raises(PlacementUnreachable, match="another thread keeps the lock"):
        session.write("PUT", "/traits/CUSTOM_A")
    free.set()
    thread.join()
    assert session.write("PUT", "/traits/CUSTOM_A").fine


def test_given_two_backends_in_one_process_when_threads_write_through_both_then_none_fails(
    embedded_connection: str, tmp_path: Path
) -> None:
    backends = [open_embedded(embedded.Embedded(embedded_connection, state_path=tmp_path)) for _ in range(2)]
    failed: list[object] = []

    def write(number: int) -> None:
        body = {"uuid": str(uuid.uuid4()), "name": f"node-{uuid.uuid4()}"}
        for method, path in (("POST", "/resource_providers"), ("DELETE", f"/resource_providers/{body['uuid']}")):
            answer = backends[number % 2].write(method, path, body if method == "POST" else None)
            if not answer.fine:
                failed.append(answer)

    def write_many(number: int) -> None:
        for _ in range(5):
            write(number)

    threads = [threading.Thread(target=write_many, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
