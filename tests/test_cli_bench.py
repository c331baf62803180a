"""`hookengine bench`: what it measures is shown, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from verbs import alone

from hookengine.bench.cases import Plan, cases
from hookengine.bench.summary import Measured
from hookengine.cli.figures import document, draw, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from verbs import Ended

COMMAND = [sys.executable, "-m", "hookengine", "bench"]
FIGURES = {
    "rate": 1234.5,
    "cpu_us": 99.6,
    "seconds": 1.0,
    "post_ms": 1.0,
    "commit_ms": 1.0,
    "p50_ms": 3.0,
    "p99_ms": 9.0,
    "empty_rate": 1234.5,
    "empty_ms": 20.0,
    "ready_ms": 25.0,
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone(monkeypatch, tmp_path)


@pytest.fixture
def measured() -> Measured:
    """A run with a plot, of figures that are all alike."""
    plan = Plan(requests=3_000, rounds=1, only=(), backlog=200_000, plot=True)
    machine = {"processors": 2, "python": "3.11.7"}
    return Measured(plan, "nginx", machine, {case.name: [FIGURES] for case in cases(plan)}, {"ipv6": "no such way"})


def test_bench_measures_and_leaves_nothing(tmp_path: Path) -> None:
    """A small run has the figures of each scenario as JSON, its receiver and machine, and leaves no file."""
    flags = ["--count", "20", "--rounds", "1", "--only", "embedded", "--json"]
    ended = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=60, check=False)

    assert 0 == ended.returncode, ended.stderr
    found = json.loads(ended.stdout)
    assert {
        *("at", "count", "rounds", "backlog", "receiver", "machine", "left_out"),
        *("scenarios", "comparisons", "runs"),
    } == found.keys()
    bare, embedded = found["scenarios"]
    assert ("bare", "embedded") == (bare["scenario"], embedded["scenario"])
    assert pytest.approx(embedded["rate"] / bare["rate"], abs=0.001) == embedded["of_bare"]
    assert {"scenario", "rate", "slowest", "fastest", "of_bare", "cpu_us"} == embedded.keys()
    assert f"The receiver is {found['receiver']}; files are in {tmp_path}" in ended.stderr
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_interrupted_bench_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """A signal ends the run, its scenario and its receiver, and takes the files away; the exit status says which it was."""
    command = [*COMMAND, "--count", "1000000", "--only", "http"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)

    assert "files are in" in said, said + err
    assert (128 + number, "") == (process.returncode, out)
    assert "Traceback" not in err
    assert [] == list(tmp_path.iterdir())
    assert [] == [line for line in command_lines() if str(tmp_path) in line]


def command_lines() -> list[str]:
    """Of all processes, where /proc has them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_text())
        except OSError:
            continue
    return found


def test_tables_have_rates_and_ratios(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each scenario and for each comparison, with whole rates and ratios of two digits."""
    show(measured)

    out, err = capsys.readouterr()
    rates, compared = (block.splitlines() for block in out.split("\n\n"))
    names = ["bare", "embedded", "http", "http-batch", "fan-out", "bare-tls", "tls", "bare-hosts", "hosts", "backlog"]
    assert names == [line.partition("\t")[0] for line in rates]
    assert "embedded\t1,234\t1,234\t1,234\t1.00\t100" == rates[1]
    assert [
        "rate, tls\t1.00 of bare\t1.00 of bare (embedded)\t1.00",
        "rate, hosts\t1.00 of bare\t1.00 of bare (embedded)\t1.00",
        "latency p50\t3.00 ms\t2.00 ms (a bare request and a commit)\t1.50",
        "latency p99\t9.00 ms\t2.00 ms (a bare request and a commit)\t4.50",
        "start, 200,000 waiting\t25.00 ms\t20.00 ms (an empty start)\t1.25",
        "rate, 200,000 waiting\t1,234/s\t1,234/s (just before)\t1.00",
    ] == compared
    assert "ipv6 is left out: no such way.\n" in err
    assert "deliveries a second" in err


def test_document_has_every_round(measured: Measured) -> None:
    """JSON has the figures of each round beside what they come to."""
    found = json.loads(document(measured))

    assert [FIGURES] == found["runs"]["latency"]
    assert 6 == len(found["comparisons"])
    assert {"figure": "latency p50", "ratio": 1.5}.items() <= found["comparisons"][2].items()
    assert {"ipv6": "no such way"} == found["left_out"]


def test_plot_is_written(measured: Measured, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plot is an SVG file with a point for each number of publishers and each backlog."""
    draw(measured, tmp_path / "plot.svg")

    root = ET.parse(tmp_path / "plot.svg").getroot()
    assert 5 + 5 + 4 == len(list(root.iter("{http://www.w3.org/2000/svg}circle")))
    assert "receiver: nginx" in str(list(root.iter("{http://www.w3.org/2000/svg}text"))[-1].text)
    assert f"{tmp_path}/plot.svg is drawn." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(["--count", "0"], "'--count': 0 is not in the range", id="no requests"),
        pytest.param(["--only", "quick"], "'quick' is not one of 'bare', 'embedded'", id="unknown scenario"),
        pytest.param(["--plot", "nowhere/plot.svg"], "nowhere/plot.svg cannot be written", id="plot without a directory"),
        pytest.param(["--directory", "nowhere"], "'nowhere' does not exist", id="no directory"),
    ],
)
def test_wrong_flags_are_usage_errors(cli: Callable[..., Ended], flags: list[str], said: str) -> None:
    """What cannot be done is said before anything is measured."""
    ended = cli("bench", *flags)

    assert 2 == ended.status
    assert said in " ".join(ended.err.split())
