"""Connections as somebody has them who means no good: by hand, many at once, none of them ended."""

import contextlib
import json
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trustme

from stocktake.settings import ServerSection
from stocktake.web.connections import HEAD_BYTES_MAX
from stocktake.web.limits import ConnectionLimits, Gate, limits_of
from tests.servers.serve import Served, secret_of, served, served_here, served_in_thread
from tests.web.test_serving import authority, write_certificate

__all__ = ["authority"]

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
IDLE = 600
FILES_MAX = 256


def connected(url: str) -> socket.socket:
    host, port = url.rpartition("//")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def to_the_end(plain: socket.socket) -> bytes:
    got = b""
    while more := plain.recv(65536):
        got += more
    return got


def exchanged(url: str, *parts: bytes) -> bytes:
    """Send something by hand, and read until the server closes; a connection that it resets fails."""
    with connected(url) as plain:
        for part in parts:
            plain.sendall(part)
        return to_the_end(plain)


def asked(plain: socket.socket, request: bytes) -> bytes:
    """Ask on a connection that stays open, and read the one answer."""
    plain.sendall(request)
    got = b""
    while b"\r\n\r\n" not in got:
        got += plain.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(maxsplit=1)[0])
    while len(body) < length:
        body += plain.recv(65536)
    return head + b"\r\n\r\n" + body


def problem_of(answer: bytes) -> tuple[int, str, bytes]:
    """Read an answer that is a problem: its status and code, and its head."""
    head, _, body = answer.partition(b"\r\n\r\n")
    said = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {said['status']} ".encode())
    assert b"connection: close" in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()
    return said["status"], said["code"], head


def posted(path: str, size: int, *more: str, name: str = "viewer") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {size}", *more]
    return "\r\n".join([*head, f"Authorization: Bearer {secret_of(name)}", "", ""]).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), server__request_bytes_max=500_000) as made:
        yield made


def test_given_a_head_and_a_large_body_that_arrive_together_when_sent_then_both_are_read(server: Served) -> None:
    body = b'{"flavor": "nothing"' + b" " * 400_000 + b"}"
    answer = exchanged(server.url, posted("/v1/fit", len(body), "Connection: close") + body)
    assert problem_of(answer)[0] == 400
    # So does what follows on the same connection, each head counted for itself.
    many = (posted("/v1/fit", len(body)) + body) * 3 + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert [exchanged(server.url, many).count(b"HTTP/1.1 " + status) for status in (b"400", b"200")] == [3, 1]


@pytest.mark.parametrize("chunked", [False, True])
def test_given_a_body_that_is_too_large_when_sent_then_the_answer_arrives_before_the_connection_ends(
    server: Served, *, chunked: bool
) -> None:
    body = b" " * 3_000_000
    head = posted("/v1/fit", len(body))
    if chunked:
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert problem_of(exchanged(server.url, head + body))[:2] == (413, "RequestEntityTooLarge")
    # Nobody reads the body of somebody who may not send it.
    refused = head.replace(secret_of("viewer").encode(), b"wrong")
    assert problem_of(exchanged(server.url, refused + body))[0] == 401


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET / HTTP/1.1\r\nA: " + b"x" * 1_000_000],
        [b"GET /" + b"x" * 1_000_000],
        [b"GET / HTTP/1.1\r\n", *[b"A: " + b"x" * 8000 + b"\r\n"] * 20],
    ],
    ids=["a line", "a path", "many lines"],
)
def test_given_a_head_that_is_too_large_when_sent_then_the_answer_says_so(server: Served, parts: list[bytes]) -> None:
    status, code, _ = problem_of(exchanged(server.url, *parts))
    assert (status, code) == (431, "RequestHeaderFieldsTooLarge")


def test_given_a_second_head_that_is_too_large_when_sent_then_the_first_is_answered_and_its_answer_is_the_last(
    server: Served,
) -> None:
    answer = exchanged(server.url, HEALTH + b"GET / HTTP/1.1\r\nA: " + b"x" * 1_000_000)
    assert answer.startswith(b"HTTP/1.1 200")
    assert (answer.count(b"HTTP/1.1 "), answer.lower().count(b"connection: close")) == (1, 1)


