"""A private nginx on loopback that answers 204 to everything: a receiver that costs next to nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

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
START = 5.0  # seconds, and as many for the end


class NginxError(Exception):
    """There is no nginx here, or it does not start."""


@asynccontextmanager
async def nginx(directory: Path, name: str = "nginx") -> AsyncIterator[str]:
    """Run nginx with its files in *directory* and give its URL; raises NginxError with the reason in words."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NginxError(f"{name} is not installed")
    port, config, errors = free_port(), directory / "nginx.conf", directory / "errors"
    config.write_text(CONFIG.format(port=port))
    with errors.open("wb") as file:
        command = (program, "-p", str(directory), "-c", str(config), "-e", "stderr")
        process = await asyncio.create_subprocess_exec(*command, stderr=file)
    try:
        try:
            await listening(process, port)
        except NginxError as problem:
            raise NginxError(f"{problem}: {errors.read_text(errors='replace').strip()}") from None
        yield f"http://127.0.0.1:{port}/"
    finally:
        await end(process)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Return once *process* accepts connections."""
    try:
        async with asyncio.timeout(START):
            while process.returncode is None:
                with suppress(ConnectionRefusedError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise NginxError(f"nginx did not listen within {START:.0f} s") from None
    raise NginxError("nginx ended at once")


async def end(process: asyncio.subprocess.Process) -> None:
    """End *process*, a master, which ends its worker unless it has to be killed."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(START):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
