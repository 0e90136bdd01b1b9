"""The families' records: their parts against Hugging Face's, what says how long a sentence may be, dropout."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny_families import FAMILY_NAMES, POSITIONS, ROLES, SETTINGS, VOCABULARY, roles_of, tiny_config, trelm_of
from tiny_models import random_ids
from transformers import GPT2Config

from trelm.errors import ConfigError
from trelm.model.families import FAMILIES, family_of, padding_of_positions, usable_positions
from trelm.model.source import dropout_of, scratch_model, set_dropout, trelm_config

COUNT_FROM_PADDING = ["roberta", "xlm-roberta", "camembert", "mpnet"]
ABSOLUTE = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"}


def kind(name: str) -> str:
    return SETTINGS[name][0]


def test_every_family_is_tested() -> None:
    assert {kind(name) for name in FAMILY_NAMES} == FAMILIES.keys()
    assert {family.model_type for family in FAMILIES.values()} == FAMILIES.keys()


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_an_encoder_is_found_by_its_model_type(name: str) -> None:
    family = family_of(tiny_config(name))
    assert family is FAMILIES[kind(name)]
    assert family.backbone.config_class is family.masked_lm.config_class is type(tiny_config(name))


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("layers", [2, 3, 4, 5])
def test_one_more_layer_has_the_weights_of_that_layer_in_a_longer_encoder(name: str, layers: int) -> None:
    config = tiny_config(name, layers)
    family, position = family_of(config), layers // 2
    longer = family.longer_config(config, position)
    assert (longer.num_hidden_layers, config.num_hidden_layers) == (layers + 1, layers)
    there = family.layers(family.backbone(longer))[position].state_dict()
    made = family.new_tri_layer(config, position)
    assert {key: value.shape for key, value in made.state_dict().items()} == {
        key: value.shape for key, value in there.items()
    }
    for module in made.modules():
        assert getattr(module, "config", config) is config


def test_one_more_layer_of_modernbert_attends_as_the_one_below_it() -> None:
    kinds = {2: ["full", "full", "sliding"], 4: ["full", "sliding", "sliding", "sliding", "full"]}
    for layers, expected in kinds.items():
        config = tiny_config("modernbert", layers)
        family, position = FAMILIES["modernbert"], layers // 2
        longer = family.longer_config(config, position)
        assert longer.layer_types == [f"{word}_attention" for word in expected]
        below = family.layers(family.backbone(config))[position - 1]
        assert family.new_tri_layer(config, position).attention_type == below.attention_type


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_head_is_the_one_of_the_masked_language_model(name: str) -> None:
    """So that the transform of a checkpoint fits, name by name."""
    config = tiny_config(name)
    family = family_of(config)
    whole = family.masked_lm(config)
    base = f"{whole.base_model_prefix}."
    theirs = {key: value.shape for key, value in whole.state_dict().items() if not key.startswith(base)}
    ours = torch.nn.ModuleDict(family.new_head(config)).state_dict()
    assert {key: value.shape for key, value in ours.items()} == theirs
    assert family.head_names(config) == list(family.new_head(config))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_weights_are_tied_as_in_the_masked_language_model(name: str) -> None:
    """And the output layer is where Hugging Face says it is."""
    config = tiny_config(name)
    family, ours = family_of(config), trelm_of(name)
    theirs = family.masked_lm(config)
    aliases: dict[int, set[str]] = {}
    for key, value in ours.state_dict(keep_vars=True).items():
        if key.startswith(("trelm.backbone.", "head.")):
            aliases.setdefault(id(value), set()).add(family.plain_name(key))
    expected: dict[int, set[str]] = {}
    for key, value in theirs.state_dict(keep_vars=True).items():
        expected.setdefault(id(value), set()).add(key)
    tied = [names for names in expected.values() if len(names) > 1]
    assert sorted(map(sorted, tied)) == sorted(sorted(names) for names in aliases.values() if len(names) > 1)
    has_table = name != "deberta-v3"  # its head multiplies with the word embeddings
    assert (ours.get_output_embeddings() is not None) == has_table
    assert (family.decoder_at(config) is not None) == has_table
    if has_table:
        assert getattr(ours.get_output_embeddings(), "out_features", None) == VOCABULARY


EXPECTED_BIASES = {
    "distilbert": "embeddings.position_embeddings.weight",
    "mpnet": "embeddings.position_embeddings.weight",
    "deberta-v2": None,
    "deberta-v3": None,
    "deberta-v2-convolution": None,
    "deberta-v2-narrow": None,
    "modernbert": None,
    "modernbert-biases": None,
    "eurobert": "embed_tokens.weight",
    "eurobert-biases": "embed_tokens.weight",
    "eurobert-tied": None,
}


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_what_is_added_to_the_input_bias_is_added_to_every_word(name: str) -> None:
    trelm = trelm_of(name).trelm
    expected = EXPECTED_BIASES.get(name, "embeddings.token_type_embeddings.weight")
    if expected is None:
        assert trelm.input_bias is None
        return
    table = trelm.backbone.get_parameter(expected)
    assert trelm.input_bias.weight is table
    ids = random_ids(2, 6)
    ids[1, 4:] = trelm.config.pad_token_id  # padding gets it too
    mask = (ids != trelm.config.pad_token_id).long()
    shift = torch.linspace(-1, 1, table.shape[1])
    before = trelm._embed(ids, None, None, mask, 0)
    trelm.language_embeddings.weight[0] += shift
    shifted = trelm._embed(ids, None, None, mask, 0)
    trelm.language_embeddings.weight[0] -= shift
    table += shift
    assert not torch.allclose(shifted, before, atol=1e-2)
    assert torch.allclose(trelm._embed(ids, None, None, mask, 0), shifted, atol=1e-5)


WITHOUT_OUTPUT_BIAS = {"modernbert", "eurobert", "eurobert-tied"}


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("layers", [2, 5])
@torch.no_grad()
def test_what_is_added_to_the_output_bias_is_added_to_the_layers_states(name: str, layers: int) -> None:
    trelm = trelm_of(name, layers).trelm
    assert (trelm.tri_bias is None) == (name in WITHOUT_OUTPUT_BIAS)
    if trelm.tri_bias is None:
        return
    ids, shift, below = random_ids(2, 6), torch.linspace(-1, 1, 16), layers // 2
    before = trelm(ids, output_hidden_states=True).hidden_states
    bias = trelm.tri_bias
    bias += shift
    after = trelm(ids, output_hidden_states=True).hidden_states
    assert torch.allclose(after[below], before[below] + shift, atol=1e-5)
    for state, other in zip(after[:below], before[:below]):
        assert torch.equal(state, other)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_positions_that_the_tri_layer_is_given(name: str) -> None:
    """Rows of the family's table, from the row of a sentence's first token; none where order is inside attention."""
    backbone = trelm_of(name).trelm.backbone
    found = FAMILIES[kind(name)].positions(backbone, 7, None)
    if kind(name) not in ABSOLUTE:
        assert found is None
        return
    first = 2 if name in COUNT_FROM_PADDING else 0
    assert found is not None
    assert torch.equal(found.reshape(7, -1), backbone.embeddings.position_embeddings.weight[first : first + 7])


@pytest.mark.parametrize("name", [name for name in COUNT_FROM_PADDING if name != "mpnet"])
def test_positions_that_count_from_padding_leave_it_out_at_the_tri_layer_too(name: str) -> None:
    backbone, mask = trelm_of(name).trelm.backbone, torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = FAMILIES[kind(name)].positions(backbone, 5, mask)
    assert found is not None
    rows = torch.tensor([[1, 1, 2, 3, 4], [2, 3, 4, 1, 1]])
    assert torch.equal(found, backbone.embeddings.position_embeddings.weight[rows])


def test_a_deberta_without_relative_attention_is_given_its_table() -> None:
    """The order would otherwise be lost where the output is of another length."""
    backbone = trelm_of("deberta-v2-positions", relative_attention=False).trelm.backbone
    found = FAMILIES["deberta-v2"].positions(backbone, 7, None)
    assert found is not None
    assert torch.equal(found, backbone.embeddings.position_embeddings.weight[:7])


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_the_longest_sentence_fits_and_one_token_more_does_not(name: str) -> None:
    longest = POSITIONS - 2 if name in COUNT_FROM_PADDING else POSITIONS
    assert usable_positions(tiny_config(name)) == longest
    model = trelm_of(name)
    assert model.config.max_position_embeddings == longest
    ids = random_ids(1, longest + 1, below=VOCABULARY - 2) + 1
    assert model(ids[:, :-1]).logits.shape == (1, longest, VOCABULARY)
    has_table = kind(name) in ABSOLUTE | {"mpnet"} or name == "deberta-v2-positions"
    if has_table:
        with pytest.raises((IndexError, RuntimeError)):
            model(ids)
    else:
        model(ids)


def test_a_configuration_without_positions_says_nothing() -> None:
    config = GPT2Config(n_positions=30)
    assert usable_positions(config) == 30
    config = tiny_config("bert")
    config.max_position_embeddings = 0
    assert usable_positions(config) is None


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_padding_token_must_be_where_positions_are_counted_from(name: str) -> None:
    source = tiny_config(name)
    counted = name in COUNT_FROM_PADDING
    assert padding_of_positions(source) == (1 if counted else 0)
    for padding in (0, 4, None) if counted else (0, 4):
        special = ROLES | {"pad": padding}
        if counted:
            start = rf"^vocabulary: expected the padding token at id 1, from which {source.model_type} counts positions"
            words = rf"{start}, found it at {padding}; give the tokenizer of this encoder its padding token there$"
            with pytest.raises(ConfigError, match=words):
                trelm_config(source, vocabulary_size=9, special_ids=special, languages=("en", "id"))
        else:
            made = trelm_config(source, vocabulary_size=9, special_ids=special, languages=("en", "id"))
            assert made.pad_token_id == made.source.pad_token_id == padding


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_special_tokens_are_the_joint_vocabularys(name: str) -> None:
    source = tiny_config(name)
    pad = 1 if name in COUNT_FROM_PADDING else 8
    special = {"pad": pad, "cls": 3, "sep": 5, "mask": 6}
    made = trelm_config(source, vocabulary_size=9, special_ids=special, languages=("en", "id")).source
    for role in ("pad", "bos", "eos", "cls", "sep", "mask"):
        if hasattr(source, f"{role}_token_id"):
            assert getattr(made, f"{role}_token_id") == special.get(role)
    assert source.vocab_size == VOCABULARY


def dropout_names(name: str) -> list[str]:
    """As Hugging Face documents them, the one of attention last."""
    return {
        "distilbert": ["dropout", "attention_dropout"],
        "modernbert": ["embedding_dropout", "mlp_dropout", "attention_dropout"],
        "eurobert": ["attention_dropout"],
    }.get(kind(name), ["hidden_dropout_prob", "attention_probs_dropout_prob"])


def with_dropout(name: str, rate: float) -> Any:
    """A source configuration with dropout everywhere."""
    return tiny_config(name, **dict.fromkeys(dropout_names(name), rate))


def is_deterministic(name: str, source: Any, **rates: float) -> bool:
    """Whether a model in training mode computes twice the same."""
    config = trelm_config(
        source, vocabulary_size=VOCABULARY, special_ids=roles_of(source), languages=("en", "id"), **rates
    )
    model: Any = scratch_model(config, 1).train()
    ids = random_ids(2, 9)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_dropout_can_be_switched_off_and_on(name: str) -> None:
    source = with_dropout(name, 0.3)
    assert not is_deterministic(name, source)
    assert is_deterministic(name, source, hidden_dropout=0.0, attention_dropout=0.0)
    assert not is_deterministic(name, with_dropout(name, 0.0), attention_dropout=0.5)
    if kind(name) == "eurobert":
        words = "training.hidden_dropout: expected 0 or null, since eurobert has none, found 0.5; set it to 0"
        with pytest.raises(ConfigError, match=re.escape(words)):
            is_deterministic(name, with_dropout(name, 0.0), hidden_dropout=0.5)
    else:
        assert not is_deterministic(name, with_dropout(name, 0.0), hidden_dropout=0.5)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_rates_of_a_source_are_read_and_can_be_put_back(name: str) -> None:
    source, changed = with_dropout(name, 0.3), with_dropout(name, 0.3)
    rates = dropout_of(source)
    assert rates == dict.fromkeys(dropout_names(name), 0.3)
    set_dropout(changed, None, None)
    assert changed.to_dict() == source.to_dict()
    hidden = None if kind(name) == "eurobert" else 0.1
    set_dropout(changed, hidden, 0.2)
    *others, of_attention = dropout_names(name)
    assert dropout_of(changed) == dict.fromkeys(others, hidden) | {of_attention: 0.2}
    for key, rate in rates.items():
        setattr(changed, key, rate)
    assert changed.to_dict() == source.to_dict()
