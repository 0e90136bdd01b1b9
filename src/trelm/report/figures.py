"""The curves as Plotly figures: plain mappings of traces and axis titles, drawn by the page's own script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from trelm.report.schema import Curve, Report

Column = list[float | None]
Select = Callable[[Curve, str], tuple[Column, Column]]

SCRATCH = "scratch"
COLOURS = ("#2a7de1", "#e07b1a", "#1fa37a", "#c54f9b", "#8a63d2", "#b8860b", "#d64545", "#2fa3b5")
"""Told apart on light and on dark ground, and by most colour-blind readers."""
SCRATCH_COLOUR = "#888888"
AXES = {"tokens": "training tokens", "seconds": "seconds of training", "flops": "FLOPs of training"}
LOG = {"log": "logarithmic"}
"""The switch of a figure that makes its x axis logarithmic."""


def figures(report: Report) -> dict[str, dict[str, Any]]:
    """For each figure (`loss`, `held-out`): its title, its switches, for each x axis (`tokens`, `seconds`) its traces.

    A figure or an axis without data is left out.
    """
    wanted = {
        "loss": _figure(report.curves, "training loss (nats a predicted token)", _loss),
        "held-out": _figure(report.curves, "held-out bits per character", _held_out),
    }
    return {name: drawn for name, drawn in wanted.items() if drawn["axes"]}


def _loss(curve: Curve, axis: str) -> tuple[Column, Column]:
    return getattr(curve, axis), curve.loss


def _held_out(curve: Curve, axis: str) -> tuple[Column, Column]:
    scores = curve.held_out
    return (getattr(scores, axis), scores.bits_per_character) if scores is not None else ([], [])


def _figure(curves: dict[str, Curve], title: str, select: Select) -> dict[str, Any]:
    return figure(title, {axis: _traces(curves, axis, select) for axis in ("tokens", "seconds")}, {})


def figure(title: str, axes: Mapping[str, list[dict[str, Any]]], switches: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script draws: axes without traces are left out.

    Args:
        axes: traces for each x axis of `AXES`. switches: for each switch (`log`, `labels`) the words on its button.
    """
    sides = {axis: {"title": AXES[axis], "traces": traces} for axis, traces in axes.items() if traces}
    return {"title": title, "axes": sides, "switches": dict(switches)}


def _traces(curves: dict[str, Curve], axis: str, select: Select) -> list[dict[str, Any]]:
    """One trace a stage; the transferred model's stages follow one another along x, scratch starts at zero.

    A stage without such a curve still takes its room on the axis.
    """
    traces, start = [], 0.0
    for index, (stage, curve) in enumerate(curves.items()):
        x, y = select(curve, axis)
        if x and y:
            traces.append(_trace(stage, _shifted(x, 0.0 if stage == SCRATCH else start), y, index))
        if stage != SCRATCH:
            start += max((finite(value) or 0.0 for value in (*x, *getattr(curve, axis))), default=0.0)
    return traces


def _trace(stage: str, x: Column, y: Column, index: int) -> dict[str, Any]:
    scratch = stage == SCRATCH
    line = {
        "color": SCRATCH_COLOUR if scratch else COLOURS[index % len(COLOURS)],
        "dash": "dot" if scratch else "solid",
        "width": 2,
    }
    mode = "lines" if len(x) > 1 else "markers"
    return {"type": "scatter", "mode": mode, "name": stage, "x": x, "y": [finite(value) for value in y], "line": line}


def _shifted(values: Column, start: float) -> Column:
    return [None if finite(value) is None else start + float(value or 0) for value in values]


def finite(value: float | None) -> float | None:
    """The value, or None where it is no finite number: browsers' JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None
