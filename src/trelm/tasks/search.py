"""The protocol: a learning rate by dev with the first seed, then every seed with that rate, each once on test."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trelm.errors import ConfigError
from trelm.tasks.encoder import Encoder
from trelm.tasks.problem import Problem
from trelm.tasks.tuning import Tell, TuningSettings, has_weights, tested, tune
from trelm.training.checkpoints import remove_checkpoints
from trelm.workspace import read_json, write_json, writing

VERSION = 1
"""Of what a trial computes: with another one, what was kept is computed again."""


@dataclass(frozen=True)
class Store:
    """Where trials lie: `results/<digest>.json` when done, `work/<digest>.work` while they run."""

    results: Path
    work: Path

    def result(self, digest: str) -> Path:
        return self.results / f"{digest}.json"

    def folder(self, digest: str) -> Path:
        return self.work / f"{digest}.work"


@dataclass(frozen=True)
class Search:
    """One problem, one encoder, and the digest of a trial by its learning rate and seed."""

    problem: Problem
    encoder: Encoder
    settings: TuningSettings
    store: Store
    digest_of: Callable[[float, int], str]
    tell: Tell

    def run(self, rates: Sequence[float], seeds: Sequence[int], label: str) -> dict[str, Any]:
        """All trials that are not done yet.

        Returns:
            `metric`, `score` and `spread` (standard deviation over seeds; None for one), `scores`: the mean of every
            score on test, `by_seed`, `search`: dev by learning rate, `data`: counts.

        Raises:
            ConfigError: every learning rate diverged.
        """
        searched = {rate: self.trial(rate, seeds[0]) for rate in rates}
        scores = {rate: trial["dev"] for rate, trial in searched.items() if trial["dev"] is not None}
        if not scores:
            raise ConfigError(
                f"'{label}': expected a learning rate with which training converges, found none among "
                f"{', '.join(f'{rate:g}' for rate in rates)}; give lower ones"
            )
        best = max(scores, key=lambda rate: scores[rate])  # of several, the first
        trials = [self.trial(best, seed, on_test=True) for seed in seeds]
        for rate in rates:
            shutil.rmtree(self.store.folder(self.digest_of(rate, seeds[0])), ignore_errors=True)
        metric = self.problem.metric
        values = [trial["test"][metric] for trial in trials]
        return {
            "metric": metric,
            "score": float(np.mean(values)),
            "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "scores": {name: float(np.mean([trial["test"][name] for trial in trials])) for name in trials[0]["test"]},
            "by_seed": trials,
            "search": {f"{rate:g}": trial["dev"] for rate, trial in searched.items()},
            "data": self.problem.figures,
        }

    def trial(self, rate: float, seed: int, *, on_test: bool = False) -> dict[str, Any]:
        """One trial, as it was kept or computed now; on test only where it is asked for.

        Raises:
            ConfigError: it is asked for on test, and the training diverged before its first score.
        """
        digest = self.digest_of(rate, seed)
        path, folder = self.store.result(digest), self.store.folder(digest)
        with _locked(self.store.work / f"{digest}.lock", self.tell):
            known: dict[str, Any] | None = read_json(path) if path.exists() else None
            if known is not None and (not on_test or "test" in known):
                return known
            if known is None or not has_weights(folder):
                self.tell.note(f"learning rate {rate:g}, seed {seed}")
                known = tune(
                    self.problem, self.encoder, self.settings, rate=rate, seed=seed, folder=folder, tell=self.tell
                )
            if on_test:
                if known["dev"] is None:
                    raise ConfigError(
                        f"learning rate {rate:g}, seed {seed}: expected a training that converges, found weights that "
                        "are not finite; give lower learning rates"
                    )
                scores = tested(self.problem, self.encoder, self.settings, seed=seed, folder=folder)
                known = {**known, "test": scores}
            write_json(path, known)
            if on_test:
                shutil.rmtree(folder)
            else:
                remove_checkpoints(folder)
        return known


@contextmanager
def _locked(path: Path, tell: Tell) -> Iterator[None]:
    """Keep a second process out; it waits, and then finds the trial done."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell.note("another process is at the same trial; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
