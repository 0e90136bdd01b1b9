"""Surfaces of the entries of tokenizers of every kind."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tiny_tokenizers import FAMILIES, source_tokenizer
from trelm.errors import ConfigError
from trelm.initialisation import Surface, surfaces
from trelm.vocabulary.description import special_ids

NO_TEXT = Surface(None, False)


def surface_of(tokenizer: PreTrainedTokenizerBase, *entries: str) -> list[Surface]:
    found = surfaces(tokenizer)
    return [found[tokenizer.get_vocab()[entry]] for entry in entries]


def made(model: models.Model, pre_tokenizer: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_surface_for_each_entry_and_none_for_special_tokens(family):
    tokenizer = source_tokenizer(family)
    found = surfaces(tokenizer)
    assert len(found) == len(tokenizer)
    assert all(found[row] == NO_TEXT for row in special_ids(tokenizer))
    texts = [surface.text for surface in found if surface.text is not None]
    assert len(texts) > 100
    assert not any(sign in text for text in texts for sign in ("##", "Ġ", "▁"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_that_the_tokenizer_keeps_whole_has_that_surface(family):
    """The oracle is the tokenizer itself, on words within a line."""
    tokenizer = source_tokenizer(family)
    found, checked = surfaces(tokenizer), 0
    before = len(tokenizer("so", add_special_tokens=False)["input_ids"])
    for word in ["the", "of", "which", "would", "could", "before", "because", "people", "little", "state"]:
        ids = tokenizer(f"so {word}", add_special_tokens=False)["input_ids"]
        if len(ids) == before + 1:
            checked += 1
            assert found[ids[-1]] == Surface(word, True)
    assert checked >= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_surfaces_of_a_lines_pieces_make_up_the_line(family):
    tokenizer = source_tokenizer(family)
    found = surfaces(tokenizer)
    ids = tokenizer("so it would zqx become statewide", add_special_tokens=False)["input_ids"]
    line = "".join((" " if found[row].begins_word else "") + str(found[row].text) for row in ids)
    assert line.strip() == "so it would zqx become statewide"


def test_wordpiece_marks_what_goes_on():
    tokenizer = source_tokenizer("bert")
    assert surface_of(tokenizer, "the", "##e", ",", "[MASK]") == [
        Surface("the", True),
        Surface("e", False),
        Surface(",", True),
        NO_TEXT,
    ]


def test_byte_level_entries_are_decoded():
    vocabulary = ["Ġthe", "ing", "Ġ", "é", "Ã©", "ĠÃ©", "Ã", "Ċ", "ĠĠ", "ä¸Ń", "ï¿½", "x中"]
    tokenizer = made(models.BPE({entry: row for row, entry in enumerate(vocabulary)}, []), pre_tokenizers.ByteLevel())
    assert surfaces(tokenizer) == [
        Surface("the", True),
        Surface("ing", False),
        Surface("", True),
        NO_TEXT,  # a single byte of two
        Surface("é", False),
        Surface("é", True),
        NO_TEXT,
        Surface("\n", False),
        Surface(" ", True),
        Surface("中", False),
        Surface("\ufffd", False),  # the sign itself is text
        NO_TEXT,  # no byte-level entry
    ]


def test_all_256_bytes_are_read_as_the_library_writes_them():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written = {splitter.pre_tokenize_str(chr(code))[0][0]: chr(code) for code in range(1, 0x800)}
    vocabulary = [*alphabet, *(entry for entry in written if len(entry) > 1)]
    tokenizer = made(models.BPE({entry: row for row, entry in enumerate(vocabulary)}, []), splitter)
    expected = [written.get(entry) for entry in vocabulary]
    found = surfaces(tokenizer)
    for surface, text in zip(found, expected):
        if text is not None:
            assert surface == (Surface("", True) if text == " " else Surface(text, False))
    assert sum(surface == NO_TEXT for surface in found) == 128


def test_added_entries_of_a_byte_level_tokenizer_are_plain_text():
    tokenizer = source_tokenizer("modernbert")
    assert surface_of(tokenizer, "|||IP_ADDRESS|||", "   ") == [Surface("|||IP_ADDRESS|||", False), Surface("  ", True)]


def test_sentencepiece_marks_what_begins():
    scores = [("<unk>", 0.0), ("▁the", -1.0), ("ing", -1.0), ("▁", -1.0), ("▁a▁b", -1.0), ("<0x41>", -1.0)]
    tokenizer = made(models.Unigram(scores, unk_id=0), pre_tokenizers.Metaspace())
    assert surfaces(tokenizer)[1:] == [
        Surface("the", True),
        Surface("ing", False),
        Surface("", True),
        Surface("a b", True),
        Surface("<0x41>", False),
    ]


def test_bytes_that_sentencepiece_falls_back_on_are_text_where_they_are_characters():
    scores = [("<unk>", 0.0), ("<0x41>", -1.0), ("<0xC3>", -1.0), ("<0x>", -1.0), ("▁the", -1.0)]
    tokenizer = made(models.Unigram(scores, unk_id=0, byte_fallback=True), pre_tokenizers.Metaspace())
    assert surfaces(tokenizer)[1:] == [Surface("A", False), NO_TEXT, Surface("<0x>", False), Surface("the", True)]


def test_a_tokenizer_without_marks_is_refused():
    tokenizer = made(models.BPE({"a": 0}, []), pre_tokenizers.Whitespace())
    message = (
        "^tokenizer: expected pieces that mark where words begin or go on, found a BPE model with pre-tokenisers "
        "Whitespace; choose a WordPiece, Unigram or byte-level BPE encoder$"
    )
    with pytest.raises(ConfigError, match=message):
        surfaces(tokenizer)
