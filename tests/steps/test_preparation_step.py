"""From text to the model before training, against plain loops over what the toy run left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file

from tiny_tokenizers import source_tokenizer
from toy import SOURCE_WORDS, ToyRun, translation
from trelm.corpus.cleaning import fingerprint, normalise
from trelm.corpus.ragged import Ragged
from trelm.embeddings import SubwordVectors
from trelm.initialisation import PROVENANCES, Initialisation
from trelm.steps import initialisation, preparation
from trelm.steps.context import Context

SEQUENCES = st.lists(st.lists(st.integers(-1, 9), max_size=4), max_size=8)
ON_THE_SHARED_RUN = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TRAINING = ("source", "target", "parallel-source", "parallel-target")
HELD_OUT = ("source-held-out", "target-held-out", "parallel-held-out-source", "parallel-held-out-target")


def prints(lines: list[str]) -> set[int]:
    return {fingerprint(normalise(line)) for line in lines}


def columns(context: Context, name: str) -> tuple[list[str], list[str]]:
    pairs = [line.split("\t") for line in context.lines(name)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def decoded(context: Context, name: str) -> list[str]:
    return [context.tokenizer.decode(ids) for ids in context.tokens(name)]


# Corpus and tokens


def test_what_is_held_out_is_in_no_training_text(toy_run: ToyRun) -> None:
    context = toy_run.context()
    for number, side in enumerate(("source", "target")):
        held_out = prints(context.lines(f"{side}-held-out.txt")) | prints(
            columns(context, "parallel-held-out.tsv")[number]
        )
        assert len(held_out) >= 20
        assert not held_out & prints(context.lines(f"{side}.txt"))
        assert not held_out & prints(columns(context, "parallel.tsv")[number])
        for name in (side, f"parallel-{side}"):
            assert not held_out & prints(decoded(context, name)), name


def test_evaluation_sentences_are_in_no_file_at_all(toy_run: ToyRun) -> None:
    context = toy_run.context()
    evaluation = prints((toy_run.data / "evaluation.txt").read_text().splitlines())
    assert evaluation <= prints((toy_run.data / "target.txt").read_text().splitlines())  # they were there to be removed
    for name in (*TRAINING, *HELD_OUT):
        assert not evaluation & prints(decoded(context, name)), name
    assert toy_run.report["corpus"]["inputs"][f"target: {toy_run.data / 'target.txt'}"]["dropped"]["evaluation"] == 12


def test_the_corpus_counts_keep_clear_of_the_digest_of_the_inputs(toy_run: ToyRun) -> None:
    manifest = toy_run.context().figures("corpus")
    assert isinstance(manifest["inputs"], str)
    assert manifest["read"] == toy_run.report["corpus"]["inputs"]


def test_evaluation_sentences_are_those_of_dev_and_test_but_no_dictionary(toy_run: ToyRun, tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / name).write_text(f"{name} one\n\n{name} two\n")
    files = f"train: [{tmp_path}/train], dev: [{tmp_path}/dev], test: [{tmp_path}/test]"
    config = toy_run.config(f"evaluation=[{{task: text, {files}}}, {{task: translation, test: [{tmp_path}/none]}}]")
    expected = ["dev one", "dev two", "test one", "test two"]
    assert list(preparation.evaluation_sentences(config.evaluation)) == expected


def test_tokens_are_the_lines_of_the_corpus(toy_run: ToyRun) -> None:
    context, figures = toy_run.context(), toy_run.context().figures("tokens")
    texts = {name: context.lines(f"{name}.txt") for name in ("source", "target", "source-held-out", "target-held-out")}
    for name in ("parallel", "parallel-held-out"):
        texts |= dict(zip((f"{name}-source", f"{name}-target"), columns(context, f"{name}.tsv"), strict=True))
    assert texts.keys() == {*TRAINING, *HELD_OUT}
    for name, lines in texts.items():
        ids = context.tokenizer(lines, add_special_tokens=False)["input_ids"]
        assert [sequence.tolist() for sequence in context.tokens(name)] == ids, name
        longer = sum(len(sequence) > 30 for sequence in ids)
        assert figures[name] == {"lines": len(ids), "tokens": sum(map(len, ids)), "longer_than_max_length": longer}


def test_vocabulary_figures_are_of_held_out_text(toy_run: ToyRun) -> None:
    context, figures = toy_run.context(), toy_run.context().figures("vocabulary")
    lines = context.lines("target-held-out.txt")
    pieces = sum(len(context.tokenizer(line, add_special_tokens=False)["input_ids"]) for line in lines)
    assert figures["languages"]["xx"]["fertility"] == pytest.approx(pieces / sum(len(line.split()) for line in lines))
    assert figures["alphabet_limit"] == 1000
    assert figures["size"] == len(context.tokenizer)


# Word links


def test_links_have_a_place_for_every_output_token(toy_run: ToyRun) -> None:
    context = toy_run.context()
    for ending in ("", "-held-out"):
        for name, output, given_side in (
            ("source-of-target", "target", "source"),
            ("target-of-source", "source", "target"),
        ):
            links = Ragged.load(context.folder("word-links"), f"{name}{ending}")
            outputs = context.tokens(f"parallel{ending}-{output}")
            inputs = context.tokens(f"parallel{ending}-{given_side}")
            assert links.lengths().tolist() == outputs.lengths().tolist()
            assert all(link.min() >= -1 and link.max() < len(text) for link, text in zip(links, inputs, strict=True))
    assert context.figures("word-links")["pairs_trained_on"] == len(context.tokens("parallel-source"))


def test_links_join_translations(toy_run: ToyRun) -> None:
    context, right, linked = toy_run.context(), 0, 0
    words = {word: translation(word) for word in SOURCE_WORDS}
    links = Ragged.load(context.folder("word-links"), "source-of-target-held-out")
    sides = [context.tokens(f"parallel-held-out-{side}") for side in ("source", "target")]
    for link, source, target in zip(links, *sides, strict=True):
        spelled = [context.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in (source, target)]
        for place, piece in enumerate(spelled[1]):
            if piece in words.values() and link[place] >= 0:
                linked += 1
                right += words.get(spelled[0][link[place]]) == piece
    assert linked > 50
    assert right / linked > 0.8


def test_words_are_linked_where_the_configuration_says_so(toy_run: ToyRun, tmp_path: Path) -> None:
    context = toy_run.context("word_links.unit=word")
    figures = preparation.link_words(context, tmp_path, SILENT)
    assert figures["unit"] == "word"
    assert figures["pairs"] == len(context.tokens("parallel-source")) + len(context.tokens("parallel-held-out-source"))
    few = toy_run.context("word_links.max_pairs=40")
    assert preparation.link_words(few, tmp_path, SILENT)["pairs_trained_on"] == 40


SILENT: Any = SimpleNamespace(update=lambda *_, **__: None, note=lambda _: None)


# Embeddings, seeds, alignment


def agreed_links(context: Context) -> Counter[tuple[int, int]]:
    """(joint row of the target's piece, row of the source encoder) by how often both directions link them."""
    pieces, own = context.tokenizer.get_vocab(), context.source.tokenizer.get_vocab()
    specials = set(context.tokenizer.all_special_ids)
    row_of = {row: own[piece] for piece, row in pieces.items() if piece in own and row not in specials}
    counts: Counter[tuple[int, int]] = Counter()
    texts = [context.tokens(f"parallel-{side}") for side in ("source", "target")]
    links = [Ragged.load(context.folder("word-links"), name) for name in ("source-of-target", "target-of-source")]
    for source, target, back, forth in zip(*texts, *links, strict=True):
        for place, partner in enumerate(forth.tolist()):
            if partner >= 0 and back[partner] == place and int(source[place]) in row_of:
                counts[int(target[partner]), row_of[int(source[place])]] += 1
    return counts


def target_dominant(context: Context) -> set[int]:
    source, target = (Counter(context.tokens(side).values.tolist()) for side in ("source", "target"))
    totals = source.total(), target.total()
    return {row for row in target if target[row] / totals[1] > source[row] / totals[0]}


def as_counter(pairs: NDArray[np.int64], counts: NDArray[np.float32]) -> dict[tuple[int, int], int]:
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    return {(a, b): int(count) for (a, b), count in zip(pairs.tolist(), counts, strict=True)}


def test_seeds_are_counted_links_to_entries_of_the_encoder(toy_run: ToyRun) -> None:
    context = toy_run.context()
    expected = agreed_links(context)
    assert len(expected) > 100
    assert as_counter(*initialisation.linked_pairs(context)) == expected


def test_seeds_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Joint rows: 0 to 2 the source's, 3 to 5 the target's; the encoder has rows 7 and 9 for 0 and 2, none for 1.
    texts = {"parallel-source": [[0, 1, 2], [0, 2]], "parallel-target": [[3, 4, 5], [5, 3, 4]]}
    links = {"source-of-target": [[0, 1, 2], [1, 0, -1]], "target-of-source": [[0, 1, 2], [1, 0]]}
    for name, sequences in links.items():
        Ragged.of(sequences).save(tmp_path, name)
    context: Any = SimpleNamespace(
        folder=lambda _: tmp_path,
        tokens=lambda name: Ragged.of(texts[name]),
        tokenizer=range(6),
        source=SimpleNamespace(tokenizer=None),
    )
    monkeypatch.setattr(initialisation, "shared_entries", lambda *_: np.array([[0, 7], [2, 9]]))
    pairs, counts = initialisation.linked_pairs(context)
    assert as_counter(pairs, counts) == {(3, 7): 2, (5, 9): 2}


def test_target_entries_are_more_frequent_in_the_target(toy_run: ToyRun) -> None:
    context = toy_run.context()
    marked = initialisation.target_entries(context)
    assert marked.shape == (len(context.tokenizer),)
    assert set(marked.nonzero().flatten().tolist()) == target_dominant(context)


@pytest.mark.parametrize("least", [1, 8, 12])
def test_linked_rows_are_those_of_the_target_with_enough_links(toy_run: ToyRun, least: int) -> None:
    context = toy_run.context()
    links, dominant = agreed_links(context), target_dominant(context)
    totals: Counter[int] = Counter()
    for (row, _), count in links.items():
        totals[row] += count
    expected = {pair: count for pair, count in links.items() if totals[pair[0]] >= least and pair[0] in dominant}
    mixture = initialisation.linked_rows(context, least)
    rows, columns = mixture.weights.nonzero()
    assert set(zip(rows.tolist(), columns.tolist())) == expected.keys()
    for row, column in expected:
        share = links[row, column] / totals[row]
        assert mixture.weights[row, column] == pytest.approx(share, rel=1e-6)
    assert 0 < len(expected) < len(links)


@pytest.mark.parametrize(
    "way", ["recommended", "trelm", "counts", "wechsel", "focus", "pieces", "shared", "random", "multivariate"]
)
def test_every_way_of_initialisation_gives_whole_tables(toy_run: ToyRun, way: str) -> None:
    dictionary = toy_run.data / "dictionary.tsv"
    context = toy_run.context(f"embeddings.initialisation={way}", f"embeddings.dictionary=[{dictionary}]")
    made, again = initialisation.initialise(context), initialisation.initialise(context)
    source = context.source
    assert made.words.shape == (len(context.tokenizer), source.table.shape[1])
    assert np.isfinite(made.words).all()
    np.testing.assert_array_equal(made.words, again.words)
    assert made.bias is not None  # the tiny BERT has a head
    for role in ("cls", "sep", "pad", "mask", "unk"):
        row, own = (getattr(one, f"{role}_token_id") for one in (context.tokenizer, source.tokenizer))
        np.testing.assert_array_equal(made.words[row], source.table[own].numpy())
        if way != "recommended":  # there the bias has the text's frequencies
            assert made.bias[row] == pytest.approx(float(source.output_bias[own]))
    used = {name for name, count in made.counts.items() if count}
    assert used - {"random"} == {
        "trelm": {"special", "linked", "shared", "mapped"},
        "recommended": {"special", "shared", "linked", "neighbours", "pieces"},
        "counts": {"special", "shared", "linked", "pieces"},
        "wechsel": {"special", "neighbours"},
        "focus": {"special", "shared", "neighbours"},
        "pieces": {"special", "shared", "pieces"},
        "shared": {"special", "shared"},
    }.get(way, {"special"})


def test_the_model_starts_from_the_tables_and_the_bias(toy_run: ToyRun) -> None:
    made = Initialisation.load(toy_run.folder / "model")
    weights = load_file(toy_run.folder / "model" / "start" / "model.safetensors")
    np.testing.assert_array_equal(weights["trelm.backbone.embeddings.word_embeddings.weight"].numpy(), made.words)
    np.testing.assert_array_equal(weights["head.cls.predictions.bias"].numpy(), made.bias)


@ON_THE_SHARED_RUN
@given(data=st.data())
def test_source_rows_are_ordered_by_the_frequency_of_their_like(toy_run: ToyRun, data: st.DataObject) -> None:
    context = contexts(toy_run)
    size = len(context.tokenizer)
    counts = np.array(data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size)))
    vectors: Any = SimpleNamespace(counts=counts)
    pieces, own = context.tokenizer.get_vocab(), context.source.tokenizer
    specials = set(own.all_special_ids)
    rows = {row: -int(counts[pieces[piece]]) if piece in pieces else 0 for piece, row in own.get_vocab().items()}
    expected = sorted((row for row in rows if row not in specials), key=lambda row: (rows[row], row))
    assert initialisation.source_order(context, vectors.counts).tolist() == expected


