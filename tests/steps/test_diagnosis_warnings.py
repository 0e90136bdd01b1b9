"""Each warning: its words, its numbers, and the figures just before it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from trelm.steps.diagnosis_warnings import find_warnings

ROW = {"entries": 1000, "share_of_entries": 0.25, "share_of_tokens": 0.5, "norm_ratio": 1.0}
GOOD: dict[str, Any] = {
    "initialisation": "trelm",
    "alignment": {"method": "parallel", "collapsed": False},
    "entries": {
        "shared": {"share_of_tokens": 0.4},
        "shared_words": {"share_of_word_tokens": 0.3},
        "linked": {"share_of_tokens": 0.9},
    },
    "rows": {
        "special": {**ROW, "norm_ratio": 9.0},
        "linked": {**ROW},
        "mapped": {**ROW},
        "random": {"entries": 12, "share_of_entries": 0.003, "share_of_tokens": 0.001, "norm_ratio": 1.0},
    },
    "norm_ratio": 1.0,
    "tokenizers": {
        "new": {"fertility": 1.3, "characters_per_piece": 4.4, "unknown_rate": 0.0},
        "source": {"fertility": 2.5, "characters_per_piece": 2.4, "unknown_rate": 0.0},
    },
    "held_out": {},
}
WAYS = ("recommended", "trelm", "counts", "wechsel", "focus", "pieces", "shared", "random", "multivariate")
BETTER = "set embeddings.initialisation to recommended"


def told(*changes: tuple[str, Any]) -> list[str]:
    """The warnings of good figures with changes at paths."""
    figures = copy.deepcopy(GOOD)
    for path, value in changes:
        *above, last = path.split(".")
        node = figures
        for key in above:
            node = node[key]
        node[last] = value
    found = find_warnings(figures, ("en", "zh"))
    assert all("\n" not in warning and not warning.endswith(".") for warning in found)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_good_figures_are_not_warned_of(way: str) -> None:
    assert told(("initialisation", way)) == []


SHARED = "entries.shared_words.share_of_word_tokens"


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("shared", "copies entries spelled alike and draws all others at random"),
        ("focus", "mixes every row from entries spelled alike"),
        ("pieces", "copies entries spelled alike and takes the mean of source pieces for the others"),
    ],
)
def test_too_few_words_are_spelled_alike(way: str, what: str) -> None:
    (warning,) = told(("initialisation", way), (SHARED, 0.0774))
    assert warning == (
        f"embeddings.initialisation is {way}, which {what}; but entries spelled alike that are words or parts of words "
        "in 'zh', and in use in the 'en' text too, are only 7.7 % of the words in the 'zh' text (expected 10.0 % or "
        "more); set embeddings.initialisation to recommended, which starts from word links"
    )
    assert told(("initialisation", way), (SHARED, 0.1)) == []


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("shared", "focus", "pieces")])
def test_other_ways_need_no_words_spelled_alike(way: str) -> None:
    assert told(("initialisation", way), (SHARED, 0.0)) == []


@pytest.mark.parametrize("way", WAYS)
def test_too_few_links(way: str) -> None:
    found = told(("initialisation", way), ("entries.linked.share_of_tokens", 0.7))
    expected = (
        f"embeddings.initialisation is {way}, which mixes rows by word links; but entries with links are only 70.0 % "
        "of the 'zh' text (expected 75.0 % or more); give more parallel text, or parallel text that is more like the "
        "rest"
    )
    assert found == ([expected] if way in ("counts", "recommended") else [])


def test_rows_from_an_alignment_that_has_collapsed() -> None:
    collapsed = ("alignment", {"method": "adversarial", "collapsed": True})
    (warning,) = told(collapsed)
    assert warning == (
        "the alignment (adversarial) has collapsed, and 1,000 rows, 50.0 % of the 'zh' text, come from it: they are "
        "probably no better than random; set embeddings.initialisation to recommended, which starts from word links"
    )
    rows = {name: row for name, row in GOOD["rows"].items() if name != "mapped"}
    assert told(collapsed, ("rows", rows)) == []  # no row comes from it
    for way in WAYS:
        assert told(collapsed, ("initialisation", way)) == ([warning] if way == "trelm" else [])


def test_neighbours_need_the_alignment_where_links_are_few() -> None:
    changes = (
        ("alignment", {"method": "parallel", "collapsed": True}),
        ("initialisation", "recommended"),
        ("rows.neighbours", ROW),
    )
    assert told(*changes) == []
    for few in (told(*changes, ("rows.linked.entries", 99)), told(*changes, ("rows.linked.entries", 0))):
        (warning,) = few
        assert warning.startswith("the alignment (parallel) has collapsed, and 1,000 rows, 50.0 % of the 'zh' text")
        assert warning.endswith("probably no better than random; give more parallel text")


def test_a_table_in_which_few_translations_are_found() -> None:
    few = {"distinct_precision_at_5": 0.0376, "distinct_queries": 266, "precision_at_5": 0.9, "queries": 268}
    words = (
        "in the initial word table the 'zh' translation is among the five nearest entries for only 3.8 % of 266 'en' "
        "words (expected 10.0 % or more); "
    )
    for way in WAYS:
        todo = "give more parallel text" if way == "recommended" else f"{BETTER}, which starts from word links"
        expected = [] if way in ("random", "multivariate") else [words + todo]
        assert told(("translation", few), ("initialisation", way)) == expected
    for change in ({"distinct_precision_at_5": 0.1}, {"distinct_queries": 49}, {"distinct_precision_at_5": None}):
        assert told(("translation", {**few, **change})) == []


def test_many_rows_at_random() -> None:
    many = ("rows.random", {"entries": 5000, "share_of_entries": 0.25, "share_of_tokens": 0.061, "norm_ratio": 1.0})
    words = (
        "5,000 rows, 25.0 % of the vocabulary and 6.1 % of the 'zh' text, start at random (expected 5.0 % of the text "
        "or less); "
    )
    for way in WAYS:
        expected = [words + ("give more text" if way == "recommended" else BETTER)]
        assert told(many, ("initialisation", way)) == ([] if way in ("random", "multivariate") else expected)
    assert told(("rows.random.share_of_tokens", 0.05)) == []


def test_rows_of_strange_lengths() -> None:
    (warning,) = told(("norm_ratio", 2.5), ("rows.mapped.norm_ratio", 4.0), ("rows.linked.norm_ratio", 0.4))
    assert warning == (
        "rows are far from the source's in mean length: all rows 2.50 times, linked rows 0.40 times, mapped rows 4.00 "
        "times as long (expected 0.5 to 2); set embeddings.initialisation to recommended, which gives rows the "
        "source's lengths"
    )
    for ratio in (0.5, 2.0):
        assert told(("norm_ratio", ratio), ("rows.mapped.norm_ratio", ratio)) == []
    rare = {**ROW, "share_of_tokens": 0.049, "norm_ratio": 9.0}
    assert told(("rows.mapped", rare)) == []
    assert told(("rows.random", {**rare, "norm_ratio": None})) == []


def test_text_cut_finer_than_by_the_source() -> None:
    cut = "tokenizers.new.characters_per_piece"
    (warning,) = told((cut, 2.0))
    assert warning == (
        "the new tokenizer cuts 'zh' text finer than the source's own: 2.00 characters a subword, against 2.40; raise "
        "vocabulary.size, or give more text"
    )
    assert told((cut, 2.2)) == []
    assert told((cut, 2.0), ("tokenizers.source.unknown_rate", 0.5)) == []  # unknown words are whole
    assert told((cut, None), ("tokenizers.source.characters_per_piece", None)) == []


def test_text_that_the_new_tokenizer_does_not_know() -> None:
    (warning,) = told(("tokenizers.new.unknown_rate", 0.021))
    assert warning == (
        "2.1 % of the new tokenizer's subwords of 'zh' text are unknown (expected 1.0 % or less); raise "
        "vocabulary.alphabet_limit, or give more text"
    )
    assert told(("tokenizers.new.unknown_rate", 0.01)) == []
    assert told(("tokenizers.new.unknown_rate", None)) == []


def test_several_warnings_are_several_lines() -> None:
    assert len(told(("initialisation", "focus"), (SHARED, 0.0), ("norm_ratio", 3.0))) == 2
