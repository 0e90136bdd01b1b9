"""What the tests of word links share: the link model in plain Python, one cell at a time, and made-up translations."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st
from scipy.special import digamma

from trelm.corpus.ragged import Ragged
from trelm.word_links.model import FLOOR

Sentences = list[list[int]]

words = st.integers(0, 5)
sentences = st.lists(words, min_size=0, max_size=5)
corpora = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6).filter(
    lambda pairs: any(x and y for x, y in pairs)
)


def lists(ragged: Ragged) -> Sentences:
    return [ragged[i].tolist() for i in range(len(ragged))]


def translated(pairs: int, *, reverse: bool, seed: int = 0) -> tuple[Sentences, Sentences, Sentences]:
    """A dictionary translation in the same order or reversed; and the true source position of each target word."""
    rng = np.random.default_rng(seed)
    dictionary = rng.permutation(200)
    source = [rng.choice(200, size=rng.integers(3, 12), replace=False).tolist() for _ in range(pairs)]
    target = [[int(dictionary[word]) for word in (words[::-1] if reverse else words)] for words in source]
    truth = [list(range(len(words)))[::-1] if reverse else list(range(len(words))) for words in source]
    return source, target, truth


class Oracle:
    """Dyer et al. 2013, one cell at a time."""

    def __init__(self, given: Sentences, output: Sentences, iterations: int) -> None:
        self.pairs = [(x, y) for x, y in zip(given, output) if x]
        size = max(word for _, y in self.pairs for word in y) + 1
        self.table = {(e, f): 1 / size for x, y in self.pairs for e in x for f in y}
        self.null = dict.fromkeys(range(size), 1 / size)
        self.tension = 4.0
        self.likelihoods: list[float] = []
        for iteration in range(iterations):
            self.step(iteration)

    def joint(self, x: list[int], y: list[int], j: int) -> tuple[list[float], float]:
        weights = [math.exp(-self.tension * abs((i + 1) / len(x) - (j + 1) / len(y))) for i in range(len(x))]
        prior = [0.92 * weight / sum(weights) for weight in weights]
        cells = [p * self.table.get((e, y[j]), FLOOR) for p, e in zip(prior, x)]
        return cells, 0.08 * self.null.get(y[j], FLOOR)

    def step(self, iteration: int) -> None:
        counts, null_counts = dict.fromkeys(self.table, 0.0), dict.fromkeys(self.null, 0.0)
        feature, likelihood, masses = 0.0, 0.0, []
        for x, y in self.pairs:
            for j, f in enumerate(y):
                cells, null = self.joint(x, y, j)
                total = sum(cells) + null
                likelihood += math.log(total)
                null_counts[f] += null / total
                masses.append((len(x), len(y), j, 1 - null / total))
                for i, (cell, e) in enumerate(zip(cells, x)):
                    counts[e, f] += cell / total
                    feature -= cell / total * abs((i + 1) / len(x) - (j + 1) / len(y))
        self.likelihoods.append(likelihood / len(masses))
        if iteration > 0:
            self.move_tension(feature, masses)
        self.normalise(counts, null_counts)

    def move_tension(self, feature: float, masses: list[tuple[int, int, int, float]]) -> None:
        for _ in range(8):
            model = 0.0
            for n, m, j, mass in masses:
                features = [-abs((i + 1) / n - (j + 1) / m) for i in range(n)]
                weights = [math.exp(self.tension * value) for value in features]
                model += mass * sum(w * value for w, value in zip(weights, features)) / sum(weights)
            gradient = (feature - model) / sum(mass for *_, mass in masses)
            self.tension = min(max(self.tension + 20 * gradient, 0.1), 14.0)

    def normalise(self, counts: dict[tuple[int, int], float], null_counts: dict[int, float]) -> None:
        totals: dict[int, float] = {}
        for (e, _), count in counts.items():
            totals[e] = totals.get(e, 0.0) + count + 0.01
        self.table = {
            (e, f): max(math.exp(digamma(c + 0.01) - digamma(totals[e])), FLOOR) for (e, f), c in counts.items()
        }
        total = sum(count + 0.01 for count in null_counts.values())
        self.null = {f: max(math.exp(digamma(c + 0.01) - digamma(total)), FLOOR) for f, c in null_counts.items()}

    def scores(self, x: list[int], y: list[int], j: int) -> dict[int, float]:
        cells, null = self.joint(x, y, j)
        return {-1: null, **dict(enumerate(cells))}


def assert_same_links(oracle: Oracle, given_text: Sentences, output: Sentences, links: Sentences) -> None:
    """Each link is the oracle's best one, up to ties that float32 decides otherwise."""
    for x, y, found in zip(given_text, output, links):
        for j, position in enumerate(found):
            scores = oracle.scores(x, y, j)
            assert scores[position] >= max(scores.values()) * (1 - 1e-3)
