"""The examples of an evaluation set: train, dev and test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trelm.corpus.files import expand, plain_name
from trelm.corpus.labelled import LabelledText, read_labelled
from trelm.corpus.parallel import read_pairs
from trelm.corpus.tagged import read_tagged
from trelm.corpus.text import read_text
from trelm.corpus.treebanks import read_propositions, read_treebank
from trelm.errors import DataError
from trelm.tasks.checking import check_examples


@dataclass(frozen=True)
class Parts:
    """The examples of a set, in the order of its files."""

    train: Sequence[Any]
    dev: Sequence[Any]
    test: Sequence[Any]


def read_parts(
    kind: str,
    label: str,
    *,
    train: Sequence[str] = (),
    dev: Sequence[str] = (),
    test: Sequence[str] = (),
    test_from_dev: float | None = None,
    max_train: int | None = None,
    max_dev: int | None = None,
) -> Parts:
    """All examples of a set.

    Args:
        kind: the task. label: the set's name, for messages. train, dev, test: paths and globs.
        test_from_dev: this share of dev, its end, is the test: neighbours, which may be of one document, stay together.
        max_train, max_dev: so many of train, of dev at most, evenly spaced; dev without the test that is cut from it.

    Raises:
        DataError: a part that files are named for has no example, and what `check_examples` and the readers say.
    """
    named = {"train": train, "dev": dev, "test": test}
    found = {name: [one for pattern in patterns for one in read_examples(kind, pattern)]
             for name, patterns in named.items()}  # fmt: skip
    for name, patterns in named.items():
        if patterns and not found[name]:
            raise DataError(f"'{label}', {name}: expected examples, found none; name other files")
    if test_from_dev is not None:
        found["dev"], found["test"] = _split(found["dev"], test_from_dev, label)
    found["train"], found["dev"] = evenly(found["train"], max_train), evenly(found["dev"], max_dev)
    check_examples(kind, label, found)
    return Parts(found["train"], found["dev"], found["test"])


def evenly(examples: Sequence[Any], most: int | None) -> list[Any]:
    """At most so many of the examples, evenly spaced, in their order."""
    if most is None or len(examples) <= most:
        return list(examples)
    return [examples[i * len(examples) // most] for i in range(most)]


def read_examples(kind: str, pattern: str) -> Iterator[Any]:
    """The examples that a path or glob names."""
    if kind == "retrieval":
        yield from (pair for pair in read_pairs(pattern, ("xx", "yy")) if all(side.strip() for side in pair))
        return
    reader = _READERS[kind]
    for path in expand(pattern):
        yield from reader(path)


def read_sentences(kind: str, pattern: str) -> Iterator[str]:
    """The texts that a set of any kind with text is made of: what bits per character are taken of."""
    if kind == "classification":
        for text in read_examples(kind, pattern):
            yield from _texts(text)
    elif kind == "roles":
        yield from (sentence.text for sentence in read_examples(kind, pattern))
    elif kind in ("tagging", "entities"):
        for path in expand(pattern):
            if plain_name(path).endswith(".conllu"):
                yield from (sentence.text for sentence in read_treebank(path))
            else:
                yield from (" ".join(sentence.words) for sentence in read_tagged(path))
    elif kind == "retrieval":
        yield from (target for _, target in read_examples(kind, pattern))
    else:
        yield from read_text(pattern)


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    "classification": read_labelled,
    "tagging": read_tagged,
    "entities": read_tagged,
    "parsing": read_treebank,
    "roles": read_propositions,
}


def _texts(text: LabelledText) -> list[str]:
    return [one for one in (text.text, text.second) if one is not None and one.strip()]


def _split(dev: list[Any], share: float, label: str) -> tuple[list[Any], list[Any]]:
    kept = round(len(dev) * (1 - share))
    if not 0 < kept < len(dev):
        raise DataError(
            f"'{label}', dev: expected examples enough to part a share of {share:g} from, found {len(dev)}; "
            "give more, or name files under test"
        )
    return dev[:kept], dev[kept:]
