"""The ways that `preparation.py` compares: trelm's primitives and what one would write or call instead."""

from __future__ import annotations

import argparse
import collections
import hashlib
import lzma
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensim.models import FastText, Word2Vec
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trelm.alignment.csls import csls_neighbours
from trelm.corpus.preparation import prepare
from trelm.corpus.ragged import Ragged
from trelm.embeddings import SUBSAMPLING, choose_lines, skip_gram
from trelm.model.source import load_source
from trelm.steps.context import use_all_cores
from trelm.vocabulary import is_continuation, save_tokenizer, train_vocabulary, write_lines
from trelm.word_links.links import link

VOCABULARY = 20_000
WIDTH, WINDOW, NEGATIVES = 384, 5, 10
NEIGHBOURS = 10
ITERATIONS = 5
BATCH = 2_000
BUCKETS = 100_000  # of FastText; by default it fills 2,000,000 with random numbers first
SEED = 1
CORPUS_RULES: dict[str, Any] = {
    "min_characters": 2, "max_characters": 2000, "max_pair_ratio": 4.0, "held_out_fraction": 0.01,
    "held_out_lines": 500, "max_lines": None,
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """The sample, as files in a folder, and the sizes that were asked for."""

    folder: Path
    sizes: argparse.Namespace

    def path(self, name: str) -> Path:
        return self.folder / name

    def lines(self, name: str) -> list[str]:
        return self.path(name).read_text(encoding="utf-8").split("\n")[:-1]

    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(self.path("vocabulary")))
        return tokenizer

    def tokens(self, name: str) -> Ragged:
        return Ragged.load(self.path("tokens"), name)

    def pairs(self, count: int) -> tuple[Ragged, Ragged]:
        """The first pairs."""
        first, second = (self.tokens(f"pairs-{side}") for side in ("source", "target"))
        chosen = np.arange(min(count, len(first)))
        return first.take(chosen), second.take(chosen)


@dataclass(frozen=True)
class Done:
    """What a way did: so many units, and something that another way's answer can be held against."""

    units: int
    answer: str = ""
    note: str = ""


Way = Callable[[Sample], Callable[[], Done]]
"""Makes ready what is not measured, and returns what is."""


def spread_lines(paths: Sequence[Path], count: int) -> list[str]:
    """About `count` lines, evenly spread over all files."""
    lines = [line for path in paths for line in _lines(path)]
    return [lines[int(place)] for place in np.linspace(0, len(lines) - 1, min(count, len(lines)))]


def make_sample(sample: Sample, data: Path) -> Done:
    """Write the text, the vocabulary and the tokens."""
    texts = {
        "source.txt": spread_lines(sorted((data / "en" / "mono").glob("*.txt.xz")), sample.sizes.lines),
        "target.txt": spread_lines(sorted((data / "id" / "mono").glob("*.txt.xz")), sample.sizes.lines),
        "pairs.tsv": spread_lines(sorted((data / "en-id" / "train").glob("*.tsv.xz")), sample.sizes.pairs),
    }
    for name, lines in texts.items():
        sample.path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    sides = {
        f"pairs-{side}": [row.split("\t")[number] for row in texts["pairs.tsv"]]
        for number, side in enumerate(("source", "target"))
    }
    tokenizer = train_vocabulary(
        load_source("minilm").tokenizer, [*texts["source.txt"], *texts["target.txt"]], size=VOCABULARY,
        min_frequency=2, alphabet_limit=1000, lowercase=None,
    )  # fmt: skip
    sample.path("vocabulary").mkdir()
    save_tokenizer(tokenizer, sample.path("vocabulary"))
    sample.path("tokens").mkdir()
    for name, lines in {"source": texts["source.txt"], "target": texts["target.txt"], **sides}.items():
        write_lines(tokenizer, lines, sample.path("tokens"), name, longest=126)
    return Done(sum(map(len, texts.values())))


