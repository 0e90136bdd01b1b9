"""Whole runs with other stages than the published ones: both halves in one stage, taught; and no transfer stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase

from toy import ToyRun, copy_of, export_toy, make_toy_run, one_core, run_toy, without_seconds
from trelm import pipeline
from trelm.corpus.ragged import Ragged
from trelm.stages import EVERYTHING, Stage
from trelm.steps import training
from trelm.steps.context import PLAN
from trelm.steps.teaching import load_teaching, teacher_of
from trelm.steps.training import STAGE_FOLDERS, planned_stages

NO_HALVES = ("stages.commonality.share=0", "stages.transfer_upper.share=0", "stages.transfer_lower.share=0")
JOINT = (
    *NO_HALVES,
    "stages.transfer_joint.share=2",
    "stages.transfer_joint.taught=0.5",
    "stages.transfer_joint.cross_lingual=0.25",
    "stages.transfer_joint.learning_rate=1e-3",
    "stages.plain.share=1",
    "budget.updates=12",
)
NO_TRANSFER = (*NO_HALVES, "stages.plain.share=1", "budget.updates=4", "baseline.scratch=false")
FINAL = "stages/6-plain/model/model.safetensors"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def joint_run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A whole run whose halves are transferred in one stage; only to be read."""
    return make_toy_run(tmp_path_factory.mktemp("joint"), tiny_bert, *JOINT)


@pytest.fixture(scope="module")
def bare_run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A whole run without any transfer stage; only to be read."""
    return make_toy_run(tmp_path_factory.mktemp("bare"), tiny_bert, *NO_TRANSFER)


def same_files(one: Path, other: Path) -> bool:
    """Whether two files of weights are the same to the last bit."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stages_of(report: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("stages/"): cost for name, cost in report["steps"].items() if "stages/" in name}


# What the joint stage reads, and what it leaves


def test_the_joint_stage_stands_where_the_halves_stood(joint_run: ToyRun) -> None:
    config = joint_run.config(*JOINT)
    assert planned_stages(config) == (
        Stage(
            "transfer-joint",
            EVERYTHING,
            "model",
            (("source-to-target", 0.125), ("target-to-source", 0.125), ("taught-text", 0.5), ("target-text", 0.25)),
        ),
        Stage("language-specific", EVERYTHING, "transfer-joint", (("target-text", 1.0),)),
        Stage("plain", EVERYTHING, "language-specific", (("target-text", 1.0),), anneals=True),
    )
    names = [step.name for step in pipeline.steps(config)]
    assert [name for name in names if "stages/" in name] == [
        "stages/2-transfer-joint", "stages/5-language-specific", "stages/6-plain", "stages/scratch",
    ]  # fmt: skip


def test_a_run_with_it_trains_is_scored_and_told(joint_run: ToyRun) -> None:
    report = joint_run.report
    updates = {name: cost["updates"] for name, cost in stages_of(report).items()}
    assert updates == {"2-transfer-joint": 4, "5-language-specific": 6, "6-plain": 2, "scratch": 12}
    assert all(cost["flops"] > 0 and cost["tokens"] > 0 for cost in stages_of(report).values())
    assert report["models"]["transferred"]["bits_per_character"] > 0
    assert report["cdlm"].keys() == {"pairs", "transfer_joint_source_to_target", "transfer_joint_target_to_source"}
    assert np.isfinite(report["curves"]["transfer-joint"]["loss"]).all()
    assert report["export"]["kind"] == "plain"
    for name in ("report.html", "report.md"):
        assert "transfer-joint" in (joint_run.folder / name).read_text(encoding="utf-8")


def test_every_layer_learns_in_it_and_no_weight_of_the_teacher_is_kept(joint_run: ToyRun) -> None:
    before = load_file(joint_run.folder / "model/start/model.safetensors")
    after = load_file(joint_run.folder / STAGE_FOLDERS["transfer-joint"] / "model/model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(any(f"encoder.layer.{number}." in name for name in moved) for number in range(4))


def test_its_plain_model_is_loaded_by_transformers_alone(joint_run: ToyRun, tmp_path: Path) -> None:
    found = export_toy(joint_run, tmp_path / "plain", kind="plain")
    assert found["check"]["largest_difference"] <= found["check"]["limit"]
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "plain")
    assert type(model).__name__ == "BertForMaskedLM"


def test_links_say_how_much_a_teacher_teaches(joint_run: ToyRun) -> None:
    context = joint_run.context(*JOINT)
    figures = context.figures("word-links")
    links = Ragged.load(context.folder("word-links"), "source-of-target")
    assert figures["linked_positions"] == int((links.values >= 0).sum())
    assert 0 < figures["taught_positions"] <= figures["linked_positions"]
    teaching = load_teaching(context)
    assert teaching is not None
    assert figures["teacher_tokens"] == len(teaching.read.values)
    assert figures["taught_positions"] == int((teaching.starts.values >= 0).sum())


