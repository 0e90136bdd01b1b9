"""The scores of models on tasks as a Markdown table: python benchmarks/tasks/summarise.py results/minilm.json [...]

A file is what `trelm evaluate MODEL --tasks TASKS --json` printed; several files are columns side by side.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(paths: list[str]) -> None:
    """Print the table."""
    models = {Path(path).stem: json.loads(Path(path).read_text(encoding="utf-8")) for path in paths}
    sets = list(dict.fromkeys(name for scores in models.values() for name in scores))
    print("| set | score | " + " | ".join(models) + " |\n|---|---|" + "---|" * len(models))
    for name in sets:
        metric = next(scores[name]["metric"] for scores in models.values() if name in scores)
        print(f"| {name} | {metric} | " + " | ".join(cell(scores.get(name)) for scores in models.values()) + " |")


def cell(figures: dict[str, Any] | None) -> str:
    """Mean and standard deviation over seeds in %, other scores behind."""
    if figures is None:
        return ""
    spread = "" if figures.get("spread") is None else f" ± {100 * figures['spread']:.1f}"
    others = ", ".join(
        f"{name} {100 * value:.1f}" for name, value in figures["scores"].items() if name != figures["metric"]
    )
    return f"{100 * figures['score']:.1f}{spread}" + (f" ({others})" if others else "")


if __name__ == "__main__":
    main(sys.argv[1:])
