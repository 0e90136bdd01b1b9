"""What the tests of the stages share: a model that is made in a moment, texts and pairs of any lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from trelm.corpus.ragged import Ragged
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.source import scratch_model, trelm_config
from trelm.stages import StageData
from trelm.training.batches import Vocabulary
from trelm.training.trainer import LoopSettings

VOCABULARY = Vocabulary(size=200, start=2, end=3, padding=0, mask=4, special=(0, 1, 2, 3, 4))
SETTINGS = LoopSettings(
    learning_rate=1e-2,
    warmup=0,
    schedule="constant",
    weight_decay=0.01,
    epsilon=1e-6,
    gradient_clipping=5.0,
    precision="float32",
    device="cpu",
    checkpoint_minutes=1e9,
    log_updates=1,
    seed=1,
)


def small_model(folder: Path) -> TrelmForMaskedLM:
    """The encoder in `folder` with other weights and with dropout: four body layers, width 32, feed-forward 64."""
    config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
    return scratch_model(
        trelm_config(config, vocabulary_size=200, special_ids={"pad": 0}, languages=("xx", "yy"), hidden_dropout=0.1),
        seed=3,
    )


def texts(lengths: list[int], first: int) -> Ragged:
    return Ragged.of([range(first + number, first + number + length) for number, length in enumerate(lengths)])


def links(of: Ragged, to: Ragged, seed: int) -> Ragged:
    """For every position of `of` a position of `to`, or -1."""
    random = np.random.default_rng(seed)
    return Ragged.of([random.integers(-1, len(to[i]), size=len(of[i]), dtype=np.int32) for i in range(len(of))])


def stage_data(source: list[int], target: list[int], *, mask_rate: float = 0.15) -> StageData:
    """Texts and pairs of these lengths; every kind has token ids of its own."""
    pair_source, pair_target = texts(source, 100), texts(target, 150)
    return StageData(
        source=texts(source, 10),
        target=texts(target, 50),
        pair_source=pair_source,
        pair_target=pair_target,
        source_of_target=links(pair_target, pair_source, 1),
        target_of_source=links(pair_source, pair_target, 2),
        vocabulary=VOCABULARY,
        max_length=32,
        mask_rate=mask_rate,
    )


def some_data() -> StageData:
    return stage_data([6, 9, 12, 7], [8, 5, 10, 6])


def snapshot(model: TrelmForMaskedLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: TrelmForMaskedLM, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
