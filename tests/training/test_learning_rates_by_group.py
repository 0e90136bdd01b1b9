"""A learning rate of its own for some parameters: AdamW by hand with two rates, a stage's body, and resuming."""

from __future__ import annotations

import functools
import gc
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_training import loop_settings, same_weights, toy_batches, toy_model

from toy_stages import SETTINGS, small_model, snapshot, some_data
from trelm.model.encoder import TrelmForMaskedLM
from trelm.stages import (
    COMMONALITY,
    LANGUAGE_SPECIFIC,
    PUBLISHED,
    TRANSFER_LOWER,
    TRANSFER_UPPER,
    Stage,
    run_stage,
    transfer_stages,
)
from trelm.training import trainer
from trelm.training.objectives import batch_loss

UPDATES, WARM, CLIPPING, DECAY, EPSILON = 6, 2, 0.5, 0.3, 1e-4
RATE, BODY_RATE = 2e-3, 3e-4
STAGES = {stage.name: stage for stage in transfer_stages(0.5, PUBLISHED)}


@pytest.fixture(scope="module", autouse=True)
def cheap_collections() -> Iterator[None]:
    """`Trainer` collects garbage whenever it begins: half a second for all that the libraries have loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def of_the_body(name: str) -> bool:
    """By the names of BERT: the TRILayer's layer is called otherwise."""
    return "encoder.layer." in name


def own_rates(**changes: Any) -> trainer.LoopSettings:
    names = frozenset(name for name, _ in toy_model().named_parameters() if of_the_body(name))
    return loop_settings(body_learning_rate=BODY_RATE, body=names, **{"learning_rate": RATE, **changes})


def adamw_by_hand(model: TrelmForMaskedLM) -> dict[str, Tensor]:
    """Loshchilov and Hutter 2019, algorithm 2, in float64, at a rate that rises, falls and is the parameter's own."""
    batches, weights = toy_batches(UPDATES), dict(model.named_parameters())
    first = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()}
    second = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()}
    model.train()
    for done in range(UPDATES):
        model.zero_grad()
        batch_loss(model, batches[done]).backward()  # type: ignore[no-untyped-call]
        slopes = {name: weight.grad.double() for name, weight in weights.items() if weight.grad is not None}
        norm = sum(float((slope**2).sum()) for slope in slopes.values())
        shrink = min(1.0, CLIPPING / (norm**0.5 + 1e-6))
        share = done / WARM if done < WARM else (UPDATES - done) / (UPDATES - WARM)
        for name, steep in slopes.items():  # the pooler has none: it is no part of the loss
            slope, weight = steep * shrink, weights[name]
            rate = share * (BODY_RATE if of_the_body(name) else RATE)
            decay = 0.0 if "bias" in name or "LayerNorm" in name else DECAY
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            mean, spread = first[name] / (1 - 0.9 ** (done + 1)), second[name] / (1 - 0.999 ** (done + 1))
            changed = weight.data.double() * (1 - rate * decay) - rate * mean / (spread.sqrt() + EPSILON)
            weight.data.copy_(changed.float())
    return {name: weight.data for name, weight in weights.items()}


def test_two_rates_are_adamw_with_two_rates(tmp_path: Path) -> None:
    settings = own_rates(warmup=WARM, weight_decay=DECAY, epsilon=EPSILON, gradient_clipping=CLIPPING)
    model = toy_model()
    trainer.train(model, toy_batches(UPDATES), settings, tmp_path)
    expected = adamw_by_hand(toy_model())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.data, expected[name], rtol=1e-4, atol=2e-7, msg=lambda text, n=name: n + text)


def test_two_rates_that_are_one_are_one(tmp_path: Path) -> None:
    models = toy_model(), toy_model()
    for number, settings in enumerate((loop_settings(learning_rate=RATE), own_rates(learning_rate=BODY_RATE))):
        equal = replace(settings, learning_rate=BODY_RATE)
        trainer.train(models[number], toy_batches(UPDATES), equal, tmp_path / str(number))
    assert same_weights(*models)


@functools.cache
def uninterrupted() -> TrelmForMaskedLM:
    """With a body rate, nothing happened to it; only to be read."""
    with tempfile.TemporaryDirectory() as folder:
        model = toy_model(dropout=0.2)
        trainer.train(model, toy_batches(UPDATES), own_rates(), Path(folder))
        return model


class PowerCut(Exception):  # noqa: N818 (not an error of the program)
    """What stands for a machine that goes down."""


@pytest.mark.parametrize("cut_at", [2, 4, UPDATES])
def test_an_interrupted_training_with_two_rates_ends_as_one_that_was_not(tmp_path: Path, cut_at: int) -> None:
    def cut(done: int, *_: Any) -> None:
        if done == cut_at:
            raise PowerCut

    with pytest.raises(PowerCut):
        trainer.train(toy_model(dropout=0.2), toy_batches(UPDATES), own_rates(checkpoint_minutes=1e-9), tmp_path, cut)
    assert list(tmp_path.glob("checkpoint-*"))
    resumed = toy_model(dropout=0.2, seed=2)
    trained = trainer.train(resumed, toy_batches(UPDATES), own_rates(), tmp_path)
    assert trained.updates == UPDATES
    assert same_weights(resumed, uninterrupted())


def largest_moves(model: TrelmForMaskedLM, before: dict[str, Tensor]) -> dict[str, float]:
    moves = {name: float((value - before[name]).abs().max()) for name, value in model.state_dict().items()}
    return {name: move for name, move in moves.items() if move > 0}


@pytest.mark.parametrize("name", [LANGUAGE_SPECIFIC, TRANSFER_UPPER, TRANSFER_LOWER, COMMONALITY])
def test_the_body_of_a_stage_has_its_own_rate_and_all_else_the_other(
    tiny_bert: Path, tmp_path: Path, name: str
) -> None:
    """AdamW's first step is as long as the rate, whatever the gradient: m / sqrt(v) is its sign."""
    stage: Stage = STAGES[name]
    model = small_model(tiny_bert)
    before = snapshot(model)
    settings = replace(SETTINGS, learning_rate=1e-2, body_learning_rate=2e-3, weight_decay=0.0, epsilon=1e-12)
    run_stage(model, stage, some_data().batches(stage, updates=1, batch_tokens=60, seed=1), settings, tmp_path)
    moved = largest_moves(model, before)
    assert any(of_the_body(weight) for weight in moved) == (name != COMMONALITY)
    assert any("tri_layer" in weight for weight in moved)
    assert any("predictions" in weight for weight in moved)
    for weight, move in moved.items():
        if weight.endswith("key.bias"):  # a softmax doesn't see it: its gradient is rounding, as small as epsilon
            continue
        assert move == pytest.approx(2e-3 if of_the_body(weight) else 1e-2, rel=5e-3), weight
