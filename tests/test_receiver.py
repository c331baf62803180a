"""`hookengine.receiver`, asked by a real HTTP client over loopback."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from hookengine.clock import Clock
from hookengine.receiver import Received, Receiver, Reply
from hookengine.schemes import SCHEMES
from hookengine.signing import sign

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = b'{"type":"order.created","data":{"n":1.10}}'


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that asks the receiver."""
    async with aiohttp.ClientSession() as session:
        yield session


def signed(
    profile: str = "standard", *, secret: str = SECRET, body: bytes = BODY, url: str = "", at: int | None = None
) -> dict[str, str]:
    """The headers with which *profile* signs a request now, or at *at* (Unix seconds)."""
    now = Clock().now() // 1000 if at is None else at
    return dict(
        sign(SCHEMES[profile], [secret], id="evt_1", timestamp=now, body=body, method="POST", url=url, event_timestamp=now)
    )


async def statuses(http: aiohttp.ClientSession, url: str, count: int) -> list[int]:
    """What *count* requests in turn are answered."""
    found = []
    for _ in range(count):
        async with http.post(url) as response:
            found.append(response.status)
    return found


@pytest.mark.parametrize("path", ["/a%0ab", "/%0A", "/a%0d%0ab?q=%0a", "/%00", "/%E2%80%A8"])
async def test_every_path_arrives(http: aiohttp.ClientSession, path: str) -> None:
    """Whatever a path holds, the request is answered and kept."""
    async with Receiver() as receiver:
        async with http.post(URL(receiver.url + path, encoded=True)) as response:
            assert 200 == response.status
        [received] = await receiver.wait(1)

    assert path == received.path


async def test_records_the_request_as_it_came(http: aiohttp.ClientSession) -> None:
    """Method, target, headers and body are kept byte for byte, with the time."""
    before = Clock().now()
    async with Receiver() as receiver:
        await http.put(f"{receiver.url}/a%2Fb/%7Ec?q=1&q=2", data=BODY, headers={"X-Own": "yes"})
        [received] = await receiver.wait(1)

    assert (1, "PUT", "/a%2Fb/~c?q=1&q=2", BODY) == (received.number, received.method, received.path, received.body)
    assert ("yes", None) == (received.header("x-own"), received.header("X-Other"))
    assert before <= received.at <= Clock().now()


async def test_body_is_neither_decoded_nor_limited(http: aiohttp.ClientSession) -> None:
    """A coded body is kept as it came, and one of megabytes is taken."""
    coded = gzip.compress(b"x" * 100)
    async with Receiver() as receiver:
        await http.post(receiver.url, data=coded, headers={"Content-Encoding": "gzip"})
        await http.post(receiver.url, data=io.BytesIO(b"y" * 3_000_000))

    assert [coded, b"y" * 3_000_000] == [received.body for received in receiver.requests]


async def test_script_is_answered_in_turn_and_its_last_step_repeats(http: aiohttp.ClientSession) -> None:
    """Two failures and then success is a sequence of three steps."""
    async with Receiver([503, Reply(status=429), 200]) as receiver:
        assert [503, 429, 200, 200] == await statuses(http, receiver.url, 4)


async def test_reply_has_status_headers_and_body(http: aiohttp.ClientSession) -> None:
    """A reply goes out as written, with a header that stands twice."""
    reply = Reply(status=503, headers=(("Retry-After", "7"), ("X-A", "1"), ("X-A", "2")), body=b"busy")
    async with Receiver(reply) as receiver, http.get(receiver.url) as response:
        assert (503, "7", ["1", "2"], b"busy") == (
            response.status,
            response.headers["Retry-After"],
            response.headers.getall("X-A"),
            await response.read(),
        )


async def test_step_may_decide_by_the_request(http: aiohttp.ClientSession) -> None:
    """A function of the request answers, at once or awaited."""

    def by_body(received: Received) -> int:
        return 204 if received.body == b"good" else 400

    async def awaited(received: Received) -> Reply:
        await asyncio.sleep(0)
        return Reply(status=410, body=received.body)

    async with Receiver([by_body, by_body, awaited]) as receiver:
        for body, status in ((b"good", 204), (b"bad", 400), (b"any", 410)):
            async with http.post(receiver.url, data=body) as response:
                assert status == response.status


