"""Bring the results of comparisons into the repository: figures alone, no text of the corpora, no paths of a machine.

    python benchmarks/collect.py RUN [RUN ...] --to benchmarks/en-id

Several runs of one configuration with different arms, on different machines, go into one folder. `trelm report` and
`benchmarks/headline.py` read it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trelm.report.comparison_schema import COMPARISON, RESULTS
from trelm.workspace import read_json, write_json

QUOTED = {"examples": [], "word_links": None, "projection": None}
"""Parts of comparisons and cells that quote the corpora, and what stands in their place."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of `trelm compare --run`")
    parser.add_argument("--to", type=Path, required=True, help="folder of the repository")
    arguments = parser.parse_args()
    overviews = [read_json(run / COMPARISON) for run in arguments.runs]
    kept = arguments.to / COMPARISON
    write_json(kept, figures(merged([*([read_json(kept)] if kept.exists() else []), *overviews])))
    cells = [path for run in arguments.runs for path in sorted((run / RESULTS).glob("*/seed-*.json"))]
    for path in cells:
        write_json(arguments.to / RESULTS / path.parent.name / path.name, figures(read_json(path)))
    print(f"{len(cells)} cells in {arguments.to / RESULTS}")


def merged(overviews: list[dict[str, Any]]) -> dict[str, Any]:
    """One overview of all arms and seeds; the last one's words for all else."""
    arms = {name: words for overview in overviews for name, words in overview["arms"].items()}
    seeds = sorted({seed for overview in overviews for seed in overview["seeds"]})
    failed = {name: why for overview in overviews for name, why in overview["failed"].items()}
    languages = overviews[-1]["languages"]
    title = f"{languages['source']} to {languages['target']}: {len(arms)} ways compared"
    return {**overviews[-1], "arms": arms, "seeds": seeds, "failed": failed, "title": title}


def figures(value: dict[str, Any]) -> dict[str, Any]:
    """A comparison or a cell without what quotes the corpora; paths of the data as the configuration names them."""
    kept = {name: QUOTED.get(name, one) for name, one in value.items()}
    if isinstance(kept.get("config"), str) and (data := os.environ.get("TRELM_DATA")):
        kept["config"] = kept["config"].replace(data, "${TRELM_DATA}")
    return kept


if __name__ == "__main__":
    main()
