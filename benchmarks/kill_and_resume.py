"""Kill a run with SIGKILL at random moments, start the same command again each time, and see what was done twice.

    python benchmarks/kill_and_resume.py benchmarks/en-id/config.yaml --run runs/killed --set budget.updates=60

Prints one line a kill and a JSON summary at the end; exits with 1 where a finished step was done again.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

Stamps = dict[str, int]


def main() -> int:
    arguments = parse()
    command = [sys.executable, "-m", "trelm", "transfer", str(arguments.config), "--run", str(arguments.run)]
    command += [part for setting in arguments.set for part in ("--set", setting)]
    moments = random.Random(arguments.seed)
    seen: Stamps = {}
    started, kills = time.monotonic(), []
    for number in range(arguments.kills):
        wait = moments.uniform(*arguments.between)
        code = run_for(command, wait)
        done = stamps(arguments.run)
        kills.append({"after_seconds": round(wait, 1), "exit_code": code, "steps_done": len(done)})
        print(f"kill {number + 1}: after {wait:.0f} s, exit code {code}, {len(done)} steps done", flush=True)
        again = changed(seen, done)
        if again:
            print(f"done again: {again}")
            return 1
        seen |= done
    code = run_for(command, None)
    done = stamps(arguments.run)
    again = changed(seen, done)
    summary = {
        "command": " ".join(["trelm", *command[3:]]),
        "kills": kills,
        "last_exit_code": code,
        "steps": sorted(done),
        "steps_done_again": again,
        "report": (arguments.run / "report.json").exists(),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(summary, indent=2))
    return int(bool(again) or code != 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="as of `trelm transfer`")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--between", type=float, nargs=2, default=(20.0, 150.0), help="seconds until a kill")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def run_for(command: list[str], seconds: float | None) -> int:
    """Start the command; kill it after so many seconds, or let it end. Its exit code (-9 where it was killed)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


def stamps(run: Path) -> Stamps:
    """When each finished step wrote its manifest."""
    return {str(path.parent.relative_to(run)): path.stat().st_mtime_ns for path in run.rglob("manifest.json")}


def changed(before: Stamps, after: Stamps) -> list[str]:
    """Steps that were done before and have been done again, or are gone."""
    return sorted(step for step, stamp in before.items() if after.get(step) != stamp)


if __name__ == "__main__":
    sys.exit(main())
