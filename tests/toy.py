"""A toy world for whole runs in seconds: two languages of known translations, and a configuration for the tiny BERT."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from trelm import pipeline
from trelm.config import Config, make_config, override_values
from trelm.steps.context import Context
from trelm.workspace import Run, read_json

# Words that the tiny BERT's tokenizer keeps whole.
WORDS = """
the of and to in is was that for it he on with as by at his this be from an are had not her have they you were their she
which one all we can has there been if more when will would who so no out up into said what its about than them some
could him time these two may then do first any my now such like our over man me even most made after also did many off
before must through back years where much your way well down should because each just those people how too little state
"""
SOURCE_WORDS = WORDS.split()
WITH_PLAIN = ("budget.updates=14", "stages.plain.share=1")  # two updates more, which are the plain stage's
LINES, PAIRS, EVALUATION_SENTENCES = 400, 150, 12


def translation(word: str) -> str:
    """The target language writes a word backwards, with a vowel at its end."""
    return word[::-1] + "aeiou"[sum(map(ord, word)) % 5]


def sentences(count: int, seed: int) -> list[list[str]]:
    """Source sentences of 8 to 14 words; a word's place modulo 3 says which third of the words it is from."""
    random = np.random.default_rng(seed)
    return [
        [str(random.choice(SOURCE_WORDS[place % 3 :: 3])) for place in range(int(random.integers(8, 15)))]
        for _ in range(count)
    ]


def in_target(words: list[str]) -> str:
    """Translated word by word, each pair of neighbours swapped."""
    order = [place ^ 1 if place ^ 1 < len(words) else place for place in range(len(words))]
    return " ".join(translation(words[place]) for place in order) + " ."


def in_source(words: list[str]) -> str:
    """As it is, with a full stop."""
    return " ".join(words) + " ."


