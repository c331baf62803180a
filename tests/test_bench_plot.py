"""The plot is an SVG that anybody's reader takes, and every value is where its axis says."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from hookengine.bench.plot import BOTTOM, COLORS, HEIGHT, INK, STEPS, TOP, Chart, Line, draw, scale

SVG = "{http://www.w3.org/2000/svg}"
CHART = Chart(
    "Throughput & more",
    "publishers",
    "deliveries/s",
    [Line("embedded", [("1", 500.0), ("4", 1000.0), ("<16>", 2000.0)]), Line("bare", [("1", 0.0), ("4", 1.0), ("<16>", 1.0)])],
)


def texts(root: ET.Element) -> list[str]:
    """What is written on it."""
    return [str(each.text) for each in root.iter(f"{SVG}text")]


def test_plot_is_well_formed_and_labelled() -> None:
    """Titles, both axes, places, values, names of lines and the note are texts of a well-formed document."""
    root = ET.fromstring(draw([CHART, CHART], "2 < 3"))

    assert f"{SVG}svg" == root.tag
    chart = ["Throughput & more", "0", "500", "1,000", "1,500", "2,000", "1", "4", "<16>", "publishers", "deliveries/s"]
    assert [*chart, "embedded", "bare", *chart, "embedded", "bare", "2 < 3"] == texts(root)


def test_points_are_at_their_values() -> None:
    """Each value is a point of its line and a circle, at its height between zero and the top of the axis."""
    root = ET.fromstring(draw([CHART], ""))
    embedded, bare = root.iter(f"{SVG}polyline")
    circles = [(each.attrib["cx"], each.attrib["cy"]) for each in root.iter(f"{SVG}circle")]
    points = [tuple(pair.split(",")) for line in (embedded, bare) for pair in line.attrib["points"].split()]

    assert circles == points
    low = HEIGHT - BOTTOM
    assert [low - (low - TOP) * part for part in (0.25, 0.5, 1.0, 0.0)] == [float(y) for _, y in points[:4]]
    across = [float(x) for x, _ in points[:3]]
    assert pytest.approx(across[1] - across[0]) == across[2] - across[1]
    assert across == [float(x) for x, _ in points[3:]]
    told = [str(each.text) for each in root.iter(f"{SVG}title")]
    assert "embedded, 4 publishers: 1,000 deliveries/s" in told


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (2000.0, [0, 500, 1000, 1500, 2000]),
        (4111.0, [0, 1000, 2000, 3000, 4000, 5000]),
        (0.7, [0, 0.2, 0.4, 0.6, 0.8]),
        (12.0, [0, 2.5, 5, 7.5, 10, 12.5]),
        (0.0, [0, 1]),
    ],
)
def test_axis_has_round_values(largest: float, expected: list[float]) -> None:
    """An axis begins at zero and ends with the first round step that holds the largest value."""
    values = scale(largest)

    assert pytest.approx(expected) == values
    assert len(values) <= STEPS + 1


@pytest.mark.parametrize("page", [pytest.param("#ffffff", id="light"), pytest.param("#0d1117", id="dark")])
@pytest.mark.parametrize("color", [INK, *COLORS])
def test_colours_stand_out(color: str, page: str) -> None:
    """Ink and lines have a contrast of at least 3 to 1 on a light page and on a dark one (WCAG 2.2, 1.4.11)."""

    def luminance(code: str) -> float:
        parts = [int(code[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(color), luminance(page)), reverse=True)

    assert (light + 0.05) / (dark + 0.05) >= 3
