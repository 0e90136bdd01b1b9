"""Which stages a configuration has: shares, one way of transfer, what a batch of the joint stage is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.config import Config, JointStageConfig, make_config
from trelm.errors import ConfigError
from trelm.stages import SCRATCH_STAGE, TRANSFER_JOINT, transfer_stages
from trelm.steps.training import joint_feeds, masked_as, planned_stages

PUBLISHED = ("commonality", "transfer_upper", "transfer_lower", "language_specific", "plain")
NO_HALVES = {"transfer_upper": {"share": 0}, "transfer_lower": {"share": 0}}


def config(**stages: dict[str, Any]) -> Config:
    """The published stages and the plain one in equal shares, with what is given laid over them."""
    return of_recipe("recommended", stages={name: {"share": 1} for name in PUBLISHED} | stages)


def of_recipe(recipe: str, **values: Any) -> Config:
    return make_config(
        {
            "source": {"model": "minilm", "text": ["en.txt"]},
            "target": {"language": "id", "text": ["id.txt"]},
            "parallel": ["pairs.tsv"],
            "budget": {"updates": 10},
            "recipe": recipe,
            **values,
        }
    )


@pytest.mark.parametrize(
    ("recipe", "names", "orders", "tri_layer"),
    [
        ("recommended", ["language-specific"], False, False),
        ("paper", ["commonality", "transfer-upper", "transfer-lower", "language-specific"], True, True),
        ("quick", ["commonality", "transfer-upper", "transfer-lower", "language-specific", "plain"], True, True),
    ],
)
def test_the_stages_of_a_recipe(recipe: str, names: list[str], orders: bool, tri_layer: bool) -> None:
    """No recipe has a joint stage or a teacher, and one without an order to learn has no TRILayer."""
    made = of_recipe(recipe)
    assert list(made.stages.wanted) == names == [stage.name for stage in planned_stages(made)]
    assert (made.stages.orders, made.stages.teaches, made.model.tri_layer) == (orders, False, tri_layer)


@pytest.mark.parametrize(
    ("stages", "orders"),
    [
        ({}, True),
        ({"transfer_lower": {"share": 0}}, True),
        ({"transfer_upper": {"share": 0}}, True),
        (NO_HALVES, False),
        ({**NO_HALVES, "transfer_joint": {"share": 1, "taught": 1}}, False),
        ({**NO_HALVES, "transfer_joint": {"share": 1, "cross_lingual": 0.1}}, True),
        ({**NO_HALVES, "transfer_joint": {"share": 0, "cross_lingual": 1}}, False),
    ],
)
def test_only_stages_of_cdlm_reorder(stages: dict[str, Any], orders: bool) -> None:
    made = config(**stages)
    feeds = {feed for stage in planned_stages(made) for feed, _ in stage.feeds}
    assert made.stages.orders == orders == bool(feeds & {"source-to-target", "target-to-source"})


def test_each_stage_is_masked_as_its_section_says() -> None:
    made = config(commonality={"share": 1, "mask_rate": 0.2}, plain={"share": 1, "mask_rate": None})
    assert {stage.name: stage.mask_rate for stage in planned_stages(made)} == {
        "commonality": 0.2, "transfer-upper": 0.3, "transfer-lower": 0.3, "language-specific": 0.3, "plain": None,
    }  # fmt: skip
    assert masked_as(made, SCRATCH_STAGE) == replace(SCRATCH_STAGE, mask_rate=0.3)
    assert made.training.mask_rate == 0.15  # that of held-out text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mask_rate", 0, r"stages\.plain\.mask_rate: .*greater than 0 \(found 0\)"),
        ("mask_rate", 1, r"stages\.plain\.mask_rate: .*less than 1 \(found 1\)"),
        ("body_learning_rate", 0, r"stages\.plain\.body_learning_rate: .*greater than 0 \(found 0\)"),
    ],
)
def test_rates_out_of_range_are_refused(key: str, value: float, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(plain={"share": 1, key: value})


@pytest.mark.parametrize(
    ("stages", "names", "starts"),
    [
        (
            {},
            ["commonality", "transfer-upper", "transfer-lower", "language-specific", "plain"],
            ["model", "commonality", "commonality", "combination", "language-specific"],
        ),
        (
            {"plain": {"share": 0}, "commonality": {"share": 0}},
            ["transfer-upper", "transfer-lower", "language-specific"],
            ["model", "model", "combination"],
        ),
        (
            {"plain": {"share": 0}, "transfer_lower": {"share": 0}},
            ["commonality", "transfer-upper", "language-specific"],
            ["model", "commonality", "transfer-upper"],
        ),
        (
            {"plain": {"share": 0}, "transfer_upper": {"share": 0}},
            ["commonality", "transfer-lower", "language-specific"],
            ["model", "commonality", "transfer-lower"],
        ),
        (
            {**NO_HALVES, "transfer_joint": {"share": 1}},
            ["commonality", "transfer-joint", "language-specific", "plain"],
            ["model", "commonality", "transfer-joint", "language-specific"],
        ),
        ({**NO_HALVES, "commonality": {"share": 0}}, ["language-specific", "plain"], ["model", "language-specific"]),
    ],
)
def test_a_stage_of_share_0_is_left_out_and_what_follows_starts_from_the_one_before(
    stages: dict[str, Any], names: list[str], starts: list[str]
) -> None:
    found = planned_stages(config(**stages))
    assert [stage.name for stage in found] == names
    assert [stage.starts_from for stage in found] == starts


def test_only_a_joint_stage_with_taught_text_teaches() -> None:
    for joint, teaches in (
        ({"share": 1, "taught": 0.1}, True),
        ({"share": 1}, False),
        ({"share": 0, "taught": 1}, False),
    ):
        assert config(**NO_HALVES, transfer_joint=joint).stages.teaches == teaches


def feeds_of(**settings: float) -> dict[str, float]:
    (stage,) = transfer_stages(0.5, [TRANSFER_JOINT], joint_feeds(JointStageConfig(share=1, **settings)))
    return dict(stage.feeds)


def test_what_a_batch_of_the_joint_stage_is_made_of() -> None:
    assert feeds_of() == {"target-text": 1.0}
    assert feeds_of(taught=1) == {"taught-text": 1.0}
    assert feeds_of(cross_lingual=1) == {"source-to-target": 0.5, "target-to-source": 0.5}
    assert feeds_of(cross_lingual=0.5, taught=0.25) == {
        "source-to-target": 0.25, "target-to-source": 0.25, "taught-text": 0.25, "target-text": 0.25,
    }  # fmt: skip


@given(st.integers(0, 1000))
def test_shares_that_add_up_to_a_batch_leave_no_crumb_of_target_text(thousandths: int) -> None:
    """0.7 and 0.3 from 1 leave 5.6e-17, which would be a sentence in every batch."""
    found = feeds_of(cross_lingual=thousandths / 1000, taught=(1000 - thousandths) / 1000)
    assert "target-text" not in found
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            {"language_specific": {"share": 0}},
            r"config: stages: language_specific\.share: expected above 0, found 0; that stage makes the model$",
        ),
        (
            {"transfer_joint": {"share": 1}},
            r"config: stages: expected one way of transfer, found two; give transfer_joint a share, or transfer_upper "
            r"and transfer_lower, and the others 0$",
        ),
        (
            {"transfer_joint": {"share": 1}, "transfer_upper": {"share": 0}},
            r"config: stages: expected one way of transfer, found two; ",
        ),
        (
            {**NO_HALVES, "transfer_joint": {"share": 1, "taught": 0.75, "cross_lingual": 0.5}},
            r"config: stages\.transfer_joint: cross_lingual and taught are shares of a batch, expected at most 1 "
            r"together, found 1\.25; lower one$",
        ),
        ({"transfer_joint": {"share": 0, "taught": -0.1}}, r"stages\.transfer_joint\.taught: .*greater than or equal"),
        ({"transfer_joint": {"share": 0, "cross_lingual": 2}}, r"transfer_joint\.cross_lingual: .*less than or equal"),
        ({"transfer_joint": {"share": 0, "teaching_weight": 0}}, r"transfer_joint\.teaching_weight: .*greater than 0"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_line(stages: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        config(**stages)
    assert "\n" not in str(caught.value)
