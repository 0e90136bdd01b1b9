"""One record per encoder family: where a Hugging Face model keeps the parts that TreLM rearranges."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

BACKBONE = "trelm.backbone."
HEAD = "head."


def embed(backbone: Any, words: Tensor, ids: Tensor | None, types: Tensor | None, mask: Tensor | None) -> Tensor:
    """Positions that count from 0, token types, a normalisation."""
    embedded: Tensor = backbone.embeddings(inputs_embeds=words, token_type_ids=types)
    return embedded


def as_it_is(backbone: Any, states: Tensor) -> Tensor:
    """Nothing is done."""
    return states


def no_positions(backbone: Any, length: int, mask: Tensor | None) -> Tensor | None:
    """The order is inside attention: relative or rotary positions."""
    return None


def table_positions(backbone: Any, length: int, mask: Tensor | None) -> Tensor | None:
    """The first `length` rows of the position table (T, d)."""
    table: nn.Embedding = backbone.embeddings.position_embeddings
    positions: Tensor = table(torch.arange(length, device=table.weight.device))
    return positions


def bidirectional_mask(backbone: Any, states: Tensor, mask: Tensor | None) -> Any:
    """The mask in the form that the attention implementation takes; None where it needs none."""
    return create_bidirectional_mask(config=backbone.config, inputs_embeds=states, attention_mask=mask)


def run_masked_layer(layer: nn.Module, states: Tensor, mask: Any) -> Tensor:
    """A layer that takes nothing besides its input and a mask."""
    output = layer(states, attention_mask=mask)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


@dataclass(frozen=True)
class Output:
    """The product that ends a head, not yet carried out: its result are the logits.

    Attributes:
        features: (..., e), what the head makes of the states.
        weight: (V, e), the word table or a table of the head's own. bias: (V,), or None without.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    def logits(self) -> Tensor:
        """(..., V)."""
        return functional.linear(self.features, self.weight, self.bias)


def through(features: Tensor, layer: Any) -> Output:
    """The output of a head that ends in a linear layer.

    Args:
        features: (..., e). layer: the linear layer.
    """
    return Output(features, layer.weight, layer.bias)


def bert_output(head: Any, states: Tensor, words: nn.Embedding) -> Output:
    """A transform, then an output layer, in a module `predictions`."""
    predictions = head["cls"].predictions
    return through(predictions.transform(states), predictions.decoder)


