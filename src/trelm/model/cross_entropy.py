"""The cross-entropy of an output layer without its logits: they are made, used and dropped chunk by chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_BYTES = {"cpu": 1 << 26, "cuda": 1 << 29}
"""Bytes of the logits of a chunk, in float32: on a CPU they should stay near the cores, on a GPU fill it."""
OTHER_CHUNK_BYTES = 1 << 28


def summed_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """The sum of the cross-entropies of `features weight' + bias`, a scalar in float32; 0 without labels.

    Loss and gradients are those of the plain computation but for the order of sums. Gradients are computed together
    with the loss, in the one pass over the logits, and scaled in the backward pass: three matrix products in all, as
    many as the plain way, and no (N, V) kept. Under autocast the products are in its type, softmax and sums in float32.

    Args:
        features: (N, e). weight: (V, e). bias: (V,) or None. labels: (N,), each an entry of the V.
    """
    gradients = torch.is_grad_enabled()
    result: Tensor = _SummedCrossEntropy.apply(features, weight, bias, labels, gradients)  # type: ignore[no-untyped-call]
    return result


class _SummedCrossEntropy(torch.autograd.Function):
    """See `summed_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, gradients: bool
    ) -> Tensor:
        wanted = [gradients and needed for needed in ctx.needs_input_grad[:3]]
        kind = _product_type(features)  # asked for before autocast is turned off for what follows
        with torch.autocast(features.device.type, enabled=False):
            loss, found = _in_chunks(features, weight, bias, labels, wanted, kind)
        ctx.save_for_backward(*found)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        # in place: torch refuses a second backward pass through tensors that have changed since they were saved
        scaled = [None if gradient is None else gradient.mul_(outer[0]) for gradient in ctx.saved_tensors]
        return (*scaled, None, None)


def _product_type(features: Tensor) -> torch.dtype:
    device = features.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype


def _in_chunks(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, wanted: list[bool], kind: torch.dtype
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, and the gradients of features, weight and bias, None where not wanted.

    Args:
        wanted: which of the three gradients. kind: the type of the matrix products.
    """
    of_features = torch.empty_like(features) if wanted[0] else None
    of_weight = torch.zeros_like(weight) if wanted[1] else None
    of_bias = None if bias is None or not wanted[2] else torch.zeros_like(bias)
    table, offset = weight.to(kind), None if bias is None else bias.to(kind)
    loss = torch.zeros((), dtype=torch.float32, device=features.device)
    rows = max(1, CHUNK_BYTES.get(features.device.type, OTHER_CHUNK_BYTES) // (4 * len(weight)))
    for start in range(0, len(features), rows):
        chosen = slice(start, start + rows)
        inputs, targets = features[chosen].to(kind), labels[chosen].unsqueeze(1)
        logits = functional.linear(inputs, table, offset)
        logs = torch.log_softmax(logits, dim=1, dtype=torch.float32)
        loss -= logs.gather(1, targets).sum()
        if not any(wanted):
            continue
        errors = logs.exp_().scatter_add_(1, targets, torch.full_like(targets, -1, dtype=logs.dtype))
        if of_bias is not None:
            of_bias += errors.sum(0)
        errors = errors.to(kind)
        if of_features is not None:
            of_features[chosen] = errors @ table
        if of_weight is not None:
            _add_product(of_weight, errors.t(), inputs)
    return loss, [of_features, of_weight, of_bias]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left right`, in one operation where all three have one type."""
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, out=total)
    else:
        total += left @ right
