"""The loss of a batch, whole, or in pieces: micro-batches of one process, shares of several processes.

The loss is the sum of the cross-entropies of each part divided by the number of its labels, weighted by its share of
the examples; a part with a teacher adds what `trelm.training.teaching` says. The number of labels, or of linked
positions, is that of the whole batch, so that the pieces' losses and gradients add up to those of the whole, however it
is cut.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trelm.training.batches import IGNORED
from trelm.training.teaching import Teacher, is_taught, read_by_student, taught_loss, without_links

Batch = dict[str, Any]
"""`parts`: a list of model inputs; `weights`: one a part, summing to 1; `labelled`, where the batch may be cut: labels
of each part in the whole batch, or None where a part has none that can be counted; `linked`: its positions that a
teacher teaches, or None."""


class Objective(nn.Module):
    """A model with its loss: what is called once a piece of a batch, and so what several processes wrap."""

    def __init__(self, model: nn.Module, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher  # no module of this one: it is neither trained nor saved nor split

    def forward(self, batch: Batch) -> Tensor:
        """Scalar loss of a batch or of a piece of it."""
        return batch_loss(self.model, batch) if self.teacher is None else batch_loss(self.model, batch, self.teacher)


def batch_loss(model: nn.Module, batch: Batch, teacher: Teacher | None = None) -> Tensor:
    """Scalar loss; each part is one forward pass of its own shape.

    Args:
        model: gives `.loss`, the mean over its labels; with `num_items_in_batch`, which not every model takes, their
            sum divided by it. Of parts with a teacher also `.hidden_states`.
    """
    parts, counts = batch["parts"], batch.get("labelled")
    counted = is_divisible(model) and counts is not None
    given = [{"num_items_in_batch": count} if counted and count is not None else {} for count in counts or parts]
    links = batch.get("linked") or [None] * len(parts)
    losses = [
        _loss_of_part(model, part, more, teacher, linked) * weight
        for part, weight, more, linked in zip(parts, batch["weights"], given, links)
    ]
    return torch.stack(losses).sum()


def _loss_of_part(
    model: nn.Module, part: dict[str, Tensor], more: dict[str, Any], teacher: Teacher | None, linked: int | None
) -> Tensor:
    if not is_taught(part):
        loss: Tensor = model(**part, **more).loss
        return loss
    if teacher is None:
        raise ValueError("expected a teacher: a part of the batch has links to its tokens")
    output = model(**read_by_student(part), **more, output_hidden_states=True)
    taught: Tensor = output.loss + taught_loss(output.hidden_states, part, teacher, linked)
    return taught


def is_divisible(model: nn.Module) -> bool:
    """Whether the loss of a batch can be added up from pieces of it."""
    return "num_items_in_batch" in inspect.signature(model.forward).parameters


def rows(batch: Batch) -> int:
    """Sentences of the longest part of a batch: as many pieces can be made of it."""
    return max(len(next(iter(part.values()))) for part in batch["parts"])


def longest(batch: Batch) -> int:
    """Tokens of the longest sequence, padding counted."""
    shapes = [tensor.shape for part in batch["parts"] for tensor in part.values()]
    return max(int(shape[1]) for shape in shapes if len(shape) == 2)


def share(batch: Batch, number: int, of: int) -> Batch:
    """Every `of`-th sentence of each part, from the `number`-th on: disjoint shares that make up the batch.

    A part with fewer sentences than shares gives the others its first one with its labels ignored: processes that
    compute together must all touch the same parameters.
    """
    return batch if of == 1 else {**batch, "parts": [_share_of_part(part, number, of) for part in batch["parts"]]}


def share_of_process(batch: Batch, number: int, of: int) -> Batch:
    """`share`, but parts that are the process's own already are left whole."""
    cut = share(batch, number, of)["parts"]
    own = batch.get("is_own") or [False] * len(cut)
    parts = [part if is_own else its_share for part, its_share, is_own in zip(batch["parts"], cut, own)]
    return {**batch, "parts": parts}


def micro_batches(batch: Batch, pieces: int) -> Iterator[Batch]:
    """`share` for each of so many pieces, one after the other."""
    return (share(batch, number, pieces) for number in range(pieces))


def _share_of_part(part: dict[str, Tensor], number: int, of: int) -> dict[str, Tensor]:
    taken = {name: tensor[number::of] for name, tensor in part.items()}
    if len(taken["labels"]):
        return taken
    first = {name: tensor[:1] for name, tensor in part.items()}
    return without_links({**first, "labels": torch.full_like(first["labels"], IGNORED)})
