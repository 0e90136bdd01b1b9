"""Statistics of a comparison: means and spreads over seeds, tests against the best rival, budgets to a quality."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from trelm.report.comparison_schema import Cell, Comparison, LearningCurve
from trelm.report.parts import counted

BITS = "bits_per_character"
LOWER = (BITS,)
"""Metrics of which less is better."""

REFERENCE = "scratch"
AXES = ("tokens", "seconds", "flops")
OWN = "trelm-"
ABLATIONS = (
    *("no-tri-layer", "no-ordering", "no-cdlm", "one-direction", "joint", "no-combination", "adversarial"),
    "recommended-rows",
)
"""Arms that are `trelm-stages` or `trelm-recommended` with parts changed or left out: no rivals."""


@dataclass(frozen=True)
class Standing:
    """One arm on one metric.

    Attributes:
        values: one a seed. mean, spread: over them; the sample standard deviation, None of one seed.
        rank: from 1, by the mean.
        tied: not the best, but its mean is within one standard error (of the difference) of the best one's.
        p: of Welch's two-sided t test against the best rival, None where there is none to make; then `untested` says
            why.
    """

    values: tuple[float, ...]
    mean: float
    spread: float | None
    rank: int
    tied: bool
    p: float | None
    untested: str


@dataclass(frozen=True)
class MetricSummary:
    """All arms on one metric. `rival` is the best arm that is neither ours nor an ablation of ours."""

    metric: str
    lower_is_better: bool
    best: str
    rival: str | None
    arms: dict[str, Standing]


def is_rival(arm: str) -> bool:
    """Whether an arm, or the one that it is a variant of, is neither ours nor an ablation of ours."""
    arm = arm.partition("+")[0]
    return not arm.startswith(OWN) and arm not in ABLATIONS


def lower_metrics(comparison: Comparison) -> tuple[str, ...]:
    """The metrics of which less is better: our own, and the sets whose main score is one of them."""
    return (*LOWER, *(label for label, task in comparison.tasks.items() if task.metric in LOWER))


def summary(cells: Sequence[Cell], lower: Sequence[str] = LOWER) -> dict[str, MetricSummary]:
    """Every metric that a cell has, in order of appearance; values that are no finite numbers are left out."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        for metric, value in cell.metrics.items():
            if value is not None and math.isfinite(value):
                found.setdefault(metric, {}).setdefault(cell.arm, []).append(value)
    return {metric: _summary(metric, values, metric in lower) for metric, values in found.items()}


def _summary(metric: str, values: dict[str, list[float]], lower: bool) -> MetricSummary:
    means = {arm: fmean(some) for arm, some in values.items()}
    order = sorted(means, key=lambda arm: means[arm] if lower else -means[arm])
    rival = next((arm for arm in order if is_rival(arm)), None)
    arms = {}
    for arm, some in values.items():
        p, untested = (None, "the best rival") if arm == rival else (None, "no rival is done")
        if rival is not None and arm != rival:
            p, untested = welch(some, values[rival])
        rank = 1 + sum(means[other] < means[arm] if lower else means[other] > means[arm] for other in means)
        tied = arm != order[0] and _within_one_error(some, values[order[0]])
        arms[arm] = Standing(tuple(some), means[arm], spread(some), rank, tied, p, untested)
    return MetricSummary(metric, lower, order[0], rival, arms)


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1), None of fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def welch(one: Sequence[float], other: Sequence[float]) -> tuple[float | None, str]:
    """The two-sided p of Welch's t test (unequal variances), or None and the reason."""
    if min(len(one), len(other)) < 2:
        return None, "too few seeds"
    if not stdev(one) and not stdev(other):
        return None, "no spread"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # seeds that hardly differ: p is then tiny, and that is right
        return float(ttest_ind(one, other, equal_var=False).pvalue), ""


