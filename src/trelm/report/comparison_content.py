"""What the page of a comparison says, independent of how it is written: sections of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from trelm.report.comparison import (
    AXES,
    LOWER,
    REFERENCE,
    BudgetToReach,
    MetricSummary,
    Reach,
    Standing,
    budget_to_reach,
    lower_metrics,
    spread,
)
from trelm.report.comparison_figures import direction
from trelm.report.comparison_schema import Cell, Grid, WordLinks
from trelm.report.comparison_verdict import not_done, p_value
from trelm.report.content import STEP_COLUMNS, diagnosis_section, guesses
from trelm.report.parts import MISSING, Score, Section, Table, counted, flatten, number, number_table

NAMES = {
    "bits_per_character": "Bits per character\u00a0↓",
    "unit_accuracy": "Whole words right\u00a0↑ (%)",
}
SCORES_NOTE = (
    "Mean ± standard deviation over seeds. ↓: less is better, ↑: more is better; the best of a column is bold. ≈ best: "
    "within one standard error of it. p: Welch's two-sided t test against the best rival of the column, that is the "
    "best method that is neither TreLM nor a TreLM with a part changed; not corrected for the number of tests."
)
COST_COLUMNS = {
    **STEP_COLUMNS,
    "seconds": "Seconds of training",
    "preparation_seconds": "Seconds of preparation",
    "parameters": "Parameters",
}


def comparison_sections(grid: Grid, metrics: dict[str, MetricSummary]) -> list[Section]:
    """Every section that the comparison has data for, in order."""
    found = [
        _missing(grid),
        _scores(grid, metrics),
        _curves(grid),
        _budget(grid, budget_to_reach(grid.cells)),
        _tasks(grid),
        _costs(grid),
        _start(grid),
        _examples(grid),
        _word_links(grid.comparison.word_links),
        _projection(grid),
        _setting(grid),
    ]
    return [section for section in found if section is not None]


def _missing(grid: Grid) -> Section | None:
    strange = f"Left out, since they belong to no arm or seed of this comparison: {', '.join(grid.strange)}."
    paragraphs = (*([f"{not_done(grid)}."] if grid.missing else []), *([strange] if grid.strange else []))
    tables = (Table("Cells that are not done", ("Cell", "Reason"), tuple(grid.missing.items()), prose=True),)
    return Section("missing", "Not done", paragraphs, tables if grid.missing else ()) if paragraphs else None


def _scores(grid: Grid, metrics: dict[str, MetricSummary]) -> Section:
    header = ("Arm", *(_metric_name(grid, metric) for metric in metrics))
    done = Counter(cell.arm for cell in grid.cells)
    rows = tuple(
        (arm, *(_score(summary, arm, len(grid.comparison.seeds)) for summary in metrics.values()))
        for arm in grid.comparison.arms
        if done[arm]
    )
    arms = Table("What the arms are", ("Arm", "What it is"), tuple(grid.comparison.arms.items()), prose=True)
    table = Table("Scores", header, rows, sortable=True)
    rule = [grid.comparison.budget_rule] if grid.comparison.budget_rule else []
    return Section("scores", "Scores", (*rule, SCORES_NOTE, *_cut(grid)), (table, arms) if rows else (arms,))


def _cut(grid: Grid) -> list[str]:
    """What is said where the same words were not masked for all: a tokenizer that cuts finer reaches its end sooner."""
    dropped: dict[str, tuple[float, float]] = {}
    for cell in grid.cells:
        beyond, within = cell.scores.get("dropped_units") or 0, cell.scores.get("masked_units") or 0
        if beyond:
            dropped[cell.arm] = beyond, beyond + within
    words = [f"{arm} lacks {number(beyond)} of the {number(chosen)}" for arm, (beyond, chosen) in dropped.items()]
    note = "Words beyond the longest sequence are not masked, and how many that are depends on the tokenizer"
    return [f"{note}: {', '.join(words)}."] if words else []


def _metric_name(grid: Grid, metric: str) -> str:
    if metric in NAMES:
        return NAMES[metric]
    tasks = [grid.comparison.tasks.get(metric), *(cell.tasks.get(metric) for cell in grid.cells)]
    name = next((_plain(task.metric) for task in tasks if task is not None and task.metric), "score")
    return f"{metric}\u00a0↓ ({name})" if metric in lower_metrics(grid.comparison) else f"{metric}\u00a0↑ ({name}, %)"


def _plain(metric: str) -> str:
    return {"las": "LAS", "uas": "UAS", "clas": "CLAS"}.get(metric, metric.replace("_", " ").replace("f1", "F1"))


def _score(summary: MetricSummary, arm: str, seeds: int) -> Score | str:
    standing = summary.arms.get(arm)
    if standing is None:
        return MISSING
    remarks = [f"n = {len(standing.values)}"] if len(standing.values) != seeds else []
    remarks += ["≈ best"] if standing.tied else []
    remarks.append(p_value(standing.p) if standing.p is not None else _untested(standing))
    text = _mean_text(standing.mean, standing.spread, summary.lower_is_better)
    return Score(text, ", ".join(remarks), arm == summary.best, standing.mean)


def _untested(standing: Standing) -> str:
    return standing.untested if standing.untested == "the best rival" else f"no p: {standing.untested}"


def _mean_text(mean: float, deviation: float | None, plain: bool) -> str:
    """`1.234 ± 0.012`; shares in per cent."""
    scale, digits = (1, 3) if plain else (100, 1)
    text = f"{scale * mean:.{digits}f}"
    return text if deviation is None else f"{text} ± {scale * deviation:.{digits}f}"


def _curves(grid: Grid) -> Section | None:
    if not any(cell.curve.bits_per_character for cell in grid.cells):
        return None
    note = (
        "Bits per character of a fixed part of the held-out text during training, from before the first update. Bold: "
        "the mean of the seeds; thin: each seed. Seconds, tokens and FLOPs count training; what is prepared before it "
        "stands under Costs. A logarithmic axis has no place for the start. With a mouse, drag over a part to enlarge "
        "it and double-click to see all again."
    )
    rows = tuple(
        (arm, *(_mean_cell([curve[end] for curve in curves], plain=True) for end in (0, -1)))
        for arm in grid.comparison.arms
        if (curves := [cell.curve.bits_per_character for cell in grid.of(arm) if cell.curve.bits_per_character])
    )
    table = Table("Bits per character at the ends of the curves", ("Arm", "Before training", "At the end"), rows)
    return Section("curves", "Learning curves", (note,), (table,), ("curves",))


def _budget(grid: Grid, budget: BudgetToReach | None) -> Section | None:
    if budget is None or not budget.arms:
        return None
    note = (
        f"What each arm spends until it is as good as {REFERENCE} is at its end ({budget.target:.3f} bits per "
        "character of the curves' text), on straight lines between the points of its curve: the mean of its seeds, "
        f"with their range, and how many times cheaper that is than the whole training of {REFERENCE}."
    )
    axes = [axis for axis in AXES if axis in budget.whole]
    rows = tuple(
        (arm, *(_reach(reaches.get(axis)) for axis in axes))
        for arm in grid.comparison.arms
        if (reaches := budget.arms.get(arm)) is not None
    )
    reference: tuple[str | Score, ...] = (
        f"{REFERENCE} (the whole)",
        *(Score(_amount(budget.whole[axis])) for axis in axes),
    )
    header = ("Arm", *(STEP_COLUMNS[axis] for axis in axes))
    title = "Budget to reach the quality of scratch"
    return Section("budget", title, (note,), (Table("Spent", header, (*rows, reference)),))


def _reach(reach: Reach | None) -> Score | str:
    if reach is None:
        return MISSING
    if not reach.reached:
        return Score("never")
    ends = " to ".join(dict.fromkeys(_amount(end) for end in (min(reach.reached), max(reach.reached))))
    if reach.mean is None:
        return Score(f"{len(reach.reached)} of {counted(len(reach.values), 'seed')}", f"those at {ends}")
    if reach.ratio is None:
        return Score("from the start")
    mean = _amount(reach.mean)
    return Score(_times(reach.ratio), mean if ends == mean else f"{mean} ({ends})")


def _times(ratio: float) -> str:
    times, word = (ratio, "cheaper") if ratio >= 1 else (1 / ratio, "dearer")
    return f"{times:.{1 if times < 10 else 0}f}× {word}"


def _amount(value: float) -> str:
    """With no more digits than a curve's points can bear."""
    return f"{value / 1e6:.2f} M" if 1e5 <= value < 1e12 else number(_rounded(value))


