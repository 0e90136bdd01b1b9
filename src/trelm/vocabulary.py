"""The joint subword vocabulary, of the source tokenizer's own kind (METHOD section 1)."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trelm.corpus.ragged import Ragged
from trelm.errors import ConfigError, DataError

ROLES = ("cls", "sep", "pad", "unk", "mask")
ROLES_OF_MASKED_MODELS = ("cls", "sep", "pad", "mask")  # bytes are never unknown
ALPHABET_LIMIT_HAN = 30_000
ALPHABET_LIMIT = 1_000
# The sample may be half English, and a Chinese line has far fewer characters than its translation, so "dominates" means
# more than no other script ever reaches: kanji in Japanese beside English are about 15%, hanja in Korean below 2%.
HAN_SHARE = 0.1
_BLOCK = 1_000


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

    Normaliser, pre-tokeniser, decoder, post-processor and special tokens are the source's, except that accents are
    never stripped. Special tokens come first, in the order of their ids in the source. Every character of the alphabet
    has an entry, also as a continuation where the pre-tokeniser allows one, so a word of known characters is never
    unknown. Text that is too small gives fewer entries than `size`.

    Args:
        source_tokenizer: WordPiece or byte-level BPE.
        lines: text of both languages, balanced by the caller; kept in memory while training.
        size: entries at most. min_frequency: rarer characters and pairs get no entry.
        alphabet_limit: characters at most, the most frequent ones (no matter for byte-level BPE).
        lowercase: None does as the source does.

    Raises:
        ConfigError: a tokenizer of another kind or without a role that masked modelling needs, or a `size` below
            special tokens and alphabet.
        DataError: no text.
    """
    skeleton, kind = _skeleton(source_tokenizer, lowercase)
    specials = _special_tokens(source_tokenizer, needed=ROLES if kind == "WordPiece" else ROLES_OF_MASKED_MODELS)
    text = [line for line in lines if line.strip()]
    if not text:
        raise DataError("vocabulary: expected text to train it on, found no line that is not empty; give more text")
    blank = Tokenizer.from_str(json.dumps({**skeleton, "post_processor": None, "added_tokens": []}))
    contents = [token.content for token in specials]
    if kind == "WordPiece":
        model = _train_wordpiece(blank, text, contents, size, min_frequency, alphabet_limit)
    else:
        model = _train_byte_level(blank, text, contents, size, min_frequency)
    return _assemble(source_tokenizer, {**skeleton, "model": model}, specials)


def default_alphabet_limit(text: str) -> int:
    """30,000 characters where more than a tenth of the sample's letters are Han, else 1,000 (the paper's settings)."""
    letters = [character for character in text if character.isalpha()]
    return ALPHABET_LIMIT_HAN if sum(map(_is_han, letters)) > HAN_SHARE * len(letters) else ALPHABET_LIMIT


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
    backend = _plain_backend(tokenizer)
    values: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
    lengths: list[int] = []
    truncated = 0
    for part in _batches(lines, batch):
        ids = [encoding.ids for encoding in backend.encode_batch_fast(part, add_special_tokens=False)]
        if max_pieces is not None:
            truncated += sum(len(sequence) > max_pieces for sequence in ids)
            ids = [sequence[:max_pieces] for sequence in ids]
        lengths.extend(map(len, ids))
        values.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32))
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(np.concatenate(values), offsets), truncated


