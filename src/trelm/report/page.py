"""The report as one HTML page that loads nothing from anywhere, and both forms written beside `report.json`."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from trelm.report.content import sections, verdict
from trelm.report.figures import figures
from trelm.report.markdown import render_markdown
from trelm.report.schema import Report, read_report
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
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(resources.files("trelm.report").joinpath("page.html").read_text(encoding="utf-8"))
    drawn = figures(report)
    return template.render(
        report=report,
        verdict=verdict(report),
        sections=sections(report),
        figures=drawn,
        figures_json=_script_safe(json.dumps(drawn, ensure_ascii=True, allow_nan=False)),
        plotly=Markup(get_plotlyjs()) if drawn else "",
    )


def _script_safe(text: str) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
