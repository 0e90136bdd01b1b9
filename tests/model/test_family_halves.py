"""Parts of the models of every family: what is frozen stays, the rest trains."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny_families import FAMILY_NAMES, trelm_of
from tiny_models import mask_of, random_ids

from trelm.model.halves import PARTS, Part, freeze_all_but, part_of_parameters

BODY = re.compile(r"trelm\.backbone\.(?:encoder\.layer|transformer\.layer|layers)\.(\d+)\.")
CONVOLUTION = "trelm.backbone.encoder.conv."  # ends the first layer of a DeBERTa that has one


def expected_part(name: str, layers: int) -> Part:
    """By name: the body's first N // 2 layers, the other body layers, and all else."""
    if name.startswith(CONVOLUTION):
        return "lower"
    found = BODY.match(name)
    if found is None:
        return "shared"
    return "lower" if int(found[1]) < layers // 2 else "upper"


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("layers", [2, 5])
def test_the_parts_are_a_partition_of_all_that_is_saved(name: str, layers: int) -> None:
    model = trelm_of(name, layers)
    parts = part_of_parameters(model)
    assert parts.keys() == model.state_dict().keys()
    assert parts.keys() >= {key for key, _ in model.named_parameters()}
    assert parts == {key: expected_part(key, layers) for key in parts}
    assert set(parts.values()) == set(PARTS)
    sizes = freeze_all_but(model, ["shared"])
    assert sum(sizes.values()) == sum(parameter.numel() for parameter in model.parameters())


def unused(key: str, model: Any) -> bool:
    """The loss does not see the pooler, nor the second bias that a BERT with an output table of its own has."""
    untied = not model.config.tie_word_embeddings
    return ".pooler." in key or (untied and key == "head.cls.predictions.bias")


def train(model: Any, steps: int = 3) -> None:
    """CdLM with weight decay; every part has a say."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        ids, labels = random_ids(2, 9, seed=step), random_ids(2, 7, seed=step + 9)
        ordering = torch.tensor([[0, -1, 3, 2, 2, 8, 6], [4, 4, 1, -1, 5, -1, -1]])
        masks = {"attention_mask": mask_of([9, 6], 9), "output_mask": mask_of([7, 5], 7)}
        loss = model(ids, labels=labels, language=0, output_language=1, ordering=ordering, **masks).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("trained", [("upper", "shared"), ("lower", "shared")], ids="-".join)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(name: str, trained: tuple[Part, ...]) -> None:
    model = trelm_of(name)
    freeze_all_but(model, trained)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model)
    for key, value in model.state_dict().items():
        frozen = expected_part(key, 4) not in trained
        assert torch.equal(value, before[key]) == (frozen or unused(key, model)), key
