"""Quality and speed of word links: pieces against words, on hand-made links and on dictionary words.

English-Chinese: the model is trained on the training pairs and the 150 hand-linked ones, all cut by one joint WordPiece
vocabulary (Chinese thus into characters); links of pieces count for the hand-made words that hold them. The error
rate is given for each direction by itself, since training uses one direction at a time, and for what both agree on.

English-Indonesian, where no hand-made links exist: a pair's English word and a dictionary translation of it, each
occurring once, should be linked; the share of such target words whose pieces all go to that word is given.

Takes the data folder from TRELM_DATA, by default ../shared/data.
"""

from __future__ import annotations

import argparse
import lzma
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, trainers

from trelm.corpus.ragged import Ragged
from trelm.word_links.links import WordLinks, alignment_error_rate, link

Links = set[tuple[int, int, int]]  # (pair, source word, target word)


def columns(path: Path) -> Iterator[list[str]]:
    """The columns of each line of a compressed table."""
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield line.rstrip("\n").split("\t")


def training_pairs(folder: Path, limit: int | None) -> tuple[list[str], list[str]]:
    """Source and target sentences of all files, at most `limit` of them."""
    pairs = [row[:2] for path in sorted(folder.glob("*.tsv.xz")) for row in columns(path)][:limit]
    return [row[0] for row in pairs], [row[1] for row in pairs]


def joint_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """An uncased WordPiece tokenizer of these texts, accents kept."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def continuation_marks(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """bool [V]: pieces that go on with a word."""
    pieces = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    return np.asarray([piece.startswith("##") for piece in pieces])


def timed_link(source: Ragged, target: Ragged, marks: NDArray[np.bool_] | None) -> tuple[WordLinks, float, float]:
    """Links, seconds on the wall, seconds of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    links = link(source, target, source_continuation=marks, target_continuation=marks)
    return links, time.perf_counter() - wall, time.process_time() - processor


def split_words(tokenizer: Tokenizer, sentences: list[list[str]]) -> tuple[Ragged, list[list[int]]]:
    """Pieces of sentences that are split into words already, and the word of each piece."""
    encodings: list[Encoding] = tokenizer.encode_batch(sentences, is_pretokenized=True, add_special_tokens=False)
    return Ragged.of([e.ids for e in encodings]), [[word for word in e.word_ids if word is not None] for e in encodings]


def plain(tokenizer: Tokenizer, sentences: list[str]) -> Ragged:
    """Pieces of sentences, at most 126 each."""
    return Ragged.of([e.ids[:126] for e in tokenizer.encode_batch(sentences, add_special_tokens=False)])


def joined(first: Ragged, second: Ragged) -> Ragged:
    """The sequences of both."""
    return Ragged(np.concatenate([first.values, second.values]), np.append(first.offsets, first.offsets[-1] + second.offsets[1:]))  # fmt: skip  # noqa: E501


def word_pairs(links: Ragged, count: int, output_words: list[list[int]], given_words: list[list[int]]) -> Links:
    """Links of the first `count` sentences' pieces as (pair, given word, output word)."""
    return {
        (k, given_words[k][i], output_words[k][j])
        for k in range(count)
        for j, i in enumerate(links[k].tolist())
        if i >= 0
    }


def gold_links(rows: list[list[str]], column: int) -> Links:
    """The hand-made links in a column: `source-target`, counted from 0."""
    return {
        (k, *(int(part) for part in entry.split("-")))  # type: ignore[misc]
        for k, row in enumerate(rows)
        if column < len(row)
        for entry in row[column].split()
    }


def error_rate(links: Links, sure: Links, possible: Links) -> float:
    """The error rate over all pairs at once."""
    flat: Callable[[Links], set[tuple[int, int]]] = lambda found: {(k * 1000 + i, j) for k, i, j in found}  # noqa: E731
    return alignment_error_rate(flat(links), flat(sure), flat(possible))


