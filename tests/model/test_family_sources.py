"""A pretrained encoder of every family is loaded, and a TreLM model is made from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import FAMILY_NAMES, SETTINGS, pretrained_of, save_source, tiny_config
from tiny_models import random_ids
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, DebertaV2Config, PreTrainedTokenizerBase

from trelm.model.families import FAMILIES
from trelm.model.source import SourceEncoder, load_source, special_ids, transferred_model, trelm_config

UNTIED = {"bert-untied", "eurobert", "eurobert-biases"}
"""Where the output layer has a table of its own."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Only to be read."""
    return {name: save_source(name, tmp_path_factory.mktemp(name)) for name in FAMILY_NAMES}


@pytest.fixture(scope="module")
def sources(folders: dict[str, Path]) -> dict[str, SourceEncoder]:
    """Only to be read."""
    return {name: load_source(str(folder)) for name, folder in folders.items()}


def transferred(source: SourceEncoder, rows: int = 61, seed: int = 1) -> tuple[Any, Tensor, Tensor | None]:
    """A model, the word table and the output table that it was given."""
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(rows, source.table.shape[1], generator=generator)
    output = None if source.output_table is None else torch.randn(table.shape, generator=generator)
    special = {
        "pad": source.config.pad_token_id if source.config.pad_token_id < rows else 0,
        "cls": 2,
        "sep": 3,
        "mask": 4,
    }
    config = trelm_config(source.config, vocabulary_size=rows, special_ids=special, languages=("en", "id"))
    return transferred_model(config, source, table, seed, output=output), table, output


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_source_is_what_was_saved(name: str, sources: dict[str, SourceEncoder], folders: dict[str, Path]) -> None:
    source = sources[name]
    saved = pretrained_of(name, source.config)
    weights, base = saved.state_dict(), saved.base_model_prefix
    for key, value in source.backbone.state_dict().items():
        if not key.startswith("pooler."):
            assert torch.equal(value, weights[f"{base}.{key}"]), key
    assert torch.equal(source.table, saved.get_input_embeddings().weight)
    assert not source.table.requires_grad
    assert isinstance(source.tokenizer, PreTrainedTokenizerBase)
    assert len(source.tokenizer) == len(source.table) == len(AutoTokenizer.from_pretrained(folders[name]))
    assert special_ids(source.tokenizer)["pad"] == source.config.pad_token_id


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_whether_there_is_a_head(name: str, sources: dict[str, SourceEncoder]) -> None:
    source = sources[name]
    assert source.has_head == (name != "electra-discriminator")
    whole = FAMILIES[SETTINGS[name][0]].masked_lm(source.config)
    base = f"{whole.base_model_prefix}."
    expected = {key for key in whole.state_dict() if not key.startswith(base)}
    if not source.has_head:
        assert source.head.keys() == {"generator_lm_head.weight"}  # tied: it is the word table
    else:
        assert source.head.keys() == expected
        weights = pretrained_of(name, source.config).state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in source.head.items())


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_output_table(name: str, sources: dict[str, SourceEncoder]) -> None:
    found = sources[name].output_table
    assert (found is not None) == (name in UNTIED)
    if found is not None:
        place = "lm_head.weight" if name.startswith("eurobert") else "cls.predictions.decoder.weight"
        assert torch.equal(found, pretrained_of(name, sources[name].config).state_dict()[place])
        assert not torch.equal(found, sources[name].table)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_transferred_model_is_the_source_around_the_new_tables(name: str, sources: dict[str, SourceEncoder]) -> None:
    source = sources[name]
    model, table, output = transferred(source)
    assert torch.equal(model.get_input_embeddings().weight, table)
    decoder = model.get_output_embeddings()
    if decoder is not None:
        assert torch.equal(decoder.weight, table if output is None else output)
        assert (decoder.weight is model.get_input_embeddings().weight) == (output is None)
    words = source.backbone.get_input_embeddings().weight
    for key, value in source.backbone.state_dict(keep_vars=True).items():
        if value is not words:
            assert torch.equal(model.trelm.backbone.state_dict()[key], value), key


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_transform_of_the_head_is_the_sources(name: str, sources: dict[str, SourceEncoder]) -> None:
    """Where the checkpoint has one; biases of the old vocabulary are not taken over."""
    source = sources[name]
    model, table, output = transferred(source)
    other, _, _ = transferred(source, seed=2)
    tables = (table, table if output is None else output)
    compared = 0
    for key, value in model.head.state_dict().items():
        if len(value) != len(table):
            assert not source.has_head or torch.equal(value, source.head[key]), key
            fresh = value.dim() == 2 and not source.has_head
            assert torch.equal(value, other.head.state_dict()[key]) != fresh, key
            compared += 1
        elif value.dim() == 1:
            assert torch.equal(value, torch.zeros(len(table))), key
        else:
            assert any(torch.equal(value, one) for one in tables)
    assert (compared == 0) == name.startswith("eurobert")


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_tri_layer_is_a_copy_of_layer_m(name: str, sources: dict[str, SourceEncoder]) -> None:
    assert_tri_layer_is_a_copy(sources[name])


