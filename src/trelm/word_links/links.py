"""Links of parallel text in both directions, and what is counted on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.ragged import Ragged
from trelm.errors import data_error
from trelm.word_links.cells import Cells, IntArray
from trelm.word_links.model import LinkModel, best_links, check_text, decode, train
from trelm.word_links.words import project_to_pieces, word_groups

MOST_THREADS = 4  # each needs some 200 MB of temporary arrays, and they share the memory's bandwidth


@dataclass(frozen=True)
class WordLinks:
    """Links of parallel text in both directions.

    Attributes:
        source_of_target: for every target position the 0-based source position in the same pair, or -1.
        target_of_source: for every source position the 0-based target position in the same pair, or -1.
        statistics: plain values: pairs, tensions, log-likelihoods, shares of unlinked positions, seconds.
    """

    source_of_target: Ragged
    target_of_source: Ragged
    statistics: dict[str, Any]


def link(
    source: Ragged,
    target: Ragged,
    *,
    iterations: int = 5,
    max_pairs: int | None = None,
    source_continuation: NDArray[np.bool_] | None = None,
    target_continuation: NDArray[np.bool_] | None = None,
    threads: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> WordLinks:
    """Link parallel text in both directions, one link for each output position.

    Args:
        source, target: piece ids without special tokens; pair `i` is `source[i]`, `target[i]`.
        iterations: expectation-maximisation steps of each direction.
        max_pairs: the model is trained on the first so many pairs, and applied to all.
        source_continuation, target_continuation: bool [V], whether a piece goes on with the word before it. Where one
            is given, words are linked, and the links projected to pieces; a side without one has a word in each piece.
            With neither, pieces are linked directly, as in the paper.
        threads: chunks of text that are worked on at a time, `MOST_THREADS` at most; the links are the same for all.
        on_progress: called with (steps done, steps in all).

    Raises:
        DataError: the sides differ in length, there is nothing to link, or a number is out of range.
    """
    started = time.perf_counter()
    check_text(source, target, iterations, max_pairs)
    threads = min(threads, MOST_THREADS)
    total, done = 2 * iterations + 2, 0

    def progress() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    by_words = source_continuation is not None or target_continuation is not None
    source_groups = word_groups(source, _or_none(source_continuation, source)) if by_words else None
    target_groups = word_groups(target, _or_none(target_continuation, target)) if by_words else None
    sources = source if source_groups is None else source_groups.words
    targets = target if target_groups is None else target_groups.words
    models, links = [], []
    for given, output in ((sources, targets), (targets, sources)):
        model, best = _link_direction(given, output, iterations, max_pairs, threads, progress)
        models.append(model)
        links.append(best)
    if source_groups is not None and target_groups is not None:
        links[0] = project_to_pieces(links[0], output=target_groups, given=source_groups)
        links[1] = project_to_pieces(links[1], output=source_groups, given=target_groups)
    statistics = _statistics(source, target, links, models, max_pairs)
    statistics |= {"unit": "word" if by_words else "piece", "seconds": round(time.perf_counter() - started, 3)}
    return WordLinks(links[0], links[1], statistics)


def _link_direction(
    given: Ragged, output: Ragged, iterations: int, max_pairs: int | None, threads: int, on_step: Callable[[], None]
) -> tuple[LinkModel, Ragged]:
    """Train on the first pairs and link all of them; where these are the same, the numbered cells serve twice."""
    cells = Cells.of(_head(given, max_pairs), _head(output, max_pairs), threads)
    model = train(cells, iterations, on_step, threads)
    if max_pairs is None or max_pairs >= len(given):
        best = decode(cells, model, output, threads)
    else:
        del cells
        best = best_links(model, given, output, threads)
    on_step()
    return model, best


def count_linked_pairs(source: Ragged, target: Ragged, links: WordLinks) -> tuple[IntArray, NDArray[np.float32]]:
    """Type pairs by how often both directions link them.

    Returns:
        int64 [p, 2] of (source id, target id), ascending, and their counts, float32 [p].

    Raises:
        DataError: the links are not those of this text.
    """
    for side, linked, name in ((source, links.target_of_source, "source"), (target, links.source_of_target, "target")):
        if not np.array_equal(side.lengths(), linked.lengths()):
            raise data_error(
                "word links",
                None,
                expected=f"one link for each {name} position",
                found="another text's links",
                hint="give the text that was linked",
            )
    agreed, positions = _agreed(links.source_of_target, links.target_of_source)
    size = int(target.values.max()) + 1 if len(target.values) else 1
    keys = source.values[agreed].astype(np.int64) * size + target.values[positions]
    unique, counts = np.unique(keys, return_counts=True)
    return np.stack([unique // size, unique % size], axis=1), counts.astype(np.float32)


def alignment_error_rate(
    links: set[tuple[int, int]], sure: set[tuple[int, int]], possible: set[tuple[int, int]]
) -> float:
    """1 - (|A & S| + |A & P|) / (|A| + |S|) (Och and Ney 2003); sure links are possible ones too.

    With neither links nor sure links the rate is 0.
    """
    if not links and not sure:
        return 0.0
    return 1 - (len(links & sure) + len(links & (possible | sure))) / (len(links) + len(sure))


def _agreed(source_of_target: Ragged, target_of_source: Ragged) -> tuple[IntArray, IntArray]:
    """Flat source and flat target positions of the links that both directions have."""
    linked = np.flatnonzero(target_of_source.values >= 0)
    sequence = np.repeat(np.arange(len(target_of_source)), target_of_source.lengths())[linked]
    targets = source_of_target.offsets[sequence] + target_of_source.values[linked]
    back = target_of_source.offsets[sequence] + source_of_target.values[targets]
    agreed = (source_of_target.values[targets] >= 0) & (back == linked)
    return linked[agreed], targets[agreed]


def _statistics(
    source: Ragged, target: Ragged, links: list[Ragged], models: list[LinkModel], max_pairs: int | None
) -> dict[str, Any]:
    agreed = len(_agreed(links[0], links[1])[0])
    linked = [int(np.count_nonzero(side.values >= 0)) for side in links]
    directions = {
        name: {
            "positions": len(side.values),
            "links": count,
            "share_unlinked": 1 - count / len(side.values),
            "tension": model.tension,
            "log_likelihood": list(model.log_likelihoods),
        }
        for name, side, count, model in zip(("forward", "reverse"), links, linked, models)
    }
    return {
        "pairs": len(source),
        "pairs_trained_on": min(len(source), max_pairs or len(source)),
        "pairs_with_an_empty_side": int(np.count_nonzero((source.lengths() == 0) | (target.lengths() == 0))),
        "links_per_target_token": linked[0] / len(target.values),
        "agreed_links": agreed,
        "agreed_links_per_target_token": agreed / len(target.values),
        **directions,
    }


def _head(ragged: Ragged, count: int | None) -> Ragged:
    """The first `count` sequences."""
    offsets = ragged.offsets if count is None else ragged.offsets[: count + 1]
    return Ragged(np.asarray(ragged.values[: offsets[-1]]), offsets)


def _or_none(is_continuation: NDArray[np.bool_] | None, ids: Ragged) -> NDArray[np.bool_]:
    """The marks, or marks that make every piece a word."""
    return np.zeros(int(ids.values.max(initial=-1)) + 1, dtype=bool) if is_continuation is None else is_continuation
