"""Parts, freezing and combination against names written down here from METHOD section 5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import random_ids, trelm_model
from torch import Tensor

from trelm.model.halves import PARTS, Part, combine, freeze_all_but, part_of_parameters

DEPTHS = [2, 3, 4, 5]
BODY = "trelm.backbone.encoder.layer."


def expected_part(name: str, layers: int) -> Part:
    """By name: the body's first N // 2 layers, the other body layers, and all else."""
    if not name.startswith(BODY):
        return "shared"
    return "lower" if int(name.removeprefix(BODY).split(".")[0]) < layers // 2 else "upper"


@pytest.mark.parametrize("layers", DEPTHS)
def test_the_parts_are_a_partition_of_all_that_is_saved(layers: int) -> None:
    model = trelm_model(layers)
    parts = part_of_parameters(model)
    assert parts.keys() == model.state_dict().keys()
    assert parts.keys() >= {name for name, _ in model.named_parameters()}
    assert parts == {name: expected_part(name, layers) for name in parts}
    in_upper = {name.removeprefix(BODY)[0] for name, part in parts.items() if part == "upper"}
    assert in_upper == {str(number) for number in range(layers // 2, layers)}


def test_shared_is_what_the_halves_have_in_common() -> None:
    model = trelm_model()
    shared = {name for name, part in part_of_parameters(model).items() if part == "shared"}
    for stem in (
        "trelm.backbone.embeddings.word_embeddings.weight",
        "trelm.backbone.embeddings.LayerNorm.weight",
        "trelm.backbone.pooler.dense.weight",
        "trelm.language_embeddings.weight",
        "trelm.tri_layer.null_state",
        "trelm.tri_layer.layer.attention.self.query.weight",
        "head.cls.predictions.transform.dense.weight",
        "head.cls.predictions.bias",
        "head.cls.predictions.decoder.weight",  # tied with the word table
    ):
        assert stem in shared


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_the_sizes_add_up(layers: int) -> None:
    model = trelm_model(layers)
    sizes = freeze_all_but(model, ["shared"])
    assert sum(sizes.values()) == sum(parameter.numel() for parameter in model.parameters())
    one_layer = sum(parameter.numel() for parameter in model.trelm.upper_layers[0].parameters())
    assert sizes["lower"] == layers // 2 * one_layer
    assert sizes["upper"] == (layers - layers // 2) * one_layer


def train_one_step(model: Any) -> None:
    """A CdLM example, in which every part has a say, with weight decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    ids, labels = random_ids(2, 5), random_ids(2, 4, seed=6)
    ordering = torch.tensor([[0, -1, 3, 2], [4, 4, 1, -1]])
    loss = model(
        ids, labels=labels, language=0, output_language=1, ordering=ordering, output_mask=torch.ones(2, 4)
    ).loss
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize(
    "trained", [("shared",), ("upper",), ("upper", "shared"), ("lower", "shared"), PARTS], ids="-".join
)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(layers: int, trained: tuple[Part, ...]) -> None:
    model = trelm_model(layers)
    freeze_all_but(model, ["upper"])
    freeze_all_but(model, trained)  # stages follow each other: what was frozen must thaw
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_one_step(model)
    for name, value in model.state_dict().items():
        frozen = expected_part(name, layers) not in trained
        unused = ".pooler." in name  # the loss does not see it
        assert torch.equal(value, before[name]) == (frozen or unused), name


def brute_force(upper_run: dict[str, Tensor], lower_run: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    means = {name: torch.stack([upper_run[name], lower_run[name]]).mean(0) for name in upper_run}
    taken = {"lower": lower_run, "upper": upper_run, "shared": means}
    return {name: taken[expected_part(name, layers)][name] for name in upper_run}


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_the_combination(layers: int) -> None:
    start = trelm_model(layers)
    runs: list[dict[str, Tensor]] = []
    trained: list[tuple[Part, Part]] = [("upper", "shared"), ("lower", "shared")]
    for parts in trained:
        model = trelm_model(layers)
        freeze_all_but(model, parts)
        train_one_step(model)
        runs.append(model.state_dict())
    kept = [{name: value.clone() for name, value in run.items()} for run in runs]
    combined = combine(runs[0], runs[1], part_of_parameters(start))
    expected = brute_force(kept[0], kept[1], layers)
    assert combined.keys() == expected.keys()
    for name, value in combined.items():
        assert torch.allclose(value, expected[name], atol=1e-7), name
        value.add_(1)  # a copy: the runs stay as they are
        assert torch.equal(runs[0][name], kept[0][name])
        assert torch.equal(runs[1][name], kept[1][name])


@torch.no_grad()
def test_a_combination_loads_and_stays_tied() -> None:
    one, two = trelm_model(), trelm_model()
    train_with_gradient(two)
    model = trelm_model(rough=False)
    model.load_state_dict(combine(one.state_dict(), two.state_dict(), part_of_parameters(one)))
    table = model.get_input_embeddings().weight
    assert model.head.cls.predictions.decoder.weight.data_ptr() == table.data_ptr()
    assert torch.allclose(table, (one.get_input_embeddings().weight + two.get_input_embeddings().weight) / 2)
    layers = model.trelm.backbone.encoder.layer
    assert torch.equal(layers[1].output.dense.weight, two.trelm.backbone.encoder.layer[1].output.dense.weight)
    assert torch.equal(layers[2].output.dense.weight, one.trelm.backbone.encoder.layer[2].output.dense.weight)


@torch.enable_grad()
def train_with_gradient(model: Any) -> None:
    train_one_step(model)
