"""The special tokens of a vocabulary: which of the source's it takes over, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase

from trelm.errors import ConfigError
from trelm.vocabulary.description import parts

ROLES = ("cls", "sep", "pad", "unk", "mask")
ALL_ROLES = (*ROLES, "bos", "eos")
INSTEAD = {"cls": "bos", "sep": "eos"}  # EuroBERT, like Llama, has only these


def special_tokens(
    source: PreTrainedTokenizerBase, post_processor: Mapping[str, Any] | None, *, needs_unknown: bool
) -> list[AddedToken]:
    """The source's tokens that have a role or that its post-processor adds; reserved ones stay behind.

    They come in the order of their ids in the source, but the padding token keeps its id where that is below their
    number: models of RoBERTa's kind count positions from it.

    Raises:
        ConfigError: a role is missing that masked language modelling needs.
    """
    _check_roles(source, needs_unknown=needs_unknown)
    contents = {content for role in ALL_ROLES if (content := getattr(source, f"{role}_token")) is not None}
    vocabulary = source.get_vocab()
    rows = {content: vocabulary[content] for content in contents | added_tokens(post_processor)}
    order = sorted(rows, key=rows.__getitem__)
    padding = str(source.pad_token)
    if rows[padding] < len(order):
        order.remove(padding)
        order.insert(rows[padding], padding)
    decoder = source.added_tokens_decoder
    return [decoder.get(rows[content], AddedToken(content, special=True, normalized=False)) for content in order]


def added_tokens(post_processor: Mapping[str, Any] | None) -> set[str]:
    """The tokens that a post-processor adds."""
    found: set[str] = set()
    for part in parts(post_processor):
        found.update(token for entry in part.get("special_tokens", {}).values() for token in entry["tokens"])
        found.update(part[role][0] for role in ("cls", "sep") if role in part)
    return found


def renumber(post_processor: Mapping[str, Any] | None, rows: Mapping[str, int]) -> dict[str, Any] | None:
    """The post-processor with the ids that its tokens have in the new vocabulary."""
    if post_processor is None:
        return None
    renewed = dict(post_processor)
    if "processors" in renewed:
        renewed["processors"] = [renumber(inner, rows) for inner in renewed["processors"]]
    if "special_tokens" in renewed:
        renewed["special_tokens"] = {
            name: {**entry, "ids": [rows[token] for token in entry["tokens"]]}
            for name, entry in renewed["special_tokens"].items()
        }
    renewed.update({role: [renewed[role][0], rows[renewed[role][0]]] for role in ("cls", "sep") if role in renewed})
    return renewed


def _check_roles(source: PreTrainedTokenizerBase, *, needs_unknown: bool) -> None:
    needed = [role for role in ROLES if role != "unk" or needs_unknown]  # bytes are never unknown
    names = [f"{role} (or {INSTEAD[role]})" if role in INSTEAD else role for role in needed]
    missing = [
        name
        for role, name in zip(needed, names)
        if getattr(source, f"{role}_token_id") is None
        and (role not in INSTEAD or getattr(source, f"{INSTEAD[role]}_token_id") is None)
    ]
    if missing:
        raise ConfigError(
            f"source.model: expected a tokenizer with {', '.join(names)} tokens, found no {', '.join(missing)}; "
            "choose an encoder that was trained by masked language modelling"
        )
