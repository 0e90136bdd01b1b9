"""Models of every family are saved and come back, grow, and train with less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import FAMILY_NAMES, SETTINGS, VOCABULARY, trelm_of
from tiny_models import mask_of, random_ids
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from trelm.model.encoder import TrelmForMaskedLM, TrelmModel

SDPA = [name for name in FAMILY_NAMES if SETTINGS[name][0] not in ("mpnet", "deberta-v2")]


def inputs() -> dict[str, Any]:
    mask = mask_of([9, 5], 9)
    return {
        "input_ids": (random_ids(2, 9, below=VOCABULARY - 2) + 1) * mask,
        "attention_mask": mask,
        "ordering": torch.tensor([[0, 3, -1, 2, 2], [4, 1, 0, -1, -1]]),
        "output_mask": mask_of([5, 3], 5),
        "language": 0,
        "output_language": 1,
    }


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_a_saved_model_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = trelm_of(name)
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert isinstance(again, TrelmForMaskedLM)
    assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)
    body = AutoModel.from_pretrained(tmp_path)
    assert isinstance(body, TrelmModel)
    assert torch.equal(body(**inputs()).last_hidden_state, model.trelm(**inputs()).last_hidden_state)
    own, theirs = model.state_dict(), again.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in own.items())


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_configuration_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    config = trelm_of(name, rough=False).config
    config.plainness = 0.25
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again.source) is type(config.source)
    again._name_or_path = ""  # where it was read from; not in the file
    assert again.to_dict() == config.to_dict()
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / "config.json").read_text() == (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", SDPA)
@torch.no_grad()
def test_attention_is_chosen_when_a_model_is_loaded(name: str, tmp_path: Path) -> None:
    model = trelm_of(name)
    model.save_pretrained(tmp_path)
    for attention in ("eager", "sdpa"):
        again = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation=attention)
        configs = [module.config for module in again.trelm.tri_layer.layer.modules() if hasattr(module, "config")]
        configs += [again.trelm.backbone.config]
        assert {config._attn_implementation for config in configs} == {attention}
        real = inputs()["output_mask"].bool()
        assert torch.allclose(again(**inputs()).logits[real], model(**inputs()).logits[real], atol=1e-5)


@pytest.mark.parametrize("name", ["mpnet", "deberta-v3"])
def test_attention_that_the_family_lacks_is_refused_when_a_model_is_loaded(name: str, tmp_path: Path) -> None:
    trelm_of(name).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not support an attention implementation through torch"):
        AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="sdpa")


# an untied BERT that grew is not what it was even in Hugging Face's own class: one of its two biases is not saved
GROWING = [name for name in FAMILY_NAMES if name != "bert-untied"]


@pytest.mark.parametrize("name", GROWING)
@torch.no_grad()
def test_a_vocabulary_that_grew_is_saved_and_comes_back(name: str, tmp_path: Path) -> None:
    """As whoever fine-tunes does after adding tokens."""
    model = trelm_of(name)
    before = model(**inputs()).logits
    model.resize_token_embeddings(VOCABULARY + 3)
    assert torch.allclose(model(**inputs()).logits[..., :VOCABULARY], before, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert again.config.vocab_size == again.config.source.vocab_size == VOCABULARY + 3
    assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if name != "deberta-v3"])
@torch.no_grad()
def test_new_embeddings_can_be_set(name: str) -> None:
    model = trelm_of(name)
    width, old = model.get_input_embeddings().embedding_dim, model.get_output_embeddings()
    table = torch.nn.Embedding(7, width)
    decoder = torch.nn.Linear(width, 7, bias=old.bias is not None)
    model.set_input_embeddings(table)
    model.set_output_embeddings(decoder)
    assert model.trelm.backbone.get_input_embeddings() is model.get_input_embeddings() is table
    assert model.get_output_embeddings() is decoder
    assert model(random_ids(1, 4, below=7)).logits.shape == (1, 4, 7)


def test_a_head_without_an_output_layer_takes_none() -> None:
    model = trelm_of("deberta-v3")
    assert model.get_output_embeddings() is None
    with pytest.raises(
        ValueError, match=r"^this head multiplies with the word embeddings: it has no output embeddings"
    ):
        model.set_output_embeddings(torch.nn.Linear(16, 7))


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if name != "mpnet"])
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    plain, saving = trelm_of(name).train(), trelm_of(name).train()
    saving.gradient_checkpointing_enable()
    runs = []
    for model in (plain, saving):
        layer, calls = model.trelm.tri_layer.layer, []
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model(**inputs(), labels=torch.tensor([[5, 6, 7, -100, 9], [8, 9, 7, -100, -100]])).loss.backward()
        runs.append(len(calls))
    for (key, left), right in zip(plain.named_parameters(), saving.parameters()):
        assert (left.grad is None) == (right.grad is None), key
        if left.grad is not None:
            assert torch.allclose(left.grad, right.grad, atol=1e-6), key


def test_gradient_checkpointing_that_the_family_lacks_is_hugging_faces_error() -> None:
    with pytest.raises(ValueError, match="is not compatible with gradient checkpointing"):
        trelm_of("mpnet").gradient_checkpointing_enable()
