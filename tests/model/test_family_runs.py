"""Whole runs of a tiny encoder of each family on toy text: every stage, and the plain model at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import SETTINGS, save_source
from transformers import AutoModelForMaskedLM, AutoTokenizer

from toy import run_toy, toy_config, write_toy_data
from trelm import pipeline
from trelm.model.families import FAMILIES
from trelm.stages import LANGUAGE_SPECIFIC, PLAIN, TRANSFER_JOINT
from trelm.steps.context import Context, quiet_transformers
from trelm.steps.training import STAGE_FOLDERS, load_model
from trelm.workspace import Run

RUNS = (
    *(
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "electra-discriminator",
        "electra-generator",
        "distilbert",
        "mpnet",
    ),
    *("deberta-v2", "deberta-v3", "modernbert", "eurobert", "nomic-bert"),
)
OVERRIDES = ("budget.updates=16", "stages.plain.share=2", "embeddings.epochs=1", "word_links.iterations=2")
NOTHING_TO_ANNEAL = ("mpnet", "nomic-bert")
SENTENCES = ["eht dna fo", "saw taht rof eh no", "siht eb"]


@dataclass(frozen=True)
class FamilyRun:
    """A finished run."""

    name: str
    folder: Path
    report: dict[str, Any]

    def context(self) -> Context:
        return Context(self.config, Run(self.folder))

    @property
    def config(self) -> Any:
        return pipeline.read_run_config(self.folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy-text")
    write_toy_data(folder)
    return folder


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> FamilyRun:
    """A run of five layers, an odd number, with a plain stage."""
    folder = tmp_path_factory.mktemp(request.param)
    source = save_source(request.param, folder / "source", layers=5)
    report = run_toy(toy_config(data, source, *OVERRIDES), folder / "run")
    return FamilyRun(request.param, folder / "run", report)


def logits_of(model: Any, folder: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    model.eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(**batch).logits[batch["attention_mask"].bool()]
    return logits


def test_every_list_of_families_has_a_run() -> None:
    assert {SETTINGS[name][0] for name in RUNS} == set(FAMILIES)


def test_all_stages_train_and_both_models_are_scored(run: FamilyRun) -> None:
    manifests = {name: run.context().run.step(folder).manifest() for name, folder in STAGE_FOLDERS.items()}
    assert manifests.pop(TRANSFER_JOINT) is None  # the halves have a stage each
    assert all(manifest is not None for manifest in manifests.values())
    for name, manifest in manifests.items():
        if name != "combination":
            assert manifest is not None
            assert manifest["updates"] >= 2
            assert manifest["flops"] > 0
            assert all(loss > 0 for loss in manifest["curve"]["loss"])
    for name in ("transferred", "scratch"):
        assert 0 < run.report["models"][name]["bits_per_character"] < 12
        assert run.report["models"][name]["unknown_tokens"] == 0


def test_the_plain_stage_ends_with_nothing_that_a_plain_model_cannot_hold(run: FamilyRun) -> None:
    context = run.context()
    with quiet_transformers():
        assert load_model(context, LANGUAGE_SPECIFIC).config.plainness == 0.0
        assert load_model(context, PLAIN).config.plainness == 1.0


def test_the_export_is_an_ordinary_model_of_the_family(run: FamilyRun) -> None:
    folder, family = run.folder / "export", FAMILIES[SETTINGS[run.name][0]]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [family.masked_lm.__name__]
    assert config["model_type"] == family.model_type
    assert "trelm" not in json.dumps(config)
    with quiet_transformers():
        plain, ours = AutoModelForMaskedLM.from_pretrained(folder), load_model(run.context(), PLAIN)
    assert type(plain) is family.masked_lm
    assert plain.config.num_hidden_layers == 6
    difference = (logits_of(plain, folder) - logits_of(ours, folder)).abs().max()
    assert float(difference) < 1e-5


def test_the_check_of_the_export_is_in_the_report(run: FamilyRun) -> None:
    export = run.report["export"]
    assert export["kind"] == "plain"
    assert export["check"]["sentences"] == 20
    assert 0 <= export["check"]["largest_difference"] <= export["check"]["limit"]
    assert bool(export["check"]["trained_away"]) == (run.name not in NOTHING_TO_ANNEAL)


def test_special_tokens_of_the_plain_model_are_those_of_its_tokenizer(run: FamilyRun) -> None:
    folder = run.folder / "export"
    tokenizer, config = AutoTokenizer.from_pretrained(folder), json.loads((folder / "config.json").read_text())
    for role in ("pad", "cls", "sep", "mask"):
        stated = config.get(f"{role}_token_id")
        assert stated is None or stated == getattr(tokenizer, f"{role}_token_id"), role
    assert config["vocab_size"] == len(tokenizer)
    assert config["pad_token_id"] == tokenizer.pad_token_id


def test_trelm_of_the_same_run_is_saved_and_loaded_with_the_same_logits(run: FamilyRun, tmp_path: Path) -> None:
    result = pipeline.export(run.folder, tmp_path / "ours", kind="trelm")
    assert result["kind"] == "trelm"
    with quiet_transformers():
        loaded, ours = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours"), load_model(run.context(), PLAIN)
    assert torch.equal(logits_of(loaded, tmp_path / "ours"), logits_of(ours, tmp_path / "ours"))
