"""The arms of a comparison as data: from where each starts, and what it trains on, in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trelm.config import Config, StageConfig, lay_over, make_config, recipe_values
from trelm.errors import ConfigError
from trelm.stages import (
    COMMONALITY,
    CROSS_LINGUAL,
    EVERYTHING,
    START,
    TARGET_TEXT,
    TRANSFER_LOWER,
    TRANSFER_UPPER,
    Feed,
    Feeds,
    Stage,
)
from trelm.steps.context import ALIGNMENT, EMBEDDINGS, HEAD, WORD_LINKS
from trelm.steps.training import planned_stages, section_of

MASKED, JOINT = "masked", "joint"
TRANSFERS = (TRANSFER_UPPER, TRANSFER_LOWER)


@dataclass(frozen=True)
class CellStage:
    """A stage of an arm, and how it trains."""

    stage: Stage
    settings: StageConfig


Program = Callable[[Config], tuple[CellStage, ...]]


@dataclass(frozen=True)
class Arm:
    """One way to a model of the target language.

    Attributes:
        description: one line for readers. program: the stages that train. start: `rows`: the source encoder with rows
            as `embeddings.initialisation` says; `random`: random weights; `source`: the source encoder and its own
            tokenizer. prepares: steps of preparation that it needs besides corpus, vocabulary and tokens. overrides:
            settings laid over the comparison's, section by section; changes: more of them, each as `section.key`, over
            these. has_tri_layer: whether there is one where the settings have one; without it and without CdLM the
            model is the source's plain class. reads_pairs: whether it trains on pairs; their target side is among the
            text of every arm. orders: whether pairs are reordered along word links.
    """

    description: str
    program: Program
    start: Literal["rows", "random", "source"] = "rows"
    prepares: tuple[str, ...] = (HEAD, WORD_LINKS, EMBEDDINGS, ALIGNMENT)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    has_tri_layer: bool = True
    reads_pairs: bool = True
    orders: bool = True

    def configure(self, config: Config, seed: int) -> Config:
        """The comparison's configuration with the arm's settings and a seed.

        Raises:
            ConfigError: the settings do not fit, as `wechsel` without a dictionary, or lack what the arm changes.
        """
        values = config.model_dump(exclude={"budget"})
        values["budget"] = config.budget.model_dump(exclude_none=True)
        values = lay_over(values, self.overrides)
        for place, value in self.changes.items():
            values = lay_over(values, _nested(place, value))
        made = make_config({**values, "seed": seed}, origin="comparison")
        self.program(made)
        return made


def configured(config: Config) -> tuple[CellStage, ...]:
    """The stages that the configuration gives a share, as a run of its own has them (METHOD section 5)."""
    return _with_settings(config, planned_stages(config))


def masked(config: Config) -> tuple[CellStage, ...]:
    """Masked language modelling of target text, everything trains."""
    return (CellStage(Stage(MASKED, EVERYTHING, START, TARGET_TEXT), _whole(config.stages.language_specific)),)


def from_scratch(config: Config) -> tuple[CellStage, ...]:
    """The same at the rate of random weights."""
    return (CellStage(Stage(MASKED, EVERYTHING, START, TARGET_TEXT), _whole(config.stages.scratch)),)


def frozen_body(config: Config) -> tuple[CellStage, ...]:
    """The same, but the body is frozen: embeddings and head alone learn the language (Artetxe et al. 2020)."""
    return (CellStage(Stage(MASKED, frozenset({"shared"}), START, TARGET_TEXT), _whole(config.stages.commonality)),)


def without_cross_lingual(config: Config) -> tuple[CellStage, ...]:
    """The published stages, target text in the place of pairs."""
    return tuple(
        replace(part, stage=replace(part.stage, feeds=_without_pairs(part.stage.feeds))) for part in configured(config)
    )


def one_direction(config: Config) -> tuple[CellStage, ...]:
    """Only the upper half is transferred; what follows starts from there."""
    return _chained(_with_halves(config, "one-direction"), leave_out=(TRANSFER_LOWER,))


def joint(config: Config) -> tuple[CellStage, ...]:
    """Both directions in one stage in which both halves train."""
    feeds: Feeds = (
        ("source-to-target", 0.25),
        ("target-to-source", 0.25),
        ("target-text", 0.5),
    )
    upper, lower = config.stages.transfer_upper, config.stages.transfer_lower
    both = CellStage(Stage(JOINT, EVERYTHING, COMMONALITY, feeds), _with_share(upper, upper.share + lower.share))
    parts = _with_halves(config, JOINT)
    first = next(number for number, part in enumerate(parts) if part.stage.name in TRANSFERS)
    return _chained((*parts[:first], both, *parts[first:]), leave_out=TRANSFERS)


def without_combination(config: Config) -> tuple[CellStage, ...]:
    """Upper half, then lower half from there; nothing is averaged."""
    return _chained(_with_halves(config, "no-combination"))


def _with_halves(config: Config, arm: str) -> tuple[CellStage, ...]:
    """The configured stages, for an arm that changes how the halves are transferred.

    Raises:
        ConfigError: neither half has a stage of its own.
    """
    parts = configured(config)
    if not any(part.stage.name in TRANSFERS for part in parts):
        raise ConfigError(
            f"comparison.arms: expected a share of stages.transfer_upper or stages.transfer_lower, which '{arm}' "
            "changes, found 0; leave the arm out"
        )
    return parts


def _with_settings(config: Config, stages: tuple[Stage, ...]) -> tuple[CellStage, ...]:
    return tuple(CellStage(stage, section_of(config, stage)) for stage in stages)


def _without_pairs(feeds: Feeds) -> Feeds:
    """Target text in the place of CdLM."""
    shares: dict[Feed, float] = {}
    for feed, share in feeds:
        name: Feed = "target-text" if feed in CROSS_LINGUAL else feed
        shares[name] = shares.get(name, 0.0) + share
    return tuple(shares.items())


def _chained(parts: tuple[CellStage, ...], leave_out: tuple[str, ...] = ()) -> tuple[CellStage, ...]:
    """The stages one after the other, each starting from the one before."""
    kept = [part for part in parts if part.stage.name not in leave_out]
    starts = [START, *(part.stage.name for part in kept)]
    return tuple(replace(part, stage=replace(part.stage, starts_from=start)) for part, start in zip(kept, starts))


def _with_share(settings: StageConfig, share: float) -> StageConfig:
    return settings.model_copy(update={"share": share})


def _whole(settings: StageConfig) -> StageConfig:
    """The same for a stage that has the whole budget."""
    return _with_share(settings, 1.0)


def reorders(parts: tuple[CellStage, ...]) -> bool:
    """Whether a stage reads states in another sentence's order."""
    return any(feed in CROSS_LINGUAL for part in parts for feed, _ in part.stage.feeds)


