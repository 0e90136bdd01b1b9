"""What the device of a training does well, and what is set so that it does it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trelm.training.allocator import give_memory_back, keep_freed_memory

LONGEST_UNFUSED = 256
"""Tokens of the longest sequences for which the products of attention are kept, in bfloat16 on a CPU."""


def has_fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 arithmetic is in the hardware."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN also counts AVX-512 without bfloat16 instructions, where it computes in float32 and converts
    emulated = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and not emulated


@contextlib.contextmanager
def prepared(device: str) -> Iterator[None]:
    """Settings of the process that change no result of a training and much of its speed."""
    if device == "cuda":
        # cuDNN makes a plan for each shape of a batch, which takes longer than the batch; others need none
        torch.backends.cuda.enable_cudnn_sdp(False)
        yield
        return
    kept = keep_freed_memory()
    try:
        yield
    finally:
        if kept:
            give_memory_back()


def quick_attention(device: str, is_bfloat16: bool, length: int) -> contextlib.AbstractContextManager[None]:
    """Keep bfloat16 on a CPU off torch's fused attention, whose backward pass is many times slower there.

    (4,096 tokens in sentences of 24, 12 heads of 32: six times. Long sequences would need too much memory without it.)

    Args:
        length: tokens of the longest sequence of the batch.
    """
    if is_bfloat16 and device == "cpu" and length <= LONGEST_UNFUSED:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def compile_layers(module: nn.Module) -> None:
    """Have the layers of its stacks, and others of their kinds, compiled at their first call, for batches of any shape.

    Layers alone: they are alike, so that one compilation serves all of them, and names of parameters stay.
    """
    kinds = {type(layer) for stack in module.modules() if isinstance(stack, nn.ModuleList) for layer in stack}
    for layer in module.modules():
        if type(layer) in kinds:
            layer.compile(dynamic=True)
