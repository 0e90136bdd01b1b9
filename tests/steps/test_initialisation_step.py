"""The recommended rows of a run, part by part; the ways in general are in `test_preparation_step`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from toy import ToyRun
from trelm.corpus.text import sample_lines
from trelm.embeddings import SubwordVectors
from trelm.initialisation import PROVENANCES, SourceTables, frequency_bias, overlay, pieces, shared, specials
from trelm.steps import initialisation
from trelm.steps.initialisation import linked_rows, recommended, source_tables, target_entries, usable_rows
from trelm.vocabulary import encode_lines

BARE = {"lengths": 0.0, "own_frequency": False, "mapped_share": 0.0}


def provenance(name: str) -> int:
    return PROVENANCES.index(name)


def test_without_neighbours_it_is_links_then_copies_then_pieces(toy_run: ToyRun) -> None:
    context = toy_run.context("embeddings.initialisation=recommended")
    vocabularies = (context.tokenizer, context.source.tokenizer)
    mixture = overlay(specials(*vocabularies), linked_rows(context, 8), shared(*vocabularies), pieces(*vocabularies))
    tables = source_tables(context)
    made = recommended(context, tables, neighbours=False, **BARE)
    np.testing.assert_array_equal(made.provenance, mixture.provenance)
    np.testing.assert_allclose(made.words[mixture.covered], mixture.of(tables.words)[mixture.covered], rtol=1e-6)
    assert tables.bias is not None
    assert made.bias is not None
    np.testing.assert_allclose(made.bias[mixture.covered], mixture.of(tables.bias)[mixture.covered], atol=1e-6)


@pytest.mark.parametrize("few", [False, True])
def test_neighbours_are_of_usable_rows_by_links_or_by_the_alignment(
    toy_run: ToyRun, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few:
        monkeypatch.setattr(initialisation, "MIN_SEEDS", 10**9)
    else:
        monkeypatch.setattr(initialisation, "MIN_SEEDS", 1)
    context = toy_run.context("embeddings.initialisation=recommended")
    tables = source_tables(context)
    made = recommended(context, tables, **BARE)
    rows = made.provenance == provenance("neighbours")
    assert rows.any()
    assert target_entries(context).numpy()[rows].all()
    # a convex mixture of usable rows lies within their range
    usable = tables.words[: len(usable_rows(context))][usable_rows(context)]
    low, high = usable.min(axis=0), usable.max(axis=0)
    assert ((made.words[rows] >= low - 1e-5) & (made.words[rows] <= high + 1e-5)).all()


@pytest.mark.parametrize("copies", ["none", "target", "all"])
def test_a_share_of_the_mapped_vector(toy_run: ToyRun, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context = toy_run.context("embeddings.initialisation=recommended")
    monkeypatch.setattr(initialisation, "_has_collapsed", lambda _: False)
    tables = source_tables(context)
    bare = recommended(context, tables, **BARE)
    made = recommended(context, tables, **{**BARE, "mapped_share": 0.25}, blend_copies=copies)
    mapped = load_file(context.folder("alignment") / "alignment.safetensors")["mapped"]
    has_vector = SubwordVectors.load(context.folder("embeddings")).has_vector
    special, copied = (bare.provenance == provenance(name) for name in ("special", "shared"))
    allowed = {"none": ~copied, "target": ~copied | target_entries(context).numpy(), "all": copied | ~copied}[copies]
    rows = has_vector & allowed & ~special
    np.testing.assert_allclose(made.words[rows], 0.75 * bare.words[rows] + 0.25 * mapped[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made.words[~rows], bare.words[~rows])
    assert 0 < rows.sum() < len(rows)


def test_a_collapsed_alignment_has_no_share(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    context = toy_run.context("embeddings.initialisation=recommended")
    tables = source_tables(context)
    figures = {"method": "parallel", "candidates": {"parallel": {"collapsed": True}}}
    monkeypatch.setattr(context, "figures", lambda _: figures)
    made = recommended(context, tables, **{**BARE, "mapped_share": 0.5})
    np.testing.assert_array_equal(made.words, recommended(context, tables, **BARE).words)


def test_an_output_table_takes_the_vectors_through_its_own_map(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = toy_run.context("embeddings.initialisation=recommended")
    monkeypatch.setattr(initialisation, "_has_collapsed", lambda _: False)
    tables = source_tables(context)
    doubled = SourceTables(tables.words, 2 * tables.words, tables.bias)
    made = recommended(context, doubled, **{**BARE, "mapped_share": 0.5}, blend_copies="all")
    assert made.outputs is not None
    rows = made.provenance != provenance("random")
    np.testing.assert_allclose(made.outputs[rows], 2 * made.words[rows], rtol=1e-3, atol=1e-4)


def test_mixed_rows_have_lengths_of_the_source_and_copies_their_own(toy_run: ToyRun) -> None:
    context = toy_run.context("embeddings.initialisation=recommended")
    tables = source_tables(context)
    bare = recommended(context, tables, **BARE)
    made = recommended(context, tables, **{**BARE, "lengths": 1.0})
    copies = np.isin(bare.provenance, [provenance("special"), provenance("shared")])
    np.testing.assert_array_equal(made.words[copies], bare.words[copies])
    usable = tables.words[: len(usable_rows(context))][usable_rows(context)]
    norms, own = np.linalg.norm(made.words[~copies], axis=1), np.linalg.norm(usable, axis=1)
    assert own.min() - 1e-4 <= norms.min() <= norms.max() <= own.max() + 1e-4
    cosines = (made.words[~copies] * bare.words[~copies]).sum(axis=1) / (
        norms * np.linalg.norm(bare.words[~copies], axis=1)
    )
    np.testing.assert_allclose(cosines, 1, atol=1e-5)


def test_the_bias_has_the_frequencies_of_the_targets_text(toy_run: ToyRun) -> None:
    context = toy_run.context("embeddings.initialisation=recommended")
    tables = source_tables(context)
    assert tables.bias is not None
    made = recommended(context, tables, neighbours=False, **{**BARE, "own_frequency": True})
    vocabularies = (context.tokenizer, context.source.tokenizer)
    mixture = overlay(specials(*vocabularies), linked_rows(context, 8), shared(*vocabularies), pieces(*vocabularies))
    lines = sample_lines(context.folder("corpus") / "source.txt", 10**6, seed=1)
    ids = encode_lines(vocabularies[1], lines, max_pieces=None)[0].values
    of_source = np.bincount(ids, minlength=len(vocabularies[1]))
    mine, theirs = (
        np.bincount(context.tokens(side).values, minlength=len(vocabularies[0])) for side in ("target", "source")
    )
    blend = mine + 0.1 * theirs * mine.sum() / theirs.sum()
    np.testing.assert_allclose(made.bias, frequency_bias(mixture, tables.bias, of_source, blend), rtol=1e-5)


def test_a_source_without_a_head_gives_no_bias(toy_run: ToyRun) -> None:
    context = toy_run.context("embeddings.initialisation=recommended")
    made = recommended(context, replace(source_tables(context), bias=None))
    assert made.bias is None
    assert np.isfinite(made.words).all()
