"""
What must hold of a story, told from what was asked for and what arrived: a model that knows nothing of how the engine works.

Each check yields a sentence for each breach.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from simulated import CONCURRENCY
from virtual import EPOCH

from hookengine import VerificationError, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from actions import Said, Sub
    from internet import Arrival
    from story import Story

# s: how long before its arrival a request may have been decided on (a lookup and a connection), and how long after its answer
# an attempt may wait for its commit, behind others and a slow disk.
ON_THE_WAY = 6.0
UNTIL_RECORDED = 5.0
NEARER = 0.01  # s: times are whole milliseconds, and one of two requests may be a pass of the loop longer on its way
RESENT = 0.9  # s: sooner than any retry

FAILURE_LABELS = {None, "Webhook Dispatch Failed"}  # of deliveries whose schedule is at its end
TRUSTED_UNTIL = 3  # failures running, from which on there is one at a time
LONGEST_RUN = 5 * 86_400.0  # s of failures, after which profiles like standard disable
_N = re.compile(rb'"n":(\d+)')


class Reading:
    """A story, put in order for the checks."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.actions = story.actions
        self.subs: dict[str, Sub] = self.actions.subs
        self.said: list[Said] = self.actions.said
        self.of_endpoint = {sub.endpoint.address: sub for sub in self.subs.values()}
        self.arrived: dict[tuple[str, int], list[Arrival]] = defaultdict(list)  # by subscription and event
        self.requests: dict[str, list[Arrival]] = defaultdict(list)  # by subscription, without those of tests
        for arrival in story.arrivals:
            sub = self.of_endpoint.get(arrival.endpoint.address)
            events = events_of(arrival)
            if sub is None or not events:
                continue
            self.requests[sub.id].append(arrival)
            for n in events:
                self.arrived[sub.id, n].append(arrival)
        self.deliveries: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for delivery in story.deliveries:
            self.deliveries[delivery["sub"], delivery["n"]].append(delivery)
        self.attempts: dict[int, list[dict[str, Any]]] = defaultdict(list)  # by the delivery's seq
        for attempt in story.attempts:
            self.attempts[attempt["delivery"]].append(attempt)
        self.ended = {end.life: end for end in story.ends}

    def unsure(self, arrival: Arrival) -> bool:
        """Whether its life ended, not cleanly, before its attempt is sure to have been recorded."""
        end = self.ended[arrival.life]
        return end.kind != "stop" and (arrival.ended_at is None or arrival.ended_at > end.at - UNTIL_RECORDED)


def events_of(arrival: Arrival) -> list[int]:
    """The numbers of the events in a request."""
    return [int(n) for n in _N.findall(arrival.body)]


def judge(story: Story) -> list[str]:
    """Every breach."""
    reading = Reading(story)
    return [f"{check.__name__}: {breach}" for check in CHECKS for breach in check(reading)]


def all_comes_to_rest(reading: Reading) -> Iterator[str]:
    """In the end nothing waits, the file is whole, nobody was where none may go, and no fault was logged."""
    if not reading.story.rested:
        waiting = [d["id"] for d in reading.story.deliveries if d["state"] == "pending"]
        yield f"still waiting: {waiting}"
    if reading.story.intact != ["ok"]:
        yield f"the file is broken: {reading.story.intact}"
    if trespasses := reading.story.world.internet.trespasses:
        yield f"connections to {trespasses}"
    for at, _, line in reading.story.world.lines:
        if line["event"] in {"fault", "storage_unavailable"}:
            yield f"at {at}: {line}"


