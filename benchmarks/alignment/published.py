"""The adversarial game by the published schedule (Conneau et al. 2018), written anew from its description.

Batches of 32 rows of each side, every entry as likely; a discriminator of two layers of 2048 with LeakyReLU(.2), input
dropout .1 and label smoothing .1; 5 discriminator steps for each mapping step, in which both sides go through the
discriminator and autograd goes through all of it; the discriminator drops nothing while it is deceived. SGD, .1 for
both; the map's rate is multiplied by .98 an epoch and halved when the criterion is below its best, from the second time
on. beta .001. An epoch is 31,250 mapping steps: 1,000,000 samples at 32 a step. The paper's recipe has 50 epochs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH, WIDTH, STEPS, SMOOTHING, BETA, EPOCHS = 32, 2048, 5, 0.1, 0.001, 50
RATE, DECAY, SHRINK = 0.1, 0.98, 0.5
STEPS_AN_EPOCH = 1_000_000 // BATCH


class PublishedGame:
    """The map and the discriminator, on rows [n, d] and [m, d']."""

    def __init__(self, X: Tensor, Y: Tensor, seed: int) -> None:
        torch.manual_seed(seed)
        self.tables = (X, Y)
        self.mapping = nn.Linear(X.shape[1], Y.shape[1], bias=False)
        nn.init.eye_(self.mapping.weight)
        self.discriminator = nn.Sequential(
            nn.Dropout(0.1),
            nn.Linear(Y.shape[1], WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, 1),
            nn.Sigmoid(),
        )
        self.map_optimizer = torch.optim.SGD(self.mapping.parameters(), lr=RATE)
        self.discriminator_optimizer = torch.optim.SGD(self.discriminator.parameters(), lr=RATE)
        self.best, self.has_fallen = -math.inf, False

    @property
    def W(self) -> Tensor:  # noqa: N802
        """[d', d]."""
        return self.mapping.weight.detach()

    def step(self) -> None:
        """One mapping step, after the discriminator's."""
        self.discriminator.train()
        for _ in range(STEPS):
            with torch.no_grad():
                rows, labels = self._batch()
            loss = functional.binary_cross_entropy(self.discriminator(rows)[:, 0], labels)
            self.discriminator_optimizer.zero_grad()
            loss.backward()
            self.discriminator_optimizer.step()
        self.discriminator.eval()
        rows, labels = self._batch()
        loss = functional.binary_cross_entropy(self.discriminator(rows)[:, 0], 1 - labels)
        self.map_optimizer.zero_grad()
        loss.backward()
        self.map_optimizer.step()
        with torch.no_grad():
            W = self.mapping.weight
            W.copy_((1 + BETA) * W - BETA * W @ (W.T @ W))

    def end_epoch(self, criterion: float) -> None:
        """The map's learning rate for the next epoch."""
        (group,) = self.map_optimizer.param_groups
        group["lr"] *= DECAY
        if criterion < self.best:
            group["lr"] *= SHRINK if self.has_fallen else 1.0
            self.has_fallen = True
        self.best = max(self.best, criterion)

    def _batch(self) -> tuple[Tensor, Tensor]:
        mine, theirs = (table[torch.randint(len(table), (BATCH,))] for table in self.tables)
        labels = torch.full((2 * BATCH,), SMOOTHING)
        labels[:BATCH] = 1 - SMOOTHING
        return torch.cat([self.mapping(mine), theirs]), labels
