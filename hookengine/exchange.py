"""
One HTTP/1.1 request and its answer, over a connection of aiohttp's connector and through aiohttp's parser.

`ClientSession` does the same for twice the CPU (docs/performance.md). What it guards is guarded here and in `wire`, and
what it does not guard as well: floods of interim responses, answers without end, and bytes that nobody has asked for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, cast

from aiohttp import ClientConnectionError, ClientTimeout, TCPConnector

from hookengine.failpoints import failpoint
from hookengine.models import Response
from hookengine.wire import KEPT_BODY, Answers, Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aiohttp.abc import AbstractResolver
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import SocketFactoryType
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

    from hookengine.deadline import Deadline
    from hookengine.message import Target
    from hookengine.wire import Answer

    _Sent = tuple[Wire, asyncio.Future[Answer]]
    Turn = Callable[[float], float | None]  # of the ms that are left, those to wait; None if these are too few

CONNECT_BUDGET = 5.0  # s for lookup, TCP and TLS together
KEEP_ALIVE = 4.0  # s; many servers close an idle connection after 5
BODY_GRACE = 2.0  # s for the body once the verdict is known
MAX_BODY = 64 * 1024  # bytes of a body that are waited for

_CONNECTING = ClientTimeout(total=None, connect=CONNECT_BUDGET)


class Phase(Enum):
    """What an exchange was waiting for when it ended."""

    CONNECT = "connect"
    SEND = "send"  # the receiver had not taken the whole request
    ANSWER = "answer"


class OutOfTurn(Exception):
    """The turn of a request comes when its time is over: it was not sent."""


class Pool(TCPConnector):
    """
    aiohttp's connection pool, with our protocol in its connections.

    To be made inside the running loop that uses it. Between two exchanges a connection rests here, without aiohttp's
    bookkeeping (docs/performance.md).
    """

    def __init__(
        self,
        *,
        ssl: ssl.SSLContext,
        resolver: AbstractResolver,
        socket_factory: SocketFactoryType | None,
        most_resting: int = 256,
    ) -> None:
        # No limit: how many requests go out at once, and to whom, is the scheduler's to say.
        super().__init__(
            limit=0,
            ssl=ssl,
            resolver=resolver,
            use_dns_cache=False,  # the resolver remembers by itself
            socket_factory=socket_factory,
        )
        self._answers = Answers()
        self._factory = cast("partial[ResponseHandler]", partial(Wire, loop=self._loop, answers=self._answers))
        # By origin, since when each rests by the loop's clock; the last used at the end.
        self._resting: defaultdict[ConnectionKey, deque[tuple[Wire, float]]] = defaultdict(deque)
        self._rested: dict[Wire, ConnectionKey] = {}  # all of them; the one that has rested longest first
        self._most_resting = most_resting  # each takes a descriptor
        self._sweeping: asyncio.TimerHandle | None = None

    def idle(self, target: Target) -> Wire | None:
        """A connection that rests, the one used last, so that those that are not needed grow old; None without any."""
        resting = self._resting.get(target.key)
        while resting:
            wire, since = resting.pop()
            del self._rested[wire]
            transport = wire.transport
            if transport is not None and not transport.is_closing() and self._loop.time() - since <= KEEP_ALIVE:
                return wire
            wire.connection.close()
        return None

    def rests(self, target: Target) -> bool:
        """Whether there may be a connection that rests."""
        return target.key in self._resting

    async def dial(self, target: Target) -> Wire:
        """A new connection."""
        connection = await self.connect(target.origin, [], _CONNECTING)
        wire = cast("Wire", connection.protocol)
        wire.connection = connection
        return wire

    async def dial_anew(self, target: Target) -> Wire:
        """The same after one that rested was of no use: the others to this origin are closed."""
        while (wire := self.idle(target)) is not None:
            wire.connection.close()
        return await self.dial(target)

    def give_back(self, wire: Wire, target: Target, response: Response | None) -> None:
        """
        Keep a connection, whose exchange is over, for the next request to the same origin.

        The *response* is remembered by its bytes, unless it is None because it is not to be kept.
        """
        if self.closed:
            wire.connection.close()
            return
        wire.rest(response)
        self._resting[target.key].append((wire, self._loop.time()))
        self._rested[wire] = target.key
        if len(self._rested) > self._most_resting:
            self._close_oldest()
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(KEEP_ALIVE, self._sweep)

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, also those in use."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.make_room()
        self._resting.clear()
        self._answers.clear()
        await super().close(abort_ssl=abort_ssl)

    def make_room(self) -> None:
        """Close all that rest, for what they hold is needed."""
        while self._rested:
            self._close_oldest()

    def _close_oldest(self) -> None:
        wire, key = next(iter(self._rested.items()))
        del self._rested[wire]
        self._resting[key].popleft()  # of one origin the oldest comes first, as it does of all
        wire.connection.close()

    def _sweep(self) -> None:
        """Close those that have rested for too long."""
        oldest = self._loop.time() - KEEP_ALIVE
        while self._rested and self._resting[next(iter(self._rested.values()))][0][1] <= oldest:
            self._close_oldest()
        for key in [key for key, resting in self._resting.items() if not resting]:
            del self._resting[key]
        self._sweeping = self._loop.call_later(KEEP_ALIVE, self._sweep) if self._resting else None


class Exchange:
    """
    One request and its answer; what is known so far stays readable when it is cut short.

    Owned by the attempt that made it. Of a *private* one the answer is not remembered.

    Nearly all go over a connection that rests, and are answered in one piece: `begin` and `end` are for these, and need no
    task. Whatever else there is to do is done by `run`, which goes on from where `begin` has come to.
    """

    __slots__ = ("_body", "_head", "_is_private", "_sent", "_truncated", "phase")

    def __init__(self, *, private: bool = False) -> None:
        self.phase = Phase.CONNECT
        self._is_private = private
        self._sent: _Sent | None = None  # who has the request, until that is over
        self._head: RawResponseMessage | Response | None = None
        self._body = b""
        self._truncated = True

    @property
    def response(self) -> Response | None:
        """The answer, once its head is complete."""
        return None if self._head is None else self._response(self._head)

    @property
    def _under_way(self) -> _Sent:
        """Who has the request, which was sent."""
        assert self._sent is not None  # noqa: S101  # by `_send`
        return self._sent

    def begin(self, pool: Pool, target: Target, request: bytes) -> asyncio.Future[Answer] | None:
        """Send *request* over a connection that rests, and return its answer to come; None if there is none."""
        wire = pool.idle(target)
        if wire is None:
            return None
        return self._send(wire, request)

    def end(self, pool: Pool, target: Target) -> Response | None:
        """The response, if all of the answer that `begin` returned is there; else that is for `run`."""
        wire, answer = self._under_way
        if answer.cancelled() or answer.exception() is not None:
            return None
        head, payload = answer.result()
        if not payload.at_eof():
            return None
        response = None
        try:
            self._head, self._truncated = head, False
            response = self._response(head)
        finally:
            self._leave(pool, target, wire, response)
        return response

    def abandon(self, pool: Pool, target: Target) -> None:
        """Close the connection that `begin` has taken: nobody wants the answer any more."""
        wire, _ = self._under_way
        self._leave(pool, target, wire, None)

    async def run(
        self,
        pool: Pool,
        target: Target,
        request: bytes,
        deadline: Deadline,
        *,
        turn: Turn | None = None,
    ) -> Response:
        """
        Send *request*, unless `begin` has, wait for the head of the answer and for a reasonable part of its body.

        *deadline* is moved nearer once the head is there. *turn* is asked each time that the request could go. Raises
        OutOfTurn where its first one comes too late, and what aiohttp and the event loop raise; from the moment that there is
        a `response`, nothing but what ends the waiting.
        """
        if self._sent is None:
            wire = pool.idle(target)
            if wire is None:
                wire = await pool.dial(target)
            self._send(await _in_turn(wire, pool, target, deadline, turn), request)
        wire, _ = self._under_way
        try:
            return await self._converse(pool, target, deadline)
        except (ClientConnectionError, OSError) as error:
            # The other side closed the idle connection while we took it (RFC 9112, section 9.3.1): not its refusal.
            if wire.received or not wire.served:
                raise
            let_go(error)
        self.phase = Phase.CONNECT
        wire = await pool.dial_anew(target)
        self._send(await _in_turn(wire, pool, target, deadline, turn, again=True), request)
        return await self._converse(pool, target, deadline)

    def _send(self, wire: Wire, request: bytes) -> asyncio.Future[Answer]:
        self.phase = Phase.ANSWER
        try:
            answer = wire.begin()
            failpoint("K08-connected")
            if wire.transport is not None:
                wire.transport.write(request)
            failpoint("K09-written")
        except BaseException:
            wire.connection.close()
            raise
        self._sent = (wire, answer)
        return answer

    async def _converse(self, pool: Pool, target: Target, deadline: Deadline) -> Response:
        wire, answer = self._under_way
        response = None
        try:
            self._head, payload = await answer
            if payload.at_eof():
                self._truncated = False
            else:
                await self._read_body(wire, payload, deadline)
            response = self._response(self._head)
        finally:
            self._leave(pool, target, wire, response)
        return response

    def _leave(self, pool: Pool, target: Target, wire: Wire, response: Response | None) -> None:
        """Give the connection back, or close it where it cannot be used again: always without a *response*."""
        self._sent = None  # else we and the traceback of its error would keep each other
        if response is not None and wire.reusable:
            pool.give_back(wire, target, None if self._is_private else response)
            return
        if wire.unsent:
            self.phase = Phase.SEND
        wire.connection.close()

    def _response(self, head: RawResponseMessage | Response) -> Response:
        if isinstance(head, Response):  # it was given before
            return head
        return Response(
            status=head.code,
            headers=tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.raw_headers]),
            body=self._body[:KEPT_BODY],
            truncated=self._truncated or len(self._body) > KEPT_BODY,
        )

    async def _read_body(self, wire: Wire, payload: StreamReader, deadline: Deadline) -> None:
        if not self._is_private:  # of which the body is the answer
            deadline.no_later_than(BODY_GRACE)
        try:
            while True:
                self._body += await payload.readany()
                if payload.at_eof():
                    self._truncated = False
                    return
                if len(self._body) >= MAX_BODY or wire.overfull:
                    return
                # What is in the buffers is read without waiting, and that may be much in small pieces.
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001  # whatever befalls the body, the verdict stands
            let_go(error)


async def _in_turn(
    wire: Wire, pool: Pool, target: Target, deadline: Deadline, turn: Turn | None, *, again: bool = False
) -> Wire:
    """
    Wait for the turn of a request that has *wire*; the connection to send it over.

    One that has had a turn, and needs one *again*, goes at once where that would be too late: else one whose connections all
    end before it would never go.
    """
    wait = 0.0 if turn is None else turn(deadline.left * 1000)
    if wait == 0 or (wait is None and again):
        return wire
    if wait is None:
        wire.connection.close()
        raise OutOfTurn
    try:
        await asyncio.sleep(wait / 1000)
    except BaseException:
        wire.connection.close()
        raise
    if wire.transport is None or wire.transport.is_closing():  # the other side did not wait as long
        wire.connection.close()
        return await _in_turn(await pool.dial(target), pool, target, deadline, turn, again=True)
    return wire


def let_go(error: BaseException) -> None:
    """
    Free what the tracebacks of *error* hold, such as the request.

    aiohttp's frames and errors know each other, so they would wait for the collector, each with a body of up to a megabyte.
    """
    found: list[BaseException | None] = [error]
    for each in found:
        if each is None or each.__traceback__ is None:
            continue
        each.__traceback__ = None
        found += [each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ())]