def is_continuation(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """Which entries continue a word, bool [V]; special tokens do not.

    WordPiece marks continuations (`##`); byte-level BPE and SentencePiece kinds mark beginnings (`Ġ`, `▁`), so there
    the first piece of a line without a leading space also counts as a continuation.

    Raises:
        ConfigError: a tokenizer that marks neither.
    """
    spec = _backend_spec(tokenizer)
    prefix = spec["model"].get("continuing_subword_prefix")
    marker = prefix or _word_marker(spec)
    specials = _special_ids(tokenizer)
    flags = np.zeros(len(tokenizer), dtype=np.bool_)
    for piece, row in tokenizer.get_vocab().items():
        flags[row] = row not in specials and piece.startswith(marker) == bool(prefix)
    return flags


def shared_entries(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Entries spelled alike, int64 [p, 2]: row in the joint vocabulary, row in the source's.

    Sorted by the first; special tokens of either side are left out (`special_rows` matches those).
    """
    source = source_tokenizer.get_vocab()
    specials, source_specials = _special_ids(tokenizer), _special_ids(source_tokenizer)
    pairs = ((row, source[piece]) for piece, row in tokenizer.get_vocab().items() if piece in source)
    return _pairs(pair for pair in pairs if pair[0] not in specials and pair[1] not in source_specials)


def special_rows(tokenizer: PreTrainedTokenizerBase, source_tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Special tokens of the same role, int64 [q, 2]: row in the joint vocabulary, row in the source's.

    Roles are matched (cls, sep, pad, unk, mask), neither ids nor spellings; a role that either lacks is left out, and
    tokens with two roles appear once.
    """
    rows = [tuple(getattr(t, f"{role}_token_id") for t in (tokenizer, source_tokenizer)) for role in ROLES]
    return _pairs({(int(row), int(source)) for row, source in rows if row is not None and source is not None})


def statistics(
    tokenizer: PreTrainedTokenizerBase,
    sample_lines: Mapping[str, Sequence[str]],
    source_tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Figures of the vocabulary for the report.

    Returns:
        `size`, `shared_entries`, and `languages`: for each language of `sample_lines` its `fertility` (pieces a
        whitespace word), `characters_per_piece` (for scripts without spaces) and `unknown_rate` (of the pieces); None
        where the sample is empty.
    """
    return {
        "size": len(tokenizer),
        "shared_entries": len(shared_entries(tokenizer, source_tokenizer)),
        "languages": {name: _sample_statistics(tokenizer, lines) for name, lines in sample_lines.items()},
    }


def _sample_statistics(tokenizer: PreTrainedTokenizerBase, lines: Sequence[str]) -> dict[str, float | None]:
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


def _train_wordpiece(
    blank: Tokenizer, text: Sequence[str], specials: list[str], size: int, min_frequency: int, alphabet_limit: int
) -> dict[str, Any]:
    """The model part of a trained WordPiece tokenizer.

    The trainer numbers characters, and breaks ties at the limit, in the order of a randomly seeded hash table: two
    trainings differ. So we choose the alphabet, hand it over as special tokens, and allow it none of its own.
    """
    prefix = json.loads(blank.to_str())["model"]["continuing_subword_prefix"]
    alphabet = _alphabet(blank, text, min_frequency, alphabet_limit)
    fixed = [*specials, *alphabet, *(prefix + c for c in alphabet if _may_continue(blank, c))]
    _check_size(size, len(fixed), len(specials))
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        limit_alphabet=0,
        special_tokens=list(fixed),
        continuing_subword_prefix=prefix,
        show_progress=False,
    )
    blank.train_from_iterator(_batches(text, _BLOCK), trainer=trainer)
    return dict(json.loads(blank.to_str())["model"])


def _train_byte_level(
    blank: Tokenizer, text: Sequence[str], specials: list[str], size: int, min_frequency: int
) -> dict[str, Any]:
    """The model part of a trained byte-level BPE tokenizer: its alphabet is always the 256 bytes."""
    alphabet = sorted(ByteLevel.alphabet())
    _check_size(size, len(specials) + len(alphabet), len(specials))
    trainer = BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        initial_alphabet=alphabet,
        special_tokens=list(specials),
        show_progress=False,
    )
    blank.train_from_iterator(_batches(text, _BLOCK), trainer=trainer)
    return dict(json.loads(blank.to_str())["model"])


def _check_size(size: int, fixed: int, specials: int) -> None:
    if size < fixed:
        raise ConfigError(
            f"vocabulary.size: expected at least {fixed} ({specials} special tokens, an alphabet of "
            f"{fixed - specials}), found {size}; raise it, or lower vocabulary.alphabet_limit"
        )


def _alphabet(blank: Tokenizer, text: Sequence[str], min_frequency: int, limit: int) -> list[str]:
    """The most frequent characters of the normalised text, ties by code point; sorted by code point."""
    counts: Counter[str] = Counter()
    for block in _batches(text, _BLOCK):
        joined = "\n".join(block)
        counts.update(blank.normalizer.normalize_str(joined) if blank.normalizer else joined)
    kept = [c for c, count in counts.items() if count >= min_frequency and not c.isspace()]
    return sorted(sorted(kept, key=lambda c: (-counts[c], c))[:limit])


def _may_continue(blank: Tokenizer, character: str) -> bool:
    """Whether the pre-tokeniser leaves the character attached to a letter before it (not punctuation, not Han)."""
    normalised = "a" + character
    if blank.normalizer:
        normalised = blank.normalizer.normalize_str(normalised).strip()
    pieces = blank.pre_tokenizer.pre_tokenize_str(normalised) if blank.pre_tokenizer else [(normalised, None)]
    return any(character in piece[1:] for piece, _ in pieces)


def _skeleton(source: PreTrainedTokenizerBase, lowercase: bool | None) -> tuple[dict[str, Any], str]:
    """The source tokenizer's own description with an empty model and an accent-keeping normaliser, and its kind."""
    spec = _backend_spec(source)
    kind = spec["model"]["type"]
    if kind == "BPE" and "ByteLevel" in _types(spec["pre_tokenizer"]):
        spec["model"].update(vocab={}, merges=[])
    elif kind == "WordPiece":
        spec["model"]["vocab"] = {}
    else:
        name = "BPE without bytes" if kind == "BPE" else kind
        raise ConfigError(
            f"source.model: expected a WordPiece or byte-level BPE tokenizer, found {name}; choose another encoder"
        )
    spec.update(truncation=None, padding=None, normalizer=_normaliser(spec["normalizer"], lowercase))
    return spec, kind


def _backend_spec(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"source.model: expected a fast tokenizer (tokenizer.json), found {type(tokenizer).__name__}; "
            "choose an encoder that has one"
        )
    return dict(json.loads(tokenizer.backend_tokenizer.to_str()))


def _normaliser(spec: dict[str, Any] | None, lowercase: bool | None) -> dict[str, Any] | None:
    """The normaliser with accents kept, and its letter case set where `lowercase` says so."""
    parts = [
        part for part in map(_keep_accents, _flatten(spec)) if lowercase is not False or part["type"] != "Lowercase"
    ]
    cased = [part["type"] in ("BertNormalizer", "Lowercase") for part in parts]
    if lowercase is not None:
        parts = [{**p, "lowercase": lowercase} if p["type"] == "BertNormalizer" else p for p in parts]
    if lowercase and not any(cased):
        parts.append({"type": "Lowercase"})
    if len(parts) > 1:
        return {"type": "Sequence", "normalizers": parts}
    return parts[0] if parts else None


def _keep_accents(part: dict[str, Any]) -> dict[str, Any]:
    """`StripAccents` follows a decomposition, so what stands in its place composes the letters again."""
    if part["type"] == "BertNormalizer":
        return {**part, "strip_accents": False}
    return {"type": "NFC"} if part["type"] == "StripAccents" else part


def _flatten(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    if spec is None:
        return []
    return [inner for part in spec["normalizers"] for inner in _flatten(part)] if spec["type"] == "Sequence" else [spec]


def _special_tokens(source: PreTrainedTokenizerBase, needed: Sequence[str]) -> list[AddedToken]:
    """The source's special tokens in the order of their ids, so that [PAD] stays 0 where it was."""
    missing = [role for role in needed if getattr(source, f"{role}_token_id") is None]
    if missing:
        raise ConfigError(
            f"source.model: expected a tokenizer with {', '.join(needed)} tokens, found no {', '.join(missing)}; "
            "choose an encoder that was trained by masked language modelling"
        )
    decoder, named = source.added_tokens_decoder, set(source.all_special_ids)
    return [decoder[row] for row in sorted(decoder) if decoder[row].special or row in named]


def _assemble(
    source: PreTrainedTokenizerBase, spec: dict[str, Any], specials: Sequence[AddedToken]
) -> PreTrainedTokenizerFast:
    """Put the trained model, the special tokens and the post-processor with their new ids together."""
    vocabulary = spec["model"]["vocab"]
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    spec["added_tokens"] = [
        {"id": vocabulary[t.content], "content": t.content, **{f: getattr(t, f) for f in flags}} for t in specials
    ]
    spec["post_processor"] = _renumber(spec["post_processor"], vocabulary)
    by_content = {token.content: token for token in specials}
    roles = {f"{role}_token": getattr(source, f"{role}_token") for role in (*ROLES, "bos", "eos")}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        model_max_length=source.model_max_length,
        model_input_names=list(source.model_input_names),
        padding_side=source.padding_side,
        truncation_side=source.truncation_side,
        **{name: by_content[content] for name, content in roles.items() if content is not None},
    )


def _renumber(processor: Any, vocabulary: Mapping[str, int]) -> Any:
    """The post-processor with the ids that its tokens have in the new vocabulary."""
    if processor is None:
        return None
    renewed = dict(processor)
    if "processors" in renewed:
        renewed["processors"] = [_renumber(inner, vocabulary) for inner in renewed["processors"]]
    if "special_tokens" in renewed:
        renewed["special_tokens"] = {
            name: {**entry, "ids": [vocabulary[token] for token in entry["tokens"]]}
            for name, entry in renewed["special_tokens"].items()
        }
    renewed.update(
        {role: [renewed[role][0], vocabulary[renewed[role][0]]] for role in ("cls", "sep") if role in renewed}
    )
    return renewed


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the Rust tokenizer that neither truncates nor pads, and reads `[MASK]` in a text as mere characters."""
    backend = Tokenizer.from_str(json.dumps({**_backend_spec(tokenizer), "truncation": None, "padding": None}))
    backend.encode_special_tokens = True
    return backend


def _word_marker(spec: dict[str, Any]) -> str:
    types = _types(spec["pre_tokenizer"])
    if "ByteLevel" not in types and "Metaspace" not in types:
        kind = spec["model"]["type"]
        raise ConfigError(
            f"tokenizer: expected pieces that mark where words begin or go on, found a {kind} model with "
            f"pre-tokenisers {', '.join(types) or 'none'}; choose a WordPiece or byte-level BPE encoder"
        )
    return "Ġ" if "ByteLevel" in types else "▁"


def _types(component: Any) -> list[str]:
    """The types of a pre-tokeniser and of those inside it."""
    if component is None:
        return []
    return [component["type"], *(name for inner in component.get("pretokenizers", []) for name in _types(inner))]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    marked = {row for row, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def _pairs(pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _is_han(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK ")


def _batches(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(lines)
    while part := list(islice(iterator, size)):
        yield part
