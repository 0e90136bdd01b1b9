"""Scores of classification and of tagging."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from sklearn.metrics import accuracy_score, f1_score


def label_scores(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """The `accuracy`, and `macro_f1`: the mean over the labels of gold of their F1.

    A label that only a prediction has lowers the recall of others; scikit-learn by itself would also count it as one
    more label, with F1 0.

    Raises:
        ValueError: another number of predictions, or none.
    """
    check_lengths(gold, predicted)
    labels = sorted(set(gold))
    macro = f1_score(gold, predicted, labels=labels, average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(gold, predicted)), "macro_f1": float(macro)}


def tag_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """The share of words with the right tag, over all sentences together.

    Raises:
        ValueError: another number of sentences or of tags in one, or no tags.
    """
    check_tags(gold, predicted)
    pairs = [pair for tags, others in zip(gold, predicted) for pair in zip(tags, others)]
    return sum(tag == other for tag, other in pairs) / len(pairs)


def check_tags(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    """Each sentence has as many predicted tags as words.

    Raises:
        ValueError: it has not, or there is no sentence or an empty one.
    """
    check_lengths(gold, predicted)
    for number, (tags, others) in enumerate(zip(gold, predicted), start=1):
        check_lengths(tags, others, f"sentence {number}: ")


def check_lengths(gold: Sized, predicted: Sized, where: str = "") -> None:
    """There are as many predictions as gold labels, and at least one; a ValueError says `where`, if not."""
    if len(gold) != len(predicted) or not len(gold):
        expected = f"{len(gold)} predictions" if len(gold) else "at least one label to score"
        raise ValueError(f"{where}expected {expected}, found {len(predicted) if len(gold) else 'none'}")
