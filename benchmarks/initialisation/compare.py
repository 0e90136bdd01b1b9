"""Every initialisation on the same data, the same encoder with the same head, and the same small budget of MLM.

    trelm transfer benchmarks/initialisation/en-id.yaml --run RUN --until alignment     # once a language pair
    python benchmarks/initialisation/compare.py --run RUN --work FOLDER --out benchmarks/initialisation/results/en-id \\
        --dictionary TRAIN.tsv.xz --arms counts focus --seeds 1 2 3 --tokens 200000 1000000

One JSON file a cell (arm and seed). A cell that is there with scores at all the token counts asked for is not run
again, so the same command goes on where it was stopped. The tables are made once an arm, but for arms that draw their
rows: once a seed; FOLDER keeps them, with the seconds and the memory that they took in a process of their own. The
model is the encoder's own class, with the new vocabulary's tables and a head that was fitted on source-language text
where the checkpoint has none: no TRILayer, no other stage.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from trelm.config import Config, read_run_config
from trelm.evaluation.intrinsic import masked_text_scores
from trelm.evaluation.translation import precision_at, read_dictionary
from trelm.initialisation import Initialisation, specials
from trelm.model.head import SparseMaskedLM, source_masked_lm, with_head
from trelm.model.source import SourceEncoder
from trelm.progress import Progress
from trelm.steps.context import Context, use_all_cores
from trelm.steps.head import fit_head
from trelm.steps.head_cache import HEAD_FILE
from trelm.steps.initialisation import initialise, own_frequencies, recommended, source_tables, target_entries
from trelm.steps.training import shared_settings
from trelm.training.batches import MaskedExamples, PlannedBatches
from trelm.training.trainer import train
from trelm.vocabulary import single_piece
from trelm.workspace import Run, read_json, write_json

DRAWN = ("random", "multivariate", "shared")  # their rows are drawn anew for each seed
ABLATIONS: dict[str, dict[str, Any]] = {
    "blend-0": {"mapped_share": 0.0},
    "blend-25": {"mapped_share": 0.25, "blend_copies": "none"},
    "blend-50": {"mapped_share": 0.5, "blend_copies": "none"},
    "blend-75": {"mapped_share": 0.75, "blend_copies": "none"},
    "blend-50-target": {"mapped_share": 0.5, "blend_copies": "target"},
    "blend-50-all": {"mapped_share": 0.5, "blend_copies": "all"},
    "blend-75-all": {"mapped_share": 0.75, "blend_copies": "all"},
    "blend-100-all": {"mapped_share": 1.0, "blend_copies": "all"},
    "recommended-mixed-lengths": {"lengths": 0.0},
    "recommended-mixed-bias": {"own_frequency": False},
    "recommended-no-neighbours": {"neighbours": False},
    "blend-0-bare": {"mapped_share": 0.0, "lengths": 0.0, "own_frequency": False},
}
ARMS = ("random", "multivariate", "shared", "pieces", "counts", "wechsel", "focus", "trelm", "recommended")
FRESH = "-fresh-head"  # an arm with this ending starts from a random head
FREQUENCIES = "-frequencies"  # and one with this from a bias of the target text's frequencies
# What is recommended was chosen on the first 500 of the held-out lines; what is reported is measured on the others.
LINES = {"choosing": slice(0, 500), "reported": slice(500, 1500)}
EVALUATION_SEED, PRECISION = 1, "float32"
BATCH_TOKENS, MAX_LENGTH, LEARNING_RATE, WARMUP_UPDATES = 2048, 128, 5e-4, 20


class Prepared(Context):
    """A run prepared up to `alignment`, whose encoder has a head: its own, or one fitted in `work`."""

    def __init__(self, run: Path, work: Path, changes: dict[str, Any], head_updates: int) -> None:
        config = read_run_config(run)
        for section, values in changes.items():
            config = config.model_copy(update={section: getattr(config, section).model_copy(update=values)})
        head = config.head.model_copy(update={"updates": head_updates})
        super().__init__(config.model_copy(update={"head": head}), Run(run))
        self.work = work

    @cached_property
    def source(self) -> SourceEncoder:  # type: ignore[override]
        pretrained = self.pretrained
        if pretrained.has_head or not self.config.head.updates:
            return pretrained
        return with_head(pretrained, load_file(self.head_folder / HEAD_FILE))

    @property
    def head_folder(self) -> Path:
        return self.work / "head"

    def fit_head(self) -> dict[str, Any]:
        """Leave the head in `work`, and its figures."""
        manifest = self.head_folder / "manifest.json"
        if not manifest.exists():
            self.head_folder.mkdir(parents=True, exist_ok=True)
            with Progress(1) as progress, progress.step("head") as tell:
                write_json(manifest, fit_head(self, self.head_folder, tell))
        return read_json(manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder, prepared up to `alignment`")
    parser.add_argument("--work", type=Path, required=True, help="folder for tables and the head; kept")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result files")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--tokens", nargs="+", type=int, default=[200_000, 1_000_000], help="where the loss is taken")
    parser.add_argument("--dictionary", nargs="*", default=[], help="training split, for wechsel")
    parser.add_argument("--head-updates", type=int, default=1000)
    parser.add_argument("--table", help=argparse.SUPPRESS)  # this process makes one arm's tables
    arguments = parser.parse_args()
    use_all_cores()
    context = prepared(arguments)
    if arguments.table:
        make_tables(context, *arguments.table.split(":"))
        return
    write_json(arguments.out / "head.json", context.fit_head())
    for seed in arguments.seeds:
        for arm in arguments.arms:
            place = arguments.out / f"{arm}-seed{seed}.json"
            if not is_done(place, arguments.tokens):
                folder = tables_of(context, arm, seed)
                write_json(place, cell(context, arm, seed, folder, sorted(arguments.tokens)))


def prepared(arguments: argparse.Namespace) -> Prepared:
    changes = {"embeddings": {"dictionary": tuple(arguments.dictionary)}, "training": {"precision": PRECISION}}
    return Prepared(arguments.run, arguments.work, changes, arguments.head_updates)


def is_done(place: Path, tokens: list[int]) -> bool:
    return place.exists() and {str(count) for count in tokens} <= read_json(place)["scores"].keys()


def tables_of(context: Prepared, arm: str, seed: int) -> Path:
    """The folder with an arm's tables; made by a process of its own, so that its memory is its own too."""
    arm = arm.removesuffix(FRESH)
    of = seed if arm in DRAWN else context.config.seed
    folder = context.work / "tables" / f"{arm}-seed{of}"
    if not (folder / "made.json").exists():
        subprocess.run([sys.executable, *sys.argv, "--table", f"{arm}:{of}"], check=True)
    return folder


