"""Accuracy and macro F1."""

from __future__ import annotations

import pytest

from trelm.evaluation.labels import label_scores, tag_accuracy


def test_macro_f1_is_the_mean_over_the_labels_of_gold() -> None:
    scores = label_scores(["a", "a", "b", "c"], ["a", "x", "b", "b"])
    assert scores == pytest.approx({"accuracy": 2 / 4, "macro_f1": (2 / 3 + 2 / 3 + 0) / 3})


def test_tags_are_counted_over_all_sentences() -> None:
    assert tag_accuracy([["N", "V", "N"], ["V"]], [["N", "V", "V"], ["N"]]) == 2 / 4


@pytest.mark.parametrize(
    ("gold", "predicted", "words"),
    [
        (["a"], [], "^expected 1 predictions, found 0"),
        ([], ["a"], "^expected at least one label to score, found none"),
    ],
)
def test_labels_that_do_not_fit_are_told(gold: list[str], predicted: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        label_scores(gold, predicted)
    with pytest.raises(ValueError, match="sentence 2: " + words.removeprefix("^")):
        tag_accuracy([["N"], gold], [["N"], predicted])