_CONTEXTS: dict[Path, Context] = {}


def contexts(run: ToyRun) -> Context:
    """One context for all examples: it loads the encoder once."""
    return _CONTEXTS.setdefault(run.folder, run.context())


@given(data=st.data())
def test_pairs_are_renumbered_to_places(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, 12), unique=True, max_size=8))
    source_rows = data.draw(st.lists(st.integers(0, 12), unique=True, min_size=1, max_size=8))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=10))
    found, kept = preparation.renumbered(
        np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(rows, dtype=np.int64), np.array(source_rows)
    )
    both = [(a in rows and b in source_rows) for a, b in pairs]
    assert kept.tolist() == both
    inside = [(a, b) for (a, b), inside in zip(pairs, both) if inside]
    assert found.tolist() == [[rows.index(a), source_rows.index(b)] for a, b in inside]


@given(SEQUENCES, SEQUENCES)
def test_joined_texts_are_one_after_the_other(first: list[list[int]], second: list[list[int]]) -> None:
    joined = preparation._joined(Ragged.of(first), Ragged.of(second))
    assert [sequence.tolist() for sequence in joined] == first + second


@given(SEQUENCES, st.data())
def test_a_part_is_a_slice(sequences: list[list[int]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sequences)))
    stop = data.draw(st.integers(start, len(sequences)))
    part = preparation._part(Ragged.of(sequences), start, stop)
    assert [sequence.tolist() for sequence in part] == sequences[start:stop]
    assert part.offsets[0] == 0
    whole = preparation._joined(part, preparation._part(Ragged.of(sequences), stop, len(sequences)))
    assert [sequence.tolist() for sequence in whole] == sequences[start:]


