from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import launched, opened
from made_up import HOSTILE, cell, comparison, write, write_made_up
from playwright.sync_api import Browser, Locator
from test_report import report_values

from trelm.report.comparison_page import write_comparison
from trelm.report.page import write_report

SCREENS = [(360, 740), (1280, 800)]
MEASURED = Path(__file__).resolve().parents[2] / "benchmarks" / "en-id" / "earlier" / "compare-small"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a whole comparison, of one whose data are hostile and in part missing, of one that was measured, and
    of an ordinary run.
    """
    folder = tmp_path_factory.mktemp("pages")
    hostile = folder / "hostile"
    long = "kepanjangankatayangtidakadaakhirnya" * 3
    links = {"source": [HOSTILE, long], "target": [long], "forward": [[0, 0]], "reverse": [[1, 0]]}
    write(
        hostile / "comparison.json",
        comparison() | {"title": HOSTILE + long, "arms": {HOSTILE: HOSTILE, "scratch": long}, "word_links": links},
    )
    write(hostile / "results" / "scratch" / "seed-1.json", cell("scratch", 1))
    write(folder / "run" / "report.json", report_values())
    return {
        "comparison": write_comparison(write_made_up(folder / "whole"))["html"],
        "hostile": write_comparison(hostile)["html"],
        "measured": write_comparison(Path(shutil.copytree(MEASURED, folder / "measured")))["html"],
        "report": write_report(folder / "run")["html"],
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SCREENS)
@pytest.mark.parametrize("name", ["comparison", "hostile", "measured", "report"])
def test_every_control_works_and_the_page_keeps_to_itself(
    browser: Browser, pages: dict[str, Path], name: str, width: int, height: int, dark: bool
) -> None:
    with opened(browser, pages[name], width, height, dark=dark) as seen:
        seen.picture(f"{name}-{width}-{'dark' if dark else 'light'}")
        figures = seen.page.locator(".figure[data-figure]")
        assert figures.count() == 2
        if (width, dark) == (360, False):
            for figure in figures.all():
                _press_all(figure)
            for table in seen.page.locator("table.sortable").all()[:2]:
                _sort(table)
        for summary in seen.page.locator("summary").all():
            summary.click()
        assert seen.overflow() <= 0
        assert seen.complaints == []
        assert seen.requests == [pages[name].as_uri()]


def _drawn(figure: Locator) -> str:
    """What the figure shows: its lines, points and the words at its axes."""
    return figure.locator(".plot").inner_html()


def _press_all(figure: Locator) -> None:
    """Every control of a figure changes what it shows and says so, and pressed again shows the same as before."""
    before = _drawn(figure)
    axes = figure.locator("[data-axis]")
    for button in [*axes.all()[1:], *axes.all()[:1]]:
        button.click()
        assert axes.evaluate_all("all => all.filter(one => one.ariaPressed === 'true').length") == 1
        assert (_drawn(figure) == before) == (button.inner_text() == axes.first.inner_text())
    toggles = [*figure.locator("[data-switch]").all(), *figure.locator(".legend button").all()]
    assert toggles
    for button in toggles:
        pressed = button.get_attribute("aria-pressed")
        for expected in (True, False):
            button.press("Enter")
            assert (button.get_attribute("aria-pressed") != pressed) == expected
            assert (_drawn(figure) != before) == expected
        assert button.inner_text().strip()


def _sort(table: Locator) -> None:
    """A click on a heading puts the column in order, a second one turns it round; missing figures stay last."""
    for column, heading in enumerate(table.locator("thead th").all()):
        cells = table.locator(f"tbody tr > :nth-child({column + 1})")
        orders = []
        for expected in ("ascending", "descending"):
            heading.get_by_role("button").click()
            assert heading.get_attribute("aria-sort") == expected
            orders.append(cells.evaluate_all("all => all.map(one => one.dataset.value || one.textContent)"))
        if column:
            values = [float(value) for value in orders[0]]
            assert values == sorted(values)
            assert [float(value) for value in orders[1]] == values[::-1] or len(set(values)) < len(values)
        else:
            assert orders[0] == orders[1][::-1] == sorted(orders[0])


def test_examples_of_two_arms_stand_beside_each_other(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["comparison"], 1280, 800, dark=False) as seen:
        shown = seen.page.locator(".panel:visible h3")
        left, right = seen.page.locator(".choosers select").all()
        assert _names(shown) == ["trelm-recommended", "scratch"]
        left.select_option("counts")
        right.select_option("focus")
        assert _names(shown) == ["counts", "focus"]
        one, other = (panel.bounding_box() for panel in seen.page.locator(".panel:visible").all())
        assert one is not None
        assert other is not None
        assert (one["y"], one["x"] < other["x"]) == (other["y"], True)
        seen.page.set_viewport_size({"width": 360, "height": 740})
        one, other = (panel.bounding_box() for panel in seen.page.locator(".panel:visible").all())
        assert one is not None
        assert other is not None
        assert (one["x"], one["y"] < other["y"]) == (other["x"], True)


def _names(headings: Locator) -> list[str]:
    return [text.split(" (seed")[0] for text in headings.all_inner_texts()]


def test_figures_follow_the_colour_scheme(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["comparison"], 1280, 800, dark=False) as seen:
        title = seen.page.locator("#plot-curves .xtitle")
        light = _fill(title)
        seen.page.emulate_media(color_scheme="dark")
        seen.page.wait_for_function(
            "old => getComputedStyle(document.querySelector('.xtitle')).fill !== old", arg=light
        )
        assert _fill(title) == "rgb(230, 233, 237)"


def _fill(element: Locator) -> Any:
    return element.evaluate("one => getComputedStyle(one).fill")


def test_hostile_text_is_drawn_as_text(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["hostile"], 1280, 800, dark=False) as seen:
        assert seen.page.locator("h1").inner_text().startswith("</script><script>alert('x')</script> &")
        assert HOSTILE in seen.page.locator(".links text title").first.text_content() or ""


def test_contrast_of_text_is_enough(browser: Browser, pages: dict[str, Path]) -> None:
    """WCAG AA asks for 4.5 for text of this size."""
    script = """() => [...document.querySelectorAll('p, td, th, .remark, button, summary, label, caption')]
        .filter(one => one.checkVisibility()).map(one => {
          let at = one;
          while (getComputedStyle(at).backgroundColor === 'rgba(0, 0, 0, 0)') at = at.parentElement;
          return [getComputedStyle(one).color, getComputedStyle(at).backgroundColor];
        })"""
    for dark in (False, True):
        with opened(browser, pages["comparison"], 1280, 800, dark=dark) as seen:
            pairs = {tuple(pair) for pair in seen.page.evaluate(script)}
        assert pairs
        assert {pair: ratio for pair in pairs if (ratio := _contrast(*pair)) < 4.5} == {}


def _contrast(one: str, other: str) -> float:
    low, high = sorted(_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
