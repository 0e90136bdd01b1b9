"""From the user's text to the transferred model before training (METHOD sections 1 to 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from trelm.alignment.adversarial import GameSettings
from trelm.alignment.choice import AlignmentResult, Progress, align
from trelm.config import Config, EvaluationConfig
from trelm.config.sections import AlignmentConfig
from trelm.corpus.balance import balanced_lines
from trelm.corpus.files import expand
from trelm.corpus.hub import is_hub_name
from trelm.corpus.preparation import prepare
from trelm.corpus.ragged import Ragged
from trelm.embeddings import SubwordVectors, frequency_order, skip_gram
from trelm.errors import DataError
from trelm.evaluation.translation import precision_at, read_dictionary
from trelm.model.configuration import TrelmConfig
from trelm.model.source import dropout_of, scratch_model, special_ids, transferred_model, trelm_config
from trelm.progress import StepProgress
from trelm.steps.context import (
    CORPUS,
    EMBEDDINGS,
    Context,
    Figures,
    parallel_sources,
    use_all_cores,
)
from trelm.steps.initialisation import initialise, linked_pairs, source_order, target_entries
from trelm.steps.teaching import write_teaching
from trelm.tasks.reading import read_examples, read_sentences
from trelm.vocabulary import (
    default_alphabet_limit,
    is_continuation,
    save_tokenizer,
    shared_entries,
    single_piece,
    statistics,
    train_vocabulary,
    write_lines,
)
from trelm.word_links.links import link
from trelm.workspace import atomic_path, writing

SAMPLE_LINES = 2_000


def prepare_corpus(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """Clean, deduplicate, hold out."""
    config = context.config
    counts = prepare(
        folder,
        source_text=config.source.text,
        target_text=config.target.text,
        parallel=parallel_sources(config),
        languages=context.languages,
        evaluation_text=evaluation_sentences(config.evaluation),
        on_progress=lambda lines: tell.update(lines, unit="lines"),
        **config.corpus.model_dump(),
    )
    if counts["outputs"]["target-held-out.txt"]["lines"] == 0:
        raise DataError(
            "target text: expected some held-out lines to judge the models by, found none in "
            f"{counts['outputs']['target.txt']['lines']:,} lines; give more text, or raise corpus.held_out_fraction"
        )
    # `inputs` in a manifest is the digest that says what the step was done for
    return {"read": counts.pop("inputs"), "named": dict(_named_inputs(config)), **counts}


def _named_inputs(config: Config) -> Iterator[tuple[str, list[str]]]:
    """Each input as the configuration names it, and what it was read as: keys of `read`."""
    kinds = {"source": config.source.text, "target": config.target.text, "parallel": parallel_sources(config)}
    for kind, sources in kinds.items():
        for source in sources:
            files = isinstance(source, str) and not is_hub_name(source)
            name = source if isinstance(source, str) else " + ".join(source)
            yield f"{kind}: {name}", [f"{kind}: {path}" for path in (expand(name) if files else [name])]


def evaluation_sentences(tasks: Iterable[EvaluationConfig]) -> Iterator[str]:
    """Every sentence that a model is chosen or judged on, in either language."""
    for task in tasks:
        for source in (*task.dev, *task.test):
            if task.task == "retrieval":
                yield from (sentence for pair in read_examples("retrieval", source) for sentence in pair)
            elif task.task != "translation":
                yield from read_sentences(task.task, source)


def build_vocabulary(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """METHOD section 1: one subword vocabulary for both languages."""
    settings, corpus = context.config.vocabulary, context.folder(CORPUS)
    lines = balanced_lines(corpus / "source.txt", corpus / "target.txt", settings.max_lines, context.config.seed)
    sample = "\n".join(islice(lines, SAMPLE_LINES))
    limit = settings.alphabet_limit or default_alphabet_limit(sample)
    tokenizer = train_vocabulary(
        context.source.tokenizer,
        lines,
        size=settings.size,
        min_frequency=settings.min_frequency,
        alphabet_limit=limit,
        lowercase=settings.lowercase,
    )
    with writing(folder):
        save_tokenizer(tokenizer, folder)
    held_out = {
        language: context.lines(f"{side}-held-out.txt")[:SAMPLE_LINES]
        for side, language in zip(("source", "target"), context.languages)
    }
    return {**statistics(tokenizer, held_out, context.source.tokenizer), "alphabet_limit": limit}


def tokenize(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """Every text as ids of the joint vocabulary, once."""
    figures: Figures = {}
    names = ("source", "target", "source-held-out", "target-held-out")
    streams = [(name, _lines_of(context.folder(CORPUS) / f"{name}.txt")) for name in names]
    for pairs in ("parallel", "parallel-held-out"):
        path = context.folder(CORPUS) / f"{pairs}.tsv"
        streams += [(f"{pairs}-{side}", _column(path, number)) for number, side in enumerate(("source", "target"))]
    for number, (name, lines) in enumerate(streams):
        done = write_lines(context.tokenizer, lines, folder, name, longest=context.config.training.max_length - 2)
        figures[name] = {"lines": done.lines, "tokens": done.tokens, "longer_than_max_length": done.longer}
        tell.update(number + 1, len(streams), "files")
    return figures


def link_words(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """METHOD section 5: word alignment of the subword-tokenized parallel text, forward and reverse.

    The aligner is trained on the training pairs and applied to the held-out ones too.
    """
    settings = context.config.word_links
    sides = [_joined(context.tokens(f"parallel-{s}"), context.tokens(f"parallel-held-out-{s}")) for s in _SIDES]
    pairs = len(context.tokens("parallel-source"))
    continuation = is_continuation(context.tokenizer) if settings.unit == "word" else None
    links = link(
        sides[0],
        sides[1],
        iterations=settings.iterations,
        max_pairs=min(pairs, settings.max_pairs or pairs),
        source_continuation=continuation,
        target_continuation=continuation,
        threads=use_all_cores(),
        on_progress=lambda done, total: tell.update(done, total, "passes"),
    )
    for name, ragged in (("source-of-target", links.source_of_target), ("target-of-source", links.target_of_source)):
        _part(ragged, 0, pairs).save(folder, name)
        _part(ragged, pairs, len(ragged)).save(folder, f"{name}-held-out")
    figures = {name: value for name, value in links.statistics.items() if name != "seconds"}  # the step has its own
    if context.config.stages.teaches:
        figures |= write_teaching(context, folder, _column(context.folder(CORPUS) / "parallel.tsv", 0))
    return {**figures, "unit": settings.unit}


_SIDES = ("source", "target")


def train_vectors(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """METHOD section 2: skip-gram vectors of the joint vocabulary's entries."""
    settings = context.config.embeddings
    vectors = skip_gram(
        [context.tokens("source"), context.tokens("target")],
        vocabulary_size=len(context.tokenizer),
        width=context.source.table.shape[1],
        window=settings.window,
        negatives=settings.negatives,
        epochs=settings.epochs,
        max_tokens=settings.max_tokens,
        seed=context.config.seed,
        on_progress=lambda done, total: tell.update(done, total, "epochs"),
    )
    vectors.save(folder)
    return {
        "entries": len(vectors.counts),
        "entries_without_vector": int((~vectors.has_vector).sum()),
        "tokens_read": [int(tokens) for tokens in vectors.tokens],
        "dropped_lines": vectors.dropped_lines,
    }


