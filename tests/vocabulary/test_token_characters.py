"""The characters of each token: its ids are the usual ones, and the line cut there gives the token back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from tiny_tokenizers import source_tokenizer
from trelm.vocabulary import encode_lines, encoded_with_characters

LINES = ["the state of any people", "", "they said: before these, two!", "[MASK] and <mask> in the text", "over"]
FAMILIES = ("bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert")
TOKENIZERS = {family: source_tokenizer(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]


def test_ids_are_those_of_lines_without_their_characters(tokenizer: PreTrainedTokenizerBase) -> None:
    ragged, _ = encode_lines(tokenizer, LINES, max_pieces=None)
    found = list(encoded_with_characters(tokenizer, LINES))
    assert [ids.tolist() for ids, _ in found] == [row.tolist() for row in ragged]
    assert all(ids.dtype == np.int32 and characters.shape == (len(ids), 2) for ids, characters in found)
    assert list(encoded_with_characters(tokenizer, [])) == []


def test_the_line_cut_there_is_the_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """But for the mark that begins a word or goes on with it."""
    for line, (ids, characters) in zip(LINES, encoded_with_characters(tokenizer, LINES), strict=True):
        for token, (first, last) in zip(tokenizer.convert_ids_to_tokens(ids.tolist()), characters, strict=True):
            bare = token.removeprefix("##").replace("\u0120", " ").replace("\u2581", " ").strip()
            if bare and token != tokenizer.unk_token:  # a mark alone stands for the character that it is before
                assert line[first:last].strip().lower() == bare.lower()


def test_every_letter_is_some_token_s(tokenizer: PreTrainedTokenizerBase) -> None:
    for line, (_, characters) in zip(LINES, encoded_with_characters(tokenizer, LINES), strict=True):
        covered = {place for span in characters for place in range(*span)}
        assert covered >= {place for place, character in enumerate(line) if not character.isspace()}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30)
@given(line=st.text(max_size=20))
def test_tokens_stand_in_the_order_of_their_characters(family: str, line: str) -> None:
    """Which is what the search for overlapping tokens relies on."""
    ((_, characters),) = encoded_with_characters(TOKENIZERS[family], [line])
    assert (characters[:, 0] <= characters[:, 1]).all()
    assert (np.diff(characters, axis=0) >= 0).all()
    assert (characters >= 0).all()
    assert (characters <= len(line)).all()
