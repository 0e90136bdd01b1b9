from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm import embeddings
from trelm.corpus.ragged import Ragged
from trelm.embeddings import (
    MAX_REPEATS,
    SubwordVectors,
    choose_lines,
    frequency_order,
    skip_gram,
)
from trelm.errors import DataError, RunFolderError


def corpus(lines: int, low: int, high: int, seed: int = 0) -> Ragged:
    rng = np.random.default_rng(seed)
    return Ragged.of([rng.integers(low, high, rng.integers(2, 12)) for _ in range(lines)])


def train(corpora: list[Ragged], **changes: object) -> SubwordVectors:
    options = {
        "vocabulary_size": 40,
        "width": 8,
        "window": 3,
        "negatives": 3,
        "epochs": 2,
        "max_tokens": None,
        "seed": 3,
    }
    return skip_gram(corpora, **(options | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> SubwordVectors:
    return train([corpus(60, 2, 20), corpus(60, 20, 38)])


def test_entries_that_never_occurred_are_marked_and_zero(trained):
    missing = [0, 1, 38, 39]
    assert np.flatnonzero(~trained.has_vector).tolist() == missing
    assert not trained.vectors[missing].any()
    assert trained.vectors[trained.has_vector].any(axis=1).all()
    assert trained.vectors.dtype == np.float32
    assert trained.vectors.shape == (40, 8)
    assert trained.counts.dtype == np.int64


def test_two_runs_are_bit_identical_and_the_seed_matters(trained):
    corpora = [corpus(60, 2, 20), corpus(60, 20, 38)]
    assert train(corpora).vectors.tobytes() == trained.vectors.tobytes()
    assert train(corpora, seed=4).vectors.tobytes() != trained.vectors.tobytes()


RUN = """
import sys
import numpy as np
from trelm.corpus.ragged import Ragged
from trelm.embeddings import skip_gram
rng = np.random.default_rng(5)
text = Ragged.of([rng.integers(0, 30, 9) for _ in range(50)])
options = dict(vocabulary_size=30, width=8, window=3, negatives=3, epochs=2, max_tokens=None, seed=1)
sys.stdout.write(skip_gram([text], **options).vectors.tobytes().hex())
"""


def test_runs_are_bit_identical_under_other_hash_seeds():
    def run(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=environment
        ).stdout

    assert run("1") == run("2") != ""


def test_entries_of_like_contexts_get_like_vectors():
    """Entries 0 and 1 are interchangeable, 2 lives elsewhere: the first two must be nearer to each other."""
    rng = np.random.default_rng(0)
    near = [[int(rng.integers(0, 2)), *rng.integers(3, 20, 4)] for _ in range(1500)]
    far = [[2, *rng.integers(20, 37, 4)] for _ in range(750)]
    text = Ragged.of(near + far)
    vectors = train([text], epochs=8, width=16).vectors
    unit = vectors[:3] / np.linalg.norm(vectors[:3], axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


def test_counts_are_occurrences_in_the_text(trained):
    assert trained.counts.sum() == sum(trained.tokens)
    one = corpus(60, 2, 20)
    np.testing.assert_array_equal(train([one]).counts, np.bincount(one.values, minlength=40))


def test_languages_contribute_equally_within_a_line():
    long, short = corpus(900, 2, 20), corpus(200, 20, 38)
    cut = train([long, short], max_tokens=500)
    assert all(500 - 12 < tokens <= 500 for tokens in cut.tokens)
    whole = train([long, short])
    assert whole.tokens[0] == len(long.values)
    assert len(long.values) - 12 < whole.tokens[1] <= len(long.values)
    assert whole.repeats[0] == 1
    assert whole.repeats[1] == whole.tokens[1] / len(short.values)


def test_repetition_has_a_limit():
    tiny = Ragged.of([[30, 31]])
    assert train([corpus(300, 2, 20), tiny]).tokens[1] == 2 * MAX_REPEATS


def test_lines_without_a_context_are_dropped_and_counted():
    text = Ragged.of([[5], [], [6, 7]])
    result = train([text])
    assert result.dropped_lines == 2
    assert np.flatnonzero(result.has_vector).tolist() == [6, 7]


def test_lines_beyond_gensims_limit_are_not_cut_off():
    """The last entries of a very long line are trained: their vectors differ from an untrained start."""
    line = np.concatenate([np.tile([1, 2, 3, 4], 2600), np.tile([5, 6, 7, 8], 500)])
    pieces = Ragged.of([line[:10_000], line[10_000:]])
    whole, apart = train([Ragged.of([line])], epochs=1), train([pieces], epochs=1)
    np.testing.assert_array_equal(whole.counts, apart.counts)
    start = train([Ragged.of([line[:10_000]])], epochs=1)
    assert whole.has_vector[8]
    assert not start.has_vector[8]
    assert np.linalg.norm(whole.vectors[8]) > 0.2


def test_progress_counts_epochs():
    seen: list[tuple[int, int]] = []
    train([corpus(20, 0, 9)], epochs=3, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_no_text_is_an_error():
    message = "^subword vectors: expected text of both languages, found no line of two or more tokens; give more text"
    for corpora in ([], [Ragged.of([[1], []])]):
        with pytest.raises(DataError, match=message):
            train(corpora)


def test_ids_beyond_the_vocabulary_are_an_error():
    with pytest.raises(ValueError, match="skip_gram: expected ids below 40, found 40; encode with that vocabulary"):
        train([Ragged.of([[39, 40]])])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 300))
def test_chosen_lines_fill_the_budget_and_never_more(lengths, budget):
    sizes = np.array(lengths, dtype=np.int64)
    lines = choose_lines(sizes, budget)
    usable = sizes[sizes >= 2]
    wanted = min(budget, MAX_REPEATS * int(usable.sum()))
    taken = int(sizes[lines].sum())
    assert (sizes[lines] >= 2).all()
    assert wanted - usable.max(initial=0) <= taken <= wanted
    times = np.bincount(lines, minlength=len(sizes))[sizes >= 2]
    assert len(times) == 0 or times.max() - times.min() <= 1


def test_chosen_lines_are_spread_evenly_whatever_their_length():
    sizes = np.random.default_rng(0).choice([2, 40], 4000)
    lines = choose_lines(sizes, int(sizes.sum()) // 4)
    quarters = np.bincount(lines // 1000, minlength=4)
    assert quarters.min() > 0.8 * quarters.max()
    assert abs((sizes[lines] == 40).mean() - (sizes == 40).mean()) < 0.1


def plain_choice(lengths: list[int], budget: int) -> list[int]:
    """The rule of `choose_lines` on whole lists."""
    usable = [line for line, size in enumerate(lengths) if size >= 2]
    total = sum(lengths[line] for line in usable)
    if not total:
        return []
    repeats, rest = divmod(min(budget, MAX_REPEATS * total), total)
    picked, taken, before = [], 0, 0
    for line in usable:
        if taken * total <= before * rest and taken < rest:
            picked.append(line)
            taken += lengths[line]
        before += lengths[line]
    while taken > rest:
        taken -= lengths[picked.pop()]
    return usable * repeats + picked


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 300), st.integers(1, 70))
def test_lines_are_chosen_some_at_a_time_as_all_at_once(lengths, budget, together):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "_LINES", together)
        lines = choose_lines(np.array(lengths, dtype=np.int64), budget)
    assert lines.tolist() == plain_choice(lengths, budget)
    assert lines.dtype == np.int64


def plain_sentences(corpora: list[Ragged], chosen: list[list[int]], seed: int) -> list[list[int]]:
    """All chosen lines in one order, as pairs that are permuted together."""
    pairs = np.array([(c, line) for c, lines in enumerate(chosen) for line in lines], dtype=np.int64)
    return [corpora[c][line].tolist() for c, line in np.random.default_rng(seed).permutation(pairs)]


@pytest.mark.parametrize("budget", [70, 700, 3000])
@pytest.mark.parametrize("together", [7, 1 << 16])
def test_sentences_and_counts_are_those_of_whole_lists(monkeypatch, tmp_path: Path, budget, together):
    """Also from files that are mapped into memory; some corpora are read in part, some whole, some several times."""
    corpora = [corpus(150, 2, 20), corpus(40, 20, 38)]
    chosen = [plain_choice(text.lengths().tolist(), budget) for text in corpora]
    wanted = plain_sentences(corpora, chosen, seed=3)
    monkeypatch.setattr(embeddings, "_LINES", together)
    for number, text in enumerate(corpora):
        text.save(tmp_path, str(number))
    for texts in (corpora, [Ragged.load(tmp_path, str(number)) for number in range(2)]):
        found = [embeddings._Chosen.of(text, budget) for text in texts]
        sentences = embeddings._Sentences(found, np.random.default_rng(3))
        assert list(sentences) == wanted == list(sentences)
        assert len(sentences) == len(wanted)
        counts = np.bincount([token for line in wanted for token in line], minlength=40)
        np.testing.assert_array_equal(found[0].count(40) + found[1].count(40), counts)
        assert [text.tokens for text in found] == [counts[:20].sum(), counts[20:].sum()]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path):
    """Ten times the text, the same `max_tokens`."""

    def peak(lines: int) -> int:
        offsets = np.arange(lines + 1, dtype=np.int64) * 20
        Ragged(np.resize(np.arange(40, dtype=np.int32), lines * 20), offsets).save(tmp_path, "text")
        text = Ragged.load(tmp_path, "text")
        tracemalloc.start()
        train([text], epochs=1, max_tokens=2000)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "_LINES", 1000)
        small, large = peak(4_000), peak(40_000)
    assert large < 1.2 * small


def test_frequency_order_falls_and_breaks_ties_by_row():
    order = frequency_order(np.array([3, 0, 7, 3, 0, 7], dtype=np.int64))
    assert order.tolist() == [2, 5, 0, 3]
    assert order.dtype == np.int64


def test_vectors_are_saved_and_loaded(trained, tmp_path: Path):
    trained.save(tmp_path)
    loaded = SubwordVectors.load(tmp_path)
    np.testing.assert_array_equal(loaded.vectors, trained.vectors)
    np.testing.assert_array_equal(loaded.counts, trained.counts)
    assert (loaded.tokens, loaded.repeats, loaded.dropped_lines) == (trained.tokens, trained.repeats, 0)
    about = json.loads((tmp_path / "vectors.json").read_text())
    assert about["entries_without_vector"] == 4
    (tmp_path / "vectors.json").write_text("{")
    with pytest.raises(RunFolderError, match="expected JSON"):
        SubwordVectors.load(tmp_path)
