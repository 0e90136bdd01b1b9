"""How much of a GPU the training step uses: model FLOPs utilisation of trelm's own loop.

    python benchmarks/speed/gpu.py --peak-tflops 989 --out gpu.json          # an H100 or H200: dense bfloat16
    python benchmarks/speed/gpu.py --device cpu --tiny                       # a trial of the script

Each case is trelm's stage on a BERT of MiniLM's size (6 + 1 layers, width 384) or of BERT-base's (12 + 1, 768) with
random weights and 30,522 entries: bfloat16 by autocast, fused AdamW, batches made ahead by other processes. The tokens
are random; their lengths are like those of real text (`real`: log-normal, mean about 30), or all 128 or 512. FLOPs are
those of `trelm.cost`: matrix products of forward and backward once each, padding counted in `computed` and not in
`useful`, nothing that is computed twice. Utilisation is FLOPs a second over `--peak-tflops`; the rate that this card's
own matrix products of a layer reach is measured beside it. Seconds are those between updates after `--warm` of them,
the device waited for at both ends alone.

Cases run in the order of their interest until `--limit` seconds are over, and the JSON is written after each; one that
fails is noted with its error.
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import torch

from trelm.stages import Stage, StageData, run_stage, stage_flops

VOCABULARY = 30_522
SENTENCES = 200_000
SAMPLE = 16


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        size: of the encoder. length: of the sequences, or `real`. stage: `mlm` or `cdlm`.
        compiled: whether the layers are compiled (`training.compile`).
    """

    size: str
    length: str
    batch_tokens: int
    stage: str = "mlm"
    compiled: bool = False


def all_cases(*, tiny: bool) -> list[Case]:
    """The cases, those that matter most first."""
    if tiny:
        return [
            Case("tiny", "real", 512),
            Case("tiny", "16", 512, compiled=True),
            Case("tiny", "real", 512, stage="cdlm"),
        ]
    return [
        Case("bert-base", "128", 65_536),
        Case("bert-base", "128", 131_072, compiled=True),
        Case("bert-base", "real", 65_536),
        Case("bert-base", "real", 131_072, compiled=True),
        Case("minilm", "128", 131_072),
        Case("minilm", "real", 131_072),
        Case("minilm", "128", 262_144, compiled=True),
        Case("bert-base", "real", 65_536, stage="cdlm"),
        Case("minilm", "real", 65_536, stage="cdlm"),
        Case("bert-base", "512", 131_072, compiled=True),
        Case("bert-base", "128", 131_072),
    ]


def text_of(case: Case) -> StageData:
    """Random tokens in sequences of the case's lengths."""
    if case.length == "real":
        count = SENTENCES if case.size != "tiny" else 2_000
        return common.random_text(common.real_lengths(count), VOCABULARY, max_length=common.MAX_LENGTH)
    length = int(case.length)
    return common.random_text([length] * max(2 * case.batch_tokens // length, 64), VOCABULARY, max_length=length)


class Stamps:
    """When the updates after the warm ones were done."""

    def __init__(self, device: str, warm: int, seconds: float) -> None:
        self.device, self.warm, self.seconds = device, warm, seconds
        self.updates, self.started, self.ended = 0, 0.0, 0.0

    def ends(self) -> bool:
        """Called after each update; the device is waited for where the clock starts and where it stops."""
        self.updates += 1
        if self.updates == self.warm:
            common.wait_for(self.device)
            self.started = time.perf_counter()
        if self.updates <= self.warm or time.perf_counter() - self.started < self.seconds:
            return False
        common.wait_for(self.device)
        self.ended = time.perf_counter()
        return True


def measure(case: Case, device: str, *, warm: int, seconds: float, peak: float | None) -> dict[str, float]:
    """The figures of one case."""
    stage: Stage = common.CDLM if case.stage == "cdlm" else common.MLM
    model: Any = common.new_model(common.bert_config(case.size, VOCABULARY), VOCABULARY)
    data, most = text_of(case), case.batch_tokens
    batches = data.batches(stage, updates=100_000, batch_tokens=most, seed=1)
    flops = stage_flops(model, stage, data.batches(stage, updates=SAMPLE, batch_tokens=most, seed=1), SAMPLE) / SAMPLE
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    stamps, settings = Stamps(device, warm, seconds), common.settings(device, compiled=case.compiled)
    with tempfile.TemporaryDirectory() as folder:
        run_stage(model, stage, batches, settings, Path(folder), after_update=lambda *_: stamps.ends())
    timed = stamps.updates - stamps.warm
    per_update = (stamps.ended - stamps.started) / timed
    tokens = _tokens(batches, stamps.warm, stamps.updates)
    found = {
        "updates": timed,
        "seconds_per_update": per_update,
        "real_tokens_per_second": tokens["real"] / timed / per_update,
        "share_of_padding": 1 - tokens["real"] / tokens["padded"],
        "flops_per_second": flops / per_update,
        "memory_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
    }
    return found if peak is None else {**found, "utilisation": flops / per_update / (peak * 1e12)}


def _tokens(batches: Any, first: int, last: int) -> dict[str, int]:
    """Tokens of updates `first` to `last - 1`: real ones, and with padding."""
    real = padded = 0
    for number in range(first, last):
        for stream in batches.streams:
            indices = stream.indices(number)
            real += stream.examples.tokens(indices)
            padded += len(indices) * int(stream.examples.lengths_at(indices).max())
    return {"real": real, "padded": padded}


def products(device: str, sizes: list[str]) -> dict[str, Any]:
    """FLOP/s of this device's own matrix products, in the sizes of the encoders' layers."""
    kind = torch.bfloat16 if common.has_fast_bfloat16(device) else torch.float32
    found = {}
    for size in sizes:
        config = common.bert_config(size, VOCABULARY)
        rows = 65_536 if device == "cuda" else 2_048
        found[size] = common.matrix_rate(device, kind, rows, config.hidden_size, config.intermediate_size)
    return {"type": str(kind), **found}


def attempted(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the function returns, or its error: one case must not cost the others."""
    try:
        return function()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500], "trace": traceback.format_exc()[-1500:]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def chosen(cases: list[Case], limit: float) -> Iterator[Case]:
    """The cases until the time is over."""
    started = time.perf_counter()
    for case in cases:
        if time.perf_counter() - started > limit:
            return
        yield case


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a trial of the script")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in the precision that is used")
    parser.add_argument("--seconds", type=float, default=6, help="of each case, after the warm updates")
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--limit", type=float, default=200, help="no case is begun after so many seconds")
    parser.add_argument("--only", help="cases whose size is this")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    cases = [case for case in all_cases(tiny=arguments.tiny) if arguments.only in (None, case.size)]
    figures: dict[str, Any] = {"command": common.command(), "machine": common.machine(arguments.device)}
    figures["peak_tflops"] = arguments.peak_tflops
    sizes = sorted({case.size for case in cases})
    figures["matrix_flops_per_second"] = attempted(lambda: products(arguments.device, sizes))
    figures["cases"] = []
    for case in chosen(cases, arguments.limit):
        started = time.perf_counter()
        found = attempted(
            lambda case=case: measure(  # type: ignore[misc]
                case, arguments.device, warm=arguments.warm, seconds=arguments.seconds, peak=arguments.peak_tflops
            )
        )
        figures["cases"].append({**asdict(case), **found, "seconds_in_all": time.perf_counter() - started})
        print({key: value for key, value in figures["cases"][-1].items() if key != "trace"}, flush=True)
        common.write(arguments.out, figures)


if __name__ == "__main__":
    main()
