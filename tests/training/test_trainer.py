"""The training loop: what was interrupted goes on as if nothing had been, and the accounts are right."""

from __future__ import annotations

import errno
import functools
import gc
import itertools
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from toy_training import counting_text, loop_settings, same_weights, toy_batches, toy_model
from transformers import TrainingArguments

from trelm.errors import DiskError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.training import checkpoints, objectives, trainer
from trelm.training.account import Account, OnUpdate
from trelm.training.batches import PlannedBatches
from trelm.training.objectives import Objective
from trelm.training.trainer import LoopSettings, StageTrainer, Trained, warmup_updates

UPDATES = 8
EVERY_UPDATE = 1e-9  # minutes between checkpoints


@pytest.fixture(scope="module", autouse=True)
def cheap_collections() -> Iterator[None]:
    """`Trainer` collects garbage whenever it begins: half a second for all that the libraries have loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


class InterruptionError(Exception):
    """What stands for a machine that goes down."""


def interrupt_at(update: int) -> OnUpdate:
    """A machine that goes down when `update` is done, before its checkpoint is written."""

    def on_update(done: int, *_: Any) -> None:
        if done == update:
            raise InterruptionError

    return on_update


def run(
    folder: Path,
    *,
    dropout: float = 0.0,
    updates: int = UPDATES,
    weights: int = 1,
    on_update: OnUpdate | None = None,
    **settings: Any,
) -> tuple[TrelmForMaskedLM, Trained]:
    """Train a model made with the seed `weights` on toy batches."""
    model = toy_model(dropout=dropout, seed=weights)
    return model, trainer.train(model, toy_batches(updates), loop_settings(**settings), folder, on_update)


@functools.cache
def uninterrupted(dropout: float = 0.0, precision: str = "float32", log_updates: int = 1) -> tuple[Any, Trained]:
    """What a run that nothing happened to leaves; only to be read."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), dropout=dropout, precision=precision, log_updates=log_updates)


def checkpoint_names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint-*")}


def log_of(checkpoint: Path) -> list[dict[str, float]]:
    logged: list[dict[str, float]] = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return logged


@pytest.mark.parametrize(
    ("dropout", "interruption", "precision"),
    [(0.0, 2, "float32"), (0.0, 5, "float32"), (0.2, 5, "float32"), (0.2, UPDATES, "float32"), (0.2, 4, "bfloat16")],
)
def test_an_interrupted_run_ends_as_one_that_was_not(
    tmp_path: Path, dropout: float, interruption: int, precision: str
) -> None:
    whole, expected = uninterrupted(dropout, precision)
    settings: dict[str, Any] = {"dropout": dropout, "precision": precision, "checkpoint_minutes": EVERY_UPDATE}
    with pytest.raises(InterruptionError):
        run(tmp_path / "cut", on_update=interrupt_at(interruption), **settings)
    first_left = max(1, interruption - 2)
    assert checkpoint_names(tmp_path / "cut") == {f"checkpoint-{k}" for k in range(first_left, interruption)}
    torch.manual_seed(99)
    # Other weights to begin with: they must all come from the checkpoint.
    resumed, trained = run(tmp_path / "cut", weights=2, **settings)
    assert same_weights(resumed, whole)
    assert trained.tokens == expected.tokens
    assert trained.updates == expected.updates == UPDATES
    for name in ("updates", "tokens", "loss"):
        assert trained.curve[name] == expected.curve[name]


def test_a_run_interrupted_twice_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, expected = uninterrupted(0.2)
    for interruption in (3, 6):
        with pytest.raises(InterruptionError):
            run(tmp_path / "cut", dropout=0.2, checkpoint_minutes=EVERY_UPDATE, on_update=interrupt_at(interruption))
    resumed, trained = run(tmp_path / "cut", dropout=0.2)
    assert same_weights(resumed, whole)
    assert (trained.tokens, trained.curve["loss"]) == (expected.tokens, expected.curve["loss"])


