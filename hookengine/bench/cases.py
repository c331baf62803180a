"""What is measured: the scenarios of a run, and in which order they take turns."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

BARE = "bare"
PUBLISHERS = (1, 4, 16, 64, 256)  # of the plot
WAITING = (0, 10_000, 100_000)  # of the plot, and what is asked for

_ALONE = 1_000  # requests that one publisher makes for a point of the plot: each waits for a commit of its own
_PACED = 600  # events of `latency`: three seconds, and p99 is the sixth of them


class Way(StrEnum):
    """How requests reach the receiver."""

    PLAIN = "plain"  # over http, at the first host
    TLS = "tls"  # over https, there
    HOSTS = "hosts"  # over http, at all hosts in turn


class Scenario(NamedTuple):
    """What is measured, and beside what."""

    arguments: tuple[str, ...]  # its module in this package, and flags
    way: Way = Way.PLAIN
    yardstick: str = BARE  # its rate is a ratio to that of this scenario
    model: str | None = None  # the scenario that is the same on the plain way: its ratio is what this one's is held against


SCENARIOS = {
    BARE: Scenario(("bare",)),
    "embedded": Scenario(("embedded",)),
    "http": Scenario(("ingest", "--batch", "1")),
    "http-batch": Scenario(("ingest", "--batch", "100")),
    "fan-out": Scenario(("embedded", "--subscriptions", "10")),
    "bare-tls": Scenario(("bare",), Way.TLS, yardstick="bare-tls"),
    "tls": Scenario(("embedded",), Way.TLS, yardstick="bare-tls", model="embedded"),
    "bare-hosts": Scenario(("bare",), Way.HOSTS, yardstick="bare-hosts"),
    "hosts": Scenario(("embedded",), Way.HOSTS, yardstick="bare-hosts", model="embedded"),
    "latency": Scenario(("latency",)),
    "backlog": Scenario(("backlog",)),
}


class Plan(NamedTuple):
    """What a run was asked for."""

    requests: int  # in each scenario and round
    rounds: int
    only: tuple[str, ...]  # of SCENARIOS; none is all
    backlog: int  # deliveries that wait
    plot: bool


class Case(NamedTuple):
    """A scenario in the rounds of a run."""

    name: str  # of its results
    arguments: tuple[str, ...]  # its module in this package, and flags
    requests: int  # that it makes
    limit: float  # seconds after which it hangs
    way: Way = Way.PLAIN
    once: bool = False  # in the first round alone, since setting it up takes long


def cases(plan: Plan) -> list[Case]:
    """
    The scenarios of *plan* and those that they are measured by.

    Always with `bare`, and for a plot also with `backlog`, which is a point of it.
    """
    asked = plan.only or tuple(SCENARIOS)
    beside = [name for each in asked for name in (SCENARIOS[each].yardstick, SCENARIOS[each].model)]
    wanted = {*asked, *beside, BARE, *(["backlog"] if plan.plot else [])}
    found = [
        _case(name, scenario, min(plan.requests, _PACED) if name == "latency" else plan.requests)
        for name, scenario in SCENARIOS.items()
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


def _case(name: str, scenario: Scenario, requests: int, *flags: str) -> Case:
    return Case(name, (*scenario.arguments, *flags), requests, limit=60 + requests / 50, way=scenario.way)


def _points(plan: Plan) -> list[Case]:
    by_publishers = [
        _case(point(name, tasks), SCENARIOS[name], min(plan.requests, _ALONE * tasks), "--tasks", str(tasks))
        for tasks in PUBLISHERS
        for name in (BARE, "embedded")
    ]
    return by_publishers + [_waiting(point("backlog", each), plan, each) for each in waiting(plan) if each != plan.backlog]


def _waiting(name: str, plan: Plan, deliveries: int) -> Case:
    case = _case(name, SCENARIOS["backlog"], plan.requests, "--waiting", str(deliveries))
    return case._replace(limit=2 * case.limit + deliveries / 1_000, once=True)
