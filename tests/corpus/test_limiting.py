"""Little data: what limits leave, against sorting in plain Python; and whole corpora with a copy of a side."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm.corpus.cleaning import fingerprint
from trelm.corpus.limiting import limit_training
from trelm.corpus.preparation import prepare
from trelm.corpus.splitting import BEYOND_LIMIT, IN_PAIRS, OTHER, TRAINING, FingerprintFile, Split, split_corpus
from trelm.errors import DataError

VALUES = st.lists(st.integers(1, 40), max_size=30)
PAIRS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30)
LIMITS = st.none() | st.integers(1, 12)


def mix(value: int) -> int:
    """SplitMix64 in plain integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


def spread(values: list[int]) -> list[int]:
    """Fingerprints that differ in their first bits, as real ones do."""
    return [mix(value + 1000) for value in values]


def limited_by_hand(
    split: Split, target: list[int], pairs: list[tuple[int, int]], max_lines: int | None, max_pairs: int | None
) -> tuple[list[int], list[int]]:
    """Fates of the target text and of the pairs under the limits, from those without."""
    text, whole = split.target.fates.tolist(), split.pairs.fates.tolist()
    if max_lines is None and max_pairs is None:
        return text, whole
    trained = sorted(
        (p for p, fate in enumerate(whole) if fate == TRAINING), key=lambda p: mix(pairs[p][0] ^ mix(pairs[p][1]))
    )
    for place in trained[len(trained) if max_pairs is None else max_pairs :]:
        whole[place] = BEYOND_LIMIT
    sides = {side for _, side in pairs}
    own = [place for place in range(len(target)) if text[place] == TRAINING]
    for place in own:
        text[place] = IN_PAIRS if target[place] in sides else TRAINING
    free = sorted((place for place in own if text[place] == TRAINING), key=lambda place: mix(target[place]))
    for place in free[len(free) if max_lines is None else max_lines :]:
        text[place] = BEYOND_LIMIT
    seen: set[int] = set()
    for place, (_, side) in enumerate(pairs):
        trains = whole[place] == TRAINING and side not in seen
        text[len(target) + place] = TRAINING if trains else OTHER
        seen |= {side} if trains else set()
    return text, whole


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES, PAIRS, LIMITS, LIMITS, st.integers(1, 40), st.booleans())
def test_the_limits_leave_what_sorting_by_hand_leaves(
    source: list[int], target: list[int], pairs: list[tuple[int, int]],
    max_lines: int | None, max_pairs: int | None, block: int, in_files: bool,
) -> None:  # fmt: skip
    source, target = spread(source), spread(target)
    pairs = list(zip(spread([s for s, _ in pairs]), spread([t for _, t in pairs])))
    arrays = [np.array(values, dtype=np.uint64) for values in (source, target)]
    sides = tuple(np.array([pair[side] for pair in pairs], dtype=np.uint64) for side in (0, 1))
    options: dict[str, Any] = {"evaluation": arrays[0][:0], "fraction": 0.2, "limit": 8}
    whole = split_corpus(*arrays, sides, **options)  # type: ignore[arg-type]
    with (
        tempfile.TemporaryDirectory() as name,
        patch("trelm.corpus.splitting.BLOCK", block),
        patch("trelm.corpus.limiting.BLOCK", block),
    ):
        folder, text = Path(name), arrays[1]
        (folder / "buckets").mkdir()
        if in_files:
            text.tofile(folder / "text")
            text = FingerprintFile(folder / "text", len(target))
        found = split_corpus(arrays[0], text, sides, **options, folder=folder / "buckets" if in_files else None)  # type: ignore[arg-type]
        limit_training(found, text, sides, max_lines=max_lines, max_pairs=max_pairs)  # type: ignore[arg-type]
        expected = limited_by_hand(whole, target, pairs, max_lines, max_pairs)
        assert (found.target.fates.tolist(), found.pairs.fates.tolist()) == expected
        assert found.source.fates.tolist() == whole.source.fates.tolist()
        for part, same in zip((found.source, found.target, found.pairs), (whole.source, whole.target, whole.pairs)):
            assert part.held_out.tolist() == same.held_out.tolist()


# Whole corpora

