"""Break a run off at random moments, go on with the same command each time, compare its weights with an unbroken run's.

    python benchmarks/unbreakable/interruptions.py benchmarks/en-id/config.yaml --run runs/broken --set recipe=quick \\
        --set budget.updates=60 --times 5 --out broken.json

In turn: SIGTERM, SIGKILL, and SIGKILL with the file that was written last then shortened to a random length, as a power
cut may leave it. A moment is drawn evenly between two shares of the seconds of the unbroken run (`--between`), start
of the process included; a run that has come to its end before is compared, and the next one begins.
`--whole RUN` takes a finished run for the unbroken one. The budget must not be in minutes, which no two runs use alike.

Exits with 1 where a weight differs, where a command does not end as it should, or where a finished step was done again
though none of its files was shortened.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trelm.workspace import file_digest, read_json, write_json

KINDS = ("SIGTERM", "SIGKILL", "power cut")
ENDS = {"SIGTERM": 130, "SIGKILL": -signal.SIGKILL, "power cut": -signal.SIGKILL}
LONGEST_GOODBYE = 120.0  # seconds that a run may take to stop on SIGTERM


@dataclass
class Story:
    """What has happened so far."""

    interruptions: list[dict[str, Any]] = field(default_factory=list)
    done_again: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    wrong_ends: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def is_good(self) -> bool:
        return not (self.done_again or self.differing or self.wrong_ends)


def main() -> int:
    arguments = parse()
    moments, story, started = random.Random(arguments.seed), Story(), time.monotonic()
    whole = arguments.whole or arguments.run / "whole"
    seconds = unbroken(arguments, whole)
    expected = weights(whole)
    between = [share * seconds for share in arguments.between]
    while len(story.interruptions) < arguments.times:
        break_and_resume(arguments, moments, between, expected, story)
    summary = {
        "command": " ".join(["trelm", "transfer", str(arguments.config), *settings(arguments)]),
        "machine": machine(),
        "seed": arguments.seed,
        "unbroken_seconds": round(seconds, 1),
        "interruptions": story.interruptions,
        "runs": story.runs,
        "weights_compared": len(expected),
        "weights_that_differ": story.differing,
        "finished_steps_done_again": story.done_again,
        "wrong_ends": story.wrong_ends,
        "same": story.is_good,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(summary, indent=2))
    if arguments.out is not None:
        write_json(arguments.out, summary)
    return int(not story.is_good)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="a folder for the runs, made")
    parser.add_argument("--set", action="append", default=[], help="as of `trelm transfer`")
    parser.add_argument("--whole", type=Path, help="a finished run of the same configuration")
    parser.add_argument("--times", type=int, default=5, help="interruptions in all")
    parser.add_argument("--between", type=float, nargs=2, default=(0.1, 0.6), help="shares of the unbroken run's time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def settings(arguments: argparse.Namespace) -> list[str]:
    return [part for setting in arguments.set for part in ("--set", setting)]


def unbroken(arguments: argparse.Namespace, run: Path) -> float:
    """Do the run that nothing breaks off, unless there is one; its seconds, of all steps where it was done before."""
    if not (run / "report.json").exists():
        started = time.monotonic()
        code = run_for(arguments, run, "SIGTERM", None)
        if code != 0:
            sys.exit(f"{run}: the unbroken run ended with exit code {code}; {run}.log says why")
        print(f"unbroken: {time.monotonic() - started:.0f} s", flush=True)
        return time.monotonic() - started
    report = read_json(run / "report.json")
    return sum(float(step["seconds"]) for step in report["steps"].values())


def break_and_resume(
    arguments: argparse.Namespace, moments: random.Random, between: list[float], expected: dict[str, str], story: Story
) -> None:
    """One run in a new folder, broken off until it has come to its end, or often enough."""
    story.runs += 1
    run = arguments.run / f"broken-{story.runs}"
    seen: dict[str, int] = {}
    code: int | None = None
    while code != 0:
        number = len(story.interruptions)
        kind = KINDS[number % len(KINDS)]
        last = number >= arguments.times
        after = moments.uniform(*between)
        code = run_for(arguments, run, kind, None if last else after)
        done = stamps(run)
        story.done_again += [f"{run.name}/{step}" for step, stamp in seen.items() if done.get(step) != stamp]
        seen = done
        if code == 0:
            break
        if last or code != ENDS[kind]:
            story.wrong_ends.append(f"{run.name}: {kind} after {after:.0f} s: exit code {code}")
            return
        cut = cut_off_newest(run, moments) if kind == "power cut" else None
        seen = {step: stamp for step, stamp in seen.items() if cut is None or not cut.startswith(f"{step}/")}
        story.interruptions.append(
            {"run": run.name, "kind": kind, "after_seconds": round(after, 1), "steps_done": len(done), "cut": cut}
        )
        print(json.dumps(story.interruptions[-1]), flush=True)
    found = weights(run)
    story.differing += [f"{run.name}/{name}" for name in expected if found.get(name) != expected[name]]


def run_for(arguments: argparse.Namespace, run: Path, kind: str, seconds: float | None) -> int:
    """Start the command; break it off after so many seconds, or let it end. Its exit code; there is a log beside."""
    command = [sys.executable, "-m", "trelm", "transfer", str(arguments.config), "--run", str(run)]
    run.parent.mkdir(parents=True, exist_ok=True)
    with (
        (run.parent / f"{run.name}.log").open("a", encoding="utf-8") as log,
        subprocess.Popen([*command, *settings(arguments)], stdout=log, stderr=log) as process,
    ):
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)
        try:
            return process.wait(timeout=LONGEST_GOODBYE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def cut_off_newest(run: Path, moments: random.Random) -> str:
    """Shorten the file that was written last; its name, and what is left of it."""
    files = [path for path in run.rglob("*") if path.is_file() and path.stat().st_size > 0]
    if not files:
        return "nothing"
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    size = newest.stat().st_size
    left = moments.randrange(size)
    os.truncate(newest, left)
    return f"{newest.relative_to(run)}: {left} of {size} bytes left"


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of every file of weights, checkpoints aside: those of all stages and of the export."""
    paths = [path for path in run.rglob("*.safetensors") if not path.parent.name.startswith("checkpoint-")]
    return {path.relative_to(run).as_posix(): file_digest(path) for path in sorted(paths)}


def stamps(run: Path) -> dict[str, int]:
    """When each finished step wrote its manifest."""
    return {str(path.parent.relative_to(run)): path.stat().st_mtime_ns for path in run.rglob("manifest.json")}


def machine() -> dict[str, Any]:
    """What it ran on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "system": platform.system(),
    }


if __name__ == "__main__":
    sys.exit(main())