def clean(sample: Sample) -> Callable[[], Done]:
    def work() -> Done:
        folder = Path(tempfile.mkdtemp(dir=sample.folder))
        counts = prepare(
            folder, source_text=[str(sample.path("source.txt"))], target_text=[str(sample.path("target.txt"))],
            parallel=[str(sample.path("pairs.tsv"))], languages=("en", "id"), evaluation_text=[], **CORPUS_RULES,
        )  # fmt: skip
        kept = sum(part["lines"] for part in counts["outputs"].values())
        return Done(2 * sample.sizes.lines + sample.sizes.pairs, note=f"{kept:,} kept")

    return work


def clean_by_loop(sample: Sample) -> Callable[[], Done]:
    def work() -> Done:
        read = kept = 0
        for name in ("source.txt", "target.txt", "pairs.tsv"):
            seen: set[bytes] = set()
            with sample.path(name).open("rb") as lines, sample.path(f"loop-{name}").open("wb") as out:
                for line in lines:
                    read += 1
                    digest = hashlib.sha1(line.strip()).digest()
                    if digest not in seen:
                        seen.add(digest)
                        out.write(line)
                        kept += 1
        return Done(read, note=f"{kept:,} kept")

    return work


def tokenise(sample: Sample) -> Callable[[], Done]:
    tokenizer, lines = sample.tokenizer(), sample.lines("target.txt")[: sample.sizes.tokenised]

    def work() -> Done:
        folder = Path(tempfile.mkdtemp(dir=sample.folder))
        write_lines(tokenizer, lines, folder, "text", longest=126)
        return Done(len(lines), _digest(Ragged.load(folder, "text").values))

    return work


