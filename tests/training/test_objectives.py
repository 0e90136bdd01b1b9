"""The loss of a batch: a weighted mean of means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_training import toy_batches, toy_model

from trelm.training.objectives import batch_loss, is_divisible, micro_batches, rows, share


class Square(nn.Module):
    """A model whose loss is its weight times the input's square."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, value: Tensor) -> Any:
        return SimpleNamespace(loss=self.weight * value**2)


def test_weighted_mean_by_hand() -> None:
    model = Square()
    batch = {"parts": [{"value": torch.tensor(2.0)}, {"value": torch.tensor(4.0)}], "weights": [0.25, 0.75]}
    loss = batch_loss(model, batch)
    assert loss.shape == ()
    assert loss.item() == 0.25 * 4 + 0.75 * 16
    loss.backward()
    assert model.weight.grad is not None
    assert model.weight.grad.item() == 13


@pytest.mark.parametrize("sparse", [False, True])
def test_each_part_counts_by_its_weight_and_not_by_its_labels(sparse: bool) -> None:
    """One label in the one part, seven in the other: each mean is over its own labels."""
    model = toy_model()
    model.train(False)
    model.config.sparse_prediction = sparse
    few, many = (torch.arange(5, 5 + length).unsqueeze(0) for length in (4, 8))
    labels = [torch.full_like(few, -100), many.clone()]
    labels[0][0, 2] = 7
    labels[1][0, 0] = -100
    parts = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": label}
        for ids, label in zip((few, many), labels)
    ]
    expected = 0.0
    for weight, part in zip((0.3, 0.7), parts):
        logits = model(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits[0]
        chosen = part["labels"][0] != -100
        expected += weight * functional.cross_entropy(logits[chosen], part["labels"][0][chosen]).item()
    assert batch_loss(model, {"parts": parts, "weights": [0.3, 0.7]}).item() == pytest.approx(expected, rel=1e-5)


def gradients(pieces: list[Any]) -> tuple[float, list[Tensor]]:
    """The losses and gradients of pieces of a batch, added up."""
    model = toy_model()
    total = 0.0
    for piece in pieces:
        loss = batch_loss(model, piece)
        loss.backward()
        total += loss.item()
    return total, [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


@pytest.mark.parametrize("pieces", [2, 3, 7, 50])
def test_pieces_add_up_to_the_batch(pieces: int) -> None:
    """Also where there are more pieces than sentences: those left over have no labels, and no gradient."""
    batch = toy_batches(1)[0]
    loss, whole = gradients([batch])
    summed, parts = gradients(list(micro_batches(batch, pieces)))
    assert summed == pytest.approx(loss, rel=1e-5)
    for one, other in zip(whole, parts):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("of", [1, 2, 3, 50])
def test_shares_are_disjoint_and_make_up_the_batch(of: int) -> None:
    batch = toy_batches(1)[0]
    ids = batch["parts"][0]["input_ids"]
    shares = [share(batch, number, of)["parts"][0] for number in range(of)]
    labelled = [row for part in shares for row in part["labels"].tolist() if set(row) != {-100}]
    assert sorted(labelled) == sorted(row for row in batch["parts"][0]["labels"].tolist() if set(row) != {-100})
    assert sum(len(part["input_ids"]) for part in shares) == max(len(ids), of)
    assert rows(batch) == len(ids)


def test_a_batch_without_counts_is_a_mean_of_its_own() -> None:
    batch = toy_batches(1)[0]
    model = toy_model()
    counted = batch_loss(model, batch).item()
    del batch["labelled"]
    assert batch_loss(model, batch).item() == pytest.approx(counted, rel=1e-6)
    assert is_divisible(model)
    assert not is_divisible(Square())
