"""Cells of a prepared comparison, one after the other, as many as there is time for; run again, it goes on."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trelm.comparison.cell import cell_key, result_path
from trelm.comparison.portable import Portable
from trelm.comparison.run import Job, do_cells
from trelm.errors import ComparisonError, TrelmError, first_line
from trelm.progress import Progress
from trelm.steps.context import use_all_cores
from trelm.workspace import CONFIG, Run, read_json, write_json

WORK, FAILED, SECONDS = "work", "failed.json", "seconds.json"


@dataclass
class Timetable:
    """Whether there is time for one more cell, by what cells took so far.

    Attributes:
        path: of the seconds of cells that were done in one go, kept for the next call. deadline: on `clock`; None: any.
        left: keys of the cells for which there was no time.
    """

    path: Path
    deadline: float | None
    clock: Callable[[], float]
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seconds: dict[str, float] = dict(read_json(self.path)) if self.path.exists() else {}

    def has_time_for(self, job: Job) -> bool:
        """Whether a cell of this arm would end in time; the longest of all counts where none of the arm is known."""
        alike = [seconds for key, seconds in self._seconds.items() if key.startswith(f"{job.name}/")]
        expected = max(alike or self._seconds.values(), default=0.0)
        return self.deadline is None or self.clock() + expected <= self.deadline

    def took(self, job: Job, seconds: float) -> None:
        """Keep what a cell took."""
        self._seconds[job.key] = seconds
        write_json(self.path, self._seconds)

    def jobs(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Those for which there is time, each when the one before is done; those that are done need none."""
        for job in jobs:
            if job.result.exists():
                yield job
            elif self.left or not self.has_time_for(job):
                self.left.append(job.key)
            else:
                yield from self._timed(job)

    def _timed(self, job: Job) -> Iterator[Job]:
        is_new, started = not job.place.exists(), self.clock()
        yield job
        if is_new and job.result.exists():
            self.took(job, self.clock() - started)


def run_portable(
    portable: Portable, cells: list[tuple[str, int]], out: Path, *, minutes: float | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Do every cell that has no result in `out`, with what is under way in its folder `work`.

    A cell that fails, for whatever reason, is named in `failed.json`: there may be no second chance for the others.

    Args:
        minutes: begin no cell that would not end in time. quiet: print no progress.

    Returns:
        `cells`: what each cell's JSON holds; `failed`: name -> reason; `left`: names of those for which there was no
        time.

    Raises:
        ComparisonError: `out` belongs to another comparison, or to another budget or training of this one.
        RunFolderError: another process works there.
    """
    started, work, failed = time.monotonic(), Run(out / WORK), dict[str, str]()
    with work.lock():
        _claim(work, out, portable.claimed(portable.config))
        (out / FAILED).unlink(missing_ok=True)
        use_all_cores()

        def on_failure(job: Job, error: Exception) -> None:
            failed[job.key] = str(error) if isinstance(error, TrelmError) else _fault(error)
            write_json(out / FAILED, failed)

        deadline = None if minutes is None else started + 60 * minutes
        timetable = Timetable(work.folder / SECONDS, deadline, time.monotonic)
        jobs = timetable.jobs(_job(portable, out, *cell) for cell in cells)
        with Progress(len(cells), quiet=quiet) as progress:
            do_cells(jobs, progress, on_failure, Exception)
    done = [path for cell in cells if (path := result_path(out, *cell)).exists()]
    return {"cells": [read_json(path) for path in done], "failed": failed, "left": timetable.left}


def _claim(work: Run, out: Path, config_text: str) -> None:
    if (work.folder / CONFIG).exists() and not work.is_claimed(config_text):
        raise ComparisonError(
            f"--out {out}: expected the folder of this comparison with this budget and training, found that of "
            "another; choose another --out folder"
        )
    work.claim(config_text)


def _job(portable: Portable, out: Path, name: str, seed: int) -> Job:
    work = out / WORK / cell_key(name, seed)
    return Job(name, seed, result_path(out, name, seed), partial(portable.cell, name, seed, work), work)


def _fault(error: Exception) -> str:
    """What went wrong in the program, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first_line(error)} ({Path(last.filename).name}, line {last.lineno})"
