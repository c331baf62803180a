"""What `hookengine bench` does: measure until told otherwise, and show what came of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from hookengine.bench import plot
from hookengine.bench.runner import left_out, machine, receiver, run
from hookengine.bench.summary import Measured, charts, comparisons, throughput
from hookengine.cli.files import absolute
from hookengine.cli.output import printable, say, show_table
from hookengine.cli.progress import progress
from hookengine.cli.signals import heeding_signals
from hookengine.clock import Clock
from hookengine.times import format_time

if TYPE_CHECKING:
    from hookengine.bench.cases import Plan


def measure(plan: Plan, directory: Path) -> Measured:
    """Do what *plan* asks for, with files in *directory* until the end, or until a signal."""
    return asyncio.run(_measure(plan, absolute(directory)))


async def _measure(plan: Plan, directory: Path) -> Measured:
    here = asyncio.current_task()
    with heeding_signals(here), TemporaryDirectory(prefix="hookengine-bench-", dir=directory) as name:
        folder = Path(name)
        async with receiver(folder) as reached:
            say(f"The receiver is {printable(reached.name)}; files are in {printable(name)} until the end.")
            with progress("measuring") as advance:
                runs = await run(plan, reached, folder, advance)
            return Measured(plan, reached.name, machine(), runs, left_out(plan, reached))


def show(measured: Measured) -> None:
    """Show the figures as tables."""
    whole = ("rate", "slowest", "fastest", "cpu_us")
    show_table(
        ("scenario", "rate", "slowest", "fastest", "of_bare", "cpu_us"),
        [
            {**each, **{name: f"{each[name]:,.0f}" for name in whole}, "of_bare": f"{each['of_bare']:.2f}"}
            for each in throughput(measured.runs)
        ],
    )
    if compared := comparisons(measured):
        click.echo()
        show_table(
            ("figure", "value", "beside", "ratio"),
            [
                {
                    "figure": each.figure,
                    "value": _amount(each.value, each.unit),
                    "beside": f"{_amount(each.beside, each.unit)} ({each.what})",
                    "ratio": f"{each.ratio:.2f}",
                }
                for each in compared
            ],
        )
    for name, reason in measured.left_out.items():
        say(f"{name} is left out: {reason}.")
    say(f"Rates are deliveries a second; medians of {measured.plan.rounds}, of backlog one.")


def document(measured: Measured) -> str:
    """The figures as JSON, with every round."""
    plan = measured.plan
    return json.dumps(
        {
            "at": format_time(Clock().now()),
            "count": plan.requests,
            "rounds": plan.rounds,
            "backlog": plan.backlog,
            "receiver": measured.receiver,
            "machine": measured.machine,
            "left_out": measured.left_out,
            "scenarios": throughput(measured.runs),
            "comparisons": [each._asdict() for each in comparisons(measured)],
            "runs": measured.runs,
        }
    )


def draw(measured: Measured, file: Path) -> None:
    """Write the plot to *file*."""
    this = measured.machine
    note = f"events of 500 bytes; {this['processors']} processors, Python {this['python']}; receiver: {measured.receiver}"
    file.write_text(plot.draw(charts(measured), note), encoding="utf-8")
    say(f"{printable(str(file))} is drawn.")


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f}{unit}" if unit == "/s" else f"{value:.2f} {unit}"
