"""What the tasks must know of an encoder, ours or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedTokenizerBase

from trelm.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Encoder:
    """A bare encoder with its tokenizer.

    Attributes:
        build: makes a fresh copy, called as `model(input_ids=, attention_mask=, ...).last_hidden_state`.
        width: h, of its states. digest: of weights and tokenizer.
        max_length: tokens of its longest sequence; None: no limit.
        languages: codes of a TreLM model, which is given `language=<index>`; () for a model that is given none, as an
            ordinary one: a language that a set names is of no account then.
        default_language: the index that is meant where none is named.
        segments: whether it tells the two texts of a pair apart by `token_type_ids`.
    """

    build: Callable[[], nn.Module]
    tokenizer: PreTrainedTokenizerBase
    width: int
    digest: str
    max_length: int | None = None
    languages: tuple[str, ...] = ()
    default_language: int = 0
    segments: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"

    def language(self, code: str | None) -> int | None:
        """The index of a language, of the default one for None; None for an ordinary model.

        Raises:
            ConfigError: the model has not that language.
        """
        if not self.languages:
            return None
        if code is None:
            return self.default_language
        return language_index(self.languages, code)

    def longest(self, wanted: int) -> int:
        """Tokens of an example: what is wanted, within what the encoder reads."""
        return wanted if self.max_length is None else min(wanted, self.max_length)


def language_index(languages: Sequence[str], code: str) -> int:
    """The place of a language among a model's.

    Raises:
        ConfigError: the model has not that language.
    """
    if code not in languages:
        raise ConfigError(
            f"train_language: expected a language of the model ({', '.join(languages)}), found '{code}'; name one of "
            f"them{did_you_mean(code, languages)}"
        )
    return languages.index(code)
