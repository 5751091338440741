"""The real server's process: what it listens on, its certificate, how it begins and ends."""

import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trustme

from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import SettingsError, Unreachable
from stocktake.ledger import open_ledger
from stocktake.settings import ServerSection
from stocktake.web.serving import Certificate, check_exposure, is_loopback, listen
from tests.cli.program import Program
from tests.servers.serve import HOST, Served, secret_of, served


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_certificate(authority: trustme.CA, directory: Path, name: str = "127.0.0.1") -> bytes:
    """Write a new certificate and its key, and give its serial's bytes as a client sees it."""
    made = authority.issue_cert(name)
    made.cert_chain_pems[0].write_to_path(directory / "server.pem")
    made.private_key_pem.write_to_path(directory / "server.key")
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


def certificate_of(server: Served, authority: trustme.CA) -> bytes:
    """Ask a server for its certificate, on a new connection."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    host, port = server.url.rpartition("//")[2].split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [
        ("127.0.0.1:8790", True),
        ("127.9.9.9:8790", True),
        ("localhost:8790", True),
        ("[::1]:8790", True),
        ("0.0.0.0:8790", False),
        ("[::]:8790", False),
        ("192.0.2.7:8790", False),
        ("example.org:8790", False),
    ],
)
def test_given_an_address_when_looked_at_then_only_loopback_may_be_listened_on_in_the_clear(
    listen: str, *, loopback: bool
) -> None:
    assert is_loopback(ServerSection(listen=listen)) is loopback
    check_exposure(ServerSection(listen=listen, allow_insecure=True))
    check_exposure(ServerSection(listen=listen, tls_cert=Path("server.pem")))
    if loopback:
        check_exposure(ServerSection(listen=listen))
    else:
        with pytest.raises(SettingsError, match="no TLS"):
            check_exposure(ServerSection(listen=listen))


def test_given_an_address_in_use_or_none_of_this_machine_when_listened_on_then_the_remedy_is_told() -> None:
    with listen(ServerSection(listen="127.0.0.1:0")) as taken:
        taken.listen()
        with pytest.raises(Unreachable, match=r"server\.listen="):
            listen(ServerSection(listen=f"127.0.0.1:{taken.getsockname()[1]}"))
    with pytest.raises(Unreachable, match="can't listen"):
        listen(ServerSection(listen="192.0.2.1:0"))
    with pytest.raises(SettingsError, match="no such address"):
        listen(ServerSection(listen="nowhere.invalid:0"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"server.listen": "0.0.0.0:0"}, "there is no TLS"),
        ({"server.listen": "nowhere"}, "server.listen"),
        ({"server.listen": "127.0.0.1:99999"}, "server.listen"),
        ({"server.tls_key": "server.key"}, "server.tls_cert"),
        ({"server.tls_cert": "nothing.pem"}, "can't be used"),
    ],
    ids=str,
)
def test_given_settings_that_can_not_be_served_with_when_served_then_it_ends_with_code_2(
    program: Program, settings: dict[str, str], said: str
) -> None:
    program.settings.update(settings)
    result = program.run("serve")
    assert result.code == 2
    assert said in result.err


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program on a fresh state path."""
    return Program(tmp_path)


@pytest.fixture
def secure(tmp_path: Path, authority: trustme.CA) -> Iterator[tuple[Served, bytes]]:
    """A server with TLS, and its certificate."""
    first = write_certificate(authority, tmp_path)
    pem, key = tmp_path / "server.pem", tmp_path / "server.key"
    with served(tmp_path, server__tls_cert=pem, server__tls_key=key) as server:
        server.verify = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        yield server, first


