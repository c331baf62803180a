"""One attempt, from the deliveries that go to what becomes of each: nothing escapes it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import Struct

from hookengine import profiles, retry
from hookengine.models import (
    Accepted,
    Attempt,
    AttemptError,
    Broken,
    Delivery,
    ErrorCode,
    Event,
    Interrupted,
    Outcome,
    Request,
    Rules,
    SigningSecret,
    Subscription,
)
from hookengine.observers import Fault
from hookengine.signing_keys import UnusableSecret
from hookengine.store import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from hookengine.clock import Clock
    from hookengine.exchange import Turn
    from hookengine.observers import Happening
    from hookengine.outage import Outage
    from hookengine.profiles import Profile
    from hookengine.sender import Begun, Sender

Member = tuple[Delivery, Event | None]  # one of those that share a request; the event is None where it is gone


class Served(Struct, frozen=True):
    """A subscription as attempts use it."""

    subscription: Subscription
    profile: Profile
    rules: Rules


class Ready(Struct):
    """
    What is known of an attempt before it begins: the request for *going*, or the outcome where it could not be built.

    *results* has those that do not go, and at the end all.
    """

    taken: Delivery  # which leads the others where they are a batch
    served: Served
    results: list[Result]
    going: list[tuple[Delivery, Event]]
    now: int  # ms since the epoch
    request: Request | None = None
    outcome: Outcome | None = None
    since: float = 0.0  # by the loop's clock, when the request went
    begun: Begun | None = None

    @property
    def is_limited(self) -> bool:
        """Whether its subscription has a rate limit."""
        return self.served.subscription.rate_limit is not None


class Attempting:
    """Makes attempts."""

    def __init__(self, sender: Sender, *, clock: Clock, observe: Callable[[Happening], None], outage: Outage) -> None:
        # Kept, because asking for it costs a system call on Python 3.11, several times an attempt.
        self._loop = asyncio.get_running_loop()
        self._sender = sender
        self._clock = clock
        self._observe = observe
        self._outage = outage

    def prepare(
        self,
        taken: Delivery,
        members: list[Member],
        served: Served,
        *,
        secrets: Callable[[], Sequence[SigningSecret]],
    ) -> Ready:
        """
        One request for all of *members* that may go.

        *taken* is the one that was taken, which leads them where they are a batch. *secrets* may raise StorageCorrupt.
        """
        now = self._clock.now()
        results, going = _sorted_out(taken, members, served, now)
        ready = Ready(taken=taken, served=served, results=results, going=going, now=now)
        if not going:
            return ready
        delivery = going[0][0]
        try:
            ready.request = profiles.build(
                served.profile,
                served.subscription,
                [event for _, event in going],
                secrets=secrets(),
                attempt=delivery.attempt_count + 1,
                retry=min(delivery.step, len(served.rules.retry_schedule)),  # which may have become shorter since
                now=now,
                timeout=served.rules.timeout,
            )
        except Exception as error:  # noqa: BLE001  # promise 6
            ready.outcome = self._failure(delivery, error)
        return ready

    def begin(self, ready: Ready) -> asyncio.Future[Any] | None:
        """Send what is *ready*, if that needs no task: what is done when it is time for `end`; None if it is for `run`."""
        if ready.request is None:
            return None
        ready.since = self._loop.time()
        try:
            ready.begun = self._sender.begin(ready.request, ready.served.rules)
        except Exception:  # noqa: BLE001  # `run` finds it again, and knows what to do about it
            return None
        return None if ready.begun is None else ready.begun.answer

    def end(self, ready: Ready) -> list[Result] | None:
        """What becomes of each delivery of what was begun, and is done; None where that is for `run` to find out."""
        assert ready.begun is not None  # noqa: S101  # by `begin`
        try:
            outcome = self._sender.end(ready.begun)
        except Exception as error:  # noqa: BLE001  # promise 6
            outcome = self._failure(ready.going[0][0], error)
        return None if outcome is None else self._conclude(ready, outcome)

    def abandon(self, ready: Ready) -> list[Result]:
        """What becomes of each delivery of what was begun, and is cut."""
        assert ready.begun is not None  # noqa: S101  # by `begin`
        return self._conclude(ready, self._sender.abandon(ready.begun))

    async def run(self, ready: Ready, *, turn: Turn | None = None) -> list[Result]:
        """
        Send what is *ready*, after `begin` could not, or go on where it has come to; what becomes of each delivery.

        *turn* is asked when a request could go, with the ms that it has: how many of these it has to wait.
        """
        if not ready.going:
            return ready.results
        outcome = ready.outcome
        if ready.request is not None:
            try:
                outcome = await self._sender.attempt(ready.request, ready.served.rules, begun=ready.begun, turn=turn)
            except asyncio.CancelledError:
                outcome = Interrupted()
            except Exception as error:  # noqa: BLE001  # promise 6
                outcome = self._failure(ready.going[0][0], error)
        assert outcome is not None  # noqa: S101  # of a request, or of what kept it from being built
        return self._conclude(ready, outcome)

    def _conclude(self, ready: Ready, outcome: Outcome) -> list[Result]:
        results, going, served, request = ready.results, ready.going, ready.served, ready.request
        self._outage.weigh(outcome)
        duration = 0 if request is None else round((self._loop.time() - ready.since) * 1000)
        now = self._clock.now()
        began_at = ready.now if now >= ready.now else now - duration  # by a clock that was set back meanwhile
        rand = 0.0 if isinstance(outcome, Accepted) else self._clock.random()  # there is nothing to place
        head = _head(ready.taken)
        for delivery, event in going:
            attempt = Attempt(
                number=delivery.attempt_count + 1,
                at=began_at,
                duration=duration,
                trigger=delivery.trigger,
                outcome=outcome,
                request=request,
            )
            after = retry.settle(delivery, outcome, served.rules, now=began_at + duration, rand=rand)
            results.append(
                Result(
                    before=delivery,
                    after=after,
                    attempt=attempt,
                    rules=served.rules,
                    profile=served.profile.name,
                    event=event,
                    head=head,
                    shares=len(going) > 1,
                )
            )
        return results

    def _failure(self, delivery: Delivery, error: Exception) -> Outcome:
        """What an attempt ends with that fails in our own code."""
        if isinstance(error, MemoryError):
            detail = "This machine is short of memory."
            return Interrupted(error=AttemptError(code=ErrorCode.LOCAL_RESOURCES, detail=detail))
        self._observe(Fault(where=f"delivery {delivery.id}", error=repr(error)))
        return broken_by(error)


def _sorted_out(
    taken: Delivery, members: list[Member], served: Served, now: int
) -> tuple[list[Result], list[tuple[Delivery, Event]]]:
    """What becomes of those of *members* that do not go now, and those that do."""
    results: list[Result] = []
    going: list[tuple[Delivery, Event]] = []
    expired = False
    for delivery, event in members:
        after, attempt = retry.expire(delivery, now=now), None
        if after is not None:
            expired = True
        elif event is None:
            outcome = _broken(f"the event of {delivery.id} is gone, or cannot be read")
            number = delivery.attempt_count + 1
            attempt = Attempt(number=number, at=now, duration=0, trigger=delivery.trigger, outcome=outcome, request=None)
            after = retry.settle(delivery, outcome, served.rules, now=now, rand=0.0)
        elif expired and delivery.due_at > now:
            after = delivery  # its time has not come: the batch was taken early, because its head expired
        else:
            going.append((delivery, event))
            continue
        head = _head(taken)
        results.append(Result(before=delivery, after=after, attempt=attempt, rules=served.rules, event=event, head=head))
    return results, going


def _head(taken: Delivery) -> Delivery | None:
    """What a result says of the delivery that was taken: that it leads a batch."""
    return None if taken.batch is None else taken


def broken_by(error: Exception) -> Broken:
    """What an attempt ends with over *error*, whose text may hold what nobody should read, unless it is made for users."""
    return _broken(str(error) if isinstance(error, UnusableSecret) else type(error).__name__)


def _broken(detail: str) -> Broken:
    return Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail=detail))
