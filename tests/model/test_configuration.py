"""The configuration: what it takes from the source, and that it comes back from its file as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import bert_config
from transformers import AutoConfig, BertConfig

from trelm.model.configuration import TrelmConfig
from trelm.model.source import trelm_config


@pytest.fixture
def config() -> TrelmConfig:
    source = bert_config(layers=5)
    return trelm_config(source, vocabulary_size=70, special_ids={"pad": 7}, languages=("en", "id"))


def test_what_tools_look_for_is_the_sources(config: TrelmConfig) -> None:
    assert (config.vocab_size, config.hidden_size, config.num_attention_heads) == (70, 16, 2)
    assert (config.max_position_embeddings, config.pad_token_id, config.tie_word_embeddings) == (20, 7, True)
    assert config.initializer_range == bert_config().initializer_range
    assert config.num_hidden_layers == 5 + 1  # the TRILayer is one more
    assert config.languages == ["en", "id"]
    assert config.default_language == 1
    assert config.sparse_prediction is False


@pytest.mark.parametrize(("layers", "position"), [(2, 1), (3, 1), (4, 2), (5, 2), (12, 6)])
def test_the_tri_layer_stands_after_half_of_the_layers(layers: int, position: int) -> None:
    made = trelm_config(bert_config(layers), vocabulary_size=9, special_ids={"pad": 0}, languages=("en", "id"))
    assert made.tri_position == position


def test_the_source_configuration_is_copied_and_adapted() -> None:
    source = bert_config(
        bos_token_id=3, eos_token_id=4, architectures=["BertForMaskedLM"], name_or_path="/home/ada/model"
    )
    before = source.to_dict()
    made = trelm_config(source, vocabulary_size=9, special_ids={"pad": 8}, languages=("en", "id")).source
    assert source.to_dict() == before
    assert isinstance(made, BertConfig)
    assert (made.vocab_size, made.pad_token_id, made.bos_token_id, made.eos_token_id) == (9, 8, None, None)
    assert made.architectures is None
    assert made.name_or_path == ""
    assert (made.num_hidden_layers, made.intermediate_size) == (4, 24)


@pytest.mark.parametrize(("hidden", "attention"), [(None, None), (0.1, None), (None, 0.2), (0.3, 0.0)])
def test_dropout_is_the_sources_unless_it_is_given(hidden: float | None, attention: float | None) -> None:
    source = bert_config(hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.5)
    made = trelm_config(
        source,
        vocabulary_size=9,
        special_ids={"pad": 0},
        languages=("en", "id"),
        hidden_dropout=hidden,
        attention_dropout=attention,
    ).source
    assert isinstance(made, BertConfig)
    assert made.hidden_dropout_prob == (0.4 if hidden is None else hidden)
    assert made.attention_probs_dropout_prob == (0.5 if attention is None else attention)


def test_it_comes_back_from_its_file(config: TrelmConfig, tmp_path: Path) -> None:
    config.sparse_prediction, config.default_language = True, 0
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, TrelmConfig)
    assert isinstance(again.source, BertConfig)
    again._name_or_path = ""  # where it was read from; not in the file
    assert again.to_dict() == config.to_dict()
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_the_file_has_the_type_and_no_path(tmp_path: Path) -> None:
    bert_config().save_pretrained(tmp_path / "source")
    source = AutoConfig.from_pretrained(tmp_path / "source")
    trelm_config(source, vocabulary_size=9, special_ids={"pad": 0}, languages=("en", "id")).save_pretrained(
        tmp_path / "ours"
    )
    text = (tmp_path / "ours" / "config.json").read_text()
    assert json.loads(text)["model_type"] == "trelm"
    assert json.loads(text)["source"]["model_type"] == "bert"
    assert "/" not in text


def test_it_can_be_made_empty() -> None:
    """Hugging Face makes one with the defaults to find out what differs from them."""
    assert isinstance(TrelmConfig().source, BertConfig)
