"""Real text for the benchmarks of speed, in a joint vocabulary."""

from __future__ import annotations

import itertools
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import MASK_RATE, MAX_LENGTH
from transformers import PreTrainedTokenizerBase

from trelm.model.source import load_source
from trelm.stages import StageData
from trelm.steps.context import vocabulary_of
from trelm.vocabulary.encoding import encode_lines
from trelm.vocabulary.training import train_vocabulary
from trelm.word_links.links import link


@dataclass(frozen=True)
class Text:
    """Real text in one vocabulary.

    Attributes:
        tokenizer: the joint one. data: text and linked pairs. config: of the source encoder.
    """

    tokenizer: PreTrainedTokenizerBase
    data: StageData
    config: Any


def real_text(folder: Path, *, lines: int, pairs: int, vocabulary: int) -> Text:
    """Indonesian news and English-Indonesian pairs in a joint vocabulary trained on them, linked word by word."""
    target = list(itertools.islice(_lines(sorted((folder / "id" / "mono").glob("leipzig*.txt.xz"))), lines))
    rows = itertools.islice(_lines(sorted((folder / "en-id" / "train").glob("ted*.tsv.xz"))), pairs)
    english, indonesian = zip(*(row.split("\t")[:2] for row in rows))
    source = load_source("minilm")
    tokenizer = train_vocabulary(
        source.tokenizer,
        [*english, *indonesian, *target],
        size=vocabulary,
        min_frequency=2,
        alphabet_limit=1000,
        lowercase=None,
    )
    sides = [encode_lines(tokenizer, side, max_pieces=MAX_LENGTH - 2)[0] for side in (english, indonesian)]
    links = link(*sides)
    text = encode_lines(tokenizer, target, max_pieces=MAX_LENGTH - 2)[0]
    data = StageData(
        source=text,
        target=text,
        pair_source=sides[0],
        pair_target=sides[1],
        source_of_target=links.source_of_target,
        target_of_source=links.target_of_source,
        vocabulary=vocabulary_of(tokenizer),
        max_length=MAX_LENGTH,
        mask_rate=MASK_RATE,
    )
    return Text(tokenizer, data, source.config)


def _lines(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        with lzma.open(path, "rt", encoding="utf-8") as stream:
            yield from (line.rstrip("\n") for line in stream)
