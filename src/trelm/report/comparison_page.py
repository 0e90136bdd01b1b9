"""A comparison as one HTML page that loads nothing from anywhere, and as Markdown, written beside `comparison.json`."""

from __future__ import annotations

from pathlib import Path

from trelm.report.comparison import MetricSummary, is_rival, lower_metrics, summary
from trelm.report.comparison_content import arm_examples, comparison_sections
from trelm.report.comparison_figures import comparison_figures, links_drawing
from trelm.report.comparison_schema import Grid, read_comparison
from trelm.report.comparison_verdict import verdict
from trelm.report.markdown import render_document
from trelm.report.parts import share
from trelm.report.templates import render_template
from trelm.workspace import write_text

QUESTION = "Does TreLM win?"


def write_comparison(run: Path) -> dict[str, Path]:
    """Write `comparison.md` and `comparison.html` beside `run/comparison.json`, each atomically, as far as it has come.

    Returns:
        The paths, as `markdown` and `html`.

    Raises:
        RunFolderError: `comparison.json` is missing, or it or the result of a cell is damaged.
        DiskError: the folder cannot be written.
    """
    grid = read_comparison(run)
    metrics = summary(grid.cells, lower_metrics(grid.comparison))
    written = {"markdown": run / "comparison.md", "html": run / "comparison.html"}
    write_text(written["markdown"], _markdown(grid, metrics))
    write_text(written["html"], _page(grid, metrics))
    return written


def _markdown(grid: Grid, metrics: dict[str, MetricSummary]) -> str:
    sections = comparison_sections(grid, metrics)
    return render_document(grid.comparison.title, QUESTION, verdict(grid, metrics), sections, grid.comparison.config)


def _page(grid: Grid, metrics: dict[str, MetricSummary]) -> str:
    comparison, examples = grid.comparison, arm_examples(grid)
    first = next(iter(examples), None)
    beside = next((arm for arm in examples if arm != first and is_rival(arm)), list(examples)[-1] if examples else None)
    return render_template(
        "comparison.html",
        comparison_figures(grid),
        title=comparison.title,
        languages=comparison.languages,
        question=QUESTION,
        verdict=verdict(grid, metrics),
        sections=comparison_sections(grid, metrics),
        config=comparison.config,
        examples=examples,
        shown=list(dict.fromkeys(arm for arm in (first, beside) if arm is not None)),
        drawing=links_drawing(comparison.word_links) if comparison.word_links is not None else None,
        share=share,
    )
