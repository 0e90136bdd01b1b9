"""The verdict on a comparison in plain sentences, as strong as its seeds allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trelm.report.comparison import BITS, LOWER, OWN, REFERENCE, MetricSummary, Standing, seeds_of, welch
from trelm.report.comparison_schema import Grid
from trelm.report.parts import counted, share

LEVEL = 0.05
RECOMMENDED = "trelm-recommended"
Outcome = Literal["won", "lost", "open"]


def verdict(grid: Grid, metrics: dict[str, MetricSummary]) -> str:
    """Does TreLM beat scratch and the best rival, by how much, over how many seeds, and beyond their spread?"""
    unfinished = f" {not_done(grid)}, so this may change." if grid.missing else ""
    bits = metrics.get(BITS)
    ours = None if bits is None else _ours(bits)
    if bits is None or ours is None:
        return f"Unknown: no TreLM arm has bits per character yet.{unfinished}"
    rivals = [arm for arm in dict.fromkeys((REFERENCE, bits.rival)) if arm is not None and arm in bits.arms]
    standing = bits.arms[ours]
    own = f"{ours} spends {standing.mean:.3f} bits per character on held-out text ({_mean_of(seeds_of(standing))})"
    if not rivals:
        return f"Unknown: {own}, and there is no other method to compare with yet.{unfinished}"
    outcomes = [outcome(bits, ours, rival) for rival in rivals]
    clauses = [_clause(bits, ours, rival, judged) for rival, judged in zip(rivals, outcomes)]
    words = f"{_headline(outcomes)}: {own}, {'; and '.join(clauses)}."
    return words + _tasks(metrics, ours) + unfinished


def not_done(grid: Grid) -> str:
    """How many cells are missing: "3 of 12 cells are not done"."""
    total = len(grid.cells) + len(grid.missing)
    return f"{len(grid.missing)} of {counted(total, 'cell')} {'is' if len(grid.missing) == 1 else 'are'} not done"


def _mean_of(seeds: str) -> str:
    return seeds if seeds.startswith("1 ") else f"mean of {seeds}"


def _ours(summary: MetricSummary) -> str | None:
    """The recommended arm; where it is not done, the first of ours: never the luckiest."""
    own = [arm for arm in summary.arms if arm.startswith(OWN)]
    return RECOMMENDED if RECOMMENDED in own else next(iter(own), None)


def outcome(summary: MetricSummary, arm: str, rival: str) -> Outcome:
    """Won or lost beyond the spread of seeds (Welch's test at `LEVEL`), or open."""
    one, other = summary.arms[arm], summary.arms[rival]
    p, _ = welch(one.values, other.values)
    if p is None and min(len(one.values), len(other.values)) > 1 and one.mean != other.mean:
        p = 0.0  # seeds that do not differ at all, and means that do
    if p is None or p >= LEVEL:
        return "open"
    return "won" if (one.mean < other.mean) == summary.lower_is_better else "lost"


def _headline(outcomes: Sequence[Outcome]) -> str:
    if len(set(outcomes)) == 1:
        return {"won": "Yes", "lost": "No", "open": "Not settled"}[outcomes[0]]
    return "In part" if "won" in outcomes else "No"


def _clause(summary: MetricSummary, arm: str, rival: str, judged: Outcome) -> str:
    one, other = summary.arms[arm], summary.arms[rival]
    relative = 1 - one.mean / other.mean if other.mean else 0.0
    name = "a model trained from scratch" if rival == REFERENCE else f"{rival}, the best rival"
    if rival == REFERENCE == summary.rival:
        name += ", the best rival"
    direction = "fewer" if relative >= 0 else "more"
    return f"{share(abs(relative))} {direction} than {name} ({other.mean:.3f}), {_certainty(one, other, judged)}"


def _certainty(one: Standing, other: Standing, judged: Outcome) -> str:
    p, untested = welch(one.values, other.values)
    if untested == "too few seeds":
        return "which one seed cannot tell from chance"
    if p is None:
        return "and no seed differs from another"
    return f"{'beyond' if judged != 'open' else 'within'} the spread between seeds ({p_value(p)})"


def p_value(p: float) -> str:
    """A p value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _tasks(metrics: dict[str, MetricSummary], ours: str) -> str:
    """On the sets: where we are ahead of each one's best rival, where behind, where it is open."""
    names: dict[Outcome, list[str]] = {"won": [], "lost": [], "open": []}
    for metric, summary in metrics.items():
        if metric not in (*LOWER, "unit_accuracy") and summary.rival is not None and ours in summary.arms:
            names[outcome(summary, ours, summary.rival)].append(metric)
    said = {
        "won": "ahead of the best rival on",
        "lost": "behind the best rival on",
        "open": "not told apart from the best rival on",
    }
    parts = [f"{said[judged]} {', '.join(sets)}" for judged, sets in names.items() if sets]
    count = sum(map(len, names.values()))
    return f" Of {counted(count, 'task')}: {'; '.join(parts)}." if parts else ""
