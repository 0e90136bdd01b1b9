"""Copies and means of pieces, with tokenizers of every kind on either side."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, RobertaTokenizer

from tiny_tokenizers import FAMILIES, source_tokenizer
from trelm.initialisation import Mixture, pieces, shared, specials, surfaces
from trelm.initialisation.mixture import PIECES, RANDOM, SHARED, SPECIAL
from trelm.vocabulary import shared_entries, special_rows

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece(*entries: str, lower: bool = True) -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab={entry: row for row, entry in enumerate([*SPECIALS, *entries])}, do_lower_case=lower)


def byte_level(*entries: str, merges: list[tuple[str, str]], prefix: bool = False) -> PreTrainedTokenizerBase:
    roles = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {entry: row for row, entry in enumerate([*roles, *entries])}
    return RobertaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=prefix)


def unigram(*entries: str) -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), *((entry, -1.0) for entry in entries)], unk_id=0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def described(
    mixture: Mixture, tokenizer: PreTrainedTokenizerBase, source: PreTrainedTokenizerBase, *entries: str
) -> list[dict[str, float]]:
    """The source entries of each entry with their weights."""
    spelling = {row: entry for entry, row in source.get_vocab().items()}
    rows = [mixture.weights[tokenizer.get_vocab()[entry]] for entry in entries]
    return [{spelling[column]: float(weight) for column, weight in zip(row.indices, row.data)} for row in rows]


def test_entries_spelled_alike_and_roles_are_copied():
    source, target = wordpiece("un", "##der", "house"), wordpiece("house", "##house", "haus", "##der")
    mixture = shared(target, source)
    assert described(mixture, target, source, "house", "##house", "haus", "##der", "[MASK]") == [
        {"house": 1.0},
        {},
        {},
        {"##der": 1.0},
        {"[MASK]": 1.0},
    ]
    assert mixture.counts["special"] == 5
    assert mixture.counts["shared"] == 2
    assert specials(target, source).counts["shared"] == 0


def test_special_tokens_are_matched_by_role_across_kinds():
    source, target = source_tokenizer("bert"), source_tokenizer("roberta")
    mixture = shared(target, source)
    roles = described(mixture, target, source, "<s>", "</s>", "<pad>", "<unk>", "<mask>")
    assert roles == [{"[CLS]": 1.0}, {"[SEP]": 1.0}, {"[PAD]": 1.0}, {"[UNK]": 1.0}, {"[MASK]": 1.0}]


def test_wordpieces_are_cut_as_they_stand_in_a_word_worked_by_hand():
    source = wordpiece("un", "the", "##der", "##un", "##the", "haus", "##haus", ",", "ba", "##na")
    target = wordpiece("under", "##under", "Untheder", "##Hausun", "##,", "qqq", "##qun", "banana", "unq", lower=False)
    mixture = pieces(target, source)
    entries = ["under", "##under", "Untheder", "##Hausun", "##,", "qqq", "##qun"]
    assert described(mixture, target, source, *entries) == [
        {"un": 0.5, "##der": 0.5},
        {"##un": 0.5, "##der": 0.5},
        {"un": 1 / 3, "##the": 1 / 3, "##der": 1 / 3},
        {"##haus": 0.5, "##un": 0.5},
        {",": 1.0},  # never after a letter
        {},
        {},  # WordPiece knows the whole of a word or nothing of it
    ]
    (banana,) = described(mixture, target, source, "banana")
    assert banana == pytest.approx({"ba": 1 / 3, "##na": 2 / 3})
    codes = mixture.provenance[[target.get_vocab()[entry] for entry in ("[CLS]", "under", "qqq")]]
    assert codes.tolist() == [SPECIAL, PIECES, RANDOM]


def test_a_shared_entry_is_copied_although_it_could_be_cut():
    source, target = wordpiece("un", "##der", "under"), wordpiece("under", "underun")
    mixture = pieces(target, source)
    assert described(mixture, target, source, "under") == [{"under": 1.0}]
    assert mixture.provenance[target.get_vocab()["under"]] == SHARED


@pytest.mark.parametrize("prefix", [False, True])
def test_byte_level_pieces_are_cut_with_or_without_the_space(prefix):
    merges = [("u", "n"), ("Ġ", "un"), ("Ã", "©")]
    source = byte_level("u", "n", "Ġ", "un", "Ġun", "Ã", "©", "Ã©", ",", merges=merges, prefix=prefix)
    target = byte_level("Ġunun", "unun", "Ã©n", "Ã", "Ġ,", ",un", merges=[])
    entries = described(pieces(target, source), target, source, "Ġunun", "unun", "Ã©n", "Ġ,", ",un")
    assert entries == [
        {"Ġun": 0.5, "un": 0.5},
        {"un": 1.0},
        {"Ã©": 0.5, "n": 0.5},
        {"Ġ": 0.5, ",": 0.5},
        {",": 0.5, "un": 0.5},
    ]


def test_sentencepieces_are_cut_with_or_without_the_mark_and_unknown_ones_left_out():
    source = unigram("▁un", "un", "der", "▁")
    target = unigram("▁under", "under", "▁unq", "qq", "▁q")
    mixture = pieces(target, source)
    entries = described(mixture, target, source, "▁under", "under", "▁unq", "qq", "▁q")
    assert entries == [{"▁un": 0.5, "der": 0.5}, {"un": 0.5, "der": 0.5}, {"▁un": 1.0}, {}, {"▁": 1.0}]


def test_kinds_may_differ():
    source = wordpiece("un", "##un", "##der", ",")
    target = byte_level("Ġunder", "under", ",un", "Ġun", merges=[])
    entries = described(pieces(target, source), target, source, "Ġunder", "under", ",un", "Ġun")
    assert entries == [{"un": 0.5, "##der": 0.5}, {"##un": 0.5, "##der": 0.5}, {",": 0.5, "un": 0.5}, {"un": 1.0}]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_from_itself_is_all_copies(family):
    tokenizer = source_tokenizer(family)
    mixture = shared(tokenizer, tokenizer)
    rows, columns = mixture.weights.nonzero()
    np.testing.assert_array_equal(rows, columns)
    assert mixture.counts["special"] == len(special_rows(tokenizer, tokenizer))
    assert mixture.counts["shared"] == len(shared_entries(tokenizer, tokenizer))


NEW_WORDS = """
statewide underneath houses wherever peoples thereafter wellness Overtime 1987 kabupaten dikumpulkan
"""


def new_lines() -> list[str]:
    random = np.random.default_rng(6)
    return [" ".join(random.choice(NEW_WORDS.split(), 9)) for _ in range(200)]


@pytest.mark.parametrize("family", FAMILIES)
def test_new_entries_of_each_family_are_the_mean_of_the_sources_pieces_of_the_word(family):
    """The oracle: the source tokenizer itself, on the word behind another one."""
    source, target = source_tokenizer(family), source_tokenizer(family, new_lines())
    mixture, checked = pieces(target, source), 0
    unknown = {source.unk_token_id, *source.all_special_ids}
    before = source("and", add_special_tokens=False)["input_ids"]
    for row, surface in enumerate(surfaces(target)):
        if mixture.provenance[row] != PIECES or not surface.begins_word or not (surface.text or "").isalpha():
            continue
        ids = source(f"and {surface.text}", add_special_tokens=False)["input_ids"][len(before) :]
        expected = np.zeros(len(source))
        np.add.at(expected, [piece for piece in ids if piece not in unknown], 1.0)
        np.testing.assert_allclose(mixture.weights[row].toarray()[0], expected / expected.sum())
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source_family", ["bert", "roberta", "xlm-roberta"])
def test_between_all_kinds_most_entries_have_pieces_and_never_special_ones(family, source_family):
    source, target = source_tokenizer(source_family), source_tokenizer(family)
    mixture = pieces(target, source)
    texts = [row for row, surface in enumerate(surfaces(target)) if (surface.text or "").strip().isalpha()]
    assert (mixture.provenance[texts] != RANDOM).mean() > 0.9
    ordinary = mixture.weights[mixture.provenance == PIECES]
    assert not set(ordinary.indices.tolist()) & set(source.all_special_ids)
