"""Where the time of a training step goes: a table of torch's profiler.

    python benchmarks/speed/profile_step.py --size minilm --length 32                 # on a CPU
    python benchmarks/speed/profile_step.py --device cuda --size bert-base --length 128 --batch-tokens 65536

One forward and backward pass, clipping and update of trelm's model with random weights, on random tokens in sequences
of one length, or of lengths like those of real text (`--length real`), of the stage given. Printed are the operations
that take the most time of their own, and the share of the machine's own matrix-product rate that the step reaches.
`--out` writes the same as JSON.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from torch.profiler import ProfilerActivity, profile

from trelm.model.halves import freeze_all_but
from trelm.stages import StageData, stage_flops
from trelm.training.objectives import batch_loss

ROWS = 25
WARM = 2


def on_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """The batch, its parts on the device."""
    return {**batch, "parts": [{name: value.to(device) for name, value in part.items()} for part in batch["parts"]]}


def step(model: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Any], device: str, kind: torch.dtype) -> None:
    """One update."""
    with torch.autocast(device, torch.bfloat16, enabled=kind == torch.bfloat16):
        loss = batch_loss(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(common.SIZES), default="minilm")
    parser.add_argument("--length", default="real")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=30_522)
    parser.add_argument("--stage", choices=("mlm", "cdlm"), default="mlm")
    parser.add_argument("--updates", type=int, default=4, help="that are timed, and so many more that are profiled")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def text_of(length: str, batch_tokens: int, vocabulary: int) -> StageData:
    """Random tokens in sequences of one length, or of lengths like those of real text."""
    if length == "real":
        return common.random_text(common.real_lengths(20_000), vocabulary, max_length=common.MAX_LENGTH)
    lengths = [int(length)] * max(2 * batch_tokens // int(length), 8)
    return common.random_text(lengths, vocabulary, max_length=int(length))


def timed(steps: Callable[[], None], device: str) -> dict[str, float]:
    """What the steps took: seconds on the wall, of the processor and of the kernel, and page faults."""
    common.wait_for(device)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    steps()
    common.wait_for(device)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "processor_seconds": after.ru_utime - before.ru_utime,
        "kernel_seconds": after.ru_stime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
    }


def operations(steps: Callable[[], None], device: str) -> list[dict[str, Any]]:
    """The operations that took the most time of their own; their table is printed."""
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        steps()
        common.wait_for(device)
    averages = profiler.key_averages()
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(averages.table(sort_by=own, row_limit=ROWS, max_name_column_width=50))
    most = sorted(averages, key=lambda one: -getattr(one, own))[:ROWS]
    return [{"name": one.key, "calls": one.count, "self_microseconds": getattr(one, own)} for one in most]


def main() -> None:
    """Parse, measure, print, write."""
    given = parsed()
    device, stage = given.device, common.CDLM if given.stage == "cdlm" else common.MLM
    config = common.bert_config(given.size, given.vocabulary)
    model: Any = common.new_model(config, given.vocabulary).to(device)  # type: ignore[arg-type]
    freeze_all_but(model, stage.trains)
    model.train(True)
    model.config.sparse_prediction = True
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    kind = torch.bfloat16 if common.has_fast_bfloat16(device) else torch.float32
    count = WARM + 2 * given.updates
    data = text_of(given.length, given.batch_tokens, given.vocabulary)
    batches = data.batches(stage, updates=count, batch_tokens=given.batch_tokens, seed=1)
    items = [on_device(batches[number], device) for number in range(count)]

    def steps(first: int, last: int) -> None:
        for item in items[first:last]:
            step(model, optimizer, item, device, kind)

    steps(0, WARM)
    found = timed(lambda: steps(WARM, WARM + given.updates), device)
    table = operations(lambda: steps(WARM + given.updates, count), device)
    flops = stage_flops(model, stage, batches) / count * given.updates / found["seconds"]
    rate = common.matrix_rate(device, kind, given.batch_tokens, config.hidden_size, config.intermediate_size)
    tokens = sum(one["tokens"] for one in items[WARM : WARM + given.updates])
    figures = {
        **{"command": common.command(), "machine": common.machine(device), **found},
        "real_tokens_per_second": tokens / found["seconds"],
        "flops_per_second": flops,
        "matrix_flops_per_second": rate,
        "share_of_matrix_rate": flops / rate["layer"],
    }
    print(figures)
    common.write(given.out, {**figures, "operations": table})


if __name__ == "__main__":
    main()
