"""Words that a tokenizer keeps whole in running text."""

from __future__ import annotations

from functools import cache

import pytest
from joint_vocabularies import LINES, MINILM, other_kind, train
from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

from tiny_tokenizers import FAMILIES, WORDS, source_tokenizer
from trelm.vocabulary import single_piece

BYTE_LEVEL = ("roberta", "modernbert", "eurobert")


@cache
def source(family: str) -> PreTrainedTokenizerBase:
    return source_tokenizer(family)


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_is_whole_where_it_is_one_token_in_a_sentence(family: str) -> None:
    """By brute force: what is added to the tokens of `of` by a word after it."""
    tokenizer, piece = source(family), single_piece(source(family))
    before, whole = ids(tokenizer, "of"), 0
    for word in [*WORDS.split(), "peoples", "zzzz", "x", "ofof", "ß한", "한국어"]:
        sentence = ids(tokenizer, f"of {word}")
        assert sentence[: len(before)] == before
        added = sentence[len(before) :]
        expected = added[0] if len(added) == 1 and added[0] != tokenizer.unk_token_id else None
        assert piece(word) == expected, word
        whole += expected is not None
    assert whole > 10


@pytest.mark.parametrize("family", BYTE_LEVEL)
def test_byte_level_bpe_has_another_row_for_a_word_after_a_space(family: str) -> None:
    vocabulary, piece = source(family).get_vocab(), single_piece(source(family))
    assert piece("little") == vocabulary["Ġlittle"]
    assert len(ids(source(family), "little")) > 1
    assert piece("people") == vocabulary["Ġpeople"]
    assert ids(source(family), "people") == [vocabulary["people"]]  # that is what begins a text


def test_a_tokenizer_that_puts_the_space_itself_is_given_none() -> None:
    tokenizer = source_tokenizer("roberta")
    without = single_piece(tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    with_prefix = single_piece(tokenizer)
    assert ids(tokenizer, "little") == [tokenizer.get_vocab()["Ġlittle"]]
    for word in WORDS.split():
        assert with_prefix(word) == without(word)


def test_wordpiece_gives_the_rows_of_words() -> None:
    piece = single_piece(MINILM)
    assert piece("house") == piece("House") == MINILM.get_vocab()["house"]
    assert piece("houseboats") is None  # pieces
    assert piece("") is None
    assert piece("two words") is None


def test_an_unknown_word_has_no_row() -> None:
    tokenizer = source_tokenizer("bert")
    assert ids(tokenizer, "한국어") == [tokenizer.unk_token_id]
    assert single_piece(tokenizer)("한국어") is None


@pytest.mark.parametrize("family", ["xlm-roberta", "camembert", "deberta-v2"])
def test_unigram_gives_the_rows_of_beginnings(family: str) -> None:
    assert single_piece(source(family))("the") == source(family).get_vocab()["▁the"]


@pytest.mark.parametrize("family", ["bert", "roberta", "eurobert"])
def test_of_a_trained_vocabulary_too(family: str) -> None:
    tokenizer = train(source(family), LINES, size=400)
    piece = single_piece(tokenizer)
    (row,) = ids(tokenizer, "so the")[len(ids(tokenizer, "so")) :]
    assert piece("the") == row
    assert tokenizer.decode([row]).strip() == "the"


def test_without_a_pre_tokeniser_the_word_is_asked_as_it_is() -> None:
    tokenizer = other_kind(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"), unk_token="[UNK]")
    assert single_piece(tokenizer)("the") == 1
    assert single_piece(tokenizer)("house") is None
