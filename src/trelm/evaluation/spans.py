"""Scores of named entities: spans in IOB tags, counted as by conlleval (Tjong Kim Sang and De Meulder 2003)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

from trelm.evaluation.labels import check_tags


def span_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """`precision`, `recall` and `f1` of the spans of all sentences together, and how many `spans` gold has.

    A predicted span is right with the same first word, last word and type. As in conlleval, an `I-` that continues
    nothing begins a span, and a share of nothing is 0.

    Raises:
        ValueError: another number of sentences or of tags in one, or no tags.
    """
    check_tags(gold, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns of a tag that is not IOB, which a tagger may well predict
        precision, recall, f1, spans = precision_recall_fscore_support(
            [list(tags) for tags in gold], [list(tags) for tags in predicted], average="micro", zero_division=0
        )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1), "spans": float(spans)}
