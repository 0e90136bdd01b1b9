"""What training costs: parameters, floating-point operations, memory, time; before a run and after it. No torch.

A multiplication and the addition that follows it are two floating-point operations (FLOPs). Only matrix products are
counted: normalisations, activations, softmaxes and look-ups are a few percent of them at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
class Rate:
    """An amount of work (tokens, FLOPs, lines) and the seconds that it took."""

    amount: float
    seconds: float

    def per_second(self) -> float:
        """Work a second. Raises BudgetError where the measurement took no time."""
        if self.seconds <= 0:
            raise BudgetError(f"rate: expected a measurement of more than 0 s, found {self.seconds} s; measure longer")
        return self.amount / self.seconds

    def seconds_for(self, amount: float) -> float:
        """The time that another amount will take."""
        return 0.0 if amount == 0 else amount / self.per_second()


@dataclass(frozen=True)
class Estimate:
    """What one step will cost; `+` puts steps one after the other.

    Attributes:
        seconds: wall-clock time. tokens: tokens trained on. flops: floating-point operations.
        memory_bytes: at the peak: the greater of two steps. disk_bytes: files left behind: the sum.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    memory_bytes: float = 0.0
    disk_bytes: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            seconds=self.seconds + other.seconds,
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
            memory_bytes=max(self.memory_bytes, other.memory_bytes),
            disk_bytes=self.disk_bytes + other.disk_bytes,
        )


def layer_parameters(*, hidden: int, intermediate: int) -> int:
    """Parameters of one layer: query, key, value, output (4 h^2 + 4 h), feed-forward (2 h i + h + i), 2 norms (4 h)."""
    return 4 * hidden * hidden + 2 * hidden * intermediate + 9 * hidden + intermediate


def encoder_parameters(
    *,
    layers: int,
    hidden: int,
    intermediate: int,
    vocabulary: int,
    positions: int,
    types: int = 2,
    languages: int = 0,
    embedding: int | None = None,
) -> int:
    """Parameters of an encoder of BERT's kind with its tied masked-language-model head.

    Embeddings: (V + positions + types + languages) e, a norm 2 e, and, where e is not h, a projection e h + h.
    Head: transform h e + e, norm 2 e, output bias V (the output table is the embeddings').

    Args:
        types, languages: rows of the type and language embeddings.
        embedding: e, the width of the word table; default h.
    """
    width = embedding or hidden
    tables = (vocabulary + positions + types + languages) * width + 2 * width
    projection = 0 if width == hidden else width * hidden + hidden
    head = hidden * width + 3 * width + vocabulary
    return tables + projection + layers * layer_parameters(hidden=hidden, intermediate=intermediate) + head


def flops_per_token(*, layers: int, hidden: int, intermediate: int, length: int) -> float:
    """Forward FLOPs of the encoder's body for one token in a sequence of `length` tokens.

        layers * (8 h^2 + 4 h i + 4 h L)

    Query, key, value and output projections are 4 products of 2 h^2, the feed-forward network 2 of 2 h i, and the
    attention scores and their mean of the values 2 of 2 h L.
    """
    return float(layers * (_weight_flops(hidden, intermediate) + _attention_flops(hidden, length)))


def head_flops(*, hidden: int, vocabulary: int, embedding: int | None = None) -> float:
    """Forward FLOPs of the masked-language-model head at one position: transform 2 h e, output 2 e V."""
    width = embedding or hidden
    return float(2 * hidden * width + 2 * width * vocabulary)


def training_flops(
    groups: Sequence[LayerGroup],
    *,
    hidden: int,
    intermediate: int,
    vocabulary: int,
    labelled: int,
    embedding: int | None = None,
    embeddings_train: bool = True,
    head_trains: bool = True,
) -> float:
    """FLOPs of one update, forward and backward, for a batch.

    Forward is 1x. Backward of a layer whose weights train is 2x (gradients of weights and of activations); of a frozen
    layer above something that trains 1x (gradients of activations only; attention itself has no weights and two inputs
    to each product, so it costs 2x wherever a gradient passes); of a layer at and below which nothing trains, 0.
    The lowest trained layer is charged the gradient of its input also where nobody needs it: an overestimate of at
    most 6 h^2 a token, once.

    Args:
        groups: the body from bottom to top. hidden, intermediate: h and i. vocabulary: V.
        labelled: positions whose token is predicted (the head runs at these only).
        embedding: e, the width of the word table; default h. embeddings_train, head_trains: whether they train.
    """
    weights = _weight_flops(hidden, intermediate)
    total, trains_below = 0.0, embeddings_train
    for group in groups:
        attention = _attention_flops(hidden, group.length)
        passes = trains_below or group.trained
        backward = weights * (passes + group.trained) + attention * 2 * passes
        total += group.layers * group.tokens * (weights + attention + backward)
        trains_below = passes
    head = labelled * head_flops(hidden=hidden, vocabulary=vocabulary, embedding=embedding)
    return total + head * (1 + (trains_below or head_trains) + head_trains)


def memory_bytes(
    *,
    parameters: int,
    trained_parameters: int,
    tokens: int,
    layers: int,
    hidden: int,
    intermediate: int,
    vocabulary: int,
    labelled: int,
    activation_bytes: int = 4,
) -> int:
    """Bytes at the peak of one update with AdamW, in 32-bit weights: an estimate, good to a quarter or so.

        4 P + 4 P' + 8 P' + tokens * layers * (8 h + 2 i) * activation_bytes + labelled * V * 12

    weights, gradients, AdamW's two moments (P' are the trained parameters), what the backward pass keeps of each layer
    (input, query, key, value, attention's output, two sums, a norm's output: 8 h; before and after the activation
    function: 2 i), and the logits with their softmax and gradient. Attention is taken to be fused, without dropout:
    otherwise it keeps heads * L numbers more for each token and layer. No gradient checkpointing.

    Args:
        tokens: of one batch on one device, padding counted. labelled: positions whose token is predicted.
        activation_bytes: 4, or 2 under bfloat16.
    """
    states = FLOAT_BYTES * (parameters + (1 + ADAMW_MOMENTS) * trained_parameters)
    activations = tokens * layers * (8 * hidden + 2 * intermediate) * activation_bytes
    logits = labelled * vocabulary * 3 * FLOAT_BYTES
    return states + activations + logits


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


def _weight_flops(hidden: int, intermediate: int) -> int:
    """Forward FLOPs a token of one layer's products with weights."""
    return 8 * hidden * hidden + 4 * hidden * intermediate


def _attention_flops(hidden: int, length: int) -> int:
    """Forward FLOPs a token of one layer's products between tokens."""
    return 4 * hidden * length
