"""Aligned-state distillation: states at linked positions are pulled to those of a frozen encoder of the other side.

The teacher reads one side of a pair, the model the other side, masked as for masked language modelling. At each linked
position the model's state is to point where the mean of the teacher's states of the linked word does:

    loss = masked loss + weight * mean over linked positions and layers of (1 - cosine(state, teacher's mean state))

No softmax over the vocabulary is needed for it, and every linked position teaches, not the masked ones alone. (Hinton
et al. 2015, Distilling the knowledge in a neural network; across languages by parallel text: Reimers and Gurevych 2020,
there of whole sentences.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trelm.corpus.ragged import Ragged
from trelm.training.batches import NO_LINK, TEACHER_START, MaskedExamples, Vocabulary, pad_with_specials
from trelm.training.order import Indices

START, END = TEACHER_START, "teacher_end"
READ, MASK = "teacher_ids", "teacher_mask"
_OF_TEACHER = (READ, MASK, START, END)

Part = dict[str, Tensor]


@dataclass
class Teacher:
    """A frozen encoder, and what of its states is taught.

    Attributes:
        model: called with `input_ids`, `attention_mask` and `output_hidden_states`; gives `.hidden_states`.
        layers: pairs of the number of a state of the model that learns and of one of the teacher's.
        weight: of the loss, beside the masked one. falls: whether it falls to 0 over the stage. left: what is left of
            it; whoever trains sets it before each update.
    """

    model: nn.Module
    layers: tuple[tuple[int, int], ...]
    weight: float
    falls: bool = False
    left: float = 1.0

    def fall(self, done: int, total: int) -> None:
        """Set what is left for the update after `done` of `total`: all at first, 1 / total in the last one."""
        self.left = 1 - done / total if self.falls else 1.0


@dataclass(frozen=True)
class Teaching:
    """What the teacher reads, and which of its tokens each position is taught by.

    Attributes:
        read: its token ids of the pairs' other side, without special tokens. starts, ends: for each token of the taught
            side the first of the teacher's tokens that it is linked to and the one after the last, or -1.
        vocabulary: the teacher's.
    """

    read: Ragged
    starts: Ragged
    ends: Ragged
    vocabulary: Vocabulary


@dataclass(frozen=True)
class TaughtExamples:
    """Masked language modelling of one side of pairs, with a teacher that reads the other."""

    masked: MaskedExamples
    teaching: Teaching

    def __len__(self) -> int:
        return len(self.masked)

    def lengths_at(self, indices: Indices) -> Indices:
        limit = self.masked.max_length - 2
        read: Indices = np.minimum(self.teaching.read.lengths_at(indices), limit) + 2
        return np.maximum(self.masked.lengths_at(indices), read)

    def tokens(self, indices: Indices) -> int:
        """Those of the side that is learned."""
        return self.masked.tokens(indices)

    def collate(self, indices: Indices, random: np.random.Generator) -> Part:
        part = self.masked.collate(indices, random)
        given = self.teaching
        ids, mask = pad_with_specials(given.read.sequences(indices), given.vocabulary, self.masked.max_length)
        lengths, read = part["attention_mask"].numpy().sum(1), mask.sum(1)
        start = np.full(part["input_ids"].shape, NO_LINK, dtype=np.int64)
        end = start.copy()
        spans = zip(given.starts.sequences(indices), given.ends.sequences(indices))
        for row, (first, last) in enumerate(spans):
            start[row, : lengths[row]], end[row, : lengths[row]] = _framed(first, last, lengths[row], read[row])
        return part | {name: torch.from_numpy(array) for name, array in zip(_OF_TEACHER, (ids, mask, start, end))}


def _framed(
    starts: NDArray[np.int32], ends: NDArray[np.int32], length: int, read: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spans in the padded coordinates, special tokens linked to their like; what was cut off is not linked to.

    Args:
        length: tokens of the taught sequence, special ones counted. read: those of the teacher's.
    """
    first, last = starts[: length - 2].astype(np.int64), np.minimum(ends[: length - 2].astype(np.int64), read - 2)
    linked = (first >= 0) & (last > first)
    inside = [np.where(linked, place + 1, NO_LINK) for place in (first, last)]
    return np.concatenate([[0], inside[0], [read - 1]]), np.concatenate([[1], inside[1], [read]])


def is_taught(part: Part) -> bool:
    """Whether a part of a batch has something for a teacher."""
    return START in part


def without_links(part: Part) -> Part:
    """The same part that teaches nothing."""
    if not is_taught(part):
        return part
    return {**part, **{name: torch.full_like(part[name], NO_LINK) for name in (START, END)}}


def read_by_student(part: Part) -> Part:
    """What the model that learns is given of a part."""
    return {name: tensor for name, tensor in part.items() if name not in _OF_TEACHER}


def taught_loss(states: Sequence[Tensor], part: Part, teacher: Teacher, items: int | Tensor | None = None) -> Tensor:
    """The teacher's share of the loss, by its weight: see the module.

    Args:
        states: (B, T, h) each, all hidden states of the model that learns.
        items: linked positions that the sum is divided by; None: those of the part.
    """
    device = states[-1].device
    with torch.no_grad():
        output: Any = teacher.model.to(device)(
            input_ids=part[READ].to(device), attention_mask=part[MASK].to(device), output_hidden_states=True
        )
    start, end = part[START].to(device), part[END].to(device)
    linked = start != NO_LINK
    distances = [
        1 - functional.cosine_similarity(states[own][linked].float(), span_means(output.hidden_states[its], start, end))
        for own, its in teacher.layers
    ]
    count = linked.sum().clamp(min=1) if items is None else items
    return teacher.left * teacher.weight * torch.stack(distances).mean(0).sum() / count


def span_means(states: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean of the states of each span, (linked positions, h), in row-major order.

    Args:
        states: (B, S, h). start, end: (B, T), first position and the one after the last; -1 where there is none.
    """
    sums = functional.pad(states.float().cumsum(1), (0, 0, 1, 0))
    linked = start != NO_LINK
    rows = linked.nonzero()[:, 0]
    first, last = start[linked], end[linked]
    return (sums[rows, last] - sums[rows, first]) / (last - first).unsqueeze(-1)
