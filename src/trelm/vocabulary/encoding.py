"""Text to ids, always without the tokenizer's own truncation, padding and special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from trelm.corpus.ragged import Ragged
from trelm.vocabulary.description import backend_spec, batches, special_ids

NO_CHARACTER = "\U0010ffff"  # by Unicode's definition


def encode_lines(
    tokenizer: PreTrainedTokenizerBase, lines: Iterable[str], *, max_pieces: int | None, batch: int = 2_000
) -> tuple[Ragged, int]:
    """Ids without special tokens, one sequence a line (empty where the line is), and how many lines were cut.

    The tokenizer's own truncation and padding are not applied, a special token's spelling in the text is ordinary text,
    and the tokenizer is not changed. The result does not depend on `TOKENIZERS_PARALLELISM` or on `batch`.

    Args:
        lines: any number of them, read in batches.
        max_pieces: longer sequences lose what is beyond; None keeps all.
    """
    backend = plain_backend(tokenizer)
    values: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
    lengths: list[int] = []
    truncated = 0
    for part in batches(lines, batch):
        ids = [encoding.ids for encoding in backend.encode_batch_fast(part, add_special_tokens=False)]
        if max_pieces is not None:
            truncated += sum(len(sequence) > max_pieces for sequence in ids)
            ids = [sequence[:max_pieces] for sequence in ids]
        lengths.extend(map(len, ids))
        values.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32))
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(np.concatenate(values), offsets), truncated


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
