"""What `comparison.json` and the results of its cells hold: typed, with every part optional that they may lack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trelm.errors import RunFolderError
from trelm.report.schema import Diagnosis, Example, Languages, Part, Scores, StepCost, check_lengths, validated

COMPARISON = "comparison.json"
RESULTS = "results"


class LearningCurve(Part):
    """Bits per character of held-out text; the first point is before training, the columns count from there."""

    updates: list[float | None] = Field([])
    tokens: list[float | None] = Field([])
    seconds: list[float | None] = Field([])
    flops: list[float | None] = Field([])
    bits_per_character: list[float | None] = Field([])

    @model_validator(mode="after")
    def _equally_long(self) -> LearningCurve:
        columns = {name: getattr(self, name) for name in ("updates", "tokens", "seconds", "flops")}
        check_lengths(len(self.bits_per_character), **columns)
        return self


class CellCost(StepCost):
    """What a cell cost; what is prepared once for all seeds counts in `preparation_seconds`."""

    preparation_seconds: float | None = None
    parameters: float | None = None


class TaskScores(Part):
    """The scores of one set; what is no number among them is left out."""

    task: str | None = None
    metric: str | None = None
    scores: dict[str, float | None] = Field({})

    @field_validator("scores", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        kept = (int, float, type(None))
        return {key: one for key, one in value.items() if isinstance(one, kept)} if isinstance(value, dict) else value


class Cell(Part):
    """The result of one arm with one seed; `metrics` has the main score of each set beside those of held-out text.

    `scores` has all that is known of the held-out text, `masked_units` and `dropped_units` among it.
    """

    arm: str
    seed: int
    metrics: dict[str, float | None] = Field({})
    tasks: dict[str, TaskScores] = Field({})
    curve: LearningCurve = LearningCurve()
    cost: CellCost = CellCost()
    start: Scores | None = None
    scores: dict[str, float | None] = Field({})
    examples: list[Example] = Field([])
    device: str | None = None
    precision: str | None = None
    versions: dict[str, Any] = Field({})


class Task(Part):
    """What a set asks and what its main score is."""

    task: str | None = None
    metric: str | None = None


class WordLinks(Part):
    """Links between the tokens of one pair of sentences, as (source position, target position) from 0."""

    source: list[str]
    target: list[str]
    forward: list[tuple[int, int]] = Field([])
    reverse: list[tuple[int, int]] = Field([])

    @model_validator(mode="after")
    def _inside(self) -> WordLinks:
        for i, j in (*self.forward, *self.reverse):
            if not (0 <= i < len(self.source) and 0 <= j < len(self.target)):
                raise ValueError(f"a link ({i}, {j}) of {len(self.source)} and {len(self.target)} tokens")
        return self


class Point(Part):
    """A row of the aligned tables in the plane; rows that translate each other share their `group`."""

    x: float
    y: float
    token: str
    side: Literal["source", "target"]
    group: int | None = None


class Projection(Part):
    """Some rows of the aligned tables in the plane."""

    method: str | None = None
    points: list[Point] = Field([])


class Comparison(Part):
    """The whole of `comparison.json`; `arms` in their order, each with one line on what it is."""

    title: str
    languages: Languages
    arms: dict[str, str]
    seeds: list[int]
    budget: dict[str, Any] | None = None
    budget_rule: str | None = None
    tasks: dict[str, Task] = Field({})
    failed: dict[str, str] = Field({})
    word_links: WordLinks | None = None
    projection: Projection | None = None
    diagnosis: Diagnosis | None = None
    config: str | None = None
    versions: dict[str, Any] | None = None


@dataclass(frozen=True)
class Grid:
    """A comparison with those of its cells that are done, arm by arm, and the names of those that are not.

    Attributes:
        missing: for each cell that is not done (`counts/seed-2`) the reason.
        strange: results in the folder that belong to no arm or seed of the comparison.
    """

    comparison: Comparison
    cells: tuple[Cell, ...]
    missing: dict[str, str]
    strange: tuple[str, ...]

    def of(self, arm: str) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.arm == arm)


def read_comparison(run: Path) -> Grid:
    """The comparison in the folder `run`, as far as it has come.

    Raises:
        RunFolderError: there is no `comparison.json`, or it or the result of a cell is damaged or not where it belongs.
    """
    path = run / COMPARISON
    if not path.is_file():
        raise RunFolderError(f"{path}: expected a comparison, found nothing there; run `trelm compare`, or check --run")
    comparison = validated(path, Comparison, "a comparison of ours")
    wanted = {f"{arm}/seed-{seed}": (arm, seed) for arm in comparison.arms for seed in comparison.seeds}
    found = {
        file.relative_to(run / RESULTS).with_suffix("").as_posix(): file
        for file in sorted((run / RESULTS).glob("*/*.json"))
    }
    return Grid(
        comparison,
        tuple(_read_cell(found[name], arm, seed) for name, (arm, seed) in wanted.items() if name in found),
        {name: comparison.failed.get(name, "not run yet") for name in wanted if name not in found},
        tuple(name for name in found if name not in wanted),
    )


def _read_cell(path: Path, arm: str, seed: int) -> Cell:
    cell = validated(path, Cell, "the result of a cell")
    if (cell.arm, cell.seed) != (arm, seed):
        raise RunFolderError(
            f"{path}: expected the result of {arm} with seed {seed}, found that of {cell.arm} with seed {cell.seed}; "
            "remove the file and run again"
        )
    return cell
