"""The joint subword vocabulary, of the source tokenizer's own kind (METHOD section 1)."""

from trelm.vocabulary.comparison import shared_entries, special_rows, statistics, text_statistics
from trelm.vocabulary.encoding import encode_lines, encoded_with_characters, write_lines
from trelm.vocabulary.special import ROLES
from trelm.vocabulary.training import (
    ALPHABET_LIMIT,
    ALPHABET_LIMIT_HAN,
    check_tokenizer,
    default_alphabet_limit,
    save_tokenizer,
    train_vocabulary,
)
from trelm.vocabulary.words import is_continuation, single_piece

__all__ = [
    "ALPHABET_LIMIT",
    "ALPHABET_LIMIT_HAN",
    "ROLES",
    "check_tokenizer",
    "default_alphabet_limit",
    "encode_lines",
    "encoded_with_characters",
    "is_continuation",
    "save_tokenizer",
    "shared_entries",
    "single_piece",
    "special_rows",
    "statistics",
    "text_statistics",
    "train_vocabulary",
    "write_lines",
]
