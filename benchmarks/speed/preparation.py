"""Speed of the preparation: each primitive beside the obvious alternative, in one run, on real English and Indonesian.

    python benchmarks/speed/preparation.py --out benchmarks/speed/results/preparation.json
    python benchmarks/speed/preparation.py --whole benchmarks/en-id/config.yaml --run RUN --out WHOLE.json

Ways take turns, repetition by repetition, each in a forked process of its own; a rate is the median over repetitions, a
ratio the median of the repetitions' ratios. Memory is what the peak rises above the process's start. Samples are
whole lines, evenly spread over all files of a kind. The joint vocabulary (20,000 entries) is trained on the sample.

* `cleaning`, lines a second: `prepare` (normalises, drops by length and ratio, near-duplicates by fingerprint, holds
  out, keeps evaluation sentences out); a loop that reads, strips and keeps what a set of SHA-1s does not know. The loop
  lacks Unicode, lengths, duplicates but for case and punctuation, held-out text, pairs kept apart from their sides.
* `tokenisation`, lines a second: `write_lines`, streamed to disk; the tokenizer called with one line, with 2,000 lines.
* `word-links`, pairs a second, both directions, 5 iterations, words: `link` with all cores and with one thread; IBM
  model 2 with a diagonal prior in plain Python, on `--python-pairs` pairs. (eflomal and fast_align need a compiler.)
* `skip-gram`, tokens a second: `skip_gram`; gensim's Word2Vec with the same lines as lists, one worker, and FastText
  (100,000 buckets) on a quarter of them. Ours reads its lines from the memory-mapped files, and is Word2Vec inside.
* `csls`, queries a second: `csls_neighbours` of made-up tables of width 384; all pairs at once in numpy. (faiss finds
  neighbours by cosine, for which CSLS has to be taken of its candidates, and is no dependency.)

`--whole` prepares CONFIG up to the model twice, in RUN/cold with an empty cache and in RUN/warm with the cache of the
first: seconds of each step, and in all, with the head's and without. The data folder is taken from TRELM_DATA, by
default ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from preparation_ways import PRIMITIVES, Sample, Way, make_sample


def measured(way: Way, sample: Sample) -> dict[str, Any]:
    """One way once, in this process: seconds, seconds of the processor (children's too), rise of the peak."""
    work = way(sample)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    base, wall, processor = _status("VmRSS"), time.perf_counter(), _processor_seconds()
    done = work()
    seconds = time.perf_counter() - wall
    return {
        "units": done.units, "seconds": seconds, "processor_seconds": _processor_seconds() - processor,
        "rate": done.units / seconds, "megabytes": (_status("VmHWM") - base) / 1024,
        "answer": done.answer, "note": done.note,
    }  # fmt: skip


def in_its_own_process(work: Callable[[], Any]) -> Any:
    """What `work` returns, from a fork: it shares this process's imports and leaves nothing behind."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(work()))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit("a measurement failed; see above") from None
    finally:
        process.join()


def compared(name: str, sample: Sample, repetitions: int) -> dict[str, Any]:
    """All ways of one primitive, in turns."""
    ways = PRIMITIVES[name]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for repetition in range(repetitions):
        for way in list(ways)[:: 1 if repetition % 2 == 0 else -1]:
            runs[way].append(in_its_own_process(lambda way=way: measured(ways[way], sample)))  # type: ignore[misc]
    found: dict[str, Any] = {}
    for way, made in runs.items():
        fields = ("units", "rate", "seconds", "processor_seconds", "megabytes")
        found[way] = {field: statistics.median(run[field] for run in made) for field in fields}
        found[way] |= {
            "repetitions": [round(run["rate"], 3) for run in made], "note": made[0]["note"],
            "same_every_time": len({run["answer"] for run in made}) == 1,
        }  # fmt: skip
        if way != "trelm":
            ratios = [ours["rate"] / run["rate"] for ours, run in zip(runs["trelm"], made, strict=True)]
            found[way] |= {"trelm_times_faster": statistics.median(ratios), "ratios": ratios}
            found[way]["same_answer"] = made[0]["answer"] == runs["trelm"][0]["answer"] if made[0]["answer"] else None
    return found


def show(name: str, found: dict[str, Any]) -> None:
    for way, figures in found.items():
        ratio = f"{figures['trelm_times_faster']:9.2f}" if way != "trelm" else " " * 9
        same = {True: "same answer", False: "another answer"}.get(figures.get("same_answer"), "")
        print(
            f"{name:13}{way:17}{figures['rate']:12,.0f}/s{figures['seconds']:8.2f} s{figures['processor_seconds']:8.2f}"
            f" CPU{figures['megabytes']:8.0f} MB{ratio}  {same} {figures['note']}",
            flush=True,
        )


def primitives(arguments: argparse.Namespace, data: Path) -> dict[str, Any]:
    """The comparison of every primitive."""
    figures: dict[str, Any] = {"sizes": {name: value for name, value in vars(arguments).items() if type(value) is int}}
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample(Path(folder), arguments)
        in_its_own_process(lambda: make_sample(sample, data))
        print(f"{'primitive':13}{'way':17}{'rate':>14}{'':10}{'':12}{'rise':>11}{'trelm x':>9}")
        for name in arguments.only or PRIMITIVES:
            figures[name] = compared(name, sample, arguments.repetitions)
            show(name, figures[name])
            common.write(arguments.out, {**figures, "machine": common.machine("cpu"), "command": common.command()})
    return figures


def whole(arguments: argparse.Namespace) -> dict[str, Any]:
    """A configuration's preparation, with an empty cache and with a warm one."""
    run: Path = arguments.run
    run.mkdir(parents=True)
    environment = {**os.environ, "TRELM_CACHE": str(run / "cache")}
    found: dict[str, Any] = {}
    for name in ("cold", "warm"):
        command = [sys.executable, "-m", "trelm", "transfer", str(arguments.whole), "--run", str(run / name)]
        extra = [part for setting in arguments.set for part in ("--set", setting)]
        started = time.perf_counter()
        subprocess.run([*command, "--until", "model", *extra], check=True, env=environment)
        seconds = time.perf_counter() - started
        found[name] = {"wall_seconds": seconds, **step_seconds(run / name)}
        print(f"{name}: {seconds:.0f} s by the clock")
        for step, taken in found[name]["steps"].items():
            print(f"  {step:14}{taken:8.1f} s")
        print(f"  {'steps':14}{found[name]['seconds']:8.1f} s, without head {found[name]['without_head']:.1f} s")
    found["peak_megabytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return found


def step_seconds(run: Path) -> dict[str, Any]:
    """Seconds of each step that is done, from their manifests, in the order in which they ended."""
    manifests = sorted(run.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    steps = {path.parent.name: float(json.loads(path.read_text())["seconds"]) for path in manifests}
    total = sum(steps.values())
    return {"steps": steps, "seconds": total, "without_head": total - steps.get("head", 0.0)}


def _status(field: str) -> int:
    """Kilobytes, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _processor_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=60_000, help="of each language")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--tokenised", type=int, default=20_000, help="lines")
    parser.add_argument("--python-pairs", type=int, default=200, help="for the aligner in plain Python")
    parser.add_argument("--tokens", type=int, default=80_000, help="of each language, for skip-gram")
    parser.add_argument("--queries", type=int, default=6_000)
    parser.add_argument("--targets", type=int, default=16_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PRIMITIVES)
    parser.add_argument("--whole", type=Path, help="a configuration to prepare instead")
    parser.add_argument("--run", type=Path, help="a new folder for --whole")
    parser.add_argument("--set", action="append", default=[], help="for --whole, as `trelm transfer` takes it")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    data = Path(os.environ.setdefault("TRELM_DATA", "../shared/data"))
    if not data.is_dir():
        parser.error(f"{data}: expected the data folder, found nothing there; set TRELM_DATA")
    if arguments.whole is not None:
        if arguments.run is None or arguments.run.exists():
            parser.error("--whole needs --run, a folder that does not exist")
        common.write(arguments.out, {**whole(arguments), "machine": common.machine("cpu"), "command": common.command()})
        return
    started = time.perf_counter()
    primitives(arguments, data)
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
