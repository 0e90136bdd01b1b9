"""Links in both directions on text whose links are known, and what is counted on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_links import Oracle, Sentences, assert_same_links, lists, translated

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError
from trelm.word_links import cells as cells_module
from trelm.word_links.links import WordLinks, alignment_error_rate, count_linked_pairs, link
from trelm.word_links.model import FLOOR, best_links, train_direction


@pytest.mark.parametrize("cells", [1, 7, 50])
def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    source, target, _ = translated(30, reverse=False)
    whole = link(Ragged.of(source), Ragged.of(target))
    monkeypatch.setattr(cells_module, "CHUNK_CELLS", cells)
    monkeypatch.setattr(cells_module, "BLOCK_CELLS", max(1, cells // 2))
    parts = link(Ragged.of(source), Ragged.of(target))
    assert lists(whole.source_of_target) == lists(parts.source_of_target)
    assert lists(whole.target_of_source) == lists(parts.target_of_source)
    assert whole.statistics["forward"]["tension"] == pytest.approx(parts.statistics["forward"]["tension"], abs=1e-4)


@pytest.mark.parametrize("max_pairs", [None, 80])
def test_threads_change_no_link_and_no_figure(monkeypatch: pytest.MonkeyPatch, max_pairs: int | None) -> None:
    source, target, _ = translated(100, reverse=True)
    monkeypatch.setattr(cells_module, "CHUNK_CELLS", 50)
    monkeypatch.setattr(cells_module, "BLOCK_CELLS", 20)
    marks = np.arange(200) % 5 == 0
    alone, together = (
        link(Ragged.of(source), Ragged.of(target), max_pairs=max_pairs, target_continuation=marks, threads=threads)
        for threads in (1, 3)
    )
    assert lists(alone.source_of_target) == lists(together.source_of_target)
    assert lists(alone.target_of_source) == lists(together.target_of_source)
    assert alone.statistics | {"seconds": 0} == together.statistics | {"seconds": 0}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_dictionary_translation_is_found(reverse: bool) -> None:
    source, target, truth = translated(1000, reverse=reverse)
    links = link(Ragged.of(source), Ragged.of(target))
    for found in (lists(links.source_of_target), lists(links.target_of_source)):
        gold = {(k, j * 100 + i) for k, row in enumerate(truth) for j, i in enumerate(row)}
        guess = {(k, j * 100 + i) for k, row in enumerate(found) for j, i in enumerate(row) if i >= 0}
        assert alignment_error_rate(guess, gold, gold) < 0.05


def test_statistics_and_progress() -> None:
    source, target, _ = translated(40, reverse=False)
    seen: list[tuple[int, int]] = []
    sides = Ragged.of([*source, []]), Ragged.of([*target, [1]])
    links = link(*sides, iterations=3, on_progress=lambda done, total: seen.append((done, total)))
    found = links.statistics
    assert seen == [(step, 8) for step in range(1, 9)]
    assert (found["pairs"], found["pairs_trained_on"], found["pairs_with_an_empty_side"]) == (41, 41, 1)
    unlinked = np.mean(links.source_of_target.values == -1)
    assert found["forward"]["share_unlinked"] == pytest.approx(unlinked)
    assert found["links_per_target_token"] == pytest.approx(1 - unlinked)
    assert len(found["reverse"]["log_likelihood"]) == 3
    assert found["seconds"] > 0
    assert found["unit"] == "piece"


def test_the_shares_are_those_of_the_links() -> None:
    source, target, _ = translated(60, reverse=False)
    for row in target[:30]:
        row.append(300)
    links = link(Ragged.of(source), Ragged.of(target))
    forward, reverse, found = links.source_of_target, links.target_of_source, links.statistics
    agreed = sum(i >= 0 and reverse[k][i] == j for k in range(60) for j, i in enumerate(forward[k]))
    assert found["agreed_links"] == agreed
    assert found["agreed_links_per_target_token"] == pytest.approx(agreed / len(forward.values))
    for name, side in (("forward", forward), ("reverse", reverse)):
        assert found[name]["positions"] == len(side.values)
        assert found[name]["links"] == np.count_nonzero(side.values >= 0)


def test_nothing_is_linked_to_an_empty_side() -> None:
    links = link(Ragged.of([[0], [], [1]]), Ragged.of([[0], [0, 1], []]))
    assert lists(links.source_of_target) == [[0], [-1, -1], []]
    assert lists(links.target_of_source) == [[0], [], [-1]]


def test_a_word_that_nothing_explains_is_unlinked() -> None:
    """A mark somewhere in every output sentence keeps company with all words alike: the null word explains it."""
    source, target, _ = translated(300, reverse=False)
    rng = np.random.default_rng(1)
    for row in target:
        row.insert(int(rng.integers(0, len(row) + 1)), 200)
    found = link(Ragged.of(source), Ragged.of(target), iterations=8).source_of_target
    marks = np.concatenate([np.asarray(row) == 200 for row in target])
    assert np.mean(found.values[marks] == -1) > 0.8
    assert np.mean(found.values[~marks] == -1) < 0.01


def test_max_pairs_trains_on_the_first_and_links_all() -> None:
    source, target, _ = translated(200, reverse=True)
    source[-1], target[-1] = [500, source[0][0]], [target[0][-1], 600]
    links = link(Ragged.of(source), Ragged.of(target), max_pairs=150)
    assert links.statistics["pairs_trained_on"] == 150
    model = train_direction(Ragged.of(source[:150]), Ragged.of(target[:150]))
    assert model.probability(500, 0) == FLOOR
    assert lists(links.source_of_target) == lists(best_links(model, Ragged.of(source), Ragged.of(target)))
    assert links.source_of_target[199][0] == 1
    oracle = Oracle(source[:150], target[:150], 5)
    assert_same_links(oracle, source[140:], target[140:], lists(links.source_of_target)[140:])


def test_max_pairs_of_all_pairs_and_more_is_no_limit() -> None:
    source, target, _ = translated(50, reverse=False)
    free, *limited = (link(Ragged.of(source), Ragged.of(target), max_pairs=count) for count in (None, 50, 51))
    for links in limited:
        assert lists(links.source_of_target) == lists(free.source_of_target)
        assert lists(links.target_of_source) == lists(free.target_of_source)
        assert links.statistics["pairs_trained_on"] == 50


@pytest.mark.parametrize("cells", [1, 7, 50])
def test_small_chunks_change_nothing_in_held_out_text(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    source, target, _ = translated(40, reverse=False)
    whole = link(Ragged.of(source), Ragged.of(target), max_pairs=25)
    monkeypatch.setattr(cells_module, "CHUNK_CELLS", cells)
    monkeypatch.setattr(cells_module, "BLOCK_CELLS", max(1, cells // 2))
    parts = link(Ragged.of(source), Ragged.of(target), max_pairs=25)
    assert lists(whole.source_of_target) == lists(parts.source_of_target)
    assert lists(whole.target_of_source) == lists(parts.target_of_source)


def test_held_out_pairs_say_nothing_to_the_model() -> None:
    source, target, _ = translated(80, reverse=False)
    other = [list(reversed(row)) for row in target[60:]]
    first, second = (
        link(Ragged.of(source), Ragged.of(target[:60] + tail), max_pairs=60) for tail in (target[60:], other)
    )
    for name in ("forward", "reverse"):
        assert first.statistics[name]["log_likelihood"] == second.statistics[name]["log_likelihood"]
    assert lists(first.source_of_target)[:60] == lists(second.source_of_target)[:60]


def test_linking_by_words_links_pieces_of_linked_words() -> None:
    source, target, truth = translated(400, reverse=True)
    pieces = [[piece for word in row for piece in (word, 200)] for row in source]
    continuation = np.arange(201) == 200
    links = link(Ragged.of(pieces), Ragged.of(target), source_continuation=continuation)
    right = [i == 2 * j for row, gold in zip(lists(links.source_of_target), truth) for i, j in zip(row, gold)]
    assert np.mean(right) > 0.95
    back = lists(links.target_of_source)
    assert all(row[0::2] == row[1::2] for row in back)
    assert links.statistics["unit"] == "word"
    assert links.statistics["reverse"]["positions"] == sum(map(len, pieces))


def test_words_on_the_target_side_alone_mirror_words_on_the_source_side_alone() -> None:
    source, target, _ = translated(200, reverse=True)
    pieces = [[piece for word in row for piece in (word, 200)] for row in source]
    continuation = np.arange(201) == 200
    one = link(Ragged.of(pieces), Ragged.of(target), source_continuation=continuation)
    other = link(Ragged.of(target), Ragged.of(pieces), target_continuation=continuation)
    assert lists(one.source_of_target) == lists(other.target_of_source)
    assert lists(one.target_of_source) == lists(other.source_of_target)
    assert other.statistics["unit"] == "word"
    assert other.statistics["forward"]["positions"] == sum(map(len, pieces))


def test_words_of_one_piece_each_are_linked_as_pieces() -> None:
    source, target, _ = translated(60, reverse=False)
    pieces = link(Ragged.of(source), Ragged.of(target))
    by_words = link(Ragged.of(source), Ragged.of(target), source_continuation=np.zeros(200, dtype=bool))
    assert lists(pieces.source_of_target) == lists(by_words.source_of_target)
    assert lists(pieces.target_of_source) == lists(by_words.target_of_source)
    assert (pieces.statistics["unit"], by_words.statistics["unit"]) == ("piece", "word")


def test_held_out_text_is_linked_by_words_too() -> None:
    source, target, truth = translated(400, reverse=True)
    pieces = [[piece for word in row for piece in (word, 200)] for row in source]
    continuation = np.arange(201) == 200
    links = link(Ragged.of(pieces), Ragged.of(target), max_pairs=350, source_continuation=continuation)
    held_out = zip(lists(links.source_of_target)[350:], truth[350:])
    assert np.mean([i == 2 * j for row, gold in held_out for i, j in zip(row, gold)]) > 0.95
    assert links.statistics["pairs_trained_on"] == 350


def test_pairs_that_both_directions_link_are_counted() -> None:
    source, target = Ragged.of([[7, 8], [7], [9]]), Ragged.of([[5, 6], [5], [4]])
    links = WordLinks(Ragged.of([[0, 0], [0], [-1]]), Ragged.of([[0, 1], [0], [0]]), {})
    pairs, counts = count_linked_pairs(source, target, links)
    assert pairs.tolist() == [[7, 5]]
    assert counts.tolist() == [2.0]
    assert counts.dtype == np.float32
    none = replace(links, target_of_source=Ragged.of([[-1, -1], [-1], [-1]]))
    assert count_linked_pairs(source, target, none)[0].shape == (0, 2)


@given(text=st.lists(st.tuples(*[st.lists(st.integers(0, 3), min_size=1, max_size=5)] * 2), max_size=5), data=st.data())
def test_counts_are_those_of_a_loop(text: list[tuple[list[int], list[int]]], data: st.DataObject) -> None:
    forward, reverse = [], []
    wanted: dict[tuple[int, int], int] = {}
    for x, y in text:
        forward.append(data.draw(st.lists(st.integers(-1, len(x) - 1), min_size=len(y), max_size=len(y))))
        reverse.append(data.draw(st.lists(st.integers(-1, len(y) - 1), min_size=len(x), max_size=len(x))))
        for j, i in enumerate(forward[-1]):
            if i >= 0 and reverse[-1][i] == j:
                wanted[x[i], y[j]] = wanted.get((x[i], y[j]), 0) + 1
    links = WordLinks(Ragged.of(forward), Ragged.of(reverse), {})
    pairs, counts = count_linked_pairs(Ragged.of([x for x, _ in text]), Ragged.of([y for _, y in text]), links)
    assert list(map(tuple, pairs.tolist())) == sorted(wanted)
    assert dict(zip(map(tuple, pairs.tolist()), counts.tolist())) == wanted


def test_the_error_rate_by_hand() -> None:
    links, sure, possible = {(0, 0), (1, 1), (2, 3)}, {(0, 0), (1, 2)}, {(1, 1)}
    assert alignment_error_rate(links, sure, possible) == pytest.approx(1 - (1 + 2) / (3 + 2))
    assert alignment_error_rate(sure, sure, set()) == 0.0
    assert alignment_error_rate(set(), set(), {(0, 0)}) == 0.0


def test_sides_of_different_length_cannot_be_linked() -> None:
    message = "expected as many source as target sentences, found 2 and 1; give them pair by pair"
    with pytest.raises(DataError, match=message):
        link(Ragged.of([[0], [1]]), Ragged.of([[0]]))


@pytest.mark.parametrize("sides", [([], []), ([[0], []], [[], [1]])])
def test_nothing_to_link_is_refused(sides: tuple[Sentences, Sentences]) -> None:
    with pytest.raises(DataError, match=r"expected a pair with text on both sides, found . pairs, none of them such"):
        link(Ragged.of(sides[0]), Ragged.of(sides[1]))


def test_text_only_behind_the_pairs_to_train_on_is_refused() -> None:
    text = Ragged.of([[], [1]])
    with pytest.raises(DataError, match="found 1 pairs, none of them such; give parallel text"):
        link(text, text, max_pairs=1)


def test_numbers_below_one_are_refused() -> None:
    one = Ragged.of([[0]])
    with pytest.raises(DataError, match="expected iterations of 1 or more, found 0"):
        link(one, one, iterations=0)
    with pytest.raises(DataError, match="expected max_pairs of 1 or more, found 0"):
        link(one, one, max_pairs=0)


@pytest.mark.parametrize("side", ["source_continuation", "target_continuation"])
def test_too_few_continuation_marks_are_refused(side: str) -> None:
    text = Ragged.of([[0, 4]])
    marks: dict[str, Any] = {side: np.zeros(3, dtype=bool)}
    with pytest.raises(DataError, match="word links: expected piece ids below 3, found 4; give a continuation mark"):
        link(text, text, **marks)


def test_links_of_another_text_are_refused() -> None:
    links = WordLinks(Ragged.of([[0]]), Ragged.of([[0]]), {})
    with pytest.raises(DataError, match="expected one link for each source position, found another text's links"):
        count_linked_pairs(Ragged.of([[1, 2]]), Ragged.of([[3]]), links)
    with pytest.raises(DataError, match=r"expected one link for each target position.*; give the text that was linked"):
        count_linked_pairs(Ragged.of([[1]]), Ragged.of([[3, 4]]), links)