def what_was_accepted_is_there(reading: Reading) -> Iterator[str]:
    """Every accepted event made exactly the deliveries that it should; one without an answer is there whole or not at all."""
    there = reading.story.events
    for batch in reading.actions.batches:
        known = [said.n in there for said in batch]
        if any(known) != all(known) or (batch[0].answered_at is not None and not all(known)):
            yield f"of {[said.n for said in batch]} there are {known}"
    for said in reading.said:
        for sub_id in reading.subs:
            made = len(reading.deliveries[sub_id, said.n])
            least = (sub_id in said.sure) + said.replays.get(sub_id, 0)
            most = (sub_id in said.possible) + said.replays.get(sub_id, 0) + said.more.get(sub_id, 0)
            if said.n in there and not least <= made <= most:
                yield f"event {said.n} made {made} deliveries for {sub_id}, not {least} to {most}"
            if said.n not in there and (made or reading.arrived[sub_id, said.n]):
                yield f"event {said.n} was not accepted, and went to {sub_id}"


def answers_agree(reading: Reading) -> Iterator[str]:
    """Lists, statistics, events and explanations say the same of a moment, and when something has ended never changes."""
    yield from reading.actions.contradictions


def endings_have_reasons(reading: Reading) -> Iterator[str]:
    """A delivery is delivered only if a request succeeded, failed only by schedule or expiry, cancelled only if one asked."""
    for (sub_id, n), deliveries in reading.deliveries.items():
        sub = reading.subs.get(sub_id)
        successes = sum(succeeded(arrival) for arrival in reading.arrived[sub_id, n])
        delivered = [each for each in deliveries if each["state"] == "delivered"]
        if len(delivered) > successes:
            yield f"event {n} for {sub_id}: {len(delivered)} delivered, {successes} requests succeeded"
        for each in deliveries:
            tries = Counter(attempt["outcome"] for attempt in reading.attempts[each["seq"]])
            failures = tries["refused"] + tries["unreachable"]
            match each["state"]:
                case "delivered" if not tries["accepted"]:
                    yield f"{each['id']} is delivered without an attempt that was accepted"
                case "failed" if each["failed_label"] == "expired":
                    if each["expires_at"] is None or each["finished_at"] < each["expires_at"]:
                        yield f"{each['id']} expired too early"
                case "failed" if sub is None or each["failed_label"] not in FAILURE_LABELS or failures <= len(sub.schedule):
                    yield f"{each['id']} failed ({each['failed_label']}) after {failures} failures"
                case "cancelled" if sub is not None and not sub.deleted and each["id"] not in reading.actions.cancelled:
                    yield f"{each['id']} is cancelled, and nobody asked for that"
            if tries["refused"] + tries["unreachable"] + tries["accepted"] != each["attempt_count"]:
                yield f"{each['id']} counts {each['attempt_count']} attempts of {dict(tries)}"


def attempts_are_requests(reading: Reading) -> Iterator[str]:
    """Every answer that came is an attempt with its status, recorded once; only a death may have lost those in flight."""
    for (sub_id, n), deliveries in reading.deliveries.items():
        arrivals = reading.arrived[sub_id, n]
        recorded = [attempt for each in deliveries for attempt in reading.attempts[each["seq"]]]
        answers = Counter(arrival.status for arrival in arrivals if arrival.status is not None)
        unsure = Counter(arrival.status for arrival in arrivals if arrival.status is not None and reading.unsure(arrival))
        known = Counter(attempt["status_code"] for attempt in recorded if attempt["status_code"] is not None)
        for status in answers | known:
            if not answers[status] - unsure[status] <= known[status] <= answers[status]:
                sure = answers[status] - unsure[status]
                yield f"event {n} for {sub_id}: {answers[status]} answers {status}, {sure} sure, {known[status]} recorded"


