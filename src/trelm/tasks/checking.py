"""What the examples of a set must have before a model is tuned on them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trelm.errors import DataError

ENTITY_TAG = re.compile(r"O|[BIES]-.+")
"""Tags whose spans are counted rightly: IOB, and IOBES. The U- and L- of BILOU would begin and end nothing."""
LABELLED = ("classification", "tagging", "entities")


def check_examples(kind: str, label: str, parts: Mapping[str, Sequence[Any]]) -> None:
    """Refuse examples that the task cannot be learned from or scored on.

    Args:
        kind: the task. label: the set's name, for messages. parts: train, dev and test by name; [] where there is none.

    Raises:
        DataError: one text beside pairs of texts; a train without two labels or without a predicate; an entity's tag
            that is not IOB; a word without a head; a single pair to retrieve from.
    """
    if kind == "classification" and len({text.second is None for part in parts.values() for text in part}) > 1:
        raise DataError(f"'{label}': expected texts or pairs of texts, found both; keep to one of the two")
    if kind in LABELLED and parts["train"]:
        _check_labels(kind, label, parts["train"])
    if kind == "roles" and parts["train"] and not any(sentence.frames for sentence in parts["train"]):
        raise DataError(f"'{label}', train: expected a predicate, found none; give more of it")
    for name, examples in parts.items():
        where = f"'{label}', {name}"
        if kind == "entities":
            _check_entity_tags(where, examples)
        elif kind == "parsing":
            _check_heads(where, examples)
        elif kind == "retrieval" and len(examples) == 1:
            raise DataError(f"{where}: expected at least 2 pairs to choose from, found 1; give more")


def _check_labels(kind: str, label: str, train: Sequence[Any]) -> None:
    labels = {text.label for text in train} if kind == "classification" else {tag for one in train for tag in one.tags}
    if len(labels) < 2:
        raise DataError(
            f"'{label}', train: expected at least 2 labels, found only '{next(iter(labels))}'; give examples of others"
        )


def _check_entity_tags(where: str, sentences: Sequence[Any]) -> None:
    for sentence in sentences:
        for tag in sentence.tags:
            if not ENTITY_TAG.fullmatch(tag):
                raise DataError(
                    f"{where}: expected O or B-, I-, E- or S- and a type as tags, found '{tag}' in "
                    f"'{' '.join(sentence.words)[:60]}'; convert the tags, or make it task tagging"
                )


def _check_heads(where: str, sentences: Sequence[Any]) -> None:
    for sentence in sentences:
        for word in sentence.words:
            if word.head is None:
                raise DataError(
                    f"{where}: expected a head for every word, found none for '{word.form}' in '{sentence.text[:60]}'; "
                    "fill in the seventh column"
                )
