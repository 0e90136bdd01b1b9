"""A comparison whose configuration transfers both halves in one stage, taught, beside the published stages."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_comparison import compare_toy, comparison_config

from trelm.errors import ConfigError
from trelm.workspace import read_json

JOINT = (
    "stages.commonality.share=0",
    "stages.transfer_upper.share=0",
    "stages.transfer_lower.share=0",
    "stages.transfer_joint.share=2",
    "stages.transfer_joint.taught=0.5",
    "stages.transfer_joint.cross_lingual=0.25",
    "stages.transfer_joint.learning_rate=1e-3",
    "evaluation=[]",
)


@pytest.mark.slow
def test_a_joint_stage_and_the_published_ones_are_compared(tiny_bert: Path, tmp_path: Path) -> None:
    """The arm without a teacher comes first: the links that it leaves are not those of the other."""
    arms = ("comparison.arms=[trelm-paper,trelm-recommended]", "alignment.adversarial_epochs=1")
    config = comparison_config(tmp_path / "data", tiny_bert, *JOINT, *arms)
    done = compare_toy(config, tmp_path / "run")
    cells = {cell["arm"]: cell for cell in done["cells"]}
    joint = cells["trelm-recommended"]["stages"]
    assert list(joint) == ["transfer-joint", "language-specific"]
    assert joint["transfer-joint"]["updates"] == 4
    assert joint["transfer-joint"]["flops"] > 0
    assert not cells["trelm-recommended"]["combined"]
    assert cells["trelm-paper"]["combined"]
    assert next(iter(cells["trelm-paper"]["stages"])) == "commonality"
    taught = [
        "taught_positions" in read_json(path / "manifest.json")
        for path in (tmp_path / "run/prepared").glob("word-links-*")
    ]
    assert sorted(taught) == [False, True]


def test_an_arm_that_would_change_nothing_is_refused_before_anything_is_written(
    tiny_bert: Path, tmp_path: Path
) -> None:
    bare = "{one-direction+bare: {stages.transfer_upper.share: 0, stages.transfer_lower.share: 0}}"
    settings = (f"comparison.variants={bare}", "comparison.arms=[one-direction+bare]")
    config = comparison_config(tmp_path / "data", tiny_bert, *JOINT, *settings)
    with pytest.raises(ConfigError, match="which 'one-direction' changes, found 0; leave the arm out"):
        compare_toy(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
