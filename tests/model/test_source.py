"""Loading a source encoder and building on it: what is copied, what is fresh, and what is refused in one line."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import bert_config, roughen, save_rough_bert
from transformers import BertForMaskedLM, BertModel, BertTokenizer, GPT2Config
from transformers.utils import logging as transformers_logging

from trelm.errors import ConfigError
from trelm.model.source import (
    MINILM_ON_HUB,
    MINILM_PACKAGE,
    SourceEncoder,
    load_source,
    public_name,
    scratch_model,
    source_path,
    transferred_model,
    trelm_config,
)


@pytest.fixture(scope="module")
def rough_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rough_bert(tmp_path_factory.mktemp("rough"), tiny_bert)


@pytest.fixture(scope="module")
def source(rough_bert: Path) -> SourceEncoder:
    return load_source(str(rough_bert))


@pytest.fixture(scope="module")
def headless(rough_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the backbone and its pooler only."""
    folder = tmp_path_factory.mktemp("headless")
    backbone = BertModel.from_pretrained(rough_bert)
    roughen(backbone)
    backbone.save_pretrained(folder)
    BertTokenizer.from_pretrained(rough_bert).save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(rough_bert: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(rough_bert, tmp_path / "damaged"))


def transferred(source: SourceEncoder, rows: int = 30, seed: int = 1) -> tuple[Any, torch.Tensor]:
    table = torch.randn(rows, source.config.hidden_size, generator=torch.Generator().manual_seed(2))
    config = trelm_config(source.config, vocabulary_size=rows, special_ids={"pad": 0}, languages=("en", "id"))
    return transferred_model(config, source, table, seed), table


def same_tensors(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def same_weights(one: Any, two: Any) -> bool:
    return same_tensors(one.state_dict(), two.state_dict())


def test_a_source_with_a_head(source: SourceEncoder, rough_bert: Path) -> None:
    assert source.has_head
    assert (source.name, source.path) == (str(rough_bert), str(rough_bert))
    whole = BertForMaskedLM.from_pretrained(rough_bert)
    assert same_tensors(source.head, {f"cls.{name}": value for name, value in whole.cls.state_dict().items()})
    assert source.output_table is None  # tied
    assert torch.equal(source.table, whole.bert.embeddings.word_embeddings.weight)
    assert not source.table.requires_grad
    assert len(source.tokenizer) == 200
    assert source.backbone.pooler is not None


def test_the_real_minilm_has_a_pooler_and_no_head(minilm_folder: Path) -> None:
    source = load_source("minilm")
    assert (source.name, source.path) == ("minilm", str(minilm_folder))
    assert not source.has_head
    assert source.table.shape == (30522, 384)
    assert source.config.num_hidden_layers == 6
    assert same_weights(source.backbone, BertModel.from_pretrained(minilm_folder))


def test_minilm_is_taken_from_the_hub_where_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", {MINILM_PACKAGE: None}.__getitem__)
    assert source_path("minilm") == MINILM_ON_HUB
    assert source_path("some/encoder") == "some/encoder"


def test_weights_in_half_precision_are_read_in_full(rough_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(rough_bert, tmp_path, dirs_exist_ok=True)
    BertForMaskedLM.from_pretrained(rough_bert, dtype=torch.bfloat16).save_pretrained(tmp_path)
    found = load_source(str(tmp_path))
    assert {parameter.dtype for parameter in found.backbone.parameters()} == {torch.float32}
    assert found.table.dtype is torch.float32


def test_the_seed_fixes_what_the_checkpoint_lacks(headless: Path) -> None:
    source = load_source(str(headless))
    assert not source.has_head
    assert not any("transform" in name for name in source.head)
    one, again, other = (transferred(source, seed=seed)[0].head for seed in (1, 1, 2))
    assert same_weights(one, again)
    assert not same_weights(one, other)


def test_the_seed_fixes_a_fresh_pooler(rough_bert: Path) -> None:
    one, again, other = (load_source(str(rough_bert), seed=seed).backbone.pooler for seed in (1, 1, 2))
    assert same_weights(one, again)
    assert not same_weights(one, other)


def test_the_global_random_state_is_left_alone(source: SourceEncoder, rough_bert: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    load_source(str(rough_bert))
    transferred(source)
    assert torch.equal(torch.rand(1), expected)


def test_the_verbosity_of_transformers_is_left_alone(rough_bert: Path, damaged: Path) -> None:
    before = transformers_logging.get_verbosity()
    try:
        for wanted in (logging.CRITICAL, logging.WARNING):
            transformers_logging.set_verbosity(wanted)
            load_source(str(rough_bert))
            assert transformers_logging.get_verbosity() == wanted
            (damaged / "model.safetensors").write_bytes(b"")
            refusal(damaged)
            assert transformers_logging.get_verbosity() == wanted
    finally:
        transformers_logging.set_verbosity(before)


def test_a_transferred_model_is_the_source_around_the_new_table(source: SourceEncoder) -> None:
    model, table = transferred(source)
    assert torch.equal(model.get_input_embeddings().weight, table)
    theirs = source.backbone.state_dict()
    for name, value in model.trelm.backbone.state_dict().items():
        if name != "embeddings.word_embeddings.weight":
            assert torch.equal(value, theirs[name]), name
    predictions = model.head.cls.predictions
    for name, value in predictions.transform.state_dict().items():
        assert torch.equal(value, source.head[f"cls.predictions.transform.{name}"])
    assert torch.equal(predictions.bias, torch.zeros(30))
    decoder = predictions.decoder
    assert decoder.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert decoder.bias.data_ptr() == predictions.bias.data_ptr()


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_the_tri_layer_starts_as_a_copy_of_layer_m(rough_bert: Path, tmp_path: Path, layers: int) -> None:
    """Layer m = N // 2, counted from 1: the one right below."""
    BertTokenizer.from_pretrained(rough_bert).save_pretrained(tmp_path)
    encoder = BertForMaskedLM(bert_config(layers, vocab_size=200))
    roughen(encoder)
    encoder.save_pretrained(tmp_path)
    model, _ = transferred(load_source(str(tmp_path)))
    body = model.trelm.backbone.encoder.layer
    alike = [same_weights(model.trelm.tri_layer.layer, layer) for layer in body]
    assert alike == [number == layers // 2 for number in range(1, layers + 1)]
    with torch.no_grad():
        model.trelm.tri_layer.layer.output.dense.weight.add_(1)
    assert not any(same_weights(model.trelm.tri_layer.layer, layer) for layer in body)  # a copy, not the layer itself


def test_changing_a_transferred_model_leaves_the_source_alone(source: SourceEncoder) -> None:
    before = {name: value.clone() for name, value in source.backbone.state_dict().items()}
    roughen(transferred(source)[0])
    assert all(torch.equal(value, before[name]) for name, value in source.backbone.state_dict().items())


def test_without_a_head_the_seed_fixes_the_fresh_one(headless: Path) -> None:
    source = load_source(str(headless))
    one, again, other = (transferred(source, seed=seed)[0] for seed in (1, 1, 2))
    assert same_weights(one, again)
    assert not same_weights(one.head.cls.predictions.transform, other.head.cls.predictions.transform)
    assert same_weights(one.trelm, other.trelm)


def test_a_model_from_scratch_is_fixed_by_its_seed_and_owns_its_configuration(source: SourceEncoder) -> None:
    config = trelm_config(source.config, vocabulary_size=30, special_ids={"pad": 0}, languages=("en", "id"))
    one, again, other = (scratch_model(config, seed) for seed in (1, 1, 2))
    assert same_weights(one, again)
    assert not same_weights(one, other)
    assert one.config is not config
    assert one.config.source is not config.source


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    words = f"source.model: {re.escape(str(tmp_path))}: expected a model folder with a config.json, found none; give a"
    with pytest.raises(ConfigError, match=words):
        load_source(str(tmp_path))


@pytest.mark.parametrize("name", ["nobody/no-such-encoder", "/no/such/folder", "no such name"])
def test_an_unknown_name_is_refused(name: str) -> None:
    words = (
        rf"^source.model: {name}: expected a model folder or a reachable Hub id, found none that loads \(.*\); check"
    )
    with pytest.raises(ConfigError, match=words) as caught:
        load_source(name)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9, bos_token_id=0, eos_token_id=0).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="found one that cannot be moved: 'gpt2' is a decoder here"):
        load_source(str(tmp_path))


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    bert_config(is_decoder=True).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="found one that cannot be moved: 'bert' is a decoder here"):
        load_source(str(tmp_path))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_source(str(folder))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"source.model: {folder}: expected ")
    return str(caught.value)


