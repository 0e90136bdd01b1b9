"""What a page is made of, independent of how it is written: sections, tables, and figures as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "–"
SHARES = ("precision_at", "distinct_precision_at", "chance_at", "share_")


@dataclass(frozen=True)
class Score:
    """A cell with more to it than its text: a remark below, whether it is the best of its column, what it sorts by."""

    text: str
    remark: str = ""
    best: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row, the others are figures unless `prose` is set.

    The rows of a `sortable` table can be put in the order of any column.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Score, ...], ...]
    prose: bool = False
    sortable: bool = False


@dataclass(frozen=True)
class Section:
    """A heading with sentences, tables and the names of figures (`figures.py`).

    With `folded`, its tables stand behind these words until they are asked for.
    """

    identifier: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    folded: str = ""


def number_table(caption: str, values: Mapping[str, Any]) -> Table:
    """A row for each value, nested ones included."""
    rows = tuple((humanise(name), _cell(name, value)) for name, value in flatten(values).items())
    return Table(caption, ("Figure", "Value"), rows)


def _cell(name: str, value: Any) -> str:
    return share(value) if name.startswith(SHARES) else number(value)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, their keys joined by a space; a list of numbers is one text; nulls are left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} {inner}": deep for inner, deep in flatten(value).items()}
        elif isinstance(value, (list, tuple)):
            flat[name] = ", ".join(number(item) for item in value)
        elif value is not None:
            flat[name] = value
    return flat


def counted(count: int, noun: str) -> str:
    """A number with its noun in the singular or the plural: "1 seed", "3 seeds"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def humanise(name: str) -> str:
    """A key as words."""
    return name.replace("_", " ")


def number(value: Any) -> str:
    """A figure as text: whole numbers with separators, others with four digits, huge ones as a power of ten."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if abs(value) >= 1e12 or 0 < abs(value) < 1e-4:
        return _power_of_ten(value)
    if value == round(value) or abs(value) >= 10_000:
        return f"{round(value):,}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if abs(value) >= 1 else f"{value:.4f}"


def _power_of_ten(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa} × 10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def share(value: Any) -> str:
    """A share between 0 and 1 as a percentage; what is no number, as a damaged report may hold it, as it is."""
    if value is None or not isinstance(value, (int, float)):
        return MISSING if value is None else str(value)
    if not math.isfinite(value):
        return MISSING
    return f"{100 * value:.2g} %" if 0 < abs(value) < 0.001 else f"{100 * value:.1f} %"
