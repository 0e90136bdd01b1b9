"""Words and texts as token ids, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trelm.errors import ConfigError
from trelm.training.batches import IGNORED
from trelm.training.order import Indices

Arrays = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class WordPieces:
    """A sentence as token ids, special ones included, and where each word that was kept begins and ends in them."""

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


class WordEncoder:
    """Encodes words one by one, each as it is written after a space, and cuts whole words off what is too long.

    Attributes:
        words, cut: words seen, and those cut off. unknown: words without any piece, for which the unknown token stands.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.prefix, self.suffix = special_frame(tokenizer)
        self.room = max_length - len(self.prefix) - len(self.suffix)
        self.words = self.cut = self.unknown = 0
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, words: Sequence[str]) -> WordPieces:
        """The ids of a sentence; of a first word that is too long by itself, its first pieces stay."""
        ids, starts, ends = list(self.prefix), [], []
        for number, pieces in enumerate(map(self._pieces, words)):
            if len(ids) - len(self.prefix) + len(pieces) > self.room:
                if number:
                    break
                pieces = pieces[: self.room]
            starts.append(len(ids))
            ids += pieces
            ends.append(len(ids))
        self.words += len(words)
        self.cut += len(words) - len(starts)
        return WordPieces((*ids, *self.suffix), tuple(starts), tuple(ends))

    def _pieces(self, word: str) -> tuple[int, ...]:
        if word not in self._known:
            found = self.tokenizer(f" {word}", add_special_tokens=False, truncation=False)["input_ids"]
            self._known[word] = tuple(found)
        if self._known[word]:
            return self._known[word]
        self.unknown += 1
        number = self.tokenizer.unk_token_id
        if number is None:
            raise ConfigError(
                f"tokenizer: expected pieces for the word '{word}', found none and no unknown token; "
                "take the word out of the data, or give the tokenizer an unknown token"
            )
        return (number,)


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a text."""
    framed = tokenizer("a", truncation=False)["input_ids"]
    bare = tokenizer("a", add_special_tokens=False, truncation=False)["input_ids"]
    start = next(i for i in range(len(framed) + 1) if framed[i : i + len(bare)] == bare)
    return tuple(framed[:start]), tuple(framed[start + len(bare) :])


@dataclass(frozen=True)
class Part:
    """Examples that can be packed into batches; `targets[i]` holds the arrays of example i by their names.

    Attributes:
        ids: token ids, special ones included. padding: the id that fills up. language: as the encoder is told it.
    """

    ids: Sequence[Sequence[int]]
    targets: Sequence[Arrays]
    gold: Sequence[Any]
    padding: int
    language: int | None = None

    def lengths(self) -> Indices:
        """Tokens of each example."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def lengths_at(self, indices: Indices) -> Indices:
        """Tokens of each of these examples."""
        return np.array([len(self.ids[int(i)]) for i in indices], dtype=np.int64)

    def tokens(self, indices: Indices) -> int:
        """Tokens of these examples."""
        return sum(len(self.ids[int(i)]) for i in indices)

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (B, S), `language` (B,) and every target, filled up with -100."""
        rows = [np.array(self.ids[int(i)], dtype=np.int64) for i in indices]
        batch = {
            "input_ids": torch.from_numpy(stacked(rows, self.padding)),
            "attention_mask": torch.from_numpy(stacked([np.ones_like(row) for row in rows], 0)),
        }
        for name in self.targets[int(indices[0])]:
            fill = 0 if name == "token_type_ids" else IGNORED
            batch[name] = torch.from_numpy(stacked([self.targets[int(i)][name] for i in indices], fill))
        if self.language is not None:
            batch["language"] = torch.full((len(rows),), self.language)
        return batch


def stacked(arrays: Sequence[NDArray[np.int64]], fill: int) -> NDArray[np.int64]:
    """Arrays of one rank as one array, each filled up at its ends."""
    shape = np.max([array.shape for array in arrays], axis=0)
    whole = np.full((len(arrays), *shape), fill, dtype=np.int64)
    for row, array in zip(whole, arrays):
        row[tuple(slice(size) for size in array.shape)] = array
    return whole


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills up; attention never looks there, so 0 does where there is no such token."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def numbers(values: Sequence[Any]) -> NDArray[np.int64]:
    """A plain list as an array."""
    return np.array(values, dtype=np.int64)
