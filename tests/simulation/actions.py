"""What is done with the engine: drawn from the seed, and written down as asked for, as answered, or as cut by a death."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from internet import PRIVATE, Endpoint
from looks import contradictions, look

from hookengine.errors import DeliveryStateConflict, EndpointVerificationFailed, SubscriptionDisabled, SubscriptionNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from simulated import World

    from hookengine.views import Delivery, Subscription

TENANTS = ("acme", "zeta")
TYPES = ("order.created", "order.paid", "user.left")
PATTERNS = (["*"], ["*"], ["order.*"], ["order.created", "user.left"], ["user.left"])
DAY = 86_400.0

SCHEDULES: dict[str, tuple[int, ...]] = {  # ms, as the documents of the providers have them
    "standard": (5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000),
    "clarife": (1_000, 10_000, 60_000),
    "clevertap": (5_000, 30_000),
}
SHORT = ("2s", "30s", "10m", "3h")
SHORT_MS = (2_000, 30_000, 600_000, 10_800_000)


@dataclass(eq=False)
class Sub:
    """A subscription as it was asked for."""

    id: str
    secrets: list[str]  # those that have signed, and sign
    endpoint: Endpoint
    tenant: str
    profile: str
    patterns: list[str]
    schedule: tuple[int, ...]
    fifo: bool
    skips: bool
    most: int  # requests at a time
    rate: tuple[int, int] | None  # requests, in ms
    disable_after: int | None
    deleted: bool = False
    enabled: list[tuple[float, int]] = field(default_factory=list)  # when it was: by the loop's time, and by the wall clock


@dataclass(eq=False)
class Said:
    """An event as it was published."""

    n: int
    type: str
    tenant: str
    key: str | None
    given: dict[str, Any]
    asked_at: float
    answered_at: float | None = None  # None: the process died before it had answered
    sure: set[str] = field(default_factory=set)  # subscriptions that must have a delivery if it was accepted
    possible: set[str] = field(default_factory=set)  # and those that may, because they changed at that moment
    replays: dict[str, int] = field(default_factory=dict)  # deliveries that were made again, by subscription
    more: dict[str, int] = field(default_factory=dict)  # and those that may have been


class Actions:
    """Everything that was done in one run, over all lives."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.subs: dict[str, Sub] = {}
        self.said: list[Said] = []
        self.batches: list[list[Said]] = []  # published together
        self.cancelled: set[str] = set()  # deliveries that somebody asked to cancel
        self.retried: set[str] = set()
        self.disables: list[tuple[float, str]] = []  # by hand, once answered
        self.counters: list[tuple[int, str, int]] = []  # at the start of a life: failures running of a subscription
        self.done: list[tuple[float, str]] = []  # what was begun, and when
        self.jumps: list[float] = []  # when the wall clock was set
        self.set_back: list[float] = []  # what it showed before, in ms, where it was set back
        self.contradictions: list[str] = []  # of what was shown
        self._seen: dict[str, Delivery] = {}  # at the last look
        self._open: list[list[Said]] = []  # published, and not answered
        self._asked: dict[str, Sub] = {}  # by URL: those of which it is not known whether they were made
        self._rng = world.rng_of("actions")

    async def resume(self) -> None:
        """After a start: what a death has left open is looked up, or asked for again."""
        engine = self.world.engine
        for made in (await engine.subscriptions(limit=250)).data:
            if made.url in self._asked:
                await self._adopt(made)
        for sub in self.subs.values():
            await self._look(sub)
        for sub in self.subs.values():
            if not sub.deleted:
                await self._learn(sub)
                self.counters.append((self.world.life, sub.id, (await engine.subscription(sub.id)).consecutive_failures))
        for said in self._open:
            if all("id" in each.given for each in said):
                await self._publish(said)  # a producer who has got no answer repeats what it said
        self._open.clear()

    async def some(self, count: int, kinds: list[str]) -> None:
        """Do *count* things of *kinds*, with time between them."""
        for _ in range(count):
            kind = self._rng.choice(kinds)
            self.done.append((self.world.loop.time(), kind))
            await getattr(self, kind)()
            await self.world.loop.passing(self._gap())

    def _gap(self) -> float:
        chance = self._rng.random()
        longest = 0.3 if chance < 0.45 else 60.0 if chance < 0.75 else 7_200.0 if chance < 0.95 else DAY
        return self._rng.random() * longest

    # Producers.

    async def publish(self) -> None:
        """One event, or several at the same time."""
        count = self._rng.choice((1, 1, 1, 3))
        await asyncio.gather(*[self._publish(self._say(1), single=True) for _ in range(count)])

    async def publish_batch(self) -> None:
        """Several events that are accepted together."""
        await self._publish(self._say(self._rng.randint(2, 6)))

    async def repeat(self) -> None:
        """An event that was accepted, said once more with the same id: nothing new."""
        known = [said for said in self.said if "id" in said.given and said.answered_at is not None]
        if known:
            said = self._rng.choice(known)
            await self.world.engine.publish_batch([said.given])

    def _say(self, count: int) -> list[Said]:
        said = [self._event(len(self.said) + position) for position in range(count)]
        self.said += said
        self.batches.append(said)
        return said

    def _event(self, n: int) -> Said:
        rng = self._rng
        given: dict[str, Any] = {
            "type": rng.choice(TYPES),
            "tenant": rng.choice(TENANTS),
            "data": b'{"n":%d, "text":"%b"}' % (n, b"x" * rng.randint(0, 40)),
        }
        if rng.random() < 0.5:
            given["id"] = f"own-{n}"
        if rng.random() < 0.3:
            given["priority"] = rng.choice(("high", "low"))
        if rng.random() < 0.5:
            given["ordering_key"] = rng.choice("ab")
        if rng.random() < 0.1:
            given["deliver_at"] = self._moment(rng.uniform(-60, 2 * DAY))
        elif rng.random() < 0.15:
            given["expires_at"] = self._moment(rng.uniform(1, DAY))
        return Said(n, given["type"], given["tenant"], given.get("ordering_key"), given, self.world.loop.time())

    def _moment(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(int(self.world.wall() / 1000 + seconds), UTC)

    async def _publish(self, said: list[Said], *, single: bool = False) -> None:
        self._open.append(said)
        taking = await self._taking()
        for each in said:
            each.possible |= {sub.id for sub in taking if matches(sub, each)}
            each.sure = {sub.id for sub in taking if matches(sub, each) and not sub.skips}
        if single:
            await self.world.engine.publish(**said[0].given)
        else:
            await self.world.engine.publish_batch([each.given for each in said])
        still = await self._taking()
        for each in said:
            each.answered_at = self.world.loop.time()
            each.sure |= {sub.id for sub in taking if sub in still and matches(sub, each)}
        self._open.remove(said)

    async def _taking(self) -> list[Sub]:
        """Who gets events now: not those that are disabled and skip them."""
        return [sub for sub in self._live() if not sub.skips or await self._state(sub) == "active"]

    async def _state(self, sub: Sub) -> str:
        return (await self.world.engine.subscription(sub.id)).state

    # Subscribers.

    async def subscribe(self) -> None:
        """A subscription with settings of all kinds."""
        rng, world = self._rng, self.world
        endpoint = world.internet.build()
        profile = rng.choice(("standard", "standard", "clarife", "clevertap"))
        given: dict[str, Any] = {"profile": profile, "tenant": rng.choice(TENANTS), "event_types": rng.choice(PATTERNS)}
        fifo = profile != "clevertap" and rng.random() < 0.3
        skips, most, rate, disable_after, schedule = rng.random() < 0.2, 8, None, None, SCHEDULES[profile]
        if fifo:
            given["ordering"] = "fifo"
        if skips:
            given["while_disabled"] = "skip"
        if rng.random() < 0.5:
            given["max_concurrency"] = most = rng.randint(1, 4)
        if rng.random() < 0.25:
            given["rate_limit"], rate = rng.choice((("2/s", (2, 1_000)), ("30/m", (30, 60_000)), ("20/h", (20, 3_600_000))))
            endpoint.latency = 0.002  # so that two do not come nearer to each other on their way
        if profile == "clarife":
            disable_after = 10
        if profile != "clevertap" and rng.random() < 0.4:
            given["disable_after_failures"] = disable_after = rng.randint(1, 12)
        if rng.random() < 0.4:
            given["retry_schedule"], schedule = SHORT, SHORT_MS
        if profile == "clevertap":
            given["batch"] = {"max_events": rng.randint(2, 5), "max_wait": rng.choice(("1s", "20s"))}
        host = endpoint.address
        if rng.random() < 0.4:
            host = f"s{endpoint.number}.receivers.test"
            world.internet.names[host] = [endpoint.address]
        endpoint.mood, url = "saving", f"http://{host}/hook"
        self._asked[url] = Sub(
            "",
            [],
            endpoint,
            given["tenant"],
            profile,
            given["event_types"],
            schedule,
            fifo,
            skips,
            most,
            rate,
            disable_after,
        )
        with suppress(EndpointVerificationFailed):  # the name could not be looked up in time
            await self._adopt(await world.engine.subscribe(url, **given))
        endpoint.mood = "well"

    async def _adopt(self, made: Subscription) -> None:
        """It was made, whether or not that was answered."""
        sub = self._asked.pop(made.url)
        sub.id = made.id
        await self._learn(sub)
        self.subs[made.id] = sub

    async def disable(self) -> None:
        """By hand."""
        if sub := self._one():
            await self._set_state(sub, "disabled")
            self.disables.append((self.world.loop.time(), sub.id))

    async def enable(self) -> None:
        """Those that are disabled, by whomever."""
        for sub in self._live():
            if await self._state(sub) == "disabled":
                sub.enabled.append((self.world.loop.time(), int(self.world.wall())))
                await self._set_state(sub, "active")

    async def _set_state(self, sub: Sub, state: str) -> None:
        engine = self.world.engine
        if self._rng.random() < 0.3:
            await engine.update_subscription(sub.id, state=state)
        else:
            await (engine.enable(sub.id) if state == "active" else engine.disable(sub.id))

    async def edit(self) -> None:
        """A setting that changes no body, whatever waits."""
        if sub := self._one():
            await self.world.engine.update_subscription(sub.id, **self._setting(sub))

    def _setting(self, sub: Sub) -> dict[str, Any]:
        """Another value of one setting; the verdict asks for no more of *sub* than what holds with any that it has had."""
        rng = self._rng
        settings: dict[str, tuple[Any, ...]] = {
            "event_types": PATTERNS,
            "while_disabled": ("hold", "skip"),
            "max_concurrency": (1, 2, 4, 8),
            "retry_schedule": (SHORT, None),
            "timeout": ("1s", "30s", None),
            "metadata": ({"edited": self.world.loop.time()},),
        }
        if sub.profile == "clevertap":
            settings["batch"] = tuple({"max_events": most, "max_wait": wait} for most in (1, 2, 5) for wait in ("1s", "20s"))
        else:
            settings |= {"ordering": ("fifo", "none"), "headers": ({"x-edited": str(self.world.loop.time())},)}
        if sub.rate is None:
            settings["rate_limit"] = ("2/s", "30/m", None)
        name = rng.choice(list(settings))
        value = rng.choice(settings[name])
        match name:
            case "event_types":
                sub.patterns = value
            case "while_disabled":
                sub.skips = value == "skip"
            case "max_concurrency":
                sub.most = max(sub.most, value)
            case "retry_schedule":
                sub.schedule = tuple(map(min, sub.schedule, SCHEDULES[sub.profile] if value is None else SHORT_MS))
            case "ordering":
                sub.fifo = False
        return {name: value}

    async def rotate(self) -> None:
        """A new secret, beside which the old one signs for some time."""
        if (sub := self._one()) and sub.profile != "clevertap":
            await self.world.engine.rotate_secret(sub.id, overlap=self._rng.choice(("0s", "24h")))
            await self._learn(sub)

    async def _learn(self, sub: Sub) -> None:
        secret = (await self.world.engine.secret(sub.id)).secret
        if secret is not None and secret not in sub.secrets:
            sub.secrets.append(secret)

    async def delete(self) -> None:
        """For good, seldom."""
        if (sub := self._one()) and len(self._live()) > 2 and self._rng.random() < 0.5:
            sub.deleted = True
            await self.world.engine.unsubscribe(sub.id)
            self.disables.append((self.world.loop.time(), sub.id))

    # Operators.

    async def cancel(self) -> None:
        """A delivery that waits, or is in flight."""
        for delivery in await self._deliveries(self._rng.choice(("pending", "held"))):
            self.cancelled.add(delivery.id)
            await self._if_allowed(self.world.engine.cancel(delivery.id))

    async def retry(self) -> None:
        """A delivery that waits, or was given up."""
        for delivery in await self._deliveries(self._rng.choice(("pending", "failed", "cancelled"))):
            self.retried.add(delivery.id)
            await self._if_allowed(self.world.engine.retry(delivery.id))

    async def replay_event(self) -> None:
        """An event to whom it concerns now."""
        known = [said for said in self.said if said.answered_at is not None and "id" in said.given]
        if known:
            said = self._rng.choice(known)
            takers = [sub.id for sub in self._live() if matches(sub, said)]
            for taker in takers:
                said.more[taker] = said.more.get(taker, 0) + 1
            made = await self.world.engine.replay_event(said.given["id"], tenant=said.tenant)
            if made.deliveries == len(takers):  # nobody of them skips it
                for taker in takers:
                    said.more[taker] -= 1
                    said.replays[taker] = said.replays.get(taker, 0) + 1

    async def replay(self) -> None:
        """What a subscription has not got, or all of it."""
        states: Any = self._rng.choice((["failed"], ["failed", "cancelled"], ["delivered"]))
        if sub := self._one():
            for said in self.said:
                said.more[sub.id] = 2 * said.more.get(sub.id, 0) + 1 + said.replays.get(sub.id, 0)
            await self.world.engine.replay(sub.id, states=states)

    async def _deliveries(self, state: Any) -> list[Any]:
        found = (await self.world.engine.deliveries(state=state, limit=20)).data
        return [self._rng.choice(found)] if found else []

    @staticmethod
    async def _if_allowed(asked: Awaitable[Any]) -> None:
        with suppress(DeliveryStateConflict, SubscriptionDisabled):  # it ended meanwhile, or stands behind another
            await asked

    async def look(self) -> None:
        """At all that is shown, after some seconds in which it may come to rest."""
        await self.world.loop.passing(1.0)
        found = await look(self.world.engine)
        if found is None:
            return
        self.contradictions += contradictions(found, retried=bool(self.retried), jumped=bool(self.jumps))
        for each in found.deliveries:
            before = self._seen.get(each.id)
            if before is not None and before.finished_at not in (None, each.finished_at) and each.id not in self.retried:
                self.contradictions.append(f"{each.id} ended at {before.finished_at}, and then at {each.finished_at}")
        self._seen = {each.id: each for each in found.deliveries}

    # The world.

    async def mood(self) -> None:
        """An endpoint is another than it was."""
        if sub := self._one():
            sub.endpoint.mood = self._rng.choice(Endpoint.MOODS)

    async def name(self) -> None:
        """A name leads into a private network, or nowhere, or back to where it should."""
        names = self.world.internet.names
        for sub in self._live():
            host = f"s{sub.endpoint.number}.receivers.test"
            if host in names and self._rng.random() < 0.5:
                right = [sub.endpoint.address]
                names[host] = self._rng.choice((right, right, [PRIVATE], [*right, PRIVATE], ["169.254.169.254"]))

    async def jump(self) -> None:
        """The wall clock is set, by up to a day."""
        self.jumps.append(self.world.loop.time())
        before = self.world.wall()
        self.world.ahead += self._rng.choice((-DAY, DAY, -3_600, 3_600, -2, 2))
        if self.world.wall() < before:
            self.set_back.append(before)

    async def heal(self) -> None:
        """Everything is well, and everybody is enabled."""
        names = self.world.internet.names
        for sub in self._live():
            sub.endpoint.mood = "well"
            host = f"s{sub.endpoint.number}.receivers.test"
            if host in names:
                names[host] = [sub.endpoint.address]
        await self.enable()

    def _live(self) -> list[Sub]:
        return [sub for sub in self.subs.values() if not sub.deleted]

    def _one(self) -> Sub | None:
        live = self._live()
        return self._rng.choice(live) if live else None

    async def _look(self, sub: Sub) -> None:
        try:
            found = await self.world.engine.subscription(sub.id)
        except SubscriptionNotFound:
            sub.deleted = True
        else:
            sub.deleted, sub.patterns, sub.skips = False, found.event_types, found.while_disabled == "skip"


def matches(sub: Sub, said: Said) -> bool:
    """Whether an event concerns a subscription."""
    return sub.tenant == said.tenant and any(
        pattern in ("*", said.type) or (pattern.endswith(".*") and said.type.startswith(pattern[:-1]))
        for pattern in sub.patterns
    )
