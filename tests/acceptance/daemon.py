"""The daemon as its operators have it: a process of its own, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from launcher import Launched, Launcher

ROOT = Path(__file__).parent.parent.parent
JSON = {"Content-Type": "application/json"}

CONFIG = """
[security]
allow_http = {allow_http}
allow_networks = ["127.0.0.0/8"]
[log]
level = "{log}"
[delivery]
concurrency = {concurrency}
drain = "{drain}"
{tables}
"""


class Daemon:
    """
    `hookengine serve` on the data in *folder*, with *settings* as `configure` takes them.

    It is started from a shell or, for many starts, by *launcher*. Entered, it is ready, to suffer *faults*; left, it is killed
    if it still runs. It may be started again after it has ended. It trusts the certificates of the system, or those in the
    file *trusting*.
    """

    def __init__(
        self,
        folder: Path,
        *faults: dict[str, Any],
        launcher: Launcher | None = None,
        trusting: Path | None = None,
        **settings: Any,
    ) -> None:
        self.data = folder / "data"
        self.url = ""
        self.said: list[str] = []  # on stderr
        self.up = asyncio.Event()  # it takes requests
        self.heeded = asyncio.Event()  # its stderr is read
        self._config = folder / "config.toml"
        self._launcher = launcher
        self._faults = faults  # of the first start
        self._environment = {} if trusting is None else {"SSL_CERT_FILE": str(trusting)}
        self._process: asyncio.subprocess.Process | Launched
        self._listening: asyncio.Task[None]
        self._client: aiohttp.ClientSession | None = None
        self._heard = asyncio.Event()
        self.configure(**settings)

    def configure(
        self,
        *,
        concurrency: int = 256,
        drain: str = "25s",
        allow_http: bool = True,
        log: str = "error",
        tables: str = "",
    ) -> None:
        """Say how it is to be from the next start on, with further *tables* of the configuration."""
        text = CONFIG.format(concurrency=concurrency, drain=drain, allow_http=json.dumps(allow_http), log=log, tables=tables)
        self._config.write_text(text)

    async def __aenter__(self) -> Self:
        await self.start(*self._faults)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def start(self, *faults: dict[str, Any]) -> float:
        """Start it, to suffer *faults*, and return the seconds until `/readyz` said so."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await self.launch(*faults)
        await self.says("Ready.")
        self.url = json.loads((self.data / "daemon.json").read_text())["url"]
        token = (self.data / "admin.token").read_text().strip()
        self._client = aiohttp.ClientSession(self.url, headers={"Authorization": f"Bearer {token}"})
        async with self._client.get("/readyz") as answer:
            assert 200 == answer.status
        self.up.set()
        return loop.time() - begun

    async def launch(self, *faults: dict[str, Any]) -> None:
        """Start it, and do not wait until it is ready; *faults* need a launcher."""
        self.said = []
        self.heeded.set()
        arguments = ("serve", "--data", str(self.data), "--config", str(self._config), "--listen", "127.0.0.1:0")
        if self._launcher is None:
            assert not faults
            self._process = await run(*arguments, **self._environment)
        else:
            self._process = await self._launcher.launch(*arguments, faults=faults)
        self._listening = asyncio.create_task(self._listen())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def says(self, text: str) -> None:
        """Wait until a line of its stderr has *text* in it."""
        async with asyncio.timeout(PATIENCE):
            while not any(text in line for line in self.said):
                assert not self._listening.done(), self.said
                self._heard.clear()
                await self._heard.wait()

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        async with asyncio.timeout(PATIENCE):
            status = await self._process.wait()
            await self._listening
        self.up.clear()
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        return status

    async def gets_ready(self) -> bool:
        """Whether it says that it is ready; if not, it has ended."""
        try:
            await self.says("Ready.")
        except AssertionError:
            await self.ended()
            return False
        return True

    async def ended_within(self, seconds: float) -> bool:
        """Whether it ends by itself in so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
                return True
        return False

    def tear(self, size: int) -> None:
        """Let it end when its WAL grows by more than *size* bytes, in the middle of a write; launched with `at_size`."""
        limit = (self.data / "hooks.db-wal").stat().st_size + size
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, limit))

    async def idle(self) -> None:
        """Wait until no delivery is pending, and memory knows of it too: the file is a moment ahead of what is counted."""
        async with asyncio.timeout(PATIENCE):
            while (await self.ask("GET", "/v1/deliveries?state=pending&limit=1"))["data"]:
                pass
            while await self.metric("hookengine_attempts_in_flight"):
                pass

    async def stop(self) -> tuple[int, float]:
        """Send it SIGTERM; its exit status, and the seconds until it had ended."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.signal(signal.SIGTERM)
        return await self.ended(), loop.time() - begun

    async def kill(self) -> None:
        """Send it SIGKILL, if it still runs, and wait until it has ended."""
        if self._process.returncode is None:
            self.signal(signal.SIGKILL)
        await self.ended()

    async def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """The answer to a request, with an idempotency *key*, which must be a success; raises aiohttp.ClientError if not."""
        if self._client is None:
            raise aiohttp.ClientConnectionError("the daemon has ended")
        sent: dict[str, Any] = (
            {}
            if body is None
            else {"data": BytesIO(json.dumps(body).encode()), "headers": JSON | ({"Idempotency-Key": key} if key else {})}
        )
        async with self._client.request(method, path, **sent) as answer:
            answer.raise_for_status()
            return await answer.json() if answer.content_length else None

    async def answer(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> tuple[int, Any]:
        """The status and the value of the answer to a request, whatever it is; with *token* in place of the owner's."""
        assert self._client is not None
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with self._client.request(method, path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None) if answer.content_length else None

    async def metric(self, name: str) -> float:
        """What a metric without labels shows."""
        assert self._client is not None
        async with self._client.get("/metrics") as answer:
            found = re.search(rf"^{name} (\S+)$", await answer.text(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    async def subscribe(self, url: str, **settings: Any) -> str:
        """The id of a new subscription of *url*."""
        made = await self.ask("POST", "/v1/subscriptions", {"url": url} | settings)
        return str(made["id"])

    def memory(self, kind: str = "VmRSS") -> int:
        """The bytes of memory that it occupies, or another *kind* of proc(5)."""
        found = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            await self.heeded.wait()
            self.said.append(line.decode().rstrip())
            self._heard.set()
        self._heard.set()


async def run(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    """`hookengine` with *arguments*, as from a shell with *variables* in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOOKENGINE_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hookengine", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment | {"PYTHONPATH": str(ROOT)} | variables,
    )


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """The URL of an endpoint that takes requests and never answers."""
    held: set[asyncio.StreamWriter] = set()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.add(writer)
        try:
            while await reader.read(65_536):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
