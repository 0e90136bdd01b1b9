"""What `trelm.cost` must know of an encoder, read off one of its layers and its configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from trelm.cost import LayerShape

PROJECTIONS_OF_POSITIONS = ("pos_key_proj", "pos_query_proj")  # DeBERTa's: applied to a table, not to tokens
DIRECTIONS = {"c2p", "p2c"}


def layer_shape(layer: nn.Module, config: Any) -> LayerShape:
    """The shape of a body layer of any family that TreLM knows.

    Args:
        layer: one body layer; the others are like it. config: the configuration that the backbone has, in which
            transformers has chosen how attention is computed.
    """
    weights, width, heads = _weights(layer), config.hidden_size, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or width // heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or heads
    attention_weights = 2 * width * head_size * (heads + key_value_heads)
    return LayerShape(
        weights=weights,
        width=width,
        attention_width=heads * head_size,
        feed_forward=_feed_forward(weights - attention_weights, width, _intermediate(config)),
        relative_positions=_relative_positions(config),
        unfused_heads=heads if config._attn_implementation == "eager" else 0,
    )


def embedding_width(config: Any) -> int:
    """The width of the word table: ELECTRA's may differ from that of the layers."""
    return int(getattr(config, "embedding_size", None) or config.hidden_size)


def _weights(layer: nn.Module) -> int:
    """Entries of the matrices that every token is multiplied with."""
    return sum(
        module.weight.numel()
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(PROJECTIONS_OF_POSITIONS)
    )


def _intermediate(config: Any) -> int:
    """The width of the feed-forward network; DistilBERT calls it otherwise."""
    return int(config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size)


def _feed_forward(weights: int, width: int, intermediate: int) -> int:
    """Numbers that its backward pass keeps a token: of two matrices 2 i; of three it is gated, and 4 i."""
    matrices = weights // (width * intermediate)
    return 2 * (matrices - 1) * intermediate


def _relative_positions(config: Any) -> int:
    """Rows of the table that DeBERTa's queries (c2p) and keys (p2c) are multiplied with, both together.

    The table has twice `position_buckets` rows, or else twice the greatest distance
    (`DisentangledSelfAttention.__init__` in transformers' deberta_v2). MPNet looks its biases up: no product.
    """
    if not getattr(config, "relative_attention", False):
        return 0
    distances = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
    buckets = getattr(config, "position_buckets", -1)
    rows = 2 * (buckets if buckets > 0 else distances)
    return rows * len(DIRECTIONS.intersection(config.pos_att_type or ()))
