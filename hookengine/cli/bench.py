"""`hookengine bench`: what a durable delivery costs on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hookengine.bench.cases import SCENARIOS, Plan

_ONLY = "This scenario, and those that it is measured by, of which bare always is one; repeat it for more."
_EXAMPLES = """\b
hookengine bench
hookengine bench --only embedded --only latency --rounds 1
hookengine bench --count 20000 --rounds 5 --plot throughput.svg
"""


def _writable(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    # Asked before, since the measuring takes minutes.
    if value is not None and not os.access(value if value.exists() else value.parent, os.W_OK):
        raise click.BadParameter(f"{value} cannot be written")
    return value


@click.command(epilog=_EXAMPLES)
@click.option(
    "--count", type=click.IntRange(10, 1_000_000), default=3_000, show_default=True, help="Requests in each scenario."
)
@click.option("--rounds", type=click.IntRange(1, 9), default=3, show_default=True, help="Medians are over these.")
@click.option("--only", multiple=True, type=click.Choice(tuple(SCENARIOS)), help=_ONLY)
@click.option(
    "--backlog",
    type=click.IntRange(1, 10_000_000),
    default=200_000,
    show_default=True,
    help="Deliveries that wait in backlog.",
)
@click.option("--json", "as_json", is_flag=True, help="Show JSON, with every round.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_writable,
    metavar="FILE.svg",
    help="Also draw throughput against publishers and against the backlog; takes about three times as long.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, exists=True, writable=True, path_type=Path),
    default=".",
    show_default="the present one",
    help="Where databases lie while it runs: on the disk that is meant.",
)
def bench(
    *,
    count: int,
    rounds: int,
    only: tuple[str, ...],
    backlog: int,
    as_json: bool,
    plot: Path | None,
    directory: Path,
) -> None:
    """
    Measure deliveries on this machine, as ratios to `bare`.

    `bare` posts signed requests without a store and without a queue; to TLS and to 100 hosts there is one of its own. All
    traffic is on loopback, to nginx if it is installed, and nothing is left behind. Compare figures of one run only: machines
    differ, and so does one machine from hour to hour.
    """
    from hookengine.cli.figures import document, draw, measure, show  # noqa: PLC0415  # it loads an event loop and more

    plan = Plan(requests=count, rounds=rounds, only=only, backlog=backlog, plot=plot is not None)
    measured = measure(plan, directory)
    if as_json:
        click.echo(document(measured))
    else:
        show(measured)
    if plot is not None:
        draw(measured, plot)
