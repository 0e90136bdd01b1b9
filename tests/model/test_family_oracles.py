"""Every family against Hugging Face's own masked language model: the TRILayer taken out, and put in."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from tiny_families import FAMILY_NAMES, FIRST_WORD, SETTINGS, VOCABULARY, roles_of, tiny_config
from tiny_models import mask_of, random_ids, roughen, take_out_tri_layer
from torch import Tensor, nn

from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.families import FAMILIES
from trelm.model.source import trelm_config

LENGTH = 11  # more than a local layer of ModernBERT sees, more than DeBERTa's nearest buckets
RIGHT, LEFT = mask_of([11, 6, 2], LENGTH), mask_of([11, 6, 2], LENGTH).flip(1)
NO_SDPA = {"mpnet", "deberta-v2"}
"""Model types that Hugging Face computes in eager mode only."""
CASES = [
    (name, layers, attention)
    for name in FAMILY_NAMES
    for layers in (2, 3, 4, 5)
    for attention in ("eager", "sdpa")
    if not (attention == "sdpa" and SETTINGS[name][0] in NO_SDPA)
]


@functools.cache
def pair(name: str, layers: int, attention: str) -> tuple[Any, Any]:
    """Hugging Face's model and a TreLM model with its weights; only to be read."""
    config = tiny_config(name, layers)
    family = FAMILIES[config.model_type]
    theirs = family.masked_lm._from_config(config, attn_implementation=attention)
    roughen(theirs)
    made = trelm_config(config, vocabulary_size=VOCABULARY, special_ids=roles_of(config), languages=("en", "id"))
    ours = TrelmForMaskedLM._from_config(made, attn_implementation=attention)
    take_over(ours, theirs, family)
    ours.eval()
    return theirs.eval(), ours


def take_over(ours: Any, theirs: Any, family: Any) -> None:
    """Copy every weight, and see that none is left on either side: only the pooler, which the head does not need."""
    weights, taken = theirs.state_dict(), set()
    for name, value in ours.state_dict().items():
        if name.startswith(("trelm.backbone.", "head.")) and ".pooler." not in name:
            taken.add(family.plain_name(name))
            value.copy_(weights[family.plain_name(name)])
    assert taken == weights.keys()


@pytest.fixture
def without_tri_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    take_out_tri_layer(monkeypatch)


def padded_ids(config: Any, mask: Tensor) -> Tensor:
    words = random_ids(*mask.shape, below=VOCABULARY - FIRST_WORD) + FIRST_WORD - 1
    return torch.where(mask.bool(), words, config.pad_token_id)