def repeats_are_rare(reading: Reading) -> Iterator[str]:
    """After a success a delivery goes again only if a death came between, or somebody cancelled and retried it."""
    for (sub_id, n), deliveries in reading.deliveries.items():
        successes = [arrival for arrival in reading.arrived[sub_id, n] if succeeded(arrival)]
        unsure = sum(map(reading.unsure, successes))
        again = sum(each["id"] in reading.actions.cancelled for each in deliveries)
        if len(successes) > len(deliveries) + unsure + again:
            yield f"event {n} for {sub_id}: {len(successes)} successes for {len(deliveries)} deliveries, {unsure} unsure"
    for life, end in reading.ended.items():
        lost = [
            each for each in reading.story.arrivals if each.life == life and each.ended_at == end.at and each.status is None
        ]
        if end.kind == "kill" and len(lost) > CONCURRENCY:
            yield f"the end of life {life} cut {len(lost)} requests"


def limits_are_kept(reading: Reading) -> Iterator[str]:
    """At no moment are there more requests than `concurrency`, nor more for a subscription than it may have."""
    for sub in reading.subs.values():
        for arrival in reading.requests[sub.id]:
            if len(flying(arrival)) >= sub.most:
                yield f"{sub.id} had {len(flying(arrival)) + 1} requests at {arrival.at}, not {sub.most}"
    moments = sorted(
        (at, change)
        for each in reading.story.arrivals
        if events_of(each)
        for at, change in ((each.at, 1), (each.ended_at or each.at, -1))
    )
    flights = 0
    for at, change in moments:
        flights += change
        if flights > CONCURRENCY:
            yield f"{flights} requests at {at}"


def rates_are_kept(reading: Reading) -> Iterator[str]:
    """
    However many requests one looks at, they are as far apart as the limit says, but where the wall clock was set between.

    The distance is kept when they are decided on; each may be a little longer on its way than the next.
    """
    for sub in reading.subs.values():
        if sub.rate is None:
            continue
        count, window = sub.rate
        earliest, last = 0.0, 0.0
        for arrival in reading.requests[sub.id]:
            if any(last - ON_THE_WAY < jump <= arrival.at for jump in reading.actions.jumps):
                earliest = 0.0
            last = arrival.at
            if arrival.at < earliest - NEARER:
                yield f"{sub.id} got a request at {arrival.at}, {earliest - arrival.at} s too early"
            earliest = max(earliest, arrival.at) + window / 1000 / count


def order_is_kept(reading: Reading) -> Iterator[str]:
    """With fifo, events of a key arrive one at a time, and for the first time in the order of their acceptance."""
    for sub in reading.subs.values():
        if not sub.fifo:
            continue
        for arrival in reading.requests[sub.id]:
            key = reading.said[events_of(arrival)[0]].key
            if any(reading.said[events_of(each)[0]].key == key for each in flying(arrival)):
                yield f"{sub.id} had two events of the key {key} at {arrival.at}"
        lines: dict[str | None, list[int]] = defaultdict(list)
        for delivery in sorted(reading.story.deliveries, key=lambda each: each["seq"]):
            n = delivery["n"]
            touched = reading.actions.cancelled | reading.actions.retried
            if delivery["sub"] == sub.id and len(reading.deliveries[sub.id, n]) == 1 and delivery["id"] not in touched:
                lines[reading.said[n].key].append(n)
        for key, line in lines.items():
            firsts = [arrivals[0].at for n in line if (arrivals := reading.arrived[sub.id, n])]
            if firsts != sorted(firsts):
                yield f"{sub.id} got {line} of the key {key} at {firsts}"
    answered = [said for said in reading.said if said.answered_at is not None]
    first = reversed([each for each in reading.story.deliveries if each["sub"] in reading.said[each["n"]].sure])
    seqs = {delivery["n"]: delivery["seq"] for delivery in first}
    for one, other in pairwise(answered):
        if one.n in seqs and other.n in seqs and (one.answered_at or 0) < other.asked_at and seqs[one.n] > seqs[other.n]:
            yield f"event {one.n} was accepted before {other.n}, and stands behind it"


