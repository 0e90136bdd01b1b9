"""What the joint vocabulary has in common with the source's, and its figures for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trelm.vocabulary.description import special_ids
from trelm.vocabulary.encoding import encode_lines
from trelm.vocabulary.special import ALL_ROLES


def shared_entries(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Entries spelled alike, int64 [p, 2]: row in the joint vocabulary, row in the source's.

    Sorted by the first; special tokens of either side are left out (`special_rows` matches those).
    """
    source = source_tokenizer.get_vocab()
    specials, source_specials = special_ids(tokenizer), special_ids(source_tokenizer)
    pairs = ((row, source[piece]) for piece, row in tokenizer.get_vocab().items() if piece in source)
    return _pairs(pair for pair in pairs if pair[0] not in specials and pair[1] not in source_specials)


def special_rows(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Special tokens of the same role, int64 [q, 2]: row in the joint vocabulary, row in the source's.

    Roles are matched (cls, sep, pad, unk, mask, bos, eos), neither ids nor spellings; a role that either lacks is left
    out, and tokens with two roles appear once.
    """
    rows = [tuple(getattr(t, f"{role}_token_id") for t in (tokenizer, source_tokenizer)) for role in ALL_ROLES]
    return _pairs({(int(row), int(source)) for row, source in rows if row is not None and source is not None})


def statistics(
    tokenizer: PreTrainedTokenizerBase,
    sample_lines: Mapping[str, Sequence[str]],
    source_tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Figures of the vocabulary for the report.

    Returns:
        `size`, `shared_entries`, and `languages`: for each language of `sample_lines` its `text_statistics`.
    """
    return {
        "size": len(tokenizer),
        "shared_entries": len(shared_entries(tokenizer, source_tokenizer)),
        "languages": {name: text_statistics(tokenizer, lines) for name, lines in sample_lines.items()},
    }


def text_statistics(tokenizer: PreTrainedTokenizerBase, lines: Sequence[str]) -> dict[str, float | None]:
    """How a tokenizer cuts text.

    Returns:
        `fertility` (pieces a whitespace word), `characters_per_piece` (for scripts without spaces) and `unknown_rate`
        (of the pieces); None where the text is empty.
    """
    pieces = encode_lines(tokenizer, lines, max_pieces=None)[0].values
    words = [word for line in lines for word in line.split()]
    unknown = 0 if tokenizer.unk_token_id is None else int((pieces == tokenizer.unk_token_id).sum())
    return {
        "fertility": _ratio(len(pieces), len(words)),
        "characters_per_piece": _ratio(sum(map(len, words)), len(pieces)),
        "unknown_rate": _ratio(unknown, len(pieces)),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _pairs(pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
