"""The report as one HTML page that loads nothing from anywhere, and both forms written beside `report.json`."""

from __future__ import annotations

from pathlib import Path

from trelm.report.content import sections, verdict
from trelm.report.figures import figures
from trelm.report.markdown import render_markdown
from trelm.report.schema import Report, read_report
from trelm.report.templates import render_template
from trelm.workspace import write_text


def write_report(folder: Path) -> dict[str, Path]:
    """Write `report.md` and `report.html` beside `folder/report.json`, each atomically.

    Returns:
        The paths, as `markdown` and `html`.

    Raises:
        RunFolderError: `report.json` is missing or damaged.
        DiskError: the folder cannot be written.
    """
    report = read_report(folder)
    written = {"markdown": folder / "report.md", "html": folder / "report.html"}
    write_text(written["markdown"], render_markdown(report))
    write_text(written["html"], render_page(report))
    return written


def render_page(report: Report) -> str:
    """The whole page; text from data is escaped, Plotly's script is inlined only where there are curves."""
    return render_template(
        "page.html",
        figures(report),
        title=report.title,
        languages=report.languages,
        verdict=verdict(report),
        sections=sections(report),
        config=report.config,
    )
