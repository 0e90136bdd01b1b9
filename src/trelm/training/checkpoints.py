"""Optimiser, schedule and random state without pickle; which checkpoint of a stage is whole."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trelm.errors import RunFolderError, first_line
from trelm.workspace import find_damage, read_json, read_sealed, record_files, sync, write_json, write_sealed

COMPLETE = "complete.json"
FILES = "files"
OPTIMIZER = "optimizer.safetensors"
OPTIMIZER_GROUPS = "optimizer.json"
SCHEDULER = "scheduler.json"
RANDOM = "random.safetensors"


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn what the readers of a checkpoint say of values that are none of ours into one clear line."""
    try:
        yield
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunFolderError(
            f"{folder}: expected a checkpoint of ours, found one that cannot be read ({first_line(error)}); remove the "
            "folder and run again"
        ) from None


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
    write_optimizer(folder, tensors, state["param_groups"], numbers)


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read back what `save_optimizer` wrote."""
    tensors, saved = read_optimizer(folder)
    state: dict[int, dict[str, Any]] = {}
    with _reading(folder):
        for name, value in (*tensors.items(), *saved["numbers"].items()):
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        groups = [{**group, "betas": tuple(group["betas"])} for group in saved["groups"]]
        for group in groups:
            if not all(isinstance(group[name], (int, float)) for name in ("lr", "eps", "weight_decay")):
                raise ValueError("a group of the optimiser whose settings are no numbers")
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def write_optimizer(folder: Path, tensors: dict[str, Tensor], groups: list[Any], numbers: dict[str, Any]) -> None:
    """An optimiser's state by names of the caller's."""
    save_file(tensors, folder / OPTIMIZER)
    write_json(folder / OPTIMIZER_GROUPS, {"groups": groups, "numbers": numbers})


def read_optimizer(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, the groups and the numbers that `write_optimizer` was given."""
    with _reading(folder):
        return load_file(folder / OPTIMIZER), read_json(folder / OPTIMIZER_GROUPS)


def save_scheduler(scheduler: Any, folder: Path) -> None:
    """The schedule's counters."""
    state = {name: value for name, value in scheduler.state_dict().items() if _is_json(value)}
    write_json(folder / SCHEDULER, state)


def load_scheduler(scheduler: Any, folder: Path) -> None:
    """Read back what `save_scheduler` wrote."""
    with _reading(folder):
        scheduler.load_state_dict({**scheduler.state_dict(), **read_json(folder / SCHEDULER)})


def random_state() -> dict[str, Tensor]:
    """The state of torch's generators by device: dropout is the only user of global randomness."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def save_random_states(states: Mapping[str, Sequence[Tensor]], folder: Path) -> None:
    """For each device the state of every process, by its number."""
    named = {f"{device}.{process}": one for device, each in states.items() for process, one in enumerate(each)}
    save_file(named, folder / RANDOM)


def load_random_state(folder: Path, process: int = 0) -> None:
    """Set the generators to what `save_random_states` was given; as they are for a process that there was not."""
    with _reading(folder):
        states = load_file(folder / RANDOM)
        if (cpu := states.get(f"cpu.{process}")) is not None:
            torch.set_rng_state(cpu)
        if (cuda := states.get(f"cuda.{process}")) is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(cuda)


def mark_complete(folder: Path, values: dict[str, Any]) -> None:
    """Written last: a checkpoint without it was cut off and is not used.

    It holds `values` and, under `files`, size and SHA-256 of every file of the checkpoint. The disk holds all of these
    before it is written, and the checkpoint itself when this returns.
    """
    write_sealed(folder / COMPLETE, {**values, FILES: record_files(folder, skip=lambda name: name == COMPLETE)})
    sync(folder.parent)


def remove_checkpoints(stage_folder: Path) -> None:
    """Remove every checkpoint of a stage; one that is cut off in its removal does not look whole.

    With them go the weights of its best evaluation, see `trelm.training.selection`.
    """
    for folder in stage_folder.glob("checkpoint-*"):
        _remove(folder)
    for path in stage_folder.glob("selected-*.safetensors"):
        path.unlink()


def keep_newest(stage_folder: Path, count: int) -> None:
    """Remove all but the newest checkpoints."""
    folders = sorted(stage_folder.glob("checkpoint-*"), key=_updates)
    for folder in folders[:-count]:
        _remove(folder)


def read_values(checkpoint: Path) -> dict[str, Any]:
    """What `mark_complete` was given."""
    values: dict[str, Any] = read_sealed(checkpoint / COMPLETE)
    return values


def last_complete(stage_folder: Path, warn: Callable[[str], None] | None = None) -> Path | None:
    """The newest whole checkpoint of a stage; those cut off in writing are removed, and damaged ones that are newer.

    Args:
        warn: told of each damaged one in a line; the log where None.
    """
    marked = []
    for folder in stage_folder.glob("checkpoint-*"):
        if (folder / COMPLETE).exists():
            marked.append(folder)
        else:
            shutil.rmtree(folder)
    marked.sort(key=_updates)
    damaged: list[str] = []
    while marked and (problem := damage(marked[-1])) is not None:
        damaged.append(f"{marked[-1] / problem[0]}: {problem[1]}")
        _remove(marked.pop())
    whole = marked[-1] if marked else None
    for line in damaged:
        instead = "training starts from its beginning" if whole is None else f"training goes on from {whole.name}"
        (warn or logging.getLogger(__name__).warning)(f"{line}; the checkpoint is damaged and removed, {instead}")
    return whole


def damage(checkpoint: Path) -> tuple[str, str] | None:
    """The first file of a checkpoint that is not what was written, and how it differs; None for a whole one."""
    try:
        records = read_sealed(checkpoint / COMPLETE)[FILES]
    except (RunFolderError, KeyError):
        return COMPLETE, "the file is damaged"
    return find_damage(checkpoint, records, trust_times=False)


def _updates(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() and len(number) < 20 else -1  # not ours: older than any


def _remove(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).unlink(missing_ok=True)  # first: one cut off in its removal does not look whole
    shutil.rmtree(checkpoint)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
