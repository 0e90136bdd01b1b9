"""Whole runs: what they leave, how they go on after anything, what they refuse."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import trelm
from toy import (
    ToyRun,
    copy_of,
    hold_lock,
    manifests,
    one_core,
    run_and_die,
    run_toy,
    stamps,
    toy_config,
    toy_values,
    without_seconds,
    write_toy_data,
)
from trelm import pipeline
from trelm.errors import ConfigError, DataError, RunFolderError, TrelmError
from trelm.steps.context import RunStep
from trelm.steps.outcome import versions
from trelm.training.checkpoints import remove_checkpoints
from trelm.workspace import read_json

PREPARATION = ["corpus", "vocabulary", "tokens", "word-links", "embeddings", "alignment", "model", "diagnosis", "plan"]
STAGES = ["1-commonality", "2-transfer-upper", "3-transfer-lower", "4-combination", "5-language-specific", "scratch"]
STEPS = [*PREPARATION, *(f"stages/{name}" for name in STAGES), "evaluation", "export"]
EVERY_CALL = ("report.json", "report.md", "report.html", "card.yaml")
FINAL = "stages/5-language-specific/model/model.safetensors"
KILLS = 5


def work_of_steps(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of a run but those that every call writes again."""
    return {name: stamp for name, stamp in stamps(folder).items() if name not in EVERY_CALL}


def done(folder: Path) -> dict[str, int]:
    """When each manifest was written."""
    return {name: (folder / name / "manifest.json").stat().st_mtime_ns for name in manifests(folder)}


def refuse(kind: type[TrelmError], words: str, config: Any, folder: Path) -> None:
    """A run says why it does not begin, in one line, and leaves the folder as it was."""
    before = stamps(folder)
    with pytest.raises(kind, match=words) as caught:
        run_toy(config, folder)
    assert "\n" not in str(caught.value)
    assert stamps(folder) == before


# What a run leaves


def test_the_steps_are_those_of_the_method_in_its_order(toy_run: ToyRun) -> None:
    assert [step.name for step in pipeline.steps(toy_run.config())] == STEPS
    assert [step.name for step in pipeline.steps(toy_run.config("baseline.scratch=false"))] == [
        name for name in STEPS if name != "stages/scratch"
    ]
    with_plain = [*STEPS[: STEPS.index("stages/scratch")], "stages/6-plain", *STEPS[STEPS.index("stages/scratch") :]]
    assert [step.name for step in pipeline.steps(toy_run.config("stages.plain.share=1"))] == with_plain


def test_only_stages_that_train_go_on_from_checkpoints(toy_run: ToyRun) -> None:
    resuming = [step.name for step in pipeline.steps(toy_run.config()) if step.resumes]
    assert resuming == [f"stages/{name}" for name in STAGES if name != "4-combination"]


def test_every_step_leaves_a_manifest(toy_run: ToyRun) -> None:
    left = manifests(toy_run.folder)
    assert sorted(left) == sorted(STEPS)
    assert len({manifest["inputs"] for manifest in left.values()}) == 1
    for name, manifest in left.items():
        assert manifest["step"] == name
        assert manifest["seconds"] >= 0
        assert manifest["seed"] == 1
        assert manifest["versions"] == versions()


def test_the_report_has_the_names_that_others_rely_on(toy_run: ToyRun) -> None:
    report = toy_run.report
    for model in ("start", "transferred", "scratch"):
        scores = report["models"][model]
        assert scores["bits_per_character"] > 0
        assert 0 <= scores["masked_accuracy"] <= 1
        assert scores["masked_loss"] > 0
        assert scores["tasks"]["toy"]["bits_per_character"] > 0
    assert report["alignment"]["method"] == "parallel"
    assert report["alignment"]["precision_at_1"] > 0.01
    assert list(report["steps"]) == STEPS
    assert all(cost.keys() >= {"seconds", "tokens", "flops"} for cost in report["steps"].values())
    assert report["export"]["path"] == str(toy_run.folder / "export")
    assert report["languages"] == {"source": "en", "target": "xx"}
    assert report["budget"] == {"updates": 12}
    assert report["seed"] == 1


