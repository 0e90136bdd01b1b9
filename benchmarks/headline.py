"""The tables of the comparisons, from their committed results, written between their marks in the README and the docs.

    python benchmarks/headline.py [--check]

`--check` writes nothing and fails where a page does not say what the results say.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from trelm.report.comparison import (
    BITS,
    MetricSummary,
    Reach,
    Standing,
    budget_to_reach,
    is_rival,
    lower_metrics,
    summary,
)
from trelm.report.comparison_schema import COMPARISON, Grid, read_comparison
from trelm.workspace import write_text

ROOT = Path(__file__).parent.parent
OURS = "trelm-recommended"
PAGES = {"headline": ROOT / "README.md", "tables": ROOT / "docs/explanation/recipe.md"}
HIDDEN = ("unit_accuracy",)
NOTHING = "No comparison of today's recipe is complete yet."


@dataclass(frozen=True)
class Regime:
    """A comparison of the repository, by its folder in `benchmarks/`, and what it is called."""

    folder: str
    pair: str
    name: str


REGIMES = (
    Regime("en-id", "English to Indonesian", "little computing, all data"),
    Regime("en-id/data-2000", "English to Indonesian", "2,000 sentences and 4,000 pairs"),
    Regime("en-id/data-20000", "English to Indonesian", "20,000 sentences and 20,000 pairs"),
    Regime("en-zh", "English to Chinese", "little computing, all data"),
    Regime("en-zh/data-2000", "English to Chinese", "2,000 sentences and 4,000 pairs"),
    Regime("en-zh/data-20000", "English to Chinese", "20,000 sentences and 20,000 pairs"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check
    grids = {regime: read_comparison(place) for regime in REGIMES if (place := folder_of(regime)) is not None}
    made = {"headline": headline(grids), "tables": "\n\n".join(table(*one) for one in grids.items()) or NOTHING}
    stale = [path.name for mark, path in PAGES.items() if not put(path, mark, made[mark], write=not check)]
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not what the results say; run python benchmarks/headline.py")


def folder_of(regime: Regime) -> Path | None:
    """Where the results of a comparison lie; None where there are none yet."""
    folder = ROOT / "benchmarks" / regime.folder
    return folder if (folder / COMPARISON).exists() else None


def put(path: Path, mark: str, text: str, *, write: bool) -> bool:
    """Put `text` between the marks of a page; whether it stood there already."""
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {mark}: made by benchmarks/headline.py -->", f"<!-- {mark}: end -->"
    changed = re.sub(
        f"({re.escape(begin)}\n).*?({re.escape(end)})", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.S
    )
    if begin not in page or end not in page:
        sys.exit(f"{path}: expected the marks '{begin}' and '{end}', found none")
    if write and changed != page:
        write_text(path, changed)
    return changed == page


def headline(grids: dict[Regime, Grid]) -> str:
    """Each comparison in a line: bits per character and the mean over the tasks, ours beside scratch and the rivals."""
    if not grids:
        return NOTHING
    lines = [
        "| | seeds | bits per character: `recommended` | scratch | best rival | mean of the tasks: `recommended` "
        "| scratch | best rival | budget for scratch's quality |",
        "|" + "---|" * 9,
    ]
    return "\n".join(lines + [_headline_row(*one) for one in grids.items()])


def _headline_row(regime: Regime, grid: Grid) -> str:
    metrics, tasks = _metrics(grid), task_means(grid)
    bits = metrics[BITS]
    rivals = {arm: value for arm, value in tasks.items() if is_rival(arm) and arm != "scratch"}
    best = max(rivals, key=lambda arm: rivals[arm], default=None)
    reach = budget_to_reach(grid.cells)
    cells = [
        f"{regime.pair}, {regime.name}",
        str(len({cell.seed for cell in grid.of(OURS)})),
        f"**{_value(bits, OURS)}**",
        _value(bits, "scratch"),
        "" if bits.rival is None else f"{_value(bits, bits.rival)} ({bits.rival})",
        f"**{100 * tasks[OURS]:.1f}**" if OURS in tasks else "",
        f"{100 * tasks['scratch']:.1f}" if "scratch" in tasks else "",
        "" if best is None else f"{100 * rivals[best]:.1f} ({best})",
        _share(None if reach is None else reach.arms.get(OURS, {}).get("flops")),
    ]
    return f"| {' | '.join(cells)} |"


def _share(reach: Reach | None) -> str:
    """Of the budget of `scratch`, what ours needs to be as good."""
    if reach is None or reach.mean is None:
        return ""
    return "none: better before training" if reach.mean == 0 else f"1/{reach.ratio:.0f}"


def table(regime: Regime, grid: Grid) -> str:
    """All arms on all metrics: mean and standard deviation over the seeds; the best bold, ties with it in italics."""
    metrics, tasks = _metrics(grid), task_means(grid)
    shown = [name for name in metrics if name not in HIDDEN]
    order = sorted(metrics[BITS].arms, key=lambda arm: metrics[BITS].arms[arm].mean)
    done = len(grid.cells)
    lines = [
        f"### {regime.pair}: {regime.name}",
        "",
        f"{grid.comparison.budget_rule or ''} {done} of {done + len(grid.missing)} cells are done.",
        "",
        f"| arm | seeds | {' | '.join(shown)} | mean of the tasks |",
        "|" + "---|" * (len(shown) + 3),
    ]
    for arm in order:
        values = [_marked(metrics[name], arm) for name in shown]
        mean = f"{100 * tasks[arm]:.1f}" if arm in tasks else ""
        lines.append(f"| `{arm}` | {len(grid.of(arm))} | {' | '.join(values)} | {mean} |")
    return "\n".join(lines)


def task_means(grid: Grid) -> dict[str, float]:
    """Mean over the tasks of each arm's mean over its seeds, of arms that have all tasks."""
    metrics, lower = _metrics(grid), lower_metrics(grid.comparison)
    tasks = [name for name in metrics if name not in (*lower, *HIDDEN)]
    arms = [arm for arm in grid.comparison.arms if all(arm in metrics[name].arms for name in tasks)]
    return {arm: fmean(metrics[name].arms[arm].mean for name in tasks) for arm in arms} if tasks else {}


def _metrics(grid: Grid) -> dict[str, MetricSummary]:
    return summary(grid.cells, lower_metrics(grid.comparison))


def _value(metric: MetricSummary, arm: str | None) -> str:
    return "" if arm is None or arm not in metric.arms else _written(metric, metric.arms[arm])


def _marked(metric: MetricSummary, arm: str) -> str:
    if arm not in metric.arms:
        return ""
    standing, text = metric.arms[arm], _value(metric, arm)
    return f"**{text}**" if standing.rank == 1 else f"*{text}*" if standing.tied else text


def _written(metric: MetricSummary, standing: Standing) -> str:
    scale, digits = (1, 3) if metric.metric == BITS else (100, 1)
    spread = "" if standing.spread is None else f" ± {scale * standing.spread:.{digits}f}"
    return f"{scale * standing.mean:.{digits}f}{spread}"


if __name__ == "__main__":
    main()
