"""Optimiser, schedule and random state without pickle; which checkpoint of a stage is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trelm.workspace import read_json, write_json

COMPLETE = "complete.json"
OPTIMIZER = "optimizer.safetensors"
OPTIMIZER_GROUPS = "optimizer.json"
SCHEDULER = "scheduler.json"
RANDOM = "random.safetensors"


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """State tensors as safetensors, everything else as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                numbers[f"{index}.{name}"] = value
    save_file(tensors, folder / OPTIMIZER)
    write_json(folder / OPTIMIZER_GROUPS, {"groups": state["param_groups"], "numbers": numbers})


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read back what `save_optimizer` wrote."""
    saved = read_json(folder / OPTIMIZER_GROUPS)
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*load_file(folder / OPTIMIZER).items(), *saved["numbers"].items()):
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = [{**group, "betas": tuple(group["betas"])} for group in saved["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_scheduler(scheduler: Any, folder: Path) -> None:
    """The schedule's counters."""
    state = {name: value for name, value in scheduler.state_dict().items() if _is_json(value)}
    write_json(folder / SCHEDULER, state)


def load_scheduler(scheduler: Any, folder: Path) -> None:
    """Read back what `save_scheduler` wrote."""
    scheduler.load_state_dict({**scheduler.state_dict(), **read_json(folder / SCHEDULER)})


def save_random_state(folder: Path) -> None:
    """The state of torch's generators: dropout is the only user of global randomness."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    save_file(states, folder / RANDOM)


def load_random_state(folder: Path) -> None:
    """Read back what `save_random_state` wrote."""
    states = load_file(folder / RANDOM)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def mark_complete(folder: Path, values: dict[str, Any]) -> None:
    """Written last: a checkpoint without it was cut off and is not used."""
    write_json(folder / COMPLETE, values)


def remove_checkpoints(stage_folder: Path) -> None:
    """Remove every checkpoint of a stage; one that is cut off in its removal does not look whole."""
    for folder in stage_folder.glob("checkpoint-*"):
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder)


def last_complete(stage_folder: Path) -> Path | None:
    """The newest whole checkpoint of a stage; those cut off in writing are removed."""
    whole = []
    for folder in stage_folder.glob("checkpoint-*"):
        if (folder / COMPLETE).exists():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
