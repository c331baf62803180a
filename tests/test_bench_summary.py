"""What is measured, in which order, and what the figures of a run come to."""

from __future__ import annotations

import pytest

from hookengine.bench.cases import PUBLISHERS, SCENARIOS, Case, Plan, Way, cases, in_turns, point, waiting
from hookengine.bench.summary import Comparison, Measured, charts, comparisons, throughput

PLAN = Plan(requests=3_000, rounds=3, only=(), backlog=200_000, plot=False)


def test_all_scenarios_by_default() -> None:
    """Without further words every scenario is a case, each with its module, flags and number of requests."""
    found = {case.name: (" ".join(case.arguments), case.requests, case.once) for case in cases(PLAN)}
    ways = {case.name: case.way for case in cases(PLAN) if case.way is not Way.PLAIN}

    assert {
        "bare": ("bare", 3000, False),
        "embedded": ("embedded", 3000, False),
        "http": ("ingest --batch 1", 3000, False),
        "http-batch": ("ingest --batch 100", 3000, False),
        "fan-out": ("embedded --subscriptions 10", 3000, False),
        "bare-tls": ("bare", 3000, False),
        "tls": ("embedded", 3000, False),
        "bare-hosts": ("bare", 3000, False),
        "hosts": ("embedded", 3000, False),
        "latency": ("latency", 600, False),
        "backlog": ("backlog --waiting 200000", 3000, True),
    } == found
    assert list(SCENARIOS) == list(found)
    assert {"bare-tls": Way.TLS, "tls": Way.TLS, "bare-hosts": Way.HOSTS, "hosts": Way.HOSTS} == ways


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (("latency", "http"), ["bare", "http", "latency"]),
        (("tls",), ["bare", "embedded", "bare-tls", "tls"]),
        (("hosts",), ["bare", "embedded", "bare-hosts", "hosts"]),
        (("bare-tls",), ["bare", "bare-tls"]),
    ],
)
def test_yardsticks_are_always_measured(only: tuple[str, ...], expected: list[str]) -> None:
    """Who asks for some scenarios gets these, and what each is measured by."""
    assert expected == [case.name for case in cases(PLAN._replace(only=only))]


def test_plot_has_a_case_for_each_point() -> None:
    """A plot measures bare and embedded with every number of publishers, and each backlog once."""
    found = {case.name: case for case in cases(PLAN._replace(only=("bare",), plot=True, requests=20_000, backlog=50_000))}

    by_publishers = [point(name, tasks) for tasks in PUBLISHERS for name in ("bare", "embedded")]
    by_backlog = [point("backlog", each) for each in (0, 10_000, 100_000)]
    assert ["bare", "backlog", *by_publishers, *by_backlog] == list(found)
    assert ("embedded", "--tasks", "4") == found[point("embedded", 4)].arguments
    assert [1_000, 4_000, 16_000, 20_000, 20_000] == [found[point("bare", each)].requests for each in PUBLISHERS]
    assert found[point("backlog", 0)].once


def test_limits_grow_with_the_work() -> None:
    """A scenario that has more to do may take longer before it counts as hanging."""
    small, large = (next(iter(cases(PLAN._replace(requests=each)))).limit for each in (3_000, 1_000_000))
    shallow, deep = (cases(PLAN._replace(only=("backlog",), backlog=each))[-1].limit for each in (1, 10_000_000))

    assert 120 == small
    assert large > 10_000
    assert deep > 10_000 > shallow


def test_scenarios_take_turns() -> None:
    """Every round begins with another case and has each one, but for those that are measured once."""
    a, b, c = (Case(name, (), 1, 1.0, once=name == "c") for name in "abc")

    assert [a, b, c, b, a, a, b, a, b] == in_turns([a, b, c], 4)


def figures(*rates: float, cpu: float = 100.0) -> list[dict[str, float]]:
    """Rounds with these rates."""
    return [{"seconds": 1.0, "rate": rate, "cpu_us": cpu} for rate in rates]


def test_throughput_compares_with_bare() -> None:
    """Medians, extremes and the ratio to the yardstick come from the rounds of one run."""
    bare, embedded = throughput({"bare": figures(4000, 5000, 1000), "embedded": figures(3000, 9000, 2000, cpu=80)})

    assert ("bare", 4000, 1.0) == (bare["scenario"], bare["rate"], bare["of_bare"])
    assert {
        "scenario": "embedded",
        "rate": 3000,
        "slowest": 2000,
        "fastest": 9000,
        "of_bare": 0.75,
        "cpu_us": 80,
    } == embedded


def test_each_way_has_its_own_bare() -> None:
    """A scenario on another way is a ratio to the yardstick there, and that is held against the ratio on the plain way."""
    runs = {
        "bare": figures(4000, 5000, 1000),
        "embedded": figures(2000),
        "bare-tls": figures(1000, 3000, 2000),
        "tls": figures(900),
        "bare-hosts": figures(3000),
        "hosts": figures(1800),
    }

    ratios = {each["scenario"]: each["of_bare"] for each in throughput(runs)}
    found = comparisons(Measured(PLAN, "nginx", {}, runs, {}))

    assert {"bare": 1, "embedded": 0.5, "bare-tls": 1, "tls": 0.45, "bare-hosts": 1, "hosts": 0.6} == ratios
    assert [
        Comparison("rate, tls", 0.45, "of bare", 0.5, "embedded", 0.9),
        Comparison("rate, hosts", 0.6, "of bare", 0.5, "embedded", 1.2),
    ] == found


def test_comparisons_have_their_own_units() -> None:
    """Latency is measured by a request and a commit together, the backlog by the same engine without one."""
    paced = [{"post_ms": 1.0, "commit_ms": each, "p50_ms": 3.0, "p99_ms": 2 * each + 5} for each in (0.5, 0.7, 0.5)]
    deep = [{**figures(1800)[0], "empty_rate": 2000.0, "ready_ms": 30.0, "empty_ms": 20.0}]
    runs = {"bare": figures(4000), "latency": paced, "backlog": deep}

    found = comparisons(Measured(PLAN, "nginx", {}, runs, {}))

    assert [
        Comparison("latency p50", 3.0, "ms", 1.5, "a bare request and a commit", 2.0),
        Comparison("latency p99", 6.0, "ms", 1.5, "a bare request and a commit", 4.0),
        Comparison("start, 200,000 waiting", 30.0, "ms", 20.0, "an empty start", 1.5),
        Comparison("rate, 200,000 waiting", 1800, "/s", 2000.0, "just before", 0.9),
    ] == found


@pytest.mark.parametrize(("backlog", "expected"), [(200_000, [0, 10_000, 100_000, 200_000]), (10_000, [0, 10_000, 100_000])])
def test_charts_have_every_point(backlog: int, expected: list[int]) -> None:
    """The charts have each number of publishers and each backlog, among them the one that was asked for."""
    plan = PLAN._replace(plot=True, backlog=backlog)
    runs = {case.name: figures(number, number + 2, number + 1) for number, case in enumerate(cases(plan))}

    by_publishers, by_backlog = charts(Measured(plan, "nginx", {}, runs, {}))

    embedded, bare = by_publishers.lines
    assert ["1", "4", "16", "64", "256"] == [label for label, _ in embedded.points] == [label for label, _ in bare.points]
    assert runs[point("bare", 4)][2]["rate"] == bare.points[1][1]
    assert expected == waiting(plan)
    assert [f"{each:,}" for each in expected] == [label for label, _ in by_backlog.lines[0].points]
    assert runs["backlog"][2]["rate"] == by_backlog.lines[0].points[expected.index(backlog)][1]
