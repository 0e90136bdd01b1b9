"""Training of a tokenizer of the source tokenizer's own kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trelm.errors import ConfigError, DataError
from trelm.vocabulary.description import METASPACE, backend_spec, metaspace, parts, rows_of, types
from trelm.vocabulary.models import BYTES, Limits, train_byte_level, train_metaspace_bpe, train_wordpiece
from trelm.vocabulary.special import ALL_ROLES, renumber, special_tokens
from trelm.vocabulary.unigram import train_unigram
from trelm.vocabulary.words import is_han

ALPHABET_LIMIT_HAN = 30_000
ALPHABET_LIMIT = 1_000
# The sample may be half English, and a Chinese line has far fewer characters than its translation, so "dominates" means
# more than no other script ever reaches: kanji in Japanese beside English are about 15%, hanja in Korean below 2%.
HAN_SHARE = 0.1
BYTE_LEVEL, METASPACE_BPE, WORDPIECE, UNIGRAM = "byte-level BPE", "BPE with Metaspace", "WordPiece", "Unigram"


def train_vocabulary(
    source_tokenizer: PreTrainedTokenizerBase,
    lines: Iterable[str],
    *,
    size: int,
    min_frequency: int,
    alphabet_limit: int,
    lowercase: bool | None,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the source tokenizer's kind; the same lines always give the same one.

    Normaliser, pre-tokeniser, decoder and post-processor are the source's, except that accents are never stripped, and
    so are the special tokens that have a role or that the post-processor adds. They come first, in the order of their
    ids in the source; the padding token keeps its id where that is below their number. Every character of the alphabet
    has an entry, also as a continuation where the pre-tokeniser allows one, so a word of known characters is never
    unknown. All 256 bytes have entries in byte-level BPE and where the source falls back on bytes. Text that is too
    small gives fewer entries than `size`.

    Args:
        source_tokenizer: WordPiece, byte-level BPE, or Unigram or BPE with a Metaspace pre-tokeniser.
        lines: text of both languages, balanced by the caller; read several times, so an iterator's are kept in memory.
        size: entries at most. min_frequency: rarer characters and subwords get no entry.
        alphabet_limit: characters at most, the most frequent ones (no matter for byte-level BPE).
        lowercase: None does as the source does.

    Raises:
        ConfigError: a tokenizer of another kind or without a role that masked modelling needs, or a `size` below
            special tokens and alphabet.
        DataError: no text.
    """
    spec = backend_spec(source_tokenizer)
    kind = _kind(spec)
    if kind in (UNIGRAM, METASPACE_BPE) and rows_of(spec["model"]).keys() >= set(BYTES):
        _fall_back_on_bytes(spec)
    spec.update(truncation=None, padding=None, normalizer=_normaliser(spec["normalizer"], lowercase))
    specials = special_tokens(source_tokenizer, spec["post_processor"], needs_unknown=kind != BYTE_LEVEL)
    text = _Text(lines)
    if next(iter(text), None) is None:
        raise DataError("vocabulary: expected text to train it on, found no line that is not empty; give more text")
    limits = Limits(size, min_frequency, alphabet_limit)
    model = _train(kind, spec, text, [token.content for token in specials], limits, source_tokenizer.unk_token)
    return _assemble(source_tokenizer, {**spec, "model": model}, specials)


class _Text:
    """The lines that are not blank, as often as they are asked for."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = list(lines) if isinstance(lines, Iterator) else lines

    def __iter__(self) -> Iterator[str]:
        return (line for line in self._lines if line.strip())


def check_tokenizer(source_tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse at once a tokenizer that `train_vocabulary` would refuse.

    Raises:
        ConfigError: see there.
    """
    spec = backend_spec(source_tokenizer)
    special_tokens(source_tokenizer, spec["post_processor"], needs_unknown=_kind(spec) != BYTE_LEVEL)


