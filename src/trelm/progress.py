"""What a long command says while it works: a live line on a terminal, sparse plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from trelm.cost import human_seconds

INTERVAL = 10.0
"""Seconds between two plain lines of one step."""
WIDE = 100
"""Columns of a terminal from which on there is room for a bar."""

Clock = Callable[[], float]


def quantity(value: float) -> str:
    """A count or a figure, short: `1,234`, `0.512`, `12.3`."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.3g}"


@dataclass
class _Rate:
    """Progress since the first report of a count: a resumed step does not count what was done before."""

    clock: Clock
    done: float = 0.0
    unit: str = ""
    first: tuple[float, float] | None = None

    def update(self, done: float, unit: str) -> float | None:
        """The rate in units a second, or None before it is known; a count that falls or changes unit starts anew."""
        now = self.clock()
        if self.first is None or done < self.done or unit != self.unit:
            self.first = (done, now)
        self.done, self.unit = done, unit
        gained, elapsed = done - self.first[0], now - self.first[1]
        return gained / elapsed if gained > 0 and elapsed > 0 else None


def _describe(done: float, total: float | None, unit: str, rate: float | None, figures: dict[str, float]) -> str:
    """`1,200/4,000 tokens, 9 s left, 300 tokens/s, loss 3.21`: what matters most first, as narrow terminals cut."""
    count = quantity(done) if total is None else f"{quantity(done)}/{quantity(total)}"
    parts = [f"{count} {unit}".strip()]
    if rate is not None and total is not None and total > done:
        parts.append(f"{human_seconds((total - done) / rate)} left")
    if rate is not None:
        parts.append(f"{quantity(rate)} {unit}/s" if unit else f"{quantity(rate)} a second")
    return ", ".join([*parts, *(f"{name.replace('_', ' ')} {quantity(value)}" for name, value in figures.items())])


class _Voice(ABC):
    """How lines reach the reader."""

    @abstractmethod
    def begin(self, label: str) -> None:
        """A step begins."""

    @abstractmethod
    def update(self, label: str, text: str, done: float, total: float | None) -> None:
        """The step has come so far."""

    @abstractmethod
    def line(self, text: str) -> None:
        """A line that stays."""

    @abstractmethod
    def end(self) -> None:
        """The step is over."""


class _Silence(_Voice):
    """Says nothing."""

    def begin(self, label: str) -> None:
        pass

    def update(self, label: str, text: str, done: float, total: float | None) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def end(self) -> None:
        pass


@dataclass
class _PlainLines(_Voice):
    """One line at the start and the end of each step, and at most one every `INTERVAL` seconds between."""

    stream: TextIO
    clock: Clock
    last: float = 0.0

    def begin(self, label: str) -> None:
        self.line(label)
        self.last = self.clock()

    def update(self, label: str, text: str, done: float, total: float | None) -> None:
        if self.clock() - self.last >= INTERVAL:
            self.line(f"{label}: {text}")
            self.last = self.clock()

    def line(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        pass


class _LiveLine(_Voice):
    """A bar that moves on a terminal, with the finished steps as lines above it."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False)
        text = (TextColumn("{task.description}  {task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),)
        bar = (BarColumn(bar_width=20),) if self.console.width >= WIDE else ()
        self.rich = RichProgress(*bar, *text, console=self.console, transient=True, refresh_per_second=4)
        self.task: TaskID | None = None

    def begin(self, label: str) -> None:
        self.task = self.rich.add_task(label, total=None, text="")
        self.rich.start()

    def update(self, label: str, text: str, done: float, total: float | None) -> None:
        if self.task is not None:
            self.rich.update(self.task, completed=done, total=total, text=text)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def end(self) -> None:
        self.rich.stop()  # erases the live line, so that the step's last line takes its place
        if self.task is not None:
            self.rich.remove_task(self.task)
        self.task = None


@dataclass
class StepProgress:
    """What a step under way tells."""

    label: str
    _voice: _Voice
    _rate: _Rate = field(repr=False)

    def update(self, done: float, total: float | None = None, unit: str = "", **figures: float) -> None:
        """So much is `done` of `total` (None where it is not known), in `unit`s, with figures such as the loss."""
        rate = self._rate.update(done, unit)
        self._voice.update(self.label, _describe(done, total, unit, rate, figures), done, total)

    def note(self, text: str) -> None:
        """A line that stays, such as something dropped or chosen."""
        self._voice.line(f"{self.label}: {text}")


class Progress:
    """Which step of how many, how fast, how much longer. Use as a context manager around all steps of a command.

    Args:
        total_steps: steps of the command, those skipped included.
        quiet: print nothing.
        stream: where to print; standard error by default. A terminal gets a live line, anything else plain lines.
        clock: seconds that only rise; given by tests.
    """

    def __init__(
        self, total_steps: int, *, quiet: bool = False, stream: TextIO | None = None, clock: Clock = time.monotonic
    ) -> None:
        stream = sys.stderr if stream is None else stream
        self.total_steps = total_steps
        self._clock = clock
        self._begun = 0
        self._voice: _Voice = (
            _Silence() if quiet else _LiveLine(stream) if stream.isatty() else _PlainLines(stream, clock)
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is left to undo: each step has ended by itself, whatever ended it."""

    @contextmanager
    def step(self, name: str) -> Iterator[StepProgress]:
        """One step; its end is told with the time it took, also where an error or an interruption ends it."""
        label, start, ending = self._next_label(name), self._clock(), "stopped after"
        self._voice.begin(label)
        try:
            yield StepProgress(label, self._voice, _Rate(self._clock))
            ending = "done in"
        finally:
            self._voice.end()
            self._voice.line(f"{label}: {ending} {human_seconds(self._clock() - start)}")

    def skip(self, name: str) -> None:
        """A step that an earlier run of the command has done."""
        self._voice.line(f"{self._next_label(name)}: done before")

    def _next_label(self, name: str) -> str:
        self._begun += 1
        return f"[{self._begun}/{self.total_steps}] {name}"
