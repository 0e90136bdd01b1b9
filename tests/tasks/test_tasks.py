"""Every kind of task, on data whose truth can be learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy_tasks import Told, toy_encoder, toy_task

from trelm.steps.tasks import run_task

METRICS = {
    "classification": "accuracy",
    "tagging": "accuracy",
    "entities": "f1",
    "parsing": "las",
    "roles": "labelled_f1",
}


@pytest.mark.parametrize("kind", METRICS)
def test_what_can_be_learned_is_learned(kind: str, tmp_path: Path) -> None:
    task = toy_task(kind, tmp_path, count=300 if kind == "classification" else 150)
    result = run_task(toy_encoder(), task, work=tmp_path / "work", cache=None, tell=Told())
    assert result["task"] == kind
    assert result["metric"] == METRICS[kind]
    assert result["score"] == result["scores"][result["metric"]] > 0.9
    assert result["spread"] is None
    assert result["data"]["test"]["examples"] == 40


def test_heads_compute_in_float32_beside_an_encoder_in_bfloat16(tmp_path: Path) -> None:
    encoder = replace(toy_encoder(), precision="bfloat16")
    result = run_task(encoder, toy_task("parsing", tmp_path), work=tmp_path / "work", cache=None, tell=Told())
    assert result["score"] > 0.9
