"""One sweep with a deadline: hangs, losses, refusals; on libvirt's test driver and a private libvirtd."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from stocktake.clock import SystemClock
from stocktake.drivers.libvirt.connection import Connection, Hypervisor, is_local
from stocktake.errors import DriverError, DriverUnreachable
from tests.servers.libvirtd import PrivateLibvirtd, private_libvirtd


def workers() -> int:
    return sum(thread.name == "stocktake-libvirt" for thread in threading.enumerate())


@pytest.fixture
def sample_host() -> Iterator[Connection]:
    connection = Connection("test:///default", clock=SystemClock(), deadline_s=0.1)
    yield connection
    connection.close()


@pytest.fixture
def own() -> Iterator[PrivateLibvirtd]:
    """A libvirtd that a test may stop, kill and start."""
    with private_libvirtd() as server:
        yield server


def hostname(hypervisor: Hypervisor) -> str:
    return hypervisor.getHostname()


def test_a_call_gives_its_answer_on_one_connection_that_stays_open(sample_host: Connection) -> None:
    assert sample_host.call(hostname) == sample_host.call(hostname)
    assert sample_host.opened == 1


def test_given_a_call_that_hangs_when_more_come_then_they_fail_at_once_without_more_threads(
    sample_host: Connection,
) -> None:
    before = workers()
    go_on = threading.Event()
    ended = threading.Event()

    def hang(_hypervisor: Hypervisor) -> None:
        go_on.wait(30)
        ended.set()

    with pytest.raises(DriverUnreachable, match=r"no answer from libvirt within 0\.1 s"):
        sample_host.call(hang)
    for _ in range(20):
        with pytest.raises(DriverUnreachable, match="still hangs"):
            sample_host.call(hostname)
    assert workers() == before + 1
    late = sample_host._late
    assert late is not None
    go_on.set()
    assert late.done.wait(5)
    assert ended.is_set()
    assert sample_host.call(hostname)
    assert workers() == before + 1


def test_given_a_call_that_was_given_up_before_it_began_then_it_is_never_run(sample_host: Connection) -> None:
    go_on = threading.Event()
    ran = threading.Event()
    failures: list[DriverUnreachable] = []

    def second() -> None:
        try:
            sample_host.call(lambda _hypervisor: ran.set())
        except DriverUnreachable as error:
            failures.append(error)

    thread = threading.Thread(target=second)

    def first(_hypervisor: Hypervisor) -> None:
        thread.start()
        go_on.wait(30)

    with pytest.raises(DriverUnreachable):
        sample_host.call(first)
    thread.join(5)
    late = sample_host._late
    go_on.set()
    assert late is not None
    assert late.done.wait(5)
    # The worker takes what is queued in order, so an answer to this means that the second is past.
    assert sample_host.call(hostname)
    assert failures
    assert not ran.is_set()


def test_what_the_work_raises_is_raised_where_it_was_asked(sample_host: Connection) -> None:
    def fail(_hypervisor: Hypervisor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sample_host.call(fail)
    assert sample_host.call(hostname)


def test_a_refusal_of_libvirt_s_is_our_error_with_its_code_and_keeps_the_connection(
    sample_host: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DriverError, match=f"error {libvirt.VIR_ERR_NO_SUPPORT}: .*not supported") as refusal:
        sample_host.call(lambda hypervisor: hypervisor.getMemoryStats(-1))
    assert refusal.value.where == "test:///default"
    assert sample_host.call(hostname)
    assert sample_host.opened == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("uri", ["qemu+unix:///session?socket=/no/such/socket", "no-such-driver:///x"])
def test_a_uri_that_cannot_be_opened_is_unreachable_and_says_why(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    connection = Connection(uri, clock=SystemClock(), deadline_s=10)
    with pytest.raises(DriverUnreachable) as refusal:
        connection.call(hostname)
    connection.close()
    assert refusal.value.where == uri
    assert refusal.value.what
    assert capfd.readouterr().err == ""


def test_a_closed_connection_refuses_and_its_thread_ends() -> None:
    before = workers()
    connection = Connection("test:///default", clock=SystemClock(), deadline_s=5)
    connection.call(hostname)
    connection.close()
    connection.close()
    assert workers() == before
    with pytest.raises(DriverUnreachable, match="closed"):
        connection.call(hostname)


def test_a_connection_that_was_never_used_can_be_closed() -> None:
    Connection("test:///default", clock=SystemClock(), deadline_s=5).close()


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///session?socket=/run/x", True),
        ("test:///default", True),
        ("", True),
        ("qemu+ssh://host/system", False),
        ("qemu+tls://root@host:16514/system", False),
        ("qemu://host/system", False),
        ("qemu+ssh:///system", False),
    ],
)
def test_a_uri_without_a_server_is_this_machine(uri: str, local: bool) -> None:  # noqa: FBT001 (a table's column)
    assert is_local(uri) is local


@pytest.mark.system
def test_given_a_libvirtd_that_is_killed_when_it_is_back_then_the_next_call_is_answered(own: PrivateLibvirtd) -> None:
    connection = Connection(own.uri, clock=SystemClock(), deadline_s=20)
    name = connection.call(hostname)
    own.kill()
    with pytest.raises(DriverUnreachable):
        connection.call(hostname)
    own.start_daemon()
    assert connection.call(hostname) == name
    # A restart between two calls goes unnoticed: the connection is opened again and the work is done.
    own.kill()
    own.start_daemon()
    assert connection.call(hostname) == name
    assert connection.opened == 3
    connection.close()


@pytest.mark.system
def test_given_a_libvirtd_that_dies_in_mid_sweep_then_the_sweep_is_tried_once_more(own: PrivateLibvirtd) -> None:
    connection = Connection(own.uri, clock=SystemClock(), deadline_s=30)
    connection.call(hostname)
    runs: list[int] = []

    def sweep(hypervisor: Hypervisor) -> str:
        runs.append(1)
        if len(runs) == 1:
            own.kill()
            own.start_daemon()
        return hypervisor.getHostname()

    assert connection.call(sweep)
    assert len(runs) == 2
    connection.close()


@pytest.mark.system
def test_given_a_libvirtd_that_dies_in_every_sweep_then_it_is_unreachable(own: PrivateLibvirtd) -> None:
    connection = Connection(own.uri, clock=SystemClock(), deadline_s=30)
    connection.call(hostname)
    runs: list[int] = []

    def sweep(hypervisor: Hypervisor) -> str:
        runs.append(1)
        own.kill()
        own.start_daemon()
        return hypervisor.getHostname()

    with pytest.raises(DriverUnreachable):
        connection.call(sweep)
    assert len(runs) == 2
    connection.close()


@pytest.mark.system
def test_given_a_libvirtd_that_hangs_then_calls_end_in_time_and_go_on_when_it_does(own: PrivateLibvirtd) -> None:
    clock = SystemClock()
    connection = Connection(own.uri, clock=clock, deadline_s=0.5)
    name = connection.call(hostname)
    own.signal(signal.SIGSTOP)
    with pytest.raises(DriverUnreachable, match="no answer"):
        connection.call(hostname)
    began_s = clock.monotonic_s()
    for _ in range(20):
        with pytest.raises(DriverUnreachable, match="still hangs"):
            connection.call(hostname)
    # None of them waits for its deadline.
    assert clock.monotonic_s() - began_s < 20 * 0.5
    late = connection._late
    assert late is not None
    own.signal(signal.SIGCONT)
    assert late.done.wait(10)
    assert connection.call(hostname) == name
    connection.close()


@pytest.mark.system
def test_given_a_libvirtd_that_hangs_before_the_first_call_then_opening_it_ends_in_time(own: PrivateLibvirtd) -> None:
    connection = Connection(own.uri, clock=SystemClock(), deadline_s=0.5)
    own.signal(signal.SIGSTOP)
    with pytest.raises(DriverUnreachable, match="no answer"):
        connection.call(hostname)
    late = connection._late
    own.signal(signal.SIGCONT)
    assert late is not None
    assert late.done.wait(10)
    assert connection.call(hostname)
    connection.close()


def test_a_node_file_of_our_own_is_opened(tmp_path: Path) -> None:
    document = tmp_path / "node.xml"
    document.write_text("<node/>")
    connection = Connection(f"test://{document}", clock=SystemClock(), deadline_s=5)
    assert connection.call(lambda hypervisor: hypervisor.getType()) == "TEST"
    connection.close()
