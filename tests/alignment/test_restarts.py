"""Games that collapse are played again; games that do not, are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trelm.alignment import restarts
from trelm.alignment.adversarial import GameResult, GameSettings, play
from trelm.alignment.restarts import STRIDE, play_again

SETTINGS = GameSettings(epochs=1, samples=200, batch=16, discriminator_width=8, criterion_entries=100)


def noise(seed: int) -> Tensor:
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(seed))


def staged(monkeypatch: pytest.MonkeyPatch, refined: list[float]) -> list[tuple[int, float | None]]:
    """As if each game in turn came to this criterion, of which 0.5 and more is no collapse; (seed, null) of each."""
    asked: list[tuple[int, float | None]] = []

    def played(X: Tensor, Y: Tensor, settings: GameSettings, *, seed: int, null: float | None, **_: Any) -> GameResult:
        asked.append((seed, null))
        value = refined[len(asked) - 1]
        return GameResult(torch.full((1, 1), value), [{}], value - 0.1, value, 0.48, value < 0.5)

    monkeypatch.setattr(restarts, "play", played)
    return asked


def test_one_game_where_it_does_not_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = staged(monkeypatch, [0.7, 0.9])
    seen: list[dict[str, Any]] = []
    games = play_again(noise(1), noise(2), SETTINGS, seed=4, restarts=1, on_event=seen.append)
    assert asked == [(4, None)]
    assert seen == []
    assert games.accounts == [
        {
            "seed": 4,
            "criterion": pytest.approx(0.6),
            "refined_criterion": 0.7,
            "null_criterion": 0.48,
            "collapsed": False,
            "epochs": 1,
            "kept": True,
        }
    ]


def test_other_seeds_until_one_does_not_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = staged(monkeypatch, [0.45, 0.6, 0.9])
    games = play_again(noise(1), noise(2), SETTINGS, seed=4, restarts=2)
    assert asked == [(4, None), (4 + STRIDE, 0.48)]  # random rotations are tried once
    assert float(games.best.W) == pytest.approx(0.6)
    assert [account["kept"] for account in games.accounts] == [False, True]


def test_the_best_of_those_that_all_collapsed_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    staged(monkeypatch, [0.40, 0.49, 0.42])
    seen: list[dict[str, Any]] = []
    games = play_again(noise(1), noise(2), SETTINGS, seed=4, restarts=2, on_event=seen.append)
    assert games.best.refined_criterion == 0.49
    assert [account["collapsed"] for account in games.accounts] == [True, True, True]
    assert [account["kept"] for account in games.accounts] == [False, True, False]
    assert [event["note"] for event in seen] == [
        "game 1 of at most 3 collapsed: after refinement the criterion is 0.400, not 0.02 above the 0.480 of random "
        "rotations; it is played again with another seed",
        "game 2 of at most 3 collapsed: after refinement the criterion is 0.490, not 0.02 above the 0.480 of random "
        "rotations; it is played again with another seed",
        "game 3 collapsed: after refinement the criterion is 0.420, not 0.02 above the 0.480 of random rotations: "
        "all 3 games collapsed",
    ]


def test_without_restarts_the_note_speaks_of_one_game(monkeypatch: pytest.MonkeyPatch) -> None:
    staged(monkeypatch, [0.40])
    seen: list[dict[str, Any]] = []
    play_again(noise(1), noise(2), SETTINGS, seed=4, restarts=0, on_event=seen.append)
    assert [event["note"].split(":")[0] for event in seen] == ["the game collapsed"]


def test_real_games_on_noise_each_with_its_own_seed() -> None:
    seen: list[dict[str, Any]] = []
    games = play_again(noise(1), noise(2), SETTINGS, seed=4, restarts=1, on_event=seen.append)
    alone = play(noise(1), noise(2), SETTINGS, seed=4 + STRIDE)
    assert [(event["game"], "note" in event) for event in seen] == [(1, False), (1, True), (2, False), (2, True)]
    assert games.accounts[1]["criterion"] == alone.criterion
    assert games.accounts[0]["criterion"] != alone.criterion
    assert games.accounts[1]["null_criterion"] == games.accounts[0]["null_criterion"]