def disabled_ones_are_left_alone(reading: Reading) -> Iterator[str]:
    """Nothing is sent to a subscription that is disabled or deleted, but for what was on its way."""
    for sub in reading.subs.values():
        closed = [at for at, sub_id in reading.actions.disables if sub_id == sub.id]
        closed += [at for at, names in ((m.at, m.names) for m in _moments(reading, sub)) if "subscription_disabled" in names]
        for at in closed:
            until = min((opened for opened, _ in sub.enabled if opened > at - UNTIL_RECORDED), default=float("inf"))
            for arrival in reading.requests[sub.id]:
                if at + ON_THE_WAY < arrival.at < until:
                    yield f"{sub.id} was disabled at {at}, and got a request at {arrival.at}"


def bodies_stay(reading: Reading) -> Iterator[str]:
    """What goes again has the same body, as long as the same events go together."""
    for sub in reading.subs.values():
        bodies: dict[tuple[int, ...], set[bytes]] = defaultdict(set)
        for arrival in reading.requests[sub.id]:
            bodies[tuple(events_of(arrival))].add(arrival.body)
            if arrival.path != "/hook" or arrival.method != "POST":
                yield f"{sub.id} got {arrival.method} {arrival.path}"
        for events, different in bodies.items():
            if len(different) > 1:
                yield f"{sub.id} got {events} as {different}"


def signatures_verify(reading: Reading) -> Iterator[str]:
    """Every request of a profile that signs verifies with a secret that the subscription has or had."""
    for sub in reading.subs.values():
        if not sub.secrets:
            continue
        for arrival in reading.requests[sub.id]:
            try:
                verify(
                    arrival.body, arrival.headers, sub.secrets, profile=sub.profile, now=EPOCH + arrival.at, tolerance=10**7
                )
            except VerificationError as error:
                yield f"{sub.id} got what does not verify: {error}"


def retries_wait(reading: Reading) -> Iterator[str]:
    """
    Between a failure and the next attempt lies what the schedule says, unless somebody retried or enabled.

    Where the clock was set back meanwhile, the wait goes on by another: that clock does not tell how long it was.
    """
    for delivery in reading.story.deliveries:
        sub = reading.subs.get(delivery["sub"])
        if sub is None:
            continue
        due_at, failed_at, step = 0, 0, 0
        for attempt in reading.attempts[delivery["seq"]]:
            if attempt["trigger"] == "manual":
                due_at, step = 0, 0
            was_set_back = any(failed_at <= wall <= due_at for wall in reading.actions.set_back)
            if (
                failed_at <= attempt["at"] < due_at
                and not was_set_back
                and not _was_enabled(sub, failed_at, attempt["at"], jumped=bool(reading.actions.jumps))
            ):
                yield f"{delivery['id']} went again at {attempt['at']}, {due_at - attempt['at']} ms too early"
            if attempt["outcome"] in {"refused", "unreachable"} and step < len(sub.schedule):
                failed_at = attempt["at"]
                due_at = failed_at + attempt["duration"] + sub.schedule[step]
                step += 1


def _was_enabled(sub: Sub, since: int, until: int, *, jumped: bool) -> bool:
    """Whether it was enabled between two times of the wall clock; at any time, where that does not tell."""
    return any(jumped or since <= wall <= until for _, wall in sub.enabled)


def disabling_is_exact(reading: Reading) -> Iterator[str]:
    """A subscription is disabled after just as many failures running as it says, or, where its profile says so, after days."""
    for sub in reading.subs.values():
        if sub.profile == "clevertap":  # an attempt is logged for each of its events
            continue
        limit = sub.disable_after or sys.maxsize
        disabled = False
        for moment in _moments(reading, sub):
            if "subscription_enabled" in moment.names:
                disabled = False
            by_failures = [line for line in moment.lines if line.get("reason") == "failures"]
            long = sub.profile == "standard" and (moment.at - moment.failing_since >= LONGEST_RUN or reading.actions.jumps)
            if by_failures and moment.most < limit and not long:
                yield f"{sub.id} was disabled at {moment.at} after {moment.most} failures, not {sub.disable_after}"
            disabled = disabled or "subscription_disabled" in moment.names
            if moment.run >= limit and not disabled:
                yield f"{sub.id} had {moment.run} failures at {moment.at}, and was not disabled"


