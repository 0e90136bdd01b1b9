"""The tables of `compare.py`'s results, as Markdown: mean and standard error over the seeds of each arm.

    python benchmarks/initialisation/summarise.py benchmarks/initialisation/results/en-id [--out docs/...md]

Loss is masked loss in nats; seeds stand beside it, since an arm with one seed has no spread.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from compare import ARMS

from trelm.workspace import read_json, write_text

COLUMNS = ("0", "200000", "1000000")
HEADINGS = "| initialisation | P@1 | P@5 | random | norm | seconds | GB | loss at 0 | at 200k | at 1M | accuracy |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="folders of result files")
    parser.add_argument("--out", type=Path, help="Markdown file; printed without")
    arguments = parser.parse_args()
    text = "\n\n".join(table(folder) for folder in arguments.results) + "\n"
    if arguments.out:
        write_text(arguments.out, text)
    else:
        print(text, end="")


def table(folder: Path) -> str:
    """One language pair, its ways and then their variations, the best first by the loss at the last count."""
    arms: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*-seed*.json")):
        cell = read_json(path)
        arms[cell["arm"]].append(cell)
    rows = sorted(arms.items(), key=lambda arm: (arm[0] not in ARMS, *rank(arm[1])))
    lines = [f"### {folder.name}", "", HEADINGS, "|" + "---|" * (HEADINGS.count("|") - 1)]
    return "\n".join(lines + [row(name, cells) for name, cells in rows])


def rank(cells: list[dict[str, Any]]) -> tuple[float, ...]:
    return tuple(mean(loss(cells, column)) for column in reversed(COLUMNS))


def row(name: str, cells: list[dict[str, Any]]) -> str:
    first, named = cells[0], f"**{name}**" if name == "recommended" else name
    last = max(first["scores"], key=int)
    figures = [
        f"{first['translation']['precision_at_1']:.3f}",
        f"{first['translation']['precision_at_5']:.3f}",
        str(first["rows"]["random"]),
        f"{first['norm_ratio']:.2f}",
        f"{first['made']['seconds']:.0f}",
        f"{first['made']['gigabytes_at_peak']:.1f}",
        *(spread(loss(cells, column)) for column in COLUMNS),
        f"{100 * mean([cell['scores'][last]['masked_accuracy'] for cell in cells if last in cell['scores']]):.1f} %",
    ]
    return f"| {named} | " + " | ".join(figures) + " |"


def loss(cells: list[dict[str, Any]], column: str) -> list[float]:
    return [cell["scores"][column]["masked_loss"] for cell in cells if column in cell["scores"]]


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("inf")


def spread(values: list[float]) -> str:
    """Mean and standard error, and over how many seeds."""
    if not values:
        return "-"
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{error} ({len(values)})"


if __name__ == "__main__":
    main()
