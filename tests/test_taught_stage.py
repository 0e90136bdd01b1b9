"""A stage with a teacher: what moves, what stays, what is saved, what it costs, how it goes on after a cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from toy_stages import SETTINGS, VOCABULARY, changed, small_model, snapshot, some_data
from trelm.corpus.ragged import Ragged
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import freeze_all_but, part_of_parameters
from trelm.stages import (
    LANGUAGE_SPECIFIC,
    PUBLISHED,
    TARGET,
    TRANSFER_JOINT,
    Stage,
    StageData,
    is_taught,
    run_stage,
    seconds_per_update,
    stage_flops,
    transfer_stages,
)
from trelm.training import objectives
from trelm.training.batches import MaskedExamples
from trelm.training.objectives import batch_loss
from trelm.training.teaching import TaughtExamples, Teacher, Teaching
from trelm.training.trainer import LoopSettings

FEEDS = (("source-to-target", 0.125), ("target-to-source", 0.125), ("taught-text", 0.5), ("target-text", 0.25))
(STAGE,) = transfer_stages(0.5, [TRANSFER_JOINT], FEEDS)
TAUGHT_ALONE = replace(STAGE, feeds=(("taught-text", 1.0),))

pytestmark = pytest.mark.usefixtures("cheap_collections")


@pytest.fixture
def model(tiny_bert: Path) -> TrelmForMaskedLM:
    return small_model(tiny_bert)


@pytest.fixture
def teacher(tiny_bert: Path) -> Teacher:
    frozen = AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False, attn_implementation="eager")
    return Teacher(frozen.train(False).requires_grad_(False), ((2, 2), (-1, -1)), 1.0)


def taught_data() -> StageData:
    """The data of other stages; the teacher reads the pairs' source side and another token at its end."""
    data, random = some_data(), np.random.default_rng(4)
    read = [[*row.tolist(), 199] for row in data.pair_source]
    starts = [random.integers(-1, len(its), size=len(row)) for its, row in zip(read, data.pair_target)]
    ends = [np.where(start < 0, -1, start + 1) for start in starts]
    return replace(data, teaching=Teaching(Ragged.of(read), Ragged.of(starts), Ragged.of(ends), VOCABULARY))


def settings_with(teacher: Teacher, **changes: Any) -> LoopSettings:
    return replace(SETTINGS, teacher=teacher, **changes)


def weights_of(teacher: Teacher) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in teacher.model.state_dict().items()}


def test_which_stages_have_a_teacher() -> None:
    assert is_taught(STAGE)
    assert not any(is_taught(stage) for stage in transfer_stages(0.5, PUBLISHED))
    assert transfer_stages(0.5, [TRANSFER_JOINT, LANGUAGE_SPECIFIC], FEEDS)[1].starts_from == TRANSFER_JOINT


def test_taught_text_is_the_target_side_of_the_pairs() -> None:
    data = taught_data()
    assert data.teaching is not None
    assert data.examples("taught-text") == TaughtExamples(
        MaskedExamples(data.pair_target, TARGET, VOCABULARY, 32, 0.15), data.teaching
    )


def test_taught_text_needs_links_to_a_teacher() -> None:
    words = r"^expected links to a teacher's tokens, found none: the data was made without a teacher$"
    with pytest.raises(ValueError, match=words):
        some_data().examples("taught-text")


def test_everything_of_the_model_trains_and_nothing_of_the_teacher(
    model: TrelmForMaskedLM, teacher: Teacher, tmp_path: Path
) -> None:
    before, taught_by, parts = snapshot(model), weights_of(teacher), part_of_parameters(model)
    batches = taught_data().batches(STAGE, updates=3, batch_tokens=120, seed=1)
    trained = run_stage(model, STAGE, batches, settings_with(teacher), tmp_path)
    assert {parts[name] for name in changed(model, before)} == {"lower", "upper", "shared"}
    assert all(torch.equal(value, taught_by[name]) for name, value in teacher.model.state_dict().items())
    assert not teacher.model.training
    assert trained.updates == 3
    assert trained.tokens == sum(batches[number]["tokens"] for number in range(3))


def test_the_teacher_changes_what_is_learned(model: TrelmForMaskedLM, teacher: Teacher, tmp_path: Path) -> None:
    """By its weight: the same stage with hardly any ends elsewhere."""
    start, found = snapshot(model), []
    for number, weight in enumerate((1.0, 1e-6, 1.0)):
        model.load_state_dict(start)
        batches = taught_data().batches(TAUGHT_ALONE, updates=2, batch_tokens=120, seed=1)
        run_stage(model, TAUGHT_ALONE, batches, settings_with(replace(teacher, weight=weight)), tmp_path / str(number))
        found.append(snapshot(model))
    name = "trelm.backbone.encoder.layer.0.output.dense.weight"
    assert not torch.equal(found[0][name], found[1][name])
    assert torch.equal(found[0][name], found[2][name])