def test_each_target_token_is_taught_by_what_covers_its_partner(joint_run: ToyRun) -> None:
    """Token by token and character by character, with the tokenizers' own calls."""
    context = joint_run.context(*JOINT)
    teaching = load_teaching(context)
    assert teaching is not None
    links = Ragged.load(context.folder("word-links"), "source-of-target")
    sentences = [line.split("\t")[0] for line in context.lines("parallel.tsv")]
    assert len(teaching.read) == len(teaching.starts) == len(teaching.ends) == len(links) == len(sentences)
    for number, sentence in enumerate(sentences):
        own, other = (covered(tokenizer, sentence) for tokenizer in (context.tokenizer, context.pretrained.tokenizer))
        assert teaching.read[number].tolist() == [token for token, _ in other]
        for link, start, end in zip(links[number], teaching.starts[number], teaching.ends[number], strict=True):
            its = own[link][1] if link >= 0 else set()
            places = [place for place, (_, characters) in enumerate(other) if its & characters]
            assert [*range(start, end)] == places
            assert (start == -1) == (not places)


def covered(tokenizer: PreTrainedTokenizerBase, sentence: str) -> list[tuple[int, set[int]]]:
    """Each token's id and characters."""
    found = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)
    return [(token, {*range(*span)}) for token, span in zip(found["input_ids"], found["offset_mapping"], strict=True)]


def test_the_teacher_is_the_published_encoder_and_teaches_in_the_middle_and_at_the_end(joint_run: ToyRun) -> None:
    context = joint_run.context(*JOINT, "stages.transfer_joint.teaching_weight=2.5")
    teacher = teacher_of(context)
    published = AutoModelForMaskedLM.from_pretrained(joint_run.model).bert.state_dict()
    found = teacher.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in published.items())
    assert (teacher.layers, teacher.weight) == (((2, 2), (-1, -1)), 2.5)
    assert not teacher.model.training
    assert not any(weight.requires_grad for weight in teacher.model.parameters())
    assert load_teaching(joint_run.context(*JOINT, "stages.transfer_joint.taught=0")) is None


@pytest.mark.parametrize("stage", ["transfer-joint", "language-specific"])
def test_interrupted_in_a_stage_it_ends_in_the_same_weights(
    joint_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    run = copy_of(joint_run, tmp_path / "run")
    for name in ("stages", "evaluation", "export"):
        shutil.rmtree(run.folder / name)
    run_stage = training.run_stage

    def cut_off(model: Any, given: Stage, batches: Any, settings: Any, folder: Path, on_update: Any, *rest: Any,
                **more: Any) -> Any:  # fmt: skip
        def stop(done: int, *_: Any) -> None:
            if given.name == stage and done == 3:
                raise KeyboardInterrupt

        return run_stage(model, given, batches, settings, folder, stop, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(training, "run_stage", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_toy(run.config(*JOINT), run.folder)
    assert list((run.folder / STAGE_FOLDERS[stage]).glob("checkpoint-*"))
    report = run_toy(run.config(*JOINT), run.folder)
    assert same_files(run.folder / FINAL, joint_run.folder / FINAL)
    assert without_seconds(report)["models"] == without_seconds(joint_run.report)["models"]


@pytest.mark.parametrize("budget", ["updates=12", "flops=1e9"])
def test_it_is_planned(joint_run: ToyRun, budget: str) -> None:
    with one_core():
        found = pipeline.estimate(joint_run.config(*JOINT, f"budget.{budget}"))
    rows = {row["name"]: row for row in found["steps"]}
    trained = [name for name, row in rows.items() if row["updates"]]
    assert trained == ["transfer-joint", "language-specific", "plain", "scratch"]
    assert "combination" not in rows
    assert rows["transfer-joint"]["basis"] == "measured"
    if budget == "updates=12":
        done = stages_of(joint_run.report)["2-transfer-joint"]
        assert rows["transfer-joint"]["updates"] == done["updates"]
        assert rows["transfer-joint"]["flops"] == pytest.approx(done["flops"], rel=0.1)
        assert rows["transfer-joint"]["tokens"] == pytest.approx(done["tokens"], rel=0.1)


# No transfer stage


def test_a_run_without_a_transfer_stage_goes_through(bare_run: ToyRun, tmp_path: Path) -> None:
    report = bare_run.report
    assert {name: cost["updates"] for name, cost in stages_of(report).items()} == {
        "5-language-specific": 3, "6-plain": 1,
    }  # fmt: skip
    assert planned_stages(bare_run.config(*NO_TRANSFER))[0].starts_from == "model"
    assert report["cdlm"].keys() == {"pairs"}
    assert report["models"]["transferred"]["bits_per_character"] > 0
    assert "language-specific" in (bare_run.folder / "report.html").read_text(encoding="utf-8")
    assert export_toy(bare_run, tmp_path / "plain", kind="plain")["kind"] == "plain"
    figures = bare_run.context(*NO_TRANSFER).figures("word-links")
    assert "taught_positions" not in figures  # no stage has a teacher, nothing is written for one
    assert load_teaching(bare_run.context(*NO_TRANSFER)) is None


def test_a_run_without_a_transfer_stage_is_planned(bare_run: ToyRun) -> None:
    with one_core():
        found = pipeline.estimate(bare_run.config(*NO_TRANSFER))
    assert [row["name"] for row in found["steps"] if row["updates"]] == ["language-specific", "plain"]
    assert "combination" not in [row["name"] for row in found["steps"]]


def test_the_plan_of_a_run_has_the_stages_of_its_configuration(joint_run: ToyRun) -> None:
    plan = joint_run.context(*JOINT).figures(PLAN)
    assert plan["updates"] == {"transfer-joint": 4, "language-specific": 6, "plain": 2, "scratch": 12}
    written = pipeline.read_run_config(joint_run.folder)
    assert written.stages == joint_run.config(*JOINT).stages
