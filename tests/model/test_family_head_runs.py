"""A whole run of an encoder whose checkpoint has no masked-LM head: one is fitted, and training starts from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import save_source

from toy import run_toy, toy_config, write_toy_data
from trelm.steps.context import Context
from trelm.steps.training import only_for_transfer
from trelm.workspace import Run

OVERRIDES = (
    "budget.updates=12",
    "head.updates=6",
    "head.batch_tokens=128",
    "embeddings.epochs=1",
    "baseline.scratch=false",
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("headless-run")
    write_toy_data(folder / "data")
    source = save_source("electra-discriminator", folder / "source")
    config = toy_config(folder / "data", source, *OVERRIDES)
    report = run_toy(config, folder / "run")
    assert "head" in report["steps"]
    return Context(config, Run(folder / "run"))


def test_the_run_begins_with_a_fitted_head(context: Context) -> None:
    figures = context.figures("head")
    assert figures["fitted"]
    assert figures["updates"] == 6
    assert not context.pretrained.has_head
    assert context.source.has_head
    assert context.figures("model")["source_has_head"]


def test_the_model_starts_from_its_transform_and_its_bias(context: Context) -> None:
    fitted = load_file(context.folder("head") / "head.safetensors")
    start = load_file(Path(context.folder("model")) / "start" / "model.safetensors")
    for name in ("generator_predictions.dense.weight", "generator_predictions.LayerNorm.bias"):
        assert torch.equal(start[f"head.{name}"], fitted[name]), name
    row, own = (one.mask_token_id for one in (context.tokenizer, context.pretrained.tokenizer))
    assert start["head.generator_lm_head.bias"][row] == pytest.approx(float(fitted["generator_lm_head.bias"][own]))


def test_its_time_counts_as_the_transfers_own() -> None:
    fitted = toy_config(Path("data"), Path("model"), "head.updates=6")
    assert "head" in only_for_transfer(fitted)
    assert "head" not in only_for_transfer(toy_config(Path("data"), Path("model")))
