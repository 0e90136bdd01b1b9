"""Encoders and TreLM models that are made in a moment, with large weights everywhere: nothing is hidden by a zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from trelm.model.source import scratch_model, trelm_config
from trelm.model.tri_layer import TriLayer

VOCABULARY = 50
WIDTH = 16
PAD = 0


def bert_config(layers: int = 4, **changes: Any) -> BertConfig:
    """A BERT of width 16 without dropout."""
    settings: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 20,
        "pad_token_id": PAD,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertConfig(**(settings | changes))


def trelm_model(layers: int = 4, *, rough: bool = True, has_tri_layer: bool = True, **changes: Any) -> Any:
    """A TreLM model in evaluation mode; a rough one has no weight that is zero, not even in its null state."""
    config = trelm_config(
        bert_config(layers, **changes),
        vocabulary_size=VOCABULARY,
        special_ids={"pad": PAD},
        languages=("en", "id"),
        has_tri_layer=has_tri_layer,
    )
    model: Any = scratch_model(config, seed=3)
    if rough:
        roughen(model)
    model.eval()
    return model


def take_out_tri_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower half's states go to the upper half as they are."""

    def arrange(self: TriLayer, states: Tensor, *_: Any) -> Tensor:
        return states

    def forward(self: TriLayer, arranged: Tensor, *_: Any) -> Tensor:
        return arranged

    monkeypatch.setattr(TriLayer, "arrange", arrange)
    monkeypatch.setattr(TriLayer, "forward", forward)


def roughen(model: nn.Module, seed: int = 4) -> None:
    """Add noise to every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def save_rough_bert(folder: Path, tiny_bert: Path) -> Path:
    """The tiny BERT with noise on every weight, its biases and norms too, and its tokenizer."""
    model = BertForMaskedLM.from_pretrained(tiny_bert)
    roughen(model)
    model.save_pretrained(folder)
    BertTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


def random_ids(*shape: int, seed: int = 5, below: int = VOCABULARY) -> Tensor:
    """Token ids, none of them padding."""
    return torch.randint(1, below, shape, generator=torch.Generator().manual_seed(seed))


def mask_of(lengths: list[int], width: int) -> Tensor:
    """(B, width), 1 for the first `lengths[b]` positions."""
    return (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
