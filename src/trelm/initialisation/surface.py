"""What the entries of a vocabulary look like in a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from trelm.errors import ConfigError
from trelm.vocabulary.description import backend_spec, metaspace, special_ids, types


@dataclass(frozen=True)
class Surface:
    """An entry without the signs that its tokenizer puts in front of it.

    Attributes:
        text: None for a special token, or bytes that are no text by themselves; empty for a sign alone (`Ġ`, `▁`).
        begins_word: whether the entry begins a word or stands for one of its own, by its sign. After a WordPiece
            tokenizer punctuation does always, after the other kinds only where a space comes before it.
    """

    text: str | None
    begins_word: bool


NO_TEXT = Surface(None, False)


def surfaces(tokenizer: PreTrainedTokenizerBase) -> list[Surface]:
    """The surface of each entry, in the order of the ids; `NO_TEXT` also for an id that no entry has.

    Raises:
        ConfigError: no fast tokenizer, or one whose pieces mark neither where words begin nor where they go on.
    """
    read = _reader(tokenizer)
    specials = special_ids(tokenizer)
    found = [NO_TEXT] * len(tokenizer)
    for entry, row in tokenizer.get_vocab().items():
        if row not in specials:
            found[row] = read(entry)
    return found


def _reader(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], Surface]:
    spec = backend_spec(tokenizer)
    prefix = spec["model"].get("continuing_subword_prefix")
    if prefix:
        return lambda entry: Surface(entry.removeprefix(prefix), not entry.startswith(prefix))
    if "ByteLevel" in types(spec["pre_tokenizer"]):
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}  # never in bytes
        return lambda entry: _after_space(entry if entry in added else _decoded(entry))
    marker = metaspace(spec)
    if marker is None:
        raise ConfigError(_unmarked(spec))
    if spec["model"].get("byte_fallback"):
        return lambda entry: _byte(entry) or _after_space(entry.replace(marker, " "))
    return lambda entry: _after_space(entry.replace(marker, " "))


def _after_space(text: str | None) -> Surface:
    return NO_TEXT if text is None else Surface(text.removeprefix(" "), text.startswith(" "))


def _byte(entry: str) -> Surface | None:
    """The surface of `<0x41>`; None where the entry is no such byte."""
    digits = entry.removeprefix("<0x").removesuffix(">")
    if len(digits) != 2 or entry != f"<0x{digits}>":
        return None
    byte = int(digits, 16)
    return Surface(chr(byte), False) if byte < 0x80 else NO_TEXT


def _decoded(entry: str) -> str | None:
    """The text of a byte-level entry; None where it is not all of its characters' bytes."""
    try:
        return bytes(_BYTE_OF[character] for character in entry).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return None


def _alphabet() -> dict[str, int]:
    """The byte that each character of byte-level entries stands for: GPT-2's (Radford et al. 2019)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}


_BYTE_OF = _alphabet()


def _unmarked(spec: dict[str, Any]) -> str:
    kinds = ", ".join(types(spec["pre_tokenizer"])) or "none"
    return (
        f"tokenizer: expected pieces that mark where words begin or go on, found a {spec['model']['type']} model "
        f"with pre-tokenisers {kinds}; choose a WordPiece, Unigram or byte-level BPE encoder"
    )