def test_the_report_counts_what_was_trained(toy_run: ToyRun) -> None:
    trained = {
        name.removeprefix("stages/"): cost for name, cost in toy_run.report["steps"].items() if "stages/" in name
    }
    updates = {name: cost["updates"] for name, cost in trained.items() if name != "4-combination"}
    assert updates == dict(zip([*STAGES[:3], *STAGES[4:]], [2, 2, 2, 6, 12], strict=True))
    assert all(cost["tokens"] > 0 and cost["flops"] > 0 for name, cost in trained.items() if name != "4-combination")
    assert trained["4-combination"].keys() == {"seconds", "tokens", "flops"}
    curves = toy_run.report["curves"]
    assert sorted(curves) == ["commonality", "language-specific", "scratch", "transfer-lower", "transfer-upper"]
    assert curves["scratch"]["updates"] == [*range(1, 13)]
    assert all(np.isfinite(curve["loss"]).all() for curve in curves.values())


def test_training_is_worth_it_even_here(toy_run: ToyRun) -> None:
    models = toy_run.report["models"]
    assert models["transferred"]["bits_per_character"] < models["start"]["bits_per_character"]


def test_the_report_is_written_in_three_forms(toy_run: ToyRun) -> None:
    assert read_json(toy_run.folder / "report.json") == toy_run.report
    page = (toy_run.folder / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    bits = f"{toy_run.report['models']['transferred']['bits_per_character']:.3f}"
    assert bits in page
    assert bits in (toy_run.folder / "report.md").read_text(encoding="utf-8")


def test_a_finished_run_keeps_no_checkpoints_and_no_half_written_files(toy_run: ToyRun) -> None:
    names = [path.name for path in toy_run.folder.rglob("*")]
    assert not [name for name in names if name.startswith("checkpoint-") or name.endswith(".part")]


def test_no_file_of_a_run_is_a_pickle(toy_run: ToyRun) -> None:
    for path in (path for path in toy_run.folder.rglob("*") if path.is_file()):
        begin = path.read_bytes()[:4]
        assert path.suffix not in (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"), path
        assert begin != b"PK\x03\x04", path  # torch.save
        assert not (begin[:1] == b"\x80" and begin[1:2] <= b"\x05"), path  # pickle, protocols 2 to 5
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


# Again, until, on from there


def test_running_again_does_nothing(toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    before, told = work_of_steps(run.folder), {name: (run.folder / name).read_bytes() for name in EVERY_CALL}
    plan = pipeline.steps

    def work(*_: Any) -> dict[str, Any]:
        raise AssertionError("a step that is done was done again")

    monkeypatch.setattr(pipeline, "steps", lambda config: [RunStep(s.name, work, s.resumes) for s in plan(config)])
    assert run_toy(run.config(), run.folder) == run.report
    assert work_of_steps(run.folder) == before
    assert {name: (run.folder / name).read_bytes() for name in EVERY_CALL} == told


def test_until_stops_there_and_the_next_call_goes_on(toy_run: ToyRun, tmp_path: Path) -> None:
    figures = run_toy(toy_run.config(), tmp_path / "run", until="tokens")
    assert figures == manifests(tmp_path / "run")["tokens"]
    assert sorted(manifests(tmp_path / "run")) == ["corpus", "tokens", "vocabulary"]
    before = work_of_steps(tmp_path / "run")

    figures = run_toy(toy_run.config(), tmp_path / "run", until="transfer-upper")
    assert figures["step"] == "stages/2-transfer-upper"
    assert sorted(manifests(tmp_path / "run")) == sorted(STEPS[: STEPS.index("stages/3-transfer-lower")])
    assert not (tmp_path / "run" / "report.json").exists()
    assert before.items() <= work_of_steps(tmp_path / "run").items()

    report = run_toy(toy_run.config(), tmp_path / "run", until="export")
    assert without_seconds(report) == without_seconds(toy_run.report)


def test_a_diagnosis_is_a_run_that_goes_on(toy_run: ToyRun, tmp_path: Path) -> None:
    with one_core():
        found = trelm.diagnose(toy_run.config(), tmp_path / "run", quiet=True)
    assert found == toy_run.report["diagnosis"]
    assert sorted(manifests(tmp_path / "run")) == sorted(STEPS[: STEPS.index("plan")])
    before = work_of_steps(tmp_path / "run")
    report = run_toy(toy_run.config(), tmp_path / "run")
    assert without_seconds(report) == without_seconds(toy_run.report)
    assert before.items() <= work_of_steps(tmp_path / "run").items()


def test_until_takes_the_name_of_a_folder_too(toy_run: ToyRun, tmp_path: Path) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    for name in ("stages/4-combination", "combination"):
        assert run_toy(run.config(), run.folder, until=name)["step"] == "stages/4-combination"
    assert run_toy(run.config(), run.folder, until="word-links")["step"] == "word-links"


def test_an_unknown_step_is_said(toy_run: ToyRun, tmp_path: Path) -> None:
    words = r"^--until aligment: unknown step \(known: corpus, vocabulary, .*, export.*\).*alignment"
    with pytest.raises(ConfigError, match=words):
        run_toy(toy_run.config(), tmp_path / "run", until="aligment")
    assert not (tmp_path / "run").exists()


def test_a_broken_off_step_is_done_again_from_a_clean_folder(toy_run: ToyRun, tmp_path: Path) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    (run.folder / "evaluation" / "manifest.json").unlink()
    (run.folder / "evaluation" / "left-over.txt").write_text("x")
    report = run_toy(run.config(), run.folder)
    assert without_seconds(report) == without_seconds(toy_run.report)
    assert not (run.folder / "evaluation" / "left-over.txt").exists()


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on_to_the_same_model(toy_run: ToyRun, tmp_path: Path) -> None:
    folder, processes = tmp_path / "run", multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trelm.pipeline"])
    values, random = toy_values(toy_run.data, toy_run.model), np.random.default_rng(11)
    before: dict[str, int] = {}
    checkpoints = 0
    for moment in random.integers(10, 900, KILLS):
        child = processes.Process(target=run_and_die, args=(values, str(folder), int(moment)))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        assert before.items() <= done(folder).items()
        before, checkpoints = done(folder), checkpoints + len(list(folder.glob("stages/*/checkpoint-*")))
    assert checkpoints > 0
    assert 0 < len(before) < len(STEPS)

    report = run_toy(toy_run.config(), folder)
    assert before.items() <= done(folder).items()
    assert without_seconds(report) == without_seconds(toy_run.report)
    for name in (FINAL, "stages/scratch/model/model.safetensors", "export/model.safetensors"):
        assert (folder / name).read_bytes() == (toy_run.folder / name).read_bytes(), name


# Seeds


def test_the_same_seed_gives_the_same_report(toy_run: ToyRun, tmp_path: Path) -> None:
    report = run_toy(toy_run.config(), tmp_path / "run")
    assert without_seconds(report) == without_seconds(toy_run.report)
    assert (tmp_path / "run" / FINAL).read_bytes() == (toy_run.folder / FINAL).read_bytes()


def test_another_seed_gives_another_model(toy_run: ToyRun, tmp_path: Path) -> None:
    report = run_toy(toy_run.config("seed=2"), tmp_path / "run")
    assert report["seed"] == 2
    for model in ("start", "transferred", "scratch"):
        assert report["models"][model]["masked_loss"] != toy_run.report["models"][model]["masked_loss"]
    for name in (FINAL, "model/random/model.safetensors"):
        ours, theirs = load_file(tmp_path / "run" / name), load_file(toy_run.folder / name)
        assert any((ours[key] != theirs[key]).any() for key in ours), name
    assert report["corpus"] == toy_run.report["corpus"]  # what is held out depends on the text alone


# What a run refuses


def test_a_folder_of_another_configuration_is_refused(toy_run: ToyRun, tmp_path: Path) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    words = r"belongs to another configuration \(there 'seed: 1', here 'seed: 2'\); choose another --run folder"
    refuse(RunFolderError, words, run.config("seed=2"), run.folder)
    words = r"\(there 'updates: 12', here 'updates: 13'\)"
    refuse(RunFolderError, words, run.config("budget.updates=13"), run.folder)


def test_a_folder_of_other_input_is_refused(toy_run: ToyRun, tmp_path: Path) -> None:
    write_toy_data(tmp_path / "data")
    config = toy_config(tmp_path / "data", toy_run.model)
    run_toy(config, tmp_path / "run", until="vocabulary")
    for name in ("source.txt", "target.txt", "pairs.tsv", "dictionary.tsv", "evaluation.txt"):
        path = tmp_path / "data" / name
        old, size = path.read_bytes(), path.stat().st_size
        path.write_bytes(old + b"x\ty\n")
        words = rf"{name} {size} bytes', here '.*{name} {size + 4} bytes'\); choose another --run folder"
        refuse(RunFolderError, words, config, tmp_path / "run")
        path.write_bytes(old)
    run_toy(config, tmp_path / "run", until="vocabulary")


def test_a_folder_of_other_things_is_refused(toy_run: ToyRun, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refuse(RunFolderError, "expected an empty folder or a run, found other files", toy_run.config(), tmp_path)
    with pytest.raises(RunFolderError, match=r"notes\.txt: expected a folder, found a file"):
        run_toy(toy_run.config(), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_second_process_is_refused(toy_run: ToyRun, tmp_path: Path) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trelm.pipeline"])
    held, free = processes.Event(), processes.Event()
    first = processes.Process(target=hold_lock, args=(str(run.folder), held, free))
    first.start()
    try:
        assert held.wait(60)
        refuse(RunFolderError, "another process is working in this run folder", run.config(), run.folder)
    finally:
        free.set()
        first.join(60)
    assert run_toy(run.config(), run.folder) == run.report


def test_a_missing_file_is_said_before_there_is_a_folder(toy_run: ToyRun, tmp_path: Path) -> None:
    config = toy_run.config(f"source.text=[{tmp_path / 'none.txt'}]")
    with pytest.raises(DataError, match=r"none\.txt"):
        run_toy(config, tmp_path / "run")
    with pytest.raises(DataError, match=r"none\.txt"):
        pipeline.estimate(config)
    assert not (tmp_path / "run").exists()


# Inputs


def test_every_input_file_is_described_with_its_size(toy_run: ToyRun) -> None:
    names = ["source.txt", "target.txt", "pairs.tsv", "dictionary.tsv", "evaluation.txt"]
    expected = [f"{toy_run.data / name} {(toy_run.data / name).stat().st_size} bytes" for name in names]
    assert pipeline.describe_inputs(toy_run.config()) == expected


def test_two_line_aligned_files_and_globs_are_inputs_hub_data_sets_are_not(toy_run: ToyRun) -> None:
    sides = f"{{source: {toy_run.data / 'source.txt'}, target: {toy_run.data / 'target.txt'}}}"
    config = toy_run.config(
        f"parallel=[{sides}, 'hf://some/pairs:en,xx']", f"source.text=['{toy_run.data / '*.txt'}']", "evaluation=[]"
    )
    described = [line.split()[0].rpartition("/")[2] for line in pipeline.describe_inputs(config)]
    assert described == ["evaluation.txt", "source.txt", "target.txt", "target.txt", "source.txt", "target.txt"]


# The other commands


def test_evaluate_reads_its_tasks_from_a_file(toy_run: ToyRun, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(f"evaluation: [{{task: text, name: toy, test: [{toy_run.data / 'evaluation.txt'}]}}]")
    with_one_name = pipeline.evaluate(str(toy_run.model), tasks)
    assert list(with_one_name) == ["toy"]
    assert with_one_name["toy"]["lines"] == 12


def test_export_needs_a_finished_run(toy_run: ToyRun, tmp_path: Path) -> None:
    pipeline.export(toy_run.folder, tmp_path / "exported")
    assert (tmp_path / "exported" / "model.safetensors").read_bytes() == (toy_run.folder / FINAL).read_bytes()
    with pytest.raises(ConfigError, match=r"expected a run folder with a config\.yaml, found none"):
        pipeline.export(tmp_path, tmp_path / "again")
    run_toy(toy_run.config(), tmp_path / "run", until="corpus")
    with pytest.raises(RunFolderError, match="step 'evaluation' is not done"):
        pipeline.export(tmp_path / "run", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_without_a_baseline_there_is_nothing_of_it_anywhere(toy_run: ToyRun, tmp_path: Path) -> None:
    report = run_toy(toy_run.config("baseline.scratch=false"), tmp_path / "run")
    assert list(report["models"]) == ["start", "transferred"]
    assert report["models"]["transferred"] == toy_run.report["models"]["transferred"]
    assert "scratch" not in report["curves"]
    assert "stages/scratch" not in report["steps"]
    assert "scratch" not in report["plan"]["updates"]
    assert report["baseline_rule"] == "No from-scratch model was trained."
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name in ("scratch", "random")]
    card = (tmp_path / "run" / "export" / "README.md").read_text(encoding="utf-8")
    assert "| scratch |" not in card


def test_no_checkpoint_outlives_its_stage(toy_run: ToyRun, tmp_path: Path) -> None:
    assert not list(toy_run.folder.rglob("checkpoint-*"))
    left = tmp_path / "stage" / "checkpoint-7"
    left.mkdir(parents=True)
    (left / "complete.json").write_text("{}", encoding="utf-8")
    remove_checkpoints(tmp_path / "stage")
    assert not left.exists()
