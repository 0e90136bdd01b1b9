"""Checkpoints: what is read back is what was written, to the last bit, and half of one is none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from trelm.training import checkpoints
from trelm.workspace import read_json


class Tiny(nn.Module):
    """Two layers, and one that gets no gradient and so has no state in the optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused, self.second = nn.Linear(3, 4), nn.Linear(2, 2), nn.Linear(4, 2)

    def forward(self, values: Tensor) -> Tensor:
        output: Tensor = self.second(torch.tanh(self.first(values)))
        return output


def tiny() -> tuple[Tiny, torch.optim.AdamW]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Tiny()
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=1 / 3, eps=1e-6, betas=(0.9, 0.999))


def step(model: Tiny, optimizer: torch.optim.Optimizer, steps: int) -> None:
    values = torch.linspace(-1, 1, 15).reshape(5, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(values).square().mean().backward()
        optimizer.step()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and tensor of a nested state, with the way to it; kinds of containers are part of the way."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{path}/{key!r}")
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            yield from leaves(entry, f"{path}/{type(value).__name__}[{number}]")
    else:
        yield path, value


def assert_same_state(first: Any, second: Any) -> None:
    one, other = dict(leaves(first)), dict(leaves(second))
    assert one.keys() == other.keys()
    for path, value in one.items():
        assert type(value) is type(other[path]), path
        if isinstance(value, Tensor):
            assert value.dtype == other[path].dtype, path
            assert torch.equal(value, other[path]), path
        else:
            assert value == other[path], path


def test_the_optimiser_comes_back_to_the_last_bit_and_goes_on_alike(tmp_path: Path) -> None:
    model, optimizer = tiny()
    step(model, optimizer, 3)
    checkpoints.save_optimizer(optimizer, tmp_path)
    other_model, other = tiny()
    other_model.load_state_dict(model.state_dict())
    checkpoints.load_optimizer(other, tmp_path)
    assert_same_state(optimizer.state_dict(), other.state_dict())
    assert len(optimizer.state_dict()["state"]) == 4, "the unused layer has no state"
    step(model, optimizer, 3)
    step(other_model, other, 3)
    assert_same_state(dict(model.state_dict()), dict(other_model.state_dict()))
    assert_same_state(optimizer.state_dict(), other.state_dict())


def test_an_optimiser_that_has_not_stepped_comes_back(tmp_path: Path) -> None:
    _, optimizer = tiny()
    checkpoints.save_optimizer(optimizer, tmp_path)
    _, other = tiny()
    checkpoints.load_optimizer(other, tmp_path)
    assert_same_state(optimizer.state_dict(), other.state_dict())


def test_state_that_is_no_tensor_comes_back(tmp_path: Path) -> None:
    _, optimizer = tiny()
    state = optimizer.state_dict()
    state["state"] = {0: {"step": 7, "exp_avg": torch.full((4, 3), 0.1)}}
    optimizer.load_state_dict(state)
    checkpoints.save_optimizer(optimizer, tmp_path)
    _, other = tiny()
    checkpoints.load_optimizer(other, tmp_path)
    assert_same_state(optimizer.state_dict(), other.state_dict())


@pytest.mark.parametrize("kind", ["linear", "constant"])
def test_the_schedule_comes_back_and_goes_on_alike(tmp_path: Path, kind: str) -> None:
    def schedule() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        _, optimizer = tiny()
        if kind == "linear":
            return optimizer, get_linear_schedule_with_warmup(optimizer, 2, 9)
        return optimizer, get_constant_schedule_with_warmup(optimizer, 5)

    def advance(optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LambdaLR) -> list[float]:
        optimizer.step()
        scheduler.step()
        return [float(rate) for rate in scheduler.get_last_lr()]

    first, scheduler = schedule()
    for _ in range(3):
        advance(first, scheduler)
    checkpoints.save_scheduler(scheduler, tmp_path)
    checkpoints.save_optimizer(first, tmp_path)
    second, other = schedule()
    checkpoints.load_optimizer(second, tmp_path)
    checkpoints.load_scheduler(other, tmp_path)
    assert_same_state(scheduler.state_dict(), other.state_dict())
    assert [advance(first, scheduler) for _ in range(5)] == [advance(second, other) for _ in range(5)]


def test_what_json_cannot_hold_stays_as_the_new_schedule_has_it(tmp_path: Path) -> None:
    class Schedule:
        def __init__(self, last_epoch: int, function: object) -> None:
            self.state = {"last_epoch": last_epoch, "function": function}

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    checkpoints.save_scheduler(Schedule(4, object()), tmp_path)
    mine = object()
    other = Schedule(0, mine)
    checkpoints.load_scheduler(other, tmp_path)
    assert other.state == {"last_epoch": 4, "function": mine}


