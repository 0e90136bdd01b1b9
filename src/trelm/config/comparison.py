"""What `trelm compare` compares."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from trelm.config.section import Section
from trelm.errors import did_you_mean

ArmName = Literal[
    "trelm-recommended",
    "trelm-paper",
    "trelm-stages",
    "scratch",
    "source-tokenizer",
    "random",
    "pieces",
    "counts",
    "wechsel",
    "focus",
    "recommended-rows",
    "frozen-body",
    "no-tri-layer",
    "no-ordering",
    "no-cdlm",
    "one-direction",
    "joint",
    "no-combination",
    "adversarial",
]
ARM_NAMES: tuple[str, ...] = get_args(ArmName)
SHARED = (
    *("source", "target", "parallel", "corpus", "evaluation", "budget", "seed", "recipe", "comparison", "card"),
    "training.mask_rate",
)
"""What all cells have alike, so that they can be compared: no variant has its own."""


_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


class ComparisonConfig(Section):
    """`trelm compare`: each arm with each seed is a cell, and each cell may cost what `budget` says."""

    arms: tuple[str, ...] = Field(
        ("trelm-recommended", "scratch", "counts", "random"), min_length=1, description="see docs/how-to/compare.md"
    )
    variants: dict[str, dict[str, Any]] = Field(
        {},
        description="arms of your own: 'arm+name', an arm with settings changed, each as 'section.key: value'; to be "
        "named under arms, too",
    )
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="of training; what is prepared is shared")
    evaluations: int = Field(8, ge=1, description="points of a learning curve besides the start")
    curve_lines: int = Field(300, ge=10, description="held-out lines that a point of a learning curve is scored on")

    @field_validator("arms", "seeds")
    @classmethod
    def _once(cls, value: tuple[str | int, ...]) -> tuple[str | int, ...]:
        twice = [one for one in value if value.count(one) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' stands twice; name it once")
        return value

    @model_validator(mode="after")
    def _known_arms(self) -> ComparisonConfig:
        for name in self.variants:
            arm, plus, own = name.partition("+")
            if arm not in ARM_NAMES or not plus or not _OWN_NAME.fullmatch(own):  # it names folders
                raise ValueError(
                    "variants: expected names like 'counts+mine', an arm and a name of yours (letters, digits, - _ .), "
                    f"found '{name}' "
                    f"(arms: {', '.join(ARM_NAMES)}){did_you_mean(arm, ARM_NAMES)}"
                )
            self._refuse_shared(name)
        known = (*ARM_NAMES, *self.variants)
        for name in self.arms:
            if name not in known:
                raise ValueError(f"arms: unknown arm '{name}' (known: {', '.join(known)}){did_you_mean(name, known)}")
        return self

    def _refuse_shared(self, name: str) -> None:
        for place in self.variants[name]:
            if place in SHARED or place.partition(".")[0] in SHARED:
                raise ValueError(
                    f"variants.{name}: expected settings of training or of what is trained, found '{place}', which all "
                    "cells have alike; make another comparison with it"
                )