def test_images_are_put_back_to_their_rows() -> None:
    image = torch.arange(6.0).reshape(3, 2) + 1
    table = preparation.scattered(image, np.array([4, 0, 2]), 6)
    assert table.tolist() == [[3, 4], [0, 0], [5, 6], [0, 0], [1, 2], [0, 0]]


def test_events_of_the_alignment_are_told_in_one_line() -> None:
    event = {"method": "adversarial", "phase": "game", "epoch": 2, "criterion": 0.123456}
    assert preparation._describe(event) == "adversarial, game: epoch 2, criterion 0.1235"
    noted = {"method": "adversarial", "phase": "choice", "criterion": 0.1, "note": "adversarial: asked for (collapsed)"}
    assert preparation._describe(noted) == "adversarial, choice: adversarial: asked for (collapsed)"


def test_precision_is_by_the_dictionary_and_only_with_one(toy_run: ToyRun, tmp_path: Path) -> None:
    alignment = toy_run.context().figures("alignment")
    assert alignment["method"] == "parallel"
    assert alignment["reason"].startswith("parallel: asked for; ")
    assert alignment["collapsed"] == alignment["candidates"]["parallel"]["collapsed"]
    assert (alignment["map"], alignment["normalisation"]) == ("orthogonal", "centre-unit")
    assert alignment["precision_at_1"] == alignment["candidates"]["parallel"]["precision_at_1"]
    assert alignment["dictionary_words"] == len(SOURCE_WORDS)
    assert alignment["precision_at_1"] > alignment["without_alignment"]["precision_at_1"]
    figures = preparation.align_embeddings(toy_run.context("evaluation=[]"), tmp_path, SILENT)
    assert "precision_at_1" not in figures
    assert figures["without_alignment"] == {}
    assert figures["criterion"] == pytest.approx(alignment["criterion"])


