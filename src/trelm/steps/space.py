"""Memory and disk that a run will need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trelm.cost import ADAMW_MOMENTS, FLOAT_BYTES, memory_bytes
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import PARTS, freeze_all_but
from trelm.model.shape import layer_shape
from trelm.stages import COMBINATION, SCRATCH, Stage, StageData, combines
from trelm.steps.context import DIAGNOSIS, HEAD, Context
from trelm.steps.expected import Expected
from trelm.steps.scoring import EVALUATION_BATCH_TOKENS
from trelm.steps.training import planned_stages


@dataclass(frozen=True)
class Space:
    """Bytes that a run will need.

    Attributes:
        model: its shape, without weights. data: text like that which it trains on.
    """

    context: Context
    expected: Expected
    model: TrelmForMaskedLM
    data: StageData

    @property
    def parameters(self) -> int:
        """Of the model."""
        return self.model.num_parameters()

    @cached_property
    def disk(self) -> dict[str, float]:
        """Bytes that each step leaves."""
        config, model = self.context.config, FLOAT_BYTES * self.parameters
        stages = planned_stages(config)
        names = [stage.name for stage in stages] + [COMBINATION] * combines(stages)
        names += [SCRATCH] if config.baseline.scratch else []
        return self.expected.disk(self.parameters) | dict.fromkeys(names, float(model))

    def checkpoints(self) -> int:
        """Bytes of the two checkpoints of a stage that trains everything; they go with its end."""
        return 2 * FLOAT_BYTES * self.parameters * (1 + ADAMW_MOMENTS)

    def preparation(self) -> dict[str, float]:
        """Bytes at the peak of each step before training, besides what the program takes."""
        table = self.context.pretrained.table
        found = self.expected.memory(table.shape[1], table.shape[0])
        return {**found, HEAD: self.scoring(), DIAGNOSIS: self.scoring()}

    def training(self, stage: Stage) -> int:
        """Bytes at the peak of an update: of a batch of usual sentences or of the longest, whichever needs more.

        (What a layer keeps for each sequence weighs most where they are short; attention weights where they are long.)
        """
        freeze_all_but(self.model, stage.trains)
        trained = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        freeze_all_but(self.model, PARTS)
        lengths = self.data.target.lengths()
        return peak_bytes(
            self.model,
            trained=trained,
            batch_tokens=self.context.config.training.batch_tokens,
            mean_length=int(np.mean(lengths)) if len(lengths) else 1,
            max_length=self.context.config.training.max_length,
        )

    def scoring(self) -> float:
        """Bytes of scoring held-out text: the model, and the probabilities at masked tokens."""
        masked = EVALUATION_BATCH_TOKENS * self.context.config.training.mask_rate
        return self.of_models(1) + 3 * FLOAT_BYTES * masked * self.expected.vocabulary

    def of_models(self, count: int) -> float:
        """Bytes of so many models."""
        return float(count * FLOAT_BYTES * self.parameters)


def peak_bytes(model: TrelmForMaskedLM, *, trained: int, batch_tokens: int, mean_length: int, max_length: int) -> int:
    """Bytes at the peak of an update: of a batch of sentences of the mean length, or of the longest, if that is more.

    Args:
        trained: parameters that train. mean_length: tokens, special ones not counted.
    """
    source = model.config.source
    return max(
        memory_bytes(
            layer_shape(model.trelm.lower_layers[0], source),
            parameters=model.num_parameters(),
            trained_parameters=trained,
            tokens=batch_tokens,
            length=length,
            layers=source.num_hidden_layers + 1,
            vocabulary=source.vocab_size,
            labelled=batch_tokens // 2,
        )
        for length in (min(mean_length + 2, max_length), max_length)
    )
