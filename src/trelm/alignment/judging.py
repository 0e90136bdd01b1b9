"""Held-out word links as judges of a map, and the choice of a map in words: without labels, links are an aligner's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trelm.alignment.csls import csls_neighbours, mean_similarity

MIN_SEEDS = 100
HELD_OUT_LINKS = 0.2
# What no map finds by chance, on tables of thousands of rows: a share of the judges, and so many of them.
FOUND_SHARE, FOUND_ENTRIES = 0.01, 5
DECISIVE = 500  # judges, from which on a map that finds no more than that is called collapsed whatever its criterion


def split_links(pairs: Tensor, weights: Tensor, identical: Tensor, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The links to learn from, with their weights, and those to judge by: all pairs of a row of X go to the same side.

    Rows that are spelled alike with a row of Y judge nothing: methods that start from spelling know them. Nothing is
    held out where fewer than `MIN_SEEDS` pairs would be.

    Args:
        pairs: int64 [q, 2] with weights [q]; identical: int64 [p, 2]; all (row of X, row of Y).
    """
    size = int(torch.cat([pairs[:, 0], identical[:, 0], torch.zeros(1, dtype=torch.int64)]).max()) + 1
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < HELD_OUT_LINKS
    alike = torch.zeros(size, dtype=torch.bool)
    alike[identical[:, 0]] = True
    held = drawn[pairs[:, 0]] & ~alike[pairs[:, 0]]
    if int(held.sum()) < MIN_SEEDS:
        held = torch.zeros_like(held)
    return (pairs[~held], weights[~held]), pairs[held]


def mutual_links(pairs: Tensor, weights: Tensor) -> Tensor:
    """bool [q]: the pairs whose row of Y is the most linked of their row of X, and the other way round.

    Of rows that are linked most and equally often, all are kept: nothing tells which is the right one.

    Args:
        pairs: int64 [q, 2]; weights: [q], not negative, that rise with the links' counts.
    """
    kept = torch.ones(len(pairs), dtype=torch.bool)
    if not len(pairs):
        return kept
    for side in pairs.T:
        most = torch.zeros(int(side.max()) + 1, dtype=weights.dtype).scatter_reduce(0, side, weights, "amax")
        kept &= weights == most[side]
    return kept


def links_found(mapped: Tensor, Y: Tensor, pairs: Tensor, k: int) -> float | None:
    """The share of rows of X with held-out links whose CSLS neighbour is one of their linked rows of Y.

    Args:
        mapped: [n, d]; Y: [m, d]; pairs: int64 [q, 2], held out. None where there are no pairs.
    """
    if not len(pairs):
        return None
    rows = pairs[:, 0].unique()
    _, nearest = csls_neighbours(mapped[rows], Y, k=k, target_hubness=mean_similarity(Y, mapped, k))
    linked = {(int(x), int(y)) for x, y in pairs}
    return sum((int(x), int(y)) in linked for x, y in zip(rows, nearest[:, 0])) / len(rows)


def beats_chance(found: float | None, judges: int) -> bool:
    """Whether so many held-out links are found again that the map cannot be a random one.

    Args:
        found: `links_found`; judges: the rows of X with held-out links.
    """
    return found is not None and found >= FOUND_SHARE and round(found * judges) >= FOUND_ENTRIES


def collapsed(found: float | None, judges: int, random_like: bool) -> bool:
    """Whether a map is no better than a random one: by held-out links where there are many, else by both.

    The criterion can be high without any truth: on English-Indonesian, self-learning from wrong seeds takes it above
    that of a map fitted to the judges themselves.

    Args:
        found: `links_found`; judges: the rows of X with held-out links.
        random_like: whether the refined criterion is that of random maps.
    """
    if beats_chance(found, judges):
        return False
    return judges >= DECISIVE or random_like


def merit(account: Mapping[str, Any]) -> tuple[bool, float, float]:
    """By what a map is chosen: no collapse, then held-out links found, where there are any, then the criterion.

    The criterion comes last, since refinement raises that of any map.
    """
    return not account["collapsed"], account["links_found"] or 0.0, float(account["criterion"])


def reason(chosen: str, candidates: Mapping[str, Mapping[str, Any]], *, judges: int, asked: bool) -> str:
    """One sentence: why this map.

    Args:
        candidates: the account of each method that ran.
        judges: the rows of X with held-out links; asked: whether the configuration names the method.
    """
    first, *others = [chosen, *(name for name in candidates if name != chosen)]
    account = candidates[chosen]
    if judges:
        own = f"finds held-out links of {_percent(account)} of {judges:,} entries again"
    else:
        own = f"criterion {account['criterion']:.3f} without labels (random maps {account['null_criterion']:.3f})"
    told = [f"{first}: {'asked for; ' if asked else ''}{own}{_fate(account)}"]
    for name in others:
        score = _percent(candidates[name]) if judges else f"{candidates[name]['criterion']:.3f}"
        told.append(f"{name} {score}{_fate(candidates[name])}")
    collapsed = chosen != "none" and all(account["collapsed"] for account in candidates.values())
    warning = "; by the criterion no map that was learned is better than a random one: give other seeds, or more text"
    return ", ".join(told) + (warning if collapsed else "")


def _percent(account: Mapping[str, Any]) -> str:
    return f"{100 * (account['links_found'] or 0.0):.1f} %"


def _fate(account: Mapping[str, Any]) -> str:
    games = account["games"]
    if not account["collapsed"]:
        return ""
    return f" (collapsed, {len(games)} games)" if len(games) > 1 else " (collapsed)"
