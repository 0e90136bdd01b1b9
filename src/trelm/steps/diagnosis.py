"""What can be told of the transferred model before it trains: its rows, its tokenizer, its first guesses.

Shares are between 0 and 1. A `share_of_tokens` is of the subwords of the target language's training text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trelm.initialisation import PROVENANCES, Initialisation, Surface, surfaces
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import freeze_all_but_head
from trelm.model.head import set_target_bias
from trelm.progress import StepProgress
from trelm.stages import START, TARGET
from trelm.steps.context import ALIGNMENT, MODEL, Context, Figures, use_all_cores
from trelm.steps.diagnosis_warnings import find_warnings
from trelm.steps.initialisation import link_totals, token_counts, usable_rows
from trelm.steps.outcome import score_unigram
from trelm.steps.preparation import translation_precision
from trelm.steps.scoring import score_text
from trelm.steps.training import load_model, shared_settings
from trelm.training.batches import MaskedExamples, PlannedBatches
from trelm.training.trainer import Trained, train
from trelm.vocabulary import shared_entries, text_statistics
from trelm.vocabulary.description import special_ids

HELD_OUT_LINES = 200
HEAD_BATCH_TOKENS = 1024
HEAD_WARMUP = 0.1
LEAST_USES = 5  # in the source text: of an entry that is used less, the encoder has not learned much
SCORES = ("masked_loss", "masked_accuracy", "bits_per_character", "masked_tokens", "lines")

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]


def diagnose_start(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """Look at the model before training.

    Returns:
        `entries`: see `entry_figures`. `rows`, `norm_ratio`: see `row_figures`. `tokenizers`: see `tokenizer_figures`.
        `translation`, where the configuration has a dictionary: see `precision_at`, of the initial word table.
        `held_out`: see `masked_prediction`. `initialisation`, `alignment`, `source_has_head`: what was chosen and found
        before. `warnings`: see `find_warnings`.
    """
    use_all_cores()
    made, counts = Initialisation.load(context.folder(MODEL)), token_counts(context, "target")
    lines = context.lines("target-held-out.txt")[:HELD_OUT_LINES]
    alignment = context.figures(ALIGNMENT)
    translation = translation_precision(context, {START: torch.from_numpy(made.words)})
    source_norm = float(np.linalg.norm(_source_rows(context), axis=1).mean())
    figures: Figures = {
        "initialisation": context.config.embeddings.initialisation,
        "source_has_head": context.source.has_head,
        "alignment": {
            "method": alignment["method"],
            "collapsed": alignment["candidates"].get(alignment["method"], {}).get("collapsed"),
        },
        "entries": entry_figures(context, counts),
        "rows": row_figures(made, counts, source_norm),
        "norm_ratio": _mean_norm(made.words) / source_norm,
        "tokenizers": tokenizer_figures(context, lines),
        **({"translation": translation[START]} if translation else {}),
        "held_out": masked_prediction(context, lines, folder, tell),
    }
    warnings = find_warnings(figures, context.languages)
    if warnings:
        tell.note(f"warnings: {len(warnings)}; `trelm diagnose` prints them, and so does the report")
    return {**figures, "warnings": warnings}


def entry_figures(context: Context, counts: Counts) -> Figures:
    """What of the new vocabulary the source knows something of.

    Args:
        counts: [V], occurrences of each entry in the target text.

    Returns:
        `shared`: entries spelled alike in the source vocabulary, special tokens left out. `linked`: entries with word
        links to entries of the source vocabulary. Each with `entries` (a count), `share_of_entries`, `share_of_tokens`.
        `shared_words`: the shared entries that are `word_entries` of the target's language and in use in the source
        text too (`LEAST_USES`): its `share_of_word_tokens` is of the tokens that are words or parts of words.
    """
    tokenizer, source_counts = context.tokenizer, token_counts(context, "source")
    shared = np.zeros(len(tokenizer), dtype=np.bool_)
    shared[shared_entries(tokenizer, context.source.tokenizer)[:, 0]] = True
    spelled = surfaces(tokenizer)
    own, words = word_entries(spelled, special_ids(tokenizer), counts, source_counts)
    known = shared & own & (source_counts >= LEAST_USES)
    return {
        "shared": coverage(shared, counts),
        "shared_words": {
            **coverage(known, counts),
            "share_of_word_tokens": float(counts[known].sum() / max(counts[words].sum(), 1)),
        },
        "linked": coverage(link_totals(context) > 0, counts),
    }


def coverage(flags: Flags, counts: Counts) -> Figures:
    """How many entries, and which share of the entries and of the text's tokens they are."""
    return {
        "entries": int(flags.sum()),
        "share_of_entries": float(flags.mean()),
        "share_of_tokens": float(counts[flags].sum() / max(counts.sum(), 1)),
    }


