"""Cells computed from a prepared folder: what they find is what they find in the comparison's own folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_whole_comparisons import without_times
from toy_comparison import compare_toy, comparison_config
from transformers import AutoModelForMaskedLM, AutoTokenizer

from toy import one_core
from trelm import pipeline
from trelm.comparison import inputs, portable_running, portable_writing, work
from trelm.comparison import run as run_module
from trelm.comparison.cell import start_model
from trelm.comparison.portable import load_portable
from trelm.comparison.portable_running import Timetable
from trelm.comparison.portable_writing import check_portable
from trelm.comparison.run import Job
from trelm.config import Config, make_config
from trelm.errors import ComparisonError, ConfigError, RunFolderError, TrainingError
from trelm.report.comparison_page import write_comparison
from trelm.steps import outcome
from trelm.workspace import read_json, write_json, write_sealed

ARMS = "trelm-recommended,no-ordering,scratch,source-tokenizer,random,counts,counts+own"
OF_STAGE = "stages.language_specific"
VARIANTS = f"comparison.variants={{counts+own: {{{OF_STAGE}.mask_rate: 0.3, {OF_STAGE}.body_learning_rate: 3.0e-4}}}}"

SMALL = ("budget.updates=4", "training.batch_tokens=128")


@pytest.fixture(scope="module")
def half_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with weights that half precision holds exactly."""
    folder = tmp_path_factory.mktemp("half-bert")
    model = AutoModelForMaskedLM.from_pretrained(str(tiny_bert))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(tiny_bert)).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def rounded_rows() -> Iterator[None]:
    """Start tables in half precision here too: that is what a folder carries of rows that are no mixtures."""

    def halved(context: Any) -> Any:
        made = real(context)
        if context.config.embeddings.initialisation not in ("trelm", "recommended"):
            return made
        return replace(made, words=made.words.astype(np.float16).astype(np.float32))

    real = inputs.initialise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "initialise", halved)
        yield


