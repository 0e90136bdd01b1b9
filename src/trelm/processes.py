"""Which of the processes of a run this is, as `torchrun` tells it: the first one writes, the others compute with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trelm.errors import ConfigError

POLLING_SECONDS = 0.5
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def rank() -> int:
    """The number of this process, from 0; 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def require_one(command: str) -> None:
    """For what several processes cannot do together.

    Raises:
        ConfigError: there are several.
    """
    if count() > 1:
        raise ConfigError(
            f"trelm {command}: expected one process, found {count()}; only transfer runs in several: start this one "
            "without torchrun"
        )


@contextmanager
def alone() -> Iterator[None]:
    """What trains inside trains in this process alone: the libraries see a launch of one process."""
    hidden = {name: os.environ.pop(name) for name in _LAUNCHED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def wait_until(done: Callable[[], bool]) -> None:
    """Look again and again; where the first process fails, the launcher ends the waiting ones.

    A file that goes while it is looked at is being written anew: not done.
    """
    while True:
        try:
            if done():
                return
        except FileNotFoundError:
            pass
        time.sleep(POLLING_SECONDS)
