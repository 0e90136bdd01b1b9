"""What `report.json` holds: typed, with every part optional that a run may lack. Unknown keys are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from trelm.errors import RunFolderError
from trelm.workspace import read_json

REPORT = "report.json"
Kind = TypeVar("Kind", bound=BaseModel)


class Part(BaseModel):
    """A frozen mapping that keeps keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """The keys that have a value, unknown ones included."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Languages(Part):
    """Codes of the two languages."""

    source: str
    target: str


class Scores(Part):
    """Held-out scores of one model: bits per character, nats a masked token, shares between 0 and 1."""

    bits_per_character: float | None = None
    masked_accuracy: float | None = None
    masked_loss: float | None = None
    unit_accuracy: float | None = None


class Models(Part):
    """The models that are compared; `start` is the transferred one before any training."""

    transferred: Scores
    scratch: Scores | None = None
    start: Scores | None = None


class Candidate(Part):
    """One way of aligning the embedding spaces."""

    criterion: float | None = None
    precision_at_1: float | None = None
    precision_at_5: float | None = None
    seconds: float | None = None
    collapsed: bool | None = None


class Alignment(Part):
    """The way that was chosen, why, and all that were tried."""

    method: str | None = None
    reason: str | None = None
    precision_at_1: float | None = None
    precision_at_5: float | None = None
    chance_at_1: float | None = None
    queries: float | None = None
    criterion: float | None = None
    candidates: dict[str, Candidate] = {}


class Rows(Part):
    """Some entries of the new vocabulary: how many, their shares of all, of the target text's tokens, of its words."""

    entries: int | None = None
    share_of_entries: float | None = None
    share_of_tokens: float | None = None
    share_of_word_tokens: float | None = None
    norm_ratio: float | None = None


class Cut(Part):
    """How a tokenizer cuts held-out target text."""

    fertility: float | None = None
    characters_per_piece: float | None = None
    unknown_rate: float | None = None


class StartScores(Scores):
    """Scores of the model before training, or after updates of its head alone."""

    updates: int | None = None


class Diagnosis(Part):
    """What could be told before anything trained."""

    initialisation: str | None = None
    entries: dict[str, Rows] = {}
    rows: dict[str, Rows] = {}
    norm_ratio: float | None = None
    tokenizers: dict[str, Cut] = {}
    translation: dict[str, Any] | None = None
    held_out: dict[str, StartScores] = {}
    warnings: list[str] = []


class CorpusInput(Part):
    """Lines of one input: read, kept, and dropped by reason."""

    read: int | None = None
    kept: int | None = None
    dropped: dict[str, int] = {}


class Corpus(Part):
    """What went into the run and what came out of cleaning."""

    inputs: dict[str, CorpusInput] = {}
    outputs: dict[str, Any] = {}


class StepCost(Part):
    """What one step cost; of a stage whose weights were chosen, also what was planned and which update they are of."""

    seconds: float | None = None
    tokens: float | None = None
    flops: float | None = None
    updates: float | None = None
    planned_updates: float | None = None
    best_update: float | None = None


class HeldOutCurve(Part):
    """Held-out bits per character during a stage; `tokens` and `seconds` count from the start of the stage."""

    tokens: list[float | None] = []
    seconds: list[float | None] = []
    bits_per_character: list[float | None] = []

    @model_validator(mode="after")
    def _equally_long(self) -> HeldOutCurve:
        check_lengths(len(self.bits_per_character), tokens=self.tokens, seconds=self.seconds)
        return self


class Curve(Part):
    """Training loss of a stage; `tokens` and `seconds` count from the start of the stage."""

    tokens: list[float | None] = []
    seconds: list[float | None] = []
    loss: list[float | None] = []
    held_out: HeldOutCurve | None = None

    @model_validator(mode="after")
    def _equally_long(self) -> Curve:
        check_lengths(len(self.loss), tokens=self.tokens, seconds=self.seconds)
        return self


class Prediction(Part):
    """One guess for a masked token; the score is its probability."""

    token: str
    score: float | None = None


class Example(Part):
    """A sentence with a mask, the token that stood there where it is known, and the model's guesses, best first."""

    text: str
    truth: str | None = None
    predictions: list[Prediction] = []


class Report(Part):
    """The whole of `report.json`."""

    title: str
    languages: Languages
    models: Models
    unigram: Scores | None = None
    alignment: Alignment | None = None
    word_links: dict[str, Any] | None = None
    corpus: Corpus | None = None
    vocabulary: dict[str, Any] | None = None
    diagnosis: Diagnosis | None = None
    steps: dict[str, StepCost] = {}
    curves: dict[str, Curve] = {}
    cdlm: dict[str, Any] | None = None
    examples: list[Example] = []
    budget: dict[str, Any] | None = None
    export: dict[str, Any] | None = None
    seed: int | None = None
    versions: dict[str, Any] | None = None
    config: str | None = None
    baseline_rule: str | None = None


def read_report(folder: Path) -> Report:
    """The report of the run in `folder`.

    Raises:
        RunFolderError: there is no `report.json`, it is not JSON, or a part of it is not what it should be.
    """
    path = folder / REPORT
    if not path.is_file():
        raise RunFolderError(
            f"{path}: expected the report of a finished run, found nothing there; let the run end, or check the folder"
        )
    return validated(path, Report, "a report of ours")


def validated(path: Path, kind: type[Kind], what: str) -> Kind:
    """The JSON file `path` as a `kind`.

    Raises:
        RunFolderError: it is not JSON, or no `what` for the first reason that is found.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        message = problem["msg"].removeprefix("Value error, ")
        raise RunFolderError(
            f"{path}: expected {what}, found {where}: {message}; remove the file and run again"
        ) from None


def check_lengths(length: int, **columns: list[float | None]) -> None:
    """Refuse a curve whose x and y values are not equally many; an absent column is allowed."""
    for name, values in columns.items():
        if values and len(values) != length:
            raise ValueError(f"{length} values but {len(values)} {name}")