def make_tables(context: Prepared, arm: str, seed: str) -> None:
    """Write an arm's tables with what they cost; `seconds` are those of the call, links and vectors not counted."""
    folder = context.work / "tables" / f"{arm}-seed{seed}"
    _ = context.source.table, context.tokenizer
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = tables(context, arm, int(seed))
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder.mkdir(parents=True, exist_ok=True)
    made.save(folder)
    memory = {"gigabytes_before": before / 2**20, "gigabytes_at_peak": after / 2**20}
    write_json(folder / "made.json", {"seconds": seconds, **memory, "threads": torch.get_num_threads()})


def tables(context: Prepared, arm: str, seed: int) -> Initialisation:
    if arm in ABLATIONS:
        return recommended(context, source_tables(context), **ABLATIONS[arm])
    settings = {"initialisation": arm.removesuffix(FREQUENCIES)}
    if arm.startswith("trelm"):  # the paper's: every row mapped, none copied or mixed
        settings |= {"copy_shared": False, "min_links": None}
    embeddings = context.config.embeddings.model_copy(update=settings)
    config: Config = context.config.model_copy(update={"embeddings": embeddings, "seed": seed})
    context.config = config
    made = initialise(context)
    if arm.endswith(FREQUENCIES) and made.bias is not None:
        copied = specials(context.tokenizer, context.source.tokenizer)
        made = replace(made, bias=own_frequencies(context, copied, source_tables(context).bias))
    return made


