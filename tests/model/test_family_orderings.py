"""Every family with two lengths, S of the input and T of the output: what is attended to, and what is added where."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tiny_families import FAMILY_NAMES, FIRST_WORD, SETTINGS, VOCABULARY, trelm_of
from tiny_models import mask_of, random_ids
from torch import Tensor

from trelm.model.tri_layer import NO_LINK

PAIRS = [(9, 3), (3, 11), (7, 7), (2, 4)]
"""Real lengths (S, T) of the examples of one batch."""
LAYERS = [3, 4]
ABSOLUTE = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "camembert": 2, "electra": 0, "distilbert": 0}
"""Model type -> the row of the position table where a sentence's first token is."""


@functools.cache
def model_of(name: str, layers: int = 4) -> Any:
    """Only to be read."""
    return trelm_of(name, layers)


def words(*shape: int, seed: int = 5) -> Tensor:
    """Ids of no special token."""
    return random_ids(*shape, seed=seed, below=VOCABULARY - FIRST_WORD + 1) + FIRST_WORD - 1


def padded_pairs(model: Any) -> dict[str, Tensor]:
    """A CdLM batch in which S and T are each the longer in some example, and padding is on both sides."""
    width_in, width_out = max(s for s, _ in PAIRS), max(t for _, t in PAIRS)
    generator = torch.Generator().manual_seed(8)
    ordering = torch.full((len(PAIRS), width_out), NO_LINK)
    for row, (s, t) in enumerate(PAIRS):
        ordering[row, :t] = torch.randint(NO_LINK, s, (t,), generator=generator)
    mask = mask_of([s for s, _ in PAIRS], width_in)
    return {
        "input_ids": torch.where(mask.bool(), words(len(PAIRS), width_in), model.config.pad_token_id),
        "attention_mask": mask,
        "ordering": ordering,
        "output_mask": mask_of([t for _, t in PAIRS], width_out),
        "language": torch.tensor([0, 1, 0, 1]),
        "output_language": torch.tensor([1, 0, 1, 1]),
    }


