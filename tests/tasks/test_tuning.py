"""The protocol: resuming, keeping, early stopping, the search for a learning rate, the head's own rate."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy_tasks import Told, toy_encoder, toy_task

from trelm.errors import ConfigError
from trelm.steps.tasks import encoder_of, run_task
from trelm.tasks import search, tuning
from trelm.tasks.labelling import tagging
from trelm.tasks.problem import Problem, TaskModel
from trelm.tasks.reading import read_parts
from trelm.tasks.search import Search, Store
from trelm.tasks.tuning import TuningSettings, tune
from trelm.training import checkpoints
from trelm.training.batches import PlannedBatches
from trelm.training.trainer import LoopSettings, train
from trelm.workspace import read_json, write_json

SETTINGS = TuningSettings(
    epochs=3,
    patience=3,
    batch_tokens=256,
    head_learning_rate=5e-3,
    device="cpu",
    precision="float32",
    checkpoint_minutes=0,
)


class Stopping(Told):
    """Told once too often, the user stops the program."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def update(self, done: float, total: float | None = None, unit: str = "", **figures: float) -> None:
        super().update(done, total, unit, **figures)
        if self.updates == self.after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    task = toy_task("tagging", tmp_path_factory.mktemp("data"), count=60)
    parts = read_parts("tagging", "tags", train=task.train, dev=task.dev, test=task.test)
    return tagging(toy_encoder(), parts, 32, (None, None, None), entities=False)


def tuned(problem: Problem, folder: Path, tell: Told, **changes: Any) -> dict[str, Any]:
    settings = TuningSettings(**{**SETTINGS.__dict__, **changes})
    return tune(problem, toy_encoder(), settings, rate=2e-3, seed=1, folder=folder, tell=tell)


def without_time(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "seconds"}


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_tuning_that_was_stopped_ends_as_one_that_was_not(problem: Problem, tmp_path: Path, stop: int) -> None:
    expected = tuned(problem, tmp_path / "whole", Told())
    with pytest.raises(KeyboardInterrupt):
        tuned(problem, tmp_path / "cut", Stopping(stop))
    resumed = tuned(problem, tmp_path / "cut", Told())
    assert without_time(resumed) == without_time(expected)
    (first,), (second,) = ((tmp_path / name).glob("best-*") for name in ("whole", "cut"))
    one, other = load_file(first), load_file(second)
    assert first.name == second.name
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_tuning_ends_when_nothing_becomes_better(problem: Problem, tmp_path: Path) -> None:
    constant = Problem(problem.metric, problem.parts, problem.make_head, lambda *_: {"accuracy": 0.5}, {})
    result = tuned(constant, tmp_path, Told(), epochs=9, patience=2)
    assert (result["epochs"], result["best_epoch"], result["dev"]) == (3, 1, 0.5)
    assert result["updates"] == 3 * len(tuning._batches(problem.parts["train"], 256))
    assert result["tokens"] == 3 * problem.parts["train"].lengths().sum()


def test_a_tuning_that_ended_early_and_was_killed_trains_no_further(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, values: Any) -> None:
        if path.name == tuning.TRAINED:
            raise KeyboardInterrupt
        write_json(path, values)

    constant = Problem(problem.metric, problem.parts, problem.make_head, lambda *_: {"accuracy": 0.5}, {})
    expected = tuned(constant, tmp_path / "whole", Told(), epochs=9, patience=1)
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            tuned(constant, tmp_path / "cut", Told(), epochs=9, patience=1)
    again = tuned(constant, tmp_path / "cut", Told(), epochs=9, patience=1)
    assert without_time(again) == without_time(expected)
    assert again["updates"] == 2 * len(tuning._batches(problem.parts["train"], 256))


