"""A stage that keeps its best weights and stops: against lists in plain Python, and broken off at any update."""

from __future__ import annotations

import copy
import functools
import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from toy_training import loop_settings, same_weights, toy_batches, toy_model

from trelm.errors import RunFolderError, TrainingError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.training import trainer
from trelm.training.checkpoints import remove_checkpoints
from trelm.training.selection import Selection
from trelm.training.trainer import Trained
from trelm.workspace import Step

PLANNED, EVERY, PATIENCE = 12, 2, 2
VALUES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: 1.0, 12: 0.5}
"""By update: the best of those up to update 8, where two have passed without a lower one, is that of update 4."""


class InterruptionError(Exception):
    """What stands for a machine that goes down."""


@pytest.fixture(scope="module", autouse=True)
def cheap_collections() -> Iterator[None]:
    """`Trainer` collects garbage whenever it begins: half a second for all that the libraries have loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


class Scorer:
    """Scores that are known beforehand; remembers at which of them it was asked, and the weights at each."""

    def __init__(self, values: dict[int, float] = VALUES) -> None:
        self.values, self.done, self.asked = values, 0, list[int]()

    def __call__(self) -> float:
        self.asked.append(self.done)
        return self.values[self.done]


def stage(
    folder: Path,
    scorer: Scorer,
    *,
    seed: int = 1,
    dies: Callable[[int, bool], bool] = lambda done, scored: False,
    patience: int = PATIENCE,
    checkpoint_minutes: float = 1e9,
) -> tuple[TrelmForMaskedLM, Trained, Selection]:
    """A stage on toy batches, as its callers do it: trained, then given its best weights.

    Args:
        dies: told the updates done, before and after they are scored: whether the machine goes down there.
    """
    model = toy_model(dropout=0.1, seed=seed)
    selection = Selection(folder, model, scorer, patience=patience, every=EVERY)

    def after_update(done: int, total: int) -> bool:
        scorer.done = done
        if dies(done, False):
            raise InterruptionError
        ends = selection.after_update(done, total)
        if dies(done, True):
            raise InterruptionError
        return ends

    settings = loop_settings(checkpoint_minutes=checkpoint_minutes)
    trained = trainer.train(model, toy_batches(PLANNED), settings, folder, after_update=after_update)
    selection.restore_best()
    return model, trained, selection


@dataclass(frozen=True)
class Plain:
    """A training of the same updates without a selection: how it went, and the model after each update."""

    trained: Trained
    models: dict[int, TrelmForMaskedLM]


@functools.cache
def plain() -> Plain:
    model, models = toy_model(dropout=0.1, seed=1), {}

    def keep(done: int, _: int) -> None:
        models[done] = copy.deepcopy(model)

    with tempfile.TemporaryDirectory() as folder:
        return Plain(
            trainer.train(model, toy_batches(PLANNED), loop_settings(), Path(folder), after_update=keep), models
        )


def test_the_stage_stops_and_has_the_weights_of_its_best_evaluation(tmp_path: Path) -> None:
    scorer = Scorer()
    model, trained, selection = stage(tmp_path / "stage", scorer)
    assert trained.updates == 8
    assert scorer.asked == [2, 4, 6, 8]
    assert [update for update, other in plain().models.items() if same_weights(model, other)] == [4]
    figures = selection.figures(PLANNED)
    assert figures["development"].pop("seconds") >= 0
    assert figures == {
        "planned_updates": PLANNED,
        "best_update": 4,
        "development": {"updates": [2, 4, 6, 8], "bits_per_character": [3.0, 2.0, 2.5, 2.0]},
    }
    assert [path.name for path in (tmp_path / "stage").glob("selected-*")] == ["selected-4.safetensors"]


def test_a_stage_that_is_patient_enough_trains_to_its_end(tmp_path: Path) -> None:
    model, trained, selection = stage(tmp_path / "stage", Scorer(), patience=3)
    assert trained.updates == PLANNED
    assert selection.figures(PLANNED)["best_update"] == PLANNED
    assert same_weights(model, plain().models[PLANNED])
    expected = plain().trained  # scoring has changed no update
    assert (trained.tokens, trained.curve["loss"]) == (expected.tokens, expected.curve["loss"])


def test_a_stage_that_was_not_stopped_goes_back_to_its_best_weights_too(tmp_path: Path) -> None:
    model, trained, selection = stage(tmp_path / "stage", Scorer(VALUES | {8: 1.5, 10: 3.0, 12: 3.0}), patience=3)
    assert (trained.updates, selection.figures(PLANNED)["best_update"]) == (PLANNED, 8)
    assert same_weights(model, plain().models[8])


@pytest.mark.parametrize("died", [(3, False), (4, False), (4, True), (7, True), (8, False), (8, True)])
def test_broken_off_anywhere_it_ends_as_if_it_had_not_been(tmp_path: Path, died: tuple[int, bool]) -> None:
    first, again = Scorer(), Scorer()
    with pytest.raises(InterruptionError):
        stage(tmp_path, first, dies=lambda done, scored: (done, scored) == died, checkpoint_minutes=1e-9)
    torch.manual_seed(99)
    resumed, trained, found = stage(tmp_path, again, seed=2)  # other weights to begin with
    assert same_weights(resumed, plain().models[4])
    assert (trained.updates, trained.curve["loss"]) == (8, plain().trained.curve["loss"][:8])
    assert trained.tokens == plain().trained.curve["tokens"][7]
    assert [(score.update, score.value) for score in found.scores] == [(2, 3.0), (4, 2.0), (6, 2.5), (8, 2.0)]
    assert first.asked + again.asked == [2, 4, 6, 8]  # each once: what was found before the end of the machine stands
    assert [path.name for path in tmp_path.glob("selected-*")] == ["selected-4.safetensors"]


def test_killed_between_weights_and_scores_the_evaluation_is_done_again(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError):
        stage(tmp_path, Scorer(), dies=lambda done, scored: (done, scored) == (5, True), checkpoint_minutes=1e-9)
    scores = json.loads((tmp_path / "selection.json").read_text())
    (tmp_path / "selection.json").write_text(json.dumps(scores[:-1]))  # as before update 4 was written down
    shutil.copy(tmp_path / "selected-4.safetensors", tmp_path / "selected-2.safetensors")
    shutil.rmtree(tmp_path / "checkpoint-4")
    again = Scorer()
    resumed, _, _ = stage(tmp_path, again, seed=2)
    assert same_weights(resumed, plain().models[4])
    assert again.asked == [4, 6, 8]
    assert [path.name for path in tmp_path.glob("selected-*")] == ["selected-4.safetensors"]


def test_a_stage_that_ended_and_was_killed_then_trains_the_last_updates_again(tmp_path: Path) -> None:
    stage(tmp_path, Scorer(), checkpoint_minutes=1e-9)
    again = Scorer()
    model, trained, _ = stage(tmp_path, again, seed=2)
    assert same_weights(model, plain().models[4])
    assert (trained.updates, again.asked) == (8, [])


def test_a_stage_that_begins_again_without_its_weights_scores_again(tmp_path: Path) -> None:
    selection = Selection(tmp_path, Weight(), lambda: 1.0, patience=1, every=1)
    selection.after_update(1, 3)
    remove_checkpoints(tmp_path)
    assert Selection(tmp_path, Weight(), lambda: 1.0, patience=1, every=1).scores == []


class Weight(nn.Module):
    """A model of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_it_stops_where_a_loop_by_hand_stops(values: list[int], patience: int, every: int, rest: int) -> None:
    model = Weight()
    total = (len(values) - 1) * every + min(rest, every - 1) + 1
    evaluated = sorted({*range(every, total, every), total})
    known = dict(zip(evaluated, values))
    if len(known) < len(evaluated):
        known |= dict.fromkeys(evaluated[len(known) :], 9)
    best, since, stop = 10, 0, total
    best_update = 0
    for update in evaluated:
        since += 1
        if known[update] < best:
            best, best_update, since = known[update], update, 0
        if since >= patience:
            stop = update
            break
    with tempfile.TemporaryDirectory() as folder:
        selection = Selection(Path(folder), model, lambda: known[done], patience=patience, every=every)
        for done in range(1, total + 1):
            model.value.data.fill_(done)
            if selection.after_update(done, total):
                break
        assert done == stop
        selection.restore_best()
    assert model.value.item() == best_update
    assert selection.figures(total)["best_update"] == best_update


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_said(tmp_path: Path, value: float) -> None:
    selection = Selection(tmp_path, Weight(), lambda: value, patience=1, every=1)
    words = (
        rf"{tmp_path}: expected a finite score of the development lines after 1 updates, found {value}; lower the "
        "learning rate of the stage"
    )
    with pytest.raises(TrainingError, match=words):
        selection.after_update(1, 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_weights_that_are_gone_or_damaged_are_said(tmp_path: Path, content: bytes | None) -> None:
    selection = Selection(tmp_path, Weight(), lambda: 1.0, patience=1, every=1)
    selection.after_update(1, 3)
    path = tmp_path / "selected-1.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    words = (
        r"selected-1\.safetensors: expected the best weights of the stage, found .*; remove the folder .* and run again"
    )
    with pytest.raises(RunFolderError, match=words):
        selection.restore_best()


