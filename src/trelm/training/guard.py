"""What stops a training that has gone wrong: losses and gradients that are no numbers, batches that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from trelm.errors import TrainingError

NEVER = torch.iinfo(torch.int64).max
_ANOTHER_PROCESS = ("gloo", "nccl", "connection closed", "connection reset", "socket", "distbackend", "peer")


class FiniteGuard:
    """Remembers the first update whose loss or gradient is no number, without making a GPU wait for each of them.

    Args:
        device: where losses are. folder: of the training, for the message. describe: what batch `i` was made of.
    """

    def __init__(self, device: torch.device, folder: Path, describe: Callable[[int], str]) -> None:
        self._first = torch.full((), NEVER, dtype=torch.int64, device=device)
        self._waits = device.type == "cuda"
        self._folder = folder
        self._describe = describe

    def see(self, value: Tensor, update: int) -> None:
        """Look at a loss or a norm of update number `update` (from 0); on a CPU, `check` at once."""
        this = torch.full_like(self._first, update)
        bad = torch.where(torch.isfinite(value.detach()), torch.full_like(self._first, NEVER), this)
        self._first = torch.minimum(self._first, bad)
        if not self._waits:
            self.check()

    def check(self) -> None:
        """To be called before anything is kept.

        Raises:
            TrainingError: one of the updates seen had a loss or a gradient that is no finite number.
        """
        first = int(self._first)
        if first != NEVER:
            raise TrainingError(
                f"{self._folder}: expected a finite loss and gradient, found none in update {first + 1} "
                f"({self._describe(first)}); the last checkpoint before it is kept: look at that text, or lower the "
                "learning rate of the stage in a new run"
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))


def is_lost_process(error: BaseException) -> bool:
    """Whether an exception of a collective operation says that another process is gone."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _ANOTHER_PROCESS)
