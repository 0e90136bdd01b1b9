"""Families with a table of absolute positions and the normalisation after each layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertForMaskedLM,
    BertModel,
    CamembertForMaskedLM,
    CamembertModel,
    DistilBertForMaskedLM,
    DistilBertModel,
    ElectraForMaskedLM,
    ElectraModel,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)
from transformers.activations import get_activation
from transformers.models.bert.modeling_bert import BertLayer, BertOnlyMLMHead
from transformers.models.camembert.modeling_camembert import CamembertLayer, CamembertLMHead
from transformers.models.distilbert.modeling_distilbert import TransformerBlock
from transformers.models.electra.modeling_electra import ElectraGeneratorPredictions, ElectraLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer, RobertaLMHead
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer, XLMRobertaLMHead

from trelm.model.families.record import Family, Output, register, through

# BERT: also MiniLM and every other checkpoint that loads as it.

BERT = register(
    Family(
        model_type="bert",
        backbone=BertModel,
        masked_lm=BertForMaskedLM,
        new_layer=lambda config, index: BertLayer(config, layer_idx=index),
        new_head=lambda config: {"cls": BertOnlyMLMHead(config)},
        output_bias=lambda backbone, layer: layer.output.LayerNorm.bias,
    )
)

# RoBERTa: positions count from the padding token's id + 1, and a padding token's position is its own id.


def _positions_after_padding(config: Any) -> int:
    return int(config.pad_token_id) + 1


def _embed_after_padding(
    backbone: Any, words: Tensor, ids: Tensor | None, types: Tensor | None, mask: Tensor | None
) -> Tensor:
    table = backbone.embeddings
    # without ids nobody can tell which positions are padding; Hugging Face counts all of them then, and so do we
    positions = None if ids is None else table.create_position_ids_from_input_ids(ids, table.padding_idx)
    embedded: Tensor = table(inputs_embeds=words, token_type_ids=types, position_ids=positions)
    return embedded


def _table_positions_after_padding(backbone: Any, length: int, mask: Tensor | None) -> Tensor | None:
    table: nn.Embedding = backbone.embeddings.position_embeddings
    before = _positions_after_padding(backbone.config) - 1
    real = torch.ones(1, length, dtype=torch.long, device=table.weight.device) if mask is None else mask.long()
    positions: Tensor = table(real.cumsum(dim=1) * real + before)
    return positions


def roberta_output(head: Any, states: Tensor, words: nn.Embedding) -> Output:
    parts = head["lm_head"]
    return through(parts.layer_norm(functional.gelu(parts.dense(states))), parts.decoder)


ROBERTA = register(
    Family(
        model_type="roberta",
        backbone=RobertaModel,
        masked_lm=RobertaForMaskedLM,
        new_layer=lambda config, index: RobertaLayer(config, layer_idx=index),
        new_head=lambda config: {"lm_head": RobertaLMHead(config)},
        output=roberta_output,
        output_bias=lambda backbone, layer: layer.output.LayerNorm.bias,
        embed=_embed_after_padding,
        positions=_table_positions_after_padding,
        first_position=_positions_after_padding,
    )
)

# XLM-RoBERTa and CamemBERT: RoBERTa with other vocabularies, in classes of their own.

XLM_ROBERTA = register(
    replace(
        ROBERTA,
        model_type="xlm-roberta",
        backbone=XLMRobertaModel,
        masked_lm=XLMRobertaForMaskedLM,
        new_layer=lambda config, index: XLMRobertaLayer(config, layer_idx=index),
        new_head=lambda config: {"lm_head": XLMRobertaLMHead(config)},
    )
)

CAMEMBERT = register(
    replace(
        ROBERTA,
        model_type="camembert",
        backbone=CamembertModel,
        masked_lm=CamembertForMaskedLM,
        new_layer=lambda config, index: CamembertLayer(config, layer_idx=index),
        new_head=lambda config: {"lm_head": CamembertLMHead(config)},
    )
)

# ELECTRA: embeddings may be narrower than the layers. A discriminator's checkpoint has no masked-LM head.


def _electra_embed(
    backbone: Any, words: Tensor, ids: Tensor | None, types: Tensor | None, mask: Tensor | None
) -> Tensor:
    embedded: Tensor = backbone.embeddings(inputs_embeds=words, token_type_ids=types)
    return backbone.embeddings_project(embedded) if hasattr(backbone, "embeddings_project") else embedded


def _electra_project(backbone: Any, vectors: Tensor) -> Tensor:
    if not hasattr(backbone, "embeddings_project"):
        return vectors
    return functional.linear(vectors, backbone.embeddings_project.weight)


ELECTRA = register(
    Family(
        model_type="electra",
        backbone=ElectraModel,
        masked_lm=ElectraForMaskedLM,
        new_layer=lambda config, index: ElectraLayer(config, layer_idx=index),
        new_head=lambda config: {
            "generator_predictions": ElectraGeneratorPredictions(config),
            "generator_lm_head": nn.Linear(config.embedding_size, config.vocab_size),
        },
        output=lambda head, states, words: through(head["generator_predictions"](states), head["generator_lm_head"]),
        output_bias=lambda backbone, layer: layer.output.LayerNorm.bias,
        embed=_electra_embed,
        project=_electra_project,
    )
)

# DistilBERT: no token types, no pooler.


def _distilbert_output(head: Any, states: Tensor, words: nn.Embedding) -> Output:
    transformed = head["vocab_layer_norm"](head["activation"](head["vocab_transform"](states)))
    return through(transformed, head["vocab_projector"])


DISTILBERT = register(
    Family(
        model_type="distilbert",
        backbone=DistilBertModel,
        masked_lm=DistilBertForMaskedLM,
        new_layer=lambda config, index: TransformerBlock(config),
        new_head=lambda config: {
            "activation": get_activation(config.activation),
            "vocab_transform": nn.Linear(config.dim, config.dim),
            "vocab_layer_norm": nn.LayerNorm(config.dim, eps=1e-12),
            "vocab_projector": nn.Linear(config.dim, config.vocab_size),
        },
        output=_distilbert_output,
        output_bias=lambda backbone, layer: layer.output_layer_norm.bias,
        layers_at="transformer.layer",
        embed=lambda backbone, words, ids, types, mask: backbone.embeddings(None, words),
        hidden_dropout=("dropout",),
        attention_dropout="attention_dropout",
    )
)