@pytest.fixture(scope="module")
def config(half_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Six arms and a variant, a budget of FLOPs, parts of speech and a set of text."""
    data = tmp_path_factory.mktemp("portable-data")
    seldom = "training.checkpoint_minutes=9"
    made = comparison_config(data, half_bert, f"comparison.arms=[{ARMS}]", VARIANTS, "budget.flops=1.0e+9", seldom)
    text = {"task": "text", "name": "toy", "test": [str(data / "evaluation.txt")]}
    return make_config({**plain(made), "evaluation": [*plain(made)["evaluation"], text]}, origin="toy")


def plain(config: Config) -> dict[str, Any]:
    """The configuration as plain values, with the one budget that it has."""
    return {**config.model_dump(mode="json"), "budget": config.budget.model_dump(exclude_none=True)}


def prepare(config: Config, run: Path, to: Path, **options: Any) -> dict[str, Any]:
    with one_core():
        return pipeline.prepare_for_elsewhere(config, run, to, quiet=True, **options)


def run_cells(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    with one_core():
        return pipeline.run_prepared(folder, out, quiet=True, **options)


@pytest.fixture(scope="module")
def prepared(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The comparison's folder, the prepared one, and what was said of it; only to be read."""
    place = tmp_path_factory.mktemp("prepared")
    said = prepare(config, place / "run", place / "portable")
    shutil.move(place / "portable", place / "elsewhere")
    return place / "run", place / "elsewhere", said


@pytest.fixture(scope="module")
def results(
    config: Config,
    prepared: tuple[Path, Path, dict[str, Any]],
    rounded_rows: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """All cells in the comparison's folder, and all of them from the prepared one, whose data are gone meanwhile."""
    place = tmp_path_factory.mktemp("both")
    shutil.copytree(prepared[0], place / "run")
    compare_toy(config, place / "run")
    data = Path(config.target.text[0]).parent
    data.rename(data.with_name("gone"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            run_cells(prepared[1], place / "out")
    finally:
        data.with_name("gone").rename(data)
    return place / "run", place / "out"


@pytest.mark.slow
def test_a_stage_with_a_teacher_and_one_that_ends_early_are_carried_whole(
    half_bert: Path, rounded_rows: None, tmp_path: Path
) -> None:
    taught = {"share": 2, "taught": 0.3, "cross_lingual": 0.3}
    stages = [f"stages.transfer_joint.{name}={value}" for name, value in taught.items()]
    stages += ["stages.transfer_upper.share=0", "stages.transfer_lower.share=0", "comparison.arms=[trelm-recommended]"]
    early = ["corpus.development_lines=10", "training.patience=1", "training.evaluate_updates=1"]
    config = comparison_config(tmp_path / "data", half_bert, *stages, *early)
    prepare(config, tmp_path / "run", tmp_path / "portable")
    elsewhere = run_cells(tmp_path / "portable", tmp_path / "out")["cells"]
    here = compare_toy(config, tmp_path / "run")["cells"]
    assert without_times(elsewhere) == without_times(here)
    assert {"transfer-joint", "language-specific"} <= set(here[0]["stages"])
    assert here[0]["stages"]["language-specific"]["development"]["updates"]


@pytest.mark.slow
def test_a_budget_that_is_set_there_is_the_cells_and_what_is_done_is_not_done_again(
    prepared: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in its stage, too, it ends as if it had not been."""
    options: dict[str, Any] = {"arms": ["scratch"], "overrides": [*SMALL, "training.checkpoint_minutes=1.0e-6"]}
    (whole,) = run_cells(prepared[1], tmp_path / "whole", **options)["cells"]
    assert (whole["budget"], whole["cost"]["updates"]) == ({"updates": 4}, 4)

    real, seen = work.point, []

    def interrupted(cell: Any, model: Any) -> float:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(cell, model)

    monkeypatch.setattr(work, "point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cells(prepared[1], tmp_path / "out", **options)
    moved = tmp_path / "moved"
    shutil.copytree(prepared[1], moved)
    monkeypatch.setattr(work, "plan_cell", lambda *_: pytest.fail("a step is done again"))
    (again,) = run_cells(moved, tmp_path / "out", **options)["cells"]
    assert without_times(again) == without_times(whole)
    monkeypatch.setattr(run_module, "_do_cell", lambda *_: pytest.fail("a cell is computed again"))
    assert run_cells(prepared[1], tmp_path / "out", **options)["cells"] == [again]
    with pytest.raises(ComparisonError, match=r"--out .*out: expected the folder of this comparison with this budget"):
        run_cells(prepared[1], tmp_path / "out", arms=["scratch"])


def test_a_cell_that_fails_is_named_and_the_others_go_on(
    prepared: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did = []

    def fails_twice(cell: Any, result: Path, tell: Any) -> None:
        did.append(cell.name)
        if len(did) == 1:
            raise TrainingError("the loss is no number")
        if len(did) == 2:
            raise RuntimeError("CUDA error\nmore")
        result.parent.mkdir(parents=True)
        result.write_text(json.dumps({"arm": cell.name}), encoding="utf-8")

    monkeypatch.setattr(run_module, "_do_cell", fails_twice)
    with pytest.raises(
        ComparisonError, match=r"2 of the cells could not be done, the first: scratch/seed-1: the loss is"
    ):
        run_cells(prepared[1], tmp_path / "out", arms=["scratch", "random", "counts"])
    assert did == ["scratch", "random", "counts"]
    failed = read_json(tmp_path / "out" / "failed.json")
    assert failed["scratch/seed-1"] == "the loss is no number"
    assert failed["random/seed-1"].startswith("RuntimeError: CUDA error (test_portable_cells.py, line ")
    done = run_cells(prepared[1], tmp_path / "out", arms=["scratch", "random", "counts"])
    assert [cell["arm"] for cell in done["cells"]] == ["scratch", "random", "counts"]
    assert not (tmp_path / "out" / "failed.json").exists()


def test_with_little_time_no_cell_begins_that_would_not_end(
    prepared: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def takes_fifty_seconds(cell: Any, result: Path, tell: Any) -> None:
        now[0] += 50
        result.parent.mkdir(parents=True)
        result.write_text(json.dumps({"arm": cell.name}), encoding="utf-8")

    monkeypatch.setattr(run_module, "_do_cell", takes_fifty_seconds)
    monkeypatch.setattr(portable_running, "time", SimpleNamespace(monotonic=lambda: now[0]))
    options: dict[str, Any] = {"arms": ["scratch", "random", "counts"], "minutes": 2}
    first = run_cells(prepared[1], tmp_path / "out", **options)
    assert ([cell["arm"] for cell in first["cells"]], first["left"]) == (["scratch", "random"], ["counts/seed-1"])
    none = run_cells(prepared[1], tmp_path / "out", **{**options, "minutes": 0.5})
    assert none["left"] == ["counts/seed-1"]
    last = run_cells(prepared[1], tmp_path / "out", **options)
    assert (len(last["cells"]), last["left"]) == (3, [])


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_a_cell_is_that_of_its_arm_else_the_longest(tmp_path: Path) -> None:
    clock = Clock()

    def job(name: str, seed: int) -> Job:
        return Job(
            name, seed, tmp_path / f"{name}-{seed}.json", lambda: pytest.fail("made"), tmp_path / name / str(seed)
        )

    def doing(jobs: list[Job], deadline: float, seconds: dict[str, float]) -> Timetable:
        table = Timetable(tmp_path / "seconds.json", deadline, clock)
        for one in table.jobs(jobs):
            clock.now += seconds[one.name]
            one.result.touch()
        return table

    table = doing([job("a", 1), job("b", 1), job("a", 2), job("b", 2)], 120, {"a": 10, "b": 60})
    assert table.left == ["b/seed-2"]  # 80 s gone; another b would take 60
    assert read_json(tmp_path / "seconds.json") == {"a/seed-1": 10, "b/seed-1": 60, "a/seed-2": 10}
    assert doing([job("b", 1), job("a", 3)], clock.now + 15, {"a": 10, "b": 0}).left == []
    assert doing([job("c", 1)], clock.now + 50, {}).left == ["c/seed-1"]
    assert doing([job("c", 1)], clock.now + 60, {"c": 1}).left == []


def test_a_cell_that_goes_on_where_it_was_cut_off_tells_no_time(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    job = Job("a", 1, tmp_path / "a.json", lambda: pytest.fail("made"), tmp_path / "cell")
    for one in Timetable(tmp_path / "seconds.json", None, Clock()).jobs([job]):
        one.result.touch()
    assert not (tmp_path / "seconds.json").exists()


def test_the_folder_holds_what_its_cells_need_and_no_path_of_the_machine(
    config: Config, prepared: tuple[Path, Path, dict[str, Any]]
) -> None:
    run, folder, said = prepared
    assert said["cells"] == [f"{name}/seed-1" for name in ARMS.split(",")]
    assert said["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert said["warning"] is None
    tops = {path.name for path in folder.iterdir()}
    carried = {"arrays", "evaluation", "lines", "rows", "source", "source-tokenizer", "tokenizer"}
    assert tops == {"config.yaml", "manifest.json", *carried}
    texts = [path for path in folder.rglob("*") if path.suffix in (".json", ".yaml")]
    data = str(Path(config.target.text[0]).parent)
    assert not [path for path in texts for place in (str(run), data, config.source.model) if place in path.read_text()]
    assert read_json(run / "comparison.json")["seeds"] == [1]


def test_fewer_cells_need_less(
    config: Config, prepared: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of TreLM alone, the source's tables stay behind; of scratch alone, all its weights."""
    monkeypatch.setattr(portable_writing, "MUCH", 10)
    ours = prepare(config, prepared[0], tmp_path / "ours", arms=["trelm-recommended"])
    scratch = prepare(config, prepared[0], tmp_path / "scratch", arms=["scratch"], seeds=[1])
    assert ours["cells"] == ["trelm-recommended/seed-1"]
    assert scratch["bytes"] < ours["bytes"] < prepared[2]["bytes"]
    assert "the largest parts: tokenizer" in scratch["warning"]
    assert "several folders with --arms and --seeds" in scratch["warning"]
    assert not (tmp_path / "ours" / "source-tokenizer").exists()
    assert load_portable(tmp_path / "scratch").source.backbone is None
    table = load_portable(tmp_path / "ours").source.table
    assert torch.isnan(table).all()
    mine, all_of_it = (
        start_model(load_portable(folder).cell("trelm-recommended", 1, tmp_path / "work"))
        for folder in (tmp_path / "ours", prepared[1])
    )
    weights = all_of_it.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in mine.state_dict().items())


def test_what_lies_on_the_path_alone_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "gensim":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(outcome, "version", version)
    found = outcome.versions()
    assert (found["gensim"], found["torch"]) == ("not installed", "1")


# What is refused


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"budget": {"minutes": 5}}, "--prepare: expected a budget in flops, tokens or updates, found 5 minutes"),
        (
            {"target": {"stream": ["hf://a/train"]}},
            r"found target.stream \(hf://a/train\), which is read while training",
        ),
        (
            {"evaluation": [{"task": "text", "test": ["hf://a/test"]}]},
            r"--prepare: evaluation 'text': expected files, found an hf:// name \('hf://a/test'\)",
        ),
    ],
)
def test_what_cannot_be_carried_is_told(config: Config, tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    values = plain(config)
    for section, value in changed.items():
        merge = isinstance(value, dict) and section != "budget"
        values[section] = {**values[section], **value} if merge else value
    with pytest.raises(ComparisonError, match=words):
        check_portable(make_config(values, origin="toy"), tmp_path / "new")


def test_a_folder_that_is_there_is_not_written_over(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match=r"--prepare: expected a new folder, found .*; remove it or name another"):
        check_portable(config, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": ["focus"]}, r"--arms focus: expected one of trelm-recommended, .*counts\+own, found another"),
        ({"seeds": [2]}, "--seeds 2: expected one of 1, found another"),
        (
            {"overrides": ["stages.scratch.share=2"]},
            "expected a setting of budget or training, found one of what is pre",
        ),
        ({"overrides": ["budget.minutes=2"]}, "--set budget.minutes: expected flops, tokens or updates, found minutes"),
    ],
)
def test_what_was_not_prepared_is_told(
    prepared: tuple[Path, Path, dict[str, Any]], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ComparisonError, match=words):
        run_cells(prepared[1], tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="device"):
        run_cells(prepared[1], tmp_path / "out", overrides=["training.device=tpu"])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_as_it_was_written_is_refused(
    prepared: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(ComparisonError, match=r"found no manifest\.json there; check the path"):
        load_portable(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(prepared[1], folder)
    (folder / "lines" / "target-held-out.txt").write_text("other\n", encoding="utf-8")
    with pytest.raises(
        ComparisonError, match=r"target-held-out.txt: expected .* bytes, found 6; copy the prepared folder"
    ):
        load_portable(folder)
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "format": 2})
    with pytest.raises(RunFolderError, match="found another digest"):
        load_portable(folder)
    manifest.pop("sha256")
    write_sealed(folder / "manifest.json", {**manifest, "format": 2})
    with pytest.raises(ComparisonError, match="expected a prepared comparison of form 1, found form 2"):
        load_portable(folder)


