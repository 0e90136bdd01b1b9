"""Trees, against all trees of a few words."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from trelm.evaluation.trees import maximum_spanning_tree


@cache
def all_trees(n: int) -> NDArray[np.int64]:
    """[n^(n-1), n], the heads of each tree over n words of which one is at the root (Cayley)."""
    heads = np.array(list(itertools.product(range(n + 1), repeat=n)))
    heads = heads[(heads == 0).sum(axis=1) == 1]
    with_root = np.concatenate([np.zeros((len(heads), 1), dtype=np.int64), heads], axis=1)
    reached = with_root
    for _ in range(n):
        reached = np.take_along_axis(with_root, reached, axis=1)
    return heads[(reached == 0).all(axis=1)]


def total(scores: NDArray[np.float64], heads: NDArray[np.int64]) -> NDArray[np.float64]:
    return scores[np.arange(1, len(scores)), heads].sum(axis=-1)


@pytest.mark.parametrize("kind", ["normal", "negative", "tied", "root liked", "root hated", "masked"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_it_is_the_best_of_all_trees(n: int, kind: str) -> None:
    trees, generator = all_trees(n), np.random.default_rng(n)
    assert len(trees) == n ** (n - 1)
    for _ in range(40):
        scores = generator.normal(size=(n + 1, n + 1))
        if kind == "negative":
            scores -= 100
        elif kind == "tied":
            scores = generator.integers(-1, 2, size=scores.shape).astype(np.float64)
        elif kind.startswith("root"):
            scores[:, 0] += 50 if kind == "root liked" else -50
        elif kind == "masked":  # so large beside the others that a shift of their size would eat the digits
            scores[generator.random(scores.shape) < 0.3] = -1e9
        heads = maximum_spanning_tree(scores)
        assert (trees == heads).all(axis=1).any()
        assert total(scores, heads) == pytest.approx(total(scores, trees).max(), rel=1e-15, abs=1e-12)


def test_a_planted_tree_of_many_words_is_found_and_nothing_else_is_read() -> None:
    generator = np.random.default_rng(5)
    n = 200
    order = generator.permutation(np.arange(1, n + 1))
    planted = np.zeros(n + 1, dtype=np.int64)
    for place in range(1, n):
        planted[order[place]] = order[max(0, place - 1 - generator.integers(3))]  # deep
    scores = generator.uniform(size=(n + 1, n + 1))
    scores[np.arange(1, n + 1), planted[1:]] += n
    scores[0] = np.nan
    np.fill_diagonal(scores, np.inf)
    before = scores.copy()
    assert (maximum_spanning_tree(scores) == planted[1:]).all()
    np.testing.assert_array_equal(scores, before)


def test_no_words_no_heads() -> None:
    assert maximum_spanning_tree(np.zeros((1, 1))).shape == (0,)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.zeros((2, 3)), r"expected a square matrix .* found the shape \(2, 3\)"),
        (np.zeros((0, 0)), "expected a square matrix"),
        (np.array([[0, 0, 0], [0, 0, np.nan], [0, 0, 0]]), "expected a finite number for each arc"),
        (np.array([[0, 0, 0], [-np.inf, 0, 0], [0, 0, 0]]), "expected a finite number for each arc"),
    ],
)
def test_bad_scores_are_told(scores: NDArray[np.float64], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        maximum_spanning_tree(scores)
