"""What the cells of a comparison are scored on: the same words masked in the same held-out lines for all."""

from __future__ import annotations

from typing import Any

import numpy as np

from trelm.comparison.cell import Cell
from trelm.evaluation.intrinsic import masked_text_scores
from trelm.model.encoder import TrelmForMaskedLM
from trelm.steps.scoring import EVALUATION_BATCH_TOKENS

HELD_OUT = "target-held-out.txt"


def score(cell: Cell, model: TrelmForMaskedLM, lines: list[str]) -> dict[str, Any]:
    """Masked-text scores; every cell of a comparison has the same words masked."""
    training = cell.config.training
    longest = model.config.max_position_embeddings or 2 * training.max_length
    return masked_text_scores(
        model,
        cell.tokenizer,
        lines,
        mask_rate=training.mask_rate,
        seed=cell.mask_seed,
        batch_tokens=EVALUATION_BATCH_TOKENS,
        max_length=min(2 * training.max_length, longest),
        device=cell.context.device,
        precision=cell.context.precision,
    ).as_dict()


def point(cell: Cell, model: TrelmForMaskedLM) -> float:
    """Bits per character on an even sample of the held-out lines: a point of the learning curve."""
    lines, wanted = cell.context.lines(HELD_OUT), cell.config.comparison.curve_lines
    chosen = np.unique(np.linspace(0, len(lines) - 1, min(wanted, len(lines))).astype(int))
    return float(score(cell, model, [lines[int(number)] for number in chosen])["bits_per_character"])


def points_within(updates: dict[str, int], evaluations: int) -> dict[str, list[int]]:
    """The updates of each stage after which the curve has a point: spread evenly over all, the last one among them."""
    total, before, found = sum(updates.values()), 0, {}
    marks = np.unique(np.round(np.linspace(0, total, evaluations + 1)[1:]).astype(int))
    for name, count in updates.items():
        found[name] = [int(mark) - before for mark in marks if before < mark <= before + count]
        before += count
    return found
