"""What tuning is made of: words as pieces, batches, heads against loops, the parts of a set, senses."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_tasks import NOUNS, OTHERS, toy_encoder, write_part

from tiny_tokenizers import source_tokenizer
from trelm.corpus.treebanks import Frame, Sentence, Word
from trelm.errors import ConfigError, DataError
from trelm.tasks.encoder import Encoder
from trelm.tasks.heads import Biaffine, first_states, mean_cross_entropy, mean_of_tokens, mean_states
from trelm.tasks.labelling import classification, tagging
from trelm.tasks.parsing import ParserHead, _tree_scores
from trelm.tasks.problem import most_frequent
from trelm.tasks.reading import evenly, read_parts, read_sentences
from trelm.tasks.roles import Senses, _scores, split_sense
from trelm.tasks.subwords import Part, WordEncoder, special_frame, stacked

FAMILIES = ("bert", "mpnet", "roberta", "xlm-roberta", "camembert", "deberta-v2", "modernbert", "eurobert")
NO_LANGUAGE = (None, None, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_encoded_as_they_are_in_running_text(family: str) -> None:
    tokenizer = source_tokenizer(family)
    words = ["They", "walked", "to", "the", "houses", "42", "(again)"]
    found = WordEncoder(tokenizer, 400).encode(words)
    prefix, suffix = special_frame(tokenizer)
    text = tokenizer(" " + " ".join(words), add_special_tokens=False)["input_ids"]
    assert list(found.ids) == [*prefix, *text, *suffix]
    assert found.starts == (len(prefix), *found.ends[:-1])
    assert found.ends[-1] == len(found.ids) - len(suffix)


def test_whole_words_are_cut_off_and_counted_and_a_word_without_pieces_is_unknown() -> None:
    encoder = WordEncoder(toy_encoder().tokenizer, 5)  # room for three pieces
    assert encoder.encode(["unknown", "\u200b", "people"]).starts == (1, 3)
    assert (encoder.words, encoder.cut, encoder.unknown) == (3, 1, 1)
    assert len(encoder.encode(["ununknownunknown"]).ids) <= 5
    assert (encoder.words, encoder.cut) == (4, 1)
    bare: Any = toy_encoder().tokenizer
    bare.unk_token = None
    with pytest.raises(ConfigError, match="expected pieces for the word '\u200b', found none and no unknown token"):
        WordEncoder(bare, 5).encode(["\u200b"])


def test_batches_are_filled_up() -> None:
    targets = [
        {"roles": np.arange(6).reshape(2, 3), "token_type_ids": np.array([0, 1])},
        {"roles": np.ones((1, 1), dtype=np.int64), "token_type_ids": np.array([1])},
    ]
    part = Part([(5, 6), (7,)], targets, ["a", "b"], padding=9, language=1)
    batch = part.collate(np.array([0, 1]), np.random.default_rng(1))
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1], [1, 0]]
    assert batch["roles"].tolist() == [[[0, 1, 2], [3, 4, 5]], [[1, -100, -100], [-100, -100, -100]]]
    assert batch["language"].tolist() == [1, 1]
    assert (part.lengths().tolist(), part.tokens(np.array([0, 1]))) == ([2, 1], 3)
    assert stacked([np.array([1])], 0).shape == (1, 1)


def test_states_of_words_and_biaffine_scores_are_those_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(2, 6, 4, generator=generator)
    starts, ends = torch.tensor([[1, 2], [1, -100]]), torch.tensor([[2, 5], [4, -100]])
    torch.testing.assert_close(mean_states(states, starts, ends)[0, 1], states[0, 2:5].mean(0))
    torch.testing.assert_close(
        mean_states(states, starts, ends)[1], torch.stack([states[1, 1:4].mean(0), torch.zeros(4)])
    )
    assert torch.equal(first_states(states, starts)[0], states[0, 1:3])
    torch.testing.assert_close(
        mean_of_tokens(states, torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]]))[1], states[1, :2].mean(0)
    )
    layer = Biaffine(4, 3, 2, bias_left=True, bias_right=False)
    torch.nn.init.normal_(layer.weight, generator=generator)
    left, right = torch.randn(1, 5, 4, generator=generator), torch.randn(1, 5, 3, generator=generator)
    scores = layer(left, right)
    for x, y, o in itertools.product(range(5), range(5), range(2)):
        expected = torch.cat([left[0, x], torch.ones(1)]) @ layer.weight[o] @ right[0, y]
        torch.testing.assert_close(scores[0, x, y, o], expected)
    torch.testing.assert_close(layer.paired(left, right)[0], scores[0].diagonal().permute(1, 0))
    logits, labels = torch.randn(3, 2, generator=generator), torch.tensor([1, -100, 0])
    expected = torch.nn.functional.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(mean_cross_entropy(logits, labels), expected)
    assert mean_cross_entropy(logits, torch.full((3,), -100)) == 0


def test_trees_have_one_root_and_its_relation_stands_there_alone() -> None:
    torch.manual_seed(2)
    head = ParserHead(8, relations=3, root=1)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    head.train(False)
    starts = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, -100, -100], [1, -100, -100, -100, -100]])
    batch = {"starts": starts, "ends": torch.where(starts > 0, starts + 1, starts)}
    states: Tensor = torch.randn(3, 7, 8)
    with torch.no_grad():
        trees = head.predict(states, batch)
    for length, (heads, relations) in zip((5, 3, 1), trees):
        assert len(heads) == len(relations) == length
        assert heads.count(0) == 1
        assert all(0 <= one <= length for one in heads)
        assert [one == 0 for one in heads] == [relation == 1 for relation in relations]


def sentence(*relations: tuple[int, str], frames: tuple[Frame, ...] = ()) -> Sentence:
    words = tuple(Word(i, OTHERS[0], "X", head, name, f"lemma{i}") for i, (head, name) in enumerate(relations, start=1))
    return Sentence("text", words, frames)


def test_what_is_cut_off_is_scored_by_plain_rules() -> None:
    gold = sentence((0, "root"), (1, "obj"), (2, "obj"), (2, "case"))
    part = Part([()], [{}], [gold], 0)
    assert _tree_scores(["obj", "root"], "obj", part, [([0, 1], [1, 0])])["las"] == 0.75
    frames = (Frame(1, "go.01", ((2, "A0"),)), Frame(4, "x.02", ((1, "A1"),)))
    part = Part([()], [{}], [sentence((0, "root"), (1, "obj"), (2, "obj"), (2, "case"), frames=frames)], 0)
    senses = Senses({"01": 0, "02": 1}, {"lemma1": "go"}, "02")
    scores = _scores(["", "A0"], senses, part, [([0], [[0, 1]])])
    assert scores["sense_accuracy"] == 0.5  # lemma4.02 is not x.02
    assert (scores["labelled_precision"], scores["labelled_recall"]) == (2 / 3, 2 / 4)


def test_senses_are_spelled_with_the_frame_that_a_lemma_mostly_has() -> None:
    made = [sentence((0, "root"), frames=(Frame(1, sense, ()),)) for sense in ("go.01", "leave.02", "go.02", "stay")]
    senses = Senses.of(made)
    assert (senses.numbers, senses.fallback) == ({"": 0, "01": 1, "02": 2}, "02")
    assert [senses.spelled("lemma1", "03"), senses.spelled("new", "01"), senses.spelled("new", "")] == [
        "go.03",
        "new.01",
        "new",
    ]
    assert [split_sense("a.b.01"), split_sense("a")] == [("a.b", "01"), ("a", "")]
    assert most_frequent(["b", "a", "b", "a", "c"]) == "a"


def test_labels_that_train_has_not_are_counted(tmp_path: Path) -> None:
    first, other = tmp_path / "a.tsv", tmp_path / "b.tsv"
    first.write_text("people\tA\nstate\tB\n\n")
    other.write_text("people\tA\nstate\tC\n\n")
    parts = read_parts("tagging", "tags", train=[str(first)], dev=[str(other)], test=[str(other)])
    problem = tagging(toy_encoder(), parts, 32, NO_LANGUAGE, entities=False)
    assert [problem.figures[name]["unseen_labels"] for name in ("train", "dev", "test")] == [0, 1, 1]
    assert problem.score(problem.parts["test"], [[0]]) == {"accuracy": 0.5}


def test_pairs_are_told_apart_and_long_texts_cut(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"text_a": "people made", "text_b": "very good", "label": 1},
        {"text_a": "the " * 40, "text_b": "x", "label": 0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = read_parts("classification", "pairs", train=[str(path)], dev=[str(path)], test=[str(path)])
    problem = classification(toy_encoder(), parts, 16, NO_LANGUAGE)
    assert problem.parts["train"].targets[0]["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert len(problem.parts["train"].ids[1]) == 16
    assert problem.figures["train"] == {"examples": 2, "cut_texts": 1, "unseen_labels": 0}


def test_the_parts_of_a_set(tmp_path: Path) -> None:
    words = [NOUNS[0], "good", *NOUNS[1:4]]
    path = write_part("tagging", tmp_path / "dev.tsv", [[word] for word in words])
    whole = read_parts("tagging", "tags", train=[str(path)], dev=[str(path)], test_from_dev=0.4, max_train=3)
    assert [[one.words[0] for one in part] for part in (whole.train, whole.dev, whole.test)] == [
        [words[0], words[1], words[3]],
        words[:3],
        words[3:],
    ]
    fewer = read_parts("tagging", "tags", train=[str(path)], dev=[str(path)], test_from_dev=0.4, max_dev=2)
    assert [[one.words[0] for one in part] for part in (fewer.dev, fewer.test)] == [words[:2], words[3:]]
    assert evenly(range(7), 3) == [0, 2, 4]
    assert evenly(range(2), None) == [0, 1]
    assert list(read_sentences("tagging", str(path))) == words


@pytest.mark.parametrize(
    ("kind", "name", "content", "expected"),
    [
        ("text", "a.txt", "one\ntwo\n", ["one", "two"]),
        ("classification", "a.tsv", "one\ttwo\tx\n", ["one", "two"]),
        ("retrieval", "a.tsv", "one\ttwo\n \tthree\n", ["two"]),
        ("entities", "a.conll", "one B-X\ntwo O\n", ["one two"]),
        ("tagging", "a.conllu", "# text = onetwo\n1\tone\t_\tX\t_\t_\t0\troot\t_\t_\n", ["onetwo"]),
        ("roles", "a.conllu", "# text = one\n1\tone\t_\tX\t_\t_\t0\troot\t_\t_\tgo.01\tV\n", ["one"]),
    ],
)
def test_the_sentences_of_every_kind_of_set(
    tmp_path: Path, kind: str, name: str, content: str, expected: list[str]
) -> None:
    (tmp_path / name).write_text(content)
    assert list(read_sentences(kind, str(tmp_path / name))) == expected


ROOT_WORD = "1\tone\t_\tX\t_\t_\t0\troot\t_\t_\t"
IOB = "expected O or B-, I-, E- or S- and a type as tags, found "


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        ("classification", {"train": "one\tx\n", "dev": "one\ttwo\tx\n"}, "'set': expected texts or pairs of texts, "
         "found both; keep to one of the two"),
        ("classification", {"train": "one\tx\ntwo\tx\n"}, "'set', train: expected at least 2 labels, found only 'x'"),
        ("tagging", {"train": "one X\ntwo X\n"}, "'set', train: expected at least 2 labels, found only 'X'; give"),
        ("entities", {"train": "one O\n"}, "'set', train: expected at least 2 labels, found only 'O'; give"),
        ("entities", {"train": "a B-X\nb O\n", "dev": "a U-X\n"}, f"'set', dev: {IOB}'U-X' in 'a'; convert the tags"),
        ("entities", {"train": "a L-X\nb O\n"}, f"'set', train: {IOB}'L-X' in 'a b'; convert"),
        ("entities", {"test": "a PER\n"}, f"'set', test: {IOB}'PER' in 'a'; convert"),
        ("retrieval", {"test": " \tthree\n"}, "'set', test: expected examples, found none; name other files"),
        ("retrieval", {"test": "one\ttwo\n"}, "'set', test: expected at least 2 pairs to choose from, found 1; give"),
        ("parsing", {"train": "1\tsome\t_\tX\t_\t_\t_\t_\t_\t_\n"}, "'set', train: expected a head for every word, "
         "found none for 'some' in 'some'; fill in"),
        ("roles", {"train": f"{ROOT_WORD}_\n\n{ROOT_WORD}go.01\tV\n"}, "'set', train: expected a predicate, found"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(kind: str, parts: dict[str, str], message: str, tmp_path: Path) -> None:
    ending = "conllu" if kind in ("parsing", "roles") else "tsv"
    for name, text in parts.items():
        (tmp_path / f"{name}.{ending}").write_text(text)
    named: Any = {name: [str(tmp_path / f"{name}.{ending}")] for name in parts}
    with pytest.raises(DataError, match=re.escape(message)):
        read_parts(kind, "set", max_train=1 if kind == "roles" else None, **named)


def test_a_dev_of_one_example_cannot_be_parted(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\tx\n")
    message = "'set', dev: expected examples enough to part a share of 0.5 from, found 1; give more, or name files"
    with pytest.raises(DataError, match=message):
        read_parts("classification", "set", dev=[str(tmp_path / "a.tsv")], test_from_dev=0.5)


def test_languages_are_those_of_the_model() -> None:
    model: Any = None
    ours = Encoder(model, model, 8, "x", languages=("en", "id"), default_language=1, max_length=10)
    assert [ours.language(code) for code in (None, "en", "id")] == [1, 0, 1]
    assert (ours.longest(256), toy_encoder().language("en")) == (10, None)
    with pytest.raises(
        ConfigError,
        match=r"expected a language of the model \(en, id\), found 'ie'; name one of them; did you mean 'id'",
    ):
        ours.language("ie")