def example(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One example without any padding."""
    s, t = PAIRS[row]
    widths = {"input_ids": s, "attention_mask": s, "ordering": t, "output_mask": t}
    return {key: value[row : row + 1, : widths[key]] if key in widths else value[[row]] for key, value in batch.items()}


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("layers", LAYERS)
@torch.no_grad()
def test_a_batch_is_its_examples_one_by_one(name: str, layers: int) -> None:
    """Which masks the halves attend under: the lower half the input's, TRILayer and upper half the output's."""
    model = model_of(name, layers)
    batch = padded_pairs(model)
    together = model(**batch, output_hidden_states=True)
    assert together.logits.shape == (len(PAIRS), 11, VOCABULARY)
    below = layers // 2 + 1
    assert [state.shape[1] for state in together.hidden_states] == [9] * below + [11] * (layers + 2 - below)
    for row, (_, t) in enumerate(PAIRS):
        alone = model(**example(batch, row), output_hidden_states=True)
        for state, other in zip(together.hidden_states, alone.hidden_states, strict=True):
            assert torch.allclose(state[row, : other.shape[1]], other[0], atol=1e-5)
        assert torch.allclose(together.logits[row, :t], alone.logits[0], atol=1e-5)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_what_is_padded_changes_nothing_and_what_is_real_does(name: str) -> None:
    model = model_of(name)
    batch = padded_pairs(model)
    read, real = batch["attention_mask"].bool(), batch["output_mask"].bool()
    before = model(**batch).logits
    other = batch | {
        "input_ids": torch.where(read, batch["input_ids"], words(*read.shape, seed=9)),
        "ordering": torch.where(real, batch["ordering"], 1),
    }
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    assert not torch.equal(other["ordering"], batch["ordering"])
    assert torch.allclose(model(**other).logits[real], before[real], atol=1e-6)
    relinked = batch["ordering"].clone()
    relinked[1, 10] = 1 if relinked[1, 10] == 0 else 0
    changed = model(**batch | {"ordering": relinked}).logits
    assert not torch.allclose(changed[1, 10], before[1, 10], atol=1e-3)
    assert torch.equal(changed[0], before[0])
    read_less = model(**batch | {"attention_mask": mask_of([5, 3, 7, 2], 9)}).logits
    assert not torch.allclose(read_less[0, :3], before[0, :3], atol=1e-3)
    written_less = model(**batch | {"output_mask": mask_of([3, 9, 7, 4], 11)}).logits
    assert not torch.allclose(written_less[1, 8], before[1, 8], atol=1e-3)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_the_identity_ordering_is_monolingual_use(name: str) -> None:
    model = model_of(name)
    batch = padded_pairs(model)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "language")}
    mask, identity = batch["attention_mask"], torch.arange(9).expand(len(PAIRS), -1)
    expected = model(**inputs).logits
    assert torch.equal(model(**inputs, ordering=identity, output_mask=mask).logits, expected)
    assert torch.equal(model(**inputs, output_language=inputs["language"]).logits, expected)
    unmasked = {key: inputs[key] for key in ("input_ids", "language")}
    everything = torch.ones_like(mask)
    expected = model(**unmasked, attention_mask=everything).logits
    assert torch.allclose(model(**unmasked).logits, expected, atol=1e-6)


def states_around_tri_layer(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The lower half's last states, and what the TRILayer's own layer is given."""
    given: list[Tensor] = []
    hook = model.trelm.tri_layer.layer.register_forward_pre_hook(
        lambda layer, inputs, named: given.append(inputs[0]), with_kwargs=True
    )
    states = model.trelm(**batch, output_hidden_states=True).hidden_states
    hook.remove()
    return states[model.config.tri_position], given[0]


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_the_input_of_the_tri_layer_by_hand(name: str) -> None:
    """METHOD section 4: z_j = h_{a(j)} + lang + pos_j, in the layers' width; the family says which positions."""
    model, kind = model_of(name), SETTINGS[name][0]
    backbone, null = model.trelm.backbone, model.trelm.tri_layer.null_state
    batch = padded_pairs(model)
    below, given = states_around_tri_layer(model, batch)
    added = model.trelm.language_embeddings.weight[batch["output_language"]].unsqueeze(1)
    if kind in ABSOLUTE:
        table, real = backbone.embeddings.position_embeddings.weight, batch["output_mask"]
        counted = real.cumsum(1) * real + 1 if ABSOLUTE[kind] else torch.arange(11)
        added = added + table[counted]
    wider = dict(backbone.named_modules()).get({"electra": "embeddings_project"}.get(kind, "embeddings.embed_proj"))
    added = added if wider is None else added @ wider.weight.T
    links = batch["ordering"].tolist()
    linked = [torch.stack([null if j == NO_LINK else row[j] for j in js]) for row, js in zip(below, links)]
    assert torch.allclose(given, torch.stack(linked) + added, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("plainness", [0.5, 1.0])
@torch.no_grad()
def test_what_no_plain_model_can_hold_is_annealed(name: str, plainness: float) -> None:
    """Positions at the TRILayer, and each language embedding without a bias to fold into, by 1 - plainness."""
    model = trelm_of(name)
    backbone, kind = model.trelm.backbone, SETTINGS[name][0]
    batch = padded_pairs(model)
    before_below, before = states_around_tri_layer(model, batch)
    model.config.plainness = plainness
    below, given = states_around_tri_layer(model, batch)
    links = batch["ordering"].clamp(min=0).unsqueeze(-1).expand(-1, -1, below.shape[-1])
    linked = (batch["ordering"] != NO_LINK).unsqueeze(-1)
    without = [
        torch.where(linked, torch.gather(x, 1, links), model.trelm.tri_layer.null_state) for x in (before_below, below)
    ]
    language = model.trelm.family.project(backbone, model.trelm.language_embeddings.weight)[batch["output_language"]]
    folds = model.trelm.tri_bias is not None
    added = before - without[0] - language.unsqueeze(1)  # the positions
    assert (added.abs().max() > 0.1) == (kind in ABSOLUTE)
    expected = (1 - plainness) * added + (1.0 if folds else 1 - plainness) * language.unsqueeze(1)
    assert torch.allclose(given - without[1], expected, atol=1e-5)
    same_below = torch.allclose(below, before_below, atol=1e-6)
    assert same_below == (model.trelm.input_bias is not None)