def test_the_weight_falls_in_equal_steps_or_stays(
    model: TrelmForMaskedLM, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def watched(module: TrelmForMaskedLM, batch: Any, its: Teacher) -> Tensor:
        seen.append(its.left * its.weight)
        return batch_loss(module, batch, its)

    monkeypatch.setattr(objectives, "batch_loss", watched)
    for falls in (True, False):
        batches = taught_data().batches(STAGE, updates=4, batch_tokens=60, seed=1)
        run_stage(
            model, STAGE, batches, settings_with(replace(teacher, weight=2.0, falls=falls)), tmp_path / str(falls)
        )
    assert seen == [2.0, 1.5, 1.0, 0.5, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("cut_at", [1, 3, 4])
def test_an_interrupted_stage_goes_on_as_if_nothing_had_been(
    model: TrelmForMaskedLM, teacher: Teacher, tmp_path: Path, cut_at: int, falls: bool
) -> None:
    start, data = snapshot(model), taught_data()
    teacher = replace(teacher, falls=falls)
    batches = data.batches(STAGE, updates=4, batch_tokens=120, seed=1)
    expected = run_stage(model, STAGE, batches, settings_with(teacher), tmp_path / "whole")
    whole = snapshot(model)

    def stop(done: int, *_: Any) -> None:
        if done == cut_at:
            raise RuntimeError("stopped in the middle")

    model.load_state_dict(start)
    often = settings_with(teacher, checkpoint_minutes=1e-9)
    with pytest.raises(RuntimeError, match="stopped in the middle"):
        run_stage(model, STAGE, batches, often, tmp_path / "cut", stop)
    torch.manual_seed(99)
    model.load_state_dict(start)
    trained = run_stage(model, STAGE, batches, settings_with(teacher), tmp_path / "cut")
    assert changed(model, whole) == set()
    assert (trained.tokens, trained.curve["loss"]) == (expected.tokens, expected.curve["loss"])


def test_no_checkpoint_holds_the_teacher(model: TrelmForMaskedLM, teacher: Teacher, tmp_path: Path) -> None:
    often = {"checkpoint_minutes": 1e-9}
    for name, stage, settings in (
        ("taught", STAGE, settings_with(teacher, **often)),
        (
            "not",
            replace(STAGE, feeds=tuple(feed for feed in FEEDS if feed[0] != "taught-text")),
            replace(SETTINGS, **often),
        ),
    ):
        run_stage(model, stage, taught_data().batches(stage, updates=2, batch_tokens=120, seed=1), settings,
                  tmp_path / name)  # fmt: skip
    taught, plain = (saved(tmp_path / name) for name in ("taught", "not"))
    assert taught == plain != {}


def saved(folder: Path) -> dict[str, list[str]]:
    """The names of the weights in each file below a folder."""
    found = {}
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as stream:
            found[str(path.relative_to(folder))] = sorted(stream.keys())
    return found


@pytest.mark.parametrize("pieces", [2, 5])
def test_in_micro_batches_it_learns_the_same(
    model: TrelmForMaskedLM, teacher: Teacher, tmp_path: Path, pieces: int
) -> None:
    model.config.source.hidden_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    start, losses = snapshot(model), []
    for count in (1, pieces):
        model.load_state_dict(start)
        batches = taught_data().batches(STAGE, updates=2, batch_tokens=240, seed=1)
        trained = run_stage(model, STAGE, batches, settings_with(teacher, micro_batches=count), tmp_path / str(count))
        losses.append(trained.curve["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("stage", [STAGE, TAUGHT_ALONE], ids=["mixed", "taught-alone"])
def test_flops_are_those_of_torch(stage: Stage, model: TrelmForMaskedLM, teacher: Teacher) -> None:
    batches = taught_data().batches(stage, updates=1, batch_tokens=240, seed=1)
    freeze_all_but(model, stage.trains)
    model.config.sparse_prediction = True
    counter = FlopCounterMode(display=False)
    with counter:
        batch_loss(model, batches[0], teacher).backward()
    assert stage_flops(model, stage, batches) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_flops_of_the_teacher_are_a_forward_pass_of_four_layers(model: TrelmForMaskedLM) -> None:
    """By hand: 16384 FLOPs a token and layer, 128 a token, layer and token of the sequence; see `test_stages`."""
    taught = taught_data().batches(TAUGHT_ALONE, updates=1, batch_tokens=240, seed=1)
    rows, read = taught[0]["parts"][0]["teacher_ids"].shape
    plain = replace(STAGE, feeds=(("taught-text", 1.0),))
    part = {k: v for k, v in taught[0]["parts"][0].items() if not k.startswith("teacher")}
    without = _flops_of(model, plain, part)
    its = rows * read * 4 * (16384 + 128 * read)
    assert stage_flops(model, TAUGHT_ALONE, taught) == without + its


def _flops_of(model: TrelmForMaskedLM, stage: Stage, part: dict[str, Tensor]) -> float:
    """FLOPs of a stage of one update, whose batch has this part alone."""

    class One:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return {"parts": [part], "is_own": [False]}

        def sample(self, count: int) -> list[int]:
            return [0]

    batches: Any = One()
    return stage_flops(model, stage, batches)


def test_measuring_leaves_the_model_and_the_teacher_as_they_were(model: TrelmForMaskedLM, teacher: Teacher) -> None:
    before, taught_by = snapshot(model), weights_of(teacher)
    settings = settings_with(teacher)
    assert seconds_per_update(model, STAGE, taught_data(), settings, batch_tokens=120, warm=1, measured=2) > 0
    assert changed(model, before) == set()
    assert all(torch.equal(value, taught_by[name]) for name, value in teacher.model.state_dict().items())
