"""How much text there is, and samples of it."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from trelm.config import make_config
from trelm.steps.text_sizes import Input, Sample, look, pair_inputs, text_inputs

WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def lines(count: int, seed: int = 0) -> list[str]:
    """Lines of three to nine words out of two hundred."""
    random = np.random.default_rng(seed)
    return [" ".join(f"wörd{n}" for n in random.integers(0, 200, random.integers(3, 10))) for _ in range(count)]


def written(folder: Path, name: str, text: list[str]) -> Path:
    path = folder / name
    path.write_bytes(WRITERS["" if path.suffix == ".txt" else path.suffix](("\n".join(text) + "\n").encode()))
    return path


@pytest.mark.parametrize("count", [1, 7, 100, 5000])
def test_a_sample_is_every_nth_item_and_of_bounded_size(count: int) -> None:
    sample = Sample(1000)
    text = lines(count)
    for line in text:
        sample.add((line,))
    assert sample.items == [(line,) for line in text[:: sample.stride]]
    assert sample.stride & (sample.stride - 1) == 0
    assert sample.characters == sum(len(line) for (line,) in sample.items) <= 2000
    assert sample.stride == 1 or sample.characters >= 500  # halved once, when it was above 2000


def test_a_line_longer_than_the_sample_is_kept() -> None:
    sample = Sample(10)
    sample.add(("x" * 100,))
    assert sample.items == [("x" * 100,)]


def test_small_text_is_counted_and_is_its_own_sample(tmp_path: Path) -> None:
    text = lines(50)
    size = look(text_inputs([str(written(tmp_path, "a.txt", text))]), 10**6, None)
    assert (size.lines, size.characters) == (50, (sum(map(len, text)),))
    assert [line for (line,) in size.sample] == text
    assert size.is_whole
    assert size.share == 1
    assert not size.extrapolated
    assert not size.at_least
    assert size.unpacking == 0


def test_what_is_named_twice_is_counted_once(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", lines(20))
    assert look(text_inputs([str(path), str(tmp_path / "*.txt")]), 10**6, None).lines == 20


def test_of_each_input_the_first_lines_count(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        written(tmp_path, name, lines(20))
    size = look(text_inputs([str(tmp_path / "*.txt")]), 10**6, 5)
    assert size.lines == 10
    assert size.is_whole


@pytest.mark.parametrize("ending", WRITERS)
def test_the_size_of_a_large_file_is_told_by_the_part_that_was_read(tmp_path: Path, ending: str) -> None:
    text = lines(20_000)
    path = written(tmp_path, f"a.txt{ending}", text)
    size = look(text_inputs([str(path)]), 50_000, None, most=sum(map(len, text)) // 4)
    assert size.extrapolated
    assert not size.at_least
    assert size.lines == pytest.approx(20_000, rel=0.15)
    assert size.characters[0] == pytest.approx(sum(map(len, text)), rel=0.15)
    assert size.share == pytest.approx(sum(len(line) for (line,) in size.sample) / sum(map(len, text)), rel=0.15)
    assert (size.unpacking > 0) == (ending != "")


def test_a_large_file_has_no_more_lines_than_are_used(tmp_path: Path) -> None:
    text = lines(20_000)
    path = written(tmp_path, "a.txt", text)
    assert look(text_inputs([str(path)]), 5000, 6000, most=sum(map(len, text)) // 4).lines == 6000


def test_where_no_file_tells_the_size_what_was_read_is_the_least() -> None:
    size = look([Input(lambda: ((line,) for line in lines(1000)))], 5000, None, most=10_000)
    assert size.at_least
    assert not size.extrapolated
    assert 0 < size.lines < 1000


def test_pairs_are_counted_on_both_sides(tmp_path: Path) -> None:
    sides = lines(30, 1), lines(30, 2)
    (tmp_path / "a.tsv").write_text("".join(f"{x}\t{y}\n" for x, y in zip(*sides)), encoding="utf-8")
    written(tmp_path, "x.txt", sides[0])
    written(tmp_path, "y.txt", sides[1])
    two = {"source": str(tmp_path / "x.txt"), "target": str(tmp_path / "y.txt")}
    values = {
        "source": {"model": "minilm", "language": "en", "text": ["none.txt"]},
        "target": {"language": "xx", "text": ["none.txt"]},
        "parallel": [str(tmp_path / "*.tsv"), two],
        "budget": {"updates": 1},
    }
    size = look(pair_inputs(make_config(values)), 10**6, None)
    assert size.lines == 60
    assert size.characters == tuple(2 * sum(map(len, side)) for side in sides)
    assert size.sample == [*zip(*sides), *zip(*sides)]