def test_the_random_state_comes_back(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        torch.randn(7)  # a state in the middle of a pair of normal numbers
        checkpoints.save_random_states({name: [state] for name, state in checkpoints.random_state().items()}, tmp_path)
        expected = torch.randn(50), torch.rand(9)
        torch.manual_seed(12)
        checkpoints.load_random_state(tmp_path)
        assert torch.equal(torch.randn(50), expected[0])
        assert torch.equal(torch.rand(9), expected[1])


def test_nothing_written_is_a_pickle(tmp_path: Path) -> None:
    model, optimizer = tiny()
    step(model, optimizer, 1)
    checkpoints.save_optimizer(optimizer, tmp_path)
    checkpoints.save_scheduler(get_linear_schedule_with_warmup(optimizer, 2, 9), tmp_path)
    checkpoints.save_random_states({name: [state] for name, state in checkpoints.random_state().items()}, tmp_path)
    checkpoints.mark_complete(tmp_path, {"tokens": 1})
    assert {path.name for path in tmp_path.iterdir()} == {
        "optimizer.safetensors",
        "optimizer.json",
        "scheduler.json",
        "random.safetensors",
        "complete.json",
    }
    for path in tmp_path.glob("*.json"):
        assert isinstance(read_json(path), dict)
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            assert tensors.keys()


def checkpoint(folder: Path, *, whole: bool) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if whole:
        checkpoints.mark_complete(folder, {"tokens": 3})
    return folder


def test_the_last_whole_checkpoint_is_found_by_number_and_the_rest_removed(tmp_path: Path) -> None:
    older, newer = (checkpoint(tmp_path / f"checkpoint-{number}", whole=True) for number in (9, 10))
    cut_off = [checkpoint(tmp_path / f"checkpoint-{number}", whole=False) for number in (2, 11)]
    other = checkpoint(tmp_path / "model", whole=False)
    assert checkpoints.last_complete(tmp_path) == newer
    assert older.exists()
    assert other.exists()
    assert not any(folder.exists() for folder in cut_off)
    assert read_json(newer / checkpoints.COMPLETE)["tokens"] == 3


def test_no_whole_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoints.last_complete(tmp_path / "nowhere") is None
    checkpoint(tmp_path / "checkpoint-1", whole=False)
    assert checkpoints.last_complete(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


# Damage


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name", "words"),
    [
        (cut_off, "model.safetensors", "model.safetensors: expected 7 bytes, found 4"),
        (
            flip_a_byte,
            "model.safetensors",
            f"model.safetensors: expected SHA-256 {hashlib.sha256(b'weights').hexdigest()[:12]}, "
            f"found {hashlib.sha256(b'veights').hexdigest()[:12]}",
        ),
        (Path.unlink, "model.safetensors", "model.safetensors: the file is missing"),
        (cut_off, "complete.json", "complete.json: the file is damaged"),
        (flip_a_byte, "complete.json", "complete.json: the file is damaged"),
        (lambda path: path.write_text('{"tokens": 3}'), "complete.json", "complete.json: the file is damaged"),
        (
            lambda path: path.write_text(path.read_text().replace('"tokens": 3', '"tokens": 4')),
            "complete.json",
            "complete.json: the file is damaged",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, damage: Callable[[Path], object], name: str, words: str
) -> None:
    older, newer = (checkpoint(tmp_path / f"checkpoint-{number}", whole=True) for number in (9, 10))
    damage(newer / name)
    told: list[str] = []
    assert checkpoints.last_complete(tmp_path, told.append) == older
    assert told == [f"{newer}/{words}; the checkpoint is damaged and removed, training goes on from checkpoint-9"]
    assert not newer.exists()
    assert checkpoints.last_complete(tmp_path, told.append) == older
    assert len(told) == 1


def test_where_all_checkpoints_are_damaged_each_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        flip_a_byte(checkpoint(tmp_path / f"checkpoint-{number}", whole=True) / "model.safetensors")
    assert checkpoints.last_complete(tmp_path) is None
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(": ")[0] for line in told] == [
        str(tmp_path / f"checkpoint-{number}" / "model.safetensors") for number in (2, 1)
    ]
    assert all(line.endswith("removed, training starts from its beginning") for line in told)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_holds_size_and_digest_of_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    (folder / "below").mkdir(parents=True)
    files = {"a.safetensors": b"abc", "below/b.json": b"", "z": bytes(3_000_000)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    checkpoints.mark_complete(folder, {"tokens": 1})
    records = read_json(folder / checkpoints.COMPLETE)["files"]
    assert {name: (record["bytes"], record["sha256"]) for name, record in records.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }


def test_all_of_a_checkpoint_is_on_the_disk_before_it_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint-1"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "weights").write_bytes(b"w")
    synced: list[str] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    checkpoints.mark_complete(folder, {})
    marked = next(number for number, path in enumerate(synced) if "complete.json" in path)
    assert {str(folder / "below" / "weights"), str(folder / "below"), str(folder)} <= set(synced[:marked])
    assert synced[marked + 1 :] == [str(folder), str(tmp_path)]
