"""`trelm plan`: what will run, how long, how much memory and disk, from a rehearsal on a sample of the user's text."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trelm.cost import human_bytes, human_count, human_seconds, resident_bytes
from trelm.errors import BudgetError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.progress import Progress
from trelm.stages import (
    ALIKE,
    COMBINATION,
    LANGUAGE_SPECIFIC,
    SCRATCH,
    SCRATCH_STAGE,
    TRANSFER_LOWER,
    Stage,
    StageData,
    combines,
    flops_per_update,
    plan_updates,
)
from trelm.steps.context import EVALUATION, EXPORT, PLAN, Context
from trelm.steps.expected import Expected
from trelm.steps.preparation import model_config
from trelm.steps.rates import Machine
from trelm.steps.rehearsal import REHEARSED_UPDATES, Samples, rehearse, steps_of_rehearsal
from trelm.steps.selection import chooses_weights
from trelm.steps.space import Space
from trelm.steps.text_sizes import TextSize, look, pair_inputs, text_inputs
from trelm.steps.training import (
    budget_in_updates,
    least_minutes,
    only_for_transfer,
    planned_stages,
    seconds_for_each,
    stage_settings,
)

TEXT_CHARACTERS, PAIR_CHARACTERS = 800_000, 400_000  # of a sample, or up to twice as many
MEASURED, DERIVED = "measured", "derived"
Row = dict[str, Any]


@dataclass(frozen=True)
class Texts:
    """How much there is of each kind of text."""

    source: TextSize
    target: TextSize
    pairs: TextSize

    @property
    def samples(self) -> Samples:
        """What is rehearsed on."""
        whole = all(size.is_whole for size in (self.source, self.target, self.pairs))
        return Samples(self.source.sample, self.target.sample, self.pairs.sample, are_whole=whole)


def estimate(context: Context, *, quiet: bool = True) -> dict[str, Any]:
    """What the run of this configuration would do and cost; nothing is written but in a temporary folder.

    Returns:
        `steps`: for each step its name, `seconds`, `updates` and `tokens` and `flops` (of training; 0 elsewhere),
        `memory_bytes` at its peak, `disk_bytes` that it leaves, and whether its seconds are `measured` (by its own
        functions on a sample) or `derived` (from another step's). `total`: the same in all; memory is the largest.
        `summary`: lines for a person.

    Raises:
        BudgetError: the budget is too small for the stages.
        TrelmError: an input cannot be read, or the run itself would stop at it.
    """
    context.pretrained.table  # noqa: B018  (loaded: what the program takes without text)
    resident = resident_bytes()
    with tempfile.TemporaryDirectory(prefix="trelm-plan-") as folder:
        # the sizes of the text are told as a step of their own, and how many steps follow is known after it
        with Progress(1, quiet=quiet) as progress, progress.step("text"):
            texts = read_texts(context)
        with Progress(steps_of_rehearsal(context, texts.samples), quiet=quiet) as progress:
            machine, data = rehearse(context, texts.samples, Path(folder), progress)
        return Estimate(context, texts, machine, data, resident).result()


def read_texts(context: Context) -> Texts:
    """Read all text once."""
    config = context.config
    kinds = [(text_inputs(config.source.text), TEXT_CHARACTERS), (text_inputs(config.target.text), TEXT_CHARACTERS)]
    kinds.append((pair_inputs(config), PAIR_CHARACTERS))
    return Texts(*(look(inputs, keep, config.corpus.max_lines) for inputs, keep in kinds))


@dataclass(frozen=True)
class Estimate:
    """What is expected of a run.

    Attributes:
        context: of the run, whose steps are not done. data: that training updates were measured on.
        resident: bytes that the program itself takes.
    """

    context: Context
    texts: Texts
    machine: Machine
    data: StageData
    resident: int

    def result(self) -> dict[str, Any]:
        """See `estimate`."""
        rows = [*self._preparation(), *self._training(), *self._end()]
        total = {
            name: sum(row[name] for row in rows) for name in ("seconds", "updates", "tokens", "flops", "disk_bytes")
        }
        total["memory_bytes"] = max(row["memory_bytes"] for row in rows)
        return {"steps": rows, "total": total, "summary": self._summary(rows, total)}

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Those that train; the baseline's is not among them."""
        return planned_stages(self.context.config)

    @cached_property
    def expected(self) -> Expected:
        """Seconds of the steps that do not train."""
        sizes = (self.texts.source, self.texts.target, self.texts.pairs)
        return Expected(
            self.context.config,
            self.machine,
            shares=(sizes[0].share, sizes[1].share, sizes[2].share),
            read=sum(sum(size.characters) for size in sizes),
            unpacking=sum(size.unpacking for size in sizes),
        )

    @cached_property
    def space(self) -> Space:
        """Memory and disk."""
        return Space(self.context, self.expected, self.model, self.data)

    @cached_property
    def model(self) -> TrelmForMaskedLM:
        """The shape of the model; it has no weights."""
        return self._shape(self.expected.vocabulary)

    @cached_property
    def flops(self) -> dict[str, float]:
        """FLOPs of an update of each stage."""
        return self._flops(self.model)

    @cached_property
    def per_update(self) -> dict[str, float]:
        """Seconds of an update of each stage: of more entries than the rehearsal had, in proportion to its FLOPs."""
        rehearsed = self._flops(self._shape(self.machine.vocabulary))
        return {name: seconds * self.flops[name] / rehearsed[name] for name, seconds in self.machine.per_update.items()}

    @cached_property
    def preparation(self) -> dict[str, float]:
        """Seconds of each step before the stages."""
        shares = {stage.name: stage_settings(self.context, stage).share for stage in self.stages}
        return self.expected.preparation() | {PLAN: self.expected.measuring(self.per_update, shares)}

    @cached_property
    def updates(self) -> dict[str, int]:
        """Updates of each stage, as the run would plan them."""
        config = self.context.config
        budget, baseline = config.budget, config.baseline.scratch
        shares = {stage.name: stage_settings(self.context, stage).share for stage in self.stages}
        if budget.minutes is None:
            unit, amount, costs = budget_in_updates(self.context, self.stages, self.data, lambda: self.model)
            for_scratch = amount
        else:
            unit, costs = "seconds", self.per_update
            prepared = sum(self.preparation.values())
            extra = sum(self.preparation[name] for name in only_for_transfer(config) if name in self.preparation)
            amount = seconds_for_each(60 * budget.minutes, prepared, extra, baseline)
            if amount <= 0:
                least = least_minutes(prepared + baseline * extra, baseline)
                raise BudgetError(
                    f"budget.minutes: expected about {least:.0f} or more, found {budget.minutes:g}; raise it"
                )
            for_scratch = amount + extra
        updates = plan_updates(amount, unit, shares, costs)
        if baseline:
            updates |= plan_updates(for_scratch, unit, {SCRATCH: 1.0}, {SCRATCH: costs[LANGUAGE_SPECIFIC]})
        return updates

    def _preparation(self) -> list[Row]:
        memory = self.space.preparation()
        return [
            self._row(name, seconds, memory=memory.get(name, 0.0), basis=DERIVED if name == PLAN else MEASURED)
            for name, seconds in self.preparation.items()
        ]

    def _training(self) -> list[Row]:
        rows = []
        for name, updates in self.updates.items():
            of = LANGUAGE_SPECIFIC if name == SCRATCH else name
            stage = next((one for one in self.stages if one.name == name), SCRATCH_STAGE)
            rows.append(
                self._row(
                    name,
                    updates * self.per_update[of] + self.machine.moving,
                    updates=updates,
                    tokens=round(updates * self._tokens(stage)),
                    flops=updates * self.flops[of],
                    memory=self.space.training(stage),
                    basis=DERIVED if name == SCRATCH or ALIKE.get(name) in self.updates else MEASURED,
                )
            )
            if name == TRANSFER_LOWER and combines(self.stages):
                rows.append(self._row(COMBINATION, self.machine.combination, memory=self.space.of_models(3)))
        return rows

    def _end(self) -> list[Row]:
        scoring = self.space.scoring()
        return [
            self._row(EVALUATION, self.expected.evaluation(), memory=scoring),
            self._row(EXPORT, self.machine.scoring.export, memory=self.space.of_models(4)),
        ]

    def _row(
        self,
        name: str,
        seconds: float,
        *,
        updates: int = 0,
        tokens: int = 0,
        flops: float = 0.0,
        memory: float = 0.0,
        basis: str = MEASURED,
    ) -> Row:
        return {
            "name": name,
            "seconds": seconds,
            "updates": updates,
            "tokens": tokens,
            "flops": flops,
            "memory_bytes": round(self.resident + memory),
            "disk_bytes": round(self.space.disk.get(name, 0.0)),
            "basis": basis,
        }

    def _tokens(self, stage: Stage) -> float:
        """Real tokens of an update."""
        training, seed = self.context.config.training, self.context.config.seed
        return self.data.batches(stage, updates=0, batch_tokens=training.batch_tokens, seed=seed).mean_tokens()

    def _shape(self, entries: int) -> TrelmForMaskedLM:
        known = self.data.vocabulary
        ids = {"pad": known.padding, "cls": known.start, "sep": known.end, "mask": known.mask}
        ids |= {"bos": known.start, "eos": known.end}
        settings = model_config(self.context, entries, ids)
        with torch.device("meta"):
            return TrelmForMaskedLM(settings)

    def _flops(self, model: TrelmForMaskedLM) -> dict[str, float]:
        batch_tokens, seed = self.context.config.training.batch_tokens, self.context.config.seed
        return {
            stage.name: flops_per_update(model, stage, self.data, batch_tokens=batch_tokens, seed=seed)
            for stage in self.stages
        }

    def _summary(self, rows: list[Row], total: Row) -> list[str]:
        kinds = {"source text": self.texts.source, "target text": self.texts.target, "pairs": self.texts.pairs}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        samples = ", ".join(f"{len(size.sample):,} lines of {name}" for name, size in kinds.items())
        on_the_way = human_bytes(self.space.checkpoints())
        lines = [
            "; ".join(f"{name}: {_described(size)}" for name, size in kinds.items()),
            f"measured on {samples}; on {REHEARSED_UPDATES} updates of each kind of stage",
            f"model: {human_count(self.space.parameters)} parameters; "
            f"{self.context.device}, {cores} cores, {self.context.precision}",
            f"time: about {human_seconds(total['seconds'])}; memory: about {human_bytes(total['memory_bytes'])}; disk: "
            f"about {human_bytes(total['disk_bytes'])}, and {on_the_way} of checkpoints while a stage trains",
        ]
        lines += [*self._limits(), *self._early_ends()]
        if any(size.at_least for size in kinds.values()):
            lines.append("an input is too large to be read whole, and its size is not known: it takes longer than this")
        return lines

    def _limits(self) -> list[str]:
        """How much of the text trains, where that is limited."""
        corpus = self.context.config.corpus
        limits = {"lines of target text": corpus.max_target_lines, "pairs": corpus.max_pairs}
        parts = [f"{most:,} {what}" for what, most in limits.items() if most is not None]
        return [f"of these, at most {' and '.join(parts)} train, as `corpus` says"] if parts else []

    def _early_ends(self) -> list[str]:
        """Which stages may end before their last planned update, and what it costs to find out."""
        training, lines = self.context.config.training, self.context.config.corpus.development_lines
        if training.patience is None:
            return []
        stages = [stage.name for stage in (*self.stages, SCRATCH_STAGE) if chooses_weights(stage)]
        planned = {name: self.updates[name] for name in stages if name in self.updates}
        scores = sum(math.ceil(updates / training.evaluate_updates) for updates in planned.values())
        seconds = scores * lines * self.machine.scoring.line
        return [
            f"may stop early (training.patience): {', '.join(planned)}; counted here with all planned updates; "
            f"scoring {lines:,} development lines on the way takes up to {human_seconds(seconds)} more"
        ]


def _described(size: TextSize) -> str:
    about = "about " if size.extrapolated else "at least " if size.at_least else ""
    return f"{about}{size.lines:,} lines, {human_count(sum(size.characters))} characters"
