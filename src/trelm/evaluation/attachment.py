"""Attachment scores of dependency parsing, as the CoNLL 2018 shared task defines them (Zeman et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trelm.corpus.treebanks import Sentence
from trelm.errors import DataError

FUNCTIONAL = frozenset({"aux", "case", "cc", "clf", "cop", "det", "mark", "punct"})
"""The universal relations that CLAS leaves out."""


@dataclass(frozen=True)
class AttachmentScores:
    """Shares from 0 to 1.

    Attributes:
        uas: words with the right head. las: with the right head and universal relation.
        clas: F1 of las over content words, those of each side by its own relations.
        words, sentences: how many were scored.
    """

    uas: float
    las: float
    clas: float
    words: int
    sentences: int

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def attachment_scores(
    gold: Sequence[Sentence], heads: Sequence[Sequence[int]], relations: Sequence[Sequence[str]]
) -> AttachmentScores:
    """The scores of a parser that was given the words of the treebank.

    Subtypes of relations (`nsubj:pass`) do not count, punctuation does. Every relation but the `FUNCTIONAL` ones is a
    content relation, also one that Universal Dependencies 2 does not know.

    Args:
        gold: the sentences of the treebank. heads, relations: for each of them, those of its words.

    Raises:
        DataError: a word of the treebank without head.
        ValueError: heads or relations of another number of sentences or words, or no word at all.
    """
    if not len(gold) == len(heads) == len(relations):
        found = f"{len(heads)} and {len(relations)}"
        raise ValueError(f"expected heads and relations of {len(gold)} sentences, found those of {found}")
    words = right_heads = right = content_gold = content_predicted = content_right = 0
    for number, (sentence, sentence_heads, sentence_relations) in enumerate(zip(gold, heads, relations), start=1):
        _check(number, sentence, sentence_heads, sentence_relations)
        for word, head, relation in zip(sentence.words, sentence_heads, sentence_relations):
            expected, found = _universal(word.deprel), _universal(relation)
            labelled = head == word.head and found == expected
            words += 1
            right_heads += head == word.head
            right += labelled
            content_gold += expected not in FUNCTIONAL
            content_predicted += found not in FUNCTIONAL
            content_right += labelled and expected not in FUNCTIONAL
    if not words:
        raise ValueError("expected at least one word to score, found none")
    content = content_gold + content_predicted
    clas = 2 * content_right / content if content else 0.0
    return AttachmentScores(right_heads / words, right / words, clas, words, len(gold))


def _universal(relation: str) -> str:
    return relation.partition(":")[0]


def _check(number: int, sentence: Sentence, heads: Sequence[int], relations: Sequence[str]) -> None:
    if not len(sentence.words) == len(heads) == len(relations):
        found = f"{len(heads)} and {len(relations)}"
        expected = f"{len(sentence.words)} heads and relations"
        raise ValueError(f"sentence {number}: expected {expected}, found {found}")
    for word in sentence.words:
        if word.head is None:
            where = f"sentence {number} of the treebank ('{sentence.text[:60]}')"
            raise DataError(f"{where}: expected a head for word {word.id} ('{word.form}'), found _; take it out")
