"""The stages: what trains, on what, from where, for how long; what is frozen stays as it was to the last bit."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from toy_stages import SETTINGS, VOCABULARY, changed, small_model, snapshot, some_data, stage_data
from trelm.errors import BudgetError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import PARTS, Part, freeze_all_but, part_of_parameters
from trelm.stages import (
    COMBINATION,
    COMMONALITY,
    LANGUAGE_SPECIFIC,
    PLAIN,
    PUBLISHED,
    SCRATCH_STAGE,
    SOURCE,
    TARGET,
    TRANSFER_LOWER,
    TRANSFER_UPPER,
    Stage,
    plan_updates,
    run_stage,
    seconds_per_update,
    stage_flops,
    transfer_stages,
)
from trelm.training.batches import IGNORED, CrossLingualExamples, MaskedExamples
from trelm.training.objectives import batch_loss
from trelm.training.trainer import Trained

STAGES = {stage.name: stage for stage in (*transfer_stages(0.5, (*PUBLISHED, PLAIN)), SCRATCH_STAGE)}


pytestmark = pytest.mark.usefixtures("cheap_collections")


@pytest.fixture
def model(tiny_bert: Path) -> TrelmForMaskedLM:
    return small_model(tiny_bert)


def test_the_stages_are_those_of_the_method() -> None:
    stages = transfer_stages(0.4)
    assert [stage.name for stage in stages] == [COMMONALITY, TRANSFER_UPPER, TRANSFER_LOWER, LANGUAGE_SPECIFIC]
    trains = [set(stage.trains) for stage in stages]
    assert trains == [{"shared"}, {"upper", "shared"}, {"lower", "shared"}, {"lower", "upper", "shared"}]
    # Both transfers from the commonality checkpoint; the last stage from the two halves put together.
    assert [stage.starts_from for stage in stages] == ["model", COMMONALITY, COMMONALITY, COMBINATION]
    assert [stage.feeds for stage in stages] == [
        (("source-text", 0.4), ("target-text", 0.6)),
        (("source-to-target", 0.5), ("target-text", 0.5)),
        (("target-to-source", 0.5), ("target-text", 0.5)),
        (("target-text", 1.0),),
    ]


def test_from_scratch_everything_trains_on_target_text() -> None:
    assert Stage("scratch", frozenset(PARTS), "random", (("target-text", 1.0),)) == SCRATCH_STAGE


@pytest.mark.parametrize(("share", "feed"), [(0.0, "target-text"), (1.0, "source-text")])
def test_a_language_without_a_share_is_not_fed(share: float, feed: str) -> None:
    assert transfer_stages(share)[0].feeds == ((feed, 1.0),)


@pytest.mark.parametrize(("feed", "language"), [("source-text", SOURCE), ("target-text", TARGET)])
def test_text_is_fed_in_its_own_language(feed: Any, language: int) -> None:
    data = some_data()
    examples = data.examples(feed)
    text = data.source if language == SOURCE else data.target
    assert examples == MaskedExamples(text, language, VOCABULARY, 32, 0.15)


def test_pairs_are_fed_in_their_direction_with_the_links_of_what_is_spoken() -> None:
    data = some_data()
    upper, lower = data.examples("source-to-target"), data.examples("target-to-source")
    assert upper == CrossLingualExamples(
        data.pair_source, data.pair_target, data.source_of_target, (SOURCE, TARGET), VOCABULARY, 32
    )
    assert lower == CrossLingualExamples(
        data.pair_target, data.pair_source, data.target_of_source, (TARGET, SOURCE), VOCABULARY, 32
    )


@pytest.mark.parametrize("name", [TRANSFER_UPPER, TRANSFER_LOWER])
def test_a_transfer_batch_reads_one_side_and_speaks_the_other(name: str) -> None:
    """The first part is of pairs; every link leads from a token that is spoken to one that is read."""
    data = some_data()
    read, spoken, of, languages = data.pair_source, data.pair_target, data.source_of_target, (SOURCE, TARGET)
    if name == TRANSFER_LOWER:
        read, spoken, of, languages = data.pair_target, data.pair_source, data.target_of_source, (TARGET, SOURCE)
    batches = data.batches(STAGES[name], updates=3, batch_tokens=200, seed=1)
    for number in range(3):
        across, masked = batches[number]["parts"]
        assert across["language"].unique().tolist() == [languages[0]]
        assert across["output_language"].unique().tolist() == [languages[1]]
        assert masked["language"].unique().tolist() == [TARGET]
        assert "ordering" not in masked
        rows = range(len(spoken))
        for row, label in enumerate(across["labels"].tolist()):
            inside = [token for token in label if token != IGNORED][1:-1]
            (pair,) = [i for i in rows if spoken[i].tolist() == inside]
            expected = [-1 if link == -1 else int(read[pair][link]) for link in of[pair]]
            ordering = across["ordering"][row, 1 : len(inside) + 1].tolist()
            ids = across["input_ids"][row].tolist()
            assert [-1 if place == -1 else ids[place] for place in ordering] == expected


def test_a_stage_has_the_shares_of_its_feeds() -> None:
    batches = some_data().batches(transfer_stages(0.25)[0], updates=7, batch_tokens=80, seed=5)
    assert len(batches) == 7
    assert batches.weights == [0.25, 0.75]
    assert [stream.order.batch_tokens for stream in batches.streams] == [20, 60]
    assert batches.seed == 5


def test_updates_by_hand() -> None:
    # 100 seconds by 1 : 3 : 0 : 4 are 12.5, 37.5, 0 and 50.
    shares = {"a": 1.0, "b": 3.0, "c": 0.0, "d": 4.0}
    cost = {"a": 0.5, "b": 2.0, "c": 1.0, "d": 49.0}
    assert plan_updates(100, "seconds", shares, cost) == {"a": 25, "b": 18, "c": 0, "d": 1}


def test_no_update_is_lost_to_rounding() -> None:
    shares = {"a": 0.1, "b": 0.2, "c": 0.7}
    assert plan_updates(30, "updates", shares, dict.fromkeys(shares, 1.0)) == {"a": 3, "b": 6, "c": 21}


def test_a_budget_that_is_too_small_names_the_stage_and_what_is_enough() -> None:
    expected = (
        "budget: 1100 tokens for training are too few: stage 'a' would get no update; "
        "give training at least 1235 tokens"
    )
    with pytest.raises(BudgetError, match=f"^{expected}$"):
        plan_updates(1100, "tokens", {"a": 1.0, "b": 1.0}, {"a": 560.0, "b": 617.25})


@given(
    amount=st.floats(0.01, 50),
    shares=st.lists(st.floats(0.01, 5) | st.just(0.0), min_size=1, max_size=5).filter(any),
    costs=st.lists(st.floats(0.01, 50), min_size=5, max_size=5),
)
def test_what_is_called_enough_is_enough(amount: float, shares: list[float], costs: list[float]) -> None:
    share, cost = dict(zip("abcde", shares)), dict(zip("abcde", costs))
    try:
        updates = plan_updates(amount, "seconds", share, cost)
    except BudgetError as error:
        enough = float(str(error).split()[-2])
        assert enough >= amount
        updates = plan_updates(enough, "seconds", share, cost)
    assert updates.keys() == share.keys()
    assert all((updates[name] > 0) == (share[name] > 0) for name in share)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(BudgetError, match="expected more than 0 to split, found 0"):
        plan_updates(0, "updates", {"a": 1.0}, {"a": 1.0})


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_does_not_train_stays_to_the_last_bit(name: str, model: TrelmForMaskedLM, tmp_path: Path) -> None:
    stage, parts, before = STAGES[name], part_of_parameters(model), snapshot(model)
    batches = some_data().batches(stage, updates=3, batch_tokens=60, seed=1)
    trained = run_stage(model, stage, batches, SETTINGS, tmp_path)
    moved = changed(model, before)
    assert {parts[entry] for entry in moved} == stage.trains
    # Whatever trains moves, but for what no loss of the stage reaches: the pooler, types and positions not used.
    body = {
        entry for entry, part in parts.items() if part in stage.trains and part != "shared" and "key.bias" not in entry
    }
    assert body <= moved
    assert "trelm.tri_layer.layer.output.dense.weight" in moved
    assert "trelm.language_embeddings.weight" in moved
    assert trained.updates == 3
    assert trained.tokens == sum(batches[i]["tokens"] for i in range(3))
    decoder = model.get_output_embeddings()
    assert decoder.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", STAGES)
def test_after_a_stage_everything_can_train_and_logits_are_whole_again(
    name: str, model: TrelmForMaskedLM, tmp_path: Path
) -> None:
    seen: list[tuple[bool, set[Part]]] = []
    parts = part_of_parameters(model)

    def watch(*_: Any) -> None:
        training = {parts[entry] for entry, weight in model.named_parameters() if weight.requires_grad}
        seen.append((model.config.sparse_prediction, training))
        if len(seen) == 2:
            raise RuntimeError("stopped in the middle")

    batches = some_data().batches(STAGES[name], updates=3, batch_tokens=60, seed=1)
    with pytest.raises(RuntimeError, match="stopped in the middle"):
        run_stage(model, STAGES[name], batches, SETTINGS, tmp_path, watch)
    assert seen == [(True, set(STAGES[name].trains))] * 2
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config.sparse_prediction is False


@pytest.mark.parametrize("name", STAGES)
def test_an_interrupted_stage_goes_on_as_if_nothing_had_been(
    name: str, model: TrelmForMaskedLM, tmp_path: Path
) -> None:
    stage, start = STAGES[name], snapshot(model)
    batches = some_data().batches(stage, updates=4, batch_tokens=60, seed=1)
    settings = replace(SETTINGS, checkpoint_minutes=1e-9)
    expected = run_stage(model, stage, batches, SETTINGS, tmp_path / "whole")
    whole = snapshot(model)

    def stop(done: int, *_: Any) -> None:
        if done == 3:
            raise RuntimeError("stopped in the middle")

    back_to(model, start)
    with pytest.raises(RuntimeError, match="stopped in the middle"):
        run_stage(model, stage, batches, settings, tmp_path / "cut", stop)
    back_to(model, start)
    trained = run_stage(model, stage, batches, SETTINGS, tmp_path / "cut")
    assert changed(model, whole) == set()
    assert (trained.tokens, trained.curve["loss"]) == (expected.tokens, expected.curve["loss"])


def back_to(model: TrelmForMaskedLM, start: dict[str, Tensor]) -> None:
    """As a process that begins again has the model: with nothing taken away yet."""
    model.load_state_dict(start)
    model.config.plainness = 0.0


def test_a_stage_without_a_share_leaves_the_model_as_it_is(model: TrelmForMaskedLM, tmp_path: Path) -> None:
    """Also where there is nothing that it could be fed."""
    updates = plan_updates(10, "updates", {"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0})["a"]
    assert updates == 0
    before, stage = snapshot(model), STAGES[TRANSFER_UPPER]
    batches = stage_data([], []).batches(stage, updates=updates, batch_tokens=60, seed=1)
    trained = run_stage(model, stage, batches, SETTINGS, tmp_path / "stage")
    assert trained == Trained(0.0, 0, 0, {"updates": [], "tokens": [], "seconds": [], "loss": []})
    assert changed(model, before) == set()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config.sparse_prediction is False
    assert not (tmp_path / "stage").exists()
    assert stage_flops(model, stage, batches) == 0.0


def test_measuring_leaves_the_model_and_the_disk_as_they_were(
    model: TrelmForMaskedLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    freeze_all_but(model, ["lower"])
    model.train(False)
    before, trains = snapshot(model), [parameter.requires_grad for parameter in model.parameters()]
    ticks: list[None] = []
    seconds = seconds_per_update(
        model,
        STAGES[TRANSFER_LOWER],
        some_data(),
        replace(SETTINGS, checkpoint_minutes=1e-9),
        batch_tokens=60,
        warm=2,
        measured=3,
        on_update=lambda: ticks.append(None),
    )
    assert 0 < seconds < 10
    assert len(ticks) == 5
    assert changed(model, before) == set()
    assert [parameter.requires_grad for parameter in model.parameters()] == trains
    assert not model.training
    assert model.config.sparse_prediction is False
    assert list(tmp_path.iterdir()) == []


def test_measured_seconds_are_the_mean_of_those_after_the_warm_ones(
    model: TrelmForMaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 60.0, 61.0, 63.0, 66.0])  # the first two updates are slow

    def pretend(*arguments: Any) -> None:
        for _ in range(len(arguments[2])):
            arguments[-1]()

    monkeypatch.setattr("trelm.stages.run_stage", pretend)
    monkeypatch.setattr("trelm.stages.time.perf_counter", lambda: next(clock))
    stage = STAGES[LANGUAGE_SPECIFIC]
    assert seconds_per_update(model, stage, some_data(), SETTINGS, batch_tokens=60, warm=2, measured=3) == 2.0


# Width 32, feed-forward 64: a layer's products with weights are 8*32*32 + 4*32*64 = 16384 FLOPs a token, those between
# tokens 4*32 = 128 a token and a token of the sequence; the head's are 2*32*32 + 2*32*200 = 14848 a label.
WEIGHTS, BETWEEN, HEAD = 16384, 128, 14848


@pytest.mark.parametrize(
    ("name", "lower", "upper"),
    [(COMMONALITY, 2, 2), (LANGUAGE_SPECIFIC, 3, 3), ("scratch", 3, 3)],
)
def test_flops_of_masked_language_modelling_by_hand(name: str, lower: int, upper: int, model: TrelmForMaskedLM) -> None:
    """One text of 6 tokens, 8 with the special ones, one label; 2 layers below, 2 above, and the TRILayer."""
    stage = replace(STAGES[name], feeds=(("target-text", 1.0),))
    batches = stage_data([6], [6], mask_rate=0.0).batches(stage, updates=5, batch_tokens=8, seed=1)
    # Forward and the gradient of the states, and once more where the weights train; attention three times anyway.
    layers = 8 * (2 * lower * WEIGHTS + 3 * WEIGHTS + 2 * upper * WEIGHTS + 5 * 3 * 8 * BETWEEN)
    assert stage_flops(model, stage, batches) == 5 * (layers + 3 * HEAD)


@pytest.mark.parametrize(
    ("name", "read", "spoken", "lower", "upper"),
    [
        (TRANSFER_UPPER, 6, 10, 2, 3),
        (TRANSFER_LOWER, 10, 6, 3, 2),
    ],
)
def test_flops_of_a_transfer_by_hand(
    name: str, read: int, spoken: int, lower: int, upper: int, model: TrelmForMaskedLM
) -> None:
    """A pair of 4 and 8 tokens, 6 and 10 with the special ones, all of the spoken ones labels; a text of 10 tokens."""
    batches = stage_data([4], [8], mask_rate=0.0).batches(STAGES[name], updates=3, batch_tokens=20, seed=1)
    across = read * 2 * (lower * WEIGHTS + 3 * read * BETWEEN)
    across += spoken * (3 * WEIGHTS + 2 * upper * WEIGHTS + 3 * 3 * spoken * BETWEEN) + spoken * 3 * HEAD
    masked = 10 * (2 * lower * WEIGHTS + 3 * WEIGHTS + 2 * upper * WEIGHTS + 5 * 3 * 10 * BETWEEN) + 3 * HEAD
    assert stage_flops(model, STAGES[name], batches) == 3 * (across + masked)


@pytest.mark.parametrize("name", STAGES)
def test_flops_are_those_of_torch(name: str, model: TrelmForMaskedLM) -> None:
    stage = STAGES[name]
    batches = some_data().batches(stage, updates=1, batch_tokens=120, seed=1)
    freeze_all_but(model, stage.trains)
    model.config.sparse_prediction = True
    counter = FlopCounterMode(display=False)
    with counter:
        batch_loss(model, batches[0]).backward()
    assert stage_flops(model, stage, batches) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_flops_of_many_updates_are_estimated_from_some(model: TrelmForMaskedLM) -> None:
    stage, data = STAGES[COMMONALITY], some_data()
    few = data.batches(stage, updates=16, batch_tokens=40, seed=1)
    single = [stage_flops(model, stage, _only(few, number)) for number in range(16)]
    assert len(set(single)) > 1
    assert stage_flops(model, stage, few) == pytest.approx(sum(single))
    many = data.batches(stage, updates=400, batch_tokens=40, seed=1)
    assert stage_flops(model, stage, many) == pytest.approx(25 * sum(single), rel=0.1)


def _only(batches: Any, number: int) -> Any:
    """A stage of one update, whose batch is that one."""

    class One:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return batches[number]

        def sample(self, count: int) -> list[int]:
            return [0]

    return One()