def assert_same(found: Any, expected: Any, real: Tensor) -> None:
    """The logits and every state, except the TRILayer's, which repeats the one below it."""
    assert torch.allclose(found.logits[real], expected.logits[real], atol=1e-5)
    layers = len(expected.hidden_states) - 1
    states = [*found.hidden_states[: layers // 2 + 1], *found.hidden_states[layers // 2 + 2 :]]
    assert len(states) == layers + 1
    for state, other in zip(states, expected.hidden_states):
        assert other[real].abs().max() > 0.1
        assert torch.allclose(state[real], other[real], atol=1e-5)


@pytest.mark.usefixtures("without_tri_layer")
@pytest.mark.parametrize(("name", "layers", "attention"), CASES)
@torch.no_grad()
def test_without_its_tri_layer_it_is_hugging_faces_model(name: str, layers: int, attention: str) -> None:
    theirs, ours = pair(name, layers, attention)
    for mask in (RIGHT, LEFT, None):
        real = torch.ones(3, LENGTH).bool() if mask is None else mask.bool()
        inputs = {"input_ids": padded_ids(theirs.config, RIGHT if mask is None else mask), "attention_mask": mask}
        expected = theirs(**inputs, output_hidden_states=True)
        assert_same(ours(**inputs, output_hidden_states=True), expected, real)


@pytest.mark.usefixtures("without_tri_layer")
@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_embeddings_in_place_of_ids(name: str) -> None:
    theirs, ours = pair(name, 4, "eager")
    words = ours.get_input_embeddings()(padded_ids(theirs.config, RIGHT))
    for mask in (RIGHT, None):
        real = torch.ones(3, LENGTH).bool() if mask is None else mask.bool()
        expected = theirs(inputs_embeds=words, attention_mask=mask, output_hidden_states=True)
        assert_same(ours(inputs_embeds=words, attention_mask=mask, output_hidden_states=True), expected, real)


@pytest.mark.usefixtures("without_tri_layer")
@pytest.mark.parametrize("name", ["bert", "electra-generator", "deberta-v2-positions"])
@torch.no_grad()
def test_token_types(name: str) -> None:
    theirs, ours = pair(name, 4, "eager")
    inputs = {"input_ids": padded_ids(theirs.config, RIGHT), "attention_mask": RIGHT}
    types = torch.tensor([[0] * 5 + [1] * 6] * 3)
    expected = theirs(**inputs, token_type_ids=types, output_hidden_states=True)
    assert not torch.allclose(expected.logits, theirs(**inputs).logits, atol=1e-2)
    found = ours(**inputs, token_type_ids=types, output_hidden_states=True)
    assert_same(found, expected, RIGHT.bool())


@pytest.mark.usefixtures("without_tri_layer")
@torch.no_grad()
def test_local_attention_is_local() -> None:
    """Otherwise a ModernBERT with global layers only would pass all of the above."""
    theirs, _ = pair("modernbert", 4, "eager")
    everywhere = FAMILIES["modernbert"].masked_lm(tiny_config("modernbert", local_attention=100))
    everywhere.load_state_dict(theirs.state_dict())
    ids = padded_ids(theirs.config, RIGHT)
    assert not torch.allclose(everywhere.eval()(ids).logits, theirs(ids).logits, atol=1e-2)


@pytest.mark.parametrize("name", ["mpnet", "deberta-v2", "deberta-v3"])
def test_an_attention_that_the_family_lacks_is_hugging_faces_error(name: str) -> None:
    words = "does not support an attention implementation through torch.nn.functional.scaled_dot_product_attention"
    _, ours = pair(name, 4, "eager")
    with pytest.raises(ValueError, match=words):
        TrelmForMaskedLM._from_config(copy.deepcopy(ours.config), attn_implementation="sdpa")


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if SETTINGS[name][0] not in NO_SDPA])
@torch.no_grad()
def test_the_two_ways_of_attention_agree_with_the_tri_layer_in(name: str) -> None:
    _, ours = pair(name, 4, "eager")
    other = TrelmForMaskedLM._from_config(copy.deepcopy(ours.config), attn_implementation="sdpa").eval()
    other.load_state_dict(ours.state_dict())
    inputs = {"input_ids": padded_ids(ours.config.source, RIGHT), "attention_mask": RIGHT}
    real = RIGHT.bool()
    assert torch.allclose(other(**inputs).logits[real], ours(**inputs).logits[real], atol=1e-5)


def attention_implementations(model: nn.Module) -> set[str]:
    """What every module that looks at its configuration finds there."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    return {getattr(config, "source", config)._attn_implementation for config in configs}


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if SETTINGS[name][0] not in NO_SDPA])
def test_the_attention_implementation_reaches_every_layer(name: str) -> None:
    config = trelm_config(
        tiny_config(name), vocabulary_size=VOCABULARY, special_ids=roles_of(tiny_config(name)), languages=("en", "id")
    )
    for attention in ("eager", "sdpa"):
        made = TrelmForMaskedLM._from_config(copy.deepcopy(config), attn_implementation=attention)
        assert any(hasattr(module, "config") for module in made.trelm.tri_layer.layer.modules())
        assert attention_implementations(made) == {attention}
    made.set_attn_implementation("eager")  # from sdpa
    assert attention_implementations(made) == {"eager"}
    assert attention_implementations(made.trelm.tri_layer) == {"eager"}
