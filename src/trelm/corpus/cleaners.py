"""Lines and pairs cleaned in chunks; by one process for each core where there are many.

The processes are plain children that read requests from a pipe: when the parent is gone, however it ended, the pipe is
closed, and so are they. They import nothing but this and what it needs, and are no forks of a process that has threads.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.cleaning import display_width, fingerprint, length_problem, normalise
from trelm.errors import DataError

CHUNK_LINES = 2_000
CHUNK_CHARACTERS = 2**20
ALONE = 50_000
"""Lines that are cleaned without further processes: with fewer, starting them would take longer than it saves."""

_LENGTH = struct.Struct("<Q")
_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from trelm.corpus.cleaners import serve; serve()"

Item = TypeVar("Item", str, tuple[str, str])


@dataclass(frozen=True)
class Limits:
    """What a line or pair must meet: characters a side, ratio of the sides' widths."""

    minimum: int
    maximum: int
    ratio: float


@dataclass(frozen=True)
class Clean:
    """What is left of a chunk.

    Attributes:
        text: the lines, or pairs with a tab between their sides, in UTF-8, each with its line break.
        fingerprints: [n] of lines, [2 n] of pairs: source, target, source, ...
        dropped: how many were dropped, by reason.
    """

    text: bytes
    fingerprints: NDArray[np.uint64]
    dropped: dict[str, int]


def clean_lines(lines: Iterable[str], limits: Limits) -> Clean:
    """The lines that meet the limits, normalised."""
    kept, prints, dropped = [], array("Q"), Counter[str]()
    for text in map(normalise, lines):
        if problem := length_problem(text, limits.minimum, limits.maximum):
            dropped[problem] += 1
        else:
            kept.append(f"{text}\n")
            prints.append(fingerprint(text))
    return Clean("".join(kept).encode(), np.asarray(prints, dtype=np.uint64), dict(dropped))


def clean_pairs(pairs: Iterable[Sequence[str]], limits: Limits) -> Clean:
    """The pairs that meet the limits, normalised."""
    kept, prints, dropped = [], array("Q"), Counter[str]()
    for source, target in pairs:
        pair = (normalise(source), normalise(target))
        found = (fingerprint(pair[0]), fingerprint(pair[1]))
        if problem := _pair_problem(pair, found, limits):
            dropped[problem] += 1
        else:
            kept.append(f"{pair[0]}\t{pair[1]}\n")
            prints.extend(found)
    return Clean("".join(kept).encode(), np.asarray(prints, dtype=np.uint64), dict(dropped))


class Cleaners:
    """Cleans chunk after chunk, in their order; processes are started when there have been many lines.

    Use it as a context manager: at its end, however it comes, the processes are gone.
    """

    def __init__(self, limits: Limits, *, alone: int = ALONE, processes: int | None = None) -> None:
        """`processes`: how many are started; None for as many as there are cores, none where there is only one."""
        self._limits = limits
        self._alone = alone
        self._processes = _cores() if processes is None else processes
        self._pool: _Pool | None = None

    def __enter__(self) -> Cleaners:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.close()

    def clean(self, items: Iterable[Item]) -> Iterator[Clean]:
        """What is left of lines or pairs, a chunk at a time.

        Raises:
            DataError: a process ended early.
        """
        chunks = _chunks(items)
        for chunk in chunks:
            self._alone -= len(chunk)
            yield _clean(chunk, self._limits)
            if self._alone < 0 and self._processes > 1:
                break
        else:
            return
        self._pool = self._pool or _Pool(self._processes)
        yield from self._pool.clean(chunks, self._limits)


class _Pool:
    """Processes, and a thread each that waits for its answers."""

    def __init__(self, processes: int) -> None:
        self._workers = [_Worker() for _ in range(processes)]
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(processes)

    def clean(self, chunks: Iterator[list[Any]], limits: Limits) -> Iterator[Clean]:
        """The cleaned chunks, in their order; a few are under way at any time."""
        waiting: deque[Future[Clean]] = deque()
        for chunk in chunks:
            waiting.append(self._threads.submit(self._ask, chunk, limits))
            if len(waiting) > 2 * len(self._workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """End the processes: they have nothing that would be lost."""
        for worker in self._workers:
            worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.process.communicate()

    def _ask(self, chunk: list[Any], limits: Limits) -> Clean:
        worker = self._free.get()
        try:
            return worker.ask(chunk, limits)
        finally:
            self._free.put(worker)


class _Worker:
    """One process."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _SERVE, json.dumps(sys.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, chunk: list[Any], limits: Limits) -> Clean:
        """Let it clean a chunk."""
        request, answer = self.process.stdin, self.process.stdout
        if request is None or answer is None:
            raise self._gone()
        try:
            _send(request, _json_bytes({"limits": asdict(limits), "items": chunk}))
            dropped, prints, text = (_receive(answer) for _ in range(3))
        except (EOFError, BrokenPipeError):
            raise self._gone() from None
        return Clean(text, np.frombuffer(prints, dtype=np.uint64), json.loads(dropped))

    def _gone(self) -> DataError:
        return DataError(
            f"corpus: expected an answer from a process that cleans text, found that it had ended (exit code "
            f"{self.process.wait()}); free some memory and run the same command again, or set OMP_NUM_THREADS to 1"
        )


def serve() -> None:
    """Answer requests until the pipe is closed: what a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, to all at once: the parent decides
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            request = json.loads(_receive(requests).decode("utf-8", "surrogatepass"))
        except EOFError:
            return
        clean = _clean(request["items"], Limits(**request["limits"]))
        for part in (_json_bytes(clean.dropped), clean.fingerprints.tobytes(), clean.text):
            _send(answers, part)


def _clean(chunk: Sequence[Any], limits: Limits) -> Clean:
    return clean_lines(chunk, limits) if isinstance(chunk[0], str) else clean_pairs(chunk, limits)


def _pair_problem(pair: tuple[str, str], fingerprints: tuple[int, int], limits: Limits) -> str | None:
    problems = [length_problem(text, limits.minimum, limits.maximum) for text in pair]
    for reason in ("empty", "too_short", "too_long"):
        if reason in problems:
            return reason
    if fingerprints[0] == fingerprints[1]:
        return "same_on_both_sides"
    narrow, wide = sorted(map(display_width, pair))
    return "ratio" if wide > limits.ratio * narrow else None


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of so many items and about so many characters at most."""
    chunk: list[Item] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += len(item) if isinstance(item, str) else len(item[0]) + len(item[1])
        if len(chunk) == CHUNK_LINES or characters > CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _cores() -> int:
    """Cores that this process may use, or fewer if OMP_NUM_THREADS says so."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(wanted), allowed) if wanted.isdigit() and int(wanted) > 0 else allowed


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _send(stream: IO[bytes], content: bytes) -> None:
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    """The next message.

    Raises:
        EOFError: the other end is closed.
    """
    head = stream.read(_LENGTH.size)
    content = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if len(head) < _LENGTH.size or len(content) < _LENGTH.unpack(head)[0]:
        raise EOFError
    return content
