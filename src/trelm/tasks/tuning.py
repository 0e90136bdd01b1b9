"""One trial: an encoder tuned with one learning rate and one seed, its best weights by dev kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from trelm.tasks.encoder import Encoder
from trelm.tasks.problem import Problem, TaskModel
from trelm.tasks.subwords import Part
from trelm.training.batches import PlannedBatches
from trelm.training.order import pack
from trelm.training.trainer import LoopSettings, train
from trelm.workspace import atomic_path, read_json, write_json

EPOCHS, TRAINED = "epochs.json", "trained.json"
PREDICTION_FACTOR = 4  # without gradients, batches may be so much larger
WEIGHT_DECAY, EPSILON, CLIPPING, WARMUP, LOG_UPDATES = 0.01, 1e-8, 1.0, 0.1, 20

Scores = dict[str, float]


class Tell(Protocol):
    """What hears of progress; see `trelm.progress.StepProgress`."""

    def update(self, done: float, total: float | None = None, unit: str = "", **figures: float) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class TuningSettings:
    """How an encoder is tuned; names as in the configuration."""

    epochs: int
    patience: int
    batch_tokens: int
    head_learning_rate: float
    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    checkpoint_minutes: float = 5.0


@dataclass
class _Epochs:
    """The scores of the epochs so far and the best one's weights, in a folder.

    An epoch is scored once: where a resumed training passes it again, its score and its weights stand.
    """

    folder: Path
    metric: str
    patience: int

    def __post_init__(self) -> None:
        path = self.folder / EPOCHS
        self.scores: list[Scores | None] = read_json(path) if path.exists() else []

    @property
    def best(self) -> int | None:
        """The number, from 0, of the first epoch that has the best score; None before there is one."""
        return self._best_of(len(self.scores))

    @property
    def weights(self) -> Path:
        """Where the best epoch's weights lie."""
        return self.folder / f"best-{self.best}.safetensors"

    def add(self, model: TaskModel, scores: Scores | None) -> None:
        """Write down an epoch, None for one with weights that are not finite; weights first: both or neither count."""
        self.scores.append(scores)
        if self.best == len(self.scores) - 1:
            with atomic_path(self.weights) as temporary:
                save_model(model, str(temporary))
        write_json(self.folder / EPOCHS, self.scores)
        for path in self.folder.glob("best-*.safetensors"):
            if path != self.weights:
                path.unlink()

    def ends_after(self, epoch: int) -> bool:
        """Whether the training ends there: it diverged, or nothing became better for `patience` epochs."""
        so_far = self._best_of(epoch + 1)
        return self.scores[epoch] is None or (so_far is not None and epoch - so_far >= self.patience)

    def _best_of(self, count: int) -> int | None:
        known = [(scores[self.metric], -e) for e, scores in enumerate(self.scores[:count]) if scores is not None]
        return -max(known)[1] if known else None


def tune(
    problem: Problem, encoder: Encoder, settings: TuningSettings, *, rate: float, seed: int, folder: Path, tell: Tell
) -> dict[str, Any]:
    """Train on train, score dev after every epoch, keep the best epoch's weights in `folder`; goes on where it stopped.

    Returns:
        `learning_rate`, `seed`, `epochs` done, `best_epoch` from 1, `dev` (None where the training diverged before its
        first score), `dev_scores` of that epoch, `updates`, `tokens`, `seconds` of training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    epochs = _Epochs(folder, problem.metric, settings.patience)
    if not (folder / TRAINED).exists():
        _train(problem, encoder, settings, epochs, rate, seed, tell)
    best = epochs.best
    scores = None if best is None else epochs.scores[best]
    return {
        "seed": seed,
        "learning_rate": rate,
        "epochs": len(epochs.scores),
        "best_epoch": None if best is None else best + 1,
        "dev": None if scores is None else scores[problem.metric],
        "dev_scores": scores,
        **read_json(folder / TRAINED),
    }


def tested(problem: Problem, encoder: Encoder, settings: TuningSettings, *, seed: int, folder: Path) -> Scores:
    """The scores of the best weights in `folder` on test."""
    model = new_model(problem, encoder, seed)
    weights = _Epochs(folder, problem.metric, settings.patience).weights
    load_model(model, str(weights))
    return scored(problem, model.to(settings.device), problem.parts["test"], settings)


def has_weights(folder: Path) -> bool:
    """Whether a trial's folder holds a whole training."""
    return (folder / TRAINED).exists() and any(folder.glob("best-*.safetensors"))


