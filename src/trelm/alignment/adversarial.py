"""The adversarial game: a map and a discriminator that tries to tell mapped rows from real ones (METHOD section 3).

Conneau et al. 2018, section 2.1. Two things make a step cheap and change no expected gradient: the mapping step
leaves out the rows of `Y`, which send no gradient to `W`, and the discriminator's own gradients in that step. The
discriminator drops inputs while it learns and not while it is deceived, as in the published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from trelm.alignment.criterion import beats_null, best_of, mean_cosine_criterion, null_criterion, refine
from trelm.alignment.procrustes import nearest_orthogonal, orthogonalise
from trelm.errors import ConfigError

LEAK = 0.2
HIDDEN_LAYERS = 2
GRADIENT_CLIPPING = 1.0
# Steps of the mapping towards the orthogonal group are taken together, which is the same to first order and cheaper, as
# long as their beta in all stays small: a great one drives a map that is far off away instead.
MOST_TOGETHER, GREATEST_BETA = 8, 0.01
NULL_ROUNDS = 3


@dataclass(frozen=True)
class GameSettings:
    """How the game is played; `recipes/paper.yaml` has the published values, `benchmarks/alignment` why these."""

    epochs: int = 5
    samples: int = 100_000  # rows of X that the mapping steps of an epoch see
    batch: int = 32  # rows of X in a step, and as many of Y
    discriminator_width: int = 256
    discriminator_steps: int = 2
    dropout: float = 0.1
    smoothing: float = 0.1
    learning_rate: float = 0.3
    decay: float = 0.98
    beta: float = 0.001
    patience: int = 2
    csls_neighbours: int = 10
    criterion_entries: int = 10_000


@dataclass(frozen=True)
class GameResult:
    """The best map of a game.

    Attributes:
        W: [d', d], (semi-)orthogonal, of the best epoch by the criterion.
        history: one mapping an epoch: epoch, criterion, discriminator_loss, discriminator_accuracy, learning_rate.
        criterion: that of `W`.
        refined_criterion: after `NULL_ROUNDS` rounds of refinement.
        null_criterion: what random rotations reach by the same rounds.
        collapsed: `refined_criterion` does not beat `null_criterion`: the game found nothing. Its own criterion does
            not tell: matched moments raise it though the clouds do not lie on each other.
    """

    W: Tensor
    history: list[dict[str, Any]]
    criterion: float
    refined_criterion: float
    null_criterion: float
    collapsed: bool


class Discriminator:
    """The logit that a row came from `X`: input dropout, hidden layers with LeakyReLU, one output."""

    def __init__(self, d: int, width: int, dropout: float, generator: Generator) -> None:
        sizes = [d] + [width] * HIDDEN_LAYERS + [1]
        self.dropout = dropout
        self.weights = [_uniform((out, into), into, generator) for into, out in zip(sizes, sizes[1:])]
        self.biases = [_uniform((out,), into, generator) for into, out in zip(sizes, sizes[1:])]

    def train(self, learns: bool) -> list[Tensor]:
        """The parameters, which take gradients from now on, or do not."""
        return [parameter.requires_grad_(learns) for parameter in self.weights + self.biases]

    def logits(self, rows: Tensor, generator: Generator | None) -> Tensor:
        """[b] for `rows` [b, d]; the dropout is drawn from `generator`, and there is none without it."""
        hidden = rows
        if generator is not None:
            hidden = rows * (torch.rand(rows.shape, generator=generator) >= self.dropout) / (1 - self.dropout)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            hidden = functional.leaky_relu(functional.linear(hidden, weight, bias), LEAK)
        return functional.linear(hidden, self.weights[-1], self.biases[-1])[:, 0]


class Game:
    """The state of one game: the map, the discriminator, the draws."""

    def __init__(self, X: Tensor, Y: Tensor, settings: GameSettings, seed: int) -> None:
        self.X, self.Y, self.settings = X, Y, settings
        self.generator = Generator().manual_seed(seed)
        width = Y.shape[1]
        self.W = torch.eye(width, X.shape[1])  # the identity, padded or cut where the widths differ
        self.mapping_steps = 0
        self.together = max(1, min(MOST_TOGETHER, int(GREATEST_BETA / max(settings.beta, 1e-9))))
        self.discriminator = Discriminator(width, settings.discriminator_width, settings.dropout, self.generator)

    def epoch(self, learning_rate: float) -> dict[str, float]:
        """One epoch at this learning rate of the map; the discriminator's mean loss and accuracy."""
        settings = self.settings
        steps = math.ceil(settings.samples / settings.batch)
        loss = accuracy = 0.0
        for _ in range(steps):
            for _ in range(settings.discriminator_steps):
                step_loss, step_accuracy = self.discriminator_step()
                loss, accuracy = loss + step_loss, accuracy + step_accuracy
            self.mapping_step(learning_rate)
        played = steps * settings.discriminator_steps
        return {"discriminator_loss": loss / played, "discriminator_accuracy": accuracy / played}

    def discriminator_step(self) -> tuple[float, float]:
        """Teach the discriminator on one batch; its loss and accuracy there."""
        settings, batch = self.settings, self.settings.batch
        rows = torch.cat([self._draw(self.X) @ self.W.T, self._draw(self.Y)])
        labels = torch.full((2 * batch,), settings.smoothing)
        labels[:batch] = 1 - settings.smoothing
        parameters = self.discriminator.train(True)
        logits = self.discriminator.logits(rows, self.generator)
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        gradients = torch.autograd.grad(loss, parameters)
        _descend(parameters, gradients, settings.learning_rate)
        correct = (logits.detach() > 0) == (labels > 0.5)
        return float(loss.detach()), float(correct.float().mean())

    def mapping_step(self, learning_rate: float) -> None:
        """Move the map so that mapped rows look like rows of `Y`, then towards the orthogonal group."""
        self.discriminator.train(False)
        W = self.W.requires_grad_(True)
        logits = self.discriminator.logits(self._draw(self.X) @ W.T, None)
        labels = torch.full_like(logits, self.settings.smoothing)
        # Half: the published loss is a mean over both sides, of which the side of Y is constant in W.
        loss = 0.5 * functional.binary_cross_entropy_with_logits(logits, labels)
        (gradient,) = torch.autograd.grad(loss, W)
        with torch.no_grad():
            self.W = W - learning_rate * gradient
            self.mapping_steps += 1
            if self.mapping_steps % self.together == 0:
                self.W = orthogonalise(self.W, self.together * self.settings.beta)

    def _draw(self, table: Tensor) -> Tensor:
        return table[torch.randint(len(table), (self.settings.batch,), generator=self.generator)]


def play(
    X: Tensor,
    Y: Tensor,
    settings: GameSettings,
    *,
    seed: int,
    null: float | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> GameResult:
    """Learn a map without labels; the best epoch by the criterion is kept.

    The map's learning rate decays every epoch, and is halved when the criterion falls below the epoch before.
    The game ends after `epochs`, or when `patience` epochs in a row have not risen above the best.

    Args:
        X: [n, d], Y: [m, d'], float32, sorted by falling frequency (only the criterion uses the order:
            every row is as likely to be drawn).
        seed: of the discriminator's weights, the draws, the dropout and the null maps.
        null: the `null_criterion` of an earlier game on the same tables, so that it is not computed again.
        on_epoch: called with each entry of the history.

    Raises:
        ConfigError: the map grew without bound.
    """
    entries, k = settings.criterion_entries, settings.csls_neighbours
    game = Game(X, Y, settings, seed)
    best, best_criterion, previous, waited = game.W, -math.inf, -math.inf, 0
    history: list[dict[str, Any]] = []
    rate = settings.learning_rate
    for epoch in range(1, settings.epochs + 1):
        measured = game.epoch(rate)
        if not bool(game.W.isfinite().all()):
            raise ConfigError(
                "alignment.learning_rate: expected a rate at which the adversarial game holds, "
                f"found {settings.learning_rate:g}, at which its map grew without bound in epoch {epoch}; lower it"
            )
        # Of the orthogonal part: directions that shrink raise the criterion and spoil the map.
        W = nearest_orthogonal(game.W)
        criterion = mean_cosine_criterion(X[:entries] @ W.T, Y, entries=entries, k=k)
        history.append({"epoch": epoch, "criterion": criterion, "learning_rate": rate, **measured})
        if on_epoch is not None:
            on_epoch(history[-1])
        waited = 0 if criterion > best_criterion else waited + 1
        if criterion > best_criterion:
            best, best_criterion = W, criterion
        if waited >= settings.patience:
            break
        rate *= settings.decay * (0.5 if criterion < previous else 1.0)
        previous = criterion
    # Set beside random rotations after the same refinement.
    refined = best_of(refine(X, Y, best, rounds=NULL_ROUNDS, entries=entries, k=k)[1])
    if null is None:
        null = null_criterion(X, Y, rounds=NULL_ROUNDS, entries=entries, k=k, criterion_entries=entries, seed=seed)
    return GameResult(best, history, best_criterion, refined, null, not beats_null(refined, null))


def _uniform(shape: tuple[int, ...], fan_in: int, generator: Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)


def _descend(parameters: list[Tensor], gradients: tuple[Tensor, ...], learning_rate: float) -> None:
    """One step of plain gradient descent, the gradient's norm clipped."""
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    scale = learning_rate * float((GRADIENT_CLIPPING / (norm + 1e-12)).clamp(max=1.0))
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            parameter.sub_(gradient, alpha=scale)
