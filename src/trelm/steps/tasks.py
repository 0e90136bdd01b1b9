"""`trelm evaluate`: any encoder on evaluation sets, tuned for those that have training data."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerBase

from trelm.config import EvaluationConfig
from trelm.corpus.files import expand
from trelm.corpus.hub import is_hub_name
from trelm.errors import ConfigError, did_you_mean
from trelm.model.families import usable_positions
from trelm.model.loading import load_bare_encoder, type_count, without_attention_dropout
from trelm.progress import Progress
from trelm.steps.context import use_all_cores
from trelm.steps.head_cache import cache_folder
from trelm.steps.outcome import load_for_text, score_task_text
from trelm.tasks.encoder import Encoder, language_index
from trelm.tasks.labelling import classification, tagging
from trelm.tasks.parsing import parsing
from trelm.tasks.problem import Problem
from trelm.tasks.reading import Parts, read_parts
from trelm.tasks.retrieval import retrieval
from trelm.tasks.roles import roles
from trelm.tasks.search import VERSION, Search, Store
from trelm.tasks.tuning import Tell, TuningSettings
from trelm.training.device import has_fast_bfloat16
from trelm.workspace import digest, read_json, write_json

LEARNING_RATES = (5e-5, 1.5e-4, 5e-4)
HEAD_LEARNING_RATE = 1e-3
EPOCHS = 10
NEEDS_RUN = "needs the two tables of a run"

__all__ = ["Encoder", "encoder_of", "evaluate_model", "load_encoder", "run_task"]


def evaluate_model(
    name: str,
    tasks: Sequence[EvaluationConfig],
    *,
    only: str | None = None,
    work: Path | None = None,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Scores of any encoder on each set: bits per character of those that are text, see `run_task` for the others.

    A set of translation among others is skipped: it has `task` and the reason under `skipped`.

    Args:
        only: this set alone. work: where trainings under way lie; in the cache where None.

    Raises:
        TrelmError: an unknown set, a set that the model cannot be scored on, no model there, bad data.
    """
    chosen = _chosen(tasks, only)
    scorable = [task for task in chosen if task.task != "translation"]
    as_text = [task for task in scorable if not task.takes_encoder]
    check_tunable(scorable)
    for pattern in (one for task in as_text for one in (*task.train, *task.dev, *task.test)):
        if not is_hub_name(pattern):
            expand(pattern)
    masked_lm = load_for_text(name, as_text) if as_text else None
    encoder = load_encoder(name) if len(as_text) < len(scorable) else None
    if encoder is not None:
        _check_languages(scorable, encoder.languages)
    use_all_cores()
    cache = cache_folder() / "tasks"
    results: dict[str, dict[str, Any]] = {}
    with Progress(len(chosen), quiet=quiet) as progress:
        for task in chosen:
            with progress.step(task.label) as tell:
                if task.task == "translation":
                    tell.note(f"skipped: {NEEDS_RUN}")
                    results[task.label] = {"task": task.task, "skipped": NEEDS_RUN}
                elif encoder is not None and task.takes_encoder:
                    results[task.label] = run_task(encoder, task, work=work or cache, cache=cache, tell=tell)
                elif masked_lm is not None:
                    results[task.label] = score_task_text(masked_lm, task)
    return results


def _chosen(tasks: Sequence[EvaluationConfig], only: str | None) -> list[EvaluationConfig]:
    """All sets or one, if there is any that a model alone can be scored on."""
    chosen = [task for task in tasks if only in (None, task.label)]
    if not chosen:
        known = [task.label for task in tasks]
        raise ConfigError(f"--only {only}: unknown set (known: {', '.join(known)}){did_you_mean(str(only), known)}")
    if all(task.task == "translation" for task in chosen):
        raise ConfigError(f"evaluation '{chosen[0].label}': translation {NEEDS_RUN}; see the run's report")
    return chosen


def check_tunable(tasks: Sequence[EvaluationConfig], languages: tuple[str, ...] = ()) -> None:
    """Tell before anything trains what is wrong with the sets that models are tuned for or retrieve in: read them once.

    Args:
        languages: of the model, where it has several.

    Raises:
        ConfigError: a set lacks a part, names something else than files, or a language that the model has not.
        DataError: what `read_parts` says.
    """
    wanted = [task for task in tasks if task.takes_encoder]
    for task in wanted:
        if task.lacks is not None:
            raise ConfigError(f"evaluation: {task.lacks}")
        for pattern in (*task.train, *task.dev, *task.test):
            if is_hub_name(pattern):
                raise ConfigError(
                    f"evaluation '{task.label}': expected files, found an hf:// name ('{pattern}'); save it to files "
                    "first"
                )
    _check_languages(wanted, languages)
    for task in wanted:
        _parts(task)


def _check_languages(tasks: Sequence[EvaluationConfig], languages: tuple[str, ...]) -> None:
    for task in tasks:
        if languages and task.is_tuned and task.train_language is not None:
            try:
                language_index(languages, task.train_language)
            except ConfigError as error:
                raise ConfigError(f"evaluation '{task.label}': {error}") from None


def _parts(task: EvaluationConfig) -> Parts:
    return read_parts(
        task.task,
        task.label,
        train=task.train,
        dev=task.dev,
        test=task.test,
        test_from_dev=task.test_from_dev,
        max_train=task.fine_tuning.max_train,
        max_dev=task.fine_tuning.max_dev,
    )


