"""Cells of variants: what they find is what their arm finds where the configuration itself has these settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_whole_comparisons import without_times
from toy_comparison import compare_toy, comparison_config

from trelm.comparison.arms import arm_named
from trelm.comparison.preparation import claimed
from trelm.config import make_config
from trelm.errors import RunFolderError
from trelm.workspace import read_json

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = {
    "model.tri_layer": False,
    "stages.commonality.share": 0,
    "stages.transfer_upper.share": 0,
    "stages.transfer_lower.share": 0,
    "stages.language_specific.learning_rate": 2e-3,
    "stages.language_specific.body_learning_rate": 3e-4,
    "stages.language_specific.mask_rate": 0.3,
    "embeddings.min_links": 5,
}
SMALL = ("evaluation=[]", "budget.updates=6", "comparison.evaluations=2")
NAME = "trelm-recommended+bare"


def as_variant() -> str:
    settings = ", ".join(f"{place}: {str(value).lower()}" for place, value in SETTINGS.items())
    return f"comparison.variants={{{NAME}: {{{settings}}}}}"


@pytest.mark.slow
def test_a_variant_s_cell_is_that_of_a_configuration_with_its_settings(tiny_bert: Path, tmp_path: Path) -> None:
    both = comparison_config(
        tmp_path / "data", tiny_bert, *SMALL, as_variant(), f"comparison.arms=[trelm-recommended,{NAME}]"
    )
    cells = {cell["arm"]: cell for cell in compare_toy(both, tmp_path / "both")["cells"]}
    settings = [f"{place}={str(value).lower()}" for place, value in SETTINGS.items()]
    alone = comparison_config(tmp_path / "data", tiny_bert, *SMALL, *settings, "comparison.arms=[trelm-recommended]")
    (expected,) = compare_toy(alone, tmp_path / "alone")["cells"]
    assert comparable(cells[NAME]) == comparable(expected)
    assert comparable(cells[NAME]) != comparable(cells["trelm-recommended"])
    assert list(cells[NAME]["stages"]) == ["language-specific"]
    assert len(cells["trelm-recommended"]["stages"]) == 4
    assert (tmp_path / "both" / "results" / NAME / "seed-1.json").exists()
    told = read_json(tmp_path / "both" / "comparison.json")["arms"]
    assert "model.tri_layer = False" in told[NAME]
    assert NAME in (tmp_path / "both" / "comparison.md").read_text(encoding="utf-8")
    for step in ("corpus", "vocabulary", "embeddings"):  # shared; the rows are not
        assert len(list((tmp_path / "both" / "prepared").glob(f"{step}-*"))) == 1


def comparable(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without its name and times."""
    return {key: value for key, value in without_times(cell).items() if key != "arm"}


def test_a_variant_that_has_results_keeps_its_settings(tiny_bert: Path, tmp_path: Path) -> None:
    """Else figures of the old settings would stand under the new ones."""
    arms = "comparison.arms=[scratch+own]"
    slow, fast = (
        f"comparison.variants={{scratch+own: {{stages.scratch.learning_rate: {rate}}}}}" for rate in (1e-3, 1e-2)
    )
    (before,) = compare_toy(comparison_config(tmp_path / "data", tiny_bert, *SMALL, arms, slow), tmp_path / "run")[
        "cells"
    ]
    words = (
        r"^comparison\.variants: expected 'scratch\+own' with the settings of its results in .*run "
        r"\(\{'stages\.scratch\.learning_rate': 0\.001\}\), found others "
        r"\(\{'stages\.scratch\.learning_rate': 0\.01\}\); give it another name$"
    )
    with pytest.raises(RunFolderError, match=words):
        compare_toy(comparison_config(tmp_path / "data", tiny_bert, *SMALL, arms, fast), tmp_path / "run")
    grown = (
        "comparison.arms=[scratch+own,scratch+two]",
        slow.replace("}}", "}, scratch+two: {training.epsilon: 1.0e-5}}"),
    )
    after = compare_toy(comparison_config(tmp_path / "data", tiny_bert, *SMALL, *grown), tmp_path / "run")["cells"]
    assert [cell["arm"] for cell in after] == ["scratch+own", "scratch+two"]
    assert after[0] == before


def test_the_variants_of_the_documentation_are_some() -> None:
    text = (ROOT / "docs" / "how-to" / "compare.md").read_text("utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    config = make_config(yaml.safe_load(example))
    assert len(config.comparison.variants) == 3
    for name in config.comparison.arms:
        made = arm_named(config, name).configure(config, seed=1)
        assert (made == config.model_copy(update={"seed": 1})) == (name == "trelm-recommended")
    slower = arm_named(config, "counts+slower").configure(config, seed=1).stages.language_specific
    assert (slower.learning_rate, slower.body_learning_rate) == (5e-4, None)


def test_arms_seeds_and_variants_may_grow_and_nothing_else(tiny_bert: Path, tmp_path: Path) -> None:
    first = comparison_config(tmp_path / "data", tiny_bert)
    grown = comparison_config(
        tmp_path / "data", tiny_bert, as_variant(), f"comparison.arms=[scratch,{NAME}]", "comparison.seeds=[1,2]"
    )
    other = comparison_config(tmp_path / "data", tiny_bert, "comparison.evaluations=4")
    assert claimed(grown) == claimed(first) != claimed(other)
