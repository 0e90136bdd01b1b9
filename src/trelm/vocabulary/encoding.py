"""Text to ids, always without the tokenizer's own truncation, padding and special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from trelm.corpus.ragged import Ragged, written
from trelm.vocabulary.description import backend_spec, batches, special_ids

NO_CHARACTER = "\U0010ffff"  # by Unicode's definition


def encode_lines(
    tokenizer: PreTrainedTokenizerBase, lines: Iterable[str], *, max_pieces: int | None, batch: int = 2_000
) -> tuple[Ragged, int]:
    """Ids without special tokens, one sequence a line (empty where the line is), and how many lines were cut.

    The tokenizer's own truncation and padding are not applied, a special token's spelling in the text is ordinary text,
    and the tokenizer is not changed. The result does not depend on `TOKENIZERS_PARALLELISM` or on `batch`. It is in
    memory; `write_lines` has it in files.

    Args:
        lines: any number of them, read in batches.
        max_pieces: longer sequences lose what is beyond; None keeps all.
    """
    values: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
    lengths: list[NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
    truncated = 0
    for ids in _encoded(tokenizer, lines, batch):
        if max_pieces is not None:
            truncated += sum(len(sequence) > max_pieces for sequence in ids)
            ids = [sequence[:max_pieces] for sequence in ids]
        flat, counts = _flat(ids)
        values.append(flat)
        lengths.append(counts)
    return Ragged(np.concatenate(values), np.cumsum(np.concatenate(lengths))), truncated


@dataclass(frozen=True)
class Encoded:
    """What was written: sequences, their tokens, and how many of them are longer than was asked."""

    lines: int
    tokens: int
    longer: int


def write_lines(
    tokenizer: PreTrainedTokenizerBase,
    lines: Iterable[str],
    folder: Path,
    name: str,
    *,
    longest: int,
    batch: int = 2_000,
) -> Encoded:
    """What `encode_lines` gives with nothing cut, written for `Ragged.load(folder, name)`; memory holds one batch.

    Args:
        longest: tokens; longer sequences are counted.
    """
    longer = 0
    with written(folder, name) as writer:
        for ids in _encoded(tokenizer, lines, batch):
            values, lengths = _flat(ids)
            writer.append(values, lengths)
            longer += int((lengths > longest).sum())
    return Encoded(writer.sequences, writer.tokens, longer)


def _encoded(tokenizer: PreTrainedTokenizerBase, lines: Iterable[str], batch: int) -> Iterator[list[list[int]]]:
    """The ids of each line, a batch of lines at a time; the tokenizer's own threads share a batch."""
    backend = plain_backend(tokenizer)
    for part in batches(lines, batch):
        yield [encoding.ids for encoding in backend.encode_batch_fast(part, add_special_tokens=False)]


def encoded_with_characters(
    tokenizer: PreTrainedTokenizerBase, lines: Iterable[str], *, batch: int = 2_000
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """The ids of each line as `encode_lines` gives them, and of each token its characters in the line.

    Yields:
        ids (n,) and (n, 2), the first character and the one after the last, of each line.
    """
    backend = plain_backend(tokenizer)
    for part in batches(lines, batch):
        for one in backend.encode_batch(part, add_special_tokens=False):
            yield np.array(one.ids, dtype=np.int32), np.array(one.offsets, dtype=np.int64).reshape(-1, 2)


def _flat(ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """All ids end to end, and the length of each sequence."""
    return np.fromiter(chain.from_iterable(ids), dtype=np.int32), np.fromiter(map(len, ids), dtype=np.int64)


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the Rust tokenizer that neither truncates nor pads, and reads `[MASK]` in a text as mere characters."""
    spec = {**backend_spec(tokenizer), "truncation": None, "padding": None, "post_processor": None}
    if spec["model"]["type"] == "Unigram":
        _hide(spec, special_ids(tokenizer))
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.encode_special_tokens = True
    return backend


def _hide(spec: dict[str, Any], specials: set[int]) -> None:
    """Spell special tokens as no text does: a Unigram model finds every entry in a text, also these.

    Added tokens beyond the model's entries stay: the ids of those after them depend on it.
    """
    vocabulary = spec["model"]["vocab"]
    hidden = {row for row in specials if row < len(vocabulary)}
    for row in hidden:
        vocabulary[row][0] = f"{NO_CHARACTER}{row}"
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] not in hidden]
