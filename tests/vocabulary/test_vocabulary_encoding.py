from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_vocabularies import LINES, MINILM, other_kind, roberta, train, words
from tokenizers import models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trelm.corpus.ragged import Ragged
from trelm.vocabulary import encode_lines, shared_entries, special_rows, statistics, write_lines


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerBase:
    return MINILM


@pytest.fixture(scope="module")
def joint(minilm: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    return train(minilm)


def test_encoding_equals_the_tokenizers_own_without_special_tokens(minilm):
    lines = [*LINES, "", "word " * 300]
    ragged, truncated = encode_lines(minilm, lines, max_pieces=None, batch=5)
    assert truncated == 0
    assert len(ragged) == len(lines)
    slow = [minilm(line, add_special_tokens=False, truncation=False, padding=False)["input_ids"] for line in lines]
    assert [row.tolist() for row in ragged] == slow


def test_encoding_leaves_the_tokenizer_alone(minilm):
    before = minilm.backend_tokenizer.to_str()
    encode_lines(minilm, LINES, max_pieces=3)
    assert minilm.backend_tokenizer.to_str() == before


def test_truncated_lines_are_counted(minilm):
    ragged, truncated = encode_lines(minilm, ["one two three", "one two", "one", ""], max_pieces=2)
    assert ragged.lengths().tolist() == [2, 2, 1, 0]
    assert truncated == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=12), st.integers(1, 4), st.integers(1, 5))
def test_encoding_does_not_depend_on_the_batch(joint, lines, batch, max_pieces):
    whole, cut = encode_lines(joint, lines, max_pieces=max_pieces)
    parts, cut_in_parts = encode_lines(joint, lines, max_pieces=max_pieces, batch=batch)
    assert cut == cut_in_parts
    np.testing.assert_array_equal(whole.values, parts.values)
    np.testing.assert_array_equal(whole.offsets, parts.offsets)


@pytest.mark.parametrize("batch", [1, 4, 2_000])
def test_lines_are_written_as_they_are_encoded(tmp_path, minilm, batch):
    lines = [*LINES, "", "word " * 300]
    whole, _ = encode_lines(minilm, lines, max_pieces=None)
    done = write_lines(minilm, iter(lines), tmp_path, "ids", longest=5, batch=batch)
    found = Ragged.load(tmp_path, "ids")
    np.testing.assert_array_equal(found.values, whole.values)
    np.testing.assert_array_equal(found.offsets, whole.offsets)
    assert (done.lines, done.tokens) == (len(lines), len(whole.values))
    assert done.longer == sum(length > 5 for length in whole.lengths())
    assert 0 < done.longer < len(lines)


def test_no_line_is_written_as_nothing(tmp_path, minilm):
    assert write_lines(minilm, [], tmp_path, "ids", longest=5).lines == 0
    assert len(Ragged.load(tmp_path, "ids")) == 0


def test_spelling_of_a_special_token_in_the_text_is_ordinary_text(minilm):
    values = encode_lines(minilm, ["a [MASK] and [SEP] and [PAD]"], max_pieces=None)[0].values
    assert set(values.tolist()).isdisjoint(minilm.all_special_ids)


def test_shared_entries_equal_a_brute_force_search(minilm, joint):
    ours, theirs = words(joint.get_vocab()), words(minilm.get_vocab())
    specials = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    expected = [[i, theirs.index(piece)] for i, piece in enumerate(ours) if piece in set(theirs) - specials]
    found = shared_entries(joint, minilm)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert "the" in {ours[i] for i in found[:, 0]}


def test_no_shared_entry_keeps_the_shape():
    tokenizer = other_kind(models.WordPiece({"[UNK]": 0, "x": 1}, unk_token="[UNK]"), unk_token="[UNK]")
    source = other_kind(models.WordPiece({"[UNK]": 0, "y": 1}, unk_token="[UNK]"), unk_token="[UNK]")
    assert shared_entries(tokenizer, source).shape == (0, 2)


def test_special_rows_match_roles_not_spellings(minilm, joint):
    assert special_rows(joint, minilm).tolist() == [[0, 0], [1, 100], [2, 101], [3, 102], [4, 103]]
    assert special_rows(joint, roberta()).tolist() == [[0, 1], [1, 3], [2, 0], [3, 2], [4, roberta().mask_token_id]]


def test_statistics_equal_a_count_by_hand(minilm):
    sample = {"en": ["the house", "the"], "none": []}
    tokenizer = train(minilm, ["the the the", "house"], min_frequency=1)
    assert statistics(tokenizer, sample | {"id": ["q the"]}, minilm) == {
        "size": len(tokenizer),
        "shared_entries": len(shared_entries(tokenizer, minilm)),
        "languages": {
            "en": {"fertility": 1.0, "characters_per_piece": 11 / 3, "unknown_rate": 0.0},
            "none": {"fertility": None, "characters_per_piece": None, "unknown_rate": None},
            "id": {"fertility": 1.0, "characters_per_piece": 2.0, "unknown_rate": 0.5},
        },
    }
