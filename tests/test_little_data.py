"""Runs with little data: limits, development lines, stages that stop; broken off, they end with the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toy import ToyRun, copy_of, make_toy_run, manifests, run_toy, without_seconds
from trelm.report.content import sections
from trelm.report.schema import read_report
from trelm.stages import PLAIN_STAGE, SCRATCH_STAGE, transfer_stages
from trelm.steps import training
from trelm.steps.scoring import score_text
from trelm.steps.selection import chooses_weights
from trelm.steps.streams import judged_sentences
from trelm.steps.training import load_model

SPECIFIC, SCRATCH = "stages/5-language-specific", "stages/scratch"
OVERRIDES = (
    "corpus.max_target_lines=60",
    "corpus.max_pairs=40",
    "corpus.development_lines=8",
    "training.patience=2",
    "training.evaluate_updates=1",
    "stages.language_specific.learning_rate=0.3",  # so high that nothing gets better
    "stages.language_specific.warmup=0",
    "budget.updates=14",
)


@pytest.fixture(scope="module")
def little(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A finished run with little data, whose language-specific stage stops; only to be read."""
    return make_toy_run(tmp_path_factory.mktemp("little"), tiny_bert, *OVERRIDES)


def test_the_stage_stops_and_its_model_is_the_best_on_the_development_lines(little: ToyRun) -> None:
    figures, context = manifests(little.folder)[SPECIFIC], little.context(*OVERRIDES)
    values, updates = (figures["development"][name] for name in ("bits_per_character", "updates"))
    assert figures["updates"] == updates[-1] < figures["planned_updates"] == context.figures("plan")["updates"][
        "language-specific"
    ]  # fmt: skip
    assert updates == list(range(1, figures["updates"] + 1))
    assert figures["best_update"] == updates[values.index(min(values))] == figures["updates"] - 2
    lines = context.lines("target-development.txt")
    assert len(lines) == 8
    scored = score_text(context, load_model(context, "language-specific"), lines)
    assert scored["bits_per_character"] == pytest.approx(min(values), rel=1e-6)


def test_cost_is_what_was_trained(little: ToyRun) -> None:
    figures, whole = manifests(little.folder)[SPECIFIC], manifests(little.folder)[SCRATCH]
    assert len(figures["curve"]["updates"]) == figures["updates"]
    assert figures["tokens"] == figures["curve"]["tokens"][-1]
    assert figures["flops"] / figures["updates"] == pytest.approx(whole["flops"] / whole["updates"], rel=0.2)
    assert figures["development"]["seconds"] > 0


def test_other_stages_train_as_planned(little: ToyRun) -> None:
    found = manifests(little.folder)
    for name in ("stages/1-commonality", "stages/2-transfer-upper", "stages/3-transfer-lower"):
        assert "development" not in found[name]
    assert found[SCRATCH]["planned_updates"] == 14
    assert [stage.name for stage in transfer_stages(0.5) if chooses_weights(stage)] == ["language-specific"]
    assert [chooses_weights(stage) for stage in (SCRATCH_STAGE, PLAIN_STAGE)] == [True, False]


def test_the_report_says_where_the_stage_stopped(little: ToyRun) -> None:
    figures = manifests(little.folder)[SPECIFIC]
    table = next(section for section in sections(read_report(little.folder)) if section.identifier == "steps").tables[0]
    cells = {row[0]: row[table.header.index("Updates")] for row in table.rows}
    planned, best = figures["planned_updates"], figures["best_update"]
    assert cells[SPECIFIC] == f"stopped after {figures['updates']} of {planned} (best: {best})"
    assert cells[SCRATCH].startswith("14 (best: ")
    assert cells["stages/1-commonality"].isdigit()
    dropped = [entry["dropped"] for entry in little.report["corpus"]["inputs"].values()]
    assert [entry["beyond_limit"] > 0 for entry in dropped] == [False, True, True]


def test_text_of_streams_that_is_a_development_line_would_be_left_out(little: ToyRun) -> None:
    context = little.context(*OVERRIDES)
    assert set(context.lines("target-development.txt")) <= set(judged_sentences(context))


def test_broken_off_while_it_is_scored_it_ends_with_the_same_bits(
    little: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(little, tmp_path / "run")
    context = run.context(*OVERRIDES)
    for name in (SPECIFIC, "stages/scratch", "evaluation", "export"):
        replace(context.run, folder=run.folder).step(name).forget()
    real, asked = training.score_text, list[int]()

    def interrupted(*arguments: Any) -> Any:
        asked.append(len(asked))
        if len(asked) in (2, 4, 7):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "score_text", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_toy(little.config(*OVERRIDES), run.folder)
    report = run_toy(little.config(*OVERRIDES), run.folder)
    assert without_seconds(report) == without_seconds(little.report)
    assert without_seconds(manifests(run.folder)) == without_seconds(manifests(little.folder))
    for path in little.folder.rglob("*.safetensors"):
        assert (run.folder / path.relative_to(little.folder)).read_bytes() == path.read_bytes(), path
    left = [path.name for path in run.folder.rglob("*")]
    assert not [name for name in left if name.startswith(("checkpoint-", "selected-"))]


def test_a_stage_whose_manifest_is_lost_is_done_again(little: ToyRun, tmp_path: Path) -> None:
    run = copy_of(little, tmp_path / "run")
    (run.folder / SPECIFIC / "manifest.json").unlink()
    run_toy(little.config(*OVERRIDES), run.folder, until=SPECIFIC)
    assert without_seconds(manifests(run.folder)[SPECIFIC]) == without_seconds(manifests(little.folder)[SPECIFIC])