def test_a_diverging_rate_is_left_out_and_alone_it_is_refused(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched(*rates: float) -> dict[str, Any]:
        place = Store(tmp_path, tmp_path)
        return Search(problem, toy_encoder(), SETTINGS, place, lambda rate, seed: f"{rate}-{seed}", Told()).run(
            rates, (1,), "tags"
        )

    finite = tuning._is_finite
    rates: list[float] = []
    original = tuning._loop_settings

    def noted(settings: TuningSettings, rate: float, seed: int) -> LoopSettings:
        rates.append(rate)
        return original(settings, rate, seed)

    monkeypatch.setattr(tuning, "_loop_settings", noted)
    monkeypatch.setattr(tuning, "_is_finite", lambda model: rates[-1] < 1 and finite(model))
    with pytest.raises(ConfigError, match="'tags': expected a learning rate with which training converges, found none "
                       "among 2, 3; give lower ones"):  # fmt: skip
        searched(2.0, 3.0)
    result = searched(2.0, 2e-3)
    assert result["search"] == {"2": None, "0.002": result["by_seed"][0]["dev"]}
    rates.append(5.0)
    diverged = Search(problem, toy_encoder(), SETTINGS, Store(tmp_path, tmp_path), lambda rate, _: f"{rate}", Told())
    with pytest.raises(ConfigError, match="learning rate 5, seed 9: expected a training that converges, found weights"):
        diverged.trial(5.0, 9, on_test=True)


def test_the_best_rate_on_dev_is_kept_every_seed_uses_it_and_only_these_see_the_test(tmp_path: Path) -> None:
    task = toy_task("tagging", tmp_path, count=60, epochs=2, learning_rates=(1e-6, 2e-3), seeds=(3, 4))
    told = Told()
    result = run_task(toy_encoder(), task, work=tmp_path / "work", cache=tmp_path / "cache", tell=told)
    assert told.notes == ["learning rate 1e-06, seed 3", "learning rate 0.002, seed 3", "learning rate 0.002, seed 4"]
    assert [(trial["seed"], trial["learning_rate"]) for trial in result["by_seed"]] == [(3, 2e-3), (4, 2e-3)]
    assert result["search"]["1e-06"] < result["search"]["0.002"] == result["by_seed"][0]["dev"]
    scores = [trial["test"]["accuracy"] for trial in result["by_seed"]]
    assert result["score"] == pytest.approx(statistics.mean(scores))
    assert result["spread"] == pytest.approx(statistics.stdev(scores))
    kept = [read_json(path) for path in (tmp_path / "cache").glob("*.json")]
    assert sorted("test" in one for one in kept if "seed" in one) == [False, True, True]
    assert not list((tmp_path / "work").glob("*.work"))

    again = Told()
    assert run_task(toy_encoder(), task, work=tmp_path / "work", cache=tmp_path / "cache", tell=again) == result
    assert (again.updates, len(again.notes)) == (0, 1)
    more = run_task(toy_encoder(), task, seeds=(3,), work=tmp_path / "work", cache=tmp_path / "cache", tell=again)
    assert (again.updates, more["by_seed"]) == (0, result["by_seed"][:1])


def test_what_a_trial_depends_on_is_in_its_digest(tmp_path: Path) -> None:
    def updates_of(encoder: Any, count: int = 30, **tuning_changes: Any) -> int:
        told = Told()
        task = toy_task("tagging", tmp_path, count=count, epochs=1, **tuning_changes)
        run_task(encoder, task, work=tmp_path / "work", cache=None, tell=told)
        return told.updates

    assert updates_of(toy_encoder())
    assert not updates_of(toy_encoder())
    assert updates_of(toy_encoder(), seeds=(2,))
    assert updates_of(toy_encoder(), max_train=20)
    assert updates_of(toy_encoder(num_hidden_layers=1))
    model: Any = toy_encoder().build()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7, 3] += 1e-6
    assert updates_of(encoder_of(model, toy_encoder().tokenizer, device="cpu", precision="float32"))
    assert updates_of(toy_encoder(), count=31)


def test_a_second_process_waits_for_the_trial(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, calls = Told(), []

    def busy_first(handle: Any, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            raise BlockingIOError

    monkeypatch.setattr(search.fcntl, "flock", busy_first)
    with search._locked(tmp_path / "one.lock", told):
        assert told.notes == ["another process is at the same trial; waiting for it"]
    assert calls == [search.fcntl.LOCK_EX | search.fcntl.LOCK_NB, search.fcntl.LOCK_EX]


def test_the_head_has_its_own_rate_and_norms_and_biases_no_decay(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[float, float]] = {}

    def look(optimizer: torch.optim.Optimizer, folder: Path) -> None:
        places = {id(weight): name for name, weight in model.named_parameters()}
        for group in optimizer.param_groups:
            seen.update({places[id(w)]: (group["initial_lr"], group["weight_decay"]) for w in group["params"]})

    monkeypatch.setattr(checkpoints, "save_optimizer", look)
    model = TaskModel(toy_encoder().build(), problem.make_head(32))
    batches = PlannedBatches([(problem.parts["train"], 1.0)], updates=1, batch_tokens=256, seed=1)
    train(model, batches, tuning._loop_settings(SETTINGS, 2e-3, 1), tmp_path)
    assert seen.keys() == dict(model.named_parameters()).keys()
    for name, (rate, decay) in seen.items():
        assert rate == (2e-3 if name.startswith("encoder.") else 5e-3), name
        assert decay == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.01), name


def test_what_is_done_after_an_update_takes_no_time_and_may_end_the_training(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("trelm.training.account.time.perf_counter", lambda: clock[0])

    def after(done: int, total: int) -> bool:
        assert total == 5
        clock[0] += 100
        return done == 3

    model: nn.Module = TaskModel(toy_encoder().build(), problem.make_head(32))
    batches = PlannedBatches([(problem.parts["train"], 1.0)], updates=5, batch_tokens=256, seed=1)
    done = train(model, batches, tuning._loop_settings(SETTINGS, 2e-3, 1), tmp_path, after_update=after)
    assert (done.updates, done.seconds, clock[0]) == (3, 0.0, 300.0)
