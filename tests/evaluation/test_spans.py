"""Spans in IOB tags."""

from __future__ import annotations

import pytest

from trelm.evaluation.spans import span_scores


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("gold", "predicted", "right", "found", "spans"),
    [
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", 2, 2, 2),
        ("B-PER I-PER O B-LOC", "B-PER O O B-ORG", 0, 2, 2),  # a border or a type that differs is wrong
        ("B-PER B-PER", "B-PER I-PER", 0, 1, 2),
        ("B-PER I-PER O", "I-PER I-PER O", 1, 1, 1),  # an I that continues nothing begins a span
        ("B-PER I-PER", "B-PER I-LOC", 0, 2, 1),  # and so does one of another type
        ("O B-LOC", "odd B-LOC", 1, 2, 1),  # a tag that is not IOB is a type of its own, and warns nobody
        ("O B-LOC", "O O", 0, 0, 1),
        ("O O", "O O", 0, 0, 0),
    ],
)
def test_spans_are_counted_as_by_conlleval(gold: str, predicted: str, right: int, found: int, spans: int) -> None:
    scores = span_scores([gold.split(), ["O"]], [predicted.split(), ["O"]])
    assert scores == pytest.approx(
        {
            "precision": right / found if found else 0,
            "recall": right / spans if spans else 0,
            "f1": 2 * right / (found + spans) if found + spans else 0,
            "spans": spans,
        }
    )


def test_a_span_ends_with_its_sentence() -> None:
    assert span_scores([["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]])["spans"] == 2


def test_tags_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="sentence 1: expected 2 predictions, found 1"):
        span_scores([["O", "O"]], [["O"]])
