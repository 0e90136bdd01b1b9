"""What the tests of teaching share: a frozen encoder of another vocabulary, and pairs whose tokens are linked to it."""

from __future__ import annotations

import numpy as np
import torch
from toy_training import VOCABULARY, counting_text
from transformers import BertConfig, BertModel

from trelm.corpus.ragged import Ragged
from trelm.training.batches import MaskedExamples, PlannedBatches, Vocabulary
from trelm.training.teaching import TaughtExamples, Teacher, Teaching

ITS_VOCABULARY = Vocabulary(size=40, start=7, end=8, padding=9, mask=6, special=(6, 7, 8, 9))
SEQUENCES, MAX_LENGTH = 30, 16


def toy_teacher(weight: float = 0.7) -> Teacher:
    """Two layers as wide as those of the toy model; the state between its halves is taught, and the last."""
    config = BertConfig(
        vocab_size=40, num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, pad_token_id=ITS_VOCABULARY.padding,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = BertModel(config)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3, generator=torch.Generator().manual_seed(weights.numel()))
    return Teacher(model.train(False).requires_grad_(False), ((1, 1), (-1, -1)), weight)


def toy_taught(*, linked: float = 0.7, longest: int = 20, max_length: int = MAX_LENGTH) -> TaughtExamples:
    """Counting text, and what a teacher reads of it: up to 20 tokens, some of which are cut off."""
    random = np.random.default_rng(2)
    texts = counting_text(SEQUENCES)
    read = [random.integers(10, 40, size=int(random.integers(1, longest + 1))) for _ in range(SEQUENCES)]
    starts, ends = [], []
    for number, its in enumerate(read):
        start = random.integers(0, len(its), size=len(texts[number]))
        end = np.minimum(start + random.integers(1, 4, size=len(start)), len(its))
        is_linked = random.random(len(start)) < linked
        starts.append(np.where(is_linked, start, -1))
        ends.append(np.where(is_linked, end, -1))
    masked = MaskedExamples(texts, 1, VOCABULARY, max_length, 0.15)
    return TaughtExamples(masked, Teaching(Ragged.of(read), Ragged.of(starts), Ragged.of(ends), ITS_VOCABULARY))


def toy_taught_batches(updates: int, *, seed: int = 1) -> PlannedBatches:
    """Batches half of which is taught."""
    taught = toy_taught()
    return PlannedBatches([(taught, 0.5), (taught.masked, 0.5)], updates=updates, batch_tokens=240, seed=seed)
