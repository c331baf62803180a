"""What the rounds of one run come to: medians, and ratios."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from hookengine.bench.cases import PUBLISHERS, SCENARIOS, point, waiting
from hookengine.bench.plot import Chart, Line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hookengine.bench.cases import Plan

    Runs = Mapping[str, Sequence[Mapping[str, float]]]  # the figures of each round, by the name of the case


class Measured(NamedTuple):
    """What a run was asked for, which receiver there was, on which machine, and what came of it."""

    plan: Plan
    receiver: str
    machine: Mapping[str, Any]
    runs: Runs
    left_out: Mapping[str, str]  # scenarios that this machine cannot run, each with the reason


class Comparison(NamedTuple):
    """A figure, and the one that it is measured by."""

    figure: str
    value: float
    unit: str
    beside: float
    what: str  # the other one is
    ratio: float


def throughput(runs: Runs) -> list[dict[str, Any]]:
    """The median rate of each scenario, its slowest and its fastest round, and its ratio to `bare` on the same way."""
    return [
        {
            "scenario": name,
            "rate": _median(runs, name, "rate"),
            "slowest": min(each["rate"] for each in runs[name]),
            "fastest": max(each["rate"] for each in runs[name]),
            "of_bare": _of_bare(runs, name),
            "cpu_us": _median(runs, name, "cpu_us"),
        }
        for name in SCENARIOS
        if name in runs and name != "latency"
    ]


def comparisons(measured: Measured) -> list[Comparison]:
    """What is measured by something other than `bare`."""
    runs, backlog = measured.runs, measured.plan.backlog
    found = [
        _compared(f"rate, {name}", _of_bare(runs, name), "of bare", _of_bare(runs, scenario.model), scenario.model)
        for name, scenario in SCENARIOS.items()
        if name in runs and scenario.model is not None
    ]
    if "latency" in runs:
        unit = _median(runs, "latency", "post_ms") + _median(runs, "latency", "commit_ms")
        for name in ("p50", "p99"):
            value = _median(runs, "latency", f"{name}_ms")
            found.append(_compared(f"latency {name}", value, "ms", unit, "a bare request and a commit"))
    if "backlog" in runs:
        ready, empty = _median(runs, "backlog", "ready_ms"), _median(runs, "backlog", "empty_ms")
        found.append(_compared(f"start, {backlog:,} waiting", ready, "ms", empty, "an empty start"))
        rate, empty = _median(runs, "backlog", "rate"), _median(runs, "backlog", "empty_rate")
        found.append(_compared(f"rate, {backlog:,} waiting", rate, "/s", empty, "just before"))
    return found


def charts(measured: Measured) -> list[Chart]:
    """The plot of a run that was asked for one."""
    plan, runs = measured.plan, measured.runs
    by_publishers = [
        Line(name, [(str(each), _median(runs, point(name, each), "rate")) for each in PUBLISHERS])
        for name in ("embedded", "bare")
    ]
    names = {each: "backlog" if each == plan.backlog else point("backlog", each) for each in waiting(plan)}
    by_backlog = [(f"{each:,}", _median(runs, name, "rate")) for each, name in names.items()]
    return [
        Chart("Throughput against concurrency", "publishers", "deliveries/s", by_publishers),
        Chart("Throughput against backlog", "deliveries that wait", "deliveries/s", [Line("embedded", by_backlog)]),
    ]


def _median(runs: Runs, name: str, figure: str) -> float:
    return median(each[figure] for each in runs[name])


def _of_bare(runs: Runs, name: str) -> float:
    return round(_median(runs, name, "rate") / _median(runs, SCENARIOS[name].yardstick, "rate"), 3)


def _compared(figure: str, value: float, unit: str, beside: float, what: str) -> Comparison:
    return Comparison(figure, value, unit, beside, what, round(value / beside, 3))