def test_given_a_certificate_when_it_is_replaced_and_the_server_told_then_the_new_one_is_shown(
    secure: tuple[Served, bytes], authority: trustme.CA
) -> None:
    server, first = secure
    assert server.url.startswith("https://")
    assert certificate_of(server, authority) == first
    with server.client("viewer") as client:
        assert client.get("/v1/whoami").json()["role"] == "viewer"
        second = write_certificate(authority, server.directory)
        server.told(signal.SIGHUP, "the certificate was read again")
        assert certificate_of(server, authority) == second
        # A connection that was open goes on.
        assert client.get("/v1/whoami").status_code == 200
    (server.directory / "server.key").write_text("no key")
    server.told(signal.SIGHUP, "the old certificate stays in use")
    assert certificate_of(server, authority) == second
    assert server.stop() == 0


def test_given_tls_when_asked_in_the_clear_then_there_is_no_answer(secure: tuple[Served, bytes]) -> None:
    server, _ = secure
    with pytest.raises(httpx2.TransportError):
        httpx2.get(server.url.replace("https://", "http://") + "/healthz")


def test_given_a_certificate_file_that_changes_when_looked_at_then_it_is_read_once(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_certificate(authority, tmp_path)
    certificate = Certificate(tmp_path / "server.pem", tmp_path / "server.key")
    certificate.look()
    assert caplog.messages == []
    write_certificate(authority, tmp_path)
    (tmp_path / "server.pem").touch()
    certificate.look()
    certificate.look()
    assert caplog.messages == ["the certificate was read again"]


def test_given_a_request_at_hand_when_the_server_is_told_to_end_then_it_is_answered_first(
    tmp_path: Path, books: str
) -> None:
    ledger = open_ledger(books, clock=SystemClock(), ids=RandomIds())
    answers: list[int] = []
    with served(tmp_path, books, louder=2) as server:

        def ask() -> None:
            with server.client("operator") as client:
                answers.append(client.post(f"/v1/services/{HOST}/enable").status_code)

        asking = threading.Thread(target=ask)
        with ledger.transaction():
            # It waits for the lock that this test holds.
            asking.start()
            server.when_asked("/enable")
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            server.when_closed()
        asking.join()
        assert answers == [200]
        assert server.stop() == 0
    ledger.close()


def test_given_a_server_that_ended_when_started_again_then_it_has_its_address_at_once(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        url = server.url
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        server.start()
        assert server.url == url
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


def exchanged(server: Served, *parts: bytes) -> bytes:
    """Send something by hand, and read until the server closes."""
    host, port = server.url.rpartition("//")[2].split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=30) as plain, contextlib.suppress(ConnectionError):
        for part in parts:
            plain.sendall(part)
        while more := plain.recv(65536):
            got += more
    return got


def test_given_a_head_or_a_body_without_end_when_sent_then_the_connection_ends(tmp_path: Path) -> None:
    post = b"POST /v1/fit HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    post += f"Authorization: Bearer {secret_of('viewer')}\r\n".encode()
    endless = post + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b" " * 4096 + b"\r\n"
    with served(tmp_path, server__request_timeout_s=1, server__request_bytes_max=10_000) as server:
        # Nothing at all, half a head, and a second half head after a whole request.
        assert exchanged(server) == b""
        assert exchanged(server, b"GET / HTTP/1.1\r\nHost:") == b""
        whole = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        assert exchanged(server, whole, b"GET / HTTP/1.1\r\nHost:").count(b"HTTP/1.1 200 OK") == 1
        # A body that is too large, one that does not come, and one that nobody reads.
        assert exchanged(server, endless, *[b"1000\r\n" + b" " * 4096 + b"\r\n"] * 3).startswith(b"HTTP/1.1 413")
        late = exchanged(server, endless)
        assert late.startswith(b"HTTP/1.1 503")
        assert b"no answer within 1 s" in late
        assert exchanged(server, endless.replace(b"Bearer", b"Digest")).startswith(b"HTTP/1.1 401")
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


def test_given_requests_that_are_no_http_when_sent_then_the_server_goes_on(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        for nonsense in (b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 1000):
            assert exchanged(server, nonsense).startswith(b"HTTP/1.1 400")
        with server.client() as client:
            assert client.get("/healthz").status_code == 200
