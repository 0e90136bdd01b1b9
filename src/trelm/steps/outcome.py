"""How good the model is, the exported folder, and everything that the report shows (METHOD section 6)."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trelm.config import EvaluationConfig, dump_config
from trelm.corpus.ragged import Ragged
from trelm.errors import ConfigError
from trelm.evaluation.intrinsic import masked_text_scores, unigram_scores
from trelm.evaluation.units import split_units
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.families import usable_positions
from trelm.model.source import load_masked_lm, source_path
from trelm.progress import StepProgress
from trelm.stages import COMBINATION, CROSS_LINGUAL, SCRATCH, START, Stage, combines
from trelm.steps.context import (
    ALIGNMENT,
    CORPUS,
    DIAGNOSIS,
    EVALUATION,
    EXPORT,
    PLAN,
    VOCABULARY,
    WORD_LINKS,
    Context,
    Figures,
    use_all_cores,
)
from trelm.steps.initialisation import token_counts
from trelm.steps.scoring import EVALUATION_BATCH_TOKENS, score_text, scored_length
from trelm.steps.training import STAGE_FOLDERS, final_stage, load_model, planned_stages
from trelm.tasks.reading import read_sentences
from trelm.training.batches import IGNORED, CrossLingualExamples
from trelm.training.order import pack
from trelm.vocabulary import single_piece

EXAMPLES = 5
PREDICTIONS = 5
CDLM_PAIRS = 500


def evaluate_models(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """The transferred model, the from-scratch one and the one before training on held-out target text; CdLM loss."""
    use_all_cores()
    lines = context.lines("target-held-out.txt")
    names = {"start": START, "transferred": final_stage(context.config)}
    if context.config.baseline.scratch:
        names["scratch"] = SCRATCH
    models: Figures = {}
    for number, (name, stage) in enumerate(names.items()):
        model = load_model(context, stage)
        models[name] = score_text(context, model, lines, lambda done: tell.update(done, len(lines), "lines"))
        models[name].update(_task_scores(context, model))
        tell.note(f"{name}: {models[name]['bits_per_character']:.3f} bits per character ({number + 1}/{len(names)})")
    return {
        "models": models,
        "unigram": {"bits_per_character": score_unigram(context, lines)["bits_per_character"]},
        "cdlm": _cdlm_losses(context),
        "examples": fill_masks(context, load_model(context, final_stage(context.config)), lines),
    }


def task_lines(task: EvaluationConfig) -> list[str]:
    """The test sentences of a task that has text; the end of dev where the test is taken from there."""
    if task.test_from_dev is None:
        return [line for source in task.test for line in read_sentences(task.task, source)]
    lines = [line for source in task.dev for line in read_sentences(task.task, source)]
    return lines[round(len(lines) * (1 - task.test_from_dev)) :]


def load_for_text(model: str, tasks: Sequence[EvaluationConfig]) -> tuple[Any, Any]:
    """A masked language model and its tokenizer, to score text with.

    Raises:
        ConfigError: there is none; names the evaluation sets that need it.
    """
    try:
        return load_masked_lm(source_path(model))
    except ConfigError as error:
        labels = ", ".join(f"'{task.label}'" for task in tasks)
        raise ConfigError(f"evaluation {labels}: {error}") from None


def score_task_text(loaded: tuple[Any, Any], task: EvaluationConfig) -> Figures:
    """Masked-text scores on the sentences of a set, at most 256 tokens of each."""
    model, tokenizer = loaded
    return masked_text_scores(
        model,
        tokenizer,
        task_lines(task),
        seed=1,
        batch_tokens=EVALUATION_BATCH_TOKENS,
        max_length=min(256, usable_positions(model.config) or 512),
        device="cuda" if torch.cuda.is_available() else "cpu",
    ).as_dict()


def _task_scores(context: Context, model: TrelmForMaskedLM) -> Figures:
    """Bits per character on the test sentences of each evaluation set that has sentences."""
    without_text = ("translation", "retrieval")
    tasks = [
        task
        for task in context.config.evaluation
        if task.task not in without_text and (task.test or task.test_from_dev)
    ]
    scores = {task.label: score_text(context, model, task_lines(task)) for task in tasks}
    return {"tasks": scores} if scores else {}


def score_unigram(context: Context, lines: Sequence[str]) -> Figures:
    """The scores of a model that knows the tokens' frequencies and nothing else, with the run's own masks: a floor."""
    scores = unigram_scores(
        token_counts(context, "target"),
        context.tokenizer,
        lines,
        mask_rate=context.config.training.mask_rate,
        seed=context.config.seed,
        max_length=scored_length(context),
    )
    return scores.as_dict()


def _cdlm_losses(context: Context) -> Figures:
    """Nats a token on held-out pairs: each transfer in its own directions, the combination in both."""
    links = context.folder(WORD_LINKS)
    sides = [context.tokens(f"parallel-held-out-{side}") for side in ("source", "target")]
    pairs = min(len(sides[0]), CDLM_PAIRS)
    if pairs == 0:
        return {"pairs": 0}
    directions = {
        "source_to_target": (sides[0], sides[1], Ragged.load(links, "source-of-target-held-out"), (0, 1)),
        "target_to_source": (sides[1], sides[0], Ragged.load(links, "target-of-source-held-out"), (1, 0)),
    }
    stages = planned_stages(context.config)
    asked = {stage.name: directed for stage in stages if (directed := _directions(stage))}
    if combines(stages):
        asked[COMBINATION] = list(directions)
    losses: Figures = {"pairs": pairs}
    for stage, wanted in asked.items():
        model = load_model(context, stage)
        for direction in wanted:
            examples = CrossLingualExamples(
                *directions[direction], context.vocabulary, context.config.training.max_length
            )
            losses[f"{stage}_{direction}".replace("-", "_")] = cdlm_loss(model, examples, pairs)
    return losses


def _directions(stage: Stage) -> list[str]:
    """The directions of CdLM that a stage trains in."""
    return [feed.replace("-", "_") for feed, _ in stage.feeds if feed in CROSS_LINGUAL]


def cdlm_loss(model: TrelmForMaskedLM, examples: CrossLingualExamples, pairs: int) -> float:
    """Mean cross-entropy (nats) over every output token of the first `pairs` examples, special tokens included."""
    lengths = examples.lengths_at(np.arange(pairs))
    order = np.argsort(lengths, kind="stable")
    random = np.random.default_rng(0)  # CdLM inputs are not corrupted: nothing is drawn
    total, tokens = 0.0, 0
    model.train(False)
    model.config.sparse_prediction = True
    with torch.inference_mode():
        for indices in pack(order, lengths, 2048):
            batch = examples.collate(indices, random)
            count = int((batch["labels"] != IGNORED).sum())
            total += float(model(**{name: value.to(model.device) for name, value in batch.items()}).loss) * count
            tokens += count
    return total / tokens


def fill_masks(
    context: Context, model: TrelmForMaskedLM, lines: Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None
) -> list[Figures]:
    """Held-out sentences with one word masked, and the model's guesses; the first sentences that fit, not the best.

    Args:
        tokenizer: the model's; None for that of the joint vocabulary.
    """
    tokenizer, examples = tokenizer or context.tokenizer, []
    piece = single_piece(tokenizer)
    model.train(False)
    for line in lines:
        masked = _mask_one_word(tokenizer, line, piece)
        if masked is None:
            continue
        text, truth = masked
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False).to(model.device)
        if inputs["input_ids"].shape[1] > scored_length(context):
            continue
        with torch.inference_mode():
            logits = model(**inputs).logits[0]
        place = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
        best = logits[place].float().softmax(-1).topk(PREDICTIONS)
        guesses = [
            {"token": str(tokenizer.decode([int(token)])).strip(), "score": float(score)}
            for score, token in zip(best.values, best.indices)
        ]
        examples.append({"text": text, "truth": truth, "predictions": guesses})
        if len(examples) == EXAMPLES:
            break
    return examples


def _mask_one_word(
    tokenizer: PreTrainedTokenizerBase, line: str, piece: Callable[[str], int | None]
) -> tuple[str, str] | None:
    """A sentence of middling length with its longest one-piece word masked, and the word."""
    if not 40 <= len(line) <= 120:
        return None
    words = [line[start:end] for start, end in split_units(line)]
    whole = [word for word in words if word.isalpha() and len(word) > 3 and line.count(word) == 1]
    single = [word for word in whole if piece(word) is not None]
    if not single:
        return None
    word = max(single, key=len)
    return line.replace(word, tokenizer.mask_token, 1), word


def describe_budget(context: Context) -> str:
    """The budget in words."""
    given = context.config.budget.model_dump(exclude_none=True)
    return ", ".join(f"{value:,.15g} {unit}" for unit, value in given.items())


def collect_report(context: Context, steps: Sequence[str]) -> dict[str, Any]:
    """`report.json`: every number that the report shows, from the manifests of the steps."""
    done = {name: context.figures(name) for name in steps}
    evaluation, alignment = done[EVALUATION], done[ALIGNMENT]
    curves = {
        stage: done[folder]["curve"] for stage, folder in STAGE_FOLDERS.items() if "curve" in done.get(folder, {})
    }
    return {
        "title": f"{context.config.source.model} moved from {context.languages[0]} to {context.languages[1]}",
        "languages": dict(zip(("source", "target"), context.languages)),
        "models": evaluation["models"],
        "unigram": evaluation["unigram"],
        "alignment": {key: value for key, value in alignment.items() if key not in ("step", "inputs", "versions")},
        "word_links": without_bookkeeping(done[WORD_LINKS]),
        "corpus": {"inputs": done[CORPUS]["read"], "outputs": done[CORPUS]["outputs"]},
        "vocabulary": without_bookkeeping(done[VOCABULARY]),
        **({"diagnosis": without_bookkeeping(done[DIAGNOSIS])} if DIAGNOSIS in done else {}),
        "steps": {name: _cost(figures) for name, figures in done.items()},
        "curves": curves,
        "cdlm": evaluation["cdlm"],
        "examples": evaluation["examples"],
        "budget": context.config.budget.model_dump(exclude_none=True),
        "plan": without_bookkeeping(done[PLAN]),
        "baseline_rule": done[PLAN]["baseline_rule"],
        "export": without_bookkeeping(done[EXPORT]),
        "seed": context.config.seed,
        "versions": versions(),
        "config": dump_config(context.config),
    }


def versions() -> dict[str, str]:
    """What computed the numbers; `not installed` of a package that lies on the path without its metadata."""
    packages = ("trelm", "torch", "transformers", "tokenizers", "accelerate", "gensim", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def without_bookkeeping(figures: Figures) -> Figures:
    """A manifest without its bookkeeping."""
    bookkeeping = ("step", "inputs", "versions", "seed", "seconds", "processes")
    return {key: value for key, value in figures.items() if key not in bookkeeping}


def _cost(figures: Figures) -> Figures:
    known = ("seconds", "tokens", "flops", "updates", "planned_updates", "best_update")
    numbers = {name: figures[name] for name in known if isinstance(figures.get(name), (int, float))}
    return {"tokens": 0, "flops": 0, **numbers}