def test_precision_of_byte_level_bpe_is_asked_for_words_after_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, a word that is alone is in pieces: the dictionary would seem to have no word of the vocabulary."""
    words, tokenizer = ("little", "because", "through"), source_tokenizer("roberta")
    assert all(len(tokenizer(word, add_special_tokens=False)["input_ids"]) > 1 for word in words)
    (tmp_path / "words.tsv").write_text("".join(f"{word}\t{word}\n" for word in words), encoding="utf-8")
    table = torch.randn(len(tokenizer), 8, generator=torch.Generator().manual_seed(1))
    config = SimpleNamespace(evaluation=[SimpleNamespace(task="translation", test=(str(tmp_path / "words.tsv"),))])
    source = SimpleNamespace(tokenizer=tokenizer, table=table)
    context: Any = SimpleNamespace(config=config, tokenizer=tokenizer, source=source)
    monkeypatch.setattr(preparation, "target_entries", lambda _: torch.ones(len(tokenizer), dtype=torch.bool))
    found = preparation.translation_precision(context, {"same": table})["same"]
    assert found["dictionary_words"] == len(words)
    assert found["coverage"] == found["precision_at_1"] == 1.0


def test_vectors_and_alignment_have_a_row_for_every_entry(toy_run: ToyRun) -> None:
    context = toy_run.context()
    vectors = SubwordVectors.load(context.folder("embeddings"))
    aligned = load_file(context.folder("alignment") / "alignment.safetensors")
    assert aligned["mapping"].shape == (32, 32)
    assert torch.allclose(aligned["mapping"] @ aligned["mapping"].T, torch.eye(32), atol=1e-4)
    assert aligned["mapped"].shape == vectors.vectors.shape == (len(context.tokenizer), 32)
    assert not aligned["mapped"][torch.from_numpy(~vectors.has_vector)].any()
    assert context.figures("embeddings")["entries_without_vector"] == int((~vectors.has_vector).sum())


# The model before training


def test_the_table_of_the_model_is_the_one_that_was_built(toy_run: ToyRun) -> None:
    context = toy_run.context()
    table = Initialisation.load(context.folder("model"))
    weights = load_file(context.folder("model") / "start" / "model.safetensors")
    (words,) = [value for name, value in weights.items() if name.endswith("word_embeddings.weight")]
    assert torch.equal(words, torch.from_numpy(table.words))
    figures = context.figures("model")
    assert figures["rows"] == table.counts
    assert all(figures["rows"][kind] > 0 for kind in ("special", "linked", "shared"))
    assert figures["row_norms"]["table"] == pytest.approx(float(np.linalg.norm(table.words, axis=1).mean()))
    assert figures["layers"] == 4
    assert figures["tri_position"] == 2
    assert figures["source_has_head"] is True


def test_a_linked_row_is_the_mean_of_what_it_is_linked_to(toy_run: ToyRun) -> None:
    context = toy_run.context()
    table, links = Initialisation.load(context.folder("model")), agreed_links(context)
    linked = np.flatnonzero(table.provenance == PROVENANCES.index("linked"))
    assert len(linked) > 20
    for row in linked.tolist():
        mine = {source: count for (joint, source), count in links.items() if joint == row}
        mean = sum(context.source.table[source] * count for source, count in mine.items()) / sum(mine.values())
        np.testing.assert_allclose(table.words[row], mean.numpy(), rtol=1e-5, atol=1e-6)


def test_a_shared_row_is_copied_unless_it_is_not_to_be(toy_run: ToyRun, tmp_path: Path) -> None:
    context = toy_run.context()
    table = Initialisation.load(context.folder("model"))
    pieces, own = context.tokenizer.get_vocab(), context.source.tokenizer.get_vocab()
    word = "people"
    assert table.provenance[pieces[word]] == PROVENANCES.index("shared")
    np.testing.assert_array_equal(table.words[pieces[word]], context.source.table[own[word]].numpy())
    plain = toy_run.context("embeddings.copy_shared=false", "embeddings.min_links=null")
    rows = preparation.build_models(plain, tmp_path, SILENT)["rows"]
    assert rows["shared"] == rows["linked"] == 0
    assert rows["mapped"] == int(SubwordVectors.load(context.folder("embeddings")).has_vector.sum())
    assert (tmp_path / "random" / "model.safetensors").exists()


def test_the_random_model_has_the_same_shape_and_nothing_else_of_the_encoder(toy_run: ToyRun) -> None:
    start, random = (load_file(toy_run.folder / "model" / name / "model.safetensors") for name in ("start", "random"))
    assert {name: value.shape for name, value in start.items()} == {name: v.shape for name, v in random.items()}
    matrices = [name for name, value in start.items() if value.dim() == 2 and name.endswith("query.weight")]
    assert matrices
    assert not any(torch.equal(start[name], random[name]) for name in matrices)
