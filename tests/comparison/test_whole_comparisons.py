"""Whole comparisons of the toy world: results, equal budgets, failures, and going on after an interruption."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from toy_comparison import compare_toy, comparison_config

from trelm.comparison import run as run_module
from trelm.comparison import work
from trelm.config import make_config
from trelm.errors import ComparisonError, ConfigError, RunFolderError
from trelm.workspace import read_json

TIMES = ("seconds", "preparation_seconds")


def without_times(value: Any) -> Any:
    """Plain values with everything left out that a clock says."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy-comparison")


@pytest.fixture(scope="module")
def done(data: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Four arms; only to be read."""
    folder = tmp_path_factory.mktemp("comparison") / "run"
    arms = "comparison.arms=[trelm-recommended,scratch,counts,source-tokenizer]"
    return folder, compare_toy(comparison_config(data, tiny_bert, arms, "budget.flops=2.0e+9"), folder)


def test_each_cell_leaves_what_others_rely_on(done: tuple[Path, dict[str, Any]]) -> None:
    folder, result = done
    assert [cell["arm"] for cell in result["cells"]] == ["counts", "scratch", "source-tokenizer", "trelm-recommended"]
    for cell in result["cells"]:
        assert cell == read_json(folder / "results" / cell["arm"] / "seed-1.json")
        assert set(cell["metrics"]) == {"bits_per_character", "unit_accuracy", "letters"}
        assert cell["metrics"]["letters"] == cell["tasks"]["letters"]["score"]
        assert cell["curve"]["updates"][0] == 0
        assert cell["curve"]["updates"][-1] == cell["cost"]["updates"]
        assert len({len(values) for values in cell["curve"].values()}) == 1
        assert cell["curve"]["flops"][-1] == pytest.approx(cell["cost"]["flops"])
        assert cell["examples"] or cell["arm"] == "source-tokenizer"
    assert {"comparison.html", "comparison.md", "comparison.json"} <= {path.name for path in folder.iterdir()}


def test_budgets_are_equal_up_to_one_update_of_each_stage(done: tuple[Path, dict[str, Any]]) -> None:
    for cell in done[1]["cells"]:
        one_each = sum(stage["flops"] / stage["updates"] for stage in cell["stages"].values())
        assert 2.0e9 - one_each <= cell["cost"]["flops"] <= 2.0e9


def test_all_cells_fill_the_same_masks(done: tuple[Path, dict[str, Any]]) -> None:
    cells = {cell["arm"]: cell["scores"] for cell in done[1]["cells"]}
    assert len({scores["masked_units"] + scores["dropped_units"] for scores in cells.values()}) == 1
    alike = [scores for name, scores in cells.items() if name != "source-tokenizer"]
    for name in ("masked_units", "masked_tokens", "masked_characters", "lines"):
        assert len({scores[name] for scores in alike}) == 1


def test_training_pays(done: tuple[Path, dict[str, Any]]) -> None:
    for cell in done[1]["cells"]:
        assert cell["metrics"]["bits_per_character"] < cell["start"]["bits_per_character"]


def test_the_overview_says_what_was_compared(done: tuple[Path, dict[str, Any]]) -> None:
    overview = read_json(done[0] / "comparison.json")
    assert list(overview["arms"]) == ["trelm-recommended", "scratch", "counts", "source-tokenizer"]
    assert "floating-point operations" in overview["budget_rule"]
    assert len(overview["projection"]["points"]) % 2 == 0
    links = overview["word_links"]
    assert all(i < len(links["source"]) and j < len(links["target"]) for i, j in links["forward"] + links["reverse"])


def test_run_again_it_computes_nothing(
    done: tuple[Path, dict[str, Any]], data: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_do_cell", lambda *_: pytest.fail("a cell is computed again"))
    arms = "comparison.arms=[trelm-recommended,scratch,counts,source-tokenizer]"
    assert (
        compare_toy(comparison_config(data, tiny_bert, arms, "budget.flops=2.0e+9"), done[0])["cells"]
        == done[1]["cells"]
    )


def test_seeds_and_arms_can_be_added(data: Path, tiny_bert: Path, tmp_path: Path) -> None:
    first = compare_toy(comparison_config(data, tiny_bert, "comparison.arms=[scratch]"), tmp_path / "run")
    config = comparison_config(data, tiny_bert, "comparison.arms=[scratch,random]", "comparison.seeds=[1,2]")
    more = compare_toy(config, tmp_path / "run")
    assert len(more["cells"]) == 4
    assert first["cells"][0] in more["cells"]


def test_what_preparation_took_is_counted_with_the_rows(done: tuple[Path, dict[str, Any]]) -> None:
    spent = {cell["arm"]: cell["cost"]["preparation_seconds"] for cell in done[1]["cells"]}
    assert all(seconds > 0 for seconds in spent.values())
    links = read_json(next((done[0] / "prepared").glob("word-links-*")) / "manifest.json")["seconds"]
    assert spent["counts"] > links
    assert spent["trelm-recommended"] > spent["counts"]


def test_a_comparison_of_other_settings_is_not_mixed_in(
    done: tuple[Path, dict[str, Any]], data: Path, tiny_bert: Path
) -> None:
    with pytest.raises(RunFolderError, match="belongs to another configuration"):
        compare_toy(comparison_config(data, tiny_bert), done[0])


def test_interrupted_in_every_stage_and_in_a_task_it_ends_as_if_it_had_not_been(
    data: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = comparison_config(data, tiny_bert, "comparison.arms=[trelm-recommended]", "budget.updates=14")
    whole = compare_toy(config, tmp_path / "whole")
    real, interrupted = work.point, set()

    def scored_once_more(cell: Any, model: Any) -> float:
        if len(interrupted) < 3 and len(interrupted) not in interrupted:
            interrupted.add(len(interrupted))
            raise KeyboardInterrupt
        return real(cell, model)

    monkeypatch.setattr(work, "point", scored_once_more)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            compare_toy(config, tmp_path / "broken")
    broken = compare_toy(config, tmp_path / "broken")
    assert without_times(broken["cells"]) == without_times(whole["cells"])


def test_text_is_filled_like_the_held_out_text(data: Path, tiny_bert: Path, tmp_path: Path) -> None:
    config = comparison_config(data, tiny_bert, "comparison.arms=[scratch]")
    text = {"task": "text", "name": "toy", "test": [str(data / "evaluation.txt")]}
    changed = make_config({**without_nulls(config), "evaluation": [text]}, origin="toy")
    (cell,) = compare_toy(changed, tmp_path / "run")["cells"]
    assert cell["metrics"]["toy"] == cell["tasks"]["toy"]["scores"]["bits_per_character"] > 0
    assert read_json(tmp_path / "run" / "comparison.json")["tasks"] == {
        "toy": {"task": "text", "metric": "bits_per_character"}
    }


def without_nulls(config: Any) -> dict[str, Any]:
    """The configuration as plain values, with the one budget that it has."""
    return {**config.model_dump(), "budget": config.budget.model_dump(exclude_none=True)}


def test_a_cell_that_cannot_be_done_is_named_and_the_others_are_done(
    data: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    config = comparison_config(data, tiny_bert, "budget.updates=2")  # scratch has one stage, TreLM more than two
    with pytest.raises(ComparisonError, match=r"1 of the cells could not be done.*trelm-recommended/seed-1.*budget"):
        compare_toy(config, tmp_path / "run")
    assert (tmp_path / "run" / "results" / "scratch" / "seed-1.json").exists()
    assert "trelm-recommended" in json.dumps(read_json(tmp_path / "run" / "comparison.json")["failed"])


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"minutes": 5}, "5 minutes for its own preparation"),
        ({"tokens": 1000}, "1,000 tokens"),
        ({"updates": 12}, "12 updates"),
        ({"flops": 1e12}, "1e\\+12 floating-point operations"),
    ],
)
def test_the_rule_of_the_budget_is_said(data: Path, tiny_bert: Path, budget: dict[str, float], words: str) -> None:
    config = comparison_config(data, tiny_bert)
    changed = make_config({**without_nulls(config), "budget": budget}, origin="toy")
    assert re.search(words, run_module.budget_rule(changed))


def test_an_arm_without_its_dictionary_is_refused_before_anything_is_written(
    data: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="needs a dictionary"):
        compare_toy(comparison_config(data, tiny_bert, "comparison.arms=[wechsel]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
