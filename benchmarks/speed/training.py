"""Speed of training: the published recipe, Hugging Face's Trainer and trelm on the same real text, in one run.

    python benchmarks/speed/training.py --seconds 12 --rounds 3 --out benchmarks/speed/results/training.json

Every arm learns masked language modelling on the same Indonesian news with the same joint vocabulary, but for
`trelm-cdlm`, which learns cross-lingual modelling on English-Indonesian pairs along their word links. What is given is
real tokens a second: padding is not counted, the two special tokens of a sentence are. (A pair counts as the mean of
its sides.) The arms take turns, round by round, since a shared machine is faster at some times than at others; the
figure of an arm is the median of its rounds, that of a ratio the median of the rounds' ratios. Arms:

* `published`: BERT's own recipe, which TreLM's paper takes over: stock `BertForMaskedLM` with the weights of MiniLM,
  sentences in random order, padded to 512 tokens, 8 of them (4,096 padded tokens, as many as trelm's), logits
  everywhere, float32, dropout 0.1, AdamW one parameter after the other.
* `trainer-dynamic`: the same model in `transformers.Trainer` as most people run it: padded to the longest of the batch,
  its own fused AdamW; bfloat16 by autocast and float32. `trainer-grouped`: the same with
  `train_sampling_strategy="group_by_length"`. Both get the batch size of 8, 16 and 32 that is fastest on this machine.
* `trelm-mlm`, `trelm-cdlm`: trelm's own stages, precision and batches of `--batch-tokens`. Its model has one layer more
  than the stock one; `trelm-mlm-same-depth` is without it, as deep as the others: the same model, trained by trelm.

The data folder is taken from TRELM_DATA, by default ../shared/data.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import indonesian
import torch
from transformers import (
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from trelm.model.source import source_path
from trelm.stages import Stage, run_stage, stage_flops

LEAST_UPDATES = 2
MANY = 100_000
SAMPLE = 64
BATCH_SIZES = (8, 16, 32)

Arm = Callable[[float], dict[str, float]]
Round = dict[str, dict[str, float]]


class Clock:
    """Stamps updates; the first ones warm up, then it runs for a number of seconds."""

    def __init__(self, seconds: float, warm: int) -> None:
        self.seconds, self.warm = seconds, warm
        self.stamps: list[float] = []

    def ends(self) -> bool:
        """Called after each update."""
        self.stamps.append(time.perf_counter())
        timed = len(self.stamps) - self.warm
        return timed >= LEAST_UPDATES and self.stamps[-1] - self.stamps[self.warm - 1] >= self.seconds

    def result(self, tokens: list[int]) -> dict[str, float]:
        """Real tokens a second of the updates after the warm ones."""
        taken = self.stamps[-1] - self.stamps[self.warm - 1]
        real = sum(tokens[self.warm : len(self.stamps)])
        return {"tokens_per_second": real / taken, "updates": len(self.stamps) - self.warm, "seconds": taken}


class Stop(TrainerCallback):
    """Ends a training of `Trainer` by the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = self.clock.ends()


class Counting:
    """A collator that notes the real tokens of its batches."""

    def __init__(self, inner: DataCollatorForLanguageModeling) -> None:
        self.inner = inner
        self.tokens: list[int] = []

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        batch = self.inner(examples)
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch


def stock_model(text: indonesian.Text) -> BertForMaskedLM:
    """MiniLM in Hugging Face's class with the joint vocabulary and the dropout of its configuration."""
    model = BertForMaskedLM.from_pretrained(source_path("minilm"))
    model.resize_token_embeddings(len(text.tokenizer), mean_resizing=False)
    return model  # type: ignore[no-any-return]


