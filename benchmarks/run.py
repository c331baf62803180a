"""
All scenarios in one run, in turns, each in a process of its own, beside one nginx: what a durable delivery costs in `bare`.

Compare numbers of one run only: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from nginx import NginxError, nginx

HERE = Path(__file__).parent
SCENARIOS = {
    "bare": ["bare.py"],
    "embedded": ["embedded.py"],
    "http": ["ingest.py", "--batch", "1"],
    "http-batch": ["ingest.py", "--batch", "100"],
}
LIMIT = 120.0  # seconds for one scenario


class ScenarioError(Exception):
    """A scenario ended without a result."""


def measured(name: str, url: str, count: int) -> dict[str, float]:
    """What one run of a scenario printed."""
    script, *flags = SCENARIOS[name]
    command = [sys.executable, str(HERE / script), "--url", url, "--count", str(count), *flags]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise ScenarioError(f"{name} did not end within {LIMIT:.0f} s") from None
    if ended.returncode:
        raise ScenarioError(f"{name} failed:\n{ended.stderr.strip()}")
    result: dict[str, float] = json.loads(ended.stdout)
    return result


def in_turns(names: list[str], rounds: int) -> list[str]:
    """Each name once per round; every round begins with another one, so that none always has the same neighbour."""
    turns = [names[at % len(names) :] + names[: at % len(names)] for at in range(rounds)]
    return [name for turn in turns for name in turn]


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The medians of each scenario, its slowest and fastest round, and its ratio to `bare`."""
    medians = {name: median(each["rate"] for each in results) for name, results in runs.items()}
    return {
        name: {
            "rate": medians[name],
            "slowest": min(each["rate"] for each in results),
            "fastest": max(each["rate"] for each in results),
            "of_bare": round(medians[name] / medians["bare"], 3),
            "cpu_us": median(each["cpu_us"] for each in results),
        }
        for name, results in runs.items()
    }


def table(scenarios: dict[str, dict[str, float]]) -> str:
    """The summary for people."""
    lines = [f"{'scenario':<12}{'requests/s':>12}{'slowest':>10}{'fastest':>10}{'of bare':>9}{'CPU µs':>9}"]
    lines += [
        f"{name:<12}{each['rate']:>12,.0f}{each['slowest']:>10,.0f}{each['fastest']:>10,.0f}"
        f"{each['of_bare']:>9.2f}{each['cpu_us']:>9.0f}"
        for name, each in scenarios.items()
    ]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the numbers depend on besides our code."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "packages": {name: version(name) for name in ("aiohttp", "aiosqlite", "msgspec", "orjson", "uvloop")},
    }


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="requests in each scenario and round")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 6), help="medians are over these")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="these, and always bare")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the JSON goes")
    options = parser.parse_args()

    names = [name for name in SCENARIOS if name == "bare" or name in options.only]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    try:
        with nginx() as url:
            for name in in_turns(names, options.rounds):
                runs[name].append(measured(name, url, options.count))
                print(f"{name:<12}{runs[name][-1]['rate']:>12,.0f}/s", file=sys.stderr)
    except (NginxError, ScenarioError) as problem:
        sys.exit(str(problem))

    scenarios = summary(runs)
    print(table(scenarios))
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"{at.replace(':', '')}.json"
    document = {"at": at, "count": options.count, "machine": machine(), "scenarios": scenarios, "runs": runs}
    file.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written to {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