def test_given_a_body_whose_chunks_are_none_when_sent_then_the_answer_says_so(server: Served) -> None:
    head = posted("/v1/fit", 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert problem_of(exchanged(server.url, head + b"x" * 300_000))[0] == 400


def test_given_a_head_that_is_as_large_as_may_be_when_sent_then_it_is_read(server: Served) -> None:
    filled = HEALTH[:-2] + b"Connection: close\r\nA: "
    head = filled + b"x" * (HEAD_BYTES_MAX - len(filled) - 4) + b"\r\n\r\n"
    assert len(head) == HEAD_BYTES_MAX
    assert exchanged(server.url, head).startswith(b"HTTP/1.1 200")


def test_given_what_is_no_http_when_sent_then_the_answer_says_so(server: Served) -> None:
    assert problem_of(exchanged(server.url, b"GET\r\n\r\n" + b"x" * 300_000))[:2] == (400, "BadRequest")


def test_given_few_descriptors_when_many_connect_and_say_nothing_then_each_is_told_and_health_is_seen(
    tmp_path: Path,
) -> None:
    limits = limits_of(ServerSection(), FILES_MAX)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served(tmp_path, files_max=FILES_MAX, server__request_timeout_s=600))
        before = server.log.stat().st_size
        many = [stack.enter_context(connected(server.url)) for _ in range(IDLE)]
        # Those who may stay hear nothing; the others are answered though they asked nothing, and are let go.
        held, refused = many[: limits.served], many[limits.served :]
        told = [to_the_end(one) for one in refused]
        assert {problem_of(one)[0] for one in told} == {503}
        assert all(b"retry-after: " in one.lower() for one in told)
        with server.client() as late:
            assert late.get("/healthz").status_code == 200
            assert late.get("/v1/whoami").status_code == 503
        assert server.log.stat().st_size - before < 10_000, server.log.read_text()[-3000:]
        # Nobody was cut off to make room: each is answered once it asks.
        for one in held:
            assert asked(one, HEALTH).startswith(b"HTTP/1.1 200")
        for one in held:
            one.close()
        with server.client("viewer") as late:
            assert any(late.get("/v1/whoami").status_code == 200 for _ in range(1000))
        assert server.stop() == 0
        assert "were refused within a minute" in server.log.read_text()


def test_given_a_full_server_when_a_request_is_sent_then_the_refusal_is_an_answer_to_it(tmp_path: Path) -> None:
    gate = Gate(ConnectionLimits(served=1, health=1, refused=8, per_client=1))
    with served_here(tmp_path) as here, served_in_thread(here.web, gate) as url, connected(url) as first:
        assert asked(first, HEALTH).startswith(b"HTTP/1.1 200")
        # One that says nothing has the place that is kept for the health, until it has had it for too long.
        with connected(url) as second:
            for path in ("/v1/whoami", "/healthz"):
                answer = exchanged(url, posted(path, 300_000) + b" " * 300_000)
                assert problem_of(answer)[0] == 503, path
            assert problem_of(to_the_end(second))[0] == 503
        assert exchanged(url, HEALTH).startswith(b"HTTP/1.1 200")
        assert problem_of(exchanged(url, HEALTH.replace(b"healthz", b"v1/nodes")))[0] == 503
        assert asked(first, HEALTH).startswith(b"HTTP/1.1 200")


def test_given_tls_when_the_server_is_full_then_the_refusal_is_an_answer_too(
    tmp_path: Path, authority: trustme.CA
) -> None:
    write_certificate(authority, tmp_path)
    pem, key = tmp_path / "server.pem", tmp_path / "server.key"
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with (
        served(tmp_path, server__tls_cert=pem, server__tls_key=key, server__connections_max=1) as server,
        contextlib.ExitStack() as stack,
    ):

        def secure() -> ssl.SSLSocket:
            plain = stack.enter_context(connected(server.url))
            return stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))

        first = secure()
        assert asked(first, HEALTH).startswith(b"HTTP/1.1 200")
        late = [secure() for _ in range(20)]
        for one in late:
            one.sendall(HEALTH.replace(b"healthz", b"v1/nodes"))
        assert {problem_of(to_the_end(one))[0] for one in late} == {503}
        # A body that nobody reads does not take the answer with it.
        first.sendall(posted("/v1/fit", 5_000_000, name="wrong") + b" " * 5_000_000)
        assert problem_of(to_the_end(first))[0] == 401


def test_given_one_token_when_it_opens_streams_then_others_have_theirs_and_the_end_of_one_makes_room(
    tmp_path: Path,
) -> None:
    with (
        served(tmp_path, server__connections_per_client_max=2) as server,
        server.client("viewer") as greedy,
        server.client("operator") as other,
        contextlib.ExitStack() as streams,
    ):
        for _ in range(2):
            streams.enter_context(opened(greedy))
        refused = greedy.get("/v1/whoami")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "too many requests of this token" in refused.json()["what"]
        with opened(other):
            assert other.get("/v1/nodes").status_code == 200
        streams.close()
        # The server hears that they are gone when it next looks.
        assert any(greedy.get("/v1/nodes").status_code == 200 for _ in range(1000))


def test_given_no_descriptor_at_all_when_somebody_connects_then_that_is_said_once_and_they_are_served_later(
    tmp_path: Path,
) -> None:
    with served(tmp_path, louder=0) as server, server.client("viewer") as client, contextlib.ExitStack() as stack:
        assert client.get("/v1/nodes").status_code == 200
        assert server.process is not None
        usual = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        before = server.log.stat().st_size
        # Fewer than it has open: it was given more when it shared them out.
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (4, usual[1]))
        many = [stack.enter_context(connected(server.url)) for _ in range(50)]
        for one in many:
            one.sendall(HEALTH)
        server.said(before, "connections wait")
        assert client.get("/v1/openapi.json").status_code == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, usual)
        assert all(one.recv(65536).startswith(b"HTTP/1.1 200") for one in many)
        assert server.log.stat().st_size - before < 10_000


@contextlib.contextmanager
def opened(client: httpx2.Client) -> Iterator[httpx2.Response]:
    """Open a stream of changes, and read its beginning."""
    with client.stream("GET", "/live") as stream:
        assert stream.status_code == 200
        # Whoever lets go of the lines ends the stream.
        lines = stream.iter_lines()
        assert next(lines).startswith("retry: ")
        yield stream
