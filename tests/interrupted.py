"""A toy run in a process of its own, and the ways to break it off."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toy import run_toy
from trelm import cli
from trelm.config import make_config

Kind = Literal["terminated", "killed", "power cut"]
KINDS: tuple[Kind, ...] = ("terminated", "killed", "power cut")
ENDS = 300.0  # seconds in which a toy run ends, however busy the machine is


@dataclass(frozen=True)
class Attempt:
    """How one process went: its exit code, seconds of work, what it wrote to standard error."""

    code: int
    seconds: float
    errors: str


def attempt(values: dict[str, Any], folder: Path, log: Path, stop: Kind | None = None, after: float = 0.0) -> Attempt:
    """The toy run of these values, gone on with; broken off `after` so many seconds of work unless it has ended."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trelm.pipeline"])  # what is imported there, no run has to import
    begun = processes.Event()
    process = processes.Process(target=_work, args=(values, str(folder), str(log), begun))
    process.start()
    if not begun.wait(ENDS):
        raise RuntimeError("the process did not begin")
    started = time.monotonic()
    process.join(ENDS if stop is None else after)
    if process.is_alive() and stop is not None:
        _signal(process, signal.SIGTERM if stop == "terminated" else signal.SIGKILL)
    process.join(ENDS)
    if process.exitcode is None:
        _signal(process, signal.SIGKILL)
        raise RuntimeError(f"the process did not end in {ENDS:.0f} s")
    return Attempt(process.exitcode, time.monotonic() - started, log.read_text(encoding="utf-8"))


def cut_off_newest(folder: Path, random: np.random.Generator) -> str:
    """Shorten the file that was written last, as a power cut may; its name, and what is left of it."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0]
    if not files:
        return "nothing"
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    size = newest.stat().st_size
    left = int(random.integers(0, size))
    os.truncate(newest, left)
    return f"{newest.relative_to(folder)}: {left} of {size} bytes left"


def _signal(process: BaseProcess, number: int) -> None:
    if process.pid is not None:
        os.kill(process.pid, number)


def _work(values: dict[str, Any], folder: str, log: str, begun: Any) -> None:
    """As `trelm transfer` does it: the same handler of SIGTERM, the same exit codes."""
    with open(log, "w", encoding="utf-8", buffering=1) as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    signal.signal(signal.SIGTERM, cli._terminate)
    begun.set()
    sys.exit(cli._run(lambda: run_toy(make_config(values, origin="toy"), Path(folder)), debug=True))