def _within_one_error(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the means differ by at most the standard error of their difference; of one seed none is known."""
    if min(len(one), len(other)) < 2:
        return fmean(one) == fmean(other)
    error = math.sqrt(stdev(one) ** 2 / len(one) + stdev(other) ** 2 / len(other))
    return abs(fmean(one) - fmean(other)) <= error


@dataclass(frozen=True)
class Reach:
    """What one arm spends until it is as good as the reference at its end.

    Attributes:
        values: one a seed, None where it never gets there.
        mean: over the seeds, None unless all get there.
        ratio: the reference's whole budget divided by `mean`; None without one, and where `mean` is 0.
    """

    values: tuple[float | None, ...]
    mean: float | None
    ratio: float | None

    @property
    def reached(self) -> tuple[float, ...]:
        return tuple(value for value in self.values if value is not None)


@dataclass(frozen=True)
class BudgetToReach:
    """The bits per character that the reference ends with (mean over its seeds), and what it takes to reach them.

    Attributes:
        whole: the reference's own budget on each axis of `AXES` that it has.
        arms: for each arm with a curve, by axis.
    """

    target: float
    whole: dict[str, float]
    arms: dict[str, dict[str, Reach]]


def budget_to_reach(cells: Sequence[Cell], reference: str = REFERENCE) -> BudgetToReach | None:
    """On each axis, what every arm but the reference spends to be as good as it; None without the reference's curve."""
    own = [points for cell in cells if cell.arm == reference if (points := curve_points(cell.curve, None)) is not None]
    if not own:
        return None
    target = fmean(float(y[-1]) for _, y in own)
    ends = {axis: _ends([cell for cell in cells if cell.arm == reference], axis) for axis in AXES}
    whole = {axis: fmean(values) for axis, values in ends.items() if values}
    arms: dict[str, dict[str, Reach]] = {}
    for arm in dict.fromkeys(cell.arm for cell in cells if cell.arm != reference):
        for axis, budget in whole.items():
            curves = [curve_points(cell.curve, axis) for cell in cells if cell.arm == arm]
            values = tuple(first_reach(*points, target) for points in curves if points is not None)
            if values:
                arms.setdefault(arm, {})[axis] = _reach(values, budget)
    return BudgetToReach(target, whole, arms)


def _ends(cells: Sequence[Cell], axis: str) -> list[float]:
    return [float(points[0][-1]) for cell in cells if (points := curve_points(cell.curve, axis)) is not None]


def _reach(values: tuple[float | None, ...], budget: float) -> Reach:
    reached = [value for value in values if value is not None]
    mean = fmean(reached) if len(reached) == len(values) else None
    return Reach(values, mean, budget / mean if mean else None)


Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def curve_points(curve: LearningCurve, axis: str | None) -> Points | None:
    """Position and bits per character of the points where both are finite; None where there are none.

    Args:
        axis: one of `AXES`, or None for the number of the point.
    """
    y = np.array(curve.bits_per_character, dtype=np.float64)
    x = np.arange(len(y), dtype=np.float64) if axis is None else np.array(getattr(curve, axis), dtype=np.float64)
    if not len(y) or len(x) != len(y):
        return None
    kept = np.isfinite(x) & np.isfinite(y)
    return (x[kept], y[kept]) if kept.any() else None


def first_reach(x: NDArray[np.float64], y: NDArray[np.float64], target: float) -> float | None:
    """Where a curve first comes down to `target`, on straight lines between its points; 0 where it starts there."""
    below = np.flatnonzero(y <= target)
    if not len(below):
        return None
    last = int(below[0])
    if last == 0:
        return 0.0
    part = (y[last - 1] - target) / (y[last - 1] - y[last])
    return float(x[last - 1] + part * (x[last] - x[last - 1]))


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean of curves where all of them are known, on straight lines between their points."""
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    return grid, np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)


def seeds_of(standing: Standing) -> str:
    """The number of seeds in words."""
    return counted(len(standing.values), "seed")
