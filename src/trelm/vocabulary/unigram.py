"""Training of Unigram models by SentencePiece.

The trainer of `tokenizers` works in the order of randomly seeded hash tables: two trainings of one text differ.
SentencePiece's (Kudo 2018, the one that XLM-R, CamemBERT and DeBERTa were made with) does not, as long as the number of
its threads is the same.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any
from zlib import crc32

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from trelm.vocabulary.description import METASPACE
from trelm.vocabulary.models import BYTES, Limits, alphabet, check_size

THREADS = 4  # sums of probabilities depend on it: never the number of the machine's cores
RESERVED = "\0▅"  # characters that SentencePiece keeps for itself
# Of distinct words; a language with spaces has never so many. Training takes minutes and some GiB for these.
MOST_CHARACTERS = 20_000_000
_LONGEST_LINE = 2**30
_UNKNOWN = "<unk>"
# In a Unigram model every entry may be found in a text: entries that stand for no text are so improbable that their
# spelling is read as characters. (SentencePiece keeps them out of the search; `tokenizers` has no such mark.)
SCORE_OF_NO_TEXT = -1.0e4

Scores = list[tuple[str, float]]


def train_unigram(
    blank: Tokenizer, model: dict[str, Any], text: Iterable[str], specials: Sequence[str], limits: Limits, unknown: str
) -> dict[str, Any]:
    """A trained Unigram model.

    Its alphabet has the sign for a space and, with byte fallback, the characters that bytes are spelled with, besides
    those that `limits` allow. Longer pieces that the text uses less than `min_frequency` times are left out afterwards.
    Only the most frequent words, 20 million characters of them, have a say in which pieces there are.

    Args:
        unknown: the special token for what has no entry.
    """
    fixed = [*specials, *(BYTES if model["byte_fallback"] else ())]
    spelling = "".join(fixed[len(specials) :])
    letters = sorted({METASPACE, *alphabet(blank, text, limits), *spelling})
    check_size(limits, len(fixed) + len(letters), len(fixed))
    words = _words(blank, text, letters)
    trained = _pieces(_most_frequent(words, MOST_CHARACTERS), limits.size - len(fixed)) if words else []
    trained = [(piece, score) for piece, score in trained if piece not in set(fixed)]
    pieces = _with_alphabet(trained, letters)[: limits.size - len(fixed)]
    pieces = _used(pieces, words, limits.min_frequency)
    vocabulary = [*((entry, SCORE_OF_NO_TEXT) for entry in fixed), *pieces]
    return {**model, "vocab": vocabulary, "unk_id": fixed.index(unknown)}


def _words(blank: Tokenizer, text: Iterable[str], letters: Sequence[str]) -> Counter[str]:
    """What the pre-tokeniser makes of the text, cut where a character has no entry; sorted."""
    outside = re.compile(f"[^{re.escape(''.join(c for c in letters if c not in RESERVED))}]+")
    counts: Counter[str] = Counter()
    for line in text:
        normalised = blank.normalizer.normalize_str(line) if blank.normalizer else line
        words = blank.pre_tokenizer.pre_tokenize_str(normalised) if blank.pre_tokenizer else [(normalised, None)]
        counts.update(word for word, _ in words)
    cut: Counter[str] = Counter()
    for word, count in counts.items():
        for part in outside.split(word):
            cut[part] += count
    return Counter({word: cut[word] for word in sorted(cut) if word})


def _most_frequent(words: Mapping[str, int], characters: int) -> dict[str, int]:
    """The most frequent words, ties in an order that has to do with nothing; of so many characters at most."""
    order = sorted(words, key=lambda word: (-words[word], crc32(word.encode()), word))
    ends = accumulate(map(len, order))
    return {word: words[word] for word, end in zip(order, ends) if end <= characters}


def _pieces(words: Mapping[str, int], size: int) -> Scores:
    """Pieces and logarithms of their probabilities, the most probable first, at most `size`."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=_as_table(words),
        input_format="tsv",
        model_writer=written,
        model_type="unigram",
        vocab_size=size + 1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        max_sentence_length=_LONGEST_LINE,
        unk_piece=_UNKNOWN,
        bos_id=-1,
        eos_id=-1,
        num_threads=THREADS,
        minloglevel=2,
    )
    model = SentencePieceProcessor(model_proto=written.getvalue())
    rows = [row for row in range(model.get_piece_size()) if not model.is_unknown(row)]
    return [(model.id_to_piece(row), model.get_score(row)) for row in rows]


def _as_table(words: Mapping[str, int]) -> Iterator[str]:
    return (f"{word}\t{count}" for word, count in words.items())


def _with_alphabet(pieces: Scores, letters: Sequence[str]) -> Scores:
    """The pieces and, as improbable as the least probable of them, the letters that are not among them.

    Letters come before longer pieces, so that whoever cuts the list at the end keeps them all.
    """
    scores = dict(pieces)
    lowest = min(scores.values(), default=0.0)
    known = [(letter, scores.pop(letter, lowest)) for letter in letters]
    return [*sorted(known, key=lambda entry: (-entry[1], entry[0])), *scores.items()]


def _used(pieces: Scores, words: Mapping[str, int], min_frequency: int) -> Scores:
    """Without the longer pieces that the best segmentations of all words use less than `min_frequency` times."""
    model = Unigram([(_UNKNOWN, SCORE_OF_NO_TEXT), *pieces], unk_id=0)
    counts: Counter[int] = Counter()
    backend = Tokenizer(model)
    for encoding, count in zip(backend.encode_batch_fast(list(words)), words.values()):
        for row in encoding.ids:
            counts[row] += count
    kept = zip(range(1, len(pieces) + 1), pieces)
    return [entry for row, entry in kept if len(entry[0]) == 1 or counts[row] >= min_frequency]
