"""What is asked after an event was accepted: why it went where it went, and that it goes there again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookengine import views
from hookengine.access import Principal, Scope
from hookengine.errors import EventNotFound
from hookengine.inputs import EventReplayInput, ReplayInput
from hookengine.models import Subscription
from hookengine.paging import Query, cursor_of
from hookengine.presentation import shown_event, shown_explained
from hookengine.service.operations import Operations, RequestKey
from hookengine.serving import hindrance
from hookengine.store import Answer, Replay, replays
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hookengine.models import Event
    from hookengine.store import Receiver

DEFAULT_STATES = ("failed",)

_ANYBODYS = ""  # in a key, the tenant of a replay whose event may be of any tenant; no bound token has a key with this


class ReplayOperations(Operations):
    """Of explanations and replays."""

    async def explain(self, by: Principal, id: str, query: Mapping[str, Any]) -> views.Explanation:
        """What an event did for each subscription of its tenant, and why."""
        self._require(by, Scope.EVENTS_READ)
        asked = Query(query, {"tenant", "subscription"})
        part = asked.slice(self._tenant(by, asked.text("tenant")))
        wanted = asked.text("subscription")
        found = await self._store.viewer.explained(id, part.tenant)
        if found is None:
            raise EventNotFound
        event, chosen = found
        most = part.limit + 1  # one more tells whether there is a next page
        gone = await self._store.viewer.deleted_receivers(event.seq, before=part.before, limit=most, subscription=wanted)
        known = [s for s in self._subscriptions_of(event, wanted, by.tenant) if s.seq < part.before]
        both: list[Subscription | Receiver] = [*known, *gone]
        both.sort(key=lambda each: -each.seq)
        shown = both[: part.limit]
        went = await self._store.viewer.deliveries_to(event.seq, [each.seq for each in shown])
        kept_since = self._clock.now() - self._config.store.retention
        return views.Explanation(
            event=event.id,
            subscriptions=[
                shown_explained(
                    each,
                    event,
                    went.get(each.seq, []),
                    chosen=chosen,
                    hindrance=self._hindrance(each),
                    kept_since=kept_since,
                )
                for each in shown
            ],
            next_cursor=cursor_of(shown[-1].seq if len(both) > part.limit else None),
        )

    def _hindrance(self, to: Subscription | Receiver) -> str | None:
        return hindrance(to, self._profiles, self._store.memory) if isinstance(to, Subscription) else None

    async def replay_event(
        self,
        by: Principal,
        id: str,
        given: Mapping[str, Any],
        *,
        tenant: str | None = None,
        key: RequestKey | None = None,
        render: Callable[[views.Event], bytes] | None = None,
    ) -> views.Event | Answer:
        """New deliveries of an event, which are what the answer counts; a repetition with *key* gets what *render* made."""
        self._require(by, Scope.EVENTS_WRITE, changing=True)
        own = self._tenant(by, tenant)
        keyed = None if key is None else self._key(key, own or _ANYBODYS)
        if keyed is not None and (before := await self._store.reader.answer(keyed, now=self._clock.now())) is not None:
            return before
        problems = Problems()
        draft = problems.convert(EventReplayInput, given)
        found = await self._store.viewer.explained(id, own)
        if found is None:
            raise EventNotFound
        chosen = draft.get("subscriptions")
        self._check_chosen(problems, draft, found[0].tenant, "")
        problems.require(draft)
        step = replays.replay_event(
            id,
            own,
            None if chosen is None else frozenset(chosen),
            key=keyed,
            render=None if render is None else lambda receipt: render(shown_event(receipt)),
        )
        made = await self._store.writer.change(step)
        return made if isinstance(made, Answer) else shown_event(made)

    async def replay(
        self,
        by: Principal,
        id: str,
        given: Mapping[str, Any],
        *,
        key: RequestKey | None = None,
        render: Callable[[views.Replay], bytes] | None = None,
    ) -> views.Replay | Answer:
        """
        Begin to make a subscription's deliveries again; with `dry_run` only count them.

        A repetition with *key* gets what *render* made; a dry run does not use the key up.
        """
        self._require(by, Scope.EVENTS_WRITE, changing=True)
        problems = Problems()
        draft = problems.convert(ReplayInput, given)
        dry_run = bool(draft.get("dry_run"))
        keyed = None if key is None or dry_run else self._key(key, by.tenant or _ANYBODYS)
        if keyed is not None and (before := await self._store.reader.answer(keyed, now=self._clock.now())) is not None:
            return before
        since, until = draft.get("since"), draft.get("until")
        if since is not None and until is not None and until <= since:
            problems.add("/until", "invalid_value", "until must lie after since")
        wanted = problems.require(draft)
        replay = Replay(
            subscription=self._subscription(by, id).seq,
            states=tuple(dict.fromkeys(wanted.states or DEFAULT_STATES)),
            since=None if since is None else int(since),
            until=None if until is None else int(until),
            newest=await self._store.viewer.newest_delivery(),
        )
        count = await self._store.viewer.count_replayable(replay)
        if dry_run:
            return views.Replay(count=count)
        rendered = None if render is None else lambda number: render(views.Replay(count=number))
        made = await self._store.writer.change(replays.add_replay(id, by.tenant, replay, count, key=keyed, render=rendered))
        return made if isinstance(made, Answer) else views.Replay(count=made)

    def _subscriptions_of(self, event: Event, wanted: str | None, tenant: str | None) -> list[Subscription]:
        """Those of the event's tenant, or the one that is *wanted*, which may be of any where the asker has no *tenant*."""
        if wanted is None or tenant is not None:
            return [s for s in self._store.memory.index if s.tenant == event.tenant and wanted in (None, s.id)]
        subscription = self._store.memory.index.by_id(wanted)
        return [] if subscription is None else [subscription]