def load_encoder(name: str) -> Encoder:
    """An encoder from a folder or the Hub; see `load_bare_encoder` for what it raises."""
    model, tokenizer = load_bare_encoder(name)
    return _encoder(model, tokenizer, model_digest(model, tokenizer))


def encoder_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    digest: str | None = None,
    *,
    device: Literal["cpu", "cuda"] | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    languages: tuple[str, ...] | None = None,
) -> Encoder:
    """A bare encoder that is in memory; it is copied, on the CPU and without attention dropout.

    Args:
        languages: None for the model's own; () for a model that knows one language though its class has several: it
            reads everything in its default language, whatever language a set names.
    """
    bare = without_attention_dropout(model)
    made = _encoder(bare, tokenizer, digest or model_digest(bare, tokenizer), device, precision)
    return made if languages is None else replace(made, languages=languages)


def _encoder(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    found: str,
    device: Literal["cpu", "cuda"] | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
) -> Encoder:
    config = model.config
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(
        build=lambda: copy.deepcopy(model),
        tokenizer=tokenizer,
        width=config.hidden_size,
        digest=found,
        max_length=usable_positions(config),
        languages=tuple(config.languages) if config.model_type == "trelm" else (),
        default_language=getattr(config, "default_language", 0),
        segments=type_count(config) > 1 and "token_type_ids" in tokenizer.model_input_names,
        device=device,
        precision=precision or ("bfloat16" if has_fast_bfloat16(device) else "float32"),
    )


def model_digest(model: nn.Module, tokenizer: Any) -> str:
    """A digest of the weights, the configuration and the tokenizer: wherever the model lies, it is the same one."""
    found = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    config: Any = model.config
    values = config.to_dict()
    for incidental in ("_name_or_path", "transformers_version", "architectures"):
        values.pop(incidental, None)
    found.update(json.dumps(values, sort_keys=True, default=str).encode())
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()  # these two are what its last call asked for
    backend.no_padding()
    found.update(backend.to_str().encode())
    return found.hexdigest()[:16]


def run_task(
    encoder: Encoder,
    task: EvaluationConfig,
    *,
    seeds: tuple[int, ...] | None = None,
    work: Path,
    cache: Path | None,
    tell: Tell,
) -> dict[str, Any]:
    """Tune the encoder for a set and score it, or retrieve with it; what was done before is read.

    Args:
        seeds: in place of the set's own. work: where trainings under way lie. cache: where results are kept; None:
            in `work`.

    Returns:
        `task`, and what `Search.run` or `retrieval` says.

    Raises:
        ConfigError: a set that a model is neither tuned for nor retrieves in, or a model that cannot do it.
    """
    if not task.takes_encoder:
        raise ConfigError(f"evaluation '{task.label}': expected a set with train, or retrieval, found neither; add it")
    tuning, store = task.fine_tuning, Store(cache or work, work)
    seeds = seeds or tuning.seeds
    rates = tuning.learning_rates or LEARNING_RATES
    settings = TuningSettings(
        epochs=tuning.epochs or EPOCHS,
        patience=tuning.patience,
        batch_tokens=tuning.batch_tokens,
        head_learning_rate=tuning.head_learning_rate or HEAD_LEARNING_RATE,
        device=encoder.device,
        precision=encoder.precision,
    )
    languages = _languages(encoder, task)
    inputs = _inputs(encoder, task, settings, languages)
    kept = store.result(digest([*inputs, rates, seeds]))
    if kept.exists():
        tell.note(f"done before: {kept}")
        known: dict[str, Any] = read_json(kept)
        return known
    parts = _parts(task)
    if task.task == "retrieval":
        found = retrieval(encoder, parts, tuning.max_length, tell)
    else:
        problem = _problem(encoder, task, parts, languages)
        search = Search(problem, encoder, settings, store, lambda rate, seed: digest([*inputs, rate, seed]), tell)
        found = search.run(rates, seeds, task.label)
    result = {"task": task.task, **found}
    write_json(kept, result)
    return result


def _languages(encoder: Encoder, task: EvaluationConfig) -> tuple[int | None, int | None, int | None]:
    """Of train, dev and test."""
    trained, tested = encoder.language(task.train_language), encoder.language(None)
    return trained, trained, tested


def _problem(encoder: Encoder, task: EvaluationConfig, parts: Parts, languages: Sequence[int | None]) -> Problem:
    length = task.fine_tuning.max_length
    if task.task == "classification":
        return classification(encoder, parts, length, languages)
    if task.task in ("tagging", "entities"):
        return tagging(encoder, parts, length, languages, entities=task.task == "entities")
    if task.task == "parsing":
        return parsing(encoder, parts, length, languages)
    return roles(encoder, parts, length, languages)


def _inputs(encoder: Encoder, task: EvaluationConfig, settings: TuningSettings, languages: Sequence[Any]) -> list[Any]:
    """What a trial's result depends on, besides its learning rate and its seed."""
    files = {part: [_file_digest(path) for pattern in getattr(task, part) for path in expand(pattern)]
             for part in ("train", "dev", "test")}  # fmt: skip
    tuning = task.fine_tuning
    how = [settings.epochs, settings.patience, settings.batch_tokens, settings.head_learning_rate, settings.precision]
    cut = [tuning.max_length, tuning.max_train, tuning.max_dev, task.test_from_dev]
    return [VERSION, encoder.digest, task.task, files, how, cut, languages]


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
