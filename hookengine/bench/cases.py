"""What is measured: the scenarios of a run, and in which order they take turns."""

from __future__ import annotations

from typing import NamedTuple

# The first is the yardstick of all others.
NAMES = ("bare", "embedded", "http", "http-batch", "fan-out", "latency", "backlog")
PUBLISHERS = (1, 4, 16, 64, 256)  # of the plot
WAITING = (0, 10_000, 100_000)  # of the plot, and what is asked for

_FLAGS: dict[str, tuple[str, ...]] = {
    "bare": ("bare",),
    "embedded": ("embedded",),
    "http": ("ingest", "--batch", "1"),
    "http-batch": ("ingest", "--batch", "100"),
    "fan-out": ("embedded", "--subscriptions", "10"),
    "latency": ("latency",),
}
_ALONE = 1_000  # requests that one publisher makes for a point of the plot: each waits for a commit of its own
_PACED = 600  # events of `latency`: three seconds, and p99 is the sixth of them


class Plan(NamedTuple):
    """What a run was asked for."""

    requests: int  # in each scenario and round
    rounds: int
    only: tuple[str, ...]  # of NAMES; none is all
    backlog: int  # deliveries that wait
    plot: bool


class Case(NamedTuple):
    """A scenario in the rounds of a run."""

    name: str  # of its results
    arguments: tuple[str, ...]  # its module in this package, and flags
    requests: int  # that it makes
    limit: float  # seconds after which it hangs
    once: bool = False  # in the first round alone, since setting it up takes long


def cases(plan: Plan) -> list[Case]:
    """The scenarios of *plan*; always with `bare`, and for a plot also with `backlog`, which is a point of it."""
    wanted = {*(plan.only or NAMES), "bare", *(["backlog"] if plan.plot else [])}
    found = [
        _case(name, _FLAGS[name], min(plan.requests, _PACED) if name == "latency" else plan.requests)
        for name in NAMES
        if name in wanted and name != "backlog"
    ]
    if "backlog" in wanted:
        found.append(_waiting("backlog", plan, plan.backlog))
    return found + (_points(plan) if plan.plot else [])


def point(series: str, at: int) -> str:
    """The name of the case that is a point of the plot."""
    return f"{series}@{at}"


def waiting(plan: Plan) -> list[int]:
    """The backlogs of the plot."""
    return sorted({*WAITING, plan.backlog})


def in_turns(found: list[Case], rounds: int) -> list[Case]:
    """Each case once per round; every round begins with another one, so that none always has the same neighbour."""
    turns = [found[at % len(found) :] + found[: at % len(found)] for at in range(rounds)]
    return [case for number, turn in enumerate(turns) for case in turn if number == 0 or not case.once]


def _case(name: str, arguments: tuple[str, ...], requests: int) -> Case:
    return Case(name, arguments, requests, limit=60 + requests / 50)


def _points(plan: Plan) -> list[Case]:
    by_publishers = [
        _case(point(name, tasks), (*_FLAGS[name], "--tasks", str(tasks)), min(plan.requests, _ALONE * tasks))
        for tasks in PUBLISHERS
        for name in ("bare", "embedded")
    ]
    return by_publishers + [_waiting(point("backlog", each), plan, each) for each in waiting(plan) if each != plan.backlog]


def _waiting(name: str, plan: Plan, deliveries: int) -> Case:
    case = _case(name, ("backlog", "--waiting", str(deliveries)), plan.requests)
    return case._replace(limit=2 * case.limit + deliveries / 1_000, once=True)