async def test_delay_holds_the_answer_but_not_the_record(http: aiohttp.ClientSession) -> None:
    """A request counts as arrived while its answer still waits."""
    async with Receiver(Reply(delay=60)) as receiver:
        asking = asyncio.create_task(http.post(receiver.url, data=b"x"))
        [received] = await receiver.wait(1)

        assert b"x" == received.body
        assert not asking.done()

        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_leaving_does_not_wait_for_a_held_answer(http: aiohttp.ClientSession) -> None:
    """A receiver that holds an answer for a minute closes at once."""
    async with asyncio.timeout(5):
        async with Receiver(Reply(delay=60)) as receiver:
            asking = asyncio.create_task(http.post(receiver.url))
            await receiver.wait(1)
        ended = await asyncio.gather(asking, return_exceptions=True)

    assert isinstance(ended[0], aiohttp.ClientError)


@pytest.mark.parametrize("profile", ["standard", "svix", "github", "stripe", "slack", "shopify", "clarife", "clearfeed"])
async def test_signature_of_each_profile_verifies(http: aiohttp.ClientSession, profile: str) -> None:
    """A request signed as the profile says is verified, the URL included where it is signed."""
    async with Receiver(secret=SECRET, profile=profile) as receiver:
        url = f"{receiver.url}/hook?a=1"
        await http.post(url, data=BODY, headers=signed(profile, url=url))
        [received] = receiver.requests

    assert (True, None, None) == (received.verified, received.reason, received.detail)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        pytest.param(dict, "missing_header", id="unsigned"),
        pytest.param(lambda: signed(secret=OTHER), "no_match", id="other_secret"),
        pytest.param(lambda: signed(body=b"{}"), "no_match", id="other_body"),
        pytest.param(lambda: signed(at=1_000_000_000), "timestamp_too_old", id="old"),
        pytest.param(lambda: signed(at=4_000_000_000), "timestamp_too_new", id="future"),
    ],
)
async def test_bad_signature_is_told_with_its_reason(
    http: aiohttp.ClientSession, headers: Callable[[], dict[str, str]], reason: str
) -> None:
    """A request that does not verify is recorded and answered all the same, with why."""
    async with Receiver(secret=SECRET) as receiver, http.post(receiver.url, data=BODY, headers=headers()) as response:
        [received] = receiver.requests

    assert 200 == response.status
    assert (False, reason) == (received.verified, received.reason)
    assert received.detail


async def test_without_a_secret_nothing_verifies(http: aiohttp.ClientSession) -> None:
    """A receiver that knows no secret says so, and does not call a request verified."""
    async with Receiver() as receiver:
        await http.post(receiver.url, data=BODY, headers=signed())
        [received] = receiver.requests

    assert (False, "no_secret") == (received.verified, received.reason)


async def test_secret_may_come_after_the_start(http: aiohttp.ClientSession) -> None:
    """The secret that a sender makes for the receiver's address is used from then on, several while they rotate."""
    async with Receiver() as receiver:
        receiver.secret = [OTHER, SECRET]
        await http.post(receiver.url, data=BODY, headers=signed())

    assert receiver.requests[0].verified


async def test_on_request_hears_request_and_reply(http: aiohttp.ClientSession) -> None:
    """A listener gets each request with what it is answered."""
    heard: list[tuple[int, int]] = []
    async with Receiver([500, 200], on_request=lambda got, reply: heard.append((got.number, reply.status))) as receiver:
        await statuses(http, receiver.url, 2)

    assert [(1, 500), (2, 200)] == heard


async def test_wait_ends_at_its_timeout() -> None:
    """Waiting for what does not come is a TimeoutError."""
    async with Receiver() as receiver:
        with pytest.raises(TimeoutError):
            await receiver.wait(1, timeout=0.01)


async def test_several_may_wait(http: aiohttp.ClientSession) -> None:
    """Each of those who wait is woken at its own count."""
    async with Receiver() as receiver:
        waiting = [asyncio.create_task(receiver.wait(count)) for count in (3, 1, 2)]
        await statuses(http, receiver.url, 3)

        assert [3, 1, 2] == [len(found) for found in await asyncio.gather(*waiting)]


