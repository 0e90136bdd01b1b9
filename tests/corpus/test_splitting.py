"""The split against a slow one on Python sets."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_splitting import WholePart, split_whole

from trelm.corpus.splitting import (
    REASONS,
    TRAINING,
    FingerprintFile,
    Fingerprints,
    Part,
    Split,
    effective_fraction,
    first_occurrences,
    split_corpus,
)

PRINTS = st.lists(st.integers(1, 40), max_size=30)


def array(values: list[int]) -> Fingerprints:
    return np.array(values, dtype=np.uint64)


def split(source: list[int], target: list[int], pairs: list[tuple[int, int]], **options: object) -> Split:
    values = {"evaluation": array([]), "fraction": 0.3, "limit": 1000, **options}
    sides = array([s for s, _ in pairs]), array([t for _, t in pairs])
    return split_corpus(array(source), array(target), sides, **values)  # type: ignore[arg-type]


def mix(value: int) -> int:
    """SplitMix64 in plain integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


@settings(max_examples=200)
@given(PRINTS, PRINTS, st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30), PRINTS)
def test_nothing_held_out_or_evaluated_is_trained_on(
    source: list[int], target: list[int], pairs: list[tuple[int, int]], evaluation: list[int]
) -> None:
    result = split(source, target, pairs, evaluation=array(evaluation))
    trained_pairs = [pair for pair, trains in zip(pairs, result.pairs.training) if trains]
    held_out_pairs = [pairs[position] for position in result.pairs.held_out]
    assert len(set(trained_pairs)) == len(trained_pairs)
    held_out_anywhere = {
        (text + [pair[side] for pair in pairs])[position]
        for side, (text, part) in enumerate([(source, result.source), (target, result.target)])
        for position in part.held_out
    }
    for side, (text, part) in enumerate([(source, result.source), (target, result.target)]):
        everything = text + [pair[side] for pair in pairs]
        trained = [value for value, trains in zip(everything, part.training) if trains]
        held_out = [everything[position] for position in part.held_out]
        assert len(set(trained)) == len(trained)
        assert len(set(held_out)) == len(held_out)
        assert not set(trained) & held_out_anywhere
        assert not (set(trained) | set(held_out)) & set(evaluation)
        assert {pair[side] for pair in held_out_pairs} <= set(held_out)
        assert {pair[side] for pair in trained_pairs} <= set(trained)
        # each line of the text has one fate
        usable = set(text) - set(evaluation)
        assert usable <= set(trained) | held_out_anywhere
        fates = np.stack([part.training[: len(text)], *part.dropped.values()]).sum(axis=0)
        assert (fates == 1).all()
        # the rule itself: by content, or as the other side of a held-out pair
        fraction = result.fractions[side]
        by_content = {value for value in everything if mix(value) < fraction * 2**64}
        partners = {pair[side] for pair in held_out_pairs}
        assert set(held_out) <= by_content | partners
        assert by_content & usable <= set(held_out)


def test_the_split_is_independent_of_order() -> None:
    generator = np.random.default_rng(0)
    source, target = list(range(1, 500)), list(range(1000, 1500))
    pairs = [(int(s), int(t)) for s, t in generator.integers(1, 5000, size=(300, 2))]
    before = split(source, target, pairs)
    after = split(source[::-1], target[::-1], pairs[::-1])
    for side, text in enumerate([source, target]):
        sides = [pair[side] for pair in pairs]
        parts = (before.source, after.source) if side == 0 else (before.target, after.target)
        first = [(text + sides)[position] for position in parts[0].held_out]
        assert first == [(text[::-1] + sides[::-1])[position] for position in parts[1].held_out]
    assert [pairs[p] for p in before.pairs.held_out] == [pairs[::-1][p] for p in after.pairs.held_out]


def test_the_limit_keeps_the_lowest_hashes() -> None:
    values = list(range(1, 2000))
    part = split(values, [1], [(1, 1)], limit=50).source
    ranks = sorted((mix(value), value) for value in values)
    assert [([*values, 1])[position] for position in part.held_out] == [value for _, value in ranks[:50]]
    assert part.training.sum() == len(values) - part.dropped["held_out"].sum()


