"""The map from the subword vectors to the encoder's table: learned by one method or by all that the data allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trelm.alignment.adversarial import GameResult, GameSettings, play
from trelm.alignment.criterion import beats_null, best_of, null_criterion, refine
from trelm.alignment.csls import csls_neighbours, mean_similarity, unit_rows
from trelm.alignment.procrustes import procrustes
from trelm.errors import ConfigError

Method = Literal["auto", "adversarial", "identical", "parallel", "none"]
Normalisation = Literal["none", "unit", "centre-unit"]
Progress = Callable[[dict[str, Any]], None]

PREFERENCE = ("parallel", "identical", "adversarial")  # of equal criteria, the first wins
MIN_SEEDS = 100
HELD_OUT_LINKS = 0.2


@dataclass(frozen=True)
class Seeds:
    """Pairs that are taken to be translations: rows [p, 2] (of X, of Y) and weights [p]."""

    pairs: Tensor
    weights: Tensor


@dataclass(frozen=True)
class AlignmentResult:
    """The chosen map.

    Attributes:
        mapping: `W` [d, d], between the normalised copies.
        method: the one that made it.
        mapped: [n, d], the rows of `X` in the space of `Y` as it came.
        images: the same for each method that ran, and for `none`: no map but the identity.
        criterion: of `mapping`, without labels.
        candidates: for each method that ran: criterion (of the map that was kept), criterion_before and
            criterion_after (the refinement), links_found (share of held-out links found again, None without links) with
            links_found_before and links_found_after, refinement_kept, collapsed (the game says so, or criterion_after
            does not beat null_criterion), null_criterion (of random rotations, refined likewise), seeds (pairs it
            started from), seconds, refinement (criterion and dictionary size of each round), game (one entry an epoch;
            empty for other methods).
    """

    mapping: Tensor
    method: str
    mapped: Tensor
    images: dict[str, Tensor]
    criterion: float
    candidates: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Normalised:
    """A table's normalised rows [n, d], and the way back: `rows * scale + centre` has its place and mean length."""

    rows: Tensor
    centre: Tensor
    scale: float


def normalise(table: Tensor, how: Normalisation) -> Normalised:
    """Rows as they are ("none"), of length 1 ("unit"), or less their mean and of length 1 ("centre-unit")."""
    centre = table.mean(dim=0) if how == "centre-unit" else torch.zeros(table.shape[1])
    if how == "none":
        return Normalised(table, centre, 1.0)
    centred = table - centre
    return Normalised(unit_rows(centred), centre, float(centred.norm(dim=1).mean()))


def align(
    X: Tensor,
    Y: Tensor,
    *,
    method: Method,
    identical: Tensor,
    parallel: Tensor,
    parallel_weights: Tensor,
    settings: GameSettings,
    refinement_rounds: int = 5,
    refinement_entries: int = 15_000,
    normalisation: Normalisation = "centre-unit",
    seed: int,
    on_progress: Progress | None = None,
) -> AlignmentResult:
    """Learn `W` on normalised copies of the tables and map `X` into the space of `Y` (METHOD section 3).

    Args:
        X: [n, d] subword vectors, only rows that have one; Y: [m, d] the encoder's raw table. Both float32 and
            sorted by falling frequency: the criterion and the refinement look at the first rows only.
        method: "adversarial"; "identical", Procrustes on the pairs spelled alike; "parallel", on those and the
            word-alignment links; "none", the identity, not refined; "auto", all that the data allows (adversarial
            always, the others from `MIN_SEEDS` pairs on), of which the best is kept: by the share of held-out links
            that it finds again where there are enough, else by the refined criterion. A fifth of the links' pairs is
            held out from `parallel`; they come from an aligner, not from a person, so nothing here is labelled.
        identical: int64 [p, 2] and parallel: int64 [q, 2], (row of X, row of Y).
        parallel_weights: [q], not negative; a pair spelled alike weighs 1.
        on_progress: called with {"method", "phase": "game" | "refinement", ...} after each epoch and round.

    Raises:
        ConfigError: the widths differ, or the method asked for has too few pairs.
    """
    _check(X, Y, method, len(identical), len(parallel))
    source, target = normalise(X, normalisation), normalise(Y, normalisation)
    trained, held_out = _split_links(parallel, parallel_weights, identical, seed)
    seeds = _seeds(identical, *trained)
    rounds = 0 if method == "none" else refinement_rounds
    runner = _Runner(source.rows, target.rows, settings, rounds, refinement_entries, held_out, seed, on_progress)
    null = runner.null_criterion()
    maps = {name: runner.run(name, seeds[name], null) for name in _methods(method, len(identical), len(parallel))}
    candidates = {name: account for name, (_, account) in maps.items()}
    chosen = max(candidates, key=lambda name: _merit(candidates[name]))  # the first of equals
    W = maps[chosen][0]
    images = {name: source.rows @ found.T * target.scale + target.centre for name, (found, _) in maps.items()}
    images.setdefault("none", source.rows * target.scale + target.centre)
    return AlignmentResult(W, chosen, images[chosen], images, candidates[chosen]["criterion"], candidates)