def test_a_damaged_configuration_is_refused(damaged: Path) -> None:
    change_config(damaged, hidden_size="wide")
    assert "found none that loads (Validation error for field 'hidden_size'" in refusal(damaged)
    (damaged / "config.json").write_text("{")
    assert "expected a JSON object in config.json, found Expecting" in refusal(damaged)


def test_a_download_that_was_cut_off_is_refused(damaged: Path) -> None:
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "expected weights as safetensors, found a damaged model.safetensors (" in refusal(damaged)
    weights.unlink()
    words = "expected weights as model.safetensors, found none (Error no file named model.safetensors"
    assert words in refusal(damaged)


def test_weights_of_another_shape_are_refused(damaged: Path) -> None:
    change_config(damaged, intermediate_size=80)
    assert "found none that loads (" in refusal(damaged)


def test_missing_weights_are_refused(damaged: Path) -> None:
    """Transformers would fill them in with random numbers."""
    change_config(damaged, num_hidden_layers=5)
    words = "expected every weight that its config.json asks for, found 16 missing (the first: encoder.layer.4."
    assert words in refusal(damaged)
    assert "download the model again or correct its config.json" in refusal(damaged)


def test_a_missing_tokenizer_is_refused(damaged: Path) -> None:
    """Transformers would make an empty one, for which every word is unknown."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (damaged / name).unlink()
    words = "expected the tokenizer of its table of 200 embeddings, found one of 5 entries; put the tokenizer's own"
    assert words in refusal(damaged)


def test_the_tokenizer_of_another_model_is_refused(damaged: Path) -> None:
    words = {entry: row for row, entry in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    words |= {f"w{number}": number for number in range(5, 201)}
    BertTokenizer(vocab=words).save_pretrained(damaged)
    assert "table of 200 embeddings, found one of 201 entries" in refusal(damaged)


def test_pickled_weights_are_never_opened(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").unlink()
    torch.save(weights, damaged / "pytorch_model.bin")
    said = refusal(damaged)
    assert "expected weights as model.safetensors, found none (" in said
    assert said.endswith(
        "a pickle is never opened: give another checkpoint, or a source.revision that has them "
        "(refs/pr/N of the Hub's conversion)"
    )


def test_public_names(tmp_path: Path) -> None:
    assert public_name("minilm") == "sentence-transformers/all-MiniLM-L6-v2"
    assert public_name("google-bert/bert-base-cased") == "google-bert/bert-base-cased"
    (tmp_path / "mine").mkdir()
    assert public_name(str(tmp_path / "mine")) == "mine"
