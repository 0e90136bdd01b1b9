"""A masked-LM head for every family: against Hugging Face's own logits, and what trains when the body is frozen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_families import FAMILY_NAMES, pretrained_of, save_source, trelm_of
from tiny_models import mask_of, random_ids
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from trelm.model.families import family_of
from trelm.model.halves import freeze_all_but_head
from trelm.model.head import (
    SparseMaskedLM,
    freeze_body,
    head_weights,
    set_target_bias,
    set_unigram_bias,
    source_masked_lm,
    with_head,
)
from trelm.model.source import SourceEncoder, load_source, special_ids, transferred_model, trelm_config

BARE = tuple(name for name in FAMILY_NAMES if name != "eurobert-tied")
"""A tied EuroBERT's head is its word table: no checkpoint lacks it."""
WITHOUT_BIAS = {"eurobert"}
UNTIED = {"bert-untied", "eurobert", "eurobert-biases"}
IDS, MASK = random_ids(3, 9, below=100), mask_of([9, 6, 4], 9)
CHOSEN = (MASK == 1) & (torch.arange(9) % 2 == 1)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceEncoder]:
    """Sources without a head; only to be read."""
    found = {}
    for name in BARE:
        folder, encoder = save_source(name, tmp_path_factory.mktemp(name)), tmp_path_factory.mktemp(name)
        AutoModel.from_pretrained(folder).save_pretrained(encoder)
        AutoTokenizer.from_pretrained(folder).save_pretrained(encoder)
        found[name] = load_source(str(encoder))
    return found


def body_of(model: Any) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.base_model.state_dict().items()}


def labels() -> Tensor:
    return torch.where(CHOSEN, IDS, -100)


