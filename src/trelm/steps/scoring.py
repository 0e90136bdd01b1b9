"""Masked-text scores of a run's models: the same words are masked for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trelm.evaluation.intrinsic import masked_text_scores
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.families import usable_positions
from trelm.steps.context import Context, Figures

EVALUATION_BATCH_TOKENS = 8192


def score_text(context: Context, model: TrelmForMaskedLM, lines: Sequence[str], on_progress: Any = None) -> Figures:
    """Masked-text scores with the run's own masks: the same for every model of the run."""
    scores = masked_text_scores(
        model,
        context.tokenizer,
        lines,
        mask_rate=context.config.training.mask_rate,
        seed=context.config.seed,
        batch_tokens=EVALUATION_BATCH_TOKENS,
        max_length=scored_length(context),
        device=context.device,
        precision=context.precision,
        on_progress=on_progress,
    )
    return scores.as_dict()


def scored_length(context: Context) -> int:
    """Tokens of a scored line: twice what training reads, so that few lines are cut, within the encoder's positions."""
    longest = usable_positions(context.source.config)
    wanted = 2 * context.config.training.max_length
    return wanted if longest is None else min(wanted, longest)