def test_a_checkpoint_between_two_points_of_the_curve_changes_no_token_and_no_weight(tmp_path: Path) -> None:
    whole, expected = uninterrupted(log_updates=3)
    with pytest.raises(InterruptionError):
        run(tmp_path / "cut", log_updates=3, checkpoint_minutes=EVERY_UPDATE, on_update=interrupt_at(5))
    resumed, trained = run(tmp_path / "cut", log_updates=3)
    assert same_weights(resumed, whole)
    assert trained.tokens == expected.tokens
    assert trained.curve["updates"] == expected.curve["updates"] == [3, 6]
    assert trained.curve["tokens"] == expected.curve["tokens"]


def test_resuming_after_the_last_update_trains_no_more(tmp_path: Path) -> None:
    whole, expected = run(tmp_path, checkpoint_minutes=EVERY_UPDATE)
    calls: list[int] = []
    resumed, trained = run(tmp_path, weights=2, on_update=lambda done, *_: calls.append(done))
    assert same_weights(resumed, whole)
    assert calls == []
    assert (trained.tokens, trained.curve) == (expected.tokens, expected.curve)
    assert trained.seconds >= expected.curve["seconds"][-1]


def test_resuming_makes_no_batch_a_second_time(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError):
        run(tmp_path, checkpoint_minutes=EVERY_UPDATE, on_update=interrupt_at(6))
    asked: list[int] = []

    class Watched(PlannedBatches):
        def __getitem__(self, index: int) -> dict[str, Any]:
            asked.append(index)
            return super().__getitem__(index)

    batches = toy_batches(UPDATES)
    batches.__class__ = Watched
    trainer.train(toy_model(), batches, loop_settings(), tmp_path)
    assert asked == [5, 6, 7]


def test_a_seed_fixes_everything(tmp_path: Path) -> None:
    one, first = uninterrupted(0.2)
    torch.manual_seed(1234)
    again, second = run(tmp_path / "2", dropout=0.2)
    assert same_weights(one, again)
    assert first.curve["loss"] == second.curve["loss"]
    other, _ = run(tmp_path / "3", dropout=0.2, seed=2)
    assert not same_weights(one, other)


def test_the_loss_falls_on_text_that_can_be_learned(tmp_path: Path) -> None:
    settings = loop_settings(learning_rate=1e-2, log_updates=20)
    trained = trainer.train(toy_model(), toy_batches(200, batch_tokens=400), settings, tmp_path)
    frequencies = torch.bincount(torch.from_numpy(counting_text(40).values)).float()
    by_frequency_alone = torch.distributions.Categorical(frequencies).entropy().item()
    loss = trained.curve["loss"]
    assert loss[0] > by_frequency_alone
    assert sum(loss[-3:]) / 3 < by_frequency_alone - 0.7


def test_the_curve_counts_tokens_from_the_beginning(tmp_path: Path) -> None:
    _, trained = run(tmp_path, log_updates=2)
    batches = toy_batches(UPDATES)
    summed = list(itertools.accumulate(batches[i]["tokens"] for i in range(UPDATES)))
    assert trained.curve["updates"] == [2, 4, 6, 8]
    assert trained.curve["tokens"] == summed[1::2]
    assert trained.tokens == summed[-1]
    assert trained.updates == UPDATES
    seconds = trained.curve["seconds"]
    assert 0 < seconds[0] < seconds[1] < seconds[2] < seconds[3] <= trained.seconds


def test_progress_is_told_after_every_update_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[int, int, float, float | None]] = []
    _, trained = run(tmp_path, updates=5, log_updates=2, on_update=lambda *values: told.append(values))
    assert [(done, total) for done, total, _, _ in told] == [(k, 5) for k in range(1, 6)]
    assert all(rate > 0 for _, _, rate, _ in told)
    # The loss of updates 1 and 2 is known when update 3 is told.
    first, second = trained.curve["loss"]
    assert [loss for *_, loss in told] == [None, None, first, first, second]
    assert capfd.readouterr().out == ""


