"""What can be told before anything is written: the encoder, the device, the evaluation sets."""

from __future__ import annotations

import copy

from trelm.corpus.files import expand
from trelm.errors import ConfigError
from trelm.evaluation.translation import read_dictionary
from trelm.model.families import usable_positions
from trelm.model.source import set_dropout
from trelm.stages import plan_updates
from trelm.steps.context import Context
from trelm.steps.preparation import evaluation_sentences
from trelm.steps.training import planned_stages, stage_settings
from trelm.vocabulary import check_tokenizer


def preflight(context: Context, *, stages: bool = True) -> None:
    """Refuse at once what would otherwise be refused after an hour.

    Args:
        stages: whether the budget must be enough for the stages of a run; those of a comparison's arms are others.

    Raises:
        ConfigError: the encoder does not load or is of no known family, the device is not there, or sequences are to be
            longer than the encoder has positions.
        BudgetError: a budget in updates is too small for the stages.
        DataError: an evaluation set cannot be read.
    """
    check_tokenizer(context.pretrained.tokenizer)
    training = context.config.training
    set_dropout(copy.deepcopy(context.pretrained.config), training.hidden_dropout, training.attention_dropout)
    positions, wanted = usable_positions(context.pretrained.config), context.config.training.max_length
    if positions is not None and wanted > positions:
        raise ConfigError(
            f"training.max_length: expected at most {positions}, the positions of {context.config.source.model}, "
            f"found {wanted}; lower it"
        )
    if stages and context.config.budget.updates is not None:
        shares = {stage.name: stage_settings(context, stage).share for stage in planned_stages(context.config)}
        plan_updates(context.config.budget.updates, "updates", shares, dict.fromkeys(shares, 1.0))
    context.device  # noqa: B018  (raises where it is not there)
    for task in context.config.evaluation:
        if task.task == "translation":
            read_dictionary([path for pattern in task.test for path in expand(pattern)])
    for _ in evaluation_sentences(context.config.evaluation):
        pass
