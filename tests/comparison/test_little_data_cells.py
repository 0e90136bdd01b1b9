"""Cells of a comparison whose stages stop: as in a run, and broken off they end with the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_comparison import compare_toy, comparison_config

from toy import without_seconds
from trelm.comparison import work

OVERRIDES = (
    "comparison.arms=[scratch]",
    "corpus.development_lines=8",
    "training.patience=2",
    "training.evaluate_updates=1",
    "stages.scratch.learning_rate=0.3",  # so high that nothing gets better
    "stages.scratch.warmup=0",
)


def test_a_cell_stops_keeps_its_best_weights_and_survives_interruptions(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = comparison_config(tmp_path / "data", tiny_bert, *OVERRIDES)
    whole = compare_toy(config, tmp_path / "whole")["cells"][0]
    stage, cost = whole["stages"]["masked"], whole["cost"]
    values = stage["development"]["bits_per_character"]
    assert stage["planned_updates"] == 12 > stage["updates"] == cost["updates"] == len(values)
    assert stage["best_update"] == 1 + values.index(min(values)) == stage["updates"] - 2
    assert (cost["tokens"], cost["flops"]) == (stage["tokens"], stage["flops"])
    assert max(whole["curve"]["updates"]) <= stage["updates"]

    real, asked = work.score, list[int]()

    def interrupted(*arguments: Any) -> Any:
        asked.append(len(asked))
        if len(asked) in (3, 5):  # the first is the plan's
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(work, "score", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compare_toy(config, tmp_path / "broken")
    broken = compare_toy(config, tmp_path / "broken")["cells"][0]
    for cell in (whole, broken):
        cell["cost"].pop("preparation_seconds")
        cell["curve"].pop("seconds")
        for task in cell["tasks"].values():
            task.clear()
    assert without_seconds(broken) == without_seconds(whole)
