"""Who hears of what happened: logs, metrics, and whoever waits for an event to be done."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, assert_never, get_args

import structlog
from msgspec import Struct

from hookengine.models import Accepted, Broken, DeliveryState, Interrupted, Refused, Unreachable
from hookengine.retry import EXPIRED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hookengine.metrics import Metrics
    from hookengine.models import Attempt, Delivery, Subscription

# Names of their own: see `models`.
_PENDING, _FAILED = DeliveryState.PENDING, DeliveryState.FAILED


class Finished(Struct, frozen=True, gc=False):
    """An attempt that ended; `delivery` is as it stands after it."""

    delivery: Delivery
    attempt: Attempt | None  # None: it expired without one
    subscription: Subscription | None  # None: deleted meanwhile
    counted: bool = True  # False: the attempt was another delivery's too, and is counted there
    had_ended: bool = False  # the delivery, while the attempt ran: it was told of then


class AttemptsFinished(Struct, frozen=True, gc=False):
    """These attempts are recorded, in one commit and in the order of their ends."""

    finished: Sequence[Finished]


class DeliveryOverruled(Struct, frozen=True, kw_only=True, gc=False):
    """A delivery was changed by hand, brought forward as its subscription was enabled, or given up while it waited."""

    delivery: Delivery
    subscription: Subscription | None  # None: deleted meanwhile


class SubscriptionChanged(Struct, frozen=True, kw_only=True, gc=False):
    """A subscription was made (no `before`), changed, or deleted (no `after`)."""

    before: Subscription | None
    after: Subscription | None


class Committed(Struct, frozen=True, kw_only=True, gc=False):
    """A commit, with so many new events and deliveries in it."""

    events: int
    deliveries: int


class ReplayProgress(Struct, frozen=True, kw_only=True, gc=False):
    """A replay of a subscription will make `count` deliveries, or is finished and has made them."""

    subscription: Subscription
    count: int
    finished: bool


class StorageTrouble(Struct, frozen=True, kw_only=True, gc=False):
    """Commits fail or new events find no room, or (without an error) both is over."""

    error: str | None


class LocalTrouble(Struct, frozen=True, kw_only=True, gc=False):
    """This machine, not an endpoint, keeps requests from going out; the engine waits for `pause` ms."""

    error: str
    pause: int


class KeyChanged(Struct, frozen=True, kw_only=True, gc=False):
    """With a start under another key, `count` values in the database were sealed anew: older keys are not needed any more."""

    count: int


class ProxyInUse(Struct, frozen=True, kw_only=True, gc=False):
    """All requests go through this proxy: it decides which addresses are called."""

    url: str


class NotConfigured(Struct, frozen=True, kw_only=True, gc=False):
    """What rows need is not configured: a plan, a profile, or a secret that it can sign with; `where` says whose."""

    where: str
    error: str


class Fault(Struct, frozen=True, kw_only=True, gc=False):
    """Something in our own code or in a stored row is wrong; `where` names it."""

    where: str
    error: str


Happening = (
    AttemptsFinished
    | DeliveryOverruled
    | SubscriptionChanged
    | Committed
    | ReplayProgress
    | StorageTrouble
    | LocalTrouble
    | KeyChanged
    | ProxyInUse
    | NotConfigured
    | Fault
)


Kinds = tuple[type[Happening], ...]
EVERYTHING: Kinds = get_args(Happening)


class Observer(Protocol):
    """Hears of what happened; must not wait and should not raise."""

    hears: Kinds  # the happenings that it is told of

    def __call__(self, happening: Happening) -> None:
        """Take note."""


class Observers:
    """
    All who hear of what happens in one engine.

    One that raises keeps neither the others from hearing nor the engine from working.
    """

    def __init__(self, *observers: Observer) -> None:
        self._hearing: dict[type[Happening], list[Observer]] = {kind: [] for kind in EVERYTHING}
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """Tell *observer* too."""
        for kind in observer.hears:
            self._hearing[kind].append(observer)

    def __call__(self, happening: Happening) -> None:
        """Tell those who hear of its kind."""
        for observer in self._hearing[type(happening)]:
            try:  # noqa: SIM105  # of every delivery, and `suppress` takes as long as an observer
                observer(happening)
            except Exception:  # noqa: BLE001, S110
                pass


class Waiters:
    """Wakes those who wait for something to happen to an event's deliveries."""

    hears: Kinds = (AttemptsFinished, DeliveryOverruled, SubscriptionChanged, Fault)

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Event]] = {}  # by event
        self.closed = False  # nothing happens any more

    def __call__(self, happening: Happening) -> None:
        """Wake whom it concerns."""
        if not self._waiting:
            return
        match happening:
            case AttemptsFinished(finished=finished):
                for each in finished:
                    self._wake(each.delivery)
            case DeliveryOverruled(delivery=delivery):
                self._wake(delivery)
            case SubscriptionChanged() | Fault():  # deliveries read differently now, or were given up because of their rows
                self._wake_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        self.closed = True
        self._wake_all()

    def _wake_all(self) -> None:
        for some in self._waiting.values():
            for flag in some:
                flag.set()

    def _wake(self, delivery: Delivery) -> None:
        for flag in self._waiting.get(delivery.event, ()):
            flag.set()

    @contextmanager
    def watch(self, event: int) -> Iterator[asyncio.Event]:
        """A flag that is set whenever something happens to the event with this key."""
        flag = asyncio.Event()
        self._waiting.setdefault(event, set()).add(flag)
        try:
            yield flag
        finally:
            self._waiting[event].discard(flag)
            if not self._waiting[event]:
                del self._waiting[event]


