from __future__ import annotations

import mmap
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from trelm.cost import (
    LayerGroup,
    LayerShape,
    cells_of_plan,
    head_flops,
    human_bytes,
    human_count,
    human_seconds,
    memory_bytes,
    resident_bytes,
    split_budget,
    training_flops,
)
from trelm.errors import BudgetError

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 4, 32, 128, 200
BATCH, LENGTH = 3, 16
TOKENS = BATCH * LENGTH
BERT = LayerShape(
    weights=4 * HIDDEN**2 + 2 * HIDDEN * INTERMEDIATE,
    width=HIDDEN,
    attention_width=HIDDEN,
    feed_forward=2 * INTERMEDIATE,
)
DEBERTA = LayerShape(weights=700, width=8, attention_width=6, feed_forward=10, relative_positions=12)


def forward_flops(group: LayerGroup, shape: LayerShape) -> float:
    """Of the layers alone: nothing trains, nothing is predicted."""
    frozen = replace(group, trained=False)
    return training_flops([frozen], shape, vocabulary=0, labelled=0, embeddings_train=False, head_trains=False)


def tiny_bert() -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=INTERMEDIATE,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return BertForMaskedLM(config)


def counted_flops(model: BertForMaskedLM, *, backward: bool) -> int:
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter:
        logits = model(input_ids=ids).logits
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


def test_forward_flops_by_hand() -> None:
    # A layer of width 2, feed-forward 3, one sequence of 5: 4 products of 2*2*2, 2 of 2*2*3, 2 of 2*2*5 a token.
    shape = LayerShape(weights=4 * 4 + 2 * 6, width=2, attention_width=2, feed_forward=6)
    assert forward_flops(LayerGroup(1, True, 5, 5), shape) == 5 * (4 * 8 + 2 * 12 + 2 * 20)
    assert forward_flops(LayerGroup(3, True, 10, 5), shape) == 3 * 10 * (4 * 8 + 2 * 12 + 2 * 20)
    assert head_flops(hidden=2, vocabulary=7) == 8 + 28
    assert head_flops(hidden=4, vocabulary=7, embedding=2) == 16 + 28


def test_forward_flops_equal_those_of_torch() -> None:
    body = forward_flops(LayerGroup(LAYERS, True, TOKENS, LENGTH), BERT)
    head = TOKENS * head_flops(hidden=HIDDEN, vocabulary=VOCABULARY)
    assert counted_flops(tiny_bert(), backward=False) == body + head


def test_relative_positions_by_hand() -> None:
    """12 rows of width 6: each of 20 tokens is multiplied with them; they are made of 12 rows of width 8, once."""
    plain = replace(DEBERTA, relative_positions=0)
    group = LayerGroup(1, True, 20, 5)
    assert forward_flops(group, DEBERTA) - forward_flops(group, plain) == 2 * 6 * 12 * (20 + 8)
    settings = {"vocabulary": 0, "labelled": 0}
    # Trained: each of the two factors of a product has a gradient, both of the scores' and both of the projection's.
    trained = training_flops([group], DEBERTA, **settings) - training_flops([group], plain, **settings)
    assert trained == 3 * 2 * 6 * 12 * (20 + 8)
    # Frozen above frozen embeddings and a trained layer: the states have a gradient, the rows have none.
    groups = [group, LayerGroup(1, False, 20, 5)]
    settings["embeddings_train"] = False
    above = [training_flops(groups, shape, **settings) for shape in (DEBERTA, plain)]
    below = [training_flops(groups[:1], shape, **settings) for shape in (DEBERTA, plain)]
    assert above[0] - above[1] - (below[0] - below[1]) == 2 * 6 * 12 * (2 * 20 + 8)
    assert below[0] - below[1] == 2 * 6 * 12 * (3 * 20 + 2 * 8)


