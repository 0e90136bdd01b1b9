"""What models are judged by: evaluation sets, and how models are tuned for those that have training data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trelm.config.section import Section

TUNED = ("classification", "tagging", "entities", "parsing", "roles")
"""Tasks that a model is tuned for; their sets without `train` serve as text."""
HELD_OUT_SCORES = ("bits_per_character", "unit_accuracy", "masked_accuracy", "masked_loss")
"""What every model is scored by on held-out text: they stand beside the sets in a comparison."""


class FineTuningConfig(Section):
    """How a model is tuned for a task; null: what suits the task."""

    learning_rates: tuple[float, ...] | None = Field(
        None, min_length=1, description="of the encoder, each tried with the first seed; the best on dev is kept"
    )
    head_learning_rate: float | None = Field(None, gt=0, description="of the task's own layers")
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="each a tuning of its own; scores are means")
    epochs: int | None = Field(None, ge=1, description="passes over train, at most")
    patience: int = Field(3, ge=1, description="epochs without a better score on dev after which tuning stops")
    batch_tokens: int = Field(2048, ge=16, description="tokens of a batch, padding counted")
    max_length: int = Field(256, ge=8, description="tokens of an example, special ones counted; longer are cut")
    max_train: int | None = Field(None, ge=1, description="at most so many examples of train, drawn evenly")
    max_dev: int | None = Field(None, ge=1, description="at most so many examples of dev, drawn evenly")

    @field_validator("learning_rates")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and min(value) <= 0:
            raise ValueError(f"learning_rates: expected numbers above 0, found {min(value):g}")
        return value

    @field_validator("seeds")
    @classmethod
    def _once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("seeds: expected each seed once; remove the one that stands twice")
        return value


class EvaluationConfig(Section):
    """One evaluation set; the sentences of its dev and test are removed from the training text."""

    task: Literal["translation", "text", "classification", "tagging", "entities", "parsing", "roles", "retrieval"] = (
        Field(
            description="translation: dictionary 'source<TAB>target' for precision@k of the aligned table; "
            "text: text in the target language, for bits per character; "
            "classification: of a text or of a pair, JSON lines {text, label} or {text_a, text_b, label}, or TSV; "
            "tagging: CoNLL columns, token first, tag last, or the UPOS of CoNLL-U; entities: the same, IOB tags; "
            "parsing: CoNLL-U; roles: CoNLL-U with the columns of Universal PropBank; "
            "retrieval: 'sentence<TAB>its translation'"
        )
    )
    name: str | None = Field(None, description="name in the report; the task's name where absent")
    train: tuple[str, ...] = Field((), description="files that the task's own model trains on")
    dev: tuple[str, ...] = Field((), description="files that it is chosen on")
    test: tuple[str, ...] = Field((), description="files that it is scored on")
    test_from_dev: float | None = Field(
        None, gt=0, lt=1, description="where there is no test: this share of dev, its end, is the test instead"
    )
    train_language: str | None = Field(
        None, min_length=1, description="language of train and dev where it is not the test's (zero-shot)"
    )
    fine_tuning: FineTuningConfig = FineTuningConfig()

    @property
    def label(self) -> str:
        """The set's name in reports."""
        return self.name or self.task

    @property
    def is_tuned(self) -> bool:
        """Whether a model is tuned for it."""
        return self.task in TUNED and bool(self.train)

    @field_validator("train", "dev", "test", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def takes_encoder(self) -> bool:
        """Whether a bare encoder is judged, tuned or not, rather than a masked language model."""
        return self.is_tuned or self.task == "retrieval"

    @property
    def lacks(self) -> str | None:
        """What is missing for tuning or retrieval, in words; None where nothing is, or where the set is for neither."""
        if self.is_tuned and not self.dev:
            return f"'{self.label}' has train and no dev; name files under dev: a model is chosen on them"
        if self.is_tuned and not self.test and self.test_from_dev is None:
            return f"'{self.label}' has train and no test; name files under test, or give test_from_dev"
        if self.task == "retrieval" and not self.test and self.test_from_dev is None:
            return f"'{self.label}' has no test; name files under test, or give test_from_dev"
        return None

    @model_validator(mode="after")
    def _one_test(self) -> EvaluationConfig:
        if self.test_from_dev is not None and self.test:
            raise ValueError(f"'{self.label}' has both test and test_from_dev; leave one out")
        if self.test_from_dev is not None and not self.dev:
            raise ValueError(f"'{self.label}' has test_from_dev and no dev; name files under dev")
        if self.test_from_dev is not None and self.train_language is not None:
            raise ValueError(
                f"'{self.label}' has train_language and test_from_dev: dev is not in the test's language; "
                "name files under test"
            )
        return self


def require_distinct(tasks: tuple[EvaluationConfig, ...]) -> None:
    """Raises ValueError where two sets have one name, or one has that of a score on held-out text."""
    labels = [task.label for task in tasks]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise ValueError(f"two evaluation sets are called '{twice[0]}'; give each its own name")
    taken = [label for label in labels if label in HELD_OUT_SCORES]
    if taken:
        raise ValueError(f"an evaluation set is called '{taken[0]}', as a score on held-out text is; rename it")


class TasksConfig(Section):
    """A file of evaluation sets."""

    evaluation: tuple[EvaluationConfig, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> TasksConfig:
        require_distinct(self.evaluation)
        return self
