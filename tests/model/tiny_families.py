"""A tiny encoder of every family that TreLM knows, and of their variants: what the tests of the model run over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import roughen
from transformers import AutoConfig, ElectraForPreTraining, PreTrainedConfig, PreTrainedModel

from tiny_tokenizers import source_tokenizer
from trelm.model.families import FAMILIES
from trelm.model.source import scratch_model, special_ids, trelm_config

VOCABULARY = 50
POSITIONS = 40
WIDTH = 16
ROLES = {"bos": 2, "cls": 2, "eos": 3, "sep": 3, "mask": 4}
"""Ids of the special tokens where no tokenizer says otherwise; that of padding is the family's."""
FIRST_WORD = 5

WIDE: dict[str, Any] = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 24}
BERT = WIDE | {"pad_token_id": 0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ROBERTA = BERT | {"pad_token_id": 1, "type_vocab_size": 1}
ELECTRA = BERT | {"embedding_size": 8}
DISTILBERT = {"dim": WIDTH, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 0, "dropout": 0.0, "attention_dropout": 0.0}
DEBERTA = BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
DEBERTA_V2 = DEBERTA | {"position_biased_input": False}
DEBERTA_V3 = DEBERTA_V2 | {"position_buckets": 4, "share_att_key": True, "norm_rel_ebd": "layer_norm", "legacy": False}
# at the lengths of the tests, 2 tokens to each side are far from all
MODERNBERT = WIDE | {"pad_token_id": 0, "local_attention": 4}
EUROBERT = WIDE | {"pad_token_id": 0, "num_attention_heads": 4, "num_key_value_heads": 2}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", BERT),
    "roberta": ("roberta", ROBERTA),
    "xlm-roberta": ("xlm-roberta", ROBERTA),
    "camembert": ("camembert", ROBERTA),
    "electra-discriminator": ("electra", ELECTRA),
    "electra-generator": ("electra", ELECTRA),
    "distilbert": ("distilbert", DISTILBERT),
    "mpnet": ("mpnet", BERT | {"pad_token_id": 1}),
    "deberta-v2": ("deberta-v2", DEBERTA_V2),
    "deberta-v3": ("deberta-v2", DEBERTA_V3),
    "modernbert": ("modernbert", MODERNBERT),
    "eurobert": ("eurobert", EUROBERT),
    "nomic-bert": ("nomic_bert", BERT),
    # variants: what a configuration may switch on
    "bert-untied": ("bert", BERT | {"tie_word_embeddings": False}),
    "electra-same-width": ("electra", BERT | {"embedding_size": WIDTH}),
    "deberta-v2-convolution": ("deberta-v2", DEBERTA_V2 | {"conv_kernel_size": 3}),
    "deberta-v2-positions": ("deberta-v2", DEBERTA | {"position_biased_input": True, "type_vocab_size": 2}),
    "deberta-v2-narrow": ("deberta-v2", DEBERTA_V2 | {"embedding_size": 8}),
    "modernbert-biases": ("modernbert", MODERNBERT | {"mlp_bias": True, "norm_bias": True}),
    "eurobert-tied": ("eurobert", EUROBERT | {"tie_word_embeddings": True}),
    "eurobert-biases": ("eurobert", EUROBERT | {"mlp_bias": True}),
}
"""Name -> model type and settings."""
FAMILY_NAMES = tuple(SETTINGS)


def tiny_config(name: str, layers: int = 4, vocabulary_size: int = VOCABULARY, **changes: Any) -> Any:
    """The configuration of a tiny encoder without dropout."""
    kind, settings = SETTINGS[name]
    depth = "n_layers" if kind == "distilbert" else "num_hidden_layers"
    common = {depth: layers, "vocab_size": vocabulary_size, "max_position_embeddings": POSITIONS}
    own = {
        key: value for role, value in ROLES.items() if hasattr(AutoConfig.for_model(kind), key := f"{role}_token_id")
    }
    return AutoConfig.for_model(kind, **(common | own | settings | changes))


def roles_of(config: Any) -> dict[str, int | None]:
    """The ids of the special tokens of a tiny encoder, as `trelm_config` takes them."""
    return ROLES | {"pad": config.pad_token_id}


def trelm_of(name: str, layers: int = 4, *, rough: bool = True, **changes: Any) -> Any:
    """A TreLM model in evaluation mode; a rough one has no weight that is zero, not even in its null state."""
    source = tiny_config(name, layers, **changes)
    config = trelm_config(
        source, vocabulary_size=source.vocab_size, special_ids=roles_of(source), languages=("en", "id")
    )
    model: Any = scratch_model(config, seed=3)
    if rough:
        roughen(model)
    model.eval()
    return model


def pretrained_of(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A rough model of the class whose checkpoints one finds."""
    maker = ElectraForPreTraining if name == "electra-discriminator" else FAMILIES[config.model_type].masked_lm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        model: PreTrainedModel = maker(config)
    roughen(model, seed=7)
    model.tie_weights()
    return model


def save_source(name: str, folder: Path, *, layers: int = 4, **changes: Any) -> Path:
    """A folder as a pretrained encoder of the family has it, its tokenizer beside its weights."""
    tokenizer = source_tokenizer(SETTINGS[name][0])
    config = tiny_config(name, layers, len(tokenizer), **changes)
    for role, number in special_ids(tokenizer).items():
        if hasattr(config, f"{role}_token_id"):
            setattr(config, f"{role}_token_id", number)
    pretrained_of(name, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
