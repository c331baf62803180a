"""`event send --wait`: the deliveries of an event, shown until each has ended."""

from __future__ import annotations

from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from hookengine.cli.exits import CliError
from hookengine.cli.output import describe_attempt, printable, show_mark
from hookengine.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hookengine.cli.api import Api

_FIRST_POLL, _LAST_POLL = 0.05, 1.0  # seconds
# A held one waits for a person, who may never come.
_ENDED = {"delivered", "failed", "cancelled", "held"}
_FRESH = 0, "pending"  # a delivery that nothing was said of


class Line(NamedTuple):
    """What is said of a delivery."""

    good: bool
    words: str


def follow(api: Api, event: str, tenant: str) -> bool:
    """Show each attempt of the deliveries of *event* until all have ended, and return whether all are delivered."""
    clock, pause = Clock(), _FIRST_POLL
    known: dict[str, tuple[int, str]] = {}  # attempts and state that were shown, by delivery
    while True:
        found = list(_deliveries(api, event, tenant))
        for listed in found:
            shown = known.setdefault(listed["id"], _FRESH)
            if (listed["attempt_count"], listed["state"]) != shown:
                delivery = api.read(api.get(api.path("deliveries", listed["id"])), "attempts")
                for line in news(delivery, shown[0], now=clock.now()):
                    show_mark(line.good, line.words, err=api.as_json)
                known[delivery["id"]] = delivery["attempt_count"], delivery["state"]
        if all(known[listed["id"]][1] in _ENDED for listed in found):
            states = {state for _, state in known.values()}  # also of what the retention has taken meanwhile
            if not states or not states <= _ENDED:
                raise CliError(f"the deliveries of {printable(event)} are no longer there")
            return states == {"delivered"}
        # Not time.sleep: what reads the clock or waits on it is `clock`'s.
        Event().wait(pause)
        pause = min(pause * 1.5, _LAST_POLL)


def news(delivery: Mapping[str, Any], seen: int, *, now: int) -> list[Line]:
    """What to say of *delivery*, of which *seen* attempts were shown, at *now* (ms since the epoch)."""
    attempts = [attempt for attempt in delivery["attempts"] if attempt["outcome"] != "interrupted"]
    lines = [
        Line(attempt["outcome"] == "accepted", f"{delivery['subscription']} {describe_attempt(attempt)}")
        for attempt in attempts[seen:]
    ]
    ending = _ending(delivery, now)
    if lines and ending:
        lines[-1] = Line(lines[-1].good, f"{lines[-1].words}, {ending}")
    elif ending:
        lines = [Line(False, f"{delivery['subscription']} {ending}")]
    return [Line(line.good, printable(line.words)) for line in lines]


def _ending(delivery: Mapping[str, Any], now: int) -> str:
    match delivery["state"]:
        case "delivered":
            return ""
        case "pending":
            due = delivery["next_attempt_at"]
            return f"next try {waiting(due, now)}" if due and delivery["attempt_count"] else ""
        case "held":
            return "held: the subscription is disabled"
        case "failed":
            label = delivery.get("failed_label")
            return f"given up: {label}" if label else "given up"
        case state:
            return str(state)


def waiting(time: str, now: int) -> str:
    """How long it is from *now* (ms since the epoch) to *time*: `in 5 min`."""
    wait = datetime.fromisoformat(time).timestamp() - now / 1000
    for unit, seconds in (("h", 3600), ("min", 60), ("s", 1)):
        if wait >= 2 * seconds:
            return f"in {wait / seconds:.0f} {unit}"
    return f"in {wait:.1f} s" if wait > 0 else "now"


def _deliveries(api: Api, event: str, tenant: str) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        answer = api.get("/v1/deliveries", event=event, tenant=tenant, limit=250, cursor=cursor)
        page = api.read(answer, "data", "next_cursor")
        yield from page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return