def test_scores_that_were_lost_are_said(tmp_path: Path) -> None:
    selection = Selection(tmp_path, Weight(), lambda: 1.0, patience=9, every=2)
    words = r"selection\.json: expected 2 scores, one every 2 updates, found 0; remove the folder .* and run again"
    with pytest.raises(RunFolderError, match=words):
        selection.after_update(6, 8)


def test_a_stage_without_an_update_has_nothing_to_choose(tmp_path: Path) -> None:
    selection = Selection(tmp_path, Weight(), lambda: 1.0, patience=1, every=1)
    selection.restore_best()
    assert selection.figures(0)["best_update"] == 0


def test_chosen_weights_are_no_output_and_go_with_the_checkpoints(tmp_path: Path) -> None:
    step = Step("stage", tmp_path / "stage")
    step.begin("inputs")
    selection = Selection(step.folder, Weight(), lambda: 1.0, patience=1, every=1)
    selection.after_update(1, 3)
    assert load_file(step.folder / "selected-1.safetensors").keys() == {"value"}
    step.finish("inputs", {})
    remove_checkpoints(step.folder)
    assert step.is_done("inputs")
    assert not list(step.folder.glob("selected-*"))
    (step.folder / "selection.json").unlink()  # the scores are one
    assert not step.is_done("inputs")