def one_update(model: SparseMaskedLM) -> float:
    """One step of plain gradient descent; the loss before it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss: Any = model(input_ids=IDS, attention_mask=MASK, labels=labels(), language=torch.zeros(3)).loss
    loss.backward()
    with torch.no_grad():
        for parameter in trained:
            parameter -= 0.1 * (0 if parameter.grad is None else parameter.grad)
    return float(loss.detach())


@pytest.mark.parametrize("name", BARE)
def test_a_fresh_head_stands_on_the_sources_own_body(name: str, bare: dict[str, SourceEncoder]) -> None:
    source = bare[name]
    assert not source.has_head
    model: Any = source_masked_lm(source)
    expected = source.backbone.state_dict()
    for key, value in body_of(model).items():
        assert torch.equal(value, expected[key]), key
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (name not in UNTIED | {"deberta-v3"})  # DeBERTa v3 multiplies with the table itself
    assert all(
        ours.data_ptr() != theirs.data_ptr()
        for ours, theirs in zip(model.base_model.parameters(), source.backbone.parameters())
    )


def test_a_source_that_has_a_head_keeps_it(tmp_path: Path) -> None:
    for name in ("bert", "deberta-v3", "distilbert", "eurobert-tied"):
        source = load_source(str(save_source(name, tmp_path / name)))
        expected = pretrained_of(name, source.config)
        expected.eval()
        model = source_masked_lm(source, seed=9)
        with torch.inference_mode():
            ours, theirs = (one(input_ids=IDS, attention_mask=MASK).logits for one in (model, expected))
        assert torch.equal(ours, theirs), name


def test_the_seed_decides_the_head_and_nothing_else_is_drawn(bare: dict[str, SourceEncoder]) -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    family = family_of(bare["bert"].config)
    one, same, other = (head_weights(source_masked_lm(bare["bert"], seed=seed), family) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    dense = "cls.predictions.transform.dense.weight"
    assert torch.equal(one[dense], same[dense])
    assert not torch.equal(one[dense], other[dense])


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_logits_at_some_positions_are_hugging_faces(name: str, tmp_path: Path) -> None:
    source = load_source(str(save_source(name, tmp_path)))
    model = source_masked_lm(source)
    whole, sparse = model.eval(), SparseMaskedLM(model).eval()
    with torch.inference_mode():
        expected = whole(input_ids=IDS, attention_mask=MASK).logits[CHOSEN]
        found = sparse.masked_logits(IDS, MASK, CHOSEN)
        output = sparse(input_ids=IDS, attention_mask=MASK, labels=labels())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-5)
    by_hand = -expected.log_softmax(-1).gather(1, IDS[CHOSEN].unsqueeze(1)).mean()
    torch.testing.assert_close(output.loss, by_hand)


@pytest.mark.parametrize("name", BARE)
def test_only_the_head_trains_and_a_tied_table_stays(name: str, bare: dict[str, SourceEncoder]) -> None:
    model: Any = source_masked_lm(bare[name])
    family, before = family_of(model.config), body_of(model)
    trained = freeze_body(model, family)
    heads, parameters = tuple(family.head_names(model.config)), dict(model.named_parameters())
    assert trained == [key for key, parameter in parameters.items() if parameter.requires_grad]
    assert all(key.startswith(heads) for key in trained)
    table = model.get_input_embeddings().weight
    assert not table.requires_grad
    assert all(parameters[key] is not table for key in trained)
    head = {key: parameters[key].detach().clone() for key in trained}
    sparse = SparseMaskedLM(model)
    sparse.train(True)
    first, second = one_update(sparse), one_update(sparse)
    assert second < first
    assert all(torch.equal(value, body_of(model)[key]) for key, value in before.items())
    same = {key for key, value in head.items() if torch.equal(value, parameters[key])}
    # an untied BERT has a second bias that it does not use
    assert same == ({"cls.predictions.bias"} if name == "bert-untied" else set())


def test_a_frozen_body_has_no_dropout(tmp_path: Path) -> None:
    folder = save_source("bert", tmp_path, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    source = load_source(str(folder))
    sparse = SparseMaskedLM(source_masked_lm(source))
    assert sparse.train(True).masked_logits(IDS, MASK, CHOSEN).equal(sparse.masked_logits(IDS, MASK, CHOSEN))
    assert source.config.hidden_dropout_prob == 0.5  # the source's own stay what they are


@pytest.mark.parametrize("name", BARE)
def test_a_fitted_head_goes_into_the_source(name: str, bare: dict[str, SourceEncoder], tmp_path: Path) -> None:
    """The same as if its checkpoint had had one."""
    model = source_masked_lm(bare[name])
    family = family_of(model.config)
    freeze_body(model, family)
    one_update(SparseMaskedLM(model))
    weights = head_weights(model, family)
    source = with_head(bare[name], weights)
    assert source.has_head
    assert not bare[name].has_head
    model.save_pretrained(tmp_path)
    source.tokenizer.save_pretrained(tmp_path)
    saved = load_source(str(tmp_path))
    assert saved.has_head
    assert source.head.keys() == saved.head.keys()
    assert all(torch.equal(source.head[key], value) for key, value in saved.head.items())
    assert (source.output_table is None) == (saved.output_table is None) == (name not in UNTIED)
    assert all(weight.data_ptr() not in {p.data_ptr() for p in model.parameters()} for weight in weights.values())
    table = source.table.data_ptr()
    assert all(weight.shape != source.table.shape or name in UNTIED for weight in weights.values()) or not table


def test_a_transferred_model_starts_from_the_fitted_head(bare: dict[str, SourceEncoder]) -> None:
    plain = bare["bert"]
    weights = head_weights(source_masked_lm(plain, seed=7), family_of(plain.config))
    source = with_head(plain, weights)
    config = trelm_config(
        plain.config, vocabulary_size=61, special_ids={**special_ids(plain.tokenizer)}, languages=("en", "id")
    )
    model = transferred_model(config, source, torch.randn(61, plain.table.shape[1]), seed=1)
    found = model.head.state_dict()
    for key in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias"):
        name = f"cls.predictions.transform.{key}"
        assert torch.equal(found[name], weights[name])


@pytest.mark.parametrize("name", BARE)
def test_the_bias_begins_with_the_frequencies(name: str, bare: dict[str, SourceEncoder]) -> None:
    model = source_masked_lm(bare[name])
    family, size = family_of(model.config), model.config.vocab_size
    counts = np.arange(size - 2) ** 2  # the table has two rows more than there are counts
    assert set_unigram_bias(model, family, counts) == (name not in WITHOUT_BIAS)
    biases = [weight for weight in head_weights(model, family).values() if weight.shape == (size,)]
    assert bool(biases) == (name not in WITHOUT_BIAS)
    for bias in biases:
        expected = torch.from_numpy((counts + 1) / (counts + 1).sum()).float()
        torch.testing.assert_close(bias[:-2].softmax(0), expected)
        assert abs(float(bias.mean())) < 1e-4
        assert bias[-2:].tolist() == [0, 0]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_bias_of_a_transferred_model_begins_with_the_frequencies_too(name: str) -> None:
    model = trelm_of(name)
    size = model.config.vocab_size
    counts = np.arange(size) ** 2
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert set_target_bias(model, counts) == (name not in {"eurobert", "eurobert-tied"})
    expected = torch.from_numpy((counts + 1) / (counts + 1).sum()).float()
    for key, value in model.state_dict().items():
        if key.startswith("head.") and value.shape == (size,):
            torch.testing.assert_close(value.softmax(0), expected)
        else:
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_only_the_head_of_a_transferred_model_trains_and_both_tables_stay(name: str) -> None:
    model = trelm_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = freeze_all_but_head(model)
    assert trained == [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(key.startswith("head.") for key in trained)
    assert bool(trained) == (name not in {"eurobert", "eurobert-tied"})
    if trained:
        model(input_ids=random_ids(3, 9), attention_mask=MASK, labels=random_ids(3, 9, seed=6)).loss.backward()
    with torch.no_grad():
        for parameter in (parameter for parameter in model.parameters() if parameter.grad is not None):
            parameter -= 0.1 * parameter.grad
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert all(key.startswith("head.") for key in moved)
    assert bool(moved) == bool(trained)
    size = model.config.vocab_size
    assert not [key for key in moved if before[key].ndim == 2 and len(before[key]) == size]


def test_a_checkpoint_of_the_fitting_holds_what_trains(bare: dict[str, SourceEncoder], tmp_path: Path) -> None:
    for name in ("bert", "electra-discriminator", "deberta-v3", "eurobert"):
        model = source_masked_lm(bare[name])
        trained = freeze_body(model, family_of(model.config))
        sparse = SparseMaskedLM(model)
        before = {key: value.clone() for key, value in sparse.state_dict().items()}
        sparse.save_pretrained(tmp_path / name)
        saved = load_file(tmp_path / name / "model.safetensors")
        assert {key.removeprefix("inner.") for key in saved} == set(trained)
        assert all(torch.equal(before[key], value) for key, value in saved.items())


def test_a_source_that_is_not_whole_is_refused(bare: dict[str, SourceEncoder]) -> None:
    broken = replace(bare["bert"], backbone=bare["bert"].backbone.encoder)
    with pytest.raises(RuntimeError, match=r"^expected the weights of a BertModel, found \["):
        source_masked_lm(broken)
