"""How right `trelm plan` is: what it says beside what the run then takes, step by step and in all.

    python benchmarks/plan/accuracy.py benchmarks/en-id/config.yaml --run runs/id --out accuracy.json
    python benchmarks/plan/accuracy.py --demo --run runs/demo --out accuracy.json
    python benchmarks/plan/accuracy.py benchmarks/en-id/config.yaml --finished runs/id --out accuracy.json

Plans, then does the whole run in a process of its own, on the same machine, and compares. `--finished` compares with a
run that this machine has already done, whose seconds are in its manifests. `--set` overrides settings of both. The exit
code is 1 where the seconds in all are off by more than a quarter.

The actual seconds in all are those of all steps; `wall` is the whole command, with Python's start and the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trelm import pipeline
from trelm.config import Config, load_config
from trelm.demo.run import RUN, prepare
from trelm.steps.training import STAGE_FOLDERS

TOLERANCE = 0.25
MANIFEST = "manifest.json"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"platform": platform.platform(), "cores": cores, "threads": os.environ.get("OMP_NUM_THREADS", "")}
    return {**facts, "load": os.getloadavg()}


def do_run(arguments: Sequence[str]) -> dict[str, float]:
    """The whole command in a process of its own: its wall-clock seconds and its largest memory in bytes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "trelm", *arguments], check=True, stdout=subprocess.DEVNULL)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"wall": time.perf_counter() - started, "memory_bytes": most}


def actual_steps(run: Path) -> dict[str, dict[str, float]]:
    """Seconds, updates and bytes of every step of a finished run, by the name that the plan gives it."""
    names = {folder: stage for stage, folder in STAGE_FOLDERS.items()}
    found = {}
    for path in run.rglob(MANIFEST):
        folder = path.parent.relative_to(run).as_posix()
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if "seconds" not in manifest:
            continue
        files = (file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        updates = manifest.get("updates", 0)
        trained = updates if isinstance(updates, int) else 0  # the plan's own are those of all stages
        values = {"seconds": manifest["seconds"], "updates": trained, "disk_bytes": sum(files)}
        found[names.get(folder, folder)] = values | {"flops": manifest.get("flops", 0.0)}
    return found


def compared(planned: dict[str, Any], actual: dict[str, dict[str, float]]) -> dict[str, Any]:
    """For each step both figures and their ratio; the same in all."""
    rows = []
    for row in planned["steps"]:
        there = actual.get(row["name"])
        if there is None:
            continue
        plan = {name: row[name] for name in there}
        rows.append({"name": row["name"], "plan": plan, "actual": there, "ratio": _ratio(plan, there, "seconds")})
    total = {kind: sum(row[kind]["seconds"] for row in rows) for kind in ("plan", "actual")}
    missing = sorted({row["name"] for row in planned["steps"]} ^ actual.keys())
    return {"steps": rows, "total": {**total, "ratio": total["plan"] / total["actual"]}, "not_compared": missing}


def _ratio(plan: dict[str, float], actual: dict[str, float], name: str) -> float | None:
    return plan[name] / actual[name] if actual[name] else None


def show(result: dict[str, Any]) -> None:
    """The comparison as a table."""
    print(f"{'step':20} {'plan':>9} {'actual':>9} {'ratio':>6}   {'updates':>13}")
    for row in result["steps"]:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        plan, actual = row["plan"], row["actual"]
        updates = f"{plan['updates']} / {actual['updates']}" if actual["updates"] else ""
        print(f"{row['name']:20} {plan['seconds']:9.1f} {actual['seconds']:9.1f} {ratio:>6}   {updates:>13}")
    total = result["total"]
    print(f"{'in all':20} {total['plan']:9.1f} {total['actual']:9.1f} {total['ratio']:6.2f}")


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, help="YAML configuration")
    parser.add_argument("--demo", action="store_true", help="the demonstration's configuration and data")
    parser.add_argument("--run", type=Path, help="folder of the run that is made")
    parser.add_argument("--finished", type=Path, help="a finished run of this configuration on this machine")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override a setting")
    parser.add_argument("--out", type=Path, required=True, help="JSON file that is written")
    arguments = parser.parse_args()
    if (arguments.config is None) != arguments.demo or (arguments.run is None) == (arguments.finished is None):
        parser.error("give a configuration or --demo, and --run or --finished")
    return arguments


def configured(arguments: argparse.Namespace) -> Config:
    """The configuration that is planned."""
    if not arguments.demo:
        return load_config(arguments.config, arguments.overrides)
    folder = arguments.run or arguments.finished
    return prepare(folder, arguments.overrides)


def main() -> int:
    """Plan, run, compare."""
    arguments = parse()
    config, before = configured(arguments), machine()
    started = time.perf_counter()
    planned = pipeline.estimate(config, quiet=False)
    planning = time.perf_counter() - started
    changes = [argument for one in arguments.overrides for argument in ("--set", one)]
    command = ["demo"] if arguments.demo else ["transfer", str(arguments.config)]
    run = arguments.finished or arguments.run
    done = {} if arguments.finished else do_run([*command, "--run", str(run), *changes])
    result = compared(planned, actual_steps(run / RUN if arguments.demo else run))
    result |= {"machine": before, "load_after": os.getloadavg(), "planning_seconds": planning, "run": done}
    result |= {"planned": planned, "within": abs(result["total"]["ratio"] - 1) <= TOLERANCE}
    show(result)
    print(f"planned in {planning:.0f} s; memory {planned['total']['memory_bytes'] / 1e9:.2f} GB", end="")
    print(f", in fact {done['memory_bytes'] / 1e9:.2f} GB; wall {done['wall']:.0f} s" if done else "")
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if result["within"] else 1


if __name__ == "__main__":
    sys.exit(main())
