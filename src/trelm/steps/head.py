"""A masked-LM head for a source whose checkpoint has none, fitted once on source-language text and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trelm.corpus.files import expand
from trelm.corpus.hub import is_hub_name
from trelm.corpus.ragged import Ragged
from trelm.corpus.text import sample_lines
from trelm.errors import ConfigError, DataError
from trelm.evaluation.intrinsic import masked_text_scores, unigram_scores
from trelm.model.families import family_of, usable_positions
from trelm.model.head import SparseMaskedLM, freeze_body, head_weights, set_unigram_bias, source_masked_lm
from trelm.model.source import POOLER, SourceEncoder, special_ids
from trelm.progress import StepProgress
from trelm.steps.context import CORPUS, Context, Figures, parallel_sources, telling, use_all_cores
from trelm.steps.head_cache import HEAD_FILE, FittedHead, cache_entry, read_entry, remember, write_entry, write_head
from trelm.steps.training import shared_settings
from trelm.training.batches import MaskedExamples, PlannedBatches, Vocabulary
from trelm.training.trainer import LoopSettings, train
from trelm.vocabulary import encode_lines
from trelm.vocabulary.description import backend_spec
from trelm.workspace import digest

SEED = 1
"""A head belongs to its source and not to a run: runs of every seed start from the same one."""
FORMAT = 1  # of the fitting: another number, and heads that were kept before are fitted again
MAX_LENGTH = 128
WARMUP = 0.1
HELD_OUT_LINES = 500
EVALUATION_BATCH_TOKENS = 8192
SCORES = ("masked_accuracy", "masked_loss", "bits_per_character", "masked_tokens", "lines")
NOT_OF_THE_RESULT = ("device", "checkpoint_minutes", "log_updates")
NOT_OF_THE_ENCODER = ("_name_or_path", "architectures", "dtype", "transformers_version")


@dataclass(frozen=True)
class Fitting:
    """All that a fitted head depends on besides the source.

    Attributes:
        lines: text in the source's language. held_out: more of it, to score the head on.
    """

    lines: Sequence[str]
    held_out: Sequence[str]
    updates: int
    batch_tokens: int
    max_length: int
    mask_rate: float
    loop: LoopSettings

    def digest(self, source: SourceEncoder) -> str:
        """The name under which the head is kept."""
        settings = {name: value for name, value in asdict(self.loop).items() if name not in NOT_OF_THE_RESULT}
        numbers = [self.updates, self.batch_tokens, self.max_length, self.mask_rate]
        texts = [_text_digest(lines) for lines in (self.lines, self.held_out)]
        return digest([FORMAT, source_digest(source), texts, numbers, settings])


def fit_head(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """Leave the source's masked-LM head in `folder`, unless its checkpoint has one; fitted now, or in an earlier run.

    Raises:
        ConfigError: the source's tokenizer lacks a special token.
        DataError: there is no source-language text.
    """
    source = context.pretrained
    if source.has_head:
        return {"fitted": False, "source_has_head": True}
    if context.config.head.updates == 0:
        tell.note("head.updates is 0: the source has no masked-LM head, and none is fitted")
        return {"fitted": False, "source_has_head": False}
    use_all_cores()
    fitting = fitting_of(context)
    name = fitting.digest(source)
    with cache_entry(name, tell.note) as place:
        if place is not None:
            remember(inputs_of(context), name, tell.note)
        head = None if place is None else read_entry(place, tell.note)
        cached = head is not None
        if head is None:
            head = fit(source, fitting, folder, tell)
            if place is not None:
                write_entry(place, head, tell.note)
    write_head(folder / HEAD_FILE, head.weights)
    if cached:
        tell.note("the head was fitted in an earlier run")
    return {"fitted": True, "source_has_head": False, "cached": cached, "digest": name, **head.figures}


def fit(source: SourceEncoder, fitting: Fitting, folder: Path, tell: StepProgress) -> FittedHead:
    """Train a fresh head on the frozen source; goes on from a checkpoint in `folder`."""
    family, tokenizer = family_of(source.config), source.tokenizer
    ids, cut = encode_lines(tokenizer, fitting.lines, max_pieces=fitting.max_length - 2)
    counts = np.bincount(ids.values, minlength=len(tokenizer))
    model = source_masked_lm(source, seed=SEED)
    before = held_out_scores(SparseMaskedLM(model), tokenizer, fitting)
    set_unigram_bias(model, family, counts)
    trained = freeze_body(model, family)
    sparse = SparseMaskedLM(model)
    done = train(
        sparse,
        _batches(ids, tokenizer, fitting),
        fitting.loop,
        folder,
        telling(tell),
    )
    figures = {
        "lines": len(ids),
        "cut_lines": cut,
        "tokens": done.tokens,
        "updates": done.updates,
        "fit_seconds": done.seconds,
        "parameters": sum(dict(model.named_parameters())[name].numel() for name in trained),
        "curve": done.curve,
        "held_out": {
            "before": before,
            "unigram": _unigram(counts, tokenizer, fitting),
            "after": held_out_scores(sparse, tokenizer, fitting),
        },
    }
    return FittedHead(head_weights(model, family), figures)


def held_out_scores(model: SparseMaskedLM, tokenizer: PreTrainedTokenizerBase, fitting: Fitting) -> Figures | None:
    """How well masked tokens of held-out text are predicted; None where there is no such text."""
    if not fitting.held_out:
        return None
    scores = masked_text_scores(
        model,
        tokenizer,
        fitting.held_out,
        mask_rate=fitting.mask_rate,
        seed=SEED,
        batch_tokens=EVALUATION_BATCH_TOKENS,
        max_length=fitting.max_length,
        device=fitting.loop.device,
        precision=fitting.loop.precision,
    ).as_dict()
    return {name: scores[name] for name in SCORES}


def source_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """What batches need to know of the source's own vocabulary.

    Raises:
        ConfigError: it has no start, end, padding or mask token.
    """
    ids = special_ids(tokenizer)
    roles = {"start": ("cls", "bos"), "end": ("sep", "eos"), "padding": ("pad",), "mask": ("mask",)}
    found = {name: [ids[role] for role in those if ids[role] is not None] for name, those in roles.items()}
    missing = [name for name, those in found.items() if not those]
    if missing:
        raise ConfigError(
            f"source.model: expected a tokenizer with start, end, padding and mask tokens, found one without "
            f"{' or '.join(missing)}; a head cannot be fitted: give another tokenizer, or set head.updates to 0"
        )
    start, end, padding, mask = (int(those[0] or 0) for those in found.values())
    return Vocabulary(len(tokenizer), start, end, padding, mask, tuple(tokenizer.all_special_ids))


def source_digest(source: SourceEncoder) -> str:
    """A digest of the encoder's configuration, tokenizer and weights, wherever they were loaded from."""
    config = {name: value for name, value in source.config.to_dict().items() if name not in NOT_OF_THE_ENCODER}
    # the tokenizer remembers how it was last asked to cut and to pad
    tokenizer = backend_spec(source.tokenizer) | {"truncation": None, "padding": None}
    described = json.dumps([config, tokenizer, special_ids(source.tokenizer)], sort_keys=True, default=str)
    result = hashlib.sha256(described.encode())
    for part in (source.backbone.state_dict(), source.head):
        for name, weight in sorted(part.items()):
            if not name.startswith(POOLER):  # where the checkpoint has none, it is random, and it is not used
                result.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
                result.update(weight.detach().cpu().contiguous().numpy().data)
    return result.hexdigest()