def trainer_arm(
    text: indonesian.Text,
    *,
    batch: int,
    bf16: bool,
    strategy: str,
    optimizer: str | None = None,
    pad_to: int | None = None,
) -> Arm:
    """An arm of `transformers.Trainer`."""
    known = text.data.vocabulary
    rows = [
        {"input_ids": [known.start, *text.data.target[i].tolist(), known.end]} for i in range(len(text.data.target))
    ]
    inner = DataCollatorForLanguageModeling(text.tokenizer, mlm_probability=common.MASK_RATE, pad_to_multiple_of=pad_to)

    def run(seconds: float) -> dict[str, float]:
        clock, collator = Clock(seconds, warm=1), Counting(inner)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=MANY,
                per_device_train_batch_size=batch,
                bf16=bf16,
                use_cpu=True,
                train_sampling_strategy=strategy,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_strategy="no",
                **({} if optimizer is None else {"optim": optimizer}),
            )
            trainer = Trainer(
                stock_model(text), arguments, train_dataset=rows, data_collator=collator, callbacks=[Stop(clock)]
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return clock.result(collator.tokens)

    return run


def trelm_arm(text: indonesian.Text, stage: Stage, batch_tokens: int, *, tri_layer: bool = True) -> Arm:
    """One of trelm's own stages; also the FLOPs a second that its closed form counts."""
    batches = text.data.batches(stage, updates=MANY, batch_tokens=batch_tokens, seed=1)
    model = common.new_model(text.config, len(text.tokenizer), text.tokenizer, tri_layer=tri_layer)
    first = text.data.batches(stage, updates=SAMPLE, batch_tokens=batch_tokens, seed=1)  # those that all begin with
    per_token = stage_flops(model, stage, first, SAMPLE) / SAMPLE / first.mean_tokens(SAMPLE)

    def run(seconds: float) -> dict[str, float]:
        clock = Clock(seconds, warm=2)
        fresh = common.new_model(text.config, len(text.tokenizer), text.tokenizer, tri_layer=tri_layer)
        with tempfile.TemporaryDirectory() as folder:
            run_stage(fresh, stage, batches, common.settings("cpu"), Path(folder), after_update=lambda *_: clock.ends())
        streams = batches.streams
        tokens = [sum(s.examples.tokens(s.indices(i)) for s in streams) for i in range(len(clock.stamps))]
        found = clock.result(tokens)
        return {**found, "flops_per_second": found["tokens_per_second"] * per_token}

    return run


def best_trainer(text: indonesian.Text, strategy: str, bf16: bool, seconds: float) -> tuple[Arm, dict[str, Any]]:
    """The arm with the batch size that is fastest here, and what each gave."""
    arms = {size: trainer_arm(text, batch=size, bf16=bf16, strategy=strategy) for size in BATCH_SIZES}
    speeds = {size: arm(seconds)["tokens_per_second"] for size, arm in arms.items()}
    best = max(speeds, key=lambda size: speeds[size])
    return arms[best], {"batch_size": best, "tokens_per_second_by_batch_size": speeds}


def all_arms(text: indonesian.Text, seconds: float, batch_tokens: int) -> tuple[dict[str, Arm], dict[str, Any]]:
    """The arms by name, and what was chosen for them."""
    arms: dict[str, Arm] = {
        "published": trainer_arm(text, batch=8, bf16=False, strategy="random", optimizer="adamw_torch", pad_to=512)
    }
    chosen: dict[str, Any] = {"published": {"batch_size": 8}}
    for strategy, name in (("random", "trainer-dynamic"), ("group_by_length", "trainer-grouped")):
        for precision in ("bfloat16", "float32"):
            key = f"{name}-{precision}"
            arms[key], chosen[key] = best_trainer(text, strategy, precision == "bfloat16", seconds)
            print(f"{key}: {chosen[key]}", flush=True)
    arms["trelm-mlm"] = trelm_arm(text, common.MLM, batch_tokens)
    arms["trelm-mlm-same-depth"] = trelm_arm(text, common.MLM, batch_tokens, tri_layer=False)
    arms["trelm-cdlm"] = trelm_arm(text, common.CDLM, batch_tokens)
    return arms, chosen


def ratios(rounds: list[Round]) -> dict[str, dict[str, float]]:
    """The bars: ratios within each round, so that what slows a round slows both sides."""

    def speed(found: Round, *names: str) -> float:
        return max(found[name]["tokens_per_second"] for name in names)

    others: dict[str, tuple[str, ...]] = {
        "published": ("published",),
        "trainer-dynamic bfloat16": ("trainer-dynamic-bfloat16",),
        "trainer-dynamic, its better precision": ("trainer-dynamic-bfloat16", "trainer-dynamic-float32"),
        "trainer-grouped bfloat16": ("trainer-grouped-bfloat16",),
        "trainer-grouped, its better precision": ("trainer-grouped-bfloat16", "trainer-grouped-float32"),
    }
    pairs: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        f"{ours} / {name}": ((ours,), arms)
        for ours in ("trelm-mlm", "trelm-mlm-same-depth")
        for name, arms in others.items()
    }
    pairs["trelm-cdlm / trelm-mlm"] = (("trelm-cdlm",), ("trelm-mlm",))
    return {
        name: common.median_and_range([speed(found, *over) / speed(found, *under) for found in rounds])
        for name, (over, under) in pairs.items()
    }


