"""A training that goes wrong stops, and what is good is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_training import loop_settings, same_weights, toy_batches, toy_model

from trelm.errors import TrainingError
from trelm.training import checkpoints, collective, objectives, trainer
from trelm.training.guard import FiniteGuard, is_lost_process, is_out_of_memory

EVERY_UPDATE = 1e-9
OUT_OF_MEMORY = (
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
)

pytestmark = pytest.mark.usefixtures("cheap_collections")


def spoil(monkeypatch: pytest.MonkeyPatch, update: int, factor: float) -> None:
    """Multiply the loss of one update, counted from 1."""
    plain, calls = objectives.batch_loss, [0]

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        calls[0] += 1
        return plain(model, batch) * (factor if calls[0] == update else 1.0)

    monkeypatch.setattr(objectives, "batch_loss", loss)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_names_the_batch(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, 5, factor)
        message = (
            rf"^{tmp_path}/cut: expected a finite loss and gradient, found none in update 5 \(batch 5: lines \d+, "
            r".*\); the last checkpoint before it is kept: look at that text, or lower the learning rate of the stage "
            "in a new run$"
        )
        with pytest.raises(TrainingError, match=message):
            trainer.train(toy_model(), toy_batches(8), loop_settings(checkpoint_minutes=EVERY_UPDATE), tmp_path / "cut")
    assert checkpoints.last_complete(tmp_path / "cut") == tmp_path / "cut" / "checkpoint-4"
    model, whole = toy_model(seed=2), toy_model()
    trainer.train(model, toy_batches(8), loop_settings(), tmp_path / "cut")
    trainer.train(whole, toy_batches(8), loop_settings(), tmp_path / "whole")
    assert same_weights(model, whole)


def test_a_gradient_that_is_no_number_stops_before_the_weights_take_it(tmp_path: Path) -> None:
    model = toy_model()
    weight = model.get_input_embeddings().weight
    updates: list[int] = []
    weight.register_hook(lambda gradient: gradient * (math.nan if len(updates) == 2 else 1.0))
    with pytest.raises(TrainingError, match="found none in update 3 "):
        trainer.train(model, toy_batches(8), loop_settings(), tmp_path, lambda done, *_: updates.append(done))
    assert updates == [1, 2]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_on_a_gpu_the_first_bad_update_is_told_when_it_is_asked_for() -> None:
    guard = FiniteGuard(torch.device("cpu"), Path("here"), lambda index: f"batch {index + 1}")
    guard._waits = True
    for update, value in enumerate([1.0, math.nan, 2.0, math.inf]):
        guard.see(torch.tensor(value), update)
    with pytest.raises(TrainingError, match=r"found none in update 2 \(batch 2\)"):
        guard.check()


def needs_memory(monkeypatch: pytest.MonkeyPatch, most_rows: int, error: Exception) -> list[int]:
    """A machine on which a piece of more than so many sentences does not fit; the sizes that did."""
    plain, sizes = objectives.batch_loss, []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        size = objectives.rows(batch)
        if size > most_rows:
            raise error
        sizes.append(size)
        return plain(model, batch)

    monkeypatch.setattr(objectives, "batch_loss", loss)
    return sizes


@pytest.mark.parametrize(
    "error", [RuntimeError(OUT_OF_MEMORY), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")]
)
def test_where_memory_runs_out_the_batch_is_cut_and_the_update_is_the_same(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut, notes = toy_model(), toy_model(), []
    expected = trainer.train(whole, toy_batches(8), loop_settings(), tmp_path / "whole")
    sizes = needs_memory(monkeypatch, 4, error)
    trained = trainer.train(cut, toy_batches(8), loop_settings(), tmp_path / "cut", on_note=notes.append)
    assert trained.micro_batches in (4, 8)
    assert max(sizes) <= 4
    assert notes[0] == "memory ran out: from now on each batch is computed in 2 pieces"
    assert trained.tokens == expected.tokens
    assert trained.curve["loss"] == pytest.approx(expected.curve["loss"], rel=1e-5)
    for one, other in zip(whole.parameters(), cut.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_a_resumed_training_goes_on_in_as_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = toy_model()
    with monkeypatch.context() as patch:
        needs_memory(patch, 4, MemoryError())
        trainer.train(whole, toy_batches(8), loop_settings(), tmp_path / "whole")

        def stop(done: int, *_: Any) -> None:
            if done == 5:
                raise InterruptedError

        settings = loop_settings(checkpoint_minutes=EVERY_UPDATE)
        with pytest.raises(InterruptedError):
            trainer.train(toy_model(), toy_batches(8), settings, tmp_path / "cut", stop)
    resumed = toy_model(seed=2)
    trained = trainer.train(resumed, toy_batches(8), loop_settings(), tmp_path / "cut")
    assert trained.micro_batches > 1
    assert same_weights(resumed, whole)


def test_where_not_even_one_sentence_fits_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_memory(monkeypatch, 0, MemoryError())
    message = r"expected memory for a batch in \d+ pieces, found too little; lower training.max_length: not even one "
    with pytest.raises(TrainingError, match=message):
        trainer.train(toy_model(), toy_batches(2), loop_settings(), tmp_path)


def test_with_other_processes_waiting_it_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loop_settings()
    stage = trainer.StageTrainer(
        objectives.Objective(toy_model()),
        trainer.Account(1.0),
        args=trainer._arguments(settings, tmp_path, 1),
        train_dataset=toy_batches(1),
    )
    monkeypatch.setattr(collective, "is_joint", lambda: True)
    message = r"in 1 pieces, found too little; set training.micro_batches=2 \(in a new run folder\)$"
    with pytest.raises(TrainingError, match=message):
        stage._more_pieces(toy_batches(1)[0])


def test_a_loss_that_cannot_be_cut_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_memory(monkeypatch, 4, MemoryError())
    monkeypatch.setattr(trainer, "is_divisible", lambda model: False)
    with pytest.raises(TrainingError, match=r"found too little; lower the tokens of a batch$"):
        trainer.train(toy_model(), toy_batches(2), loop_settings(), tmp_path)


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_memory(monkeypatch, 4, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match=r"^something else$"):
        trainer.train(toy_model(), toy_batches(2), loop_settings(), tmp_path)


def test_which_errors_say_what() -> None:
    assert is_out_of_memory(RuntimeError(OUT_OF_MEMORY))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert is_lost_process(RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:30853"))
    assert is_lost_process(RuntimeError("NCCL communicator was aborted"))
    assert not is_lost_process(RuntimeError("shape mismatch"))
    assert not is_lost_process(ValueError("gloo"))
