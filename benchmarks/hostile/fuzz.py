"""Throw hostile input at every reader of the package: nothing but the project's own errors may come out.

    python benchmarks/hostile/fuzz.py --inputs 2000 --seed 1 --out benchmarks/hostile/results/fuzz.json
    python benchmarks/hostile/fuzz.py --only TMX --inputs 20000
    python benchmarks/hostile/fuzz.py --again FOLDER/crash-003          # one reproducer, with its traceback

Each reader gets that many files: random bytes and honest files that were harmed (`tests/hostile/hostile_inputs.py`).
Readers of whole folders of models or data sets get a tenth. An input is refused where a `TrelmError` of one line comes
out, and a crash where anything else does: another exception, more than `--seconds` on one file, more than `--memory`
above what the program takes without it, or the end of the process. Crashes are kept as files in `--keep`. Exits with 1
where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["TQDM_DISABLE"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("hostile", "report", ".")]

import torch  # noqa: E402
from hostile_inputs import harmed  # noqa: E402
from hostile_readers import Reader, all_readers  # noqa: E402

from trelm.errors import TrelmError  # noqa: E402

DEAR = 10  # a reader that is dear gets one input where others get so many


class Hang(BaseException):
    """An input took too long; no reader may catch it."""


def main() -> int:
    arguments = parse()
    readers = [one for one in all_readers() if any(part in one.name for part in arguments.only)]
    if arguments.again is not None:
        return again(arguments.again, readers)
    arguments.keep.mkdir(parents=True, exist_ok=True)
    started, results, crashes = time.monotonic(), {}, []
    print(f"{'reader':<40} {'inputs':>7} {'read':>7} {'refused':>8} {'crashes':>8} {'seconds':>8}", flush=True)
    for reader in readers:
        found = attack(reader, arguments)
        crashes += found.pop("crashed")
        results[reader.name] = found
        print("{:<40} {:>7} {:>7} {:>8} {:>8} {:>8.1f}".format(reader.name, *found.values()), flush=True)
    for crash in crashes:
        print(f"{crash['reader']}: {crash['what']}\n    {crash['file']}")
    total = {key: sum(one[key] for one in results.values()) for key in ("inputs", "read", "refused", "crashes")}
    print(f"in all: {total}, {time.monotonic() - started:.0f} s")
    if arguments.out is not None:
        write(arguments.out, {"command": sys.argv[1:], "seed": arguments.seed, "machine": machine(), "total": total,
                              "readers": results, "crashes": crashes})  # fmt: skip
    return int(total["crashes"] > 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""], help="readers with one of these in their name")
    parser.add_argument("--seconds", type=float, default=20, help="longest time for one file")
    parser.add_argument("--memory", type=int, default=2, help="GiB of address space that one reader may take more")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "trelm-fuzz")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", type=Path, help="run one kept crash again")
    return parser.parse_args()


def attack(reader: Reader, arguments: argparse.Namespace) -> dict[str, Any]:
    """All inputs for one reader, in processes of their own: the death of one is a crash, and a next one goes on."""
    count = -(-arguments.inputs // DEAR) if reader.dear else arguments.inputs
    tally: Counter[str] = Counter()
    crashes: list[dict[str, str]] = []
    started, number = time.monotonic(), 0
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="trelm-fuzz-") as place:
        folder = Path(place)
        while number < count:
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=work, args=(reader, folder, number, count, arguments, theirs))
            child.start()
            theirs.close()
            number = listen(ours, reader, number, tally, crashes, arguments.keep)
            child.join()
            if number < count:  # it died on this one
                keep(reader, inputs_of(reader, number, arguments.seed), f"the process ended with {child.exitcode}",
                     crashes, arguments.keep)  # fmt: skip
                tally["crash"] += 1
                number += 1
    distinct = list({crash["what"]: crash for crash in reversed(crashes)}.values())
    return {"inputs": count, "read": tally["read"], "refused": tally["refused"], "crashes": tally["crash"],
            "seconds": round(time.monotonic() - started, 1), "crashed": distinct}  # fmt: skip


def listen(
    pipe: Any, reader: Reader, number: int, tally: Counter[str], crashes: list[dict[str, str]], place: Path
) -> int:
    """Count what a process tells; the number of the first input that it did not finish."""
    with contextlib.suppress(EOFError):
        while True:
            outcome, what, content = pipe.recv()
            tally[outcome] += 1
            number += 1
            if outcome == "crash":
                keep(reader, content, what, crashes, place)
    return number


def work(reader: Reader, folder: Path, first: int, count: int, arguments: argparse.Namespace, pipe: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    limit_memory(arguments.memory)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for number in range(first, count):
        content = inputs_of(reader, number, arguments.seed)
        shutil.rmtree(folder)
        folder.mkdir()
        reader.prepare(folder)
        outcome, what = tried(reader, folder, content, arguments.seconds)
        pipe.send((outcome, what, content if outcome == "crash" else b""))


def tried(reader: Reader, folder: Path, content: bytes, seconds: float) -> tuple[str, str]:
    """`read`, `refused` or `crash`, and what crashed."""
    try:
        with limited(seconds):
            reader(folder, content)
    except TrelmError as error:
        lines = str(error).splitlines()
        if len(lines) == 1:
            return "refused", ""
        return "crash", f"a message of {len(lines)} lines: {str(error)[:200]!r}"
    except (Exception, Hang) as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "/src/trelm/" in frame.filename] or list(where)
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return "crash", f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:160]}"
    return "read", ""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise Hang(f"more than {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory(gibibytes: int) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = taken + gibibytes * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def inputs_of(reader: Reader, number: int, seed: int) -> bytes:
    """The input of that number, the same whichever process makes it; the first is honest."""
    if number < len(reader.examples):
        return reader.examples[number]
    return harmed(reader.examples, random.Random(f"{reader.name} {seed} {number}"))


def keep(reader: Reader, content: bytes, what: str, crashes: list[dict[str, str]], place: Path) -> None:
    if any(kind(one["what"]) == kind(what) for one in crashes):
        return
    path = place / f"crash-{reader.name.replace(' ', '-').replace('/', '-')}-{len(crashes):03}"
    path.write_bytes(content)
    path.with_name(path.name + ".json").write_text(json.dumps({"reader": reader.name, "what": what}))
    crashes.append({"reader": reader.name, "what": what, "file": str(path)})


def kind(what: str) -> str:
    """Crashes of one kind are kept once: the type of the exception and the line."""
    return what.partition(": ")[0]


def again(path: Path, readers: list[Reader]) -> int:
    """One kept input, its traceback shown."""
    name = json.loads(path.with_name(path.name + ".json").read_text())["reader"]
    reader = next(one for one in readers if one.name == name)
    with tempfile.TemporaryDirectory() as place:
        reader.prepare(Path(place))
        try:
            reader(Path(place), path.read_bytes())
        except TrelmError as error:
            print(f"refused: {error}")
    return 0


def machine() -> dict[str, Any]:
    return {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