def test_what_comes_before_an_update_is_called_before_it_with_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[Any, ...]] = []
    batch_loss = objectives.batch_loss

    def compute(*given: Any) -> Any:
        order.append(("update",))
        return batch_loss(*given)

    monkeypatch.setattr(objectives, "batch_loss", compute)
    trainer.train(
        toy_model(),
        toy_batches(3),
        loop_settings(),
        tmp_path,
        on_update=lambda done, total, *_: order.append(("after", done, total)),
        before_update=lambda done, total: order.append(("before", done, total)),
    )
    assert order == [step for k in range(3) for step in (("before", k, 3), ("update",), ("after", k + 1, 3))]


def test_before_the_first_update_of_a_resumed_run_the_updates_of_its_checkpoint_are_done(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError):
        run(tmp_path, checkpoint_minutes=EVERY_UPDATE, on_update=interrupt_at(4))
    seen: list[tuple[int, int]] = []
    trainer.train(
        toy_model(),
        toy_batches(UPDATES),
        loop_settings(),
        tmp_path,
        before_update=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, UPDATES) for done in range(3, UPDATES)]


@pytest.mark.parametrize(
    ("warmup", "updates", "expected"),
    [
        (500, 20000, 500),
        (500, 600, 300),
        (0.1, 100, 10),
        (0.9, 100, 50),
        (0, 100, 0),
        (1, 100, 1),
        (1, 1, 0),
        (0.5, 0, 0),
    ],
)
def test_warmup_is_updates_or_a_share_and_at_most_half(warmup: float, updates: int, expected: int) -> None:
    assert warmup_updates(warmup, updates) == expected


@pytest.mark.parametrize(
    ("schedule", "rates"), [("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]), ("constant", [0, 0.5, 1, 1, 1, 1])]
)
def test_the_learning_rate_rises_and_falls_as_planned(tmp_path: Path, schedule: str, rates: list[float]) -> None:
    run(tmp_path, updates=6, warmup=2, schedule=schedule, learning_rate=4e-3, checkpoint_minutes=EVERY_UPDATE)
    logged = [entry["learning_rate"] for entry in log_of(tmp_path / "checkpoint-6")]
    assert logged == pytest.approx([4e-3 * rate for rate in rates])


def test_settings_reach_the_optimiser(tmp_path: Path) -> None:
    run(tmp_path, updates=2, checkpoint_minutes=EVERY_UPDATE, weight_decay=0.02, epsilon=1e-7)
    groups = json.loads((tmp_path / "checkpoint-2" / checkpoints.OPTIMIZER_GROUPS).read_text())["groups"]
    assert {group["eps"] for group in groups} == {1e-7}
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.02]  # none on biases and norms


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """With AdamW only clipping below epsilon shows: the update is then nearly nothing."""
    start = toy_model()
    clipped, _ = run(tmp_path / "1", updates=3, warmup=0, gradient_clipping=1e-9, weight_decay=0.0)
    free, _ = run(tmp_path / "2", updates=3, warmup=0, gradient_clipping=1e9, weight_decay=0.0)

    def moved(model: TrelmForMaskedLM) -> float:
        name = "trelm.tri_layer.layer.attention.self.query.weight"
        return float((model.state_dict()[name] - start.state_dict()[name]).abs().max())

    assert moved(clipped) < 0.01 * moved(free)


def test_checkpoints_are_asked_for_by_the_clock_and_two_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "never")
    assert checkpoint_names(tmp_path / "never") == set()
    run(tmp_path / "always", checkpoint_minutes=EVERY_UPDATE)
    assert checkpoint_names(tmp_path / "always") == {"checkpoint-7", "checkpoint-8"}


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    run(tmp_path, updates=2, checkpoint_minutes=EVERY_UPDATE)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"model.safetensors", "optimizer.safetensors", "complete.json"}
    for path in files:
        assert path.suffix in {".json", ".safetensors"}, path
        assert not zipfile.is_zipfile(path), path
        assert not path.read_bytes().startswith(b"\x80"), path
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        else:
            with safe_open(path, framework="pt") as tensors:
                assert tensors.keys(), path