def _merit(account: dict[str, Any]) -> tuple[float, bool, float]:
    """Held-out links first, where there are any; then no collapse: refinement raises the criterion of any map."""
    return account["links_found"] or 0.0, not account["collapsed"], float(account["criterion"])


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


def _split_links(pairs: Tensor, weights: Tensor, identical: Tensor, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The links to learn from, with their weights, and those to judge by: all pairs of a row of X go to the same side.

    Rows that are spelled alike with a row of Y judge nothing: methods that start from spelling know them. Nothing is
    held out where fewer than `MIN_SEEDS` pairs would be.
    """
    size = int(torch.cat([pairs[:, 0], identical[:, 0], torch.zeros(1, dtype=torch.int64)]).max()) + 1
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < HELD_OUT_LINKS
    alike = torch.zeros(size, dtype=torch.bool)
    alike[identical[:, 0]] = True
    held = drawn[pairs[:, 0]] & ~alike[pairs[:, 0]]
    if int(held.sum()) < MIN_SEEDS:
        held = torch.zeros_like(held)
    return (pairs[~held], weights[~held]), pairs[held]


@dataclass(frozen=True)
class _Runner:
    """What the runs of all methods share."""

    X: Tensor
    Y: Tensor
    settings: GameSettings
    rounds: int
    entries: int
    held_out: Tensor
    seed: int
    on_progress: Progress | None

    def run(self, method: str, seeds: Seeds, null: float) -> tuple[Tensor, dict[str, Any]]:
        """The method's map and the account of it: the refined one, unless held-out links prefer the one before."""
        start = time.monotonic()
        first, game = self.first_map(method, seeds)
        refined, history = self.refined(first, method)
        before, after = history[0]["criterion"], best_of(history)
        found_before, found_after = (
            links_found(self.X @ W.T, self.Y, self.held_out, self.settings.csls_neighbours) for W in (first, refined)
        )
        kept = found_before is None or found_after is None or found_after >= found_before
        return refined if kept else first, {
            "criterion": after if kept else before,
            "criterion_before": before,
            "criterion_after": after,
            "links_found": found_after if kept else found_before,
            "links_found_before": found_before,
            "links_found_after": found_after,
            "refinement_kept": kept,
            "null_criterion": null,
            "collapsed": (game is not None and game.collapsed) or not beats_null(after, null),
            "seconds": time.monotonic() - start,
            "seeds": len(seeds.pairs),
            "refinement": history,
            "game": [] if game is None else game.history,
        }

    def first_map(self, method: str, seeds: Seeds) -> tuple[Tensor, GameResult | None]:
        """The method's map before refinement, and the game where there was one."""
        if method == "adversarial":
            game = play(self.X, self.Y, self.settings, seed=self.seed, on_epoch=self.reporter(method, "game"))
            return game.W, game
        if method == "none":
            return torch.eye(self.X.shape[1]), None
        rows_of_x, rows_of_y = seeds.pairs.T
        return procrustes(self.X[rows_of_x], self.Y[rows_of_y], seeds.weights), None

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


def _seeds(identical: Tensor, parallel: Tensor, parallel_weights: Tensor) -> dict[str, Seeds]:
    """The pairs that each method starts from."""
    alike = Seeds(identical, torch.ones(len(identical)))
    both = Seeds(torch.cat([identical, parallel]), torch.cat([alike.weights, parallel_weights.float()]))
    nothing = Seeds(torch.zeros((0, 2), dtype=torch.int64), torch.zeros(0))
    return {"identical": alike, "parallel": both, "adversarial": nothing, "none": nothing}


def _check(X: Tensor, Y: Tensor, method: Method, identical: int, parallel: int) -> None:
    if X.shape[1] != Y.shape[1]:
        raise ConfigError(
            f"alignment: expected subword vectors as wide as the encoder's table ({Y.shape[1]}), found {X.shape[1]}; "
            "train them at the encoder's embedding size"
        )
    found = {"identical": ("entries spelled alike", identical), "parallel": ("word-alignment links", parallel)}
    if method in found and found[method][1] < MIN_SEEDS:
        what, count = found[method]
        raise ConfigError(
            f"alignment.method: '{method}' needs at least {MIN_SEEDS} {what}, found {count}; "
            "give more text or set alignment.method to 'auto'"
        )
