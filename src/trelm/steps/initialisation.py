"""The rows that the new vocabulary starts from, by the way that the configuration names."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from trelm.corpus.ragged import Ragged
from trelm.embeddings import SubwordVectors
from trelm.initialisation import (
    Initialisation,
    Mixture,
    SourceTables,
    assemble,
    complete,
    counts,
    overlay,
    pieces,
    shared,
    specials,
)
from trelm.steps.context import ALIGNMENT, EMBEDDINGS, WORD_LINKS, Context
from trelm.vocabulary import shared_entries
from trelm.word_links.links import WordLinks, count_linked_pairs


def initialise(context: Context) -> Initialisation:
    """Tables of the new vocabulary before any training; see `embeddings.initialisation` of the configuration."""
    way, seed = context.config.embeddings.initialisation, context.config.seed
    tables, vocabularies = source_tables(context), (context.tokenizer, context.source.tokenizer)
    if way == "trelm":
        return _mapped(context, tables)
    if way == "random" or way == "multivariate":
        return complete(specials(*vocabularies), tables, seed, fallback=way)
    if way == "shared":
        return complete(shared(*vocabularies), tables, seed)
    mixture = pieces(*vocabularies)
    if way == "counts":
        copied = shared(*vocabularies)
        mixture = overlay(copied, counts(*linked_pairs(context), copied.weights.shape), mixture)
    return complete(mixture, tables, seed)


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
    mapped = load_file(context.folder(ALIGNMENT) / "alignment.safetensors")["mapped"].numpy()
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
    size = len(context.tokenizer)
    counts = [np.bincount(context.tokens(side).values, minlength=size) for side in ("source", "target")]
    source, target = (count / max(count.sum(), 1) for count in counts)
    return torch.from_numpy((target > source) & (counts[1] > 0))
