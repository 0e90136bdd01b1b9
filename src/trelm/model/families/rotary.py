"""Families with rotary positions: the order is inside attention, nothing is added to the TRILayer's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    EuroBertForMaskedLM,
    EuroBertModel,
    ModernBertForMaskedLM,
    ModernBertModel,
    NomicBertForMaskedLM,
    NomicBertModel,
)
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
from transformers.models.eurobert.modeling_eurobert import EuroBertDecoderLayer
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer, ModernBertPredictionHead
from transformers.models.nomic_bert.modeling_nomic_bert import NomicBertLayer, NomicBertOnlyMLMHead

from trelm.model.families.record import Family, bidirectional_mask, no_positions, register, through

Rotation = tuple[Tensor, Tensor]


def _position_ids(states: Tensor) -> Tensor:
    return torch.arange(states.shape[1], device=states.device).unsqueeze(0)


# ModernBERT: normalisation before each part, no biases, layers of global and of local attention.


@dataclass(frozen=True)
class _ByKind:
    """Masks and rotations for each kind of layer, `full_attention` and `sliding_attention`."""

    masks: dict[str, Any]
    rotations: dict[str, Rotation]


def _modernbert_prepare(backbone: Any, states: Tensor, mask: Tensor | None) -> Any:
    arguments = {"config": backbone.config, "inputs_embeds": states, "attention_mask": mask}
    positions = _position_ids(states)
    return _ByKind(
        masks={
            "full_attention": create_bidirectional_mask(**arguments),
            "sliding_attention": create_bidirectional_sliding_window_mask(**arguments),
        },
        rotations={kind: backbone.rotary_emb(states, positions, kind) for kind in set(backbone.config.layer_types)},
    )


def _modernbert_run_layer(layer: nn.Module, states: Tensor, prepared: Any) -> Tensor:
    kind = layer.attention_type
    output: Tensor = layer(states, attention_mask=prepared.masks[kind], position_embeddings=prepared.rotations[kind])
    return output


MODERNBERT = register(
    Family(
        model_type="modernbert",
        backbone=ModernBertModel,
        masked_lm=ModernBertForMaskedLM,
        new_layer=ModernBertEncoderLayer,
        new_head=lambda config: {
            "head": ModernBertPredictionHead(config),
            "decoder": nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias),
        },
        output=lambda head, states, words: through(head["head"](states), head["decoder"]),
        output_bias=lambda backbone, layer: layer.mlp.Wo.bias,
        layers_at="layers",
        embed=lambda backbone, words, ids, types, mask: backbone.embeddings(inputs_embeds=words),
        positions=no_positions,
        prepare=_modernbert_prepare,
        run_layer=_modernbert_run_layer,
        finish=lambda backbone, states: backbone.final_norm(states),
        hidden_dropout=("embedding_dropout", "mlp_dropout"),
        attention_dropout="attention_dropout",
    )
)

# EuroBERT: normalisation before each part, no biases, grouped queries, an output table of its own.


def _prepare_rotations(backbone: Any, states: Tensor, mask: Tensor | None) -> Any:
    positions = _position_ids(states)
    return {
        "attention_mask": bidirectional_mask(backbone, states, mask),
        "position_ids": positions,
        "position_embeddings": backbone.rotary_emb(states, position_ids=positions),
    }


def _run_with(layer: nn.Module, states: Tensor, prepared: Any) -> Tensor:
    output: Tensor = layer(states, **prepared)
    return output


EUROBERT = register(
    Family(
        model_type="eurobert",
        backbone=EuroBertModel,
        masked_lm=EuroBertForMaskedLM,
        new_layer=EuroBertDecoderLayer,
        new_head=lambda config: {"lm_head": nn.Linear(config.hidden_size, config.vocab_size, bias=config.mlp_bias)},
        output=lambda head, states, words: through(states, head["lm_head"]),
        output_bias=lambda backbone, layer: layer.mlp.down_proj.bias,
        layers_at="layers",
        embed=lambda backbone, words, ids, types, mask: words,
        positions=no_positions,
        prepare=_prepare_rotations,
        run_layer=_run_with,
        finish=lambda backbone, states: backbone.norm(states),
        hidden_dropout=(),
        attention_dropout="attention_dropout",
    )
)

# NomicBERT: BERT with rotary positions in place of the table, and a gated feed-forward network.

_NOMIC_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
}


def _nomic_objection(config: Any) -> str | None:
    """Its own program names sizes as GPT-2 does; transformers passes over those names and takes its defaults."""
    for theirs, ours in _NOMIC_NAMES.items():
        stated = getattr(config, theirs, None)
        if stated is not None and stated != getattr(config, ours):
            return (
                f"{theirs} {stated}, which it takes for {ours} {getattr(config, ours)}; rename the keys in config.json"
            )
    base, theta = getattr(config, "rotary_emb_base", None), config.rope_parameters["rope_theta"]
    if base is not None and base != theta:
        return f"rotary_emb_base {base}, which it takes for a rope_theta of {theta}; rename the keys in config.json"
    return None


NOMIC_BERT = register(
    Family(
        model_type="nomic_bert",
        backbone=NomicBertModel,
        masked_lm=NomicBertForMaskedLM,
        new_layer=lambda config, index: NomicBertLayer(config),
        new_head=lambda config: {"cls": NomicBertOnlyMLMHead(config)},
        output_bias=lambda backbone, layer: layer.post_mlp_layernorm.bias,
        layers_at="layers",
        positions=no_positions,
        prepare=_prepare_rotations,
        run_layer=_run_with,
        renamed={r"^bert\.": ""},
        objection=_nomic_objection,
    )
)
