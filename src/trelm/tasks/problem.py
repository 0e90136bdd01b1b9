"""A task as tuning sees it, and the model that is tuned for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trelm.tasks.subwords import Part

ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "language")


@dataclass(frozen=True)
class Problem:
    """What is learned, and how it is scored.

    Attributes:
        metric: the name of the main score. parts: train, dev and test.
        make_head: a head for states of the given width; it has `loss(states (B, S, h), batch)` and
            `predict(states, batch)`, which gives one prediction an example.
        score: scores of the predictions for a part. figures: counts of what was read, cut and dropped.
    """

    metric: str
    parts: Mapping[str, Part]
    make_head: Callable[[int], nn.Module]
    score: Callable[[Part, Sequence[Any]], dict[str, float]]
    figures: dict[str, Any]


@dataclass(frozen=True)
class TaskOutput:
    """What the training loop asks of a model."""

    loss: Tensor


class TaskModel(nn.Module):
    """An encoder with a head. The head computes in float32, whatever precision the encoder has."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, **batch: Tensor) -> TaskOutput:
        """The loss of a batch."""
        return TaskOutput(self._ask("loss", batch))

    def predict(self, batch: Mapping[str, Tensor]) -> list[Any]:
        """One prediction an example."""
        found: list[Any] = self._ask("predict", batch)
        return found

    def _ask(self, what: str, batch: Mapping[str, Tensor]) -> Any:
        inputs = {name: batch[name] for name in ENCODER_INPUTS if name in batch}
        states = self.encoder(**inputs).last_hidden_state
        with torch.autocast(states.device.type, enabled=False):
            return getattr(self.head, what)(states.float(), batch)


def label_index(labels: Iterable[str]) -> dict[str, int]:
    """Numbers for labels, in their alphabetical order."""
    return {label: number for number, label in enumerate(sorted(set(labels)))}


def most_frequent(labels: Iterable[str]) -> str:
    """The most frequent label; of several, the first in the alphabet."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def count_unseen(known: Mapping[str, int], labels: Iterable[str]) -> int:
    """Labels of dev or test that train has not: they are never predicted."""
    return sum(label not in known for label in labels)
