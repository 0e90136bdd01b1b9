"""What a fast tokenizer says of itself: its `tokenizer.json` and its special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trelm.errors import ConfigError

METASPACE = "▁"


def backend_spec(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The content of `tokenizer.json`.

    Raises:
        ConfigError: the tokenizer has none.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"source.model: expected a fast tokenizer (tokenizer.json), found {type(tokenizer).__name__}; "
            "choose an encoder that has one"
        )
    return dict(json.loads(tokenizer.backend_tokenizer.to_str()))


def parts(component: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A normaliser, pre-tokeniser, post-processor or decoder with those inside it, as a flat list of simple ones."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [dict(component)]
    inner = next(value for value in component.values() if isinstance(value, list))
    return [part for item in inner for part in parts(item)]


def types(component: Mapping[str, Any] | None) -> list[str]:
    """The types of the simple parts."""
    return [part["type"] for part in parts(component)]


def metaspace(spec: Mapping[str, Any]) -> str | None:
    """The sign that the pre-tokeniser writes for a space, where it does."""
    found = [part for part in parts(spec["pre_tokenizer"]) if part["type"] == "Metaspace"]
    return str(found[0].get("replacement", METASPACE)) if found else None


def rows_of(model: Mapping[str, Any]) -> dict[str, int]:
    """The row of each entry of a model: WordPiece and BPE hold a map, Unigram a list of entries and scores."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    return {entry: row for row, (entry, _) in enumerate(vocabulary)}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of all special tokens, also of those without a role."""
    marked = {row for row, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def batches(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` lines, the last one with what is left."""
    iterator = iter(lines)
    while part := list(islice(iterator, size)):
        yield part
