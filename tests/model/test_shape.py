"""Shapes of layers, held against what torch counts and keeps when it runs the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    ElectraConfig,
    ElectraForMaskedLM,
    EuroBertConfig,
    ModernBertConfig,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.camembert.modeling_camembert import CamembertLayer
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Layer
from transformers.models.distilbert.modeling_distilbert import TransformerBlock
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.eurobert.modeling_eurobert import EuroBertDecoderLayer
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer
from transformers.models.mpnet.modeling_mpnet import MPNetLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from trelm.cost import LayerGroup, LayerShape, memory_bytes, training_flops
from trelm.model.shape import embedding_width, layer_shape

WIDTH, HEADS, INTERMEDIATE, BUCKETS = 64, 4, 160, 8
BATCH, LENGTH = 8, 64
TOKENS = BATCH * LENGTH
PLAIN, GATED = 2 * INTERMEDIATE, 4 * INTERMEDIATE

ROTARY = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
BERT = ROTARY | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 80}
DISTILBERT = {"dim": WIDTH, "n_heads": HEADS, "hidden_dim": INTERMEDIATE, "dropout": 0.0, "attention_dropout": 0.0}
DEBERTA = BERT | {
    "relative_attention": True,
    "position_buckets": BUCKETS,
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
}

# A name -> the layer's class, what it is given besides its configuration, the configuration.
LAYERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], Any]] = {
    "bert": (BertLayer, (), BertConfig(**BERT)),
    "roberta": (RobertaLayer, (), RobertaConfig(**BERT)),
    "xlm-roberta": (XLMRobertaLayer, (), XLMRobertaConfig(**BERT)),
    "camembert": (CamembertLayer, (), CamembertConfig(**BERT)),
    "electra": (ElectraLayer, (), ElectraConfig(**BERT, embedding_size=16)),
    "distilbert": (TransformerBlock, (), DistilBertConfig(**DISTILBERT)),
    "mpnet": (MPNetLayer, (), MPNetConfig(**BERT)),
    "deberta-v3": (DebertaV2Layer, (), DebertaV2Config(**DEBERTA)),
    "deberta-own-projections": (DebertaV2Layer, (), DebertaV2Config(**(DEBERTA | {"share_att_key": False}))),
    "deberta-c2p": (
        DebertaV2Layer,
        (),
        DebertaV2Config(**(DEBERTA | {"share_att_key": False, "pos_att_type": "c2p", "position_buckets": -1})),
    ),
    "deberta-absolute": (DebertaV2Layer, (), DebertaV2Config(**(DEBERTA | {"relative_attention": False}))),
    "modernbert": (ModernBertEncoderLayer, (0,), ModernBertConfig(**ROTARY)),
    "modernbert-window": (ModernBertEncoderLayer, (1,), ModernBertConfig(**ROTARY, local_attention=16)),
    "eurobert": (EuroBertDecoderLayer, (0,), EuroBertConfig(**ROTARY)),
    "eurobert-grouped": (EuroBertDecoderLayer, (0,), EuroBertConfig(**ROTARY, num_key_value_heads=1)),
    "eurobert-large-heads": (EuroBertDecoderLayer, (0,), EuroBertConfig(**ROTARY, head_dim=24)),
}
UNFUSED = {name for name in LAYERS if name.startswith(("mpnet", "deberta"))}  # transformers has no other form of these


def make(name: str, attention: str) -> tuple[nn.Module, Any]:
    new_layer, rest, config = LAYERS[name]
    config._attn_implementation = attention
    return new_layer(config, *rest), config


def run(layer: nn.Module, config: Any) -> Tensor:
    """The layer on states whose gradient is wanted, with what its family needs besides."""
    states = torch.randn(BATCH, LENGTH, WIDTH, requires_grad=True)
    given: dict[str, Any] = {}
    if config.model_type == "deberta-v2":
        rows = 2 * (config.position_buckets if config.position_buckets > 0 else config.max_position_embeddings)
        given["attention_mask"] = torch.ones(BATCH, 1, LENGTH, LENGTH)
        given["rel_embeddings"] = torch.randn(rows, WIDTH, requires_grad=True)
    if config.model_type in ("modernbert", "eurobert"):
        size = getattr(config, "head_dim", None) or WIDTH // HEADS
        given["position_embeddings"] = (torch.ones(1, LENGTH, size), torch.zeros(1, LENGTH, size))
    output = layer(states, **given)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


@pytest.mark.parametrize("name", LAYERS)
def test_flops_of_a_layer_are_those_of_torch(name: str) -> None:
    """Exactly: forward, and forward and backward where the states and the table below it train."""
    layer, config = make(name, "eager")  # torch does not count fused attention on a CPU
    group, nothing = LayerGroup(1, True, TOKENS, LENGTH), {"vocabulary": 0, "labelled": 0}
    shape = layer_shape(layer, config)
    counter = FlopCounterMode(display=False)
    with counter:
        output = run(layer, config)
        forward = counter.get_total_flops()
        output.sum().backward()
    frozen = LayerGroup(1, False, TOKENS, LENGTH)
    assert training_flops([frozen], shape, embeddings_train=False, **nothing) == forward
    assert training_flops([group], shape, **nothing) == counter.get_total_flops()


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_keeps_is_near_what_torch_keeps(name: str) -> None:
    """The bytes that autograd saves, each storage once, with fused attention where the family has it."""
    layer, config = make(name, "eager" if name in UNFUSED else "sdpa")
    weights = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(layer, config)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    none = dict.fromkeys(("parameters", "trained_parameters", "vocabulary", "labelled"), 0)
    estimate = memory_bytes(layer_shape(layer, config), tokens=TOKENS, length=LENGTH, layers=1, **none)
    assert estimate == pytest.approx(kept, rel=0.15)


@pytest.mark.parametrize(
    ("name", "weights", "attention_width", "feed_forward", "relative_positions"),
    [
        ("bert", 4 * WIDTH**2 + 2 * WIDTH * INTERMEDIATE, WIDTH, PLAIN, 0),
        ("distilbert", 4 * WIDTH**2 + 2 * WIDTH * INTERMEDIATE, WIDTH, PLAIN, 0),
        ("deberta-v3", 4 * WIDTH**2 + 2 * WIDTH * INTERMEDIATE, WIDTH, PLAIN, 2 * 2 * BUCKETS),
        # The projections of the positions are of no token.
        ("deberta-own-projections", 4 * WIDTH**2 + 2 * WIDTH * INTERMEDIATE, WIDTH, PLAIN, 2 * 2 * BUCKETS),
        ("deberta-c2p", 4 * WIDTH**2 + 2 * WIDTH * INTERMEDIATE, WIDTH, PLAIN, 2 * 80),
        ("deberta-absolute", 4 * WIDTH**2 + 2 * WIDTH * INTERMEDIATE, WIDTH, PLAIN, 0),
        ("modernbert", 4 * WIDTH**2 + 3 * WIDTH * INTERMEDIATE, WIDTH, GATED, 0),
        ("eurobert-grouped", (2 + 2 / 4) * WIDTH**2 + 3 * WIDTH * INTERMEDIATE, WIDTH, GATED, 0),
        ("eurobert-large-heads", 4 * WIDTH * 96 + 3 * WIDTH * INTERMEDIATE, 96, GATED, 0),
    ],
)
def test_shapes_by_hand(
    name: str, weights: int, attention_width: int, feed_forward: int, relative_positions: int
) -> None:
    expected = LayerShape(int(weights), WIDTH, attention_width, feed_forward, relative_positions, unfused_heads=0)
    assert layer_shape(*make(name, "sdpa")) == expected


def test_relative_positions_of_a_given_distance() -> None:
    layer, _ = make("deberta-v3", "eager")
    config = DebertaV2Config(**(DEBERTA | {"position_buckets": -1, "max_relative_positions": 20}))
    assert layer_shape(layer, config).relative_positions == 2 * 2 * 20


def test_attention_that_transformers_does_not_fuse_is_seen_in_the_configuration_of_a_model() -> None:
    model = MPNetModel(MPNetConfig(**BERT))
    assert layer_shape(model.encoder.layer[0], model.config).unfused_heads == HEADS


def test_the_width_of_the_word_table() -> None:
    assert embedding_width(ElectraConfig(**BERT, embedding_size=16)) == 16
    assert embedding_width(DistilBertConfig(**DISTILBERT)) == WIDTH
    assert embedding_width(BertConfig(**BERT)) == WIDTH


@pytest.mark.parametrize("trained", ["11", "01", "10"])
@pytest.mark.parametrize(
    ("new_model", "config"),
    [
        (DebertaV2ForMaskedLM, DebertaV2Config(**DEBERTA)),
        (ElectraForMaskedLM, ElectraConfig(**BERT, embedding_size=16)),
    ],
    ids=["deberta", "electra"],
)
def test_training_flops_of_a_whole_model_are_those_of_torch(new_model: Any, config: Any, trained: str) -> None:
    """Exactly, with everything that is not a layer trained, as the stages have it."""
    config._attn_implementation = "eager"
    model = new_model(config)
    layers = model.base_model.encoder.layer
    for layer, flag in zip(layers, trained):
        layer.requires_grad_(flag == "1")
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=torch.ones(BATCH, LENGTH, dtype=torch.int64)).logits.sum().backward()
    estimate = training_flops(
        [LayerGroup(1, flag == "1", TOKENS, LENGTH) for flag in trained],
        layer_shape(layers[0], config),
        vocabulary=100,
        labelled=TOKENS,
        embedding=embedding_width(config),
    )
    assert estimate == counter.get_total_flops()