@pytest.mark.parametrize(("embeddings_train", "times"), [(True, 3), (False, 1)])
def test_a_narrow_table_is_projected_once_for_each_token_that_is_read(embeddings_train: bool, times: int) -> None:
    groups = [LayerGroup(0, False, 40, 10), LayerGroup(2, False, 60, 15)]
    settings = {"vocabulary": 9, "labelled": 0, "embeddings_train": embeddings_train}
    narrow = training_flops(groups, BERT, embedding=5, **settings)
    assert narrow - training_flops(groups, BERT, **settings) == times * 40 * 2 * 5 * HIDDEN
    assert training_flops(groups, BERT, embedding=HIDDEN, **settings) == training_flops(groups, BERT, **settings)


def test_the_head_alone_costs_what_is_predicted() -> None:
    assert training_flops([], BERT, vocabulary=9, labelled=5, embedding=4) == 3 * 5 * (2 * HIDDEN * 4 + 2 * 4 * 9)


@pytest.mark.parametrize("embeddings_train", [True, False])
@pytest.mark.parametrize("trained", ["1111", "0011", "1100", "0110", "0000"])
def test_training_flops_are_those_of_torch(trained: str, embeddings_train: bool) -> None:
    """The word table is tied to the output layer, so the head trains where the embeddings do."""
    model = tiny_bert()
    model.requires_grad_(False)
    model.bert.embeddings.requires_grad_(embeddings_train)
    for layer, flag in zip(model.bert.encoder.layer, trained):
        layer.requires_grad_(flag == "1")
    model.cls.requires_grad_(embeddings_train)
    model.cls.predictions.bias.requires_grad_(True)  # a gradient there costs no product, but lets backward() run
    groups = [LayerGroup(1, flag == "1", TOKENS, LENGTH) for flag in trained]
    estimate = training_flops(
        groups,
        BERT,
        vocabulary=VOCABULARY,
        labelled=TOKENS,
        embeddings_train=embeddings_train,
        head_trains=embeddings_train,
    )
    counted = counted_flops(model, backward=True)
    unneeded = 0 if embeddings_train or "1" not in trained else TOKENS * 6 * HIDDEN**2
    assert counted <= estimate * 1.001
    assert estimate == pytest.approx(counted + unneeded, rel=0.02)


def test_training_flops_are_three_forwards_where_everything_trains() -> None:
    group = LayerGroup(2, True, 30, 10)
    forward = forward_flops(group, BERT) + 5 * head_flops(hidden=HIDDEN, vocabulary=9)
    assert training_flops([group], BERT, vocabulary=9, labelled=5) == pytest.approx(3 * forward)


def test_groups_of_other_lengths_are_added() -> None:
    low, high = LayerGroup(3, True, 40, 10), LayerGroup(2, True, 60, 15)
    parts = sum(training_flops([group], DEBERTA, vocabulary=9, labelled=0) for group in (low, high))
    assert training_flops([low, high], DEBERTA, vocabulary=9, labelled=0) == pytest.approx(parts)


def test_memory_by_hand() -> None:
    shape = LayerShape(weights=0, width=3, attention_width=2, feed_forward=10, relative_positions=5, unfused_heads=7)
    batch = {"layers": 2, "tokens": 6, "length": 3, "vocabulary": 11, "labelled": 4}
    # A token: 4*3 and 4*2, 10, 7 heads of 3 tokens and 5 rows; a sequence, one of two: 5 rows of 2. Logits: 4*11, 3x.
    states, kept, logits = 4 * 100 + 12 * 60, 2 * (6 * (12 + 8 + 10 + 56) + 2 * 10), 4 * 11 * 12
    assert memory_bytes(shape, parameters=100, trained_parameters=60, **batch) == states + kept * 4 + logits
    half = memory_bytes(shape, parameters=100, trained_parameters=60, activation_bytes=2, **batch)
    assert half == states + kept * 2 + logits