def _rounded(value: float) -> float:
    """Whole numbers from a hundred on."""
    return round(value) if value >= 100 else value


def _tasks(grid: Grid) -> Section | None:
    labels = dict.fromkeys(label for cell in grid.cells for label in cell.tasks)
    tables = tuple(table for label in labels if (table := _task_table(grid, label)) is not None)
    note = "Every score of each set in per cent, mean ± standard deviation over seeds."
    return Section("tasks", "Tasks", (note,), tables) if tables else None


def _task_table(grid: Grid, label: str) -> Table | None:
    results = {arm: [cell.tasks[label] for cell in grid.of(arm) if label in cell.tasks] for arm in grid.comparison.arms}
    names = list(dict.fromkeys(name for some in results.values() for result in some for name in result.scores))
    rows = tuple(
        (arm, *(_mean_cell([result.scores.get(name) for result in some], plain=name in LOWER) for name in names))
        for arm, some in results.items()
        if some
    )
    task = grid.comparison.tasks.get(label)
    caption = f"{label} ({task.task})" if task and task.task else label
    return Table(caption, ("Arm", *map(_plain, names)), rows, sortable=True) if names else None


def _mean_cell(values: Iterable[float | None], *, plain: bool) -> Score | str:
    known = [value for value in values if value is not None]
    return Score(_mean_text(fmean(known), spread(known), plain), value=fmean(known)) if known else MISSING