def word_entries(
    spelled: Sequence[Surface], specials: set[int], counts: Counts, source_counts: Counts
) -> tuple[Flags, Flags]:
    """Entries that are words or parts of words, and neither digits nor punctuation.

    Args:
        spelled: the surface of each entry. specials: rows of special tokens.
        counts, source_counts: [V], occurrences in the target text and in the source text.

    Returns:
        bool [V], those of letters in which the target language is written: where the two texts differ in the script
        that is most used, not those in the source's; and bool [V], all that are of letters, or of bytes of letters.
    """
    scripts = np.array([_script(surface.text) for surface in spelled])
    letters = scripts != ""
    mine, theirs = _main_script(scripts, counts), _main_script(scripts, source_counts)
    own = letters & ((scripts != theirs) | (mine == theirs))
    bytes_ = np.array([surface.text is None and row not in specials for row, surface in enumerate(spelled)])
    return own, letters | bytes_


def row_figures(made: Initialisation, counts: Counts, source_norm: float) -> dict[str, Figures]:
    """By provenance of the new table's rows: `entries`, `share_of_entries`, `share_of_tokens`, and `norm_ratio`.

    A ratio is of the mean Euclidean length of the rows to `source_norm`, that of the source's rows (special entries and
    those kept free left out); None without rows. A provenance without rows is left out, `random` apart.
    """
    found = {}
    for number, name in enumerate(PROVENANCES):
        flags = made.provenance == number
        if flags.any() or name == "random":
            ratio = _mean_norm(made.words[flags]) / source_norm if flags.any() else None
            found[name] = {**coverage(flags, counts), "norm_ratio": ratio}
    return found


def tokenizer_figures(context: Context, lines: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """How the new tokenizer (`new`) and the source's own (`source`) cut the same lines.

    Returns:
        For each `fertility`, subwords a word (words are parted by spaces), `characters_per_piece`, which also means
        something in scripts without spaces, and `unknown_rate`, the share of the subwords that are unknown.
    """
    tokenizers = {"new": context.tokenizer, "source": context.source.tokenizer}
    return {name: text_statistics(tokenizer, lines) for name, tokenizer in tokenizers.items()}


def masked_prediction(context: Context, lines: Sequence[str], folder: Path, tell: StepProgress) -> Figures:
    """Masked prediction of target text that is held out: `masked_loss` (nats a masked token), `masked_accuracy` (a
    share), `bits_per_character`, over the same `masked_tokens` of `lines` lines.

    Returns:
        `unigram`: of token frequencies alone. `start`: of the model before training. `after_head`: after
        `diagnosis.head_updates` of its head alone (see `train_head`), left out where that is 0 or nothing trains.
    """
    model = load_model(context, START)
    scores = {"unigram": score_unigram(context, lines), "start": score_text(context, model, lines)}
    found: Figures = {name: {key: one[key] for key in SCORES} for name, one in scores.items()}
    trained = train_head(context, model, folder, tell) if context.config.diagnosis.head_updates else None
    if trained is not None:
        after = score_text(context, model, lines)
        found["after_head"] = {key: after[key] for key in SCORES}
        found["after_head"] |= {"updates": trained.updates, "tokens": trained.tokens}
    return found


def train_head(context: Context, model: TrelmForMaskedLM, folder: Path, tell: StepProgress) -> Trained | None:
    """Train the head in place on target text for `diagnosis.head_updates`; the encoder and the tables stay frozen.

    What the head then predicts depends on how much the states of the frozen model say of target-language text. A head
    that the source does not have begins with the text's token frequencies: else it would learn little besides them.

    Returns:
        What was done; None where the head is nothing but a table (EuroBERT's).
    """
    if not freeze_all_but_head(model):
        tell.note("the head is nothing but a table: there is no score after updates of the head alone")
        return None
    if not context.source.has_head:
        set_target_bias(model, token_counts(context, "target"))
    config, seed = context.config, context.config.seed
    examples = MaskedExamples(
        context.tokens("target"), TARGET, context.vocabulary, config.training.max_length, config.training.mask_rate
    )
    batches = PlannedBatches(
        [(examples, 1.0)], updates=config.diagnosis.head_updates, batch_tokens=HEAD_BATCH_TOKENS, seed=seed
    )
    settings = shared_settings(
        context, learning_rate=config.head.learning_rate, warmup=HEAD_WARMUP, schedule="linear", seed=seed
    )
    model.config.sparse_prediction = True
    return train(
        model,
        batches,
        replace(settings, checkpoint_minutes=1e9),
        folder,
        lambda done, total, rate, loss: tell.update(
            done, total, "updates of the head", **({} if loss is None else {"loss": loss})
        ),
    )


def _source_rows(context: Context) -> NDArray[np.float32]:
    """Rows of the source's word table that stand for words or pieces."""
    usable = usable_rows(context)
    rows: NDArray[np.float32] = context.source.table.numpy()[: len(usable)][usable]
    return rows


def _mean_norm(rows: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(rows, axis=1).mean())


def _script(text: str | None) -> str:
    """The first word of the Unicode name of the first letter (LATIN, CJK, ...); empty where not all are letters."""
    if not text or any(unicodedata.category(character)[0] not in "LM" for character in text):
        return ""
    names = (unicodedata.name(character, "") for character in text if unicodedata.category(character)[0] == "L")
    return next(names, "").partition(" ")[0]


def _main_script(scripts: NDArray[Any], counts: Counts) -> str:
    """The script of most occurrences."""
    names = np.unique(scripts[scripts != ""])
    return str(max(names, key=lambda name: counts[scripts == name].sum(), default=""))