def test_weights_that_do_not_fit_the_encoder_are_refused(
    prepared: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    portable = load_portable(prepared[1])
    body = dict(list(portable.manifest["source"]["backbone"].items())[2:])
    source = {**portable.manifest["source"], "backbone": body}
    with pytest.raises(ComparisonError, match="expected the weights of a BertModel, found 2 missing"):
        _ = replace(portable, manifest={**portable.manifest, "source": source}).source


@pytest.mark.slow
def test_the_results_are_read_by_the_report(results: tuple[Path, Path], tmp_path: Path) -> None:
    """Copied to where the comparison keeps them, they make the same page."""
    shutil.copytree(results[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "results")
    shutil.copytree(results[1], tmp_path / "run" / "results")
    page = write_comparison(tmp_path / "run")["markdown"].read_text(encoding="utf-8")
    assert all(f"| {name} |" in page.replace("**", "") for name in ("scratch", "counts"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS.split(","))
def test_a_cell_elsewhere_finds_bit_for_bit_what_it_finds_here(results: tuple[Path, Path], name: str) -> None:
    here = read_json(results[0] / "results" / name / "seed-1.json")
    elsewhere = read_json(results[1] / name / "seed-1.json")
    assert without_times(elsewhere) == without_times(here)
    assert set(elsewhere) == set(here)
    assert {"toy", "letters", "bits_per_character"} <= set(elsewhere["metrics"])
