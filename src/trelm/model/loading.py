"""Any bare encoder with its tokenizer, for tasks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    PreTrainedTokenizerBase,
)

from trelm.errors import ConfigError, TrelmError, first_line
from trelm.model import encoder as _registered  # AutoModel finds our classes
from trelm.model.configuration import TrelmConfig
from trelm.model.folder import check_folder
from trelm.model.source import POOLER, load_config, load_pretrained, load_tokenizer, source_path

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")

__all__ = ["_registered", "load_bare_encoder", "type_count", "without_attention_dropout"]


def load_bare_encoder(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """An encoder, ours or any other, in float32 and without attention dropout; from safetensors only.

    Raises:
        ConfigError: no encoder there, weights missing, a model with a decoder or of something else than text, a
            tokenizer of the slow kind, or one of another model.
    """
    path = source_path(name)
    check_folder("", path)
    try:
        config = load_config(path)
        _check_kind(name, config)
        _turn_off(config)
        model, missing, _ = load_pretrained(AutoModel, path, config, {}, seed=1)
    except TrelmError:
        raise
    except Exception as error:  # whatever the code of a family meets in a configuration that somebody made up
        raise ConfigError(
            f"{name}: expected a model folder or a reachable Hub id with weights as safetensors, found none that loads "
            f"({first_line(error)}); check the name"
        ) from None
    tokenizer = load_tokenizer("", path)
    if not tokenizer.is_fast:
        raise ConfigError(f"{name}: expected a fast tokenizer (tokenizer.json), found a slow one; convert it")
    lost = [key for key in missing if not key.startswith((POOLER, f"backbone.{POOLER}"))]
    if lost:
        raise ConfigError(
            f"{name}: expected every weight that its config.json asks for, found {len(lost)} missing (the first: "
            f"{lost[0]}); give a checkpoint of an encoder"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ConfigError(
            f"{name}: expected the tokenizer of its table of {rows:,} embeddings, found one of {len(tokenizer):,} "
            "entries; put the tokenizer's own files beside config.json"
        )
    return model, tokenizer


def _check_kind(name: str, config: Any) -> None:
    """Refuse what is no encoder of text."""
    kind, family = config.model_type, type(config)
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{name}: expected an encoder, found one with a decoder ({kind}); give another model")
    writes = family in MODEL_FOR_CAUSAL_LM_MAPPING and family not in MODEL_FOR_MASKED_LM_MAPPING
    if writes or getattr(config, "is_decoder", False):
        raise ConfigError(f"{name}: expected an encoder, found a decoder ({kind}); give another model")
    if not hasattr(config, "hidden_size"):
        raise ConfigError(
            f"{name}: expected an encoder of text, found a configuration without hidden_size ({kind}); "
            "give another model"
        )


def without_attention_dropout(model: Any) -> Any:
    """The same encoder built anew without attention dropout, which is slow on a CPU and changes little."""
    config = copy.deepcopy(model.config)
    _turn_off(config)
    with torch.random.fork_rng(devices=[]):
        made = type(model)(config)
    made.load_state_dict(model.state_dict())
    return made


def type_count(config: Any) -> int:
    """Kinds of segments that an encoder tells apart by `token_type_ids`."""
    inner = config.source if isinstance(config, TrelmConfig) else config
    return int(getattr(inner, "type_vocab_size", None) or 0)


def _turn_off(config: Any) -> None:
    for part in (config, getattr(config, "source", None)):
        for field in ATTENTION_DROPOUT:
            if hasattr(part, field):
                setattr(part, field, 0.0)
