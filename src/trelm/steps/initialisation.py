"""The rows that the new vocabulary starts from, by the way that the configuration names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from trelm.corpus.ragged import Ragged
from trelm.corpus.text import sample_lines
from trelm.embeddings import SubwordVectors
from trelm.initialisation import (
    PROVENANCES,
    Initialisation,
    Mixture,
    SourceTables,
    assemble,
    complete,
    counts,
    frequency_bias,
    image_neighbours,
    linked_neighbours,
    overlay,
    pieces,
    rescale,
    shared,
    specials,
    through,
)
from trelm.initialisation.mixture import Fallback
from trelm.steps.context import ALIGNMENT, CORPUS, EMBEDDINGS, WORD_LINKS, Context
from trelm.steps.word_vectors import focus_mixture, wechsel_mixture
from trelm.vocabulary import encode_lines, shared_entries
from trelm.vocabulary.description import special_ids
from trelm.word_links.links import WordLinks, count_linked_pairs

MIN_SEEDS = 100  # linked entries from which the others' neighbours can be told; below it the aligned images serve
COPIED = ("special", "shared")
RESERVED = re.compile(r"[\[<]unused_?\d+[\]>]|madeupword\d+")  # entries that published vocabularies keep free


def initialise(context: Context) -> Initialisation:
    """Tables of the new vocabulary before any training; see `embeddings.initialisation` of the configuration."""
    tables, start = source_tables(context), start_mixture(context)
    if start is not None:
        return complete(start[0], tables, context.config.seed, fallback=start[1])
    return (
        _mapped(context, tables)
        if context.config.embeddings.initialisation == "trelm"
        else recommended(context, tables)
    )


def start_mixture(context: Context) -> tuple[Mixture, Fallback] | None:
    """The mixture of source rows that `initialise` completes, and how it draws the rest; None where rows are more."""
    way = context.config.embeddings.initialisation
    if way == "trelm" or way == "recommended":
        return None
    if way == "random" or way == "multivariate":
        return specials(context.tokenizer, context.source.tokenizer), way
    return MIXTURES[way](context), "random"


def _shared(context: Context) -> Mixture:
    return shared(context.tokenizer, context.source.tokenizer)


def _pieces(context: Context) -> Mixture:
    return pieces(context.tokenizer, context.source.tokenizer)


def _counts(context: Context) -> Mixture:
    """RAMEN: copies, then word links, then the mean of the pieces."""
    copied = _shared(context)
    return overlay(copied, counts(*linked_pairs(context), copied.weights.shape), _pieces(context))


MIXTURES: dict[str, Callable[[Context], Mixture]] = {
    "shared": _shared,
    "pieces": _pieces,
    "counts": _counts,
    "wechsel": wechsel_mixture,
    "focus": focus_mixture,
}


def recommended(
    context: Context,
    tables: SourceTables,
    *,
    lengths: float = 1.0,
    own_frequency: bool = True,
    neighbours: bool = True,
    mapped_share: float = 0.5,
    blend_copies: Literal["none", "target", "all"] = "target",
) -> Initialisation:
    """What was best in `benchmarks/initialisation`: the rows of target entries with `min_links` links from those
    links; entries spelled alike copied; the target's other entries from their neighbours in the aligned space; the
    mean of the pieces for what is left. Half of a row is then its mapped subword vector, unless the alignment has
    collapsed. Mixtures get the source's lengths, the bias the target's frequencies.

    Args:
        lengths: strength of `rescale`. own_frequency: whether the bias is `frequency_bias`. neighbours: whether the
            aligned space is asked. mapped_share: of the mapped subword vector in rows that are no copies. blend_copies:
            the copies that it has a share in, too: of the target's entries, of all, or none. The defaults are the
            recommended ones; the benchmark varies one at a time.
    """
    linked, totals = linked_rows(context, context.config.embeddings.min_links or 1), link_totals(context)
    parts = [specials(context.tokenizer, context.source.tokenizer), linked, _shared(context)]
    if neighbours:
        parts.append(_neighbours(context, tables, linked, totals))
    mixture = overlay(*parts, _pieces(context))
    made = complete(mixture, tables, context.config.seed)
    mixed = ~np.isin(made.provenance, [PROVENANCES.index(name) for name in COPIED])
    made = _at_source_lengths(context, made, tables, lengths, mixed)
    if mapped_share > 0 and not _has_collapsed(context):
        made, blended = _blended(context, made, tables, mapped_share, blend_copies)
        made = _at_source_lengths(context, made, tables, lengths, mixed | blended)
    if own_frequency and tables.bias is not None:
        made = replace(made, bias=own_frequencies(context, mixture, tables.bias))
    return made


def _has_collapsed(context: Context) -> bool:
    """Whether the alignment's map is no better than a random one: its images are then noise."""
    figures = context.figures(ALIGNMENT)
    return bool(figures["candidates"][figures["method"]]["collapsed"])


