"""Balanced text of two languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from trelm.corpus.balance import balanced_lines
from trelm.errors import DataError


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def sentences(prefix: str, count: int) -> list[str]:
    return [f"{prefix} sentence number {number}." for number in range(count)]


def balanced(tmp_path: Path, source: list[str], target: list[str], limit: int = 10**9, seed: int = 1) -> list[str]:
    files = tmp_path / "s.txt", tmp_path / "t.txt"
    write(files[0], *source), write(files[1], *target)
    lines = balanced_lines(*files, limit, seed)
    found = list(lines)
    assert list(lines) == found  # as often as they are asked for
    return found


def characters(lines: list[str], prefix: str) -> int:
    return sum(len(line) for line in lines if line.startswith(prefix))


def test_balanced_repeats_the_smaller_and_interleaves(tmp_path: Path) -> None:
    source, target = sentences("A", 1000), sentences("B long long", 150)
    lines = balanced(tmp_path, source, target)
    assert [line for line in lines if line.startswith("A")] == source
    assert {4, 5} >= {lines.count(line) for line in target}
    for end in range(100, len(lines), 100):
        assert abs(characters(lines[:end], "A") - characters(lines[:end], "B")) < 100


def test_balanced_repeats_ten_times_at_most_and_samples_the_larger(tmp_path: Path) -> None:
    source, target = sentences("A", 5000), sentences("B", 10)
    lines = balanced(tmp_path, source, target)
    assert [lines.count(line) for line in target] == [10] * 10
    sampled = [line for line in lines if line.startswith("A")]
    assert 80 < len(sampled) < 110
    assert sampled == sorted(set(sampled), key=source.index)
    assert any(source.index(line) > 4000 for line in sampled)


def test_balanced_keeps_the_limit_and_the_seed(tmp_path: Path) -> None:
    source, target = sentences("A", 500), ["B " + line for line in sentences("B", 400)]
    lines = balanced(tmp_path, source, target, limit=50)
    counts = [sum(line.startswith(letter) for line in lines) for letter in "AB"]
    assert max(counts) == 50
    assert abs(characters(lines, "A") - characters(lines, "B")) < 120
    assert lines == balanced(tmp_path, source, target, limit=50)
    assert lines != balanced(tmp_path, source, target, limit=50, seed=2)


def test_balanced_skips_blank_lines(tmp_path: Path) -> None:
    assert sorted(balanced(tmp_path, ["a a", "", " "], ["", "b b"])) == ["a a", "b b"]
    with pytest.raises(DataError, match="found an empty file"):
        balanced(tmp_path, ["a"], [""])