def tokenise_by_call(batch: int) -> Way:
    def way(sample: Sample) -> Callable[[], Done]:
        tokenizer: Any = sample.tokenizer()
        lines = sample.lines("target.txt")[: sample.sizes.tokenised]

        def work() -> Done:
            ids: list[list[int]] = []
            for start in range(0, len(lines), batch):
                given = lines[start : start + batch] if batch > 1 else lines[start]
                found = tokenizer(given, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
                ids += found if batch > 1 else [found]
            return Done(len(lines), _digest(np.asarray([one for row in ids for one in row], dtype=np.int32)))

        return work

    return way


def link_words(threads: int | None) -> Way:
    def way(sample: Sample) -> Callable[[], Done]:
        pairs, marks = sample.pairs(sample.sizes.pairs), is_continuation(sample.tokenizer())
        count = use_all_cores() if threads is None else threads

        def work() -> Done:
            links = link(*pairs, source_continuation=marks, target_continuation=marks, threads=count)
            return Done(len(pairs[0]), _digest(links.source_of_target.values, links.target_of_source.values))

        return work

    return way


def link_by_loop(sample: Sample) -> Callable[[], Done]:
    first, second = ([side[i].tolist() for i in range(len(side))] for side in sample.pairs(sample.sizes.python_pairs))

    def work() -> Done:
        for given, output in ((first, second), (second, first)):
            plain_links(given, output)
        return Done(len(first), note="pieces, its tension fixed")

    return work


def plain_links(given: list[list[int]], output: list[list[int]], tension: float = 4.0) -> list[list[int]]:
    """fast_align's model as one would write it first: dictionaries and loops, counts normalised plainly."""
    table: dict[tuple[int, int], float] = collections.defaultdict(lambda: 1e-4)
    links: list[list[int]] = []
    for _ in range(ITERATIONS):
        counts: dict[tuple[int, int], float] = collections.defaultdict(float)
        totals: dict[int, float] = collections.defaultdict(float)
        links = []
        for x, y in zip(given, output, strict=True):
            links.append([])
            for j, word in enumerate(y):
                prior = [math.exp(-tension * abs((i + 1) / len(x) - (j + 1) / len(y))) for i in range(len(x))]
                scale = 0.92 / (sum(prior) or 1.0)
                joint = [scale * weight * table[other, word] for weight, other in zip(prior, x, strict=True)]
                total = sum(joint) + 0.08 * 1e-4
                for other, cell in zip(x, joint, strict=True):
                    counts[other, word] += cell / total
                    totals[other] += cell / total
                links[-1].append(max(range(len(x)), key=joint.__getitem__, default=-1))
        table.update({(x, y): count / totals[x] for (x, y), count in counts.items()})
    return links


def train_vectors(sample: Sample) -> Callable[[], Done]:
    corpora = [sample.tokens("source"), sample.tokens("target")]

    def work() -> Done:
        found = skip_gram(
            corpora, vocabulary_size=VOCABULARY, width=WIDTH, window=WINDOW, negatives=NEGATIVES, epochs=1,
            max_tokens=sample.sizes.tokens, seed=SEED,
        )  # fmt: skip
        return Done(sum(found.tokens))

    return work


def train_by_gensim(kind: type[Word2Vec] | type[FastText], share: int, **more: int) -> Way:
    def way(sample: Sample) -> Callable[[], Done]:
        corpora = [sample.tokens("source"), sample.tokens("target")]

        def work() -> Done:
            texts = [[str(token) for token in ids] for ids in _chosen(corpora, sample.sizes.tokens // share)]
            model = kind(
                sg=1, vector_size=WIDTH, window=WINDOW, negative=NEGATIVES, min_count=1, sample=SUBSAMPLING, workers=1,
                seed=SEED, **more,
            )  # fmt: skip
            model.build_vocab(texts)
            model.train(texts, total_examples=len(texts), epochs=1)
            return Done(sum(map(len, texts)))

        return work

    return way


def tables(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets, and queries that are some of them with noise."""
    random = torch.Generator().manual_seed(SEED)
    targets = torch.randn(sample.sizes.targets, WIDTH, generator=random)
    queries = targets[: sample.sizes.queries]
    return queries + torch.randn(queries.shape, generator=random), targets


def neighbours(sample: Sample) -> Callable[[], Done]:
    queries, targets = tables(sample)
    use_all_cores()

    def work() -> Done:
        return Done(len(queries), _digest(csls_neighbours(queries, targets, k=NEIGHBOURS)[1].numpy()[:, 0]))

    return work


def neighbours_at_once(sample: Sample) -> Callable[[], Done]:
    queries, targets = (table.numpy() for table in tables(sample))

    def work() -> Done:
        x, y = (table / np.linalg.norm(table, axis=1, keepdims=True) for table in (queries, targets))
        cosines = x @ y.T
        of_x = np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
        of_y = np.partition(cosines, -NEIGHBOURS, axis=0)[-NEIGHBOURS:].mean(axis=0)
        return Done(len(x), _digest((2 * cosines - of_x[:, None] - of_y).argmax(axis=1)))

    return work


PRIMITIVES: dict[str, dict[str, Way]] = {
    "cleaning": {"trelm": clean, "loop": clean_by_loop},
    "tokenisation": {"trelm": tokenise, "call-one": tokenise_by_call(1), "call-batch": tokenise_by_call(BATCH)},
    "word-links": {"trelm": link_words(None), "trelm-one-thread": link_words(1), "python": link_by_loop},
    "skip-gram": {
        "trelm": train_vectors,
        "word2vec": train_by_gensim(Word2Vec, 1),
        "fasttext": train_by_gensim(FastText, 4, bucket=BUCKETS),
    },
    "csls": {"trelm": neighbours, "numpy": neighbours_at_once},
}  # fmt: skip


def _chosen(corpora: list[Ragged], tokens: int) -> list[list[int]]:
    """The lines that `skip_gram` would take, in one mixed order."""
    texts = [text[line].tolist() for text in corpora for line in choose_lines(text.lengths(), tokens).tolist()]
    return [texts[place] for place in np.random.default_rng(SEED).permutation(len(texts)).tolist()]


def _digest(*arrays: Any) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _lines(path: Path) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\n")
