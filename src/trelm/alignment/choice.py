"""The map from the subword vectors to the encoder's table: learned by one method or by all that the data allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trelm.alignment.adversarial import GameSettings
from trelm.alignment.criterion import beats_null, best_of, null_criterion, refine
from trelm.alignment.judging import MIN_SEEDS, collapsed, links_found, merit, mutual_links, reason, split_links
from trelm.alignment.maps import FITS, MapKind, keeps_lengths
from trelm.alignment.normalisation import Normalisation, Normalised, at_length_of, normalise
from trelm.alignment.restarts import Games, play_again
from trelm.errors import ConfigError

Method = Literal["auto", "adversarial", "identical", "parallel", "none"]
Progress = Callable[[dict[str, Any]], None]

PREFERENCE = ("parallel", "identical", "adversarial")  # of equal merit, the first wins


@dataclass(frozen=True)
class Seeds:
    """Pairs that are taken to be translations: rows [p, 2] (of X, of Y) and weights [p]."""

    pairs: Tensor
    weights: Tensor


@dataclass(frozen=True)
class AlignmentResult:
    """The chosen map.

    Attributes:
        mapping: `W` [d', d], between the normalised copies.
        method: the one that made it.
        mapped: [n, d'], the rows of `X` in the space of `Y` as it came.
        images: the same for each method that ran, and for `none`: no map but the identity.
        criterion: of `mapping`, without labels.
        reason: why this one, in a sentence.
        candidates: for each method that ran: criterion (of the map that was kept), criterion_before and
            criterion_after (the refinement), links_found (share of held-out links found again, None without links) with
            links_found_before and links_found_after, refinement_kept, collapsed (it finds no held-out links; where
            these are few, criterion_after does not beat null_criterion, or the game says so), null_criterion (of
            random rotations, refined likewise), seeds (pairs it started from), seconds, refinement (criterion and
            dictionary size of each round), game (of the game that was kept, one entry an epoch) and games (the account
            of each, as in `Games`); the last two are empty for other methods.
    """

    mapping: Tensor
    method: str
    mapped: Tensor
    images: dict[str, Tensor]
    criterion: float
    reason: str
    candidates: dict[str, dict[str, Any]]


def align(
    X: Tensor,
    Y: Tensor,
    *,
    method: Method,
    identical: Tensor,
    parallel: Tensor,
    parallel_weights: Tensor,
    settings: GameSettings,
    restarts: int = 2,
    refinement_rounds: int = 5,
    refinement_entries: int = 15_000,
    normalisation: Normalisation = "centre-unit",
    map_kind: MapKind = "orthogonal",
    prune_links: bool = False,
    seed: int,
    on_progress: Progress | None = None,
) -> AlignmentResult:
    """Learn `W` on normalised copies of the tables and map `X` into the space of `Y` (METHOD section 3).

    Args:
        X: [n, d] subword vectors, only rows that have one; Y: [m, d'] the encoder's raw table. Both float32 and
            sorted by falling frequency: the criterion and the refinement look at the first rows only.
        method: "adversarial"; "identical", a map fitted to the pairs spelled alike; "parallel", to those and the
            word links; "none", the identity, not refined; "auto", all that the data allows (the last two from
            `MIN_SEEDS` pairs on; the game, which costs minutes, only where every map from pairs collapsed), of which
            the best by `merit` is kept. A fifth of the links is held out to judge; they come from an aligner, not
            from a person, so nothing here is labelled.
        identical: int64 [p, 2] and parallel: int64 [q, 2], (row of X, row of Y).
        parallel_weights: [q], not negative; a pair spelled alike weighs 1.
        restarts: games with other seeds after one that collapsed, at most.
        map_kind: what is fitted to pairs and in refinement; the game itself is always orthogonal. Images of a map that
            changes lengths are brought to the mean length of the rows of `Y`.
        prune_links: learn from the links only that are each other's most frequent (`mutual_links`).
        on_progress: called with {"method", "phase": "game" | "refinement" | "choice", "criterion", ...} after each
            epoch and round, and at the end; what is to be told in words is the "note".

    Raises:
        ConfigError: the method asked for has too few pairs.
    """
    source, target = normalise(X, normalisation), normalise(Y, normalisation)
    trained, held_out = split_links(parallel, parallel_weights, identical, seed)
    seeds = _seeds(identical, *(_pruned(*trained) if prune_links else trained))
    links = len(seeds["parallel"].pairs) - len(identical)
    _check(method, len(identical), links)
    rounds = 0 if method == "none" else refinement_rounds
    tables = (source.rows, target.rows)
    runner = _Runner(*tables, settings, rounds, refinement_entries, map_kind, held_out, seed, on_progress)
    maps = runner.run_all(_methods(method, len(identical), links), seeds, restarts)
    return _chosen(runner, maps, source, target, asked=method != "auto")


def _chosen(
    runner: _Runner,
    maps: dict[str, tuple[Tensor, dict[str, Any]]],
    source: Normalised,
    target: Normalised,
    *,
    asked: bool,
) -> AlignmentResult:
    """The best of the maps, and the images of all of them."""
    candidates = {name: account for name, (_, account) in maps.items()}
    chosen = max(candidates, key=lambda name: merit(candidates[name]))  # the first of equals
    why, criterion = reason(chosen, candidates, judges=runner.judges, asked=asked), candidates[chosen]["criterion"]
    if runner.on_progress is not None:
        runner.on_progress({"method": chosen, "phase": "choice", "criterion": criterion, "note": why})
    images = {name: _image(source, target, W, runner.kind) for name, (W, _) in maps.items() if name != "none"}
    images["none"] = _image(source, target, runner.identity(), "orthogonal")
    return AlignmentResult(maps[chosen][0], chosen, images[chosen], images, criterion, why, candidates)


def _image(source: Normalised, target: Normalised, W: Tensor, kind: MapKind) -> Tensor:
    """The mapped rows in the space of the target table as it came."""
    images = source.rows @ W.T
    isometric = keeps_lengths(kind, W.shape[1], W.shape[0])
    return target.back(images if isometric else at_length_of(images, target.rows))


@dataclass(frozen=True)
class _Runner:
    """What the runs of all methods share."""

    X: Tensor
    Y: Tensor
    settings: GameSettings
    rounds: int
    entries: int
    kind: MapKind
    held_out: Tensor
    seed: int
    on_progress: Progress | None

    @property
    def judges(self) -> int:
        """Rows of X with held-out links."""
        return len(self.held_out[:, 0].unique())

    def run_all(
        self, methods: tuple[str, ...], seeds: dict[str, Seeds], restarts: int
    ) -> dict[str, tuple[Tensor, dict[str, Any]]]:
        """Each method's map and account; the game, last, only where nothing before it came through."""
        null = self.null_criterion()
        maps: dict[str, tuple[Tensor, dict[str, Any]]] = {}
        for name in methods:
            if name != "adversarial" or all(account["collapsed"] for _, account in maps.values()):
                maps[name] = self.run(name, seeds[name], null, restarts)
        return maps

    def run(self, method: str, seeds: Seeds, null: float, restarts: int) -> tuple[Tensor, dict[str, Any]]:
        """The method's map and the account of it: the refined one, unless held-out links prefer the one before."""
        start = time.monotonic()
        first, games = self.first_map(method, seeds, restarts)
        refined, history = self.refined(first, method)
        before, after = history[0]["criterion"], best_of(history)
        found_before, found_after = (
            links_found(self.X @ W.T, self.Y, self.held_out, self.settings.csls_neighbours) for W in (first, refined)
        )
        kept = found_before is None or found_after is None or found_after >= found_before
        found = found_after if kept else found_before
        random_like = (games is not None and games.best.collapsed) or not beats_null(after, null)
        return refined if kept else first, {
            "criterion": after if kept else before,
            "criterion_before": before,
            "criterion_after": after,
            "links_found": found,
            "links_found_before": found_before,
            "links_found_after": found_after,
            "refinement_kept": kept,
            "null_criterion": null,
            "collapsed": collapsed(found, self.judges, random_like),
            "seconds": time.monotonic() - start,
            "seeds": len(seeds.pairs),
            "refinement": history,
            "game": [] if games is None else games.best.history,
            "games": [] if games is None else games.accounts,
        }

    def first_map(self, method: str, seeds: Seeds, restarts: int) -> tuple[Tensor, Games | None]:
        """The method's map before refinement, and the games where there were any."""
        if method == "adversarial":
            report = self.reporter(method, "game")
            games = play_again(self.X, self.Y, self.settings, seed=self.seed, restarts=restarts, on_event=report)
            return games.best.W, games
        if method == "none":
            return self.identity(), None
        rows_of_x, rows_of_y = seeds.pairs.T
        return FITS[self.kind](self.X[rows_of_x], self.Y[rows_of_y], seeds.weights), None

    def identity(self) -> Tensor:
        """No map: the identity [d', d], padded or cut where the widths differ."""
        return torch.eye(self.Y.shape[1], self.X.shape[1])

    def refined(self, W: Tensor, method: str) -> tuple[Tensor, list[dict[str, Any]]]:
        """`W` after the rounds of refinement, and their history."""
        return refine(
            self.X,
            self.Y,
            W,
            rounds=self.rounds,
            entries=self.entries,
            k=self.settings.csls_neighbours,
            criterion_entries=self.settings.criterion_entries,
            fit=FITS[self.kind],
            on_round=self.reporter(method, "refinement"),
        )

    def null_criterion(self) -> float:
        """What random rotations reach by the same refinement."""
        return null_criterion(
            self.X,
            self.Y,
            rounds=self.rounds,
            entries=self.entries,
            k=self.settings.csls_neighbours,
            criterion_entries=self.settings.criterion_entries,
            seed=self.seed,
            fit=FITS[self.kind],
        )

    def reporter(self, method: str, phase: str) -> Progress | None:
        """`on_progress`, with the method and the phase filled in."""
        if self.on_progress is None:
            return None
        report = self.on_progress
        return lambda entry: report({"method": method, "phase": phase, **entry})


def _methods(method: Method, identical: int, parallel: int) -> tuple[str, ...]:
    """The methods to run, in the order of preference."""
    if method != "auto":
        return (method,)
    enough = {"parallel": parallel >= MIN_SEEDS, "identical": identical >= MIN_SEEDS, "adversarial": True}
    return tuple(name for name in PREFERENCE if enough[name])


def _pruned(pairs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    kept = mutual_links(pairs, weights)
    return pairs[kept], weights[kept]


def _seeds(identical: Tensor, parallel: Tensor, parallel_weights: Tensor) -> dict[str, Seeds]:
    """The pairs that each method starts from."""
    alike = Seeds(identical, torch.ones(len(identical)))
    both = Seeds(torch.cat([identical, parallel]), torch.cat([alike.weights, parallel_weights.float()]))
    nothing = Seeds(torch.zeros((0, 2), dtype=torch.int64), torch.zeros(0))
    return {"identical": alike, "parallel": both, "adversarial": nothing, "none": nothing}


def _check(method: Method, identical: int, links: int) -> None:
    found = {"identical": ("entries spelled alike", identical), "parallel": ("word-alignment links", links)}
    if method in found and found[method][1] < MIN_SEEDS:
        what, count = found[method]
        raise ConfigError(
            f"alignment.method: '{method}' needs at least {MIN_SEEDS} {what}, found {count}; "
            "give more text or set alignment.method to 'auto'"
        )
