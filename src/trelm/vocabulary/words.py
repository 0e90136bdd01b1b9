"""Which pieces go on with the word before them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase

from trelm.errors import ConfigError
from trelm.vocabulary.description import backend_spec, metaspace, parts, special_ids, types

# The first words of the Unicode names of letters of scripts that put no spaces between words.
SCRIPTS_WITHOUT_SPACES = frozenset(
    ("BOPOMOFO", "CJK", "HIRAGANA", "KATAKANA", "KHMER", "LAO", "MYANMAR", "THAI", "TIBETAN", "YI")
)


def is_continuation(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """Which entries continue a word, bool [V]; special tokens do not.

    WordPiece marks continuations (`##`); byte-level BPE and SentencePiece kinds mark beginnings (`Ġ`, `▁`), so there
    the first piece of a line without a leading space also counts as a continuation. Where marks mean nothing, in
    scripts that put no spaces between words, every piece is a word of its own; so is punctuation, as for BERT.

    Raises:
        ConfigError: a tokenizer that marks neither.
    """
    spec = backend_spec(tokenizer)
    prefix = spec["model"].get("continuing_subword_prefix")
    marker = prefix or _word_marker(spec)
    specials = special_ids(tokenizer)
    is_byte_level = not prefix and marker != metaspace(spec)
    flags = np.zeros(len(tokenizer), dtype=np.bool_)
    for piece, row in tokenizer.get_vocab().items():
        if row not in specials and piece.startswith(marker) == bool(prefix):
            text = _decoded(piece) if is_byte_level else piece.removeprefix(prefix or "")
            flags[row] = not _stands_alone(text)
    return flags


def single_piece(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], int | None]:
    """What gives the row of a word that the tokenizer keeps whole in running text, else None.

    Byte-level BPE spells a word after a space differently from one at the start of a text, so it is asked with a space.
    """
    splitters = [part for part in parts(backend_spec(tokenizer)["pre_tokenizer"]) if part["type"] == "ByteLevel"]
    before = " " if splitters and not any(part.get("add_prefix_space") for part in splitters) else ""

    def piece(word: str) -> int | None:
        ids = tokenizer(before + word, add_special_tokens=False)["input_ids"]
        return int(ids[0]) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None

    return piece


def is_han(character: str) -> bool:
    """Whether the character is a Chinese one, in whatever language."""
    return unicodedata.name(character, "").startswith("CJK ")


def _decoded(piece: str) -> str:
    """The text of a byte-level piece; nothing where it begins within a character or is not all there."""
    text = ByteLevel().decode([piece])
    return "" if text.startswith("\ufffd") else str(text)


def _stands_alone(text: str) -> bool:
    if not text:
        return False
    category = unicodedata.category(text[0])
    if category.startswith("L"):
        return unicodedata.name(text[0], "").partition(" ")[0] in SCRIPTS_WITHOUT_SPACES
    return category[0] in "PS" and not (text.startswith("<0x") and len(text) == len("<0x00>"))


def _word_marker(spec: dict[str, Any]) -> str:
    kinds = types(spec["pre_tokenizer"])
    if "ByteLevel" in kinds:
        return "Ġ"
    marker = metaspace(spec)
    if marker is None:
        raise ConfigError(
            f"tokenizer: expected pieces that mark where words begin or go on, found a {spec['model']['type']} model "
            f"with pre-tokenisers {', '.join(kinds) or 'none'}; choose a WordPiece, Unigram or byte-level BPE encoder"
        )
    return marker
