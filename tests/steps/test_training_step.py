"""Plans, stages and the combination, by arithmetic and by the weights that the toy run left."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from toy import WITH_PLAIN, ToyRun, run_toy
from trelm.config import make_config
from trelm.errors import BudgetError
from trelm.stages import PLAIN, PLAIN_STAGE, PUBLISHED, SCRATCH_STAGE, transfer_stages
from trelm.steps import training
from trelm.steps.training import (
    STAGE_FOLDERS,
    evaluation_reserve,
    final_stage,
    least_minutes,
    plan_training,
    planned_stages,
    updates_of,
)

SILENT: Any = SimpleNamespace(update=lambda *_, **__: None, note=lambda _: None)
SECONDS = {"commonality": 0.5, "transfer-upper": 1.0, "transfer-lower": 1.0, "language-specific": 0.25}
SHARES = {"commonality": 1, "transfer-upper": 1, "transfer-lower": 1, "language-specific": 3}
PREPARATION = ("corpus", "vocabulary", "tokens", "word-links", "embeddings", "alignment", "model", "diagnosis")
BATCH = 256


def weights(run: ToyRun, folder: str) -> dict[str, torch.Tensor]:
    return load_file(run.folder / folder / "model.safetensors")


def stage(run: ToyRun, name: str) -> dict[str, torch.Tensor]:
    return weights(run, f"{STAGE_FOLDERS[name]}/model")


def layer(name: str) -> int | None:
    """The number of the encoder's own layer that a weight belongs to."""
    found = re.search(r"encoder\.layer\.(\d+)\.", name)
    return int(found[1]) if found and "tri_layer" not in name else None


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# What each stage trains


def test_weights_have_layers_on_both_sides_and_others(toy_run: ToyRun) -> None:
    names = weights(toy_run, "model/start")
    assert {layer(name) for name in names} == {None, 0, 1, 2, 3}
    assert any("tri_layer" in name for name in names)


@pytest.mark.parametrize(
    ("name", "from_folder", "trained"),
    [
        ("commonality", "model/start", set()),
        ("transfer-upper", "stages/1-commonality/model", {2, 3}),
        ("transfer-lower", "stages/1-commonality/model", {0, 1}),
        ("language-specific", "stages/4-combination/model", {0, 1, 2, 3}),
        ("scratch", "model/random", {0, 1, 2, 3}),
    ],
)
def test_a_stage_trains_its_layers_and_leaves_the_others_bit_by_bit(
    toy_run: ToyRun, name: str, from_folder: str, trained: set[int]
) -> None:
    moved = changed(weights(toy_run, from_folder), stage(toy_run, name))
    assert {layer(weight) for weight in moved} == trained | {None}
    assert any("tri_layer" in weight for weight in moved)
    assert any("word_embeddings" in weight for weight in moved)


def test_the_combination_is_that_of_the_method(toy_run: ToyRun) -> None:
    upper, lower, both = (stage(toy_run, name) for name in ("transfer-upper", "transfer-lower", "combination"))
    assert both.keys() == upper.keys() == lower.keys()
    for name, value in both.items():
        place = layer(name)
        expected = (upper[name] + lower[name]) / 2 if place is None else lower[name] if place < 2 else upper[name]
        assert torch.equal(value, expected), name


