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
from pathlib import Path
from typing import Any

import common
import torch
from torch.profiler import ProfilerActivity, profile

from trelm.model.halves import freeze_all_but
from trelm.stages import stage_flops
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


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(common.SIZES), default="minilm")
    parser.add_argument("--length", default="real")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=30_522)
    parser.add_argument("--stage", choices=("mlm", "cdlm"), default="mlm")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device, stage = arguments.device, common.CDLM if arguments.stage == "cdlm" else common.MLM
    config = common.bert_config(arguments.size, arguments.vocabulary)
    model: Any = common.new_model(config, arguments.vocabulary).to(device)  # type: ignore[arg-type]
    if arguments.length == "real":
        lengths, longest = common.real_lengths(20_000), common.MAX_LENGTH
    else:
        longest = int(arguments.length)
        lengths = [longest] * max(2 * arguments.batch_tokens // longest, 8)
    data = common.random_text(lengths, arguments.vocabulary, max_length=longest)
    count = WARM + 2 * arguments.updates
    batches = data.batches(stage, updates=count, batch_tokens=arguments.batch_tokens, seed=1)
    freeze_all_but(model, stage.trains)
    model.train(True)
    model.config.sparse_prediction = True
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    kind = torch.bfloat16 if common.has_fast_bfloat16(device) else torch.float32
    items = [on_device(batches[number], device) for number in range(count)]
    for item in items[:WARM]:
        step(model, optimizer, item, device, kind)
    common.wait_for(device)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for item in items[WARM : WARM + arguments.updates]:
        step(model, optimizer, item, device, kind)
    common.wait_for(device)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for item in items[WARM + arguments.updates :]:
            step(model, optimizer, item, device, kind)
        common.wait_for(device)
    sort = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=sort, row_limit=ROWS, max_name_column_width=50))
    flops = stage_flops(model, stage, batches) / count * arguments.updates / seconds
    rate = common.matrix_rate(device, kind, arguments.batch_tokens, config.hidden_size, config.intermediate_size)
    figures = {
        "command": common.command(),
        "machine": common.machine(device),
        "real_tokens_per_second": sum(one["tokens"] for one in items[WARM : WARM + arguments.updates]) / seconds,
        "flops_per_second": flops,
        "matrix_flops_per_second": rate,
        "share_of_matrix_rate": flops / rate["layer"],
        "processor_seconds": after.ru_utime - before.ru_utime,
        "kernel_seconds": after.ru_stime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
        "operations": [
            {"name": one.key, "calls": one.count, "self_microseconds": getattr(one, _self_time(device))}
            for one in sorted(profiler.key_averages(), key=lambda one: -getattr(one, _self_time(device)))[:ROWS]
        ],
    }
    print({name: value for name, value in figures.items() if name not in ("operations", "command")})
    common.write(arguments.out, figures)


def _self_time(device: str) -> str:
    return "self_device_time_total" if device == "cuda" else "self_cpu_time_total"


if __name__ == "__main__":
    main()
