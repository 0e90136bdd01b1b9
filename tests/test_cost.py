from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from trelm.cost import (
    Estimate,
    LayerGroup,
    Rate,
    encoder_parameters,
    flops_per_token,
    head_flops,
    human_bytes,
    human_count,
    human_seconds,
    layer_parameters,
    memory_bytes,
    split_budget,
    training_flops,
)
from trelm.errors import BudgetError

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 4, 32, 128, 200
BATCH, LENGTH = 3, 16
TOKENS = BATCH * LENGTH
WIDTHS = {"hidden": HIDDEN, "intermediate": INTERMEDIATE}


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
    # A layer of width 2, feed-forward 3, sequence 5: 4 products of 2*2*2, 2 of 2*2*3, 2 of 2*2*5.
    assert flops_per_token(layers=1, hidden=2, intermediate=3, length=5) == 4 * 8 + 2 * 12 + 2 * 20
    assert head_flops(hidden=2, vocabulary=7) == 8 + 28
    assert head_flops(hidden=4, vocabulary=7, embedding=2) == 16 + 28


def test_forward_flops_equal_those_of_torch() -> None:
    body = TOKENS * flops_per_token(layers=LAYERS, length=LENGTH, **WIDTHS)
    head = TOKENS * head_flops(hidden=HIDDEN, vocabulary=VOCABULARY)
    assert counted_flops(tiny_bert(), backward=False) == pytest.approx(body + head, rel=0.02)


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
        vocabulary=VOCABULARY,
        labelled=TOKENS,
        embeddings_train=embeddings_train,
        head_trains=embeddings_train,
        **WIDTHS,
    )
    counted = counted_flops(model, backward=True)
    unneeded = 0 if embeddings_train or "1" not in trained else TOKENS * 6 * HIDDEN**2
    assert counted <= estimate * 1.001
    assert estimate == pytest.approx(counted + unneeded, rel=0.02)


def test_training_flops_are_three_forwards_where_everything_trains() -> None:
    forward = 30 * flops_per_token(layers=2, length=10, **WIDTHS) + 5 * head_flops(hidden=HIDDEN, vocabulary=9)
    estimate = training_flops([LayerGroup(2, True, 30, 10)], vocabulary=9, labelled=5, **WIDTHS)
    assert estimate == pytest.approx(3 * forward)


def test_groups_of_other_lengths_are_added() -> None:
    settings = {"vocabulary": 9, "labelled": 0, **WIDTHS}
    low, high = LayerGroup(3, True, 40, 10), LayerGroup(2, True, 60, 15)
    parts = sum(training_flops([group], **settings) for group in (low, high))
    assert training_flops([low, high], **settings) == pytest.approx(parts)


@pytest.mark.parametrize(("positions", "types"), [(64, 2), (10, 1)])
def test_parameters_are_those_of_a_real_model(positions: int, types: int) -> None:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=INTERMEDIATE,
        max_position_embeddings=positions,
        type_vocab_size=types,
    )
    model = BertForMaskedLM(config)
    counted = encoder_parameters(layers=LAYERS, vocabulary=VOCABULARY, positions=positions, types=types, **WIDTHS)
    assert counted == sum(parameter.numel() for parameter in model.parameters())
    one_layer = sum(parameter.numel() for parameter in model.bert.encoder.layer[0].parameters())
    assert layer_parameters(**WIDTHS) == one_layer


def test_parameters_with_a_narrow_table_and_languages_by_hand() -> None:
    # Tables (10 + 4 + 2 + 2) * 3, norm 6, projection 3*5+5; head 5*3+3, norm 6, bias 10.
    expected = 54 + 6 + 20 + 18 + 6 + 10
    settings = {"vocabulary": 10, "positions": 4, "languages": 2, "embedding": 3}
    assert encoder_parameters(layers=0, hidden=5, intermediate=7, **settings) == expected


def test_memory_by_hand() -> None:
    settings = {"layers": 2, "hidden": 3, "intermediate": 5, "vocabulary": 11, "labelled": 4, "tokens": 6}
    states, logits = 4 * 100 + 12 * 60, 4 * 11 * 12
    assert memory_bytes(parameters=100, trained_parameters=60, **settings) == states + 6 * 2 * 34 * 4 + logits
    half = memory_bytes(parameters=100, trained_parameters=60, activation_bytes=2, **settings)
    assert half == states + 6 * 2 * 34 * 2 + logits


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
    estimate = memory_bytes(
        parameters=0, trained_parameters=0, tokens=32 * 64, layers=LAYERS, vocabulary=0, labelled=0, **WIDTHS
    )
    assert estimate == pytest.approx(sum(saved.values()), rel=0.25)


def test_a_rate_foretells() -> None:
    rate = Rate(amount=300, seconds=2)
    assert rate.per_second() == 150
    assert rate.seconds_for(1500) == pytest.approx(10)
    assert Rate(0, 0).seconds_for(0) == 0


def test_a_rate_without_time_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"rate: expected a measurement of more than 0 s, found 0 s; measure longer"):
        Rate(5, 0).seconds_for(1)


def test_estimates_follow_each_other() -> None:
    total = Estimate(1, 10, 100, 7, 3) + Estimate(2, 20, 200, 5, 4)
    assert total == Estimate(seconds=3, tokens=30, flops=300, memory_bytes=7, disk_bytes=7)
    assert Estimate() + total == total


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


def test_no_torch_is_imported() -> None:
    program = "import sys, trelm.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
