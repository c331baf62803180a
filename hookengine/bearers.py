"""The access tokens of endpoints: one source for each subscription, which asks once for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

# Loaded here, when an engine starts, and not by the first token: that would hold up everybody's deliveries for 0.1 s.
import oauthlib.oauth2  # noqa: F401
from msgspec.structs import replace

from hookengine import auth
from hookengine.auth import NoToken
from hookengine.errors import HookEngineError
from hookengine.models import (
    AccessToken,
    AttemptError,
    Broken,
    ErrorCode,
    Interrupted,
    OAuth2,
    Refused,
    SecretBytes,
    Unreachable,
)
from hookengine.resolver import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from hookengine.models import Authorization, Outcome, Request, Response, TokenAnswer

T = TypeVar("T")

Load = Callable[[int, OAuth2], AccessToken | None]
Save = Callable[[int, OAuth2, AccessToken], Awaitable[None]]


# Seconds in which a renewal that ran out of time finds out whether that was this machine's fault: one more lookup. Who waits
# for it waits for that too, if it has no longer than themselves.
_GRACE = DEADLINE + 0.5
_MOMENT = 0.1  # s by which a renewal that one's own attempt began may end after it


class Source:
    """
    Where the attempts of one subscription have their token from.

    Owned by `Bearers`; a renewal belongs to nobody who waits for it.
    """

    __slots__ = ("ends_at", "oauth2", "renewal", "subscription", "token")

    def __init__(self, of: Authorization, token: AccessToken | None) -> None:
        self.subscription = of.subscription
        self.oauth2 = of.oauth2
        self.token = token
        self.renewal: asyncio.Task[AccessToken | Outcome] | None = None
        self.ends_at = 0.0  # when that does, by the loop's clock


class Bearers:
    """
    The sources, and the renewals under way.

    *send* sends a request for a token. *load* gives the token that was kept for a subscription (its seq) with such an `auth`,
    and *save* keeps one; a subscription that is not stored (seq 0) has neither. To be made inside the running loop.
    """

    def __init__(
        self, send: Callable[[Request], Awaitable[Outcome]], *, now: Callable[[], int], load: Load | None, save: Save | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._now = now
        self._load = load
        self._save = save
        self._sources: dict[int, Source] = {}  # by subscription; one that is not stored is not here
        self._tasks: set[asyncio.Task[Any]] = set()

    def source(self, of: Authorization) -> Source:
        """The source for attempts with this authorization; another `auth` of a subscription than before begins anew."""
        known = self._sources.get(of.subscription)
        if known is not None and known.oauth2 == of.oauth2:
            return known
        if of.subscription == 0:
            return Source(of, None)
        kept = None if self._load is None else self._load(of.subscription, of.oauth2)
        source = self._sources[of.subscription] = Source(of, kept)
        return source

    def forget(self, subscription: int) -> None:
        """Let go of its source, because it was deleted, or has another `auth`: whoever takes that back gets a new token."""
        self._sources.pop(subscription, None)

    async def token(self, source: Source, *, refused: AccessToken | None, within: int, until: float) -> AccessToken | Outcome:
        """
        A token that is not *refused*, for which is waited *until* a time of the loop; else how the attempt ends.

        The renewal has *within* ms. There is one at a time, and who is cancelled meanwhile does not end it.
        """
        token = source.token
        is_refused = token is not None and refused is not None and token.value == refused.value
        if token is not None and not is_refused and (token.renew_at is None or self._now() < token.renew_at):
            return token
        renewal = source.renewal
        if renewal is None:
            source.ends_at = self._loop.time() + within / 1000
            renewal = self._begin(self._renew(source))
            source.renewal = None if renewal.done() else renewal  # which eager tasks are that wait for nothing
        grace = _GRACE if source.ends_at <= until + _MOMENT else 0.0
        await asyncio.wait([renewal], timeout=max(0.0, until - self._loop.time()) + grace)
        if not renewal.done():
            return TOO_LATE
        # Nothing but what the event loop itself raises gets out of it, a KeyboardInterrupt for instance.
        return Interrupted() if renewal.cancelled() or renewal.exception() else renewal.result()

    async def close(self) -> None:
        """End the renewals under way; who waits for one is interrupted."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _renew(self, source: Source) -> AccessToken | Outcome:
        renewed: AccessToken | Outcome
        try:
            renewed = await self._ask(source)
        except Exception as error:  # noqa: BLE001  # nothing escapes the attempt
            renewed = Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail=f"{type(error).__name__} in a renewal"))
        finally:
            source.renewal = None
        if isinstance(renewed, AccessToken):
            source.token = renewed
            if source.subscription != 0:
                self._begin(self._keep(source, renewed))
        return renewed

    async def _ask(self, source: Source) -> AccessToken | Outcome:
        steps = auth.renew(source.oauth2, source.token, now=self._now())
        outcome: Outcome = Interrupted()
        try:
            request = next(steps)
            while True:
                timeout = max(1, round((source.ends_at - self._loop.time()) * 1000))
                outcome = await self._send(replace(request, timeout=timeout))
                answer = _answer(outcome)
                if answer is None and _is_theirs(outcome) and source.token is not None:
                    # Where nobody refreshes, and that takes all the time, the next renewal begins with the grant.
                    source.token = replace(source.token, refresh_token=None)
                request = steps.send(answer)
        except StopIteration as end:
            token: AccessToken | None = end.value
            return _without_answer(outcome) if token is None else token
        except NoToken as refused:
            return _failed(str(refused), refused.answer)

    async def _keep(self, source: Source, token: AccessToken) -> None:
        if self._save is None:
            return
        try:
            await self._save(source.subscription, source.oauth2, token)
        except HookEngineError:
            return  # the storage fails, or has stopped: after the next start a token is asked for


def _answer(outcome: Outcome) -> Response | None:
    """The answer of a token server, which does not show itself."""
    response = outcome.response
    return None if response is None else replace(response, body=SecretBytes(response.body))


def _without_answer(outcome: Outcome) -> Outcome:
    """How an attempt ends whose token server gave no answer; what is this machine's fault stays that."""
    match outcome:
        case Unreachable(is_the_proxys=False, error=error):
            return _failed(f"No access token came about. {error.detail}")
        case Refused():  # whose detail quotes what came
            return _failed("No access token came about: the token server's answer cannot be read as HTTP/1.1.")
        case _:
            return outcome


def _is_theirs(outcome: Outcome) -> bool:
    """Whether it is the token server that did not answer, and not this machine or its proxy that did not ask."""
    return isinstance(outcome, Refused) or (isinstance(outcome, Unreachable) and not outcome.is_the_proxys)


def _failed(detail: str, answer: TokenAnswer | None = None) -> Unreachable:
    return Unreachable(error=AttemptError(code=ErrorCode.AUTH_FAILED, detail=detail), token_answer=answer)


TOO_LATE = _failed("No access token came about in time.")
