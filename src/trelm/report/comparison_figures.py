"""The figures of a comparison: learning curves and the projection for Plotly, word links as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trelm.report.comparison import REFERENCE, Points, curve_points, mean_curve
from trelm.report.comparison_schema import Cell, Grid, Projection, WordLinks
from trelm.report.figures import AXES, COLOURS, LOG, SCRATCH_COLOUR, figure

DASHES = ("solid", "dash", "dashdot")
SIDES = {"source": ("#e07b1a", "circle"), "target": ("#2a7de1", "diamond")}
PAIRS = "translation pairs"


def comparison_figures(grid: Grid) -> dict[str, dict[str, Any]]:
    """`curves` and `projection`, each where there are data for it."""
    styles = arm_styles(list(grid.comparison.arms))
    curves = figure(
        "held-out bits per character",
        {axis: _curves(grid, axis, styles) for axis in AXES},
        LOG,
    )
    drawn = {"curves": curves} if curves["axes"] else {}
    projection = grid.comparison.projection
    if projection is not None and projection.points:
        drawn["projection"] = _plane(projection)
    return drawn


def arm_styles(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dash of each arm: no two alike up to 24 arms, scratch always grey and dotted."""
    others = [arm for arm in arms if arm != REFERENCE]
    styles: dict[str, dict[str, Any]] = {
        arm: {"color": COLOURS[index % len(COLOURS)], "dash": DASHES[index // len(COLOURS) % len(DASHES)]}
        for index, arm in enumerate(others)
    }
    return styles | {REFERENCE: {"color": SCRATCH_COLOUR, "dash": "dot"}}


def _curves(grid: Grid, axis: str, styles: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Seeds as thin lines, their mean as a bold one; an arm with one seed is its own mean."""
    traces = []
    for arm in grid.comparison.arms:
        curves = _known(grid.of(arm), axis)
        if len(curves) > 1:
            traces += [_line(arm, points, styles[arm], 1) for points in curves]
        if curves:
            traces.append(_line(arm, mean_curve(curves), styles[arm], 3))
    return traces


def _known(cells: Sequence[Cell], axis: str) -> list[Points]:
    return [points for cell in cells if (points := curve_points(cell.curve, axis)) is not None]


def _line(arm: str, points: Points, style: dict[str, Any], width: int) -> dict[str, Any]:
    x, y = points
    bold = width > 1
    return {
        "type": "scatter",
        "mode": "lines+markers" if bold else "lines",
        "name": arm,
        "legendgroup": arm,
        "showlegend": bold,
        "x": x.tolist(),
        "y": y.tolist(),
        "line": {**style, "width": width},
        "marker": {"size": 5},
        "opacity": 1.0 if bold else 0.4,
        **({} if bold else {"hoverinfo": "skip"}),
    }


def _plane(projection: Projection) -> dict[str, Any]:
    """Points of both languages, and a line between those that translate each other; all axes without meaning."""
    groups: dict[int, list[tuple[float, float]]] = {}
    for point in projection.points:
        if point.group is not None:
            groups.setdefault(point.group, []).append((point.x, point.y))
    ends = [end for points in groups.values() if len(points) > 1 for end in (*points, (None, None))]
    traces: list[dict[str, Any]] = []
    if ends:
        line = {"color": SCRATCH_COLOUR, "width": 1, "dash": "solid"}
        xs, ys = [x for x, _ in ends], [y for _, y in ends]
        traces.append(
            {"type": "scatter", "mode": "lines", "name": PAIRS, "x": xs, "y": ys, "line": line, "hoverinfo": "skip"}
        )
    traces += [_points(projection, side) for side in SIDES if any(point.side == side for point in projection.points)]
    axes = {"plane": {"title": "first component", "traces": traces}}
    return {
        "title": "rows of the aligned tables",
        "title_y": "second component",
        "axes": axes,
        "switches": {"labels": "show the words"},
        "plane": True,
    }


def _points(projection: Projection, side: str) -> dict[str, Any]:
    points = [point for point in projection.points if point.side == side]
    colour, symbol = SIDES[side]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": side,
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "text": [point.token for point in points],
        "textposition": "top center",
        "hovertemplate": "%{text}<extra>" + side + "</extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.8},
    }


ROW, WIDTH, MARGIN, LONGEST = 30, 360, 132, 14


@dataclass(frozen=True)
class Drawing:
    """Word links as two columns of tokens: where each stands, and the lines between them, in units of the drawing.

    Attributes:
        tokens: x, y, the text that is drawn, the whole text, its anchor.
        lines: y on the left and on the right, and `both`, `forward` or `reverse`.
    """

    height: int
    tokens: tuple[tuple[int, int, str, str, str], ...]
    lines: tuple[tuple[int, int, str], ...]
    width: int = WIDTH
    left: int = MARGIN + 6
    right: int = WIDTH - MARGIN - 6


def links_drawing(links: WordLinks) -> Drawing:
    """The source's tokens on the left, the target's on the right; too long ones are cut."""
    tokens = tuple(
        (x, ROW * position + 20, token if len(token) <= LONGEST else f"{token[: LONGEST - 1]}…", token, anchor)
        for side, x, anchor in ((links.source, MARGIN, "end"), (links.target, WIDTH - MARGIN, "start"))
        for position, token in enumerate(side)
    )
    forward, reverse = set(links.forward), set(links.reverse)
    lines = tuple(
        (ROW * i + 15, ROW * j + 15, direction(link, forward, reverse))
        for link in sorted(forward | reverse)
        for i, j in (link,)
    )
    return Drawing(ROW * max(len(links.source), len(links.target), 1) + 6, tokens, lines)


def direction(link: tuple[int, int], forward: set[tuple[int, int]], reverse: set[tuple[int, int]]) -> str:
    """Which of the two directions have a link."""
    if link in forward and link in reverse:
        return "both"
    return "forward" if link in forward else "reverse"
