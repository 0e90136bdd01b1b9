"""The loss of a batch: the mean of its parts' mean cross-entropies, weighted by their shares of the examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def batch_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Scalar loss; each part is one forward pass of its own shape.

    Args:
        batch: `parts`, a list of model inputs with labels; `weights`, one a part, summing to 1.
    """
    losses = [model(**part).loss * weight for part, weight in zip(batch["parts"], batch["weights"])]
    return torch.stack(losses).sum()