@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("name", ["distilbert", "deberta-v2-convolution", "modernbert", "modernbert-biases"])
def test_the_tri_layer_of_other_depths_is_a_copy_of_layer_m(name: str, layers: int, tmp_path: Path) -> None:
    assert_tri_layer_is_a_copy(load_source(str(save_source(name, tmp_path, layers=layers))))


def assert_tri_layer_is_a_copy(source: SourceEncoder) -> None:
    """Except what layer m lacks: ModernBERT's first one has no normalisation of its input."""
    layers, family = source.config.num_hidden_layers, FAMILIES[source.config.model_type]
    model, _, _ = transferred(source)
    below = family.layers(source.backbone)[layers // 2 - 1].state_dict()
    for key, value in model.trelm.tri_layer.layer.state_dict().items():
        if key in below:
            assert torch.equal(value, below[key]), key
        else:
            assert (key, layers // 2) in {("attn_norm.weight", 1), ("attn_norm.bias", 1)}
            assert torch.equal(value, torch.full_like(value, float(key.endswith("weight"))))
    assert below.keys() <= model.trelm.tri_layer.layer.state_dict().keys()
    with torch.no_grad():
        next(model.trelm.tri_layer.parameters()).add_(1)
    ours = family.layers(model.trelm.backbone)[layers // 2 - 1].state_dict()
    assert all(torch.equal(value, below[key]) for key, value in ours.items())  # a copy, not the layer itself


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_checkpoint_without_a_head(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The bare encoder; a tied EuroBERT's head is its word table, so that nothing is missing."""
    AutoModel.from_pretrained(folders[name]).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folders[name]).save_pretrained(tmp_path)
    source = load_source(str(tmp_path))
    assert source.has_head == (name == "eurobert-tied")
    assert source.output_table is None
    model, table, _ = transferred(source)
    assert torch.equal(model.get_input_embeddings().weight, table)
    assert model(random_ids(1, 5, below=61)).logits.shape == (1, 5, 61)


def test_the_head_of_a_deberta_that_is_not_named_in_its_configuration(tmp_path: Path) -> None:
    """Checkpoints of DeBERTa v3 on the Hub have `lm_predictions`, and no word of it in their config.json."""
    folder = save_source("deberta-v3", tmp_path)
    text = (folder / "config.json").read_text()
    assert '"legacy": false' in text
    (folder / "config.json").write_text(re.sub(r'\n *"legacy": false,', "", text))
    source = load_source(str(folder))
    assert isinstance(source.config, DebertaV2Config)
    assert not source.config.legacy
    assert source.has_head
    assert {key.split(".")[0] for key in source.head} == {"lm_predictions"}


def test_an_untied_decoder_that_the_checkpoint_lacks_is_no_output_table(tmp_path: Path) -> None:
    folder = save_source("bert-untied", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["cls.predictions.decoder.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    source = load_source(str(folder))
    assert source.has_head
    assert source.output_table is None


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_missing_weights_are_refused(name: str, tmp_path: Path) -> None:
    """Transformers would fill them in with random numbers."""
    folder = save_source(name, tmp_path, layers=2)
    config = tiny_config(name, 3, vocabulary_size=load_source(str(folder)).config.vocab_size)
    config.save_pretrained(folder)
    with pytest.raises(Exception, match=r"expected every weight that its config.json asks for, found \d+ missing"):
        load_source(str(folder))
