"""Any bare encoder with its tokenizer, for tasks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase

from trelm.errors import ConfigError, first_line
from trelm.model import encoder as _registered  # AutoModel finds our classes
from trelm.model.configuration import TrelmConfig
from trelm.model.source import POOLER, _load, _load_tokenizer, source_path

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")

__all__ = ["_registered", "load_bare_encoder", "type_count", "without_attention_dropout"]


def load_bare_encoder(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """An encoder, ours or any other, in float32 and without attention dropout; from safetensors only.

    Raises:
        ConfigError: no encoder there, weights missing, a model with a decoder, or a tokenizer of the slow kind.
    """
    path = source_path(name)
    try:
        config = AutoConfig.from_pretrained(path)
        if getattr(config, "is_encoder_decoder", False):
            raise ConfigError(f"{name}: expected an encoder, found one with a decoder ({config.model_type}); "
                              "give another model")  # fmt: skip
        _turn_off(config)
        model, missing, _ = _load(AutoModel, path, config, {}, seed=1)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        raise ConfigError(
            f"{name}: expected a model folder or a reachable Hub id with weights as safetensors, found none that loads "
            f"({first_line(error)}); check the name"
        ) from None
    tokenizer = _load_tokenizer("", path)
    if not tokenizer.is_fast:
        raise ConfigError(f"{name}: expected a fast tokenizer (tokenizer.json), found a slow one; convert it")
    lost = [key for key in missing if not key.startswith((POOLER, f"backbone.{POOLER}"))]
    if lost:
        raise ConfigError(
            f"{name}: expected every weight that its config.json asks for, found {len(lost)} missing (the first: "
            f"{lost[0]}); give a checkpoint of an encoder"
        )
    return model, tokenizer


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
