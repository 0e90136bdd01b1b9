"""What training costs: floating-point operations, memory, time; before a run and after it. No torch.

A multiplication and the addition that follows it are two floating-point operations (FLOPs). Only matrix products are
counted: normalisations, activations, softmaxes and look-ups are a few percent of them at most.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trelm.errors import BudgetError

FLOAT_BYTES = 4
ADAMW_MOMENTS = 2


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive layers that are alike.

    Attributes:
        layers: how many; trained: whether their weights train.
        tokens: tokens of the batch in them, padding counted; length: tokens of a padded sequence.
            (The halves of a CdLM batch differ in both: sequences of the one language below, of the other above.)
    """

    layers: int
    trained: bool
    tokens: int
    length: int


@dataclass(frozen=True)
class LayerShape:
    """What of one layer, of a body whose layers are alike, decides its cost; `trelm.model.shape` reads it off a model.

    Attributes:
        weights: entries of the weight matrices that every token is multiplied with: 2 FLOPs each, a token.
            (BERT's h and i: 4 h^2 + 2 h i; a gated feed-forward network has 3 h i.)
        width: h, the width of a token's state.
        attention_width: a, heads times the size of a head.
        feed_forward: numbers that the backward pass keeps of a token's feed-forward network of width i: 2 i (before and
            after the activation function); gated 4 i (the gate before and after it, what it is multiplied with, the
            product).
        relative_positions: r, rows of relative positions that each token is multiplied with, for its query
            (content-to-position) and for its key (position-to-content) together; 0 where there are none.
        unfused_heads: heads whose products between tokens the backward pass keeps; 0 where attention is fused.
    """

    weights: int
    width: int
    attention_width: int
    feed_forward: int
    relative_positions: int = 0
    unfused_heads: int = 0


def head_flops(*, hidden: int, vocabulary: int, embedding: int | None = None) -> float:
    """Forward FLOPs of the masked-language-model head at one position: transform 2 h e, output 2 e V.

    A head without a transform (EuroBERT) is charged 2 h^2 too much: h / V of it.
    """
    width = embedding or hidden
    return float(2 * hidden * width + 2 * width * vocabulary)


def training_flops(
    groups: Sequence[LayerGroup],
    shape: LayerShape,
    *,
    vocabulary: int,
    labelled: int,
    embedding: int | None = None,
    embeddings_train: bool = True,
    head_trains: bool = True,
) -> float:
    """FLOPs of one update, forward and backward, for a batch that is run at once.

    Forward, for each layer, with T tokens in sequences of L:

        2 weights T + 4 a L T + 2 a r T + 2 h a r

    The products with the weights; the attention scores and their mean of the values, 2 products of 2 a L a token. Then
    what is DeBERTa's own (He et al. 2021, equation 4; `DisentangledSelfAttention.disentangled_attention_bias` in
    transformers' deberta_v2): each token's query is multiplied with every row of the keys of relative positions, each
    key with every row of their queries, 2 a a token and row; the rows themselves are the one table of all layers,
    projected anew in each layer, 2 h a a row, once a batch, however many sequences it has.

    Backward is the forward once more for each factor of a product whose gradient is needed. So a layer whose weights
    train costs 3x, a frozen one above something that trains 2x, one at and below which nothing trains 1x; attention has
    no weights and two factors that depend on what is below: 3x wherever a gradient passes. The table of relative
    positions is taken to train with the embeddings. The lowest trained layer is charged the gradient of its input also
    where nobody needs it: an overestimate of at most 6 h^2 a token, once.

    Attention is counted whole: what a sliding window leaves out is computed, then masked, but for fused kernels that
    skip it.

    Args:
        groups: the body from bottom to top. shape: one layer of it. vocabulary: V.
        labelled: positions whose token is predicted (the head runs at these only).
        embedding: e, the width of the word table; default h. Where they differ, the lowest group's tokens are projected
            from e to h. embeddings_train, head_trains: whether they train.
    """
    width = embedding or shape.width
    projected = groups[0].tokens if groups and width != shape.width else 0
    total = 2.0 * width * shape.width * projected * (1 + 2 * embeddings_train)
    trains_below = embeddings_train
    for group in groups:
        trains_below = trains_below or group.trained
        total += group.layers * _layer_flops(shape, group, passes=trains_below, table_trains=embeddings_train)
    head = labelled * head_flops(hidden=shape.width, vocabulary=vocabulary, embedding=embedding)
    return total + head * (1 + (trains_below or head_trains) + head_trains)


