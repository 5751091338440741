"""A private nginx on a free loopback port, with TLS, that does what a configuration says."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.servers.placement import free_port

FRAME = """\
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {page}
}}
"""
START_TIMEOUT_S = 150.0


@contextlib.contextmanager
def nginx(directory: Path, page: str) -> Iterator[str]:
    """
    Run nginx, and give its URL.

    Args:
        page: upstreams and servers; what listens on 443 listens on the free port.
    """
    port = free_port()
    file = directory / "nginx.conf"
    page = page.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    file.write_text(FRAME.format(directory=directory, page=page))
    log = directory / "nginx.log"
    process = subprocess.Popen(["nginx", "-p", str(directory), "-e", str(log), "-c", str(file)])
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text()[-4000:])
            time.sleep(0.05)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=150)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
