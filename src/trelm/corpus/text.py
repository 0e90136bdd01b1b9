"""Text of one language from whatever the user names: plain files, treebanks, Hub data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trelm.corpus import hub
from trelm.corpus.files import expand, plain_name, read_lines
from trelm.corpus.treebanks import read_treebank


def read_text(source: str) -> Iterator[str]:
    """The sentences or paragraphs that `source` names, one a string; blank lines are no sentences and are skipped.

    Args:
        source: a file, a glob or an `hf://` name with one column (see `hub.py`). A `.conllu` file, compressed or not,
            gives the text of its sentences; any other file gives its lines. A Hub text of several lines gives each of
            them.

    Raises:
        DataError: as `expand`, `read_lines`, `read_treebank` and `hub.read_columns` say.
    """
    if hub.is_hub_name(source):
        lines = (line for (text,) in hub.read_columns(source, 1) for line in text.splitlines())
        yield from (line for line in lines if line.strip())
        return
    for path in expand(source):
        yield from _read_file(path)


def _read_file(path: Path) -> Iterator[str]:
    if plain_name(path).endswith(".conllu"):
        return (sentence.text for sentence in read_treebank(path))
    return (line for _, line in read_lines(path) if line.strip())


def sample_lines(path: Path, most: int, *, seed: int) -> list[str]:
    """All lines of a text file, or a random sample of `most` of them, in their order; blank ones left out."""
    total = sum(1 for _ in _read_file(path))
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).choice(total, min(most, total), replace=False)] = True
    return [line for line, taken in zip(_read_file(path), chosen) if taken]
