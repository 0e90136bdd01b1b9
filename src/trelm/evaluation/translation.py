"""Word translation by an aligned embedding table: precision@k of its CSLS neighbours (Conneau et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trelm.alignment.csls import csls_neighbours, mean_similarity
from trelm.corpus.files import read_lines
from trelm.errors import DataError, data_error

PieceId = Callable[[str], int | None]


@dataclass(frozen=True)
class Question:
    """A source word that can be asked: its row, its accepted answers, and whether one of them is spelled like it."""

    row: int
    answers: frozenset[int]
    spelled_alike: bool


def read_dictionary(paths: Sequence[Path]) -> dict[str, set[str]]:
    """The translations of each source word, from files of `source<TAB>target` lines (blank ones are skipped).

    Raises:
        DataError: a line without exactly two columns, or with nothing in one of them.
    """
    dictionary: dict[str, set[str]] = {}
    for path in paths:
        for number, line in read_lines(path):
            if not line.strip():
                continue
            columns = [column.strip() for column in line.split("\t")]
            if len(columns) != 2 or not all(columns):
                raise data_error(
                    path,
                    number,
                    expected="a source word, a tab and a target word",
                    found=f"{len(columns)} columns" if len(columns) != 2 else "an empty column",
                    hint="write one translation a line; repeat the source word for a further one",
                )
            dictionary.setdefault(columns[0], set()).add(columns[1])
    return dictionary


def precision_at(
    table_rows: Tensor,
    source_rows: Tensor,
    dictionary: Mapping[str, set[str]],
    target_id_of: PieceId,
    source_id_of: PieceId,
    *,
    candidates: Tensor,
    k: Sequence[int] = (1, 5),
    csls_k: int = 10,
    chunk: int = 1024,
) -> dict[str, float | int | None]:
    """How often an accepted translation is among the `k` nearest target-language entries of a source word (METHOD 6).

    A word is asked where it is a single piece of the source vocabulary and one of its translations a candidate.
    Hubness of the candidates is taken over all of `source_rows`: it does not depend on the dictionary.

    Args:
        table_rows: [V, d], the joint table. source_rows: [V_s, d], the encoder's own table: the queries are its rows.
        target_id_of, source_id_of: the id of a word that is a single piece of the joint or source vocabulary, or None.
        candidates: bool [V], the entries of the joint vocabulary that belong to the target language.
        k: the ranks asked for; csls_k: neighbours that hubness is taken over; chunk: queries at a time.

    Returns:
        For each k `precision_at_<k>` and `chance_at_<k>` (of a random order); `queries`; `dictionary_words`; `coverage`
        (share of them that was asked); `candidates`; and, since a copied row answers for itself, `distinct_queries`
        and `distinct_precision_at_<k>`: without words that have a translation spelled alike. None over no queries.

    Raises:
        DataError: the dictionary is empty.
    """
    if not dictionary:
        raise DataError("dictionary: expected a translation, found none; give a file of source<TAB>target lines")
    questions = _questions(dictionary, target_id_of, source_id_of, candidates)
    ranks = _ranks(questions, table_rows, source_rows, candidates, max(k), csls_k, chunk)
    distinct = torch.tensor([not question.spelled_alike for question in questions], dtype=torch.bool)
    scores: dict[str, float | int | None] = {
        "queries": len(questions),
        "dictionary_words": len(dictionary),
        "coverage": len(questions) / len(dictionary),
        "candidates": int(candidates.sum()),
        "distinct_queries": int(distinct.sum()),
    }
    for rank in k:
        scores[f"precision_at_{rank}"] = _share(ranks < rank)
        scores[f"distinct_precision_at_{rank}"] = _share(ranks[distinct] < rank)
        scores[f"chance_at_{rank}"] = _chance(questions, int(candidates.sum()), rank)
    return scores


def _questions(
    dictionary: Mapping[str, set[str]], target_id_of: PieceId, source_id_of: PieceId, candidates: Tensor
) -> list[Question]:
    """The words of the dictionary that can be asked, in its order."""
    questions = []
    allowed = candidates.tolist()
    for word, translations in dictionary.items():
        row = source_id_of(word)
        ids = [target_id_of(translation) for translation in sorted(translations)]
        answers = frozenset(i for i in ids if i is not None and allowed[i])
        if row is not None and answers:
            alike = word.casefold() in {translation.casefold() for translation in translations}
            questions.append(Question(row, answers, alike))
    return questions


def _ranks(
    questions: Sequence[Question],
    table_rows: Tensor,
    source_rows: Tensor,
    candidates: Tensor,
    depth: int,
    csls_k: int,
    chunk: int,
) -> Tensor:
    """The rank (from 0) of the first accepted answer among the `depth` nearest candidates, or `depth`: int64 [q]."""
    if not questions:
        return torch.zeros(0, dtype=torch.int64)
    queries, targets = source_rows[[question.row for question in questions]], table_rows[candidates]
    hubness = mean_similarity(targets, source_rows, csls_k, chunk)
    top = min(depth, len(targets))
    _, nearest = csls_neighbours(queries, targets, k=csls_k, top=top, target_hubness=hubness, chunk=chunk)
    found = candidates.nonzero().squeeze(1)[nearest].tolist()
    ranks = [
        next((rank for rank, entry in enumerate(entries) if entry in question.answers), depth)
        for entries, question in zip(found, questions)
    ]
    return torch.tensor(ranks, dtype=torch.int64)


def _share(flags: Tensor) -> float | None:
    """The share of True, or None where there is nothing."""
    return float(flags.double().mean()) if len(flags) else None


def _chance(questions: Sequence[Question], candidates: int, k: int) -> float | None:
    """The mean probability that `k` candidates drawn without replacement hold an accepted answer (k / n for one)."""
    if not questions:
        return None
    misses = 0.0
    for question in questions:
        miss = 1.0
        for drawn in range(min(k, candidates)):
            miss *= max(candidates - len(question.answers) - drawn, 0) / (candidates - drawn)
        misses += miss
    return 1 - misses / len(questions)