def one_round(arms: dict[str, Arm], text: indonesian.Text, seconds: float, batch_tokens: int, name: str) -> Round:
    """Every arm once; beside trelm's, the machine's own rate of matrix products."""
    kind = torch.bfloat16 if common.has_fast_bfloat16("cpu") else torch.float32
    found: Round = {}
    for key, arm in arms.items():
        with contextlib.redirect_stdout(None):
            found[key] = arm(seconds)
        if "flops_per_second" in found[key]:
            sizes = text.config.hidden_size, text.config.intermediate_size
            rate = common.matrix_rate("cpu", kind, batch_tokens, *sizes)["layer"]
            found[key]["matrix_flops_per_second"] = rate
            found[key]["share_of_matrix_rate"] = found[key]["flops_per_second"] / rate
        print(f"{name}, {key}: {found[key]['tokens_per_second']:,.0f} tokens/s", flush=True)
    return found


def summary(rounds: list[Round]) -> dict[str, Any]:
    """Medians over the rounds, and the bars."""

    def over(key: str) -> dict[str, dict[str, float]]:
        names = [name for name, found in rounds[0].items() if key in found]
        return {name: common.median_and_range([one[name][key] for one in rounds]) for name in names}

    keys = ("tokens_per_second", "matrix_flops_per_second", "share_of_matrix_rate")
    return {"ratios": ratios(rounds), **{key: over(key) for key in keys}}


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each arm and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calibration", type=float, default=4, help="seconds for each batch size of the Trainer")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-tokens", type=int, default=4096, help="trelm's batches; its default")
    parser.add_argument("--lines", type=int, default=20_000, help="of Indonesian news")
    parser.add_argument("--pairs", type=int, default=5_000)
    parser.add_argument("--vocabulary", type=int, default=30_522)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)
    folder = Path(os.environ.get("TRELM_DATA", "../shared/data"))
    if not folder.is_dir():
        parser.error(f"{folder}: expected the data folder, found nothing there; set TRELM_DATA")
    started = time.perf_counter()
    text = indonesian.real_text(folder, lines=arguments.lines, pairs=arguments.pairs, vocabulary=arguments.vocabulary)
    print(f"text and links: {time.perf_counter() - started:.0f} s, vocabulary {len(text.tokenizer):,}", flush=True)
    arms, chosen = all_arms(text, arguments.calibration, arguments.batch_tokens)
    figures: dict[str, Any] = {
        "command": common.command(),
        "machine": common.machine("cpu"),
        "vocabulary": len(text.tokenizer),
        "chosen": chosen,
    }
    rounds: list[Round] = []
    for number in range(arguments.rounds):
        rounds.append(one_round(arms, text, arguments.seconds, arguments.batch_tokens, f"round {number + 1}"))
        figures.update(summary(rounds), rounds=rounds)
        common.write(arguments.out, figures)
    for name in ("tokens_per_second", "ratios", "share_of_matrix_rate"):
        print(f"\n{name}")
        for key, found in figures[name].items():
            print(f"{key}: {found['median']:,.2f} ({found['least']:,.2f} to {found['most']:,.2f})")


if __name__ == "__main__":
    main()
