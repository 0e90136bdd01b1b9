"""One record per encoder family: where a Hugging Face model keeps the parts that TreLM rearranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import BertModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertLayer, BertOnlyMLMHead

from trelm.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """How TreLM reads one kind of encoder.

    Attributes:
        model_type: as in the encoder's `config.json`.
        new_backbone: the bare encoder from its configuration.
        layers: the body layers of a backbone, bottom first.
        new_layer: one more layer of that kind, for the TRILayer.
        embed: (backbone, input ids or None, input embeddings or None, type ids or None) -> (B, S, h).
        positions: (backbone, positions (T,)) -> absolute position embeddings (T, d), or None for relative schemes.
        run_layer: (layer, states (B, L, h), mask) -> (B, L, h).
        mask: (backbone, states (B, L, h), 0/1 mask (B, L) or None) -> what `run_layer` takes.
        new_head: the masked-language-modelling head from the configuration.
        pooler: prefix of the pooler's weights in the backbone; a checkpoint may lack it, it is then fresh.
        head_in_source: name of the head in the family's own masked-LM class.
        tied: tied parameter names of the head -> names in the backbone or the head.
    """

    model_type: str
    new_backbone: Callable[[Any], nn.Module]
    layers: Callable[[Any], nn.ModuleList]
    new_layer: Callable[[Any], nn.Module]
    embed: Callable[[Any, Tensor | None, Tensor | None, Tensor | None], Tensor]
    positions: Callable[[Any, Tensor], Tensor | None]
    run_layer: Callable[[nn.Module, Tensor, Any], Tensor]
    mask: Callable[[Any, Tensor, Tensor | None], Any]
    new_head: Callable[[Any], nn.Module]
    pooler: str
    head_in_source: str
    tied: dict[str, str]


def _bert_backbone(config: Any) -> nn.Module:
    return BertModel(config, add_pooling_layer=True)


def _bert_embed(backbone: Any, ids: Tensor | None, embeddings: Tensor | None, types: Tensor | None) -> Tensor:
    states: Tensor = backbone.embeddings(input_ids=ids, inputs_embeds=embeddings, token_type_ids=types)
    return states


def _bert_positions(backbone: Any, positions: Tensor) -> Tensor:
    embedded: Tensor = backbone.embeddings.position_embeddings(positions)
    return embedded


def _run_layer(layer: nn.Module, states: Tensor, mask: Any) -> Tensor:
    output = layer(states, attention_mask=mask)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _bidirectional_mask(backbone: Any, states: Tensor, mask: Tensor | None) -> Any:
    return create_bidirectional_mask(config=backbone.config, inputs_embeds=states, attention_mask=mask)


BERT = Family(
    model_type="bert",
    new_backbone=_bert_backbone,
    layers=lambda backbone: backbone.encoder.layer,
    new_layer=lambda config: BertLayer(config, layer_idx=config.num_hidden_layers),
    embed=_bert_embed,
    positions=_bert_positions,
    run_layer=_run_layer,
    mask=_bidirectional_mask,
    new_head=BertOnlyMLMHead,
    pooler="pooler.",
    head_in_source="cls",
    tied={
        "head.predictions.decoder.weight": "trelm.backbone.embeddings.word_embeddings.weight",
        "head.predictions.decoder.bias": "head.predictions.bias",
    },
)

FAMILIES: dict[str, Family] = {BERT.model_type: BERT}


def family_of(config: Any) -> Family:
    """The family of an encoder.

    Raises:
        ConfigError: TreLM does not know that kind of encoder yet.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ConfigError(
            f"source.model: expected an encoder of a known family ({', '.join(FAMILIES)}), "
            f"found '{config.model_type}'; choose an encoder of one of these families"
        )
    if getattr(config, "is_decoder", False):
        raise ConfigError("source.model: expected an encoder, found a decoder (is_decoder is true); choose an encoder")
    return family