def _costs(grid: Grid) -> Section | None:
    columns = [key for key in COST_COLUMNS if any(getattr(cell.cost, key) is not None for cell in grid.cells)]
    if not columns:
        return None
    rows = tuple(
        (arm, *(_cost(cells, key) for key in columns)) for arm in grid.comparison.arms if (cells := grid.of(arm))
    )
    note = "Mean over seeds."
    devices = Counter(_device(cell) for cell in grid.cells)
    if len(devices) > 1:
        kinds = ", ".join(f"{device} ({counted(count, 'cell')})" for device, count in devices.items())
        note += f" The cells ran on different devices, so their seconds do not compare: {kinds}."
    header = ("Arm", *(COST_COLUMNS[key] for key in columns))
    return Section("costs", "Costs", (note,), (Table("Costs", header, rows, sortable=True),))


def _cost(cells: Sequence[Cell], key: str) -> Score | str:
    known = [value for cell in cells if (value := getattr(cell.cost, key)) is not None]
    return Score(number(_rounded(fmean(known))), value=fmean(known)) if known else MISSING


def _device(cell: Cell) -> str:
    return f"{cell.device or 'unknown device'}{f', {cell.precision}' if cell.precision else ''}"


def _start(grid: Grid) -> Section | None:
    known = [cell.start for cell in grid.cells if cell.start is not None]
    keys = [key for key in NAMES if any(getattr(start, key) is not None for start in known)]
    rows = tuple(
        (arm, *(_mean_cell((getattr(start, key) for start in starts), plain=key in LOWER) for key in keys))
        for arm in grid.comparison.arms
        if (starts := [cell.start for cell in grid.of(arm) if cell.start is not None])
    )
    table = Table("Each arm on held-out text before the first update", ("Arm", *(NAMES[key] for key in keys)), rows)
    diagnosis = grid.comparison.diagnosis
    if diagnosis is None:
        return Section("diagnosis", "Before training", (), (table,)) if rows else None
    section = diagnosis_section(diagnosis)
    tables = (table, *section.tables) if rows else section.tables
    return Section(section.identifier, section.title, section.paragraphs, tables)


def arm_examples(grid: Grid) -> dict[str, Cell]:
    """For each arm with filled masks the first cell that has some."""
    return {
        arm: cell
        for arm in grid.comparison.arms
        if (cell := next((cell for cell in grid.of(arm) if cell.examples), None)) is not None
    }


def _examples(grid: Grid) -> Section | None:
    header = ("Text", "In the text", "Guesses, best first")
    tables = tuple(
        Table(
            f"Masks filled by {arm} (seed {cell.seed})",
            header,
            tuple((example.text, example.truth or MISSING, guesses(example)) for example in cell.examples),
            prose=True,
        )
        for arm, cell in arm_examples(grid).items()
    )
    return Section("examples", "Examples of filled masks", (), tables) if tables else None


def _word_links(links: WordLinks | None) -> Section | None:
    if links is None:
        return None
    forward, reverse = set(links.forward), set(links.reverse)
    rows = tuple(
        (
            token,
            ", ".join(
                links.target[j] + ("" if (kind := direction((i, j), forward, reverse)) == "both" else f" ({kind})")
                for i, j in sorted(forward | reverse)
                if i == position
            )
            or MISSING,
        )
        for position, token in enumerate(links.source)
    )
    note = "Which tokens of a held-out pair of sentences are linked: those that the embeddings and CdLM learn from."
    table = Table("The same links as text", ("Source", "Target"), rows, prose=True)
    return Section("links", "Word links", (note,), (table,), folded="Show the links as a table")


def _projection(grid: Grid) -> Section | None:
    projection = grid.comparison.projection
    if projection is None or not projection.points:
        return None
    note = "Each point is a row of the aligned tables; lines join words that translate each other, so short is good."
    method = (f"{projection.method.rstrip('.')}.",) if projection.method else ()
    return Section("projection", "The aligned embedding spaces", (note, *method), (), ("projection",))


def _setting(grid: Grid) -> Section:
    comparison = grid.comparison
    values: dict[str, Any] = {"seeds": ", ".join(map(str, comparison.seeds))}
    values |= {f"budget: {key}": value for key, value in flatten(comparison.budget or {}).items()}
    devices = Counter(_device(cell) for cell in grid.cells)
    values |= {f"device: {device}": counted(count, "cell") for device, count in devices.items()}
    versions = comparison.versions or next((cell.versions for cell in grid.cells if cell.versions), {})
    values |= {f"version of {key}": str(value) for key, value in versions.items()}
    rule = (comparison.budget_rule,) if comparison.budget_rule else ()
    folded = "Show seeds, budget, versions and configuration"
    return Section("setting", "Setting", rule, (number_table("Setting", values),), folded=folded)
