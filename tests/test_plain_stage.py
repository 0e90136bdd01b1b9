"""The stage that takes away what a plain model cannot hold: how much is left of it before every update, and at last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toy_stages import SETTINGS, changed, small_model, snapshot, some_data
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import PARTS
from trelm.stages import (
    COMBINATION,
    LANGUAGE_SPECIFIC,
    PLAIN,
    PLAIN_STAGE,
    PUBLISHED,
    SCRATCH_STAGE,
    Stage,
    run_stage,
    seconds_per_update,
    transfer_stages,
)
from trelm.training import objectives
from trelm.training.trainer import LoopSettings, Trained

EVERY_UPDATE = replace(SETTINGS, checkpoint_minutes=1e-9)


class PowerCut(Exception):  # noqa: N818 (not an error of the program)
    """What stands for a machine that goes down."""


pytestmark = pytest.mark.usefixtures("cheap_collections")


@pytest.fixture
def model(tiny_bert: Path) -> TrelmForMaskedLM:
    return small_model(tiny_bert)


@pytest.fixture
def seen(model: TrelmForMaskedLM, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The plainness that the model had in each update, read when its loss was computed."""
    read: list[float] = []
    batch_loss = objectives.batch_loss

    def spy(module: Any, batch: Any) -> torch.Tensor:
        assert module.config is model.config
        read.append(module.config.plainness)
        return batch_loss(module, batch)

    monkeypatch.setattr(objectives, "batch_loss", spy)
    return read


def train(
    model: TrelmForMaskedLM,
    folder: Path,
    *,
    updates: int,
    stage: Stage = PLAIN_STAGE,
    settings: LoopSettings = SETTINGS,
    cut_at: int = 0,
) -> Trained:
    """Run a stage; cut off after `cut_at` updates, before the checkpoint of the last one."""

    def cut(done: int, *_: Any) -> None:
        if done == cut_at:
            raise PowerCut

    batches = some_data().batches(stage, updates=updates, batch_tokens=60, seed=1)
    return run_stage(model, stage, batches, settings, folder, cut)


def test_the_plain_stage_follows_the_one_of_the_target_language() -> None:
    stages = transfer_stages(0.5, (*PUBLISHED, PLAIN))
    assert stages[:-1] == transfer_stages(0.5)
    assert stages[-1] == PLAIN_STAGE
    assert Stage(PLAIN, frozenset(PARTS), LANGUAGE_SPECIFIC, (("target-text", 1.0),), anneals=True) == PLAIN_STAGE
    assert [stage.starts_from for stage in stages[-2:]] == [COMBINATION, LANGUAGE_SPECIFIC]
    assert [stage.anneals for stage in (*stages, SCRATCH_STAGE)] == [*[False] * 4, True, False]


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        (8, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (5, [0.4, 0.8, 1, 1, 1]),
        (2, [1, 1]),
        (1, [1]),
    ],
)
def test_plainness_rises_in_a_line_over_the_first_half(
    model: TrelmForMaskedLM, seen: list[float], tmp_path: Path, updates: int, expected: list[float]
) -> None:
    trained = train(model, tmp_path, updates=updates)
    assert seen == pytest.approx(expected)
    assert trained.updates == updates
    assert model.config.plainness == 1.0
    assert model.trelm.kept == 0.0


@pytest.mark.parametrize("stage", [*transfer_stages(0.5), SCRATCH_STAGE], ids=lambda stage: stage.name)
def test_other_stages_take_nothing_away(
    model: TrelmForMaskedLM, seen: list[float], tmp_path: Path, stage: Stage
) -> None:
    train(model, tmp_path, updates=4, stage=stage)
    assert seen == [0.0] * 4
    assert model.config.plainness == 0.0


def test_only_the_states_that_are_predicted_are_computed_while_it_trains(
    model: TrelmForMaskedLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse, batch_loss = [], objectives.batch_loss
    monkeypatch.setattr(
        objectives, "batch_loss", lambda *given: sparse.append(model.config.sparse_prediction) or batch_loss(*given)
    )
    train(model, tmp_path / "whole", updates=3)
    with pytest.raises(PowerCut):
        train(model, tmp_path / "cut", updates=3, cut_at=2)
    assert sparse == [True] * 5
    assert model.config.sparse_prediction is False
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("cut_at", [2, 3, 6, 8], ids=["first-half", "second-of-it", "second-half", "at-the-end"])
def test_cut_off_in_the_middle_it_ends_in_the_same_weights(
    model: TrelmForMaskedLM, tiny_bert: Path, seen: list[float], tmp_path: Path, cut_at: int
) -> None:
    start = snapshot(model)
    expected = train(model, tmp_path / "whole", updates=8)
    whole, risen = snapshot(model), list(seen)
    assert risen[0] < risen[1] < risen[2] < 1.0

    model.load_state_dict(start)
    model.config.plainness = 0.0
    seen.clear()
    with pytest.raises(PowerCut):
        train(model, tmp_path / "cut", updates=8, settings=EVERY_UPDATE, cut_at=cut_at)
    before = list(seen)
    assert before == risen[:cut_at]

    torch.manual_seed(99)
    model.load_state_dict(start)  # a process that begins again has the model that the stage starts from
    model.config.plainness = 0.0
    seen.clear()
    trained = train(model, tmp_path / "cut", updates=8, settings=EVERY_UPDATE)
    assert seen == risen[cut_at - 1 :]  # the update before the cut had no checkpoint yet
    assert changed(model, whole) == set()
    assert model.config.plainness == 1.0
    assert (trained.tokens, trained.curve["loss"]) == (expected.tokens, expected.curve["loss"])


def test_resumed_after_its_last_update_it_is_plain_too(
    model: TrelmForMaskedLM, seen: list[float], tmp_path: Path
) -> None:
    """The last checkpoint was written, the manifest was not: no update is left that could set anything."""
    batches = some_data().batches(PLAIN_STAGE, updates=1, batch_tokens=60, seed=1)
    run_stage(model, PLAIN_STAGE, batches, EVERY_UPDATE, tmp_path)
    whole = snapshot(model)
    model.config.plainness = 0.0
    seen.clear()
    run_stage(model, PLAIN_STAGE, batches, EVERY_UPDATE, tmp_path)
    assert seen == []
    assert model.config.plainness == 1.0
    assert changed(model, whole) == set()


def test_what_is_annealed_matters_less_and_less_and_at_last_not_at_all(model: TrelmForMaskedLM, tmp_path: Path) -> None:
    """Other positions at the TRILayer, other logits: by less at every plainness, and by nothing at 1."""
    train(model, tmp_path, updates=4)
    model.eval()
    ids = torch.tensor([[2, 60, 90, 70, 3]])
    with torch.no_grad():
        plain = model(ids).logits
        distances = []
        for plainness in (0.0, 0.5, 0.9, 1.0):
            model.config.plainness = plainness
            distances.append(float((model(ids).logits - plain).abs().max()))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1e-3
    assert distances[-1] == 0.0


def test_measuring_it_leaves_the_model_with_all_its_inputs(model: TrelmForMaskedLM) -> None:
    before = snapshot(model)
    assert seconds_per_update(model, PLAIN_STAGE, some_data(), SETTINGS, batch_tokens=60, warm=1, measured=2) > 0
    assert changed(model, before) == set()
    assert model.config.plainness == 0.0
