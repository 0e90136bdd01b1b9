"""What the benchmarks of speed share: the machine, its matrix products, models, and text that is made up."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import BertConfig, PreTrainedTokenizerBase

from trelm.corpus.ragged import Ragged
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.source import scratch_model, special_ids, trelm_config
from trelm.stages import START, Stage, StageData
from trelm.training.batches import Vocabulary
from trelm.training.device import has_fast_bfloat16
from trelm.training.trainer import LoopSettings

MLM = Stage("mlm", frozenset({"lower", "upper", "shared"}), START, (("target-text", 1.0),))
CDLM = Stage("cdlm", frozenset({"upper", "shared"}), START, (("source-to-target", 1.0),))
MAX_LENGTH = 128
MASK_RATE = 0.15
SECONDS_OF_A_PRODUCT = 0.3


def machine(device: str) -> dict[str, Any]:
    """What it ran on."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "accelerator": torch.cuda.get_device_name(0) if device == "cuda" else None,
        "bfloat16_in_hardware": has_fast_bfloat16(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "allocator": {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "LD_PRELOAD"))},
    }


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def product_rate(device: str, dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    """FLOP/s of one matrix product, (rows, inner) by (inner, columns)."""
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(columns, inner, device=device, dtype=dtype)
    torch.nn.functional.linear(left, right)
    wait_for(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS_OF_A_PRODUCT:
        torch.nn.functional.linear(left, right)
        wait_for(device)
        count += 1
    return 2.0 * rows * inner * columns * count / (time.perf_counter() - started)


def matrix_rate(device: str, dtype: torch.dtype, tokens: int, hidden: int, intermediate: int) -> dict[str, float]:
    """FLOP/s of the products of a layer, each by itself, and of all of them together as a layer has them."""
    shapes = {"square": (hidden, hidden), "widening": (hidden, intermediate), "narrowing": (intermediate, hidden)}
    rates = {name: product_rate(device, dtype, tokens, *shape) for name, shape in shapes.items()}
    work = {name: inner * outer * (4 if name == "square" else 1) for name, (inner, outer) in shapes.items()}
    return {**rates, "layer": sum(work.values()) / sum(work[name] / rates[name] for name in shapes)}


def settings(device: str, precision: str | None = None, *, compiled: bool = False) -> LoopSettings:
    """How trelm trains, with its own choice of precision."""
    chosen: Any = precision or ("bfloat16" if has_fast_bfloat16(device) else "float32")
    kind: Any = device
    return LoopSettings(
        learning_rate=1e-4,
        warmup=1,
        schedule="constant",
        weight_decay=0.01,
        epsilon=1e-6,
        gradient_clipping=1.0,
        precision=chosen,
        device=kind,
        checkpoint_minutes=1e9,
        log_updates=1000,
        seed=1,
        compiled=compiled,
    )


def random_text(lengths: Sequence[int], vocabulary: int, *, max_length: int, seed: int = 1) -> StageData:
    """Sequences of these lengths, special tokens counted, of random tokens; pairs are linked one to one."""
    random = np.random.default_rng(seed)
    inner = [max(1, length - 2) for length in lengths]
    text = Ragged.of([random.integers(10, vocabulary, size=length, dtype=np.int32) for length in inner])
    links = Ragged.of([np.arange(length, dtype=np.int32) for length in inner])
    known = Vocabulary(vocabulary, 1, 2, 0, 3, (0, 1, 2, 3))
    return StageData(text, text, text, text, links, links, known, max_length, MASK_RATE)


def real_lengths(count: int, seed: int = 1) -> list[int]:
    """Lengths like those of Indonesian news in pieces of a vocabulary of its own: log-normal, mean 30, to 128."""
    drawn = np.random.default_rng(seed).lognormal(3.25, 0.55, size=count)
    return [int(length) for length in np.clip(drawn, 4, MAX_LENGTH)]


def new_model(
    config: Any, vocabulary: int, tokenizer: PreTrainedTokenizerBase | None = None, *, tri_layer: bool = True
) -> TrelmForMaskedLM:
    """A TreLM model without dropout around an encoder of this configuration, with random weights.

    Args:
        tri_layer: whether it has the layer more that TreLM puts in; without, it is as deep as the encoder.
    """
    ids = {"pad": 0} if tokenizer is None else special_ids(tokenizer)
    chosen = trelm_config(
        config,
        vocabulary_size=vocabulary,
        special_ids=ids,
        languages=("en", "id"),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        has_tri_layer=tri_layer,
    )
    return scratch_model(chosen, seed=1)


SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}


def bert_config(size: str, vocabulary: int) -> BertConfig:
    """A BERT of a known size."""
    return BertConfig(**SIZES[size], vocab_size=vocabulary, pad_token_id=0, max_position_embeddings=512)  # type: ignore[arg-type]


def median_and_range(values: Sequence[float]) -> dict[str, float]:
    """Middle, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures, whole; without a path nothing is written."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


def command() -> str:
    """What was called."""
    return " ".join(["python", *sys.argv])
