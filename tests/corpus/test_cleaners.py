"""Cleaning by several processes: the same in the same order, and no process left, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus import cleaners
from trelm.corpus.cleaners import Clean, Cleaners, Limits, clean_lines, clean_pairs
from trelm.corpus.cleaning import fingerprint, normalise
from trelm.errors import DataError

LIMITS = Limits(2, 60, 4.0)
LINES = [f"  Line number {number} \u200b of a text\u00e9\x00" for number in range(500)] + [
    "x",
    "",
    "\ud800",
    "\u0130y" * 40,
]
PAIRS = [(line, f"baris nomor\t{number}\r\n") for number, line in enumerate(LINES)] + [
    ("same", "Same!"),
    ("ab", "c" * 50),
]


def together(parts: list[Clean]) -> tuple[bytes, list[int], dict[str, int]]:
    dropped: dict[str, int] = {}
    for part in parts:
        for reason, count in part.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return b"".join(part.text for part in parts), np.concatenate([p.fingerprints for p in parts]).tolist(), dropped


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaners, "CHUNK_LINES", 7)


@pytest.mark.usefixtures("small_chunks")
def test_processes_give_what_one_gives_in_its_order() -> None:
    with Cleaners(LIMITS, alone=20, processes=2) as several:
        lines, pairs = list(several.clean(LINES)), list(several.clean(PAIRS))
        again = list(several.clean(LINES[:3]))
        processes = [worker.process for worker in several._pool._workers]  # type: ignore[union-attr]
        assert [process.poll() for process in processes] == [None, None]
    assert all(process.poll() is not None for process in processes)
    assert together(lines) == together([clean_lines(LINES, LIMITS)])
    assert together(pairs) == together([clean_pairs(PAIRS, LIMITS)])
    assert together(again) == together([clean_lines(LINES[:3], LIMITS)])
    with Cleaners(LIMITS, alone=20, processes=1) as one:
        assert together(list(one.clean(LINES))) == together(lines)
        assert one._pool is None


@given(st.lists(st.text(max_size=70), max_size=20))
def test_lines_are_what_their_rules_say(lines: list[str]) -> None:
    clean = clean_lines(lines, LIMITS)
    normal = [normalise(line) for line in lines]
    kept = [line for line in normal if 2 <= len(line) <= 60 and line.strip("\u200c\u200d")]
    assert clean.text.decode().split("\n")[:-1] == kept
    assert clean.fingerprints.tolist() == [fingerprint(line) for line in kept]
    assert sum(clean.dropped.values()) == len(lines) - len(kept)


def test_pairs_by_hand() -> None:
    pairs = [("One ", "satu"), ("", "x"), ("a", "dua"), ("b" * 61, "dua"), ("2008", "2008."), ("ab", "c" * 50)]
    clean = clean_pairs(pairs, LIMITS)
    assert clean.text == b"One\tsatu\n"
    assert clean.fingerprints.tolist() == [fingerprint("One"), fingerprint("satu")]
    assert clean.dropped == {"empty": 1, "too_short": 1, "too_long": 1, "same_on_both_sides": 1, "ratio": 1}


@pytest.mark.usefixtures("small_chunks")
def test_few_lines_start_no_process() -> None:
    with Cleaners(LIMITS, alone=len(LINES), processes=2) as few:
        assert together(list(few.clean(LINES))) == together([clean_lines(LINES, LIMITS)])
        assert few._pool is None


def test_chunks_are_bounded_by_their_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaners, "CHUNK_CHARACTERS", 100)
    assert [len(chunk) for chunk in cleaners._chunks(["a" * 30] * 10)] == [4, 4, 2]
    assert [len(chunk) for chunk in cleaners._chunks([("a" * 30, "b" * 30)] * 3)] == [2, 1]


@pytest.mark.parametrize(("wanted", "cores"), [("1", 1), ("1000", None), ("", None), ("zero", None)])
def test_cores_are_those_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, wanted: str, cores: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert cleaners._cores() == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.usefixtures("small_chunks")
def test_a_process_that_is_gone_is_told_in_one_line() -> None:
    with Cleaners(LIMITS, alone=0, processes=2) as several:
        found = several.clean(LINES)
        next(found), next(found)
        for worker in several._pool._workers:  # type: ignore[union-attr]
            worker.process.kill()
        words = r"^corpus: expected an answer from a process .* ended \(exit code -9\); free some memory and .* to 1$"
        with pytest.raises(DataError, match=words):
            list(found)


PROGRAM = """
import itertools, sys, time
from trelm.corpus.cleaners import Cleaners, Limits
with Cleaners(Limits(1, 99, 2.0), alone=0, processes=2) as several:
    for number, _ in enumerate(several.clean(f"a line {i}" for i in itertools.count())):
        if number == 5:
            print(*(worker.process.pid for worker in several._pool._workers), flush=True)
"""


def is_gone(pid: int) -> bool:
    """Ended; what nobody has waited for is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_its_parent(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert not any(map(is_gone, pids))
    parent.send_signal(number)
    parent.communicate(timeout=20)
    deadline = time.monotonic() + 20
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(is_gone, pids))