def test_a_pair_that_shares_a_side_with_a_held_out_pair_goes() -> None:
    low = next(value for value in range(1, 10_000) if mix(value) < 0.01 * 2**64)
    high = [value for value in range(1, 10_000) if mix(value) > 0.9 * 2**64][:4]
    pairs = [(low, high[0]), (high[1], high[0]), (high[1], high[2])]
    result = split([high[1]], [high[0], high[3]], pairs, fraction=0.01, limit=1)
    assert result.pairs.held_out.tolist() == [0]
    assert result.pairs.training.tolist() == [False, False, True]
    assert result.pairs.dropped["held_out"].tolist() == [True, True, False]
    assert result.target.dropped["held_out"].tolist() == [True, False]
    assert result.source.training.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("sentences", "fraction", "limit", "expected"),
    [
        (1_000_000, 0.01, 1500, 0.01),
        (10_000, 0.01, 1500, 0.02),
        (1_000, 0.01, 1500, 0.05),
        (10_000, 0.01, 50, 0.01),
        (1_000, 0.2, 1500, 0.2),
        (0, 0.01, 1500, 0.01),
    ],
)
def test_effective_fraction(sentences: int, fraction: float, limit: int, expected: float) -> None:
    assert effective_fraction(sentences, fraction, limit) == expected


def test_share_held_out_is_near_the_fraction() -> None:
    values = list(range(20_000))
    held_out = split(values, [1], [], fraction=0.1, limit=20_000).source.held_out
    assert 0.09 < len(held_out) / len(values) < 0.11


@given(PRINTS)
def test_first_occurrences(values: list[int]) -> None:
    assert first_occurrences(array(values)).tolist() == [v not in values[:i] for i, v in enumerate(values)]


def test_text_of_both_languages_is_not_trained_on_as_the_one_and_scored_as_the_other() -> None:
    common = list(range(1, 2001))
    source, target = common + list(range(10_000, 200_000)), common + list(range(300_000, 303_000))
    result = split(source, target, [], fraction=0.01, limit=1500)
    held_out = {target[position] for position in result.target.held_out}
    trained = {value for value, trains in zip(source, result.source.training) if trains}
    assert held_out & set(common)
    assert not held_out & trained


def spread(values: list[int]) -> Fingerprints:
    """Fingerprints that differ in their first bits, as real ones do."""
    return array([mix(value + 1000) for value in values])


def assert_same(part: Part, whole: WholePart) -> None:
    assert part.training.tolist() == whole.training.tolist()
    assert part.held_out.tolist() == whole.held_out.tolist()
    assert {reason: mask.tolist() for reason, mask in part.dropped.items()} == {
        reason: mask.tolist() for reason, mask in whole.dropped.items()
    }
    tally = part.tally(0, part.own)
    assert [tally[fate] for fate in REASONS.values()] == [int(whole.dropped[reason].sum()) for reason in REASONS]
    assert tally[TRAINING] == whole.training[: part.own].sum()
    assert [fate for chunk in part.chunks() for fate in chunk.tolist()] == part.fates.tolist()


@settings(max_examples=60, deadline=None)
@given(
    PRINTS, PRINTS, st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30), PRINTS,
    st.integers(1, 40), st.sampled_from([0.02, 0.3]), st.integers(1, 12), st.booleans(),
)  # fmt: skip
def test_buckets_in_files_give_what_one_look_at_everything_gives(
    source: list[int], target: list[int], pairs: list[tuple[int, int]], evaluation: list[int],
    block: int, fraction: float, limit: int, in_files: bool,
) -> None:  # fmt: skip
    texts = spread(source), spread(target)
    sides = spread([s for s, _ in pairs]), spread([t for _, t in pairs])
    options = {"evaluation": spread(evaluation), "fraction": fraction, "limit": limit}
    expected = split_whole(*texts, sides, **options)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name, patch("trelm.corpus.splitting.BLOCK", block):
        folder = Path(name)
        files = [FingerprintFile(folder / f"{number}.bin", len(text)) for number, text in enumerate(texts)]
        for file, text in zip(files, texts):
            text.tofile(file.path)
        (folder / "buckets").mkdir()
        given_texts = files if in_files else texts
        place = folder / "buckets" if in_files else None
        found = split_corpus(*given_texts, sides, **options, folder=place)  # type: ignore[arg-type, misc]
        assert_same(found.source, expected[0])
        assert_same(found.target, expected[1])
        assert_same(found.pairs, expected[2])
        assert found.fractions == expected[3]
        if in_files and block < 5 < len(set(source) - set(evaluation)):
            assert len(list(place.glob("source-*.bucket"))) > 1  # type: ignore[union-attr]


def test_a_line_that_is_there_very_often_makes_no_large_bucket(tmp_path: Path) -> None:
    values = spread([1] * 10_000 + list(range(100)))
    with patch("trelm.corpus.splitting.BLOCK", 1000):
        part = split_corpus(
            *(values, spread([1]), (array([]), array([]))), evaluation=array([]), fraction=1e-9, limit=0,
            folder=tmp_path,
        ).source  # fmt: skip
    assert part.tally(0, len(values))[TRAINING] == 100
    assert sum(path.stat().st_size for path in tmp_path.glob("source-*.bucket")) < 16 * 300
