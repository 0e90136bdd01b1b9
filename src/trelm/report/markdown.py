"""The report as Markdown, readable as it is and in any renderer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trelm.report.content import sections, verdict
from trelm.report.parts import Score, Section, Table
from trelm.report.schema import Report


def render_markdown(report: Report) -> str:
    """The whole report as GitHub-flavoured Markdown; text from data is escaped."""
    return render_document(report.title, "Was it worth it?", verdict(report), sections(report), report.config)


def render_document(title: str, question: str, answer: str, body: Sequence[Section], config: str | None = None) -> str:
    """A title, a question with its answer, sections and a configuration; text from data is escaped."""
    parts = [f"# {escape(title)}", f"**{question}** {escape(answer)}"]
    for section in body:
        parts += _section(section)
    if config:
        parts += ["### Configuration", _fenced(config)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {escape(section.title)}", *(_paragraph(paragraph) for paragraph in section.paragraphs)]
    for table in section.tables:
        if table.caption != section.title:
            parts.append(f"{_paragraph(table.caption)}:")
        parts.append(_table(table))
    return parts


def _paragraph(text: str) -> str:
    """Text at the beginning of a line, where signs and numbers would make it a heading, a list or a rule."""
    return re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", escape(text))


def _table(table: Table) -> str:
    ruler = ("---", *(("---" if table.prose else "---:") for _ in table.header[1:]))
    lines = [tuple(map(escape, table.header)), ruler, *(tuple(_cell(cell) for cell in row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: str | Score) -> str:
    if isinstance(cell, str):
        return escape(cell)
    text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
    return f"{text} ({escape(cell.remark)})" if cell.remark else text


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no second line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", line)
