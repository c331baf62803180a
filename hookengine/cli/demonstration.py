"""What `hookengine demo` shows: the daemon, used over HTTP as anybody would, and receivers of several profiles."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from hookengine.cli.arguments import document
from hookengine.cli.config import load
from hookengine.cli.daemon import announced
from hookengine.cli.logs import make_logger
from hookengine.cli.output import say, show_mark
from hookengine.client import Client
from hookengine.clock import Clock
from hookengine.engine import Engine
from hookengine.receiver import Receiver
from hookengine.signing import SCHEMES, new_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from hookengine.receiver import Received, Reply

_PATIENCE = 8.0  # seconds
_RETRIES = ["300ms", "600ms"]


class Scene(NamedTuple):
    """An endpoint: what it is called, how it is spoken to, and what it answers in turn."""

    name: str
    profile: str
    script: Sequence[int]


class Sample(NamedTuple):
    """A sample event."""

    id: str
    type: str
    data: bytes


SCENES = (
    Scene("acme", "standard", [200]),
    Scene("globex", "svix", [200]),
    Scene("initech", "standard", [503, 503, 200]),
)
SAMPLES = (
    Sample("demo-1", "order.created", b'{"order": 1001, "total": 24.90}'),
    Sample("demo-2", "order.paid", b'{"order": 1001, "total": 24.90, "method": "card"}'),
    Sample("demo-3", "customer.updated", '{"customer": 7, "name": "Zoë"}'.encode()),
)


async def demonstrate(*, keep: bool) -> bool:
    """Play all scenes, and return whether every delivery arrived and every request verified."""
    with TemporaryDirectory(prefix="hookengine-demo-") as directory:
        data = Path(directory)
        async with _daemon(data) as client, AsyncExitStack() as stack:
            say(f"hookengine is at {client.url}, its data in {data}")
            receivers = [await stack.enter_async_context(_receiver(scene)) for scene in SCENES]
            for scene, receiver in zip(SCENES, receivers, strict=True):
                await _subscribe(client, scene, receiver)
            for sample in SAMPLES:
                await _ask(client, "POST", "/v1/events", document({"type": sample.type, "id": sample.id}, "data", sample.data))
            states = await _ended(client)
            good = _verdict(states, [request for receiver in receivers for request in receiver.requests])
            if keep:
                await _stay(data)
    return good


@asynccontextmanager
async def _daemon(data: Path) -> AsyncIterator[Client]:
    config = load(None, environ={}, listen="127.0.0.1:0", dev=True)
    # What is refused on purpose is no news.
    logger = make_logger("error", "console", sys.stderr, colors=False)
    engine = Engine.from_file(config, data=data, logger=logger)
    await engine.start()
    try:
        with announced(data, str(engine.url)):
            yield Client(str(engine.url), (data / "admin.token").read_text().strip())
    finally:
        await engine.stop(drain=0)


def _receiver(scene: Scene) -> Receiver:
    types = {sample.id: sample.type for sample in SAMPLES}
    id_header = next((scheme.id_header for scheme in SCHEMES[scene.profile] if scheme.id_header), "")

    def show(received: Received, reply: Reply) -> None:
        verified = "verified" if received.verified else f"not verified: {received.reason}"
        event = types.get(received.header(id_header) or "", "")
        show_mark(received.verified, f"{verified}  {scene.profile:<9} {scene.name:<8} {event:<17} {reply.status}")

    return Receiver(scene.script, secret=new_secret(Clock().new_bytes(32)), profile=scene.profile, on_request=show)


async def _subscribe(client: Client, scene: Scene, receiver: Receiver) -> None:
    wanted = {
        "url": f"{receiver.url}/{scene.name}",
        "name": scene.name,
        "profile": scene.profile,
        "secret": receiver.secret,
        "retry_schedule": _RETRIES,
    }
    await _ask(client, "POST", "/v1/subscriptions", json.dumps(wanted).encode())


async def _ask(client: Client, method: str, path: str, body: bytes | None = None) -> Any:
    # The client blocks, and the server runs on this very loop.
    return (await asyncio.to_thread(client.request, method, path, body=body)).json()


async def _ended(client: Client, *, patience: float = _PATIENCE) -> list[str]:
    """The states of all deliveries, once none is pending, or after *patience* seconds."""
    states: list[str] = []
    try:
        async with asyncio.timeout(patience):
            while not states or "pending" in states:
                page = await _ask(client, "GET", "/v1/deliveries?limit=250")
                states = [delivery["state"] for delivery in page["data"]]
                await asyncio.sleep(0.1)
    except TimeoutError:
        say(f"Some deliveries have not ended after {patience:.0f} s.")
    return states


def _verdict(states: Sequence[str], requests: Sequence[Received]) -> bool:
    delivered, verified = states.count("delivered"), sum(request.verified for request in requests)
    good = len(states) == len(SCENES) * len(SAMPLES) == delivered and len(requests) == verified
    show_mark(good, f"{delivered} of {len(states)} deliveries arrived; {verified} of {len(requests)} requests verified")
    return good


async def _stay(data: Path) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    say(f"It stays open until Ctrl-C. Try: hookengine delivery list --data {data}")
    await told.wait()