def cell(context: Prepared, arm: str, seed: int, folder: Path, tokens: list[int]) -> dict[str, Any]:
    """One arm with one seed: figures of its tables, and its scores along the training."""
    made = Initialisation.load(folder)
    source = context.pretrained if arm.endswith(FRESH) else context.source
    model = model_of(source, made, fresh=arm.endswith(FRESH))
    settings = shared_settings(
        context, learning_rate=LEARNING_RATE, warmup=WARMUP_UPDATES, schedule="constant", seed=seed
    )
    examples = MaskedExamples(
        context.tokens("target"), 0, context.vocabulary, MAX_LENGTH, context.config.training.mask_rate
    )
    batches, stops = plan(examples, tokens, seed)
    started = time.perf_counter()
    results = {"0": scores(model, context)}

    def on_update(done: int, total: int, rate: float, loss: float | None) -> None:
        for count, update in stops.items():
            if done == update:
                results[str(count)] = scores(model, context)
                print(f"{arm} seed {seed}: {count} tokens, {results[str(count)]}", flush=True)

    with tempfile.TemporaryDirectory(prefix="trelm-") as place:
        quiet = replace(settings, checkpoint_minutes=1e9)
        trained = train(model, batches, quiet, Path(place), on_update)
    return {
        "arm": arm,
        "seed": seed,
        "languages": context.languages,
        "translation": translation(context, made),
        "rows": made.counts,
        "norm_ratio": norm_ratio(made, context.source),
        "made": read_json(folder / "made.json"),
        "scores": results,
        "updates": {str(count): update for count, update in stops.items()},
        "curve": trained.curve,
        "settings": {
            "learning_rate": LEARNING_RATE,
            "warmup_updates": WARMUP_UPDATES,
            "schedule": "constant",
            "batch_tokens": BATCH_TOKENS,
            "max_length": MAX_LENGTH,
            "held_out_lines": {name: [lines.start, lines.stop] for name, lines in LINES.items()},
            "precision": settings.precision,
            "device": torch.cuda.get_device_name() if context.device == "cuda" else "cpu",
            "weight_decay": settings.weight_decay,
        },
        "seconds": {"training": trained.seconds, "all": time.perf_counter() - started, "load": os.getloadavg()[0]},
    }


def plan(examples: MaskedExamples, tokens: list[int], seed: int) -> tuple[PlannedBatches, dict[int, int]]:
    """The batches of a cell, and the update after which each count of real tokens is reached."""
    most = PlannedBatches([(examples, 1.0)], updates=10**9, batch_tokens=BATCH_TOKENS, seed=seed)
    stops, seen, update = {}, 0, 0
    for count in tokens:
        while seen < count:
            seen += sum(stream.examples.tokens(stream.indices(update)) for stream in most.streams)
            update += 1
        stops[count] = update
    return PlannedBatches([(examples, 1.0)], updates=update, batch_tokens=BATCH_TOKENS, seed=seed), stops


def model_of(source: SourceEncoder, made: Initialisation, *, fresh: bool) -> SparseMaskedLM:
    """The encoder's own masked-LM class with the new tables."""
    model = source_masked_lm(source, seed=1)
    model.resize_token_embeddings(len(made.words), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.from_numpy(made.words))
        if made.bias is not None and not fresh:
            model.get_output_embeddings().bias.copy_(torch.from_numpy(made.bias))
    sparse = SparseMaskedLM(model)
    for parameter in sparse.parameters():
        parameter.requires_grad_(True)
    return sparse


def scores(model: SparseMaskedLM, context: Prepared) -> dict[str, float]:
    """Of the lines that are reported, and the masked loss of those that the recommended way was chosen on."""
    found = {
        name: scores_on(context.lines("target-held-out.txt")[lines], model, context) for name, lines in LINES.items()
    }
    return {**found["reported"], "masked_loss_choosing": found["choosing"]["masked_loss"]}


def scores_on(lines: Sequence[str], model: SparseMaskedLM, context: Prepared) -> dict[str, float]:
    found = masked_text_scores(
        model,
        context.tokenizer,
        lines,
        seed=EVALUATION_SEED,
        batch_tokens=8192,
        max_length=MAX_LENGTH,
        device=context.device,
        precision=context.precision,
    ).as_dict()
    return {name: found[name] for name in ("masked_loss", "masked_accuracy", "bits_per_character", "masked_tokens")}


def translation(context: Prepared, made: Initialisation) -> dict[str, Any]:
    """Precision of the new table's rows by the test split of the dictionary."""
    (task,) = (task for task in context.config.evaluation if task.task == "translation")
    return dict(
        precision_at(
            torch.from_numpy(made.words),
            context.source.table,
            read_dictionary([Path(path) for path in task.test]),
            single_piece(context.tokenizer),
            single_piece(context.source.tokenizer),
            candidates=target_entries(context),
        )
    )


def norm_ratio(made: Initialisation, source: SourceEncoder) -> float:
    lengths = [np.linalg.norm(table, axis=1).mean() for table in (made.words, source.table.numpy())]
    return float(lengths[0] / lengths[1])


if __name__ == "__main__":
    main()
