"""Seconds and bytes that the steps of a run will take, from what a rehearsal has found and how much text there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from trelm.config import Config
from trelm.corpus.splitting import effective_fraction
from trelm.cost import FLOAT_BYTES
from trelm.stages import ALIKE, MEASURED_UPDATES, WARM_UPDATES
from trelm.steps.context import (
    ALIGNMENT,
    CORPUS,
    DIAGNOSIS,
    EMBEDDINGS,
    EXPORT,
    HEAD,
    MODEL,
    TOKENS,
    VOCABULARY,
    WORD_LINKS,
)
from trelm.steps.head import HELD_OUT_LINES as HEAD_LINES
from trelm.steps.initialisation import FREQUENCY_LINES
from trelm.steps.outcome import CDLM_PAIRS, task_lines
from trelm.steps.rates import Amounts, Machine, vector_tokens
from trelm.steps.rehearsal import SIZED

STATIC_VECTORS = ("wechsel", "focus")  # initialisations that train vectors on the text
ID_BYTES, CELL_BYTES, LINE_BYTES = 4, 16, 40  # of a token, of a cell of word links, of a line's fingerprints and masks
CHUNK_ROWS = 3 * 1024  # rows of similarities that the alignment holds at a time
WORD_CHARACTERS, WORD_BYTES = 40, 250  # characters of text for each distinct word, about; what the trainer keeps of it


def limited(amounts: Amounts, max_lines: int | None, max_pairs: int | None) -> Amounts:
    """What trains of all text under the limits for little data: source text keeps its side of every pair."""
    lines, pairs = (
        1.0 if most is None else min(1.0, most / max(part.lines, 1.0))
        for most, part in ((max_lines, amounts.target), (max_pairs, amounts.pair_target))
    )
    less = amounts.scaled(source=1.0, target=lines, pairs=pairs, read=amounts.read)
    return replace(less, source=less.source + amounts.pair_source.times(1 - pairs))


@dataclass(frozen=True)
class Expected:
    """What is expected of the steps that do not train.

    Attributes:
        shares: the sample's part of the source text, the target text and the pairs.
        read: characters of all text. unpacking: seconds of reading compressed files; the sample was none.
    """

    config: Config
    machine: Machine
    shares: tuple[float, float, float]
    read: float
    unpacking: float

    @cached_property
    def amounts(self) -> Amounts:
        """What trains, as the steps will count it."""
        corpus = self.config.corpus
        return (
            self.prepared if self.machine.whole else limited(self.prepared, corpus.max_target_lines, corpus.max_pairs)
        )

    @cached_property
    def prepared(self) -> Amounts:
        """All text that is cleaned and split, before limits on what trains; of a sample that is whole, after them."""
        if self.machine.whole:
            return self.machine.amounts
        source, target, pairs = (1 / share for share in self.shares)
        return self.machine.amounts.scaled(source=source, target=target, pairs=pairs, read=self.read)

    @cached_property
    def vocabulary(self) -> int:
        """Entries of the joint vocabulary: a sample may have too few words for it."""
        found = self.machine.vocabulary
        return found if self.machine.whole else max(found, self.config.vocabulary.size)

    @property
    def growth(self) -> float:
        """Of the vocabulary, from the rehearsal's."""
        return self.vocabulary / self.machine.vocabulary

    @cached_property
    def held_out(self) -> tuple[float, float]:
        """Lines of target text, and pairs, that are held out."""
        if self.machine.whole:
            return self.machine.held_out
        corpus, lines = self.config.corpus, [part.lines for part in self.prepared.sides()]
        shares = [effective_fraction(round(n), corpus.held_out_fraction, corpus.held_out_lines) for n in lines]
        most = corpus.held_out_lines
        target = max(0.0, min(most, lines[1] * shares[1]) - corpus.development_lines)
        return target, min(most, self.prepared.pair_source.lines * sum(shares))

    def preparation(self) -> dict[str, float]:
        """Seconds of each step before training."""
        work = self.amounts.work(self.config)
        sized = {name: self.machine.sized[name].at(work[name]) for name in SIZED}
        head = {HEAD: self._head()} if self.config.head.updates else {}
        return {
            CORPUS: sized.pop(CORPUS) + self.unpacking,
            **head,
            **sized,
            ALIGNMENT: self._alignment() + self._linking(),
            MODEL: self._model() + 2 * self._linking(),
            DIAGNOSIS: self._diagnosis() + 2 * self._linking(),
        }

    def measuring(self, per_update: Mapping[str, float], shares: Mapping[str, float]) -> float:
        """Seconds of measuring updates before training, which a budget in minutes needs."""
        if self.config.budget.minutes is None:
            return self.machine.moving
        alone = [name for name, share in shares.items() if share > 0 and ALIKE.get(name) not in shares]
        return self.machine.moving + sum(per_update[name] for name in alone) * (WARM_UPDATES + MEASURED_UPDATES)

    def evaluation(self) -> float:
        """Seconds of scoring all models."""
        scoring, baseline = self.machine.scoring, self.config.baseline.scratch
        sets = [
            task
            for task in self.config.evaluation
            if task.task not in ("translation", "retrieval") and (task.test or task.test_from_dev)
        ]
        lines = self.held_out[0] + sum(len(task_lines(task)) for task in sets)
        models = 2 + baseline
        pairs = min(self.held_out[1], CDLM_PAIRS)
        return scoring.fixed + models * lines * scoring.line + pairs * scoring.pair + baseline * self.machine.moving / 2

    def _head(self) -> float:
        cost = self.machine.head
        if cost is None or cost.is_kept:
            return self.machine.moving
        side, slope = self.amounts.sides()[0], self.machine.sized[TOKENS].slope
        lines = min(self.config.head.max_lines, side.lines)
        encoding = slope * cost.text.characters
        scoring = max(cost.around - encoding, 0.0) / max(cost.held_out, 1)
        held_out = cost.held_out if self.machine.whole else min(HEAD_LINES, self.held_out[0])
        characters = lines * side.characters / max(side.lines, 1.0)
        return cost.update * self.config.head.updates + slope * characters + scoring * held_out

    def _alignment(self) -> float:
        cost, settings = self.machine.alignment, self.config.alignment
        rounds = (settings.refinement_rounds if settings.method != "none" else 0) - cost.rounds
        seconds = self.growth * cost.seconds + rounds * cost.refinements * cost.a_round
        if not cost.game_step:
            return seconds  # `auto` plays only where every map from pairs collapsed
        steps = settings.adversarial_samples / settings.adversarial_batch
        epoch = steps * cost.game_step + cost.game_epoch
        return seconds + (1 + settings.restarts) * settings.adversarial_epochs * epoch

    def _model(self) -> float:
        seconds = self.growth * self.machine.model + self.config.baseline.scratch * self.machine.moving / 2
        mine, all_text = self.machine.amounts.sides()[0], self.amounts.sides()[0]
        more = min(FREQUENCY_LINES, all_text.lines) - min(FREQUENCY_LINES, mine.lines)
        seconds += self.machine.sized[TOKENS].slope * max(more, 0) * mine.characters / max(mine.lines, 1.0)
        if self.config.embeddings.initialisation not in STATIC_VECTORS:
            return seconds
        return seconds * self.amounts.work(self.config)[EMBEDDINGS] / self.machine.amounts.work(self.config)[EMBEDDINGS]

    def _diagnosis(self) -> float:
        more = self.config.diagnosis.head_updates - self.machine.diagnosis_updates
        return self.growth * self.machine.diagnosis + more * self.machine.diagnosis_update

    def _linking(self) -> float:
        """Seconds more than in the rehearsal that counting linked pairs takes, once."""
        times = self.amounts.pair_source.lines / max(self.machine.amounts.pair_source.lines, 1.0)
        return self.machine.linking * (times - 1)

    def disk(self, parameters: int) -> dict[str, float]:
        """Bytes that each step leaves in the run folder.

        Args:
            parameters: of the model.
        """
        found, (mine, now) = self.machine.disk, (self.machine.amounts, self.amounts)
        text = [sum(part.characters for part in (*of.sides(), of.pair_source, of.pair_target)) for of in (mine, now)]
        pairs = now.pair_source.lines / max(mine.pair_source.lines, 1.0)
        more = text[1] / max(text[0], 1.0)
        factors = {CORPUS: more, TOKENS: more, WORD_LINKS: pairs}
        grown = {name: found[name] * factors.get(name, self.growth) for name in found if name not in (MODEL, EXPORT)}
        model = FLOAT_BYTES * parameters
        return {**grown, MODEL: found[MODEL] * self.growth + self.config.baseline.scratch * model, EXPORT: model}

    def memory(self, width: int, source_entries: int) -> dict[str, float]:
        """Bytes that each step before the model needs at its peak, besides what the program itself takes.

        Args:
            width: of the word table. source_entries: of the encoder's.
        """
        sides = self.amounts.sides()
        lines = sum(part.lines for part in self.prepared.sides()) + self.prepared.pair_source.lines
        table = FLOAT_BYTES * width * self.vocabulary
        tables = 6 * (table + FLOAT_BYTES * width * source_entries)
        vectors = sum(vector_tokens(sides, self.config.embeddings.max_tokens))
        return {
            CORPUS: LINE_BYTES * lines,
            VOCABULARY: WORD_BYTES * sum(part.characters for part in sides) / WORD_CHARACTERS,
            TOKENS: 2 * ID_BYTES * max(part.tokens for part in sides),
            WORD_LINKS: CELL_BYTES * self.amounts.cells,
            EMBEDDINGS: 3 * table + 2 * ID_BYTES * vectors,
            ALIGNMENT: tables + FLOAT_BYTES * CHUNK_ROWS * max(self.vocabulary, source_entries),
            MODEL: tables,
        }