def default_alphabet_limit(text: str) -> int:
    """30,000 characters where more than a tenth of the sample's letters are Han, else 1,000 (the paper's settings)."""
    letters = [character for character in text if character.isalpha()]
    return ALPHABET_LIMIT_HAN if sum(map(is_han, letters)) > HAN_SHARE * len(letters) else ALPHABET_LIMIT


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer's files; a class that only transformers 5 has is named as all versions know it.

    Args:
        folder: made where it is missing; files of the same names are overwritten.
    """
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings["tokenizer_class"] == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _kind(spec: dict[str, Any]) -> str:
    kind, splitters = spec["model"]["type"], types(spec["pre_tokenizer"])
    has_metaspace = metaspace(spec) == METASPACE
    if kind == WORDPIECE or (kind == UNIGRAM and has_metaspace):
        return str(kind)
    if kind == "BPE" and ("ByteLevel" in splitters or has_metaspace):
        return BYTE_LEVEL if "ByteLevel" in splitters else METASPACE_BPE
    name = {"BPE": "BPE without bytes", UNIGRAM: "Unigram without Metaspace"}.get(kind, kind)
    raise ConfigError(
        f"source.model: expected a WordPiece, Unigram or byte-level BPE tokenizer, found {name}; choose another encoder"
    )


def _fall_back_on_bytes(spec: dict[str, Any]) -> None:
    """Use the entries for bytes that the source has, also where its tokenizer's class forgets them (DeBERTa-v3's)."""
    spec["model"]["byte_fallback"] = True
    if "ByteFallback" not in types(spec["decoder"]):
        spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, *parts(spec["decoder"])]}


def _train(
    kind: str, spec: dict[str, Any], text: Iterable[str], specials: list[str], limits: Limits, unknown: str | None
) -> dict[str, Any]:
    """The trained model part. A tokenizer without any entry does the rest of the source's work for the trainers."""
    model = spec["model"]
    if kind == UNIGRAM:
        return train_unigram(_blank(spec, _empty_model()), model, text, specials, limits, str(unknown))
    empty = {**model, "vocab": {}} | ({"merges": []} if kind != WORDPIECE else {})
    trainers = {WORDPIECE: train_wordpiece, BYTE_LEVEL: train_byte_level, METASPACE_BPE: train_metaspace_bpe}
    return trainers[kind](_blank(spec, empty), empty, text, specials, limits)


def _empty_model() -> dict[str, Any]:
    """Of another kind, as there is no Unigram model without entries."""
    return dict(json.loads(Tokenizer(BPE()).to_str())["model"])


def _blank(spec: dict[str, Any], model: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps({**spec, "model": model, "post_processor": None, "added_tokens": []}))


def _normaliser(spec: dict[str, Any] | None, lowercase: bool | None) -> dict[str, Any] | None:
    """The normaliser with accents kept, and its letter case set where `lowercase` says so."""
    kept = [part for part in map(_keep_accents, parts(spec)) if lowercase is not False or part["type"] != "Lowercase"]
    cased = [part["type"] in ("BertNormalizer", "Lowercase") for part in kept]
    if lowercase is not None:
        kept = [{**part, "lowercase": lowercase} if part["type"] == "BertNormalizer" else part for part in kept]
    if lowercase and not any(cased):
        kept.append({"type": "Lowercase"})
    if len(kept) > 1:
        return {"type": "Sequence", "normalizers": kept}
    return kept[0] if kept else None


def _keep_accents(part: dict[str, Any]) -> dict[str, Any]:
    """`StripAccents` follows a decomposition, so what stands in its place composes the letters again."""
    if part["type"] == "BertNormalizer":
        return {**part, "strip_accents": False}
    return {"type": "NFC"} if part["type"] == "StripAccents" else part


def _assemble(
    source: PreTrainedTokenizerBase, spec: dict[str, Any], specials: Sequence[AddedToken]
) -> PreTrainedTokenizerFast:
    """Put the trained model, the special tokens and the post-processor with their new ids together."""
    rows = rows_of(spec["model"])
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    spec["added_tokens"] = [
        {"id": rows[t.content], "content": t.content, **{f: getattr(t, f) for f in flags}} for t in specials
    ]
    spec["post_processor"] = renumber(spec["post_processor"], rows)
    by_content = {token.content: token for token in specials}
    roles = {f"{role}_token": getattr(source, f"{role}_token") for role in ALL_ROLES}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        model_max_length=source.model_max_length,
        model_input_names=list(source.model_input_names),
        padding_side=source.padding_side,
        truncation_side=source.truncation_side,
        **{name: by_content[content] for name, content in roles.items() if content is not None},
    )