LINES, PAIRED = 900, 300


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def write_corpus(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Text of both languages, and pairs whose target side the text has a copy of; in an order of its own."""
    folder.mkdir()
    files = {
        "en.txt": [f"English sentence number {number}." for number in range(LINES)],
        "mono.txt": [f"kalimat nomor {number}." for number in range(LINES)],
        "parallel_side.txt": [f"Pasangan nomor {number}!" for number in range(PAIRED)],
        "pairs.tsv": [f"Pair number {number}\tpasangan nomor {number}" for number in range(PAIRED)],
    }
    for name, lines in files.items():
        random.Random(seed).shuffle(lines)
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    target = [str(folder / name) for name in ("mono.txt", "parallel_side.txt")]
    return {
        "source_text": [str(folder / "en.txt")],
        "target_text": target[:: -1 if seed else 1],
        "parallel": [str(folder / "pairs.tsv")],
    }


def prepared(folder: Path, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "languages": ("en", "id"), "evaluation_text": [], "min_characters": 2, "max_characters": 200,
        "max_pair_ratio": 4.0, "held_out_fraction": 0.05, "held_out_lines": 40, "max_lines": None,
    }  # fmt: skip
    return prepare(folder, **inputs, **{**values, **options})


@pytest.mark.parametrize(("max_lines", "max_pairs"), [(100, 50), (100, None), (None, 50), (10_000, 10_000)])
def test_what_a_limit_drops_does_not_come_back(tmp_path: Path, max_lines: int | None, max_pairs: int | None) -> None:
    inputs = write_corpus(tmp_path / "in")
    prepared(tmp_path / "all", inputs)
    counts = prepared(tmp_path / "few", inputs, max_target_lines=max_lines, max_pairs=max_pairs)
    few, everything = tmp_path / "few", tmp_path / "all"
    for name in ("source.txt", "source-held-out.txt", "target-held-out.txt", "parallel-held-out.tsv"):
        assert read(few / name) == read(everything / name)
    pairs, text = read(few / "parallel.tsv"), read(few / "target.txt")
    assert set(pairs) <= set(read(everything / "parallel.tsv"))
    assert len(pairs) == min(max_pairs or LINES, len(read(everything / "parallel.tsv")))
    sides = {line.split("\t")[1] for line in pairs}
    assert {line for line in text if line.startswith("pasangan")} == sides  # in the pairs' own spelling
    assert not [line for line in text if line.startswith("Pasangan")]
    own = [line for line in text if line.startswith("kalimat")]
    assert len(own) + len(sides) == len(text) == counts["outputs"]["target.txt"]["lines"]
    whole = [line for line in read(everything / "target.txt") if line.startswith("kalimat")]
    assert len(own) == min(max_lines or LINES, len(whole))
    assert set(own) <= set(whole)

    entries = {name.rpartition("/")[2]: entry for name, entry in counts["inputs"].items()}
    dropped = {name: entry["dropped"] for name, entry in entries.items()}
    assert dropped["mono.txt"]["beyond_limit"] == len(whole) - len(own)
    assert dropped["parallel_side.txt"]["in_pairs"] == PAIRED - dropped["parallel_side.txt"]["held_out"]
    assert dropped["pairs.tsv"]["beyond_limit"] == len(read(everything / "parallel.tsv")) - len(pairs)
    assert [entries[name]["kept"] for name in ("mono.txt", "parallel_side.txt", "pairs.tsv")] == [
        len(own), 0, len(pairs)
    ]  # fmt: skip
    assert dropped["en.txt"]["beyond_limit"] == dropped["en.txt"]["in_pairs"] == 0


def test_without_limits_nothing_is_dropped_for_them(tmp_path: Path) -> None:
    counts = prepared(tmp_path / "out", write_corpus(tmp_path / "in"))
    for entry in counts["inputs"].values():
        assert entry["dropped"]["beyond_limit"] == entry["dropped"]["in_pairs"] == 0
    assert "target-development.txt" not in counts["outputs"]
    assert not (tmp_path / "out" / "target-development.txt").exists()


def test_the_sample_depends_on_no_order_and_a_smaller_one_is_part_of_it(tmp_path: Path) -> None:
    options = {"max_target_lines": 100, "max_pairs": 60}
    prepared(tmp_path / "a", write_corpus(tmp_path / "in"), **options)
    prepared(tmp_path / "b", write_corpus(tmp_path / "other", seed=5), **options)
    prepared(tmp_path / "c", write_corpus(tmp_path / "third"), max_target_lines=40, max_pairs=20)
    for name in ("target.txt", "parallel.tsv"):
        prints = [{fingerprint(line) for line in read(tmp_path / part / name)} for part in "abc"]
        assert prints[0] == prints[1] > prints[2]


def test_the_sample_is_even(tmp_path: Path) -> None:
    prepared(tmp_path / "out", write_corpus(tmp_path / "in"), max_target_lines=300)
    numbers = [int(line.split()[-1].rstrip(".")) for line in read(tmp_path / "out" / "target.txt") if "kalimat" in line]
    # a mean of 300 of 900 numbers: a standard deviation of 15 x sqrt(2 / 3)
    assert abs(np.mean(numbers) - LINES / 2) < 4 * 15 * (2 / 3) ** 0.5


def test_development_lines_are_held_out_and_not_scored(tmp_path: Path) -> None:
    inputs = write_corpus(tmp_path / "in")
    prepared(tmp_path / "all", inputs)
    counts = prepared(tmp_path / "out", inputs, development_lines=15)
    held_out = read(tmp_path / "all" / "target-held-out.txt")
    scored, chosen = (read(tmp_path / "out" / f"target-{kind}.txt") for kind in ("held-out", "development"))
    assert (len(held_out), len(scored), len(chosen)) == (40, 25, 15)
    assert sorted(scored + chosen) == sorted(held_out)
    assert [held_out.index(line) for line in chosen] == [round(number * 39 / 14) for number in range(15)]
    for name in ("target.txt", "source.txt", "parallel.tsv", "source-held-out.txt", "parallel-held-out.tsv"):
        assert read(tmp_path / "out" / name) == read(tmp_path / "all" / name)
    assert counts["outputs"]["target-development.txt"] == {"lines": 15, "characters": sum(map(len, chosen))}
    assert counts["outputs"]["target-held-out.txt"] == {"lines": 25, "characters": sum(map(len, scored))}


def test_models_are_scored_on_no_less_than_they_are_chosen_on(tmp_path: Path) -> None:
    inputs = write_corpus(tmp_path / "in")
    prepared(tmp_path / "out", inputs, development_lines=20)
    words = (
        r"corpus\.development_lines: expected at most 20, half of the 40 held-out lines of target text, found 21; "
        r"lower it, or raise corpus\.held_out_fraction"
    )
    with pytest.raises(DataError, match=words):
        prepared(tmp_path / "out", inputs, development_lines=21)
