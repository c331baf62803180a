"""A private nginx on loopback that answers 204 to everything: a receiver that costs next to nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        return 204;
    }}
}}
"""
START = 5.0  # seconds


class NginxError(Exception):
    """There is no nginx here, or it does not start."""


@contextmanager
def nginx(name: str = "nginx") -> Iterator[str]:
    """Run nginx and give its URL; raises NginxError with the reason in words."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NginxError(f"{name} is not installed: the benchmarks need nginx as their receiver (Debian: nginx-light)")
    with tempfile.TemporaryDirectory(prefix="hookengine-nginx-") as directory, Path(directory, "errors").open("w+b") as errors:
        port = free_port()
        config = Path(directory, "nginx.conf")
        config.write_text(CONFIG.format(port=port))
        with subprocess.Popen([program, "-p", directory, "-c", config, "-e", "stderr"], stderr=errors) as process:
            try:
                wait_for(process, port, errors)
                yield f"http://127.0.0.1:{port}/"
            finally:
                process.terminate()  # the master ends its worker


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(process: subprocess.Popen[bytes], port: int, errors: BinaryIO) -> None:
    """Return once *process* accepts connections; *errors* is where it says why it does not."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            errors.seek(0)
            raise NginxError(f"nginx ended at once: {errors.read().decode(errors='replace').strip()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise NginxError(f"nginx did not listen within {START:.0f} s")
