"""Layers that the heads of the tasks are made of, and the two simplest heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trelm.training.batches import IGNORED

Batch = Mapping[str, Tensor]


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that are not -100; 0 where there is none. logits (..., C), labels (...)."""
    total = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def first_states(states: Tensor, starts: Tensor) -> Tensor:
    """The state of each word's first piece: (B, W, h) from (B, S, h) and (B, W); that of position 0 for no word."""
    return states.gather(1, starts.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def mean_states(states: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """The mean state of each word's pieces, (B, W, h): every piece of a much divided word has its say; 0 for no word.

    Args:
        states: (B, S, h). starts, ends: (B, W), ends exclusive; -100 for no word.
    """
    places = torch.arange(states.shape[1], device=states.device)
    inside = ((places >= starts.unsqueeze(-1)) & (places < ends.unsqueeze(-1))).to(states.dtype)
    return inside @ states / inside.sum(-1, keepdim=True).clamp(min=1)


def mean_of_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens: (B, h) from (B, S, h) and the 0/1 mask (B, S)."""
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def perceptron(width: int, size: int, dropout: float) -> nn.Sequential:
    """One hidden layer of a biaffine parser (Dozat & Manning 2017)."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, size), nn.LeakyReLU(0.1), nn.Dropout(dropout))


class Biaffine(nn.Module):
    """x' W y for each of `outputs` matrices W (Dozat & Manning 2017), 0 at first.

    Args:
        bias_left, bias_right: whether a 1 is put at the end of that side's vectors.
    """

    def __init__(self, left: int, right: int, outputs: int, *, bias_left: bool, bias_right: bool) -> None:
        super().__init__()
        self.bias_left, self.bias_right = bias_left, bias_right
        self.weight = nn.Parameter(torch.zeros(outputs, left + bias_left, right + bias_right))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """All pairs: (B, X, Y, outputs) from (B, X, left) and (B, Y, right)."""
        return torch.einsum("bxi,oij,byj->bxyo", *self._with_biases(left, right))

    def paired(self, left: Tensor, right: Tensor) -> Tensor:
        """Each with its own partner: (B, X, outputs) from (B, X, left) and (B, X, right)."""
        return torch.einsum("bxi,oij,bxj->bxo", *self._with_biases(left, right))

    def _with_biases(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left = functional.pad(left, (0, 1), value=1.0) if self.bias_left else left
        right = functional.pad(right, (0, 1), value=1.0) if self.bias_right else right
        return left, self.weight, right


class TextHead(nn.Module):
    """Classification of a text or a pair: mean state of its tokens, one hidden layer, one number a class."""

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, classes)
        )

    def loss(self, states: Tensor, batch: Batch) -> Tensor:
        return mean_cross_entropy(self._logits(states, batch), batch["labels"].squeeze(1))

    def predict(self, states: Tensor, batch: Batch) -> list[Any]:
        best: list[Any] = self._logits(states, batch).argmax(-1).tolist()
        return best

    def _logits(self, states: Tensor, batch: Batch) -> Tensor:
        logits: Tensor = self.layers(mean_of_tokens(states, batch["attention_mask"]))
        return logits


class TagHead(nn.Module):
    """One class a word, from the state of its first piece."""

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def loss(self, states: Tensor, batch: Batch) -> Tensor:
        return mean_cross_entropy(self.layers(first_states(states, batch["starts"])), batch["tags"])

    def predict(self, states: Tensor, batch: Batch) -> list[Any]:
        best = self.layers(first_states(states, batch["starts"])).argmax(-1).tolist()
        words = (batch["starts"] != IGNORED).sum(1).tolist()
        return [row[:count] for row, count in zip(best, words)]