def _rival(description: str, rows: str, *prepares: str, program: Program = masked) -> Arm:
    """An arm whose model has the source's own layers and whose embeddings start in a known way."""
    return Arm(
        description,
        program,
        prepares=(HEAD, *prepares),
        overrides={"embeddings": {"initialisation": rows}},
        has_tri_layer=False,
        reads_pairs=False,
    )


def _of_stages(description: str, program: Program = configured, *, tri_layer: bool = True, orders: bool = True) -> Arm:
    """The arm of all published stages with a part changed, whatever stages are configured."""
    return Arm(description, program, overrides=STAGES, has_tri_layer=tri_layer, orders=orders)


SHARES = {"commonality": 6, "transfer_joint": 0, "transfer_upper": 7, "transfer_lower": 7, "language_specific": 72,
          "plain": 8}  # fmt: skip
"""Of the budget, for the published stages and the plain one: most of it for target text."""

STAGES = {"stages": {name: {"share": share} for name, share in SHARES.items()}, "model": {"tri_layer": True}}

AS_PUBLISHED = {"schedule": "linear", "body_learning_rate": None, "mask_rate": None}
"""What the paper has no setting of its own for in a stage: one rate, and `training.mask_rate`."""

PAPER = {
    "stages": {
        "transfer_joint": {"share": 0},
        **{name: AS_PUBLISHED | settings for name, settings in recipe_values("paper")["stages"].items()},
    },
    "model": {"tri_layer": True},
    "embeddings": {"initialisation": "trelm", "copy_shared": False, "min_links": None},
    "alignment": {"method": "adversarial", "normalisation": "none", "restarts": 0},
    "training": {"cross_lingual_labels": 1.0},
}
ADVERSARIAL = {
    "embeddings": {"initialisation": "trelm", "copy_shared": False, "min_links": None},
    "alignment": {"method": "adversarial"},
}

ARMS: dict[str, Arm] = {
    "trelm-recommended": Arm("TreLM as configured", configured),
    "trelm-paper": Arm(
        "TreLM with the published stages, rates and table; batches, vocabulary and the game's length as configured",
        configured,
        overrides=PAPER,
    ),
    "trelm-stages": _of_stages("TreLM with all published stages; vocabulary, rows and rates as configured"),
    "scratch": Arm(
        "TreLM's architecture from random weights", from_scratch, start="random", prepares=(), reads_pairs=False
    ),
    "source-tokenizer": Arm(
        "the source encoder, its own tokenizer kept, trained on",
        masked,
        start="source",
        prepares=(HEAD,),
        has_tri_layer=False,
        reads_pairs=False,
    ),
    "random": _rival("source body, rows drawn at random", "random"),
    "pieces": _rival("source body, rows as means of the source's pieces (FVT)", "pieces"),
    "counts": _rival("source body, rows mixed by word-link counts (RAMEN)", "counts", WORD_LINKS),
    "wechsel": _rival("source body, rows by WECHSEL with a dictionary", "wechsel"),
    "focus": _rival("source body, rows by FOCUS", "focus"),
    "recommended-rows": _rival(
        "source body, rows as recommended here", "recommended", WORD_LINKS, EMBEDDINGS, ALIGNMENT
    ),
    "frozen-body": _rival(
        "body frozen, embeddings and head trained (Artetxe et al. 2020)", "random", program=frozen_body
    ),
    "no-tri-layer": _of_stages(
        "trelm-stages without its TRILayer: what it would read goes straight into the upper half", tri_layer=False
    ),
    "no-ordering": _of_stages("trelm-stages without reordering: position j reads position j", orders=False),
    "no-cdlm": _of_stages("trelm-stages with target text in the place of CdLM", without_cross_lingual),
    "one-direction": _of_stages("trelm-stages that transfers the upper half only", one_direction),
    "joint": _of_stages("trelm-stages that transfers both halves in one stage", joint),
    "no-combination": _of_stages(
        "trelm-stages whose halves are transferred in turn, not averaged", without_combination
    ),
    "adversarial": Arm(
        "TreLM as configured, from the table that the adversarial game aligned", configured, overrides=ADVERSARIAL
    ),
}


def arm_named(config: Config, name: str) -> Arm:
    """An arm, or one of the configuration's variants of it."""
    arm = ARMS[name.partition("+")[0]]
    changes = config.comparison.variants.get(name)
    if changes is None:
        return arm
    words = ", ".join(f"{place} = {value}" for place, value in changes.items())
    return replace(arm, description=f"{arm.description}; {words}", changes=changes)


def _nested(place: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as `{"a": {"b": value}}`."""
    first, _, rest = place.partition(".")
    return {first: _nested(rest, value) if rest else value}
