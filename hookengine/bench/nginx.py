"""A private nginx on loopback that answers 204 to everything: a receiver that costs next to nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from hookengine.bench.cases import Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hookengine.bench.loopback import Site

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
        {listen}
        ssl_certificate {certificate.shown.name};
        ssl_certificate_key {certificate.key.name};
        return 204;
    }}
}}
"""
START = 5.0  # seconds, and as many for the end


class NginxError(Exception):
    """There is no nginx here, or it does not start."""


@asynccontextmanager
async def nginx(site: Site, name: str = "nginx") -> AsyncIterator[dict[Way, list[str]]]:
    """Run nginx at *site*, and give its URLs; raises NginxError with the reason in words."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NginxError(f"{name} is not installed")
    (port, tls_port), first = free_ports(2), site.hosts[0]
    addresses = {(host, port): "backlog=4096" for host in site.hosts} | {(first, tls_port): "ssl backlog=4096"}
    listen = "\n        ".join(f"listen {host}:{each} {flags};" for (host, each), flags in addresses.items())
    config, errors = site.folder / "nginx.conf", site.folder / "errors"
    config.write_text(CONFIG.format(listen=listen, certificate=site.certificate))
    with errors.open("wb") as file:
        command = (program, "-p", str(site.folder), "-c", str(config), "-e", "stderr")
        process = await asyncio.create_subprocess_exec(*command, stderr=file)
    try:
        try:
            await listening(process, list(addresses))
        except NginxError as problem:
            raise NginxError(f"{problem}: {errors.read_text(errors='replace').strip()}") from None
        yield {
            Way.PLAIN: [f"http://{first}:{port}/"],
            Way.TLS: [f"https://{first}:{tls_port}/"],
            Way.HOSTS: [f"http://{host}:{port}/" for host in site.hosts],
        }
    finally:
        await end(process)


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 on which nobody listens at the moment."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in listeners]


async def listening(process: asyncio.subprocess.Process, addresses: list[tuple[str, int]]) -> None:
    """Return once *process* accepts connections at all *addresses*."""
    waiting = addresses[::-1]
    try:
        async with asyncio.timeout(START):
            while process.returncode is None:
                with suppress(ConnectionRefusedError):
                    while waiting:
                        _, writer = await asyncio.open_connection(*waiting[-1])
                        writer.close()
                        waiting.pop()
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
