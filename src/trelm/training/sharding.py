"""A model whose weights, gradients and optimiser state are split over the processes: PyTorch's `fully_shard` (FSDP2).

Trainer's own way to it goes through accelerate, which shards on GPUs only; a model that comes sharded already it leaves
as it is, so this works with every backend that there is, `gloo` among them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
_PART = "|"  # between a parameter's name and a quantity's: no name has it


def shard(module: nn.Module, device: torch.device) -> nn.Module:
    """Split a module in place over all processes: every layer of its stacks by itself, then all the rest."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    if device.type == "cuda":
        module.to(device)
    for stack in [part for part in module.modules() if isinstance(part, nn.ModuleList)]:
        for layer in stack:
            if sum(1 for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    # Trainer's own mark of a model that owns its placement and the reduction of its gradients
    module.is_distributed_loading_by_transformers = True  # type: ignore[assignment]
    return module


def is_sharded(module: nn.Module) -> bool:
    """Whether a module is split over processes."""
    return any(isinstance(weight, DTensor) for weight in module.parameters())


def full_weights(module: nn.Module) -> dict[str, Tensor]:
    """All weights, whole, in the first process; the others, which must call this too, get nothing."""
    weights: Any = get_model_state_dict(module, options=_FULL)
    return dict(weights)


def set_full_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Take each process's part of whole weights, which all of them give."""
    set_model_state_dict(module, dict(weights), options=_FULL)


def full_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`tensors` and `groups` of the whole optimiser in the first process; the others must call this too."""
    state: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=_FULL)
    tensors = {
        f"{name}{_PART}{key}": torch.as_tensor(value)
        for name, values in state.get("state", {}).items()
        for key, value in values.items()
    }
    return {"tensors": tensors, "groups": state.get("param_groups", [])}


def is_named(tensors: dict[str, Tensor]) -> bool:
    """Whether an optimiser's state goes by the parameters' names, as that of a sharded model, and not by numbers."""
    return any(_PART in name for name in tensors)


def named(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """A state that goes by numbers (`3.exp_avg`) by the names of the parameters of the same optimiser of `module`."""
    known = {id(weight): name for name, weight in module.named_parameters()}
    names = [known[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
    renamed = {}
    for place, tensor in tensors.items():
        number, _, key = place.partition(".")
        renamed[f"{names[int(number)]}{_PART}{key}"] = tensor
    return renamed, [{**group, "params": [names[int(number)] for number in group["params"]]} for group in groups]


def set_full_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Take each process's part of a whole optimiser, which all of them give."""
    state: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        weight, _, key = name.rpartition(_PART)
        state.setdefault(weight, {})[key] = tensor
    restored: Any = {"state": state, "param_groups": [{**group, "betas": tuple(group["betas"])} for group in groups]}
    set_optimizer_state_dict(module, optimizer, restored, options=_FULL)