def new_model(problem: Problem, encoder: Encoder, seed: int) -> TaskModel:
    """A fresh copy of the encoder with a head that the seed alone determines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TaskModel(encoder.build(), problem.make_head(encoder.width))


def _train(
    problem: Problem, encoder: Encoder, settings: TuningSettings, epochs: _Epochs, rate: float, seed: int, tell: Tell
) -> None:
    model = new_model(problem, encoder, seed)
    a_pass = len(_batches(problem.parts["train"], settings.batch_tokens))
    updates = settings.epochs * a_pass

    def score_epoch(done: int, _: int) -> bool:
        if done % a_pass:
            return False
        epoch = done // a_pass - 1
        if epoch >= len(epochs.scores):
            epochs.add(model, scored(problem, model, problem.parts["dev"], settings) if _is_finite(model) else None)
        return epochs.ends_after(epoch)

    def on_update(done: int, total: int, _: float, loss: float | None) -> None:
        figures = {} if loss is None else {"loss": loss}
        best = epochs.best
        scores = None if best is None else epochs.scores[best]
        tell.update(done, total, "updates", **figures, **({} if scores is None else {"dev": scores[problem.metric]}))

    done = train(
        model,
        PlannedBatches([(problem.parts["train"], 1.0)], updates=updates, batch_tokens=settings.batch_tokens, seed=seed),
        _loop_settings(settings, rate, seed),
        epochs.folder,
        on_update=on_update,
        after_update=score_epoch,
    )
    figures = {"updates": done.updates, "tokens": done.tokens, "seconds": done.seconds}
    write_json(epochs.folder / TRAINED, figures)


def scored(problem: Problem, model: TaskModel, part: Part, settings: TuningSettings) -> Scores:
    """The scores of a model on a part; the model's mode is left as it was."""
    batches = _batches(part, PREDICTION_FACTOR * settings.batch_tokens)
    random = np.random.default_rng(0)  # nothing is drawn
    found: list[Any] = [None] * len(part.ids)
    with _asked(model), torch.autocast(settings.device, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        for indices in batches:
            batch = on_device(part.collate(indices, random), settings.device)
            for index, prediction in zip(indices.tolist(), model.predict(batch)):
                found[index] = prediction
    return problem.score(part, found)


def on_device(batch: Mapping[str, Tensor], device: str) -> dict[str, Tensor]:
    """The batch where the model is."""
    return {name: value.to(device) for name, value in batch.items()}


def _batches(part: Part, batch_tokens: int) -> Sequence[Any]:
    lengths = part.lengths()
    return pack(np.argsort(lengths, kind="stable"), lengths, batch_tokens)


@contextmanager
def _asked(model: TaskModel) -> Iterator[None]:
    """Without dropout and gradients."""
    training = model.training
    model.train(False)
    with torch.no_grad():  # not inference_mode: what an encoder caches here, it trains with later
        yield
    model.train(training)


def _is_finite(model: TaskModel) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


def _loop_settings(settings: TuningSettings, rate: float, seed: int) -> LoopSettings:
    return LoopSettings(
        learning_rate=rate,
        warmup=WARMUP,
        schedule="linear",
        weight_decay=WEIGHT_DECAY,
        epsilon=EPSILON,
        gradient_clipping=CLIPPING,
        precision=settings.precision,
        device=settings.device,
        checkpoint_minutes=settings.checkpoint_minutes,
        log_updates=LOG_UPDATES,
        seed=seed,
        head_learning_rate=settings.head_learning_rate,
    )
