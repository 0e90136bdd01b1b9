"""Freed memory stays with the process: counted in page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from trelm.training import allocator

LINUX_GLIBC = platform.libc_ver()[0] == "glibc"

PROGRAM = """
import resource, sys
from trelm.training.allocator import give_memory_back, keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] != "not" else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def allocate():
    for size in (40, 70, 50):
        bytearray(size << 20)
allocate()
if sys.argv[1] == "back":
    give_memory_back()
before = faults()
for _ in range(5):
    allocate()
print(kept, faults() - before)
"""


def run(which: str, **variables: str) -> tuple[str, int]:
    """What `keep_freed_memory` returned in a fresh process, and the page faults of what followed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, which], env=clean | variables, capture_output=True, text=True, check=True
    )
    kept, faults = found.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not LINUX_GLIBC, reason="settings of glibc")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    kept, few = run("kept")
    _, many = run("not")
    assert kept == "True"
    assert few < 1000 < many
    _, again = run("back")
    assert again > 1000


@pytest.mark.skipif(not LINUX_GLIBC, reason="settings of glibc")
def test_what_the_user_has_set_is_left_alone() -> None:
    kept, _ = run("kept", MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("it was touched"))
    assert allocator.keep_freed_memory() is False
