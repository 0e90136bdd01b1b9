"""What the tests of training share: a toy vocabulary, toy text and a TreLM model that is made in a moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig

from trelm.corpus.ragged import Ragged
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.source import scratch_model, trelm_config
from trelm.training.batches import MaskedExamples, PlannedBatches, Vocabulary
from trelm.training.trainer import LoopSettings

PADDING, UNKNOWN, START, END, MASK = range(5)
SIZE = 60
VOCABULARY = Vocabulary(
    size=SIZE, start=START, end=END, padding=PADDING, mask=MASK, special=(PADDING, UNKNOWN, START, END, MASK)
)


def toy_model(*, dropout: float = 0.0, seed: int = 1) -> TrelmForMaskedLM:
    """Two body layers of width 16 and a TRILayer between them."""
    config = BertConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32
    )
    return scratch_model(
        trelm_config(
            config,
            vocabulary_size=SIZE,
            special_ids={"pad": PADDING},
            languages=("xx", "yy"),
            hidden_dropout=dropout,
            attention_dropout=dropout,
        ),
        seed,
    )


def counting_text(count: int, seed: int = 1) -> Ragged:
    """Sequences of 4 to 12 tokens that count up: what is masked can be told from its neighbours."""
    random = np.random.default_rng(seed)
    starts, lengths = random.integers(5, 20, size=count), random.integers(4, 13, size=count)
    return Ragged.of([range(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist())])


def toy_batches(updates: int, *, batch_tokens: int = 120, seed: int = 1) -> PlannedBatches:
    """Masked-language-modelling batches of counting text."""
    examples = MaskedExamples(counting_text(40), 1, VOCABULARY, max_length=16, mask_rate=0.15)
    return PlannedBatches([(examples, 1.0)], updates=updates, batch_tokens=batch_tokens, seed=seed)


def loop_settings(**changes: Any) -> LoopSettings:
    """Settings of a short stage that never writes a checkpoint, with some changed."""
    values: dict[str, Any] = {
        "learning_rate": 1e-3,
        "warmup": 0.2,
        "schedule": "linear",
        "weight_decay": 0.01,
        "epsilon": 1e-6,
        "gradient_clipping": 5.0,
        "precision": "float32",
        "device": "cpu",
        "checkpoint_minutes": 1e9,
        "log_updates": 1,
        "seed": 1,
    }
    return LoopSettings(**{**values, **changes})


def same_weights(first: TrelmForMaskedLM, second: TrelmForMaskedLM) -> bool:
    """Whether every entry of the state dicts is the same to the last bit."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def as_lists(arrays: Iterable[NDArray[Any]]) -> list[list[int]]:
    """Arrays as plain lists."""
    return [array.tolist() for array in arrays]
