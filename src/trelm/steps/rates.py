"""How fast this machine does the steps of a run, as a rehearsal has measured it, and how that grows with the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trelm.config import Config
from trelm.embeddings import MAX_REPEATS
from trelm.steps.context import CORPUS, EMBEDDINGS, TOKENS, VOCABULARY, WORD_LINKS

LEAST_SLOPE = 0.5  # of what all of a sample's time is a unit of work: two short measurements tell no less reliably


@dataclass(frozen=True)
class Part:
    """Text of one side as the corpus step leaves it: lines, characters, and tokens of the joint vocabulary."""

    lines: float
    characters: float
    tokens: float

    def __add__(self, other: Part) -> Part:
        return Part(self.lines + other.lines, self.characters + other.characters, self.tokens + other.tokens)

    def times(self, factor: float) -> Part:
        """So much of the same."""
        return Part(self.lines * factor, self.characters * factor, self.tokens * factor)


@dataclass(frozen=True)
class Amounts:
    """How much text goes through the steps.

    Attributes:
        read: characters that the corpus step reads.
        source, target: text of each language without that of the pairs, whose sides are `pair_source`, `pair_target`.
        cells: source tokens times target tokens, summed over the pairs.
    """

    read: float
    source: Part
    target: Part
    pair_source: Part
    pair_target: Part
    cells: float

    def sides(self) -> tuple[Part, Part]:
        """Training text of each language."""
        return self.source + self.pair_source, self.target + self.pair_target

    def scaled(self, *, source: float, target: float, pairs: float, read: float) -> Amounts:
        """The same kinds of text in other amounts."""
        return replace(
            self,
            read=read,
            source=self.source.times(source),
            target=self.target.times(target),
            pair_source=self.pair_source.times(pairs),
            pair_target=self.pair_target.times(pairs),
            cells=self.cells * pairs,
        )

    def work(self, config: Config) -> dict[str, float]:
        """What the time of each step that grows with the text is proportional to."""
        pairs = self.pair_source.lines
        trained = min(1.0, (config.word_links.max_pairs or pairs) / max(pairs, 1.0))
        sides = self.sides()
        kept = sum(part.characters for part in (*sides, self.pair_source, self.pair_target))
        return {
            CORPUS: self.read,
            VOCABULARY: _balanced(sides, config.vocabulary.max_lines),
            TOKENS: kept,
            WORD_LINKS: self.cells * (config.word_links.iterations * trained + 1),
            EMBEDDINGS: sum(vector_tokens(sides, config.embeddings.max_tokens)) * config.embeddings.epochs,
        }


def vector_tokens(sides: tuple[Part, Part], most: int | None) -> tuple[float, ...]:
    """Tokens of each language that skip-gram reads in an epoch: see `trelm.embeddings.skip_gram`."""
    budget = max(part.tokens for part in sides)
    budget = budget if most is None else min(budget, most)
    return tuple(min(budget, MAX_REPEATS * part.tokens) for part in sides)


def _balanced(sides: tuple[Part, Part], most_lines: int) -> float:
    """Characters that the vocabulary is trained on: see `trelm.corpus.balance.balanced_lines`."""
    characters = [part.characters for part in sides]
    limits = [most_lines * part.characters / max(part.lines, 1.0) for part in sides]
    return 2 * min(max(characters), MAX_REPEATS * min(characters), *limits)


@dataclass(frozen=True)
class Line:
    """Seconds by work: `fixed` for none, `slope` more for each unit."""

    fixed: float
    slope: float

    def at(self, work: float) -> float:
        """Seconds of so much work."""
        return self.fixed + self.slope * work

    @staticmethod
    def through(small: tuple[float, float] | None, large: tuple[float, float]) -> Line:
        """The line through two measurements, each (work, seconds); all of the time is the work's where there is one.

        Neither part is below 0, and the slope not below half of what it would be without a fixed part: what is measured
        is short, and other programs disturb it.
        """
        work, seconds = max(large[0], 1.0), large[1]
        slope = seconds / work
        if small is not None and large[0] > small[0]:
            slope = min(slope, max((seconds - small[1]) / (large[0] - small[0]), LEAST_SLOPE * slope))
        return Line(seconds - slope * work, slope)


@dataclass(frozen=True)
class HeadCost:
    """Of fitting a masked-LM head: an update; and what surrounds the updates, for so many characters and lines.

    Attributes:
        update: seconds. around: seconds of encoding `text` and scoring `held_out` lines twice. is_kept: whether an
            earlier run has left the head.
    """

    update: float
    around: float
    text: Part
    held_out: int
    is_kept: bool


@dataclass(frozen=True)
class AlignmentCost:
    """Of the alignment of tables with `rounds` rounds of refinement.

    Attributes:
        seconds: of all. a_round: of one round. refinements: that were done, those of random maps included.
        game_step, game_epoch: of the adversarial game; 0 where it is not played.
    """

    seconds: float
    rounds: int
    a_round: float
    refinements: int
    game_step: float = 0.0
    game_epoch: float = 0.0


@dataclass(frozen=True)
class ScoringCost:
    """Of evaluation: a held-out line for one model, a pair for all CdLM losses, what does not grow; and the export."""

    line: float
    pair: float
    fixed: float
    export: float


@dataclass(frozen=True)
class Machine:
    """What a rehearsal has found.

    Attributes:
        amounts: of the sample. whole: whether it was all of the text. held_out: lines of it, pairs of it.
        sized: seconds of the steps that grow with the text, by their work.
        vocabulary: entries. head: None where none is fitted.
        model: seconds of building the models before training. diagnosis: with `diagnosis_updates` of the head,
            `diagnosis_update` each. linking: seconds of counting linked pairs, which the steps after the alignment do.
        moving: of loading a model and saving it. combination: of the halves.
        per_update: seconds of an update of each stage.
        disk: bytes of each step's folder.
    """

    amounts: Amounts
    whole: bool
    held_out: tuple[int, int]
    sized: Mapping[str, Line]
    vocabulary: int
    head: HeadCost | None
    alignment: AlignmentCost
    model: float
    diagnosis: float
    diagnosis_updates: int
    diagnosis_update: float
    linking: float
    moving: float
    combination: float
    scoring: ScoringCost
    per_update: Mapping[str, float]
    disk: Mapping[str, int]
