"""The unsupervised game beside the published schedule, over seeds, and what each option of the alignment does.

    trelm transfer benchmarks/initialisation/en-id.yaml --run RUN --until alignment      # once a language pair
    python benchmarks/alignment/adversarial.py --part muse --run RUN --minutes 60 --out results/muse-en-id.json
    python benchmarks/alignment/adversarial.py --part seeds --run RUN --seeds 1 2 3 --out results/seeds-en-id.json
    python benchmarks/alignment/adversarial.py --part options --run RUN --out results/options-en-id.json

All parts take the vectors, the links and the settings of the prepared run: seeds change the games and which links are
held out, not the vectors. Precision@k is by the run's test dictionary. Every file is written anew after each cell.

muse: `published.py` (batch 32, discriminator 2048 wide, 31,250 steps an epoch of 1,000,000 samples) for `--minutes`,
then our game on the same tables for as long at most. The published one is measured every `--checkpoint-seconds` of
playing, ours, which should take a twentieth, twenty times as often; measuring is not counted as time. Time is that of
the processor, on one thread (`OMP_NUM_THREADS=1`). Where both have found nothing, a ratio of times says only how fast
the criterion rises.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from published import EPOCHS, STEPS_AN_EPOCH, PublishedGame
from torch import Tensor

from trelm.alignment.adversarial import NULL_ROUNDS, Game, GameSettings
from trelm.alignment.choice import AlignmentResult
from trelm.alignment.criterion import best_of, mean_cosine_criterion, null_criterion, refine
from trelm.alignment.normalisation import Normalised, normalise
from trelm.alignment.procrustes import nearest_orthogonal
from trelm.config import read_run_config
from trelm.config.sections import AlignmentConfig
from trelm.steps.context import Context, use_all_cores
from trelm.steps.preparation import (
    AlignmentInputs,
    aligned,
    alignment_inputs,
    game_settings,
    scattered,
    translation_precision,
)
from trelm.workspace import Run, read_json, write_json

NORMALISATIONS = ("none", "unit", "centre-unit", "iterative", "whiten")
GOAL = ("criterion", "precision_at_1")
FINER = 20
SCORES = ("precision_at_1", "precision_at_5", "distinct_precision_at_1")


@dataclass(frozen=True)
class Prepared:
    """A run whose vectors and word links are there."""

    context: Context

    @property
    def settings(self) -> AlignmentConfig:
        return self.context.config.alignment

    @cached_property
    def inputs(self) -> AlignmentInputs:
        return alignment_inputs(self.context)

    @cached_property
    def tables(self) -> tuple[Normalised, Normalised]:
        """Normalised as the run does it."""
        how = self.settings.normalisation
        return normalise(self.inputs.X, how), normalise(self.inputs.Y, how)

    def precision(self, images: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
        """Of each image [n, d'] of the vectors: the scores by the dictionary."""
        tables = {name: scattered(image, self.inputs.rows, self.inputs.size) for name, image in images.items()}
        found = translation_precision(self.context, tables)
        return {name: {key: scores[key] for key in SCORES} for name, scores in found.items()}

    def aligned(self, seed: int, **changes: Any) -> AlignmentResult:
        """As the step does it, but for the changes to its settings."""
        return aligned(self.settings.model_copy(update=changes), self.inputs, seed=seed)


# The published schedule and ours


def muse(prepared: Prepared, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The published game, then ours, and the ratio of the times; after each checkpoint what is known by then."""
    source, target = prepared.tables
    seed = arguments.seeds[0]
    figures: dict[str, Any] = {
        "tables": [list(source.rows.shape), list(target.rows.shape)],
        "normalisation": prepared.settings.normalisation,
        "ours_settings": asdict(game_settings(prepared.settings)),
    }
    published = PublishedGame(source.rows, target.rows, seed)
    every = arguments.checkpoint_seconds
    for entry in _played(prepared, _published_steps(prepared, published), arguments.minutes, every, None):
        figures["published"] = {**entry, **_extrapolated(entry)}
        yield figures
    goal = _goals(figures["published"]["points"])["highest"]
    figures["published"]["judged"] = _judged(prepared, published.W, seed)
    settings = replace(game_settings(prepared.settings), criterion_entries=10_000)
    for entry in _played(prepared, _our_steps(prepared, settings, seed), arguments.minutes, every / FINER, goal):
        figures["ours"] = entry
        yield figures
    W = entry["map"]
    figures["ours"] = {**entry, "judged": _judged(prepared, W, seed)}
    figures["comparison"] = _comparison(figures["published"], figures["ours"])
    yield figures


Steps = Iterator[Tensor]  # the map after each step


def _published_steps(prepared: Prepared, game: PublishedGame) -> Steps:
    """For ever: the map after each step; at the end of an epoch the criterion sets the learning rate."""
    source, target = prepared.tables
    while True:
        for _ in range(STEPS_AN_EPOCH):
            game.step()
            yield game.W
        game.end_epoch(mean_cosine_criterion(source.rows @ game.W.T, target.rows, entries=10_000))


def _our_steps(prepared: Prepared, settings: GameSettings, seed: int) -> Steps:
    """For ever: the map after each of our mapping steps, the learning rate as in `play`."""
    source, target = prepared.tables
    game, rate, previous = Game(source.rows, target.rows, settings, seed), settings.learning_rate, -math.inf
    while True:
        for _ in range(math.ceil(settings.samples / settings.batch)):
            for _ in range(settings.discriminator_steps):
                game.discriminator_step()
            game.mapping_step(rate)
            yield game.W.detach()
        W = nearest_orthogonal(game.W.detach())
        criterion = mean_cosine_criterion(source.rows @ W.T, target.rows, entries=settings.criterion_entries)
        rate *= settings.decay * (0.5 if criterion < previous else 1.0)
        previous = criterion


def _played(
    prepared: Prepared, steps: Steps, minutes: float, every: float, goal: dict[str, float] | None
) -> Iterator[dict[str, Any]]:
    """The points measured so far, every so many seconds of the processor, until the time is over or the goal reached.

    An epoch's criterion counts as time. What else the machine does takes nothing from a process's own seconds.
    """
    seconds, due, count, points = 0.0, every, 0, []
    while seconds < 60 * minutes:
        start = time.process_time()
        W = next(steps)
        seconds, count = seconds + time.process_time() - start, count + 1
        if seconds >= due or seconds >= 60 * minutes:
            due += every
            points.append({"seconds": seconds, "steps": count, **_point(prepared, W)})
            print(points[-1], flush=True)
            yield {"seconds": seconds, "steps": count, "points": points, "map": nearest_orthogonal(W)}
            if goal is not None and _reached(points[-1], goal):
                return


def _point(prepared: Prepared, W: Tensor) -> dict[str, float]:
    """The criterion over 10,000 entries and precision, of the orthogonal part: what is used in the end."""
    source, target = prepared.tables
    mapped = source.rows @ nearest_orthogonal(W).T
    scores = prepared.precision({"map": target.back(mapped)})["map"]
    return {"criterion": mean_cosine_criterion(mapped, target.rows, entries=10_000), **scores}


def _judged(prepared: Prepared, W: Tensor, seed: int) -> dict[str, Any]:
    """The map after refinement, beside random rotations."""
    source, target = prepared.tables
    rounds, entries, k = NULL_ROUNDS, prepared.settings.criterion_entries, prepared.settings.csls_neighbours
    refined, history = refine(source.rows, target.rows, W, rounds=rounds, entries=entries, k=k)
    null = null_criterion(
        source.rows, target.rows, rounds=rounds, entries=entries, k=k, criterion_entries=entries, seed=seed
    )
    return {"refined_criterion": best_of(history), "null_criterion": null, **_point(prepared, refined)}


def _extrapolated(entry: dict[str, Any]) -> dict[str, Any]:
    a_step = entry["seconds"] / entry["steps"]
    return {
        "epochs_played": entry["steps"] / STEPS_AN_EPOCH,
        "seconds_an_epoch_extrapolated": a_step * STEPS_AN_EPOCH,
        "hours_of_50_epochs_extrapolated": a_step * STEPS_AN_EPOCH * EPOCHS / 3600,
    }


def _reached(point: dict[str, float], goal: dict[str, float]) -> bool:
    return all(point[key] >= least for key, least in goal.items())


def _goals(points: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """What is to be reached: `map`, the figures of the map that the game returns, its best by the criterion; `highest`,
    the highest of each figure at any point, which no one map need have."""
    best = max(points, key=lambda point: point["criterion"])
    return {
        "map": {key: best[key] for key in GOAL},
        "highest": {key: max(point[key] for point in points) for key in GOAL},
    }


def _comparison(published: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Our seconds to the published game's criterion and precision@1, and how many times less that is."""
    seconds = max(published["points"], key=lambda point: point["criterion"])["seconds"]
    found: dict[str, Any] = {}
    for name, goal in _goals(published["points"]).items():
        reached = next((point["seconds"] for point in ours["points"] if _reached(point, goal)), None)
        found[name] = {**goal, "our_seconds": reached, "ratio": seconds / reached if reached else None}
    return {
        "published_seconds_to_its_best_criterion": seconds,
        "goals": found,
        "both_found_nothing": all(point["precision_at_1"] < 0.01 for point in published["points"] + ours["points"]),
    }


# Seeds


def seeds(prepared: Prepared, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """`adversarial` and `auto` with each seed, and the shares that came through; seeds that are there are kept."""
    restarts = prepared.settings.restarts
    there = read_json(arguments.out) if arguments.out.exists() else {}
    cells: list[dict[str, Any]] = there["cells"] if there.get("restarts") == restarts else []
    for seed in sorted(set(arguments.seeds) - {cell["seed"] for cell in cells}):
        auto, game = (prepared.aligned(seed, method=method) for method in ("auto", "adversarial"))
        cells.append({"seed": seed, **_cell(prepared, auto, game)})
        print(cells[-1], flush=True)
        yield {"restarts": restarts, "cells": cells, "summary": _summary(cells)}


def _cell(prepared: Prepared, auto: AlignmentResult, game: AlignmentResult) -> dict[str, Any]:
    """What `auto` chose (it plays the game only where every map from pairs collapsed), and the game by itself."""
    return {
        "adversarial": {
            **_account(game.candidates["adversarial"]),
            **prepared.precision({"map": game.images["adversarial"]})["map"],
        },
        "auto": {"method": auto.method, "reason": auto.reason, "collapsed": auto.candidates[auto.method]["collapsed"]},
        "candidates": {
            name: {**_account(auto.candidates[name]), **scores}
            for name, scores in prepared.precision({name: auto.images[name] for name in auto.candidates}).items()
        },
    }


def _account(figures: dict[str, Any]) -> dict[str, Any]:
    """Without the histories."""
    return {name: value for name, value in figures.items() if name not in ("refinement", "game")}


def _summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    chosen = [cell["candidates"][cell["auto"]["method"]] for cell in cells]
    games = [game for cell in cells for game in cell["adversarial"]["games"]]
    identical = [cell["candidates"]["identical"] for cell in cells if "identical" in cell["candidates"]]
    return {
        "seeds": len(cells),
        "games": len(games),
        "games_not_collapsed": sum(not game["collapsed"] for game in games),
        "adversarial_not_collapsed": sum(not cell["adversarial"]["collapsed"] for cell in cells),
        "adversarial_precision_at_1": _range([cell["adversarial"]["precision_at_1"] for cell in cells]),
        "auto_not_collapsed": sum(not cell["auto"]["collapsed"] for cell in cells),
        "auto_methods": {
            name: sum(cell["auto"]["method"] == name for cell in cells) for name in cells[0]["candidates"]
        },
        "auto_precision_at_1": _range([scores["precision_at_1"] for scores in chosen]),
        "auto_links_found": _range([scores["links_found"] for scores in chosen]),
        "identical_precision_at_1": _range([scores["precision_at_1"] for scores in identical]),
    }


def _range(values: list[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"mean": sum(known) / len(known), "least": min(known), "most": max(known)} if known else None


# Options


def options(prepared: Prepared, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Normalisations, kinds of map and pruning, for the two methods with seeds."""
    cells: list[dict[str, Any]] = []
    for seed, changes in product(arguments.seeds, _arms()):
        start = time.monotonic()
        result = prepared.aligned(seed, **changes)
        method, seconds = changes["method"], time.monotonic() - start
        scores = prepared.precision({"map": result.images[method]})["map"]
        figures = _account(result.candidates[method])
        cells.append({"seed": seed, **changes, **figures, **scores, "seconds_with_random_maps": seconds})
        print({key: cells[-1][key] for key in (*changes, "links_found", "criterion", *SCORES, "seconds")}, flush=True)
        yield {"cells": cells}


def _arms() -> Iterator[dict[str, Any]]:
    for normalisation, kind in product(NORMALISATIONS, ("orthogonal", "ridge")):
        if kind == "ridge" and normalisation not in ("centre-unit", "whiten"):
            continue
        for method, prune in (("identical", False), ("parallel", False), ("parallel", True)):
            yield {"method": method, "normalisation": normalisation, "map": kind, "prune_links": prune}


PARTS: dict[str, Callable[[Prepared, argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "muse": muse,
    "seeds": seeds,
    "options": options,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--run", type=Path, required=True, help="run folder, prepared up to `embeddings`")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--restarts", type=int, help="seeds: more games after a collapse; as the run has it by default")
    parser.add_argument("--minutes", type=float, default=60.0, help="muse: of playing, of each of the two games")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="muse: of playing, between two points")
    arguments = parser.parse_args()
    cores, config = use_all_cores(), read_run_config(arguments.run)
    if arguments.restarts is not None:
        settings = config.alignment.model_copy(update={"restarts": arguments.restarts})
        config = config.model_copy(update={"alignment": settings})
    prepared = Prepared(Context(config, Run(arguments.run)))
    about = {"part": arguments.part, "run": arguments.run.name, "threads": cores, "torch": torch.__version__}
    for figures in PARTS[arguments.part](prepared, arguments):
        write_json(arguments.out, {**about, **_plain(figures)})


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """Without tensors."""
    return {
        name: _plain(value) if isinstance(value, dict) else value
        for name, value in figures.items()
        if not isinstance(value, Tensor)
    }


if __name__ == "__main__":
    main()
