"""Initialisations that need the two vocabularies only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from trelm.initialisation.mixture import PIECES, SHARED, SPECIAL, Mixture, from_pairs, one_hot, overlay
from trelm.initialisation.surface import Surface, surfaces
from trelm.vocabulary.comparison import shared_entries, special_rows
from trelm.vocabulary.description import backend_spec, special_ids
from trelm.vocabulary.encoding import plain_backend


def specials(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> Mixture:
    """Copies of the source's special tokens of the same roles."""
    return one_hot(special_rows(tokenizer, source_tokenizer), _shape(tokenizer, source_tokenizer), SPECIAL)


def shared(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> Mixture:
    """Copies of the entries spelled alike, and of special tokens of the same roles."""
    alike = shared_entries(tokenizer, source_tokenizer)
    copies = one_hot(alike, _shape(tokenizer, source_tokenizer), SHARED)
    return overlay(specials(tokenizer, source_tokenizer), copies)


def pieces(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> Mixture:
    """FVT (Gee et al. 2022): entries spelled alike are copied, the others are the mean of the source's pieces of them.

    The text of an entry is cut by the source tokenizer as the beginning of a word where the entry is one, else as its
    continuation, without special tokens. A piece that comes twice counts twice, unknown pieces are left out. Where
    nothing is left the row is empty.

    Raises:
        ConfigError: a tokenizer that is not fast, or whose pieces mark neither where words begin nor where they go on.
    """
    cut = _cut(surfaces(tokenizer), source_tokenizer)
    unknown = _unknown_rows(source_tokenizer)
    pairs = np.array(
        [(row, piece) for row, ids in cut.items() for piece in ids if piece not in unknown], dtype=np.int64
    )
    pairs = pairs.reshape(-1, 2)
    means = from_pairs(pairs, np.ones(len(pairs)), _shape(tokenizer, source_tokenizer), PIECES)
    return overlay(shared(tokenizer, source_tokenizer), means)


def _shape(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    return len(tokenizer), len(source_tokenizer)


def _unknown_rows(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens, and what the model itself writes for what it does not know (MPNet's has no role)."""
    model = backend_spec(tokenizer)["model"]
    row = model.get("unk_id")
    if model.get("unk_token") is not None:
        row = tokenizer.get_vocab().get(model["unk_token"])
    return special_ids(tokenizer) | ({row} if row is not None else set())


def _cut(entries: Sequence[Surface], tokenizer: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """The tokenizer's pieces of each entry that has a text, by its row."""
    beginning, continuing = plain_backend(tokenizer), _continuing_backend(tokenizer)
    is_wordpiece = bool(_prefix(tokenizer))
    starts: dict[int, str] = {}
    goes_on: dict[int, str] = {}
    for row, entry in enumerate(entries):
        if entry.text is None:
            continue
        if entry.begins_word or (is_wordpiece and _stands_apart(beginning, entry.text)):
            starts[row] = f" {entry.text}"
        else:
            goes_on[row] = entry.text
    return _encoded(beginning, starts) | _encoded(continuing, goes_on)


def _encoded(backend: Tokenizer, texts: Mapping[int, str]) -> dict[int, list[int]]:
    encodings = backend.encode_batch_fast(list(texts.values()), add_special_tokens=False)
    return {row: encoding.ids for row, encoding in zip(texts, encodings)}


def _continuing_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer as it cuts what comes after a letter: without the space that it puts before a text, or knowing
    only the entries of WordPiece that go on, without their sign.
    """
    spec = json.loads(plain_backend(tokenizer).to_str())
    prefix, model = _prefix(tokenizer), spec["model"]
    if prefix:
        kept = {entry.removeprefix(prefix): row for entry, row in model["vocab"].items() if entry.startswith(prefix)}
        kept.pop("", None)
        unknown = model["unk_token"]
        spec["model"] = {**model, "vocab": {**kept, unknown: model["vocab"][unknown]}, "continuing_subword_prefix": ""}
        spec["added_tokens"] = []  # they begin words
    spec["pre_tokenizer"] = _without_space(spec["pre_tokenizer"])
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.encode_special_tokens = True
    return backend


def _without_space(component: Any) -> Any:
    """The pre-tokeniser, or any part of it, that puts no space before a text."""
    if isinstance(component, list):
        return [_without_space(part) for part in component]
    if not isinstance(component, dict):
        return component
    never = {"add_prefix_space": False, "prepend_scheme": "never"}
    return {key: never.get(key, _without_space(value)) for key, value in component.items()}


def _stands_apart(backend: Tokenizer, text: str) -> bool:
    """Whether the tokenizer parts the text from a letter before it, as BERT's does with punctuation and Han."""
    written = f"a{text}"
    normalised = backend.normalizer.normalize_str(written) if backend.normalizer else written
    words = backend.pre_tokenizer.pre_tokenize_str(normalised) if backend.pre_tokenizer else [(normalised, None)]
    return bool(words) and words[0][0] == "a"


def _prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    return backend_spec(tokenizer)["model"].get("continuing_subword_prefix") or ""