def test_a_stage_uses_its_own_settings_and_seed(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def run_stage(
        model: Any, stage: Any, batches: Any, settings: Any, folder: Path, on_update: Any, after: Any, on_note: Any
    ) -> Any:
        assert after is None  # no weights are chosen: every stage trains as planned
        on_note("memory ran out")
        on_update(1, 2, 3.0, None)
        on_update(2, 2, 3.0, 0.5)
        seen[stage.name] = (batches, settings)
        return SimpleNamespace(seconds=1.5, tokens=7, updates=len(batches), curve={}, micro_batches=1)

    monkeypatch.setattr(training, "run_stage", run_stage)
    context = toy_run.context("seed=3", "stages.scratch.learning_rate=0.125", "stages.commonality.schedule=constant")
    planned = {**context.figures("plan")["updates"], "plain": 20}
    for number, one in enumerate((*transfer_stages(0.5, (*PUBLISHED, PLAIN)), SCRATCH_STAGE)):
        (tmp_path / str(number) / "checkpoint-5").mkdir(parents=True)
        figures = training.train_stage(context, one, tmp_path / str(number), SILENT)
        assert {key: figures[key] for key in ("seconds", "tokens", "updates")} == {
            "seconds": 1.5, "tokens": 7, "updates": planned[one.name],
        }  # fmt: skip
        assert figures["flops"] > 0
        # the checkpoints stay until the manifest stands: they are what a kill leaves
        assert sorted(path.name for path in (tmp_path / str(number)).iterdir()) == ["checkpoint-5", "model"]
    seeds = [batches.seed for batches, _ in seen.values()]
    assert seeds == [300, 301, 302, 304, 306, 305] == [settings.seed for _, settings in seen.values()]
    assert seen["scratch"][1].learning_rate == 0.125
    assert seen["commonality"][1].schedule == "constant"
    assert seen["transfer-lower"][1].learning_rate == 1e-3
    assert seen["transfer-lower"][1].weight_decay == 0.01


def test_a_model_is_written_over_the_one_that_is_there(toy_run: ToyRun, tmp_path: Path) -> None:
    model = training.load_model(toy_run.context(), "commonality")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("x")
    training.save_model(model, tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model", "model.safetensors"]
    assert not changed(load_file(tmp_path / "model" / "model.safetensors"), stage(toy_run, "commonality"))


@pytest.mark.parametrize(
    ("name", "folder"),
    [("model", "model/start"), ("random", "model/random"), ("scratch", "stages/scratch/model")],
)
def test_a_model_is_loaded_from_where_its_stage_left_it(toy_run: ToyRun, name: str, folder: str) -> None:
    loaded = training.load_model(toy_run.context(), name).state_dict()
    written = weights(toy_run, folder)
    assert all(torch.equal(loaded[key], value) for key, value in written.items())


def test_stages_draw_from_training_text_alone(toy_run: ToyRun) -> None:
    context = toy_run.context()
    data = training.stage_data(context)
    for part, name in ((data.source, "source"), (data.target, "target"), (data.pair_target, "parallel-target")):
        assert part.values.tolist() == context.tokens(name).values.tolist()
    assert len(data.source_of_target) == len(data.pair_target)
    assert len(data.target_of_source) == len(data.pair_source)
    assert (data.max_length, data.mask_rate) == (32, 0.15)


# Budgets in updates and tokens


def test_a_budget_in_updates_is_split_by_the_shares(toy_run: ToyRun) -> None:
    plan = toy_run.context().figures("plan")
    assert plan["updates"] == {**{name: 2 * share for name, share in SHARES.items()}, "scratch": 12}
    assert plan["unit"] == "updates"
    assert plan["transferred"] == plan["scratch"] == 12
    rule = "The from-scratch model trains on as many updates as all stages of the transferred model together."
    assert plan["baseline_rule"] == rule


def test_too_few_updates_are_said(toy_run: ToyRun, tmp_path: Path) -> None:
    words = r"^budget: 3 updates for training are too few: stage 'commonality' would get no update; .* at least 6 "
    with pytest.raises(BudgetError, match=words):
        plan_training(toy_run.context("budget.updates=3"), tmp_path, SILENT)


def test_a_budget_in_tokens_is_kept_to_a_batch(toy_run: ToyRun, tmp_path: Path) -> None:
    run_toy(toy_run.config("budget.tokens=6000"), tmp_path / "run", until="scratch")
    left = ToyRun(toy_run.data, toy_run.model, tmp_path / "run", {}).context("budget.tokens=6000")
    for name, share in SHARES.items():
        assert abs(left.figures(STAGE_FOLDERS[name])["tokens"] - 6000 * share / 6) <= BATCH, name
    assert abs(left.figures(STAGE_FOLDERS["scratch"])["tokens"] - 6000) <= BATCH
    plan = left.figures("plan")
    assert (plan["unit"], plan["transferred"], plan["scratch"]) == ("tokens", 6000, 6000)
    assert all(BATCH / 2 < tokens <= BATCH for tokens in plan["per_update"].values())


# The plain stage


@pytest.mark.parametrize(
    ("recipe", "stages"),
    [("recommended", ["language-specific"]), ("quick", [*SHARES, "plain"]), ("paper", [*SHARES])],
    ids=["recommended", "quick", "paper"],
)
def test_a_recipe_ends_in_a_plain_model_or_as_the_paper_does(recipe: str, stages: list[str]) -> None:
    inputs = {"source": {"model": "m", "text": ["a"]}, "target": {"language": "xx", "text": ["b"]}, "parallel": ["c"]}
    config = make_config({**inputs, "budget": {"minutes": 1}, "recipe": recipe})
    assert config.stages.plain.share <= config.stages.language_specific.share / 4
    assert [one.name for one in planned_stages(config)] == stages
    assert config.stages.orders == (recipe != "recommended")  # what never reorders is plain from its start
    assert final_stage(config) == stages[-1]


def test_the_stages_of_a_run_are_those_with_its_share_of_source_text(toy_run: ToyRun) -> None:
    config = toy_run.config("training.source_share=0.25")
    assert planned_stages(config) == transfer_stages(0.25)
    assert final_stage(config) == "language-specific"
    config = toy_run.config("training.source_share=0.25", "stages.plain.share=0.01")
    assert planned_stages(config) == transfer_stages(0.25, (*PUBLISHED, PLAIN))
    assert final_stage(config) == "plain"


@pytest.mark.parametrize(
    ("planned", "updates"),
    [
        ({"language-specific": 6}, 20),
        ({"language-specific": 200}, 20),
        ({"language-specific": 1234}, 123),
        ({"language-specific": 1234, "plain": 7}, 7),
    ],
)
def test_a_plain_stage_outside_the_plan_is_a_tenth_of_the_one_before_it(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch, planned: dict[str, int], updates: int
) -> None:
    context = toy_run.context()
    monkeypatch.setattr(context, "figures", lambda name: {"plan": {"updates": planned}}[name])
    assert updates_of(context, PLAIN_STAGE) == updates
    assert updates_of(context, transfer_stages(0.5)[-1]) == planned["language-specific"]


def test_the_plain_stage_has_its_share_of_the_budget(toy_run: ToyRun, tmp_path: Path) -> None:
    plan = plan_training(toy_run.context(*WITH_PLAIN), tmp_path, SILENT)
    assert plan["updates"] == {**{name: 2 * share for name, share in SHARES.items()}, "plain": 2, "scratch": 14}
    assert plan["transferred"] == plan["scratch"] == 14


# Budgets in minutes


@pytest.fixture
def timed(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans with updates of known seconds, after preparation of known seconds."""
    monkeypatch.setattr(training, "measure", lambda *_: SECONDS)
    monkeypatch.setattr(training, "use_all_cores", lambda: 1)
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: 0.0))

    def plan(preparation: dict[str, float], *overrides: str) -> Any:
        context = toy_run.context(*overrides)
        left = {**dict.fromkeys(PREPARATION, 0.0), **preparation}
        monkeypatch.setattr(context, "figures", lambda name: {"seconds": left[name]})
        return plan_training(context, toy_run.folder, SILENT)

    return plan


def test_minutes_are_for_the_whole_command(timed: Any) -> None:
    preparation = {"corpus": 10.0, "vocabulary": 5.0, "word-links": 20.0, "embeddings": 30.0, "alignment": 40.0}
    plan = timed(preparation, "budget.minutes=10")
    reserve = 15 + 0.08 * 600 + 3 * 8
    each = (600 - 105 - reserve - 90) / 2
    assert plan["transferred"] == pytest.approx(each)
    assert plan["scratch"] == pytest.approx(each + 90)  # it could have trained while the transfer prepared
    expected = {name: int(each * share / 6 / SECONDS[name]) for name, share in SHARES.items()}
    assert plan["updates"] == {**expected, "scratch": int((each + 90) / 0.25)}
    assert 105 + reserve + plan["transferred"] + plan["scratch"] == pytest.approx(600)
    assert plan["unit"] == "seconds"
    assert "plus the 90 s that the transfer spent on word links, subword vectors and alignment" in plan["baseline_rule"]


def test_without_a_baseline_the_minutes_are_the_transfers(timed: Any) -> None:
    plan = timed({"corpus": 10.0, "alignment": 40.0}, "budget.minutes=10", "baseline.scratch=false")
    assert plan["transferred"] == pytest.approx(600 - 50 - (15 + 0.08 * 600 + 3 * 7))
    assert plan["scratch"] == 0
    assert "scratch" not in plan["updates"]
    assert plan["baseline_rule"] == "No from-scratch model was trained."


def test_looking_at_the_data_counts_as_preparation(
    toy_run: ToyRun, timed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 130.0])
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert timed({}, "budget.minutes=10")["transferred"] == pytest.approx((600 - 30 - 87) / 2)


@pytest.mark.parametrize("baseline", ["true", "false"])
@pytest.mark.parametrize("hours", [0.02, 3.0])
def test_too_few_minutes_are_said_with_how_many_are_enough(timed: Any, hours: float, baseline: str) -> None:
    preparation = {"corpus": 1800 * hours, "alignment": 1800 * hours}
    overrides = ("budget.minutes=1", f"baseline.scratch={baseline}")
    words = (
        r"^budget\.minutes: expected at least (\d+) \(preparation took \d+ s, evaluation needs about \d+ s\), found 1; "
        r"raise it with --set budget\.minutes=\1 in a new run$"
    )
    with pytest.raises(BudgetError, match=words) as caught:
        timed(preparation, *overrides)
    enough = int(re.findall(r"at least (\d+)", str(caught.value))[0])
    assert timed(preparation, f"budget.minutes={enough}", overrides[1])["transferred"] > 0
    with pytest.raises(BudgetError):
        timed(preparation, f"budget.minutes={enough - 2}", overrides[1])


def test_the_least_budget_leaves_about_a_minute() -> None:
    for fixed in (0.0, 100.0, 10_000.0):
        total = 60 * least_minutes(fixed, True)
        assert total - fixed - evaluation_reserve(total, True) == pytest.approx(60 * 0.92)


def test_updates_are_measured_for_each_kind_of_stage(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, told = iter([3.0, 5.0, 2.0] * 2), []
    monkeypatch.setattr(training, "seconds_per_update", lambda *_, **__: next(seconds))
    context, stages = toy_run.context(), transfer_stages(0.5)
    model: Any = None
    found = training.measure(context, model, stages, model, lambda done, total: told.append((done, total)))
    expected = {"commonality": 3.0, "transfer-upper": 5.0, "transfer-lower": 5.0, "language-specific": 2.0}
    assert found == expected
    assert told == [(1, 3), (2, 3), (3, 3)]
    with_plain = toy_run.context("stages.plain.share=1")
    found = training.measure(with_plain, model, transfer_stages(0.5, (*PUBLISHED, PLAIN)), model, lambda *_: None)
    assert found == {**expected, "plain": 2.0}  # the same work as the stage before it


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ("commonality", {"transfer-upper": 5.0, "transfer-lower": 5.0, "language-specific": 2.0}),
        ("transfer_lower", {"commonality": 5.0, "transfer-upper": 2.0, "language-specific": 7.0}),
        ("transfer_upper", {"commonality": 5.0, "transfer-lower": 2.0, "language-specific": 7.0}),
    ],
)
def test_a_stage_without_a_share_is_not_measured(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch, without: str, expected: dict[str, float]
) -> None:
    """The lower half's stage does the same work as the upper half's, and is measured where it is alone."""
    seconds, told = iter([5.0, 2.0, 7.0]), []
    monkeypatch.setattr(training, "seconds_per_update", lambda *_, **__: next(seconds))
    model: Any = None
    context = toy_run.context(f"stages.{without}.share=0")
    stages = planned_stages(context.config)
    found = training.measure(context, model, stages, model, lambda done, total: told.append((done, total)))
    assert found == expected
    of = len(set(expected.values()))
    assert told == [(number + 1, of) for number in range(of)]


def test_updates_are_really_measured(toy_run: ToyRun) -> None:
    context = toy_run.context()
    model, data = training.load_model(context, "model"), training.stage_data(context)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = training.measure(context, model, transfer_stages(0.5)[:1], data, lambda done, total: None)
    assert 0 < found["commonality"] < 5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
