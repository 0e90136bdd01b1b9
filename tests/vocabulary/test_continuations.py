from __future__ import annotations

import numpy as np
import pytest
from joint_vocabularies import MINILM, other_kind, roberta, sentencepiece_kind
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trelm.errors import ConfigError
from trelm.vocabulary import is_continuation
from trelm.vocabulary.models import BYTES


def continuations(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    flags = is_continuation(tokenizer)
    assert flags.shape == (len(tokenizer),)
    assert flags.dtype == np.bool_
    return {piece for piece, row in tokenizer.get_vocab().items() if flags[row]}


def unigram(*pieces: str, splitter: object = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], unk_id=0))
    backend.pre_tokenizer = splitter or pre_tokenizers.Sequence([pre_tokenizers.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_wordpiece_marks_continuations():
    found = continuations(MINILM)
    marked = {piece for piece in MINILM.get_vocab() if piece.startswith("##")}
    assert found <= marked
    assert {piece for piece in marked if piece.isascii() and piece[2:].isalnum()} <= found
    assert {"##の", "##ー"} & marked
    assert "##の" not in found


def test_byte_level_bpe_marks_beginnings():
    source = roberta()
    beginnings = {piece for piece in source.get_vocab() if piece[0] == "Ġ"}
    found = continuations(source)
    assert not found & {*beginnings, "<s>", "<pad>", "</s>", "<unk>", "<mask>"}
    assert {"a", "7", "he"} <= found | beginnings
    assert {"a", "7", "Ã"} <= found  # Ã is a byte, not a letter
    assert not found & {",", "!", "[", "$"}


def test_unigram_marks_beginnings():
    assert continuations(unigram("▁a", "b", "▁", "▁,")) == {"b"}


def test_metaspace_may_have_another_sign():
    assert continuations(unigram("_a", "b", "c", splitter=pre_tokenizers.Metaspace(replacement="_"))) == {"b", "c"}


def test_punctuation_and_scripts_without_spaces_stand_alone():
    pieces = [",", "。", "的", "我们", "ก", "ひ", "ေ", "ကြ", "်", "é", "9", "د", "한"]
    assert continuations(unigram(*pieces)) == {"ေ", "်", "é", "9", "د", "한"}


def test_bytes_continue():
    model = models.Unigram(
        [(piece, -1.0) for piece in ("<s>", "<pad>", "</s>", "<unk>", "<mask>", *BYTES, "<")], 3, True
    )
    assert continuations(sentencepiece_kind(model)) == set(BYTES)


@pytest.mark.parametrize("splitter", [None, pre_tokenizers.Whitespace()])
def test_pieces_without_marks_are_an_error(splitter):
    tokenizer = other_kind(models.BPE())
    if splitter:
        tokenizer.backend_tokenizer.pre_tokenizer = splitter
    name = "Whitespace" if splitter else "none"
    message = f"expected pieces that mark where words begin or go on, found a BPE model with pre-tokenisers {name}; "
    with pytest.raises(ConfigError, match=f"{message}choose a WordPiece, Unigram or byte-level BPE encoder"):
        is_continuation(tokenizer)
