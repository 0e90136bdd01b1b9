"""The adversarial game played again with other seeds where it collapsed: how it goes depends on the draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trelm.alignment.adversarial import GameResult, GameSettings, play
from trelm.alignment.criterion import NULL_MARGIN

STRIDE = 10_000_001  # above the greatest seed of a configuration: two runs' games never share one


@dataclass(frozen=True)
class Games:
    """The best of several games.

    Attributes:
        best: one that did not collapse before one that did, then by the refined criterion.
        accounts: of each game: seed, criterion, refined_criterion, null_criterion, collapsed, epochs, kept.
    """

    best: GameResult
    accounts: list[dict[str, Any]]


def play_again(
    X: Tensor,
    Y: Tensor,
    settings: GameSettings,
    *,
    seed: int,
    restarts: int,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Games:
    """Games with `seed`, then with other seeds, until one has not collapsed or `restarts` more have been played.

    Args:
        X, Y, settings: as for `play`.
        on_event: called with {"game", ...} for each epoch, and with {"game", "criterion", "note"} after each game that
            collapsed.
    """
    games: list[GameResult] = []
    seeds = [seed + STRIDE * number for number in range(restarts + 1)]
    for number, own_seed in enumerate(seeds, start=1):
        null = games[0].null_criterion if games else None
        games.append(play(X, Y, settings, seed=own_seed, null=null, on_epoch=_numbered(on_event, number)))
        if not games[-1].collapsed:
            break
        if on_event is not None:
            on_event({"game": number, "criterion": games[-1].refined_criterion, "note": _note(games, len(seeds))})
    best = max(games, key=lambda game: (not game.collapsed, game.refined_criterion))  # the first of equals
    return Games(best, [_account(own_seed, game, game is best) for own_seed, game in zip(seeds, games)])


def _numbered(
    on_event: Callable[[dict[str, Any]], None] | None, number: int
) -> Callable[[dict[str, Any]], None] | None:
    return None if on_event is None else lambda entry: on_event({"game": number, **entry})


def _note(games: list[GameResult], most: int) -> str:
    game = games[-1]
    what = (
        f"collapsed: after refinement the criterion is {game.refined_criterion:.3f}, not {NULL_MARGIN} above the "
        f"{game.null_criterion:.3f} of random rotations"
    )
    if len(games) < most:
        return f"game {len(games)} of at most {most} {what}; it is played again with another seed"
    if most == 1:
        return f"the game {what}"
    return f"game {most} {what}: all {most} games collapsed"


def _account(seed: int, game: GameResult, kept: bool) -> dict[str, Any]:
    return {
        "seed": seed,
        "criterion": game.criterion,
        "refined_criterion": game.refined_criterion,
        "null_criterion": game.null_criterion,
        "collapsed": game.collapsed,
        "epochs": len(game.history),
        "kept": kept,
    }
