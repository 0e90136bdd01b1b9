"""Training of the model part of a tokenizer, one function for each kind; the same text always gives the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from trelm.errors import ConfigError
from trelm.vocabulary.description import METASPACE, batches

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # the entries of byte fallback
# BERT's 100 makes one unknown token of a phrase in Thai or Khmer, which put no spaces between words.
LONGEST_WORDPIECE_WORD = 1_000
_BLOCK = 1_000


@dataclass(frozen=True)
class Limits:
    """How large a vocabulary may be: entries, and characters in its alphabet; and how often an entry must occur."""

    size: int
    min_frequency: int
    alphabet: int


def train_wordpiece(
    blank: Tokenizer, model: dict[str, Any], text: Iterable[str], specials: Sequence[str], limits: Limits
) -> dict[str, Any]:
    """A trained WordPiece model.

    The trainer numbers characters, and breaks ties at the limit, in the order of a randomly seeded hash table: two
    trainings differ. So we choose the alphabet, hand it over as special tokens, and allow it none of its own.
    """
    prefix = model["continuing_subword_prefix"]
    letters = alphabet(blank, text, limits)
    fixed = [*specials, *letters, *(prefix + c for c in letters if _may_continue(blank, c))]
    check_size(limits, len(fixed), len(specials))
    trainer = WordPieceTrainer(
        vocab_size=limits.size,
        min_frequency=limits.min_frequency,
        limit_alphabet=0,
        special_tokens=list(fixed),
        continuing_subword_prefix=prefix,
        show_progress=False,
    )
    longest = max(model["max_input_chars_per_word"], LONGEST_WORDPIECE_WORD)
    return {**_trained(blank, text, trainer), "max_input_chars_per_word": longest}


def train_byte_level(
    blank: Tokenizer, model: dict[str, Any], text: Iterable[str], specials: Sequence[str], limits: Limits
) -> dict[str, Any]:
    """A trained byte-level BPE model: its alphabet is always the 256 bytes."""
    letters = sorted(ByteLevel.alphabet())
    check_size(limits, len(specials) + len(letters), len(specials))
    return {**model, **_vocabulary_and_merges(blank, text, list(specials), letters, limits)}


def train_metaspace_bpe(
    blank: Tokenizer, model: dict[str, Any], text: Iterable[str], specials: Sequence[str], limits: Limits
) -> dict[str, Any]:
    """A trained BPE model of SentencePiece's kind, with all bytes where it falls back on them."""
    letters = sorted({*alphabet(blank, text, limits), METASPACE})
    fixed = [*specials, *(BYTES if model["byte_fallback"] else ())]
    check_size(limits, len(fixed) + len(letters), len(fixed))
    return {**model, **_vocabulary_and_merges(blank, text, fixed, letters, limits)}


def check_size(limits: Limits, fixed: int, specials: int) -> None:
    """Refuse a size that special tokens and alphabet alone exceed."""
    if limits.size < fixed:
        raise ConfigError(
            f"vocabulary.size: expected at least {fixed} ({specials} special tokens, an alphabet of "
            f"{fixed - specials}), found {limits.size}; raise it, or lower vocabulary.alphabet_limit"
        )


def alphabet(blank: Tokenizer, text: Iterable[str], limits: Limits) -> list[str]:
    """The most frequent characters of the normalised text, ties by code point; sorted by code point."""
    counts: Counter[str] = Counter()
    for block in batches(text, _BLOCK):
        joined = "\n".join(block)
        counts.update(blank.normalizer.normalize_str(joined) if blank.normalizer else joined)
    kept = [c for c, count in counts.items() if count >= limits.min_frequency and not c.isspace()]
    return sorted(sorted(kept, key=lambda c: (-counts[c], c))[: limits.alphabet])


def _vocabulary_and_merges(
    blank: Tokenizer, text: Iterable[str], fixed: list[str], letters: list[str], limits: Limits
) -> dict[str, Any]:
    trainer = BpeTrainer(
        vocab_size=limits.size,
        min_frequency=limits.min_frequency,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        special_tokens=fixed,
        show_progress=False,
    )
    trained = _trained(blank, text, trainer)
    return {"vocab": trained["vocab"], "merges": trained["merges"]}


def _trained(blank: Tokenizer, text: Iterable[str], trainer: BpeTrainer | WordPieceTrainer) -> dict[str, Any]:
    blank.train_from_iterator(batches(text, _BLOCK), trainer=trainer)
    return dict(json.loads(blank.to_str())["model"])


def _may_continue(blank: Tokenizer, character: str) -> bool:
    """Whether the pre-tokeniser leaves the character attached to a letter before it (not punctuation, not Han)."""
    normalised = "a" + character
    if blank.normalizer:
        normalised = blank.normalizer.normalize_str(normalised).strip()
    pieces = blank.pre_tokenizer.pre_tokenize_str(normalised) if blank.pre_tokenizer else [(normalised, None)]
    return any(character in piece[1:] for piece, _ in pieces)