@dataclass(frozen=True)
class Family:
    """How TreLM reads one kind of encoder; B sentences of S input and T output positions, widths d and h.

    Attributes:
        model_type: as in the encoder's `config.json`.
        backbone: the bare encoder's class. masked_lm: the class with the masked-language-modelling head.
        new_layer: (configuration, its number) -> one more layer.
        new_head: configuration -> the parts of the head, named as `masked_lm` names them.
        output: (head, states (..., h), word table) -> the product that makes the logits.
        output_bias: (backbone, layer) -> the vector that is added last of all to the layer's output; None without.
        layers_at: where the backbone keeps its layers.
        embed: (backbone, word and language embeddings (B, S, d), ids, types, 0/1 mask; each (B, S) or None) ->
            (B, S, h).
        positions: (backbone, T, 0/1 mask (B, T) or None) -> absolute position embeddings (T, d) or (B, T, d), or None
            where order is inside attention.
        project: (backbone, vectors (..., d)) -> (..., h), without bias: how the embeddings reach the layers' width.
        prepare: (backbone, states (B, L, h), 0/1 mask (B, L) or None) -> what `run_layer` takes besides the states.
        run_layer: (layer, states (B, L, h), prepared) -> (B, L, h).
        finish: (backbone, the last layer's states) -> the encoder's output.
        first_position: configuration -> the position id of a sentence's first token.
        hidden_dropout, attention_dropout: names of the rates in the configuration.
        beside_lower: backbone -> modules outside the layers that are part of the first one.
        renamed: patterns of a checkpoint's weight names -> what they are called here.
        objection: configuration -> why a checkpoint with it cannot be read, or None.
        other_head: (configuration, weights of a checkpoint that it has no place for) -> the configuration under which
            the checkpoint's head is found, or None where this one is right.
    """

    model_type: str
    backbone: type[PreTrainedModel]
    masked_lm: type[PreTrainedModel]
    new_layer: Callable[[Any, int], nn.Module]
    new_head: Callable[[Any], dict[str, nn.Module]]
    output_bias: Callable[[Any, Any], nn.Parameter | None]
    output: Callable[[Any, Tensor, nn.Embedding], Output] = bert_output
    layers_at: str = "encoder.layer"
    embed: Callable[[Any, Tensor, Tensor | None, Tensor | None, Tensor | None], Tensor] = embed
    positions: Callable[[Any, int, Tensor | None], Tensor | None] = table_positions
    project: Callable[[Any, Tensor], Tensor] = as_it_is
    prepare: Callable[[Any, Tensor, Tensor | None], Any] = bidirectional_mask
    run_layer: Callable[[nn.Module, Tensor, Any], Tensor] = run_masked_layer
    finish: Callable[[Any, Tensor], Tensor] = as_it_is
    first_position: Callable[[Any], int] = lambda config: 0
    hidden_dropout: tuple[str, ...] = ("hidden_dropout_prob",)
    attention_dropout: str = "attention_probs_dropout_prob"
    beside_lower: Callable[[Any], list[nn.Module]] = lambda backbone: []
    renamed: Mapping[str, str] = field(default_factory=dict)
    objection: Callable[[Any], str | None] = lambda config: None
    other_head: Callable[[Any, list[str]], Any] = lambda config, unused: None

    def layers(self, backbone: nn.Module) -> nn.ModuleList:
        """The body layers, bottom first."""
        layers: Any = backbone.get_submodule(self.layers_at)
        return layers  # type: ignore[no-any-return]

    def predict(self, head: Any, states: Tensor, words: nn.Embedding) -> Tensor:
        """Logits (..., V) of states (..., h)."""
        return self.output(head, states, words).logits()

    def longer_config(self, config: Any, position: int) -> Any:
        """The configuration with one more layer: number `position`, of the kind of the one below it."""
        longer = copy.deepcopy(config)
        longer.num_hidden_layers = config.num_hidden_layers + 1
        kinds = getattr(config, "layer_types", None)
        if kinds is not None:
            longer.layer_types = [*kinds[:position], kinds[position - 1], *kinds[position:]]
        return longer

    def new_tri_layer(self, config: Any, position: int) -> nn.Module:
        """One more layer, as it stands at `position` of a longer encoder, sharing this encoder's configuration."""
        longer = self.longer_config(config, position)
        layer = self.new_layer(longer, position)
        for module in layer.modules():
            if getattr(module, "config", None) is longer:
                module.config = config  # one object: a change of the attention implementation reaches every layer
        return layer

    def tied(self, config: Any) -> dict[str, str]:
        """Tied weights of a TreLM model: name -> name of what it is tied to."""
        names: Any = self.masked_lm._tied_weights_keys
        heads = tuple(f"{name}." for name in self.head_names(config))
        return {self._ours(name): self._ours(to) for name, to in names.items() if name.startswith(heads)}

    def head_names(self, config: Any) -> list[str]:
        """The names of the head's parts; nothing of the vocabulary's size is made."""
        with torch.device("meta"):
            return list(self.new_head(config))

    def decoder_at(self, config: Any) -> str | None:
        """Where the head keeps its output layer; None where it multiplies with the word table itself."""
        tied = [name for name, to in self.tied(config).items() if to.startswith(BACKBONE)]
        return tied[0].removeprefix(HEAD).removesuffix(".weight") if tied else None

    def input_bias(self, backbone: Any, *, words_are_tied: bool) -> nn.Embedding | None:
        """A table of which every position takes one row, whatever its word: what is added to all rows is a bias.

        Token types, else positions, else the words themselves where the output layer has a table of its own; None
        without any.
        """
        embeddings = getattr(backbone, "embeddings", backbone)
        for name in ("token_type_embeddings", "position_embeddings"):
            table: nn.Embedding | None = getattr(embeddings, name, None)
            if table is not None and table.num_embeddings > 0:
                return table
        words: nn.Embedding = backbone.get_input_embeddings()
        return None if words_are_tied else words

    def plain_name(self, name: str) -> str:
        """The name that a weight of a TreLM model's backbone or head has in `masked_lm`."""
        if name.startswith(HEAD):
            return name.removeprefix(HEAD)
        return f"{self.masked_lm.base_model_prefix}.{name.removeprefix(BACKBONE)}"

    def _ours(self, name: str) -> str:
        prefix = f"{self.masked_lm.base_model_prefix}."
        return BACKBONE + name.removeprefix(prefix) if name.startswith(prefix) else HEAD + name


FAMILIES: dict[str, Family] = {}
"""Every family that TreLM knows, by its model type."""


def register(family: Family) -> Family:
    """Make a family known."""
    FAMILIES[family.model_type] = family
    return family
