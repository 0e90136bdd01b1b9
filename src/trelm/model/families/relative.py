"""Families whose attention knows how far apart two positions are: nothing is added to the TRILayer's input."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DebertaV2ForMaskedLM, DebertaV2Model, MPNetForMaskedLM, MPNetModel
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2Layer,
    DebertaV2OnlyMLMHead,
    LegacyDebertaV2OnlyMLMHead,
)
from transformers.models.mpnet.modeling_mpnet import MPNetLayer, MPNetLMHead, create_position_ids_from_input_ids

from trelm.model.families.absolute import roberta_output
from trelm.model.families.record import (
    Family,
    Output,
    bert_output,
    bidirectional_mask,
    no_positions,
    register,
    table_positions,
)

# MPNet: one table of relative biases for all layers, and absolute positions in the embeddings, counted as RoBERTa's.


def _mpnet_embed(backbone: Any, words: Tensor, ids: Tensor | None, types: Tensor | None, mask: Tensor | None) -> Tensor:
    table = backbone.embeddings
    positions = None if ids is None else create_position_ids_from_input_ids(ids, table.padding_idx)
    embedded: Tensor = table(inputs_embeds=words, position_ids=positions)
    return embedded


def _mpnet_prepare(backbone: Any, states: Tensor, mask: Tensor | None) -> Any:
    return bidirectional_mask(backbone, states, mask), backbone.encoder.compute_position_bias(states)


def _mpnet_run_layer(layer: nn.Module, states: Tensor, prepared: Any) -> Tensor:
    mask, bias = prepared
    output: Tensor = layer(states, mask, bias)[0]
    return output


MPNET = register(
    Family(
        model_type="mpnet",
        backbone=MPNetModel,
        masked_lm=MPNetForMaskedLM,
        new_layer=lambda config, index: MPNetLayer(config),
        new_head=lambda config: {"lm_head": MPNetLMHead(config)},
        output=roberta_output,
        output_bias=lambda backbone, layer: layer.output.LayerNorm.bias,
        embed=_mpnet_embed,
        positions=no_positions,
        prepare=_mpnet_prepare,
        run_layer=_mpnet_run_layer,
        first_position=lambda config: 2,  # the padding token is number 1, whatever the configuration says
    )
)

# DeBERTa-v2 and v3: relative embeddings that all layers share, a mask of pairs, sometimes a convolution after layer 0.


@dataclass(frozen=True)
class _DebertaInputs:
    """What a layer takes besides its states.

    Attributes:
        mask: (B, 1, L, L). distances: (1, L, L), or None. embeddings: of the distances, or None.
        real: (B, L), 1 for real tokens. convolution, convolved: what follows the layer `convolved`, or None.
    """

    mask: Tensor
    distances: Tensor | None
    embeddings: Tensor | None
    real: Tensor
    convolution: nn.Module | None
    convolved: nn.Module


def _deberta_embed(
    backbone: Any, words: Tensor, ids: Tensor | None, types: Tensor | None, mask: Tensor | None
) -> Tensor:
    embedded: Tensor = backbone.embeddings(inputs_embeds=words, token_type_ids=types, mask=mask)
    return embedded


def _deberta_project(backbone: Any, vectors: Tensor) -> Tensor:
    projection = backbone.embeddings.embed_proj
    return vectors if projection is None else functional.linear(vectors, projection.weight)


def _deberta_prepare(backbone: Any, states: Tensor, mask: Tensor | None) -> Any:
    encoder = backbone.encoder
    real = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
    return _DebertaInputs(
        mask=encoder.get_attention_mask(real),
        distances=encoder.get_rel_pos(states),
        embeddings=encoder.get_rel_embedding(),
        real=real,
        convolution=encoder.conv,
        convolved=encoder.layer[0],
    )


def _deberta_run_layer(layer: nn.Module, states: Tensor, prepared: Any) -> Tensor:
    output: Tensor = layer(states, prepared.mask, relative_pos=prepared.distances, rel_embeddings=prepared.embeddings)[
        0
    ]
    if prepared.convolution is not None and layer is prepared.convolved:
        output = prepared.convolution(states, output, prepared.real)
    return output


def _deberta_positions(backbone: Any, length: int, mask: Tensor | None) -> Tensor | None:
    # a DeBERTa may also be configured without its relative attention: order is then in the table alone
    relative = backbone.encoder.relative_attention or backbone.embeddings.position_embeddings is None
    return None if relative else table_positions(backbone, length, mask)


def _deberta_other_head(config: Any, unused: list[str]) -> Any:
    # DeBERTa-v3's checkpoints have the newer head, and their configurations do not say so
    if not config.legacy or not any(name.startswith("lm_predictions.") for name in unused):
        return None
    newer = copy.deepcopy(config)
    newer.legacy = False
    return newer


def _deberta_output_bias(backbone: Any, layer: Any) -> nn.Parameter | None:
    encoder = backbone.encoder
    last = encoder.conv if encoder.conv is not None and layer is encoder.layer[0] else layer.output
    bias: nn.Parameter = last.LayerNorm.bias
    return bias


def _deberta_head(config: Any) -> dict[str, nn.Module]:
    if config.legacy:
        return {"cls": LegacyDebertaV2OnlyMLMHead(config)}
    return {"lm_predictions": DebertaV2OnlyMLMHead(config)}


def _deberta_output(head: Any, states: Tensor, words: nn.Embedding) -> Output:
    if "cls" in head:
        return bert_output(head, states, words)
    newer = head["lm_predictions"].lm_head
    features = newer.LayerNorm(newer.transform_act_fn(newer.dense(states)))
    return Output(features, words.weight, newer.bias)


DEBERTA_V2 = register(
    Family(
        model_type="deberta-v2",
        backbone=DebertaV2Model,
        masked_lm=DebertaV2ForMaskedLM,
        new_layer=lambda config, index: DebertaV2Layer(config),
        new_head=_deberta_head,
        output=_deberta_output,
        output_bias=_deberta_output_bias,
        beside_lower=lambda backbone: [] if backbone.encoder.conv is None else [backbone.encoder.conv],
        other_head=_deberta_other_head,
        embed=_deberta_embed,
        positions=_deberta_positions,
        project=_deberta_project,
        prepare=_deberta_prepare,
        run_layer=_deberta_run_layer,
    )
)