def inputs_of(context: Context) -> str:
    """A digest of all that a run's head depends on, as it can be told before there is a corpus."""
    config = context.config
    parts = ("source", "target", "parallel", "corpus", "evaluation", "head", "training")
    named = [*config.source.text, *config.target.text]
    for entry in parallel_sources(config):
        named += [entry] if isinstance(entry, str) else entry
    return digest([FORMAT, list(map(_sizes, named)), {name: config.model_dump(mode="json")[name] for name in parts}])


def _sizes(name: str) -> list[tuple[str, int]]:
    """The files that an input names, with their sizes; none of a Hub data set, or where the files have gone since."""
    if is_hub_name(name):
        return []
    with suppress(DataError):
        return [(str(path.absolute()), path.stat().st_size) for path in expand(name)]
    return []


def fitting_of(context: Context) -> Fitting:
    """What a run's head is fitted to, and how."""
    settings = context.config.head
    positions = usable_positions(context.pretrained.config)
    return Fitting(
        lines=sample_lines(context.folder(CORPUS) / "source.txt", settings.max_lines, seed=SEED),
        held_out=context.lines("source-held-out.txt")[:HELD_OUT_LINES],
        updates=settings.updates,
        batch_tokens=settings.batch_tokens,
        max_length=min(MAX_LENGTH, positions or MAX_LENGTH),
        mask_rate=context.config.training.mask_rate,
        loop=shared_settings(
            context, learning_rate=settings.learning_rate, warmup=WARMUP, schedule="linear", seed=SEED
        ),
    )


def _batches(ids: Ragged, tokenizer: PreTrainedTokenizerBase, fitting: Fitting) -> PlannedBatches:
    examples = MaskedExamples(ids, 0, source_vocabulary(tokenizer), fitting.max_length, fitting.mask_rate)
    return PlannedBatches([(examples, 1.0)], updates=fitting.updates, batch_tokens=fitting.batch_tokens, seed=SEED)


def _unigram(counts: Any, tokenizer: PreTrainedTokenizerBase, fitting: Fitting) -> Figures | None:
    """The same scores of a model that knows the tokens' frequencies and nothing else: a floor."""
    if not fitting.held_out:
        return None
    scores = unigram_scores(
        counts,
        tokenizer,
        fitting.held_out,
        mask_rate=fitting.mask_rate,
        seed=SEED,
        max_length=fitting.max_length,
    ).as_dict()
    return {name: scores[name] for name in SCORES}


def _text_digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
