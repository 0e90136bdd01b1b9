"""The values of a run that a model card is made of."""

from __future__ import annotations

import copy
from typing import Any

CARD: dict[str, Any] = {
    "languages": {"source": "en", "target": "no"},
    "base_model": "some/encoder",
    "models": {
        "transferred": {"bits_per_character": 1.23449, "masked_accuracy": 0.45678, "masked_loss": 2.71828},
        "scratch": {"bits_per_character": 2.5, "masked_accuracy": 0.1, "masked_loss": 4.0},
    },
    "baseline_rule": "The model from scratch had the same hours.",
    "budget": "2 hours, 300 updates",
    "alignment": {"method": "identical", "criterion": 0.7},
    "text": {"train.no": 123456, "valid.no": 789},
    "stages": {
        "commonality": {"updates": 1200, "tokens": 9876543},
        "language_specific": {"updates": 34, "tokens": 56},
    },
    "seed": 4711,
}


def without(path: str) -> dict[str, Any]:
    """The card's values but one."""
    values = copy.deepcopy(CARD)
    *above, last = path.split(".")
    inner = values
    for key in above:
        inner = inner[key]
    del inner[last]
    return values