def failing_ones_get_one_at_a_time(reading: Reading) -> Iterator[str]:
    """From three failures running on, and so with an open breaker, a subscription has no more than one request in flight."""
    for sub in reading.subs.values():
        if sub.profile == "clevertap":  # as above
            continue
        since = None
        for moment in [*_moments(reading, sub), None]:
            if moment is not None and since is None and moment.run >= TRUSTED_UNTIL:
                since = moment
            if since is not None and (moment is None or moment.run < TRUSTED_UNTIL or moment.life != since.life):
                start, end = since.at + ON_THE_WAY, moment.at if moment is not None else float("inf")
                fresh = [each for each in reading.requests[sub.id] if start < each.at < end and each.life == since.life]
                for arrival in fresh:
                    if any(each.at > start for each in flying(arrival)):
                        yield f"{sub.id} was failing since {since.at}, and had two requests at {arrival.at}"
                since = None


@dataclass
class Moment:
    """What was logged of a subscription in one commit, and how many failures running it has after that."""

    at: float
    life: int
    run: int  # failures after it
    most: int  # and at most within it
    failing_since: float
    lines: list[dict[str, Any]]

    @property
    def names(self) -> set[str]:
        """What happened."""
        return {line["event"] for line in self.lines}


def _moments(reading: Reading, sub: Sub) -> Iterator[Moment]:
    """Of one commit, what it leads to is logged before what was recorded."""
    known = {life: count for life, sub_id, count in reading.actions.counters if sub_id == sub.id}
    life, run, since = 0, 0, 0.0
    for (at, number), lines in _by_moment(reading, sub).items():
        if number != life:  # what was committed at the end of a life may not have been logged
            life, run = number, known.get(number, 0)
        most = run
        for line in lines:
            if line["event"] in {"attempt_accepted", "subscription_enabled"}:
                run = 0
            elif line["event"] == "attempt_failed" and line["error"] != "internal_error":
                since = at if run == 0 else since
                run += 1
                most = max(most, run)
        yield Moment(at, life, run, most, since, lines)


def _by_moment(reading: Reading, sub: Sub) -> dict[tuple[float, int], list[dict[str, Any]]]:
    moments: dict[tuple[float, int], list[dict[str, Any]]] = {}
    for at, life, line in reading.story.world.lines:
        if line.get("subscription") == sub.id:
            moments.setdefault((at, life), []).append(line)
    return moments


def succeeded(arrival: Arrival) -> bool:
    """Whether its answer, a success, reached the sender."""
    return arrival.status is not None and 200 <= arrival.status <= 299


def is_sent_again(arrival: Arrival, others: list[Arrival]) -> bool:
    """Whether it belongs to the attempt of an earlier one: the endpoint closed a kept connection in place of an answer."""
    return any(
        other.ended_at is not None
        and other.status is None
        and 0 <= arrival.at - other.ended_at < RESENT
        and other is not arrival
        for other in others
    )


def flying(arrival: Arrival) -> list[Arrival]:
    """The requests of the same life that were in flight there when it came; tests do not count."""
    return [each for each in arrival.alive if each.life == arrival.life and events_of(each)]


CHECKS: tuple[Callable[[Reading], Iterator[str]], ...] = (
    all_comes_to_rest,
    what_was_accepted_is_there,
    answers_agree,
    endings_have_reasons,
    attempts_are_requests,
    repeats_are_rare,
    limits_are_kept,
    rates_are_kept,
    order_is_kept,
    disabled_ones_are_left_alone,
    bodies_stay,
    signatures_verify,
    retries_wait,
    disabling_is_exact,
    failing_ones_get_one_at_a_time,
)
