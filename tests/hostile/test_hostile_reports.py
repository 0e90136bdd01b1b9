"""Text of strangers in the pages: it is shown as it is, and no element, attribute, link or script comes of it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from card_values import CARD
from made_up import cell, comparison, write
from markdown_it import MarkdownIt
from test_report import report_values

from trelm.export.card import render_card
from trelm.report.comparison_page import write_comparison
from trelm.report.page import write_report

MARK = "PAYLOAD"
PAYLOADS = [
    f"</script><script>{MARK}()</script>",
    f"</title></style></pre></code></svg><img src=x onerror={MARK}()>",
    f"\"><a href='javascript:{MARK}()' onclick=\"{MARK}()\">x</a>",
    f"<!-- {MARK} --> <![CDATA[ {MARK} ]]> &lt;b&gt;{MARK}",
    f"{{{{ {MARK} }}}} {{% {MARK} %}} {{# {MARK} #}} ${{{MARK}}}",
    f"a|b`c`**d** ~~e~~ _f_ [x](javascript:{MARK}) ![y](http://{MARK}.invalid/z) <http://{MARK}.invalid>",
    f"line\nbreak\u2028and\u2029more\r\n# {MARK}\n\n- {MARK}\n\n```\n{MARK}\n```\n\n    {MARK}\n\n"
    f"| {MARK} | x |\n|---|---|\n",
    f"# {MARK}", f"- {MARK}", f"1. {MARK}", f"+ {MARK}", f"> {MARK}", f"=== {MARK}", "---",
    f"[x]: javascript:{MARK}", f"\\| {MARK} \\", f"\x00\x1b[2J\u202e {MARK}", f"' autofocus onfocus={MARK}() x='",
]  # fmt: skip


class Page(HTMLParser):
    """Elements with their attributes, text and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.comments: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, attrs))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def unknown_decl(self, data: str) -> None:
        self.comments.append(data)

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is left of the page without all text."""
        return [(tag, tuple(name for name, _ in attrs)) for tag, attrs in self.elements]


def spoilt(value: Any, payload: str, key: str = "") -> Any:
    """The same with the payload in every text, and as a further key of every open mapping."""
    if isinstance(value, dict):
        return {name: spoilt(inner, payload, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [spoilt(inner, payload, key) for inner in value]
    return payload + " [MASK]" if isinstance(value, str) and key not in KEPT else value


KEPT = ("side", "arm", "metric")  # one of a few words, or what figures are found by
OPEN = {"versions", "budget", "steps", "curves", "word_links", "cdlm", "vocabulary", "inputs", "dropped", "candidates",
        "held_out", "tokenizers", "rows"}  # fmt: skip


def with_keys(value: Any, name: str) -> Any:
    """The same with a further key in every mapping whose keys come from data: a copy of its last value."""
    if not isinstance(value, dict):
        return [with_keys(inner, name) for inner in value] if isinstance(value, list) else value
    made = {key: with_keys(inner, name) for key, inner in value.items()}
    for key in OPEN & made.keys():
        if isinstance(made[key], dict) and made[key]:
            made[key] = {**made[key], name: list(made[key].values())[-1]}
    return made


def report_pages(folder: Path, payload: str) -> tuple[str, str]:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(spoilt(with_keys(report_values(), payload), payload)), "utf-8")
    paths = write_report(folder)
    return paths["html"].read_text("utf-8"), paths["markdown"].read_text("utf-8")


def comparison_pages(folder: Path, payload: str) -> tuple[str, str]:
    """An arm, a set and a reason of failure have the payload as their names too."""
    made = comparison()
    made["arms"] = {payload: payload, "scratch": payload, "counts": payload, "failed": payload}
    made["failed"] = {"failed/seed-1": payload}
    made["tasks"] = {payload: next(iter(made["tasks"].values())), **made["tasks"]}
    made["seeds"] = [1, 2]
    write(folder / "comparison.json", spoilt(with_keys(made, payload), payload))
    for arm in ("scratch", "counts"):
        for seed in (1, 2):
            values = cell(arm, seed)
            values["metrics"][payload] = 0.5
            values["tasks"][payload] = next(iter(values["tasks"].values()))
            write(folder / "results" / arm / f"seed-{seed}.json", spoilt(values, payload))
    write(folder / "results" / "strange" / "seed-1.json", cell("counts", 1))
    paths = write_comparison(folder)
    return paths["html"].read_text("utf-8"), paths["markdown"].read_text("utf-8")


PAGES = pytest.mark.parametrize("pages", [report_pages, comparison_pages], ids=["report", "comparison"])
EACH = pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))


@PAGES
@EACH
def test_html_has_the_elements_that_it_has_without(tmp_path: Path, pages: Any, payload: str) -> None:
    harmless = Page(pages(tmp_path / "harmless", "x" * len(" ".join(payload.split())))[0])
    page = Page(pages(tmp_path / "hostile", payload)[0])
    assert page.shape == harmless.shape
    assert page.comments == []
    assert page.text.count(payload.replace("\r\n", "\n").strip()[:12]) > 10
    for tag, attributes in page.elements:
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in ("src", "srcdoc", "style")
            assert name != "href" or (tag == "a" and (value or "").startswith("#"))
            assert MARK not in (value or "") or name in ("aria-label", "data-arm", "data-figure", "data-axis")


@PAGES
@EACH
def test_scripts_hold_it_as_data_only(tmp_path: Path, pages: Any, payload: str) -> None:
    page = Page(pages(tmp_path / "hostile", payload)[0])
    figures = next(script for script in page.scripts if script.startswith("{"))
    assert not set("<>&\u2028\u2029") & set(figures)
    assert json.dumps(payload)[1:-1].replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026") in figures
    assert all(MARK not in script for script in page.scripts if script is not figures)


@PAGES
@EACH
def test_markdown_shows_it_as_text(tmp_path: Path, pages: Any, payload: str) -> None:
    """Rendered by a Markdown parser that lets HTML through."""
    harmless, hostile = (
        Page(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(pages(tmp_path / name, text)[1]))
        for name, text in (("harmless", "x"), ("hostile", payload))
    )
    assert hostile.comments == []
    assert hostile.shape == harmless.shape
    assert all(tag not in ("a", "img", "script", "em", "del") for tag, _ in hostile.elements)


@EACH
def test_the_cells_of_the_model_card_show_it_as_text(payload: str) -> None:
    def rendered(text: str) -> Page:
        row = {"name": text, "role": "evaluation", "lines": 3, "license": text, "dataset": None}
        card = render_card(CARD | {"data": [row]}).partition("\n---\n")[2]
        return Page(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(card))

    def without_emphasis(page: Page) -> list[tuple[str, tuple[str, ...]]]:
        return [element for element in page.shape if element[0] not in ("em", "strong", "s")]

    assert without_emphasis(rendered(payload)) == without_emphasis(rendered("x"))


def test_figures_that_are_no_finite_numbers_are_left_out(tmp_path: Path) -> None:
    made = comparison()
    for point in made["projection"]["points"]:
        point["x"] = float("inf")
    write(tmp_path / "comparison.json", made)
    page = Page(write_comparison(tmp_path)["html"].read_text("utf-8"))
    (figures,) = (json.loads(script) for script in page.scripts if script.startswith("{"))
    assert set(figures["projection"]["axes"]["plane"]["traces"][-1]["x"]) == {None}
