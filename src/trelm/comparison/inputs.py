"""What a cell is given, wherever it is computed; and how the steps of its comparison's folder give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from trelm.comparison.arms import Arm
from trelm.comparison.preparation import SOURCE_TOKENS, CellRun, claimed, needed_steps
from trelm.corpus.ragged import Ragged
from trelm.initialisation import Initialisation
from trelm.stages import StageData
from trelm.steps.context import TOKENS, Context, vocabulary_of
from trelm.steps.initialisation import initialise
from trelm.steps.streams import text_streams
from trelm.steps.training import stage_data

NOTHING = Ragged(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))


class CellInputs(Protocol):
    """What a cell reads besides its context; each part is made when it is asked for.

    Attributes:
        rows: of an arm that starts from `rows`, before training. data: what the stages draw their batches from.
        preparation_seconds: what the arm's own preparation took.
        depends_on: plain values that name all this and the settings; where others, a cell's steps are done again.
    """

    @property
    def rows(self) -> Initialisation: ...

    @property
    def data(self) -> StageData: ...

    @property
    def preparation_seconds(self) -> float: ...

    @property
    def depends_on(self) -> list[Any]: ...


def tokenizer_of(arm: Arm, context: Context) -> PreTrainedTokenizerBase:
    """What an arm's model reads with."""
    return context.pretrained.tokenizer if arm.start == "source" else context.tokenizer


@dataclass(frozen=True)
class PreparedInputs:
    """From the steps of preparation in the comparison's folder.

    Attributes:
        context: the arm's configuration with the cell's seed; its run finds what is prepared.
    """

    arm: Arm
    context: Context

    @cached_property
    def rows(self) -> Initialisation:
        return initialise(self.context)

    @cached_property
    def data(self) -> StageData:
        if self.arm.reads_pairs:
            data = stage_data(self.context)
            return data if self.arm.orders else _without_ordering(data)
        folder = self.context.folder(SOURCE_TOKENS if self.arm.start == "source" else TOKENS)
        text = Ragged.load(folder, "target")  # with the pairs' target side: the corpus has it among the text
        training, tokenizer = self.context.config.training, tokenizer_of(self.arm, self.context)
        return StageData(
            *(NOTHING, text, NOTHING, NOTHING, NOTHING, NOTHING),
            vocabulary=vocabulary_of(tokenizer),
            max_length=training.max_length,
            mask_rate=training.mask_rate,
            streams=text_streams(self.context, tokenizer),
        )

    @property
    def preparation_seconds(self) -> float:
        """What the arm's own preparation took: not what every arm needs, the corpus and a vocabulary."""
        figures = [self.context.figures(name) for name in needed_steps(self.arm) if name in self.arm.prepares]
        # a head that was fitted in an earlier run, or in several goes, took longer than its step here
        return sum(max(float(step["seconds"]), float(step.get("fit_seconds", 0.0))) for step in figures)

    @property
    def depends_on(self) -> list[Any]:
        run = self.context.run
        prepared: Mapping[str, Path] = run.prepared if isinstance(run, CellRun) else {}
        return [claimed(self.context.config), sorted(path.name for path in prepared.values())]


def _without_ordering(data: StageData) -> StageData:
    """Every output position linked to the input position of the same number, where there is one."""

    def identity(outputs: Ragged, inputs: Ragged) -> Ragged:
        starts = np.repeat(outputs.offsets[:-1], outputs.lengths())
        place = np.arange(len(outputs.values)) - starts
        longest = np.repeat(inputs.lengths(), outputs.lengths())
        return Ragged(np.where(place < longest, place, -1).astype(np.int32), outputs.offsets)

    return replace(
        data,
        source_of_target=identity(data.pair_target, data.pair_source),
        target_of_source=identity(data.pair_source, data.pair_target),
    )