def measure_gold(data: Path, size: int, limit: int | None) -> None:
    """Print the error rates of English-Chinese."""
    rows = list(columns(data / "align" / "en-zh.gold.tsv.xz"))
    texts = training_pairs(data / "en-zh" / "train", limit)
    gold_texts = [[row[side].split() for row in rows] for side in (0, 1)]
    spaced = [" ".join(words) for side in gold_texts for words in side]
    tokenizer = joint_vocabulary([*texts[0], *texts[1], *spaced], size)
    (source, source_words), (target, target_words) = (split_words(tokenizer, side) for side in gold_texts)
    sides = [joined(gold, plain(tokenizer, text)) for gold, text in zip((source, target), texts)]
    sure, possible = gold_links(rows, 2), gold_links(rows, 3)
    print(f"\nEnglish-Chinese, {len(sides[0]):,} pairs, error rate on {len(rows)} hand-linked ones")
    print(f"{'unit':8}{'forward':>10}{'reverse':>10}{'agreed':>10}{'either':>10}{'seconds':>10}{'CPU':>8}")
    for unit, marks in (("piece", None), ("word", continuation_marks(tokenizer))):
        links, wall, processor = timed_link(sides[0], sides[1], marks)
        forward = word_pairs(links.source_of_target, len(rows), target_words, source_words)
        backward = word_pairs(links.target_of_source, len(rows), source_words, target_words)
        reverse = {(k, i, j) for k, j, i in backward}
        kinds = (forward, reverse, forward & reverse, forward | reverse)
        rates = "".join(f"{error_rate(kind, sure, possible):10.3f}" for kind in kinds)
        print(f"{unit:8}{rates}{wall:10.1f}{processor:8.1f}")


def dictionary(path: Path) -> dict[str, set[str]]:
    """Translations of each source word."""
    entries: dict[str, set[str]] = defaultdict(set)
    for row in columns(path):
        entries[row[0].lower()].add(row[1].lower())
    return entries


def expected_words(source: list[str], target: list[str], entries: dict[str, set[str]]) -> list[tuple[int, int]]:
    """(source word, target word) that the dictionary joins and that have no rival in the pair."""
    joined_words = [
        (i, j) for i, word in enumerate(source) for j, other in enumerate(target) if other in entries.get(word, ())
    ]
    return [
        (i, j)
        for i, j in joined_words
        if sum(a == i for a, _ in joined_words) == 1 and sum(b == j for _, b in joined_words) == 1
    ]


def dictionary_hits(links: Ragged, output: list[list[int]], given: list[list[int]], wanted: list[list[tuple[int, int]]]) -> str:  # fmt: skip  # noqa: E501
    """Share of the wanted (given word, output word) all of whose pieces are linked to the given word."""
    hits = total = 0
    for k, pairs in enumerate(wanted):
        row = links[k].tolist()
        for i, j in pairs:
            found = [row[p] for p, word in enumerate(output[k]) if word == j]
            hits += all(p >= 0 and given[k][p] == i for p in found)
            total += 1
    return f"{hits / max(total, 1):10.3f}"


def measure_dictionary(data: Path, size: int, limit: int | None) -> None:
    """Print seconds and dictionary hits of English-Indonesian."""
    texts = training_pairs(data / "en-id" / "train", limit)
    tokenizer = joint_vocabulary([*texts[0], *texts[1]], size)
    head = [[sentence.lower().split() for sentence in text[:5000]] for text in texts]
    (source, source_words), (target, target_words) = (split_words(tokenizer, side) for side in head)
    sides = [joined(first, plain(tokenizer, text[5000:])) for first, text in zip((source, target), texts)]
    entries = dictionary(data / "dict" / "en-id.wiktionary.tsv.xz")
    wanted = [expected_words(x, y, entries) for x, y in zip(*head)]
    swapped = [[(j, i) for i, j in row] for row in wanted]
    print(f"\nEnglish-Indonesian, {len(sides[0]):,} pairs, {sum(map(len, wanted)):,} dictionary words")
    print(f"{'unit':8}{'forward':>10}{'reverse':>10}{'linked':>10}{'agreed':>10}{'seconds':>10}{'CPU':>8}")
    for unit, marks in (("piece", None), ("word", continuation_marks(tokenizer))):
        links, wall, processor = timed_link(sides[0], sides[1], marks)
        forward = dictionary_hits(links.source_of_target, target_words, source_words, wanted)
        reverse = dictionary_hits(links.target_of_source, source_words, target_words, swapped)
        found = links.statistics
        shares = f"{found['links_per_target_token']:10.3f}{found['agreed_links_per_target_token']:10.3f}"
        print(f"{unit:8}{forward}{reverse}{shares}{wall:10.1f}{processor:8.1f}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=20_000, help="entries of the joint vocabulary")
    parser.add_argument("--pairs", type=int, default=None, help="at most so many training pairs")
    arguments = parser.parse_args()
    data = Path(os.environ.get("TRELM_DATA", "../shared/data"))
    if not data.is_dir():
        parser.error(f"{data}: expected the data folder, found nothing there; set TRELM_DATA")
    measure_gold(data, arguments.vocabulary, arguments.pairs)
    measure_dictionary(data, arguments.vocabulary, arguments.pairs)


if __name__ == "__main__":
    main()
