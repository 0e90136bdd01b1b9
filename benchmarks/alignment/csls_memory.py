"""Peak memory and time of exact CSLS neighbours, and whether products in bfloat16 find the same.

    python benchmarks/alignment/csls_memory.py --sizes 5000 10000 20000 --out results/csls-memory.json
    python benchmarks/alignment/csls_memory.py --sizes 80000 --queries 8192 --out results/csls-memory-80000.json

`n` rows against `n` rows of width 768, random; each size in a process of its own, since a peak never falls. With
`--queries` only so many of the n rows are asked, all n rows being targets: memory is what a full run needs but for the
answers and the other queries (a run with all is q / n of the time and the same chunks). "base" is the peak before the
search, with both tables in memory; n^2 floats would be `square`. Agreement: made-up pairs (a row and the same with
noise, cosine about .6) and, with --run, the aligned tables of a prepared run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from trelm.alignment.csls import csls_neighbours
from trelm.config import read_run_config
from trelm.steps.context import ALIGNMENT, Context, use_all_cores
from trelm.workspace import Run, write_json

WIDTH, PAIRS = 768, 8_000


def peak_gigabytes() -> float:
    """Of this process, from its start."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measured(size: int, queries: int) -> dict[str, Any]:
    """One size, in this process."""
    use_all_cores()
    g = torch.Generator().manual_seed(1)
    X, Y = torch.randn(queries, WIDTH, generator=g), torch.randn(size, WIDTH, generator=g)
    before, start = peak_gigabytes(), time.monotonic()
    csls_neighbours(X, Y)
    return {
        "targets": size,
        "queries": queries,
        "all_queries": queries == size,
        "seconds": time.monotonic() - start,
        "gigabytes": {
            "base": before,
            "peak": peak_gigabytes(),
            "tables": 4 * WIDTH * (size + queries) / 1024**3,
            "square": 4 * size * queries / 1024**3,
        },
    }


def agreement(X: Tensor, Y: Tensor) -> dict[str, float]:
    """How far neighbours by bfloat16 products are those by float32 ones."""
    exact, rough = (csls_neighbours(X.to(kind), Y.to(kind), top=10)[1] for kind in (torch.float32, torch.bfloat16))
    shared = (exact[:, :, None] == rough[:, None, :]).any(dim=2)
    return {
        "rows": len(X),
        "same_nearest": float((exact[:, 0] == rough[:, 0]).float().mean()),
        "shared_of_ten": float(shared.float().mean()),
    }


def made_up() -> tuple[Tensor, Tensor]:
    """Pairs with a clear partner."""
    g = torch.Generator().manual_seed(2)
    X = torch.randn(PAIRS, WIDTH, generator=g)
    return X, X + 1.3 * torch.randn(PAIRS, WIDTH, generator=g)


def aligned(run: Path) -> tuple[Tensor, Tensor]:
    """The mapped rows that have a vector, and the encoder's table, both less the mean of the table."""
    context = Context(read_run_config(run), Run(run))
    mapped = load_file(context.folder(ALIGNMENT) / "alignment.safetensors")["mapped"]
    table = context.source.table
    return mapped[mapped.any(dim=1)] - table.mean(dim=0), table - table.mean(dim=0)


def in_its_own_process(size: int, queries: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(size), str(queries)]
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(figures, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5_000, 10_000, 20_000])
    parser.add_argument("--queries", type=int, help="at most so many rows are asked; all by default")
    parser.add_argument("--run", type=Path, help="run folder with an alignment, for the agreement on real tables")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(*arguments.child)))
        return
    if arguments.out is None:
        parser.error("--out is needed")
    figures: dict[str, Any] = {"width": WIDTH, "threads": use_all_cores(), "torch": torch.__version__, "sizes": []}
    for size in arguments.sizes:
        figures["sizes"].append(in_its_own_process(size, min(size, arguments.queries or size)))
        write_json(arguments.out, figures)
    figures["bfloat16"] = {"made_up_pairs": agreement(*made_up())}
    if arguments.run is not None:
        figures["bfloat16"]["aligned_tables"] = agreement(*aligned(arguments.run))
    write_json(arguments.out, figures)


if __name__ == "__main__":
    main()
