"""A look at all that is shown at one moment: what different answers say of the same must agree."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from hookengine.models import FINAL_STATES, DeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hookengine.engine import Engine
    from hookengine.views import Delivery, EventDetail, Explained, Explanation, Stats, Subscription

PATIENCE = 3  # times that a look is begun anew because something has happened meanwhile
EVENTS = 4  # that are looked at one by one, the newest
SINCE_EVER = datetime(2000, 1, 1, tzinfo=UTC)


class Look:
    """What was shown, read one answer after the other while nothing happened."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.in_state: dict[str, list[Delivery]] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.stats: dict[str, Stats] = {}
        self.events: list[tuple[EventDetail, Explanation]] = []

    async def take(self, engine: Engine) -> bool:
        """Read all of it; False where something happened meanwhile."""
        self.deliveries = await _all(engine.deliveries)
        self.in_state = {state: await _all(engine.deliveries, 7, state=state) for state in DeliveryState}
        self.subscriptions = {each.id: each for each in await _all(engine.subscriptions, 2)}
        self.stats = {id_: await engine.stats(id_, since=SINCE_EVER) for id_ in self.subscriptions}
        self.events = [
            (await engine.event(each.id, tenant=each.tenant), await engine.explain(each.id, tenant=each.tenant))
            for each in (await engine.events(limit=EVENTS)).data
        ]
        same = self.subscriptions == {each.id: each for each in await _all(engine.subscriptions)}
        return same and self.deliveries == await _all(engine.deliveries)


async def look(engine: Engine) -> Look | None:
    """All that is shown; None where something happens all the time."""
    for _ in range(PATIENCE):
        taken = Look()
        if await taken.take(engine):
            return taken
    return None


async def _all(ask: Callable[..., Any], limit: int = 250, **query: Any) -> list[Any]:
    found: list[Any] = []
    cursor = None
    while True:
        page = await ask(limit=limit, cursor=cursor, **query)
        found += page.data
        cursor = page.next_cursor
        if cursor is None:
            return found


def contradictions(look: Look, *, retried: bool, jumped: bool) -> Iterator[str]:
    """
    What does not agree.

    Statistics may have counted a delivery twice that somebody has *retried*; a clock that has *jumped* tells no order.
    """
    if len({each.id for each in look.deliveries}) != len(look.deliveries):
        yield "a delivery is listed twice"
    for state, listed in look.in_state.items():
        if listed != [each for each in look.deliveries if each.state == state]:
            yield f"of {state} {len(listed)} are listed, and among all {sum(each.state == state for each in look.deliveries)}"
    for each in look.deliveries:
        yield from _of_delivery(each, look.subscriptions.get(each.subscription))
    for id_, stats in look.stats.items():
        counts = Counter(each.state for each in look.deliveries if each.subscription == id_)
        for state in DeliveryState:
            told = getattr(stats.deliveries, state)
            if told < counts[state] or (told > counts[state] and (not retried or state not in FINAL_STATES)):
                yield f"of {id_} {counts[state]} are {state}, and {told} in its statistics"
    for event, explanation in look.events:
        went = [each for each in look.deliveries if (each.event, each.tenant) == (event.id, event.tenant)]
        if sorted((each.id, each.state) for each in event.deliveries) != sorted((each.id, each.state) for each in went):
            yield f"{event.id} shows {event.deliveries}, and {went} are listed"
        receivers = {each.id for each in look.subscriptions.values() if each.tenant == event.tenant}
        if receivers | {each.subscription for each in went} != {each.subscription for each in explanation.subscriptions}:
            yield f"{event.id} went to {went}, and is explained for {explanation.subscriptions}"
        for explained in explanation.subscriptions:
            yield from _of_explained(explained, [each for each in went if each.subscription == explained.subscription])
            if "retention" in explained.reason and not jumped:  # which is longer than any story
                yield f"{explained.subscription} misses a delivery of {event.id}: {explained.reason}"


def _of_delivery(shown: Delivery, subscription: Subscription | None) -> Iterator[str]:
    if (shown.state in FINAL_STATES) != (shown.finished_at is not None):
        yield f"{shown.id} is {shown.state}, and ended at {shown.finished_at}"
    waits = {"active": "pending", "disabled": "held"}.get(subscription.state if subscription else "")
    if shown.state not in FINAL_STATES and shown.state != waits:
        yield f"{shown.id} is {shown.state}, and its subscription {subscription}"


def _of_explained(explained: Explained, went: list[Delivery]) -> Iterator[str]:
    """*went* are its deliveries, newest first."""
    shown = next((each for each in went if each.state == "delivered"), went[0] if went else None)
    told = (explained.delivered, explained.delivery, explained.state)
    expected = (False, UNSET, UNSET) if shown is None else (shown.state == "delivered", shown.id, shown.state)
    if told != expected:
        yield f"of {went} it is told that {explained}"