FULL_DISKS: dict[str, tuple[str, Callable[[], Exception]]] = {
    "optimizer": ("trelm.training.checkpoints.save_file", lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "weights": (
        "transformers.modeling_utils.safe_save_file",
        lambda: SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ),
    "quota": ("trelm.training.checkpoints.save_random_states", lambda: OSError(errno.EDQUOT, "Disk quota exceeded")),
    "mark": ("trelm.workspace.os.replace", lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
}


@pytest.mark.parametrize("place", FULL_DISKS)
def test_a_full_disk_is_one_line_and_the_older_checkpoint_is_used(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = uninterrupted(0.2)
    name, error = FULL_DISKS[place]

    def refuse(*_: Any, **__: Any) -> None:
        raise error()

    def fill(done: int, *_: Any) -> None:
        if done == 4:
            monkeypatch.setattr(name, refuse)

    folder = tmp_path / "full"
    settings: dict[str, Any] = {"dropout": 0.2, "checkpoint_minutes": EVERY_UPDATE}
    with pytest.raises(DiskError) as caught:
        run(folder, on_update=fill, **settings)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert message.endswith(": the disk is full; free some space and run the same command again: it goes on from there")
    assert "\n" not in message
    monkeypatch.undo()
    assert not (folder / "checkpoint-4" / checkpoints.COMPLETE).exists()
    assert checkpoints.last_complete(folder) == folder / "checkpoint-3"
    resumed, trained = run(folder, weights=2, **settings)
    assert same_weights(resumed, whole)
    assert (trained.tokens, trained.curve["loss"]) == (expected.tokens, expected.curve["loss"])


def test_other_errors_in_a_checkpoint_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise SafetensorError("invalid header")

    monkeypatch.setattr("trelm.training.checkpoints.save_file", refuse)
    with pytest.raises(SafetensorError, match="invalid header"):
        run(tmp_path, updates=1, checkpoint_minutes=EVERY_UPDATE)


def test_bfloat16_trains_weights_that_stay_float32(tmp_path: Path) -> None:
    exact, _ = uninterrupted()
    model, trained = run(tmp_path, precision="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.tensor(trained.curve["loss"]).isfinite().all()
    assert not same_weights(model, exact)
    differences = [
        (model.state_dict()[name] - exact.state_dict()[name]).abs().max().item() for name in model.state_dict()
    ]
    assert max(differences) < UPDATES * 2 * 1e-3  # AdamW moves a weight by about the learning rate an update


def test_one_card_is_used_of_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`Trainer` otherwise takes as many planned batches an update as there are cards."""

    class TwoCards(TrainingArguments):
        @property
        def _setup_devices(self) -> torch.device:
            first = "_setup_devices" not in self.__dict__
            device: torch.device = super()._setup_devices
            if first:
                self._n_gpu = 2
            return device

    monkeypatch.setattr(trainer, "TrainingArguments", TwoCards)
    arguments = trainer._arguments(loop_settings(), tmp_path, 3)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 1


def test_a_checkpoint_before_training_is_a_mistake_of_ours(tmp_path: Path) -> None:
    settings: LoopSettings = loop_settings()
    arguments = trainer._arguments(settings, tmp_path, 1)
    stage = StageTrainer(Objective(toy_model()), Account(1.0), args=arguments, train_dataset=toy_batches(1))
    with pytest.raises(RuntimeError, match=r"^a checkpoint was asked for before the optimiser was made$"):
        stage._save_checkpoint(stage.model)
