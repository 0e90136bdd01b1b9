"""Every arm is a program that can run: its stages start from what is there, and its settings fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trelm.comparison.arms import ARMS, TRANSFERS, combines
from trelm.config import ARM_NAMES, Config, make_config
from trelm.errors import ConfigError
from trelm.report.comparison import ABLATIONS, is_rival
from trelm.stages import COMBINATION, PLAIN, START, TRANSFER_LOWER


def config(**values: object) -> Config:
    minimal = {
        "source": {"model": "minilm", "text": ["a"]},
        "target": {"language": "id", "text": ["b"]},
        "parallel": ["p"],
        "budget": {"flops": 1e12},
    }
    return make_config({**minimal, **values}, base=Path("/data"))


WITH_DICTIONARY = config(embeddings={"dictionary": ["words.tsv"]})


def test_the_configuration_the_comparison_and_the_report_know_the_same_arms() -> None:
    assert tuple(ARMS) == ARM_NAMES
    rivals = {"scratch", "source-tokenizer", "random", "pieces", "counts", "wechsel", "focus", "frozen-body"}
    assert {name for name in ARM_NAMES if is_rival(name)} == rivals
    assert set(ABLATIONS) <= set(ARM_NAMES)


JOINT = {
    "transfer_joint": {"share": 4, "taught": 0.5, "cross_lingual": 0.25},
    "transfer_upper": {"share": 0},
    "transfer_lower": {"share": 0},
}
OF_HALVES = {"one-direction", "joint", "no-combination"}


def without(*stages: str) -> dict[str, Any]:
    return {stage: {"share": 0} for stage in stages}


@pytest.mark.parametrize(
    "stages",
    [
        {},
        *(without(stage) for stage in ("commonality", "transfer_upper", "transfer_lower", "plain")),
        without("commonality", "plain"),
        without("transfer_upper", "transfer_lower"),
        JOINT,
        JOINT | without("commonality"),
    ],
    ids=lambda stages: ",".join(f"{name}-{settings['share']}" for name, settings in stages.items()) or "published",
)
@pytest.mark.parametrize("name", ARM_NAMES)
def test_each_stage_starts_from_one_before_it(name: str, stages: dict[str, Any]) -> None:
    arm = ARMS[name]
    given = config(embeddings={"dictionary": ["words.tsv"]}, stages=stages)
    if name in OF_HALVES and {"transfer_upper", "transfer_lower"} <= stages.keys():
        words = (
            rf"^comparison\.arms: expected a share of stages\.transfer_upper or stages\.transfer_lower, which '{name}' "
            r"changes, found 0; leave the arm out$"
        )
        with pytest.raises(ConfigError, match=words):
            arm.configure(given, seed=3)
        return
    program = arm.program(arm.configure(given, seed=3))
    done = {START}
    assert sum(part.settings.share for part in program) > 0
    for part in program:
        start = part.stage.starts_from
        assert start in done or (start == COMBINATION and done >= set(TRANSFERS))
        done.add(part.stage.name)
    assert len({part.stage.name for part in program}) == len(program)
    feeds = {feed for part in program for feed, _ in part.stage.feeds}
    if not arm.reads_pairs:
        assert feeds == {"target-text"}


@pytest.mark.parametrize(
    ("name", "stages", "combined"),
    [
        ("trelm-recommended", 5, True),
        ("trelm-paper", 4, True),  # as published: no plain stage
        ("scratch", 1, False),
        ("frozen-body", 1, False),
        ("one-direction", 4, False),
        ("joint", 4, False),
        ("no-combination", 5, False),
    ],
)
def test_the_programs(name: str, stages: int, combined: bool) -> None:
    program = ARMS[name].program(ARMS[name].configure(WITH_DICTIONARY, seed=1))
    assert len(program) == stages
    assert combines(program) == combined
    assert (program[-1].stage.name == PLAIN) == (stages > 1 and name != "trelm-paper")


def test_what_ablations_leave_out() -> None:
    programs = {name: ARMS[name].program(WITH_DICTIONARY) for name in ("no-cdlm", "one-direction", "joint")}
    pairs = {"source-to-target", "target-to-source"}
    feeds = {name: {feed for part in program for feed, _ in part.stage.feeds} for name, program in programs.items()}
    assert not feeds["no-cdlm"] & pairs
    assert feeds["one-direction"] & pairs == {"source-to-target"}
    assert feeds["joint"] >= pairs
    assert TRANSFER_LOWER not in [part.stage.name for part in programs["one-direction"]]
    (joint,) = [part for part in programs["joint"] if part.stage.name == "joint"]
    stages = WITH_DICTIONARY.stages
    assert joint.settings.share == stages.transfer_upper.share + stages.transfer_lower.share


def test_an_arm_with_a_joint_stage_has_it_as_configured() -> None:
    given = config(stages=JOINT)
    programs = {
        name: ARMS[name].program(ARMS[name].configure(given, seed=1)) for name in ("trelm-recommended", "no-cdlm")
    }
    assert [(part.stage.name, part.settings.share) for part in programs["trelm-recommended"]] == [
        (name.replace("_", "-"), getattr(given.stages, name).share)
        for name in ("commonality", "transfer_joint", "language_specific", "plain")
    ]
    joint, without_pairs = (dict(program[1].stage.feeds) for program in programs.values())
    assert joint == {"source-to-target": 0.125, "target-to-source": 0.125, "taught-text": 0.5, "target-text": 0.25}
    assert without_pairs == {"taught-text": 0.5, "target-text": 0.5}  # what is no CdLM stays
    assert programs["no-cdlm"][1].stage.starts_from == "commonality"


def test_the_published_stages_are_those_of_the_paper_whatever_the_others_have() -> None:
    paper = ARMS["trelm-paper"].configure(config(stages=JOINT), seed=1)
    assert not paper.stages.teaches
    names = [part.stage.name for part in ARMS["trelm-paper"].program(paper)]
    assert names == ["commonality", "transfer-upper", "transfer-lower", "language-specific"]


@pytest.mark.parametrize("only", ["transfer_upper", "transfer_lower"])
def test_a_joint_stage_stands_where_the_halves_stood(only: str) -> None:
    """Also where there is one of them."""
    (other,) = {"transfer_upper", "transfer_lower"} - {only}
    given = config(stages=without(other))
    program = ARMS["joint"].program(given)
    assert [part.stage.name for part in program] == ["commonality", "joint", "language-specific", "plain"]
    assert program[1].settings.share == getattr(given.stages, only).share


def test_settings_of_an_arm_are_laid_over_the_comparison_s() -> None:
    paper = ARMS["trelm-paper"].configure(config(seed=4, budget={"tokens": 100}), seed=9)
    assert paper.stages.language_specific.learning_rate == 3e-5
    assert (paper.embeddings.initialisation, paper.embeddings.copy_shared) == ("trelm", False)
    assert paper.alignment.method == "adversarial"
    assert (paper.seed, paper.budget.tokens, paper.budget.flops) == (9, 100, None)
    assert paper.vocabulary.size == config().vocabulary.size  # the data and the vocabulary are the comparison's


def test_an_arm_that_lacks_what_it_needs_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="initialisation 'wechsel' needs a dictionary"):
        ARMS["wechsel"].configure(config(), seed=1)