def memory_bytes(
    shape: LayerShape,
    *,
    parameters: int,
    trained_parameters: int,
    tokens: int,
    length: int,
    layers: int,
    vocabulary: int,
    labelled: int,
    activation_bytes: int = 4,
) -> int:
    """Bytes at the peak of one update with AdamW, in 32-bit weights: an estimate, good to a quarter or so.

        4 P + 4 P' + 8 P' + labelled * V * 12
        + layers * (tokens * (4 h + 4 a + feed_forward + heads * (L + r)) + sequences * r a) * activation_bytes

    weights, gradients, AdamW's two moments (P' are the trained parameters); the logits with their softmax and gradient;
    and what the backward pass keeps of each layer: input, two sums, a norm's output (4 h); query, key, value,
    attention's output (4 a); the feed-forward network's; of each head that is not fused its attention weights (L) and
    its scores of relative positions (r); for each sequence its own copy of the projected relative positions (r a).
    Without dropout, which keeps the attention weights of such a head once more. No gradient checkpointing.

    Args:
        shape: one layer. layers: how many. tokens: of one batch on one device, padding counted.
        length: L, tokens of a padded sequence. labelled: positions whose token is predicted.
        activation_bytes: 4, or 2 under bfloat16.
    """
    states = FLOAT_BYTES * (parameters + (1 + ADAMW_MOMENTS) * trained_parameters)
    scores = shape.unfused_heads * (length + shape.relative_positions)
    of_token = 4 * shape.width + 4 * shape.attention_width + shape.feed_forward + scores
    of_sequence = shape.relative_positions * shape.attention_width
    activations = layers * (tokens * of_token + tokens * of_sequence // length) * activation_bytes
    logits = labelled * vocabulary * 3 * FLOAT_BYTES
    return states + activations + logits


def resident_bytes() -> int:
    """Memory that this process holds now; where the system does not say, the most that it ever held."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def split_budget(total: float, shares: Mapping[str, float]) -> dict[str, float]:
    """`total` split in proportion to `shares`; the parts sum to `total`.

    Raises:
        BudgetError: the total is not above 0, a share is negative, or all of them are 0.
    """
    if total <= 0:
        raise BudgetError(f"budget: expected more than 0 to split, found {total:g}; give a larger budget")
    negative = [name for name, share in shares.items() if share < 0]
    if negative:
        raise BudgetError(f"stages.{negative[0]}.share: expected 0 or more, found {shares[negative[0]]:g}; correct it")
    whole = sum(shares.values())
    if whole == 0:
        raise BudgetError("stages: expected a share above 0, found none; give at least one stage a share of the budget")
    return {name: total * share / whole for name, share in shares.items()}


def human_seconds(seconds: float) -> str:
    """`0.4 s`, `45 s`, `12 min 30 s`, `1 h 05 min`, `3 d 04 h`; never less than nothing."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def human_count(count: float) -> str:
    """`950`, `12.3 k`, `4.5 M`, `1.2 G`, ... up to `E` (10^18): decimal prefixes, for tokens, parameters and FLOPs."""
    return _with_prefix(count, ("", "k", "M", "G", "T", "P", "E")).rstrip()


def human_bytes(count: float) -> str:
    """`512 B`, `12.3 kB`, `4.5 MB`, `1.2 GB`, ...: decimal prefixes."""
    return _with_prefix(count, ("", "k", "M", "G", "T", "P", "E")) + "B"


def cells_of_plan(step: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of `trelm plan`: name, time, updates, tokens, FLOPs, memory, disk, and whether it was measured."""
    counts = [human_count(step[name]) if step[name] else "" for name in ("tokens", "flops")]
    disk = human_bytes(step["disk_bytes"]) if step["disk_bytes"] else ""
    updates = f"{step['updates']:,}" if step["updates"] else ""
    memory = human_bytes(step["memory_bytes"])
    return (step["name"], human_seconds(step["seconds"]), updates, *counts, memory, disk, step["basis"])


def _with_prefix(count: float, prefixes: Sequence[str]) -> str:
    """The number under 1000 where a prefix allows it, a space, the prefix."""
    for prefix in prefixes:
        last = prefix == prefixes[-1]
        shown = f"{count:.1f}" if prefix else f"{count:.0f}"
        # Decided on the rounded number, so that 999,960 is "1.0 M" and not "1000.0 k".
        if last or abs(float(shown)) < 1000:
            break
        count /= 1000
    return f"{shown} {prefix}"


def _layer_flops(shape: LayerShape, group: LayerGroup, *, passes: bool, table_trains: bool) -> int:
    """FLOPs of one layer of a group, forward and backward: see `training_flops`.

    Args:
        passes: whether a gradient passes through it. table_trains: whether the table of relative positions trains.
    """
    weights = 2 * shape.weights * group.tokens
    between = 4 * shape.attention_width * group.length * group.tokens
    rows = 2 * shape.attention_width * shape.relative_positions
    return (
        weights * (1 + passes + group.trained)
        + between * (1 + 2 * passes)
        + rows * group.tokens * (1 + passes + (group.trained or table_trains))
        + rows * shape.width * (1 + group.trained + table_trains)
    )
