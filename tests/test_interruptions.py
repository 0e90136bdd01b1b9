"""Runs that are broken off at random moments, again and again, end with the same bits as one that is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interrupted import KINDS, Kind, attempt, cut_off_newest
from toy import (
    WITH_PLAIN,
    ToyRun,
    copy_of,
    one_core,
    run_toy,
    toy_config,
    toy_values,
    without_seconds,
    write_toy_data,
)
from trelm import pipeline
from trelm.config import override_values
from trelm.steps.context import Context, RunStep
from trelm.workspace import Run, read_json

POINTS = 30
SHARE = 0.5  # of a whole run: the longest time until an interruption


@dataclass(frozen=True)
class Whole:
    """A run that nothing broke off: its configuration, folder, report and seconds."""

    values: dict[str, Any]
    folder: Path
    report: dict[str, Any]
    seconds: float


@pytest.fixture(scope="module")
def whole(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A toy run with every stage, a checkpoint after every update, in a process like those that are broken off."""
    folder = tmp_path_factory.mktemp("whole")
    write_toy_data(folder / "data")
    values = override_values(toy_values(folder / "data", tiny_bert), WITH_PLAIN)
    done = attempt(values, folder / "run", folder / "log")
    assert done.code == 0, done.errors
    return Whole(values, folder / "run", read_json(folder / "run" / "report.json"), done.seconds)


def assert_the_same(run: Path, whole: Path, report: dict[str, Any]) -> None:
    """Weights, tokens, vectors and links to the bit; every figure of the report but for times."""
    for path in (path for path in whole.rglob("*") if path.suffix in (".safetensors", ".npy", ".txt", ".tsv")):
        name = path.relative_to(whole)
        assert (run / name).read_bytes() == path.read_bytes(), name
    assert without_seconds(read_json(run / "report.json")) == without_seconds(report)
    names = [path.name for path in run.rglob("*")]
    assert not [name for name in names if name.startswith("checkpoint-") or name.endswith(".part")]


@pytest.mark.slow
def test_a_run_broken_off_at_any_point_ends_with_the_same_bits(whole: Whole, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    kinds: list[Kind] = [KINDS[number % len(KINDS)] for number in random.permutation(POINTS)]
    in_training, runs, story = 0, 0, []
    folder, log = tmp_path / "run-0", tmp_path / "log"
    while kinds:
        after = float(random.uniform(0, SHARE * whole.seconds))
        done = attempt(whole.values, folder, log, kinds[-1], after)
        story.append(f"{folder.name}: {kinds[-1]} after {after:.2f} s: {done.code}")
        if done.code == 0:  # it has come to its end before
            assert_the_same(folder, whole.folder, whole.report)
            runs, folder = runs + 1, tmp_path / f"run-{runs + 1}"
            continue
        assert done.code == (130 if kinds[-1] == "terminated" else -9), (story, done.errors)
        in_training += any(folder.glob("stages/*/checkpoint-*"))
        if kinds.pop() == "power cut":
            story.append(cut_off_newest(folder, random))
    done = attempt(whole.values, folder, log)
    assert done.code == 0, (story, done.errors)
    assert_the_same(folder, whole.folder, whole.report)
    assert in_training > 0, story


def cut_off(path: Path) -> None:
    """Half of a file is lost."""
    os.truncate(path, path.stat().st_size // 2)


def flip_a_byte(path: Path) -> None:
    """One byte in the middle is another; the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGED = (
    "corpus/source.txt",
    "vocabulary/tokenizer.json",
    "tokens/target.values.npy",
    "word-links/.seal.json",
    "embeddings/manifest.json",
    "model/start/model.safetensors",
    "plan/manifest.json",
    "stages/1-commonality/model/model.safetensors",
    "stages/4-combination/model/config.json",
    "stages/scratch/manifest.json",
    "evaluation/manifest.json",
    "export/model.safetensors",
)


@pytest.mark.parametrize("damage", [cut_off, flip_a_byte])
def test_a_step_whose_file_is_damaged_is_done_again_and_says_so(
    toy_run: ToyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    for name in DAMAGED:
        damage(run.folder / name)
    with one_core():
        report = pipeline.transfer(run.config(), run.folder)
    told = capsys.readouterr().err
    for name in DAMAGED:
        assert f"{run.folder / name}: " in told, name
    assert told.count("the step is done again") == len(DAMAGED)
    assert told.count("done before") == len(pipeline.steps(run.config())) - len(DAMAGED)
    assert without_seconds(report) == without_seconds(toy_run.report)
    assert_the_same(run.folder, toy_run.folder, toy_run.report)


def test_what_every_call_writes_may_be_damaged_too(toy_run: ToyRun, tmp_path: Path) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    for name in ("config.yaml", "card.yaml", "report.json", "report.md", "report.html"):
        cut_off(run.folder / name)
    (run.folder / "corpus" / ".inputs").write_bytes(b"\xff")
    assert run_toy(run.config(), run.folder) == toy_run.report
    for name in ("config.yaml", "card.yaml", "report.json", "report.md", "report.html"):
        assert (run.folder / name).read_bytes() == (toy_run.folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("budget", "again"),
    [
        (("budget.updates=12",), ["plan"]),
        (("budget.updates=null", "budget.minutes=5"), ["plan", "stages/1-commonality", "evaluation"]),
    ],
)
def test_what_followed_a_lost_plan_is_done_again_where_the_plan_was_measured(
    tiny_bert: Path, tmp_path: Path, budget: tuple[str, ...], again: list[str]
) -> None:
    write_toy_data(tmp_path / "data")
    context = Context(toy_config(tmp_path / "data", tiny_bert, *budget), Run(tmp_path / "run"))
    done: list[str] = []

    def work(name: str) -> dict[str, Any]:
        done.append(name)
        return {}

    names = ["model", "plan", "stages/1-commonality", "evaluation"]
    plan = [RunStep(name, lambda _, folder, __: work(str(folder.relative_to(tmp_path / "run")))) for name in names]
    with one_core():
        pipeline._run_steps(context, plan, "inputs", len(plan), True)
        cut_off(context.folder("plan") / "manifest.json")
        pipeline._run_steps(context, plan, "inputs", len(plan), True)
    assert done == [*names, *again]