def _blended(
    context: Context, made: Initialisation, tables: SourceTables, share: float, copies: str
) -> tuple[Initialisation, NDArray[np.bool_]]:
    """Rows with a vector as `(1 - share)` of themselves and `share` of their mapped vector; and which these are.

    Special tokens stay. Mixtures of the same source rows are alike; the vectors of the target's own text tell them
    apart.
    """
    vectors = SubwordVectors.load(context.folder(EMBEDDINGS))
    mapped = mapped_vectors(context)
    special, copied = (made.provenance == PROVENANCES.index(name) for name in COPIED)
    blending = {"none": ~copied, "target": ~copied | target_entries(context).numpy(), "all": np.ones_like(copied)}
    rows = vectors.has_vector & blending[copies] & ~special

    def blend(own: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(rows[:, None], (1 - share) * own + share * image, own).astype(np.float32)

    outputs = made.outputs
    if outputs is not None and tables.outputs is not None:
        outputs = blend(outputs, through(mapped, tables.words, tables.outputs))
    return replace(made, words=blend(made.words, mapped), outputs=outputs), rows


def _neighbours(context: Context, tables: SourceTables, linked: Mixture, totals: NDArray[np.float64]) -> Mixture:
    """Rows of the target's entries by their like with links; by the alignment where links are few."""
    vectors = SubwordVectors.load(context.folder(EMBEDDINGS))
    rows = target_entries(context).numpy() & vectors.has_vector
    usable, table = usable_rows(context), tables.words[: len(context.source.tokenizer)]
    if int((linked.covered & rows).sum()) >= MIN_SEEDS:
        return linked_neighbours(vectors.vectors, rows, linked, totals, table, usable)
    mapped = mapped_vectors(context)
    return image_neighbours(mapped, rows, table, usable)


def _at_source_lengths(
    context: Context, made: Initialisation, tables: SourceTables, strength: float, mixed: NDArray[np.bool_]
) -> Initialisation:
    """The tables with the lengths of the rows `mixed` (bool [V]) set to those of source rows of like frequency."""
    frequency = token_counts(context, "source") + token_counts(context, "target")
    order = source_order(context, frequency)
    order = order[usable_rows(context)[order]]

    def at_lengths(rows: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.float32]:
        norms = np.linalg.norm(table[order], axis=1)
        return rescale(rows, frequency, norms[norms > 0], strength=strength, rows=mixed)

    outputs = None
    if made.outputs is not None and tables.outputs is not None:
        outputs = at_lengths(made.outputs, tables.outputs)
    return replace(made, words=at_lengths(made.words, tables.words), outputs=outputs)


def own_frequencies(context: Context, mixture: Mixture, bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bias for target-language text, with a tenth of the source-language text so that its entries stay possible."""
    tokenizer = context.source.tokenizer
    lines = sample_lines(context.folder(CORPUS) / "source.txt", FREQUENCY_LINES, seed=1)
    ids, _ = encode_lines(tokenizer, lines, max_pieces=None)
    mine, theirs = token_counts(context, "target"), token_counts(context, "source")
    blend = mine + 0.1 * theirs * (mine.sum() / max(theirs.sum(), 1))
    return frequency_bias(mixture, bias, np.bincount(ids.values, minlength=len(tokenizer)), blend)


FREQUENCY_LINES = 50_000


def usable_rows(context: Context) -> NDArray[np.bool_]:
    """bool [V_s]: the source's entries that are words or pieces, neither special tokens nor kept free."""
    tokenizer = context.source.tokenizer
    flags = np.ones(len(tokenizer), dtype=np.bool_)
    flags[sorted(special_ids(tokenizer))] = False
    flags[[row for entry, row in tokenizer.get_vocab().items() if RESERVED.fullmatch(entry)]] = False
    return flags


def token_counts(context: Context, side: str) -> NDArray[np.int64]:
    """int64 [V]: occurrences of each entry in the training text of a side, `source` or `target`."""
    return np.bincount(context.tokens(side).values, minlength=len(context.tokenizer))


def source_order(context: Context, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the encoder's table by falling frequency in the joint corpus; special tokens left out.

    An entry's frequency is that of the joint entry spelled alike; the others follow in the order of the table, which
    subword trainers write by falling frequency.

    Args:
        counts: [V], occurrences of the joint entries.
    """
    size = len(context.source.tokenizer)
    frequency = np.zeros(size, dtype=np.int64)
    alike = shared_entries(context.tokenizer, context.source.tokenizer)
    frequency[alike[:, 1]] = counts[alike[:, 0]]
    order = np.lexsort((np.arange(size), -frequency))
    return order[~np.isin(order, context.source.tokenizer.all_special_ids)]


def mapped_vectors(context: Context) -> NDArray[np.float32]:
    """float32 [V, d]: the subword vectors in the space of the encoder's table; zero for entries without one."""
    mapped: NDArray[np.float32] = load_file(context.folder(ALIGNMENT) / "alignment.safetensors")["mapped"].numpy()
    return mapped


def source_tables(context: Context) -> SourceTables:
    """What the source encoder has for each of its entries."""
    source = context.source
    outputs, bias = source.output_table, source.output_bias
    return SourceTables(
        source.table.numpy(),
        None if outputs is None else outputs.numpy(),
        None if bias is None else bias.numpy(),
    )


def _mapped(context: Context, tables: SourceTables) -> Initialisation:
    """METHOD section 4: `X W^T`; before it, rows of well-linked target entries and of entries spelled alike."""
    settings, vectors = context.config.embeddings, SubwordVectors.load(context.folder(EMBEDDINGS))
    mapped = mapped_vectors(context)
    mixture = specials(context.tokenizer, context.source.tokenizer)
    if settings.min_links is not None:
        mixture = overlay(mixture, linked_rows(context, settings.min_links))
    if settings.copy_shared:
        mixture = overlay(mixture, shared(context.tokenizer, context.source.tokenizer))
    return assemble(mixture, tables, context.config.seed, mapped=mapped, has_vector=vectors.has_vector)


def linked_rows(context: Context, least: int) -> Mixture:
    """Rows of the target language's entries that have at least so many links, mixed by their counts."""
    pairs, link_counts = linked_pairs(context)
    mine = target_entries(context).numpy()[pairs[:, 0]]
    shape = (len(context.tokenizer), len(context.source.tokenizer))
    return counts(pairs[mine], link_counts[mine], shape, least=least)


def link_totals(context: Context) -> NDArray[np.float64]:
    """float64 [V]: word links of each entry of the joint vocabulary to entries of the source's."""
    pairs, link_counts = linked_pairs(context)
    return np.bincount(pairs[:, 0], weights=link_counts, minlength=len(context.tokenizer)).astype(np.float64)


def linked_pairs(context: Context) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs (row of the joint vocabulary, row of the source's) from the word links, with their counts.

    The target's entry is linked to a source-language entry of the joint vocabulary; its like in the source vocabulary
    is the other end of the seed.
    """
    links = WordLinks(
        Ragged.load(context.folder(WORD_LINKS), "source-of-target"),
        Ragged.load(context.folder(WORD_LINKS), "target-of-source"),
        {},
    )
    pairs, link_counts = count_linked_pairs(context.tokens("parallel-source"), context.tokens("parallel-target"), links)
    source_row = np.full(len(context.tokenizer), -1, dtype=np.int64)
    shared = shared_entries(context.tokenizer, context.source.tokenizer)
    source_row[shared[:, 0]] = shared[:, 1]
    known = source_row[pairs[:, 0]] >= 0
    return np.stack([pairs[known, 1], source_row[pairs[known, 0]]], axis=1), link_counts[known]


def target_entries(context: Context) -> torch.Tensor:
    """bool [V]: entries relatively more frequent in the target language's text than in the source's."""
    counts = [token_counts(context, side) for side in ("source", "target")]
    source, target = (count / max(count.sum(), 1) for count in counts)
    return torch.from_numpy((target > source) & (counts[1] > 0))
