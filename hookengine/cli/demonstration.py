"""What `hookengine demo` shows: the daemon, used over HTTP as anybody would, and a receiver of each profile."""

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
from hookengine.cli.files import TOKEN
from hookengine.cli.logs import make_logger
from hookengine.cli.output import say, show_mark
from hookengine.cli.signals import ending, heeding_signals
from hookengine.client import Client
from hookengine.clock import Clock
from hookengine.engine import Engine
from hookengine.profiles import PROFILES
from hookengine.receiver import Receiver
from hookengine.schemes import SCHEMES
from hookengine.signing_keys import new_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from hookengine.receiver import Received, Reply

_PATIENCE = 8.0  # seconds
_RETRIES = ["300ms", "600ms"]


class Scene(NamedTuple):
    """An endpoint: what it is called, how it is spoken to, and what it answers in turn."""

    name: str
    profile: str
    script: Sequence[int] = (200,)


class Sample(NamedTuple):
    """A sample event, and what of its data no other has, however the profile prints it."""

    type: str
    data: bytes
    mark: bytes


SCENES = (
    Scene("acme", "standard"),
    Scene("globex", "svix"),
    Scene("hooli", "github"),
    Scene("umbrella", "stripe"),
    Scene("stark", "slack"),
    Scene("wayne", "shopify"),
    Scene("tyrell", "clearfeed"),
    Scene("cyberdyne", "clarife"),
    Scene("wonka", "clevertap"),
    Scene("initech", "standard", [503, 503, 200]),
)
SAMPLES = (
    Sample("order.created", b'{"order": 1001, "total": 24.90}', b"24.9"),
    Sample("order.paid", b'{"order": 1001, "method": "card"}', b"card"),
    Sample("customer.updated", '{"customer": 7, "name": "Zoë"}'.encode(), b"customer"),
)

# A profile that signs nothing is told from others by a password.
_LOGIN = {"type": "basic", "username": "hookengine", "password": "demo"}
_AUTHORIZATION = "Basic aG9va2VuZ2luZTpkZW1v"


async def demonstrate(*, keep: bool) -> bool:
    """Play all scenes, and return whether every delivery arrived and every request verified."""
    with heeding_signals(asyncio.current_task()), TemporaryDirectory(prefix="hookengine-demo-") as directory:
        data = Path(directory)
        async with _daemon(data) as client, AsyncExitStack() as stack:
            say(f"hookengine is at {client.url}, its data in {data}")
            secret = new_secret(Clock().new_bytes(32))
            await _ask(client, "PUT", "/v1/tenants/default/secret", json.dumps({"secret": secret}).encode())
            receivers = [await stack.enter_async_context(_receiver(scene, secret)) for scene in SCENES]
            for scene, receiver in zip(SCENES, receivers, strict=True):
                await _subscribe(client, scene, receiver)
            for sample in SAMPLES:
                await _ask(client, "POST", "/v1/events", document({"type": sample.type}, "data", sample.data))
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
            yield Client(str(engine.url), (data / TOKEN).read_text().strip())
    finally:
        await engine.stop(drain=0)


def _receiver(scene: Scene, secret: str) -> Receiver:
    """Verifies with *secret*, where the profile signs."""

    def show(received: Received, reply: Reply) -> None:
        proof = _proof(received)
        event = next((sample.type for sample in SAMPLES if sample.mark in received.body), "(test)")
        said = proof or f"not verified: {received.reason}"
        show_mark(proof is not None, f"{said:<13}  {scene.profile:<9} {scene.name:<9} {event:<16} {reply.status}")

    return Receiver(scene.script, secret=secret if SCHEMES[scene.profile] else None, profile=scene.profile, on_request=show)


def _proof(received: Received) -> str | None:
    """What shows that a request is from us."""
    if received.verified:
        return "verified"
    authenticated = received.reason == "no_secret" and received.header("authorization") == _AUTHORIZATION
    return "authenticated" if authenticated else None


async def _subscribe(client: Client, scene: Scene, receiver: Receiver) -> None:
    wanted: dict[str, Any] = {
        "url": f"{receiver.url}/{scene.name}",
        "name": scene.name,
        "profile": scene.profile,
        "retry_schedule": _RETRIES,
    }
    if receiver.secret is None:
        wanted["auth"] = _LOGIN
    elif PROFILES[scene.profile].has_own_secrets:
        wanted["secret"] = receiver.secret
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
    delivered, proofs = states.count("delivered"), [_proof(request) for request in requests]
    verified, authenticated = proofs.count("verified"), proofs.count("authenticated")
    good = len(states) == len(SCENES) * len(SAMPLES) == delivered and len(requests) == verified + authenticated
    show_mark(
        good,
        f"{delivered} of {len(states)} deliveries arrived; of {len(requests)} requests {verified} verified, "
        f"{authenticated} authenticated",
    )
    return good


async def _stay(data: Path) -> None:
    told = asyncio.Event()
    for number in {signal.SIGTERM, signal.SIGINT, *ending()}:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    say(f"It stays open until Ctrl-C. Try: hookengine delivery list --data {data}")
    await told.wait()
