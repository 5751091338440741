"""The HTTP server: what it answers, what it refuses, and what nobody can do to it."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest

from stocktake.agent.metrics.server import (
    CONNECTION_S_MAX,
    CONNECTIONS_MAX,
    REQUEST_BYTES_MAX,
    HttpAnswer,
    Pages,
    Server,
    pages_of,
)
from stocktake.clock import SystemClock

TIMEOUT_S = 20.0


class ShiftedClock(SystemClock):
    """A clock that a test sets ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


Serve = Callable[..., Server]


def fine() -> HttpAnswer:
    return HttpAnswer("text/plain", [b"a ", b"page\n"])


def ill() -> HttpAnswer:
    return HttpAnswer("application/json", [b"{}\n"], HTTPStatus.SERVICE_UNAVAILABLE)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def serve(clock: ShiftedClock) -> Iterator[Serve]:
    servers: list[Server] = []

    def start(pages: Pages | None = None, host: str = "127.0.0.1", port: int = 0) -> Server:
        server = Server(host, port, pages or {"/page": fine, "/ill": ill}, clock, look_s=0.02)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


def place_of(server: Server) -> tuple[str, int]:
    host, _, port = server.address.rpartition(":")
    return host.strip("[]"), int(port)


def asked(server: Server, path: str, method: str = "GET") -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*place_of(server), timeout=TIMEOUT_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def opened(server: Server, first: bytes = b"") -> socket.socket:
    connection = socket.create_connection(place_of(server), timeout=TIMEOUT_S)
    connection.sendall(first)
    return connection


def connections_ended() -> None:
    """Wait for the threads of all connections."""
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def ended(connection: socket.socket) -> bool:
    """Read to the end, which comes, politely or not."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    finally:
        connection.close()
    return True


@pytest.mark.parametrize(
    ("path", "status"), [("/page", 200), ("/page?a=b", 200), ("/ill", 503), ("/x", 404), ("/", 404)]
)
def test_given_a_path_when_got_then_its_page_is_answered_and_the_connection_closed(
    serve: Serve, path: str, status: int
) -> None:
    server = serve()
    got, body, headers = asked(server, path)
    assert (got, int(headers["Content-Length"])) == (status, len(body))
    assert headers["Server"].strip() == "stocktake"
    bare, none, same = asked(server, path, "HEAD")
    assert (bare, none, same["Content-Length"]) == (status, b"", headers["Content-Length"])
    with opened(server, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode()) as connection:
        assert ended(connection)


def test_given_an_unknown_path_when_got_then_the_answer_says_which_there_are(serve: Serve) -> None:
    assert asked(serve(), "/metrix")[1] == b"There is /ill, /page.\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_given_another_method_when_sent_then_it_is_refused_and_the_right_ones_are_named(
    serve: Serve, method: str
) -> None:
    status, _, headers = asked(serve(), "/page", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\r\n",
        b"\x00\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /page HTTP/x\r\n\r\n",
        b"GET /page HTTP/3.0\r\n\r\n",
        b"GET /page HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"x" * REQUEST_BYTES_MAX + b" HTTP/1.1\r\n\r\n",
        b"GET /page HTTP/1.1\r\nA: " + b"x" * REQUEST_BYTES_MAX + b"\r\n\r\n",
        b"GET /page HTTP/1.1\r\n" + (b"A: " + b"x" * 1000 + b"\r\n") * 17 + b"\r\n",
    ],
)
def test_given_nonsense_or_too_much_when_sent_then_it_is_refused_and_the_next_is_answered(
    serve: Serve, nonsense: bytes
) -> None:
    server = serve()
    connection = opened(server, nonsense)
    got = b""
    try:
        while piece := connection.recv(65536):
            got += piece
    except ConnectionError:
        # More was sent than is read.
        pass
    finally:
        connection.close()
    assert b"200 OK" not in got
    assert asked(server, "/page")[0] == 200


def test_given_a_page_that_fails_when_got_then_the_connection_ends_and_the_server_goes_on(serve: Serve) -> None:
    def broken() -> HttpAnswer:
        raise RuntimeError("a bug")

    server = serve({"/broken": broken, "/page": fine})
    with pytest.raises(http.client.HTTPException):
        asked(server, "/broken")
    assert asked(server, "/page")[0] == 200


def test_given_a_port_in_use_when_opened_then_that_is_an_error_and_says_so(serve: Serve) -> None:
    host, port = place_of(serve())
    with pytest.raises(OSError, match="in use"):
        serve(host=host, port=port)


def test_given_an_address_of_another_version_when_opened_then_it_is_served(serve: Serve) -> None:
    server = serve(host="::1")
    assert server.address.startswith("[::1]:")
    assert asked(server, "/page")[1] == b"a page\n"


def test_given_as_many_connections_as_may_be_when_another_comes_then_it_is_closed_until_one_ends(serve: Serve) -> None:
    server = serve()
    silent = [opened(server) for _ in range(CONNECTIONS_MAX)]
    assert ended(opened(server, b"GET /page HTTP/1.1\r\n\r\n"))
    for connection in silent:
        connection.close()
    connections_ended()
    assert asked(server, "/page")[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /pa", b"GET /page HTTP/1.1\r\nHost: x\r\n"])
def test_given_somebody_who_does_not_finish_asking_when_his_time_is_over_then_he_is_cut_off(
    serve: Serve, clock: ShiftedClock, sent: bytes
) -> None:
    server = serve()
    slow = opened(server, sent)
    assert asked(server, "/page")[0] == 200
    clock.ahead_s = CONNECTION_S_MAX + 1
    assert ended(slow)


def test_given_somebody_who_does_not_fetch_his_answer_when_his_time_is_over_then_he_is_cut_off_and_it_closes(
    serve: Serve, clock: ShiftedClock
) -> None:
    answered = threading.Event()

    def large() -> HttpAnswer:
        answered.set()
        return HttpAnswer("text/plain", [b"x" * 1_000_000] * 100)

    server = serve({"/large": large, "/page": fine})
    slow = opened(server, b"GET /large HTTP/1.1\r\n\r\n")
    assert answered.wait(TIMEOUT_S)
    assert asked(server, "/page")[0] == 200
    clock.ahead_s = CONNECTION_S_MAX + 1
    connections_ended()
    got = 0
    try:
        while piece := slow.recv(1 << 20):
            got += len(piece)
    except ConnectionError:
        pass
    finally:
        slow.close()
    assert got < 100_000_000


def test_given_a_scrape_that_takes_long_when_another_comes_then_it_waits_and_the_health_does_not() -> None:
    clock, going, go_on = SystemClock(), threading.Event(), threading.Event()
    running: list[int] = []
    most: list[int] = []

    def scrape() -> Iterator[bytes]:
        running.append(1)
        most.append(len(running))
        going.set()
        go_on.wait(TIMEOUT_S)
        running.pop()
        yield b"x 1\n"

    server = Server("127.0.0.1", 0, pages_of(scrape, fine), clock, look_s=0.02)
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(asked(server, "/metrics")[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert going.wait(TIMEOUT_S)
    assert asked(server, "/healthz")[0] == 200
    go_on.set()
    for thread in threads:
        thread.join()
    server.close()
    assert (got, max(most)) == ([200] * 3, 1)


def test_given_connections_that_are_open_when_closed_then_nobody_waits_for_them(serve: Serve) -> None:
    server = serve()
    silent = opened(server)
    place = place_of(server)
    server.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(place, timeout=TIMEOUT_S)
    silent.close()