def write_toy_data(folder: Path) -> None:
    """Text of both languages, pairs, a dictionary, and evaluation sentences that also stand in the target text."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = [in_target(words) for words in sentences(EVALUATION_SENTENCES, 4)]
    pairs = sentences(PAIRS, 3)
    files = {
        "source.txt": [in_source(words) for words in sentences(LINES, 1)],
        "target.txt": [*(in_target(words) for words in sentences(LINES, 2)), *evaluation],
        "pairs.tsv": [f"{in_source(words)}\t{in_target(words)}" for words in pairs],
        "dictionary.tsv": [f"{word}\t{translation(word)}" for word in SOURCE_WORDS],
        "evaluation.txt": evaluation,
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def toy_values(data: Path, model: Path) -> dict[str, Any]:
    """A configuration of the data in `data` for the encoder in `model`."""
    stage = {"learning_rate": 1.0e-3, "warmup": 0.1, "mask_rate": None, "body_learning_rate": None}
    return {
        "source": {"model": str(model), "language": "en", "text": [str(data / "source.txt")]},
        "target": {"language": "xx", "text": [str(data / "target.txt")]},
        "parallel": [str(data / "pairs.tsv")],
        "evaluation": [
            {"task": "translation", "test": [str(data / "dictionary.tsv")]},
            {"task": "text", "name": "toy", "test": [str(data / "evaluation.txt")]},
        ],
        "budget": {"updates": 12},
        "corpus": {"held_out_lines": 20},
        "head": {"updates": 0},
        "vocabulary": {"size": 400},
        "embeddings": {"initialisation": "trelm", "epochs": 2, "min_links": 8, "copy_shared": True},
        "alignment": {
            "method": "parallel",
            "refinement_rounds": 1,
            "refinement_entries": 200,
            "criterion_entries": 200,
            "csls_neighbours": 5,
        },
        "word_links": {"iterations": 3},
        "model": {"tri_layer": True},  # with the published stages, not the recipe's
        "stages": {
            "commonality": {"share": 1, **stage},
            "transfer_joint": {"share": 0, **stage},
            "transfer_upper": {"share": 1, **stage},
            "transfer_lower": {"share": 1, **stage},
            "language_specific": {"share": 3, **stage},
            "plain": {"share": 0, **stage},
            "scratch": {"share": 1, **stage},
        },
        "diagnosis": {"head_updates": 3},
        "training": {
            "batch_tokens": 256,
            "max_length": 32,
            "precision": "float32",
            "device": "cpu",
            "log_updates": 1,
            "checkpoint_minutes": 1.0e-6,  # a checkpoint after every update
        },
    }


def toy_config(data: Path, model: Path, *overrides: str) -> Config:
    """The same as a `Config`, with overrides as on the command line."""
    return make_config(override_values(toy_values(data, model), overrides), origin="toy")


@contextmanager
def one_core() -> Iterator[None]:
    """The steps of a run take one thread, so that sums are added in one order."""
    with mock.patch.object(os, "sched_getaffinity", return_value={0}, create=True):
        yield


def run_toy(config: Config, folder: Path, until: str | None = None) -> dict[str, Any]:
    """`trelm.pipeline.transfer`, quiet, on one core."""
    with one_core():
        return pipeline.transfer(config, folder, until=until, quiet=True)


def die_at(moment: int, folder: str) -> None:
    """Kill this process, as by the power switch, at the `moment`-th thing that it does to a file below `folder`."""
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree") and folder in str(arguments[0]):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def run_and_die(values: dict[str, Any], folder: str, moment: int) -> None:
    """A run that is killed in the middle of its work."""
    die_at(moment, folder)
    run_toy(make_config(values, origin="toy"), Path(folder))


def export_and_die(run: ToyRun, moment: int) -> None:
    """A plain export that is killed while the plain stage trains for it."""
    die_at(moment, str(run.folder / "stages" / "6-plain"))
    export_toy(run, kind="plain")


def hold_lock(folder: str, held: Any, free: Any) -> None:
    """Work in the run folder, as far as others can see, until `free` is set."""
    with Run(Path(folder)).lock():
        held.set()
        free.wait(60)


@dataclass(frozen=True)
class Silent:
    """Progress that nobody hears."""

    def update(self, *_: Any, **__: Any) -> None:
        """A count."""

    def note(self, text: str) -> None:
        """A line."""


@dataclass(frozen=True)
class ToyRun:
    """A finished run, only to be read: the whole session shares it."""

    data: Path
    model: Path
    folder: Path
    report: dict[str, Any]

    def config(self, *overrides: str) -> Config:
        """Its configuration, or one that differs by the overrides."""
        return toy_config(self.data, self.model, *overrides)

    def context(self, *overrides: str) -> Context:
        """What the steps of this run are given, under its configuration or another."""
        return Context(self.config(*overrides), Run(self.folder))


def make_toy_run(folder: Path, model: Path, *overrides: str) -> ToyRun:
    """Write the data and do the whole run."""
    write_toy_data(folder / "data")
    report = run_toy(toy_config(folder / "data", model, *overrides), folder / "run")
    return ToyRun(folder / "data", model, folder / "run", report)


def copy_of(run: ToyRun, folder: Path) -> ToyRun:
    """The finished run in a folder that a test may write in."""
    shutil.copytree(run.folder, folder)
    return replace(run, folder=folder)


def export_toy(run: ToyRun, to: Path | None = None, **options: Any) -> dict[str, Any]:
    """`trelm.pipeline.export`, quiet, on one core."""
    with one_core():
        return pipeline.export(run.folder, to, quiet=True, **options)


def without_seconds(value: Any) -> Any:
    """A report without what no two runs share: times, and the folder that it was run in."""
    if isinstance(value, dict):
        return {key: without_seconds(inner) for key, inner in value.items() if key not in ("seconds", "path")}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Every manifest of a run by its step's name."""
    found = {path.parent.relative_to(folder).as_posix(): read_json(path) for path in folder.rglob("manifest.json")}
    return dict(sorted(found.items()))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Time of change (ns) and size of every file below `folder` but the lock, which is opened each time."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
