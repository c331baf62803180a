"""A program with a network of its own, which is taken away for a while: an engine and its endpoints in it."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

from engines import Journal
from host import CONFIG

from hookengine.engine import DATABASE, Engine
from hookengine.receiver import Receiver, Reply

NOT_ALLOWED = 77  # the exit status where the system gives no process a network of its own
ENDPOINTS, EVENTS = 20, 10

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # unshare(2)
_SET_FLAGS, _SET_ADDRESS, _UP = 0x8914, 0x8916, 1  # netdevice(7)


def main() -> None:
    """The whole program: what it saw is a JSON document on stderr."""
    try:
        if ctypes.CDLL(None).unshare(_NEW_NETWORK | (_NEW_USER if os.geteuid() else 0)):
            sys.exit(NOT_ALLOWED)
        plug(True)
    except OSError:
        sys.exit(NOT_ALLOWED)
    json.dump(asyncio.run(_work(Path(sys.argv[1]))), sys.stderr)


def plug(up: bool) -> None:
    """Let there be a network, or none: without an address there is no way to anywhere."""
    address = socket.inet_aton("127.0.0.1" if up else "0.0.0.0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_ADDRESS, struct.pack("=16sHH4s8x", b"lo", socket.AF_INET, 0, address))
        if up:
            fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("=16sh14x", b"lo", _UP))


async def _work(folder: Path) -> dict[str, object]:
    journal = Journal()
    async with (
        Receiver(Reply(headers=(("connection", "close"),))) as receiver,
        Engine(folder / DATABASE, config=CONFIG, logger=journal.logger) as engine,
    ):
        ids = [(await engine.subscribe(f"{receiver.url}/{n}")).id for n in range(ENDPOINTS)]
        first = await engine.publish("before", {})
        await engine.wait(first.id, 20)
        plug(False)
        for n in range(EVENTS):
            await engine.publish("during", {"n": n})
        troubles = await journal.until("local_trouble", 4)
        pending = (await engine.deliveries(state="pending", limit=250)).data
        subscriptions = [await engine.subscription(id_) for id_ in ids]
        plug(True)
        await receiver.wait(ENDPOINTS * (1 + EVENTS), 20)
        return {
            "troubles": sorted({str(line["error"]).partition(":")[0] for line in troubles}),
            "pending": len(pending),
            "attempts": sum(each.attempt_count for each in pending),
            "failures": sum(each.consecutive_failures for each in subscriptions),
            "states": sorted({each.state for each in subscriptions}),
            "arrived": len({(request.path, request.header("webhook-id")) for request in receiver.requests}),
            "requests": len(receiver.requests),
        }