def aligned(
    settings: AlignmentConfig, given: AlignmentInputs, *, seed: int, on_progress: Progress | None = None
) -> AlignmentResult:
    """`align` under the configuration's settings."""
    return align(
        given.X,
        given.Y,
        method=settings.method,
        identical=given.identical,
        parallel=given.parallel,
        parallel_weights=given.parallel_weights,
        settings=game_settings(settings),
        restarts=settings.restarts,
        refinement_rounds=settings.refinement_rounds,
        refinement_entries=settings.refinement_entries,
        normalisation=settings.normalisation,
        map_kind=settings.map,
        prune_links=settings.prune_links,
        seed=seed,
        on_progress=on_progress,
    )


def align_embeddings(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """METHOD section 3: map the subword vectors into the space of the encoder's own table."""
    settings, given = context.config.alignment, alignment_inputs(context)
    result = aligned(settings, given, seed=context.config.seed, on_progress=lambda event: tell.note(_describe(event)))
    tables = {name: scattered(image, given.rows, given.size) for name, image in result.images.items()}
    with atomic_path(folder / "alignment.safetensors") as temporary:
        save_file({"mapping": result.mapping, "mapped": tables[result.method]}, temporary)
    precision = translation_precision(context, tables)
    return {
        "method": result.method,
        "reason": result.reason,
        "criterion": result.criterion,
        "collapsed": result.candidates[result.method]["collapsed"],
        "map": settings.map,
        "normalisation": settings.normalisation,
        "prune_links": settings.prune_links,
        **precision.get(result.method, {}),
        "candidates": {name: {**figures, **precision.get(name, {})} for name, figures in result.candidates.items()},
        "without_alignment": precision.get("none", {}),
    }


@dataclass(frozen=True)
class AlignmentInputs:
    """What the alignment learns from.

    Attributes:
        X: [n, d], the subword vectors by falling frequency; rows: int64 [n], the entry of each; size: V.
        Y: [m, d'], the encoder's table by falling frequency, special tokens left out.
        identical: int64 [p, 2], places in X and Y of entries spelled alike; parallel: int64 [q, 2], of linked ones,
            with parallel_weights [q].
    """

    X: torch.Tensor
    Y: torch.Tensor
    rows: NDArray[np.int64]
    size: int
    identical: torch.Tensor
    parallel: torch.Tensor
    parallel_weights: torch.Tensor


def alignment_inputs(context: Context) -> AlignmentInputs:
    """The tables and the seeds of a run whose vectors and word links are there."""
    vectors = SubwordVectors.load(context.folder(EMBEDDINGS))
    rows, source_rows = frequency_order(vectors.counts), source_order(context, vectors.counts)
    seeds, weights = linked_pairs(context)
    parallel, seeds_kept = renumbered(seeds, rows, source_rows)
    return AlignmentInputs(
        X=torch.from_numpy(vectors.vectors[rows]),
        Y=context.source.table[torch.from_numpy(source_rows)],
        rows=rows,
        size=len(vectors.counts),
        identical=renumbered(shared_entries(context.tokenizer, context.source.tokenizer), rows, source_rows)[0],
        parallel=parallel,
        parallel_weights=torch.from_numpy(weights)[seeds_kept].log1p(),  # plain counts leave the word to commas
    )


def build_models(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """METHOD section 4: the transferred model before training; for the baseline, the same with random weights."""
    config, source = context.config, context.source
    made = initialise(context)
    made.save(folder)
    settings = model_config(context, len(context.tokenizer), special_ids(context.tokenizer))
    outputs, bias = (None if rows is None else torch.from_numpy(rows) for rows in (made.outputs, made.bias))
    model = transferred_model(settings, source, torch.from_numpy(made.words), config.seed, output=outputs, bias=bias)
    with writing(folder):
        model.save_pretrained(str(folder / "start"))
        if config.baseline.scratch:
            scratch_model(settings, config.seed).save_pretrained(str(folder / "random"))
    return {
        "parameters": model.num_parameters(),
        "layers": context.source.config.num_hidden_layers,
        "tri_position": settings.tri_position,
        "source_has_head": context.source.has_head,
        "dropout": dropout_of(context.source.config),
        "initialisation": config.embeddings.initialisation,
        "rows": made.counts,
        "row_norms": _row_norms(made.words, source.table.numpy()),
    }


def model_config(context: Context, vocabulary_size: int, ids: Mapping[str, int | None]) -> TrelmConfig:
    """The configuration of the run's models."""
    return trelm_config(
        context.source.config,
        vocabulary_size=vocabulary_size,
        special_ids=ids,
        languages=context.languages,
        hidden_dropout=context.config.training.hidden_dropout,
        attention_dropout=context.config.training.attention_dropout,
        has_tri_layer=context.config.model.tri_layer,
        is_ordered=context.config.stages.orders,
    )


def _row_norms(words: NDArray[np.float32], source_table: NDArray[np.float32]) -> dict[str, float]:
    """Mean length of the new rows and of the encoder's own: far apart, they spoil every layer above."""
    return {
        "table": float(np.linalg.norm(words, axis=1).mean()),
        "source": float(np.linalg.norm(source_table, axis=1).mean()),
    }


def game_settings(settings: AlignmentConfig) -> GameSettings:
    """The rules of the adversarial game, as the configuration has them."""
    return GameSettings(
        epochs=settings.adversarial_epochs,
        samples=settings.adversarial_samples,
        batch=settings.adversarial_batch,
        discriminator_width=settings.discriminator_width,
        discriminator_steps=settings.discriminator_steps,
        dropout=settings.discriminator_dropout,
        smoothing=settings.smoothing,
        learning_rate=settings.learning_rate,
        decay=settings.learning_rate_decay,
        beta=settings.orthogonalisation,
        patience=settings.patience,
        csls_neighbours=settings.csls_neighbours,
        criterion_entries=settings.criterion_entries,
    )


def renumbered(
    pairs: NDArray[np.int64], rows: NDArray[np.int64], source_rows: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of rows as pairs of places in the two orders, and which of the pairs have a place in both."""
    place = np.full(max(int(rows.max(initial=0)), int(pairs[:, 0].max(initial=0))) + 1, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    source_place = np.full(max(int(source_rows.max()), int(pairs[:, 1].max(initial=0))) + 1, -1, dtype=np.int64)
    source_place[source_rows] = np.arange(len(source_rows))
    both = np.stack([place[pairs[:, 0]], source_place[pairs[:, 1]]], axis=1)
    kept = (both >= 0).all(axis=1)
    return torch.from_numpy(both[kept]), torch.from_numpy(kept)


def scattered(image: torch.Tensor, rows: NDArray[np.int64], size: int) -> torch.Tensor:
    """Rows [n, d] put back to their places in a table [V, d]; the others are zero and have no vector."""
    table = torch.zeros(size, image.shape[1])
    table[torch.from_numpy(rows)] = image
    return table


def translation_precision(context: Context, tables: dict[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """METHOD section 6: precision@k of each aligned table by the user's dictionary, if there is one."""
    paths = [
        path
        for task in context.config.evaluation
        if task.task == "translation"
        for pattern in task.test
        for path in expand(pattern)
    ]
    if not paths:
        return {}
    dictionary = read_dictionary(paths)
    candidates = target_entries(context)
    joint, own = single_piece(context.tokenizer), single_piece(context.source.tokenizer)
    return {
        name: dict(precision_at(table, context.source.table, dictionary, joint, own, candidates=candidates))
        for name, table in tables.items()
    }


def _describe(event: dict[str, Any]) -> str:
    if "note" in event:
        return f"{event['method']}, {event['phase']}: {event['note']}"
    numbers = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in event.items()
        if name not in ("method", "phase")
    )
    return f"{event['method']}, {event['phase']}: {numbers}"


def _lines_of(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\n")


def _column(path: Path, number: int) -> Iterator[str]:
    return (line.split("\t")[number] for line in _lines_of(path))


def _joined(first: Ragged, second: Ragged) -> Ragged:
    return Ragged(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
    )


def _part(ragged: Ragged, start: int, stop: int) -> Ragged:
    offsets = ragged.offsets[start : stop + 1]
    return Ragged(ragged.values[offsets[0] : offsets[-1]], offsets - offsets[0])
