"""A stage's best weights by a score of held-out text, and the end of a stage that has long not found better ones."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from trelm import processes
from trelm.errors import RunFolderError, TrainingError, first_line
from trelm.training import collective
from trelm.workspace import atomic_path, read_json, write_json

SCORES = "selection.json"
BEST = "selected-{}.safetensors"
"""Weights by their update: no output of the stage, removed with its checkpoints."""


@dataclass(frozen=True)
class Score:
    """One evaluation: after which update, its value (lower is better), seconds that it took."""

    update: int
    value: float
    seconds: float


class Selection:
    """Scores a model while it trains, keeps the best weights in the stage's folder, and says when to stop.

    An evaluation is done once: where a resumed training passes it again, its value and its weights stand. Several
    processes that train together go by the scores of the first one, which alone reads and writes the folder.
    """

    def __init__(
        self, folder: Path, model: nn.Module, score: Callable[[], float], *, patience: int, every: int
    ) -> None:
        """What a stage has found so far is read from its folder.

        Args:
            score: of the model as it is. patience: the stage ends after so many evaluations without a lower value.
            every: updates between two evaluations; the last update of the stage has one, too.
        """
        self._folder, self._model, self._score = folder, model, score
        self._patience, self._every = patience, every
        path = folder / SCORES
        self.scores = [Score(**entry) for entry in read_json(path)] if path.exists() else []
        if self.scores and not self._best_weights().exists():
            self.scores = []  # of a stage that ended once: it has no checkpoints any more and begins again

    def after_update(self, done: int, total: int) -> bool:
        """Evaluate where it is time; whether the stage ends here. As `trelm.training.trainer.train` calls it.

        Raises:
            TrainingError: the score is no number.
            RunFolderError: an earlier score is missing, of a stage that was resumed.
        """
        if done % self._every and done != total:
            return False
        if processes.is_first() and all(score.update != done for score in self.scores):
            self._require_all_before(done)
            self._evaluate(done)
        if collective.is_joint():
            self._listen()
        so_far = [score for score in self.scores if score.update <= done]
        return len(so_far) - 1 - so_far.index(_best(so_far)) >= self._patience

    def restore_best(self) -> None:
        """Give the model the weights of the best evaluation; nothing where the stage has no update, so none.

        Raises:
            RunFolderError: the file of the weights is missing or damaged.
        """
        if not self.scores or not processes.is_first():
            return
        path = self._best_weights()
        try:
            load_model(self._model, str(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise RunFolderError(
                f"{path}: expected the best weights of the stage, found {first_line(error)}; remove the folder "
                f"{self._folder} and run again"
            ) from None

    def figures(self, planned: int) -> dict[str, Any]:
        """For the stage's manifest: `planned_updates`, `best_update`, the values, and seconds of all evaluations."""
        return {
            "planned_updates": planned,
            "best_update": _best(self.scores).update if self.scores else 0,
            "development": {
                "updates": [score.update for score in self.scores],
                "bits_per_character": [score.value for score in self.scores],
                "seconds": sum(score.seconds for score in self.scores),
            },
        }

    def _require_all_before(self, done: int) -> None:
        expected = list(range(self._every, done, self._every))
        if [score.update for score in self.scores] != expected:
            raise RunFolderError(
                f"{self._folder / SCORES}: expected {len(expected)} scores, one every {self._every} updates, found "
                f"{len(self.scores)}; remove the folder {self._folder} and run again"
            )

    def _evaluate(self, done: int) -> None:
        """Score, and write down: weights first, so that both or neither count after a kill."""
        started = time.perf_counter()
        value = self._score()
        if not math.isfinite(value):
            raise TrainingError(
                f"{self._folder}: expected a finite score of the development lines after {done:,} updates, found "
                f"{value}; lower the learning rate of the stage"
            )
        self.scores.append(Score(done, value, time.perf_counter() - started))
        best = self._best_weights()
        if _best(self.scores).update == done:
            with atomic_path(best) as temporary:
                save_model(self._model, str(temporary))
        write_json(self._folder / SCORES, [vars(score) for score in self.scores])
        for path in self._folder.glob(BEST.format("*")):
            if path != best:
                path.unlink()

    def _best_weights(self) -> Path:
        return self._folder / BEST.format(_best(self.scores).update)

    def _listen(self) -> None:
        """Take over the first process's scores."""
        text = json.dumps([vars(score) for score in self.scores])
        told = json.loads(collective.broadcast_text(text, _device(self._model)))
        self.scores = [Score(**entry) for entry in told]


def _best(scores: list[Score]) -> Score:
    """The first of the lowest."""
    return min(scores, key=lambda score: score.value)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