def test_memory_of_activations_is_near_what_torch_keeps() -> None:
    """The bytes that autograd saves in the body of a model with fused attention, each storage once."""
    config = tiny_bert().config
    config._attn_implementation = "sdpa"
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = BertForMaskedLM(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.bert(input_ids=torch.zeros(32, 64, dtype=torch.int64)).last_hidden_state
    assert states.requires_grad
    batch = {"tokens": 32 * 64, "length": 64, "layers": LAYERS, "vocabulary": 0, "labelled": 0}
    estimate = memory_bytes(BERT, parameters=0, trained_parameters=0, **batch)
    assert estimate == pytest.approx(sum(saved.values()), rel=0.25)


@settings(deadline=None)
@given(
    st.floats(1e-3, 1e9),
    st.dictionaries(st.text(), st.floats(0, 1e6), min_size=1).filter(lambda shares: sum(shares.values()) > 1e-6),
)
def test_a_budget_is_split_whole_and_in_proportion(total: float, shares: dict[str, float]) -> None:
    parts = split_budget(total, shares)
    assert list(parts) == list(shares)
    assert sum(parts.values()) == pytest.approx(total)
    whole = sum(shares.values())
    assert all(parts[name] * whole == pytest.approx(total * shares[name]) for name in shares)


@pytest.mark.parametrize(
    ("total", "shares", "words"),
    [
        (0, {"a": 1}, "budget: expected more than 0 to split, found 0; give a larger budget"),
        (-2, {"a": 1}, "found -2; give a larger"),
        (1, {"a": 1, "b": -3}, "stages.b.share: expected 0 or more, found -3; correct it"),
        (1, {"a": 0}, "stages: expected a share above 0, found none; give at least one stage a share"),
        (1, {}, "stages: expected a share above 0"),
    ],
)
def test_a_budget_that_cannot_be_split_is_refused(total: float, shares: dict[str, float], words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        split_budget(total, shares)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (750, "12 min 30 s"),
        (3599.6, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (86_399, "1 d 00 h"),
        (273_600, "3 d 04 h"),
    ],
)
def test_seconds_for_people(seconds: float, shown: str) -> None:
    assert human_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown", "size"),
    [
        (0, "0", "0 B"),
        (950, "950", "950 B"),
        (999.7, "1.0 k", "1.0 kB"),
        (12_345, "12.3 k", "12.3 kB"),
        (999_960, "1.0 M", "1.0 MB"),
        (4.5e9, "4.5 G", "4.5 GB"),
        (2e15, "2.0 P", "2.0 PB"),
        (3e22, "30000.0 E", "30000.0 EB"),
        (-1500, "-1.5 k", "-1.5 kB"),
    ],
)
def test_counts_for_people(count: float, shown: str, size: str) -> None:
    assert (human_count(count), human_bytes(count)) == (shown, size)


def test_the_memory_that_is_held_grows_by_what_is_taken() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 50_000_000) as fresh:  # the C library may have memory of its own to give
        fresh.write(b"1" * 50_000_000)
        assert 40_000_000 < resident_bytes() - before < 120_000_000


def test_where_the_system_does_not_say_the_most_that_was_held_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    held = resident_bytes()
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert resident_bytes() >= 0.9 * held


def test_a_step_of_a_plan_is_a_row_of_its_table() -> None:
    sizes = {"memory_bytes": 1.2e9, "disk_bytes": 3e6}
    stage = {"name": "plain", "seconds": 65, "updates": 1200, "tokens": 4.5e6, "flops": 2e15, "basis": "derived"}
    expected = ("plain", "1 min 05 s", "1,200", "4.5 M", "2.0 P", "1.2 GB", "3.0 MB", "derived")
    assert cells_of_plan(stage | sizes) == expected
    step = {"name": "plan", "seconds": 2.0, "updates": 0, "tokens": 0, "flops": 0.0, "basis": "measured"}
    assert cells_of_plan(step | sizes | {"disk_bytes": 0}) == ("plan", "2.0 s", "", "", "", "1.2 GB", "", "measured")


def test_no_torch_is_imported() -> None:
    program = "import sys, trelm.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