def host_logger() -> structlog.typing.FilteringBoundLogger:
    """A logger into the standard library's `hookengine`, whose level and output are the host program's business."""
    processors: list[structlog.typing.Processor] = [structlog.stdlib.filter_by_level, _record]
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        logging.getLogger("hookengine"), processors=processors, wrapper_class=structlog.stdlib.BoundLogger
    )
    return logger


def _record(_logger: object, _method: str, fields: structlog.typing.EventDict) -> dict[str, Any]:
    """The message has the fields too: a host that has not set logging up prints messages only."""
    name = fields.pop("event")
    return {"msg": " ".join([name, *(f"{key}={value!r}" for key, value in fields.items())]), "extra": fields}


class LogObserver:
    """
    Writes what happened into a structlog logger; the names of events and fields are part of the documentation.

    An accepted attempt is logged at debug level: a healthy engine is quiet.
    """

    hears = EVERYTHING

    def __init__(self, logger: structlog.typing.FilteringBoundLogger) -> None:
        self._log = logger.bind()  # what wrap_logger gives binds anew for every line

    def __call__(self, happening: Happening) -> None:
        """Write one line."""
        match happening:
            case AttemptsFinished(finished=finished):
                self._finished(finished)
            case DeliveryOverruled(delivery=delivery, subscription=subscription):
                self._overruled(delivery, subscription)
            case SubscriptionChanged(before=before, after=after):
                self._subscription(before, after)
            case Committed():
                pass
            case ReplayProgress(subscription=subscription, count=count, finished=finished):
                self._log.info("replay_finished" if finished else "replay_started", subscription=subscription.id, count=count)
            case StorageTrouble(error=error):
                self._storage(error)
            case LocalTrouble(error=error, pause=pause):
                self._log.warning("local_trouble", error=error, pause_ms=pause)
            case KeyChanged(count=count):
                self._log.info("key_changed", resealed=count)
            case ProxyInUse(url=url):
                self._log.warning("proxy_in_use", url=url)
            case NotConfigured(where=where, error=error):
                self._log.warning("not_configured", where=where, error=error)
            case Fault(where=where, error=error):
                self._log.error("fault", where=where, error=error)
            case _:
                assert_never(happening)

    def _finished(self, finished: Sequence[Finished]) -> None:
        is_quiet = not self._log.is_enabled_for(logging.DEBUG)
        for each in finished:
            # Of every delivery that goes well nothing is made ready for a line that is not written.
            if not is_quiet or each.attempt is None or not isinstance(each.attempt.outcome, Accepted):
                self._attempt(each)

    def _attempt(self, finished: Finished) -> None:
        delivery, attempt = finished.delivery, finished.attempt
        fields = _fields(delivery, finished.subscription)
        if attempt is None:
            self._log.warning("delivery_expired", **fields)
            return
        fields["duration_ms"] = attempt.duration
        match attempt.outcome:
            case Accepted():
                self._log.debug("attempt_accepted", **fields)
            case Interrupted(error=error):
                self._log.debug("attempt_interrupted", error=error.code.value if error else None, **fields)
            case Refused(error=error, response=response):
                status = response.status if response else None
                self._log.warning("attempt_failed", error=error.code.value, status_code=status, **fields)
            case Unreachable(error=error) | Broken(error=error):
                self._log.warning("attempt_failed", error=error.code.value, status_code=None, **fields)
            case _:
                assert_never(attempt.outcome)

    def _overruled(self, delivery: Delivery, subscription: Subscription | None) -> None:
        if delivery.state is _FAILED and delivery.failed_label == EXPIRED:
            self._log.warning("delivery_expired", **_fields(delivery, subscription))
        else:
            self._log.debug("delivery_overruled", delivery=delivery.id, state=delivery.state.value)

    def _storage(self, error: str | None) -> None:
        if error is None:
            self._log.info("storage_recovered")
        else:
            self._log.error("storage_unavailable", error=error)

    def _subscription(self, before: Subscription | None, after: Subscription | None) -> None:
        if after is None:
            self._log.info("subscription_deleted", subscription=before.id if before else None)
        elif before is None:
            self._log.info("subscription_created", subscription=after.id)
        elif before.state is after.state:
            return
        elif after.disabled_reason is None:
            self._log.info("subscription_enabled", subscription=after.id)
        else:
            self._log.warning("subscription_disabled", subscription=after.id, reason=after.disabled_reason.value)


def _fields(delivery: Delivery, subscription: Subscription | None) -> dict[str, Any]:
    return {
        "delivery": delivery.id,
        "subscription": subscription.id if subscription else None,
        "state": delivery.state.value,
        "attempt_count": delivery.attempt_count,
    }


class MetricsObserver:
    """Counts what happened."""

    hears = EVERYTHING

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, happening: Happening) -> None:
        """Count it."""
        match happening:
            case AttemptsFinished(finished=finished):
                self._finished(finished)
            case Committed(events=events, deliveries=deliveries):
                self._metrics.committed(events, deliveries)
            case DeliveryOverruled(delivery=delivery):
                if delivery.state is not _PENDING:  # cancelled, or given up while it waited
                    self._metrics.finished(delivery.state)
            case SubscriptionChanged(before=before, after=after):
                self._metrics.changed(before, after)
            case StorageTrouble(error=error):
                self._metrics.storage(works=error is None)
            case LocalTrouble():
                self._metrics.held_off()
            case Fault():
                self._metrics.fault()
            case ReplayProgress() | KeyChanged() | ProxyInUse() | NotConfigured():
                pass  # the deliveries that it makes are counted with their commits
            case _:
                assert_never(happening)

    def _finished(self, finished: Sequence[Finished]) -> None:
        for each in finished:
            if each.attempt is not None and each.counted:
                self._metrics.attempted(each.attempt)
            state = each.delivery.state
            if state is not _PENDING and not each.had_ended:
                self._metrics.finished(state)