async def test_port_in_use_is_told() -> None:
    """A receiver that cannot listen raises the error of the system and leaves nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with Receiver(port=taken.getsockname()[1]):
            pytest.fail("it listens")


async def test_ipv6_address_stands_in_brackets(http: aiohttp.ClientSession) -> None:
    """A receiver on ::1 has a URL that can be called."""
    async with Receiver(204, host="::1") as receiver:
        assert receiver.url.startswith("http://[::1]:")
        assert [204] == await statuses(http, receiver.url, 1)


async def test_repr_shows_where_and_how_many(http: aiohttp.ClientSession) -> None:
    """A receiver in a failed test's output says its address and count, and no secret."""
    async with Receiver(secret=SECRET) as receiver:
        await statuses(http, receiver.url, 1)

        assert f"<Receiver {receiver.url.removeprefix('http://')} requests=1>" == repr(receiver)


async def test_leaving_without_entering_is_harmless() -> None:
    """A receiver that never started has nothing to close."""
    await Receiver().__aexit__(None, None, None)


def test_empty_script_is_a_value_error() -> None:
    """A receiver without an answer is a mistake of its maker."""
    with pytest.raises(ValueError, match="at least one step"):
        Receiver([])


async def test_public_url_is_what_was_signed(http: aiohttp.ClientSession) -> None:
    """Behind a tunnel, a signature over the URL is judged by the one that the sender knows."""
    public = "https://tunnel.example/hook"
    async with Receiver(secret=SECRET, profile="clearfeed", public_url=public) as receiver:
        await http.post(f"{receiver.url}/hook", data=BODY, headers=signed("clearfeed", url=public))

    assert receiver.requests[0].verified


@pytest.mark.parametrize("target", ["", "/", "?a=1", "/?a=1", "/hook"])
async def test_url_without_a_path_is_what_was_signed(http: aiohttp.ClientSession, target: str) -> None:
    """A URL that was saved without a path is signed so, and asked for with one."""
    async with Receiver(secret=SECRET, profile="clearfeed") as receiver:
        url = receiver.url + target
        await http.post(url, data=BODY, headers=signed("clearfeed", url=url))
        await http.post(url, data=BODY, headers=signed("clearfeed", url=url + "x"))

    assert [True, False] == [request.verified for request in receiver.requests]
    assert f"the URL was taken to be '{receiver.url}/{target.lstrip('/')}'" in (receiver.requests[1].detail or "")


async def test_request_may_name_the_whole_url(capfd: pytest.CaptureFixture[str]) -> None:
    """Of an absolute target the path is told; what is no HTTP is answered, and nobody's terminal holds a traceback."""
    async with Receiver() as receiver:
        for target in ("http://other.example/a?b=1", "/\xc3\xa9\x1b["):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(receiver.url.rpartition(":")[2]))
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
            await reader.read()
            writer.close()

    assert ["/a?b=1"] == [request.path for request in receiver.requests]
    assert "" == capfd.readouterr().err


async def test_receiver_that_runs_for_long_keeps_the_newest(http: aiohttp.ClientSession) -> None:
    """With a limit, older requests are let go, and counted all the same; the script goes on."""
    async with Receiver([500, 404, 200], keep=1) as receiver:
        assert [500, 404, 200] == await statuses(http, receiver.url, 3)
        assert [3] == [received.number for received in await receiver.wait(3)]


async def test_arrival_is_heard_before_the_answer(http: aiohttp.ClientSession) -> None:
    """A listener hears of a request when it was read, then of its reply."""
    heard: list[str] = []
    async with Receiver(
        202, on_arrival=lambda got: heard.append(got.method), on_request=lambda _, reply: heard.append(str(reply.status))
    ) as receiver:
        await statuses(http, receiver.url, 1)

    assert ["POST", "202"] == heard


async def test_sender_who_leaves_is_heard_of(http: aiohttp.ClientSession) -> None:
    """Where nobody waits for the reply any more, that is told in place of the reply."""
    gone = asyncio.Event()
    async with Receiver(
        Reply(delay=60), on_gone=lambda _: gone.set(), on_request=lambda *_: pytest.fail("it was answered")
    ) as receiver:
        asking = asyncio.create_task(http.post(receiver.url))
        await receiver.wait(1)
        asking.cancel()
        async with asyncio.timeout(5):
            await gone.wait()


def test_keeping_nothing_is_a_value_error() -> None:
    """A receiver that remembers no request is a mistake of its maker."""
    with pytest.raises(ValueError, match="at least one request"):
        Receiver(keep=0)
