"""What processes that compute together tell each other, as tensors: no object is pickled."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

_ENCODING = "utf-8"


def is_joint() -> bool:
    """Whether several processes train together here."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def broadcast_text(text: str, device: torch.device) -> str:
    """The first process's text, in all of them."""
    size = torch.tensor([len(text.encode(_ENCODING))], device=device)
    distributed.broadcast(size, src=0)
    content = _bytes(text, int(size), device)
    distributed.broadcast(content, src=0)
    return _text(content)


def gather_texts(text: str, device: torch.device) -> list[str]:
    """Every process's text, by its number, in all of them."""
    own = torch.tensor([len(text.encode(_ENCODING))], device=device)
    sizes = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, own)
    longest = max(1, *(int(size) for size in sizes))
    contents = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in sizes]
    distributed.all_gather(contents, _bytes(text, longest, device))
    return [_text(content[: int(size)]) for content, size in zip(contents, sizes)]


def gather_tensors(tensor: Tensor, device: torch.device) -> list[Tensor]:
    """Every process's tensor, of one shape, by its number, in all of them."""
    own = tensor.to(device)
    everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, own)
    return [one.to(tensor.device) for one in everyone]


def agreed(decision: bool, device: torch.device) -> bool:
    """What the first process has decided."""
    value = torch.tensor([int(decision)], device=device)
    distributed.broadcast(value, src=0)
    return bool(int(value))


def summed(values: list[int], device: torch.device) -> list[int]:
    """The sums over all processes."""
    total = torch.tensor(values, dtype=torch.int64, device=device)
    distributed.all_reduce(total)
    return [int(value) for value in total]


def _bytes(text: str, size: int, device: torch.device) -> Tensor:
    """The text as bytes, cut or filled to a size."""
    content = text.encode(_ENCODING)[:size].ljust(size, b"\0")
    return torch.tensor(list(content), dtype=torch.uint8, device=device)


def _text(content: Tensor) -> str:
    return bytes(content.tolist()).decode(_ENCODING)
