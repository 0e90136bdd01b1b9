"""Each family's record against Hugging Face's own model of that family, and what is refused."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCABULARY, WIDTH, bert_config, mask_of, random_ids, roughen
from transformers import BertForMaskedLM, BertModel, GPT2Config

from trelm.errors import ConfigError
from trelm.model.families import BERT, FAMILIES, family_of


@pytest.fixture(scope="module")
def bert() -> BertModel:
    model = BertModel(bert_config())
    roughen(model)
    model.eval()
    return model


def test_an_encoder_is_found_by_its_model_type() -> None:
    assert family_of(bert_config()) is BERT
    assert {name: family.model_type for name, family in FAMILIES.items()} == {name: name for name in FAMILIES}


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected an encoder of a known family \(bert\), found 'gpt2'; choose"):
        family_of(GPT2Config())


def test_a_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected an encoder, found a decoder \(is_decoder is true\); choose"):
        family_of(bert_config(is_decoder=True))


def test_bert_is_its_embeddings_and_its_layers_in_order(bert: BertModel) -> None:
    ids, types, mask = random_ids(2, 6), random_ids(2, 6, below=2), mask_of([6, 4], 6)
    expected = bert(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True).hidden_states
    states = BERT.embed(bert, ids, None, types)
    assert torch.equal(states, expected[0])
    prepared = BERT.mask(bert, states, mask)
    for layer, after in zip(BERT.layers(bert), expected[1:]):
        states = BERT.run_layer(layer, states, prepared)
        assert torch.equal(states, after)


def test_bert_embeds_vectors_as_it_embeds_ids(bert: BertModel) -> None:
    ids = random_ids(2, 6)
    vectors = bert.get_input_embeddings()(ids)
    assert torch.equal(BERT.embed(bert, None, vectors, None), BERT.embed(bert, ids, None, None))


def test_a_mask_hides_positions_and_no_mask_hides_none(bert: BertModel) -> None:
    layer, states = BERT.layers(bert)[0], torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    short = BERT.run_layer(layer, states[:, :3], BERT.mask(bert, states[:, :3], None))
    masked = BERT.run_layer(layer, states, BERT.mask(bert, states, mask_of([3, 3], 5)))
    everything = BERT.run_layer(layer, states, BERT.mask(bert, states, None))
    assert torch.allclose(masked[:, :3], short, atol=1e-6)
    assert not torch.allclose(everything[:, :3], short, atol=1e-3)


def test_bert_positions_are_rows_of_its_table(bert: BertModel) -> None:
    found = BERT.positions(bert, torch.tensor([2, 0]))
    assert found is not None
    assert torch.equal(found, bert.embeddings.position_embeddings.weight[[2, 0]])


def test_a_new_layer_has_the_weights_of_a_body_layer() -> None:
    layer, body = BERT.new_layer(bert_config()), BERT.layers(BERT.new_backbone(bert_config()))[0]
    shapes = {name: value.shape for name, value in body.state_dict().items()}
    assert {name: value.shape for name, value in layer.state_dict().items()} == shapes


def test_the_head_is_the_one_of_the_masked_language_model() -> None:
    """So that the transform of a checkpoint fits, name by name."""
    whole = BertForMaskedLM(bert_config())
    theirs, ours = getattr(whole, BERT.head_in_source), BERT.new_head(bert_config())
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    roughen(whole)
    ours.load_state_dict(theirs.state_dict())
    states = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours(states), theirs(states))
    assert ours(states).shape == (2, 3, VOCABULARY)


def test_the_pooler_is_in_the_backbone() -> None:
    names = [name for name in BERT.new_backbone(bert_config()).state_dict() if name.startswith(BERT.pooler)]
    assert names == ["pooler.dense.weight", "pooler.dense.bias"]
