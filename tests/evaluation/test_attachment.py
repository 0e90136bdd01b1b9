"""Attachment scores."""

from __future__ import annotations

import pytest

from trelm.corpus.treebanks import Sentence, Word
from trelm.errors import DataError
from trelm.evaluation.attachment import attachment_scores

GOLD = "2 det, 3 nsubj:pass, 0 root, 5 case, 3 obl:agent, 3 punct | 2 nsubj, 0 root, 4 cc, 2 conj"


def arcs(text: str) -> list[list[tuple[int, str]]]:
    sentences = [[arc.split() for arc in sentence.split(",")] for sentence in text.split("|")]
    return [[(int(head), relation) for head, relation in sentence] for sentence in sentences]


def treebank(text: str) -> list[Sentence]:
    return [
        Sentence("", tuple(Word(i, "w", "X", head, relation) for i, (head, relation) in enumerate(sentence, start=1)))
        for sentence in arcs(text)
    ]


# The counts are those of the shared task's conll18_ud_eval.py, as udtools 0.2.9 carries it on, for these very trees:
# right heads and right arcs of 10 words; right content arcs, content words of gold and of the prediction.
@pytest.mark.parametrize(
    ("predicted", "heads", "labelled", "content"),
    [
        (GOLD, 10, 10, (6, 6, 6)),
        ("2 det:x, 3 nsubj, 0 root, 5 case, 3 obl, 3 punct | 2 nsubj, 0 root, 4 cc, 2 conj", 10, 10, (6, 6, 6)),
        ("2 nmod, 3 nsubj, 0 root, 5 case, 3 case, 5 punct | 2 nsubj, 0 root, 2 conj, 2 cc", 8, 5, (4, 6, 6)),
        ("3 det, 1 nsubj, 0 root, 3 case, 4 obl, 3 punct | 4 nsubj, 0 root, 2 cc, 2 conj", 4, 4, (3, 6, 6)),
        ("2 det, 3 det, 0 root, 5 case, 3 punct, 3 punct | 2 aux, 0 root, 4 cc, 2 mark", 10, 6, (2, 6, 2)),
        ("2 det, 0 nsubj, 2 root, 5 case, 3 obl, 3 punct | 0 root, 1 nsubj, 4 cc, 1 conj", 5, 5, (1, 6, 6)),
    ],
)
def test_scores_are_those_of_the_shared_task(
    predicted: str, heads: int, labelled: int, content: tuple[int, int, int]
) -> None:
    trees = arcs(predicted)
    scores = attachment_scores(
        treebank(GOLD), [[head for head, _ in tree] for tree in trees], [[name for _, name in tree] for tree in trees]
    )
    clas = 2 * content[0] / (content[1] + content[2])
    assert scores.as_dict() == pytest.approx(
        {"uas": heads / 10, "las": labelled / 10, "clas": clas, "words": 10, "sentences": 2}
    )


def test_clas_without_content_words_is_nothing() -> None:
    assert attachment_scores(treebank("0 punct"), [[0]], [["punct"]]).clas == 0


@pytest.mark.parametrize(
    ("heads", "relations", "words"),
    [
        ([], [[]], "expected heads and relations of 1 sentences, found those of 0 and 1"),
        ([[0]], [["root"]], "sentence 1: expected 2 heads and relations, found 1 and 1"),
    ],
)
def test_parses_that_do_not_fit_are_told(heads: list[list[int]], relations: list[list[str]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attachment_scores(treebank("0 root, 1 obj"), heads, relations)


def test_nothing_to_score_is_told() -> None:
    with pytest.raises(ValueError, match="expected at least one word to score, found none"):
        attachment_scores([], [], [])


def test_a_treebank_without_heads_is_told() -> None:
    gold = [Sentence("Buku itu", (Word(1, "Buku", "NOUN", None, "_"),))]
    words = r"sentence 1 of the treebank \('Buku itu'\): expected a head for word 1 \('Buku'\), found _; take it out"
    with pytest.raises(DataError, match=words):
        attachment_scores(gold, [[0]], [["root"]])
