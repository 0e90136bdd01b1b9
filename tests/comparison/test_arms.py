"""Every arm is a program that can run: its stages start from what is there, and its settings fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trelm.comparison.arms import ARMS, TRANSFERS, Arm, CellStage, arm_named, reorders, without_cross_lingual
from trelm.config import ARM_NAMES, Config, make_config
from trelm.errors import ConfigError
from trelm.report.comparison import ABLATIONS, is_rival
from trelm.stages import COMBINATION, PLAIN, START, TRANSFER_LOWER, combines


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
OF_STAGES = {"trelm-stages", "no-tri-layer", "no-ordering", "no-cdlm", *OF_HALVES}
ALL = {name: {"share": 1} for name in ("commonality", "transfer_upper", "transfer_lower", "plain")}


def without(*stages: str) -> dict[str, Any]:
    return {stage: {"share": 0} for stage in stages}


@pytest.mark.parametrize(
    "stages",
    [
        {},
        ALL,
        *(ALL | without(stage) for stage in ("commonality", "transfer_upper", "transfer_lower", "plain")),
        ALL | without("transfer_upper", "transfer_lower"),
        ALL | JOINT,
        ALL | JOINT | without("commonality"),
    ],
    ids=lambda stages: ",".join(f"{name}-{settings['share']}" for name, settings in stages.items()) or "recommended",
)
@pytest.mark.parametrize("name", ARM_NAMES)
def test_each_stage_starts_from_one_before_it(name: str, stages: dict[str, Any]) -> None:
    arm = ARMS[name]
    given = config(embeddings={"dictionary": ["words.tsv"]}, stages=stages)
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
        ("trelm-recommended", 1, False),
        ("trelm-paper", 4, True),  # as published: no plain stage
        ("trelm-stages", 5, True),
        ("scratch", 1, False),
        ("frozen-body", 1, False),
        ("no-tri-layer", 5, True),
        ("no-ordering", 5, True),
        ("no-cdlm", 5, True),
        ("one-direction", 4, False),
        ("joint", 4, False),
        ("no-combination", 5, False),
    ],
)
def test_the_programs(name: str, stages: int, combined: bool) -> None:
    program = ARMS[name].program(ARMS[name].configure(WITH_DICTIONARY, seed=1))
    assert len(program) == stages
    assert combines(part.stage for part in program) == combined
    assert (program[-1].stage.name == PLAIN) == (stages > 1 and name != "trelm-paper")


def configured_and_programmed(name: str, given: Config) -> tuple[Config, tuple[CellStage, ...]]:
    made = ARMS[name].configure(given, seed=1)
    return made, ARMS[name].program(made)


@pytest.mark.parametrize("stages", [{}, ALL, ALL | JOINT], ids=["recommended", "published", "joint"])
def test_ablations_are_of_all_published_stages_whatever_is_configured(stages: dict[str, Any]) -> None:
    """One part of `trelm-stages` changed, and nothing besides: the same budget, shares, rates and masks."""
    given = config(stages=stages)
    whole, program = configured_and_programmed("trelm-stages", given)
    names = ["commonality", "transfer-upper", "transfer-lower", "language-specific", "plain"]
    assert [part.stage.name for part in program] == names
    assert [part.settings.share for part in program] == [6, 7, 7, 72, 8]
    assert whole.model.tri_layer
    assert reorders(program)
    for part in program:
        section = getattr(given.stages, part.stage.name.replace("-", "_"))
        assert part.settings == section.model_copy(update={"share": part.settings.share})
    for name in OF_STAGES:
        assert ARMS[name].configure(given, seed=1) == whole
        assert sum(part.settings.share for part in ARMS[name].program(whole)) == (
            93 if name == "one-direction" else 100
        )
    assert not ARMS["no-tri-layer"].has_tri_layer
    assert not ARMS["no-ordering"].orders


def test_what_ablations_leave_out() -> None:
    programs = {name: configured_and_programmed(name, WITH_DICTIONARY)[1] for name in OF_STAGES}
    pairs = {"source-to-target", "target-to-source"}
    feeds = {name: {feed for part in program for feed, _ in part.stage.feeds} for name, program in programs.items()}
    assert not feeds["no-cdlm"] & pairs
    assert feeds["one-direction"] & pairs == {"source-to-target"}
    assert all(feeds[name] >= pairs for name in OF_STAGES - {"no-cdlm", "one-direction"})
    assert TRANSFER_LOWER not in [part.stage.name for part in programs["one-direction"]]
    (joint,) = [part for part in programs["joint"] if part.stage.name == "joint"]
    assert joint.settings.share == 14
    assert [part.stage.starts_from for part in programs["no-combination"]] == [
        START, *(part.stage.name for part in programs["no-combination"][:-1]),
    ]  # fmt: skip


def test_a_joint_stage_is_as_configured_and_without_cdlm_what_is_none_stays() -> None:
    given = config(stages=ALL | JOINT)
    program = ARMS["trelm-recommended"].program(ARMS["trelm-recommended"].configure(given, seed=1))
    assert [(part.stage.name, part.settings.share) for part in program] == [
        (name.replace("_", "-"), getattr(given.stages, name).share)
        for name in ("commonality", "transfer_joint", "language_specific", "plain")
    ]
    pairless = without_cross_lingual(given)
    feeds = dict(program[1].stage.feeds), dict(pairless[1].stage.feeds)
    assert feeds[0] == {"source-to-target": 0.125, "target-to-source": 0.125, "taught-text": 0.5, "target-text": 0.25}
    assert feeds[1] == {"taught-text": 0.5, "target-text": 0.5}
    assert pairless[1].stage.starts_from == "commonality"


@pytest.mark.parametrize("stages", [{}, ALL, ALL | JOINT], ids=["recommended", "published", "joint"])
def test_the_published_arm_is_the_paper_whatever_the_others_have(stages: dict[str, Any]) -> None:
    """Its rates and masks too: nothing of the comparison's own recipe is left in a stage of it."""
    given = config(stages=stages, training={"cross_lingual_labels": 0.3})
    paper, program = configured_and_programmed("trelm-paper", given)
    published = config(recipe="paper")
    assert paper.stages.model_copy(update={"transfer_joint": published.stages.transfer_joint}) == published.stages
    assert paper.stages.transfer_joint.share == 0
    assert paper.model == published.model
    for key in ("mask_rate", "cross_lingual_labels"):
        assert getattr(paper.training, key) == getattr(published.training, key)
    names = [part.stage.name for part in program]
    assert names == ["commonality", "transfer-upper", "transfer-lower", "language-specific"]
    assert all(part.settings.body_learning_rate is part.settings.mask_rate is None for part in program)


@pytest.mark.parametrize("only", ["transfer_upper", "transfer_lower"])
def test_a_joint_stage_stands_where_the_halves_stood(only: str) -> None:
    """Also where there is one of them."""
    (other,) = {"transfer_upper", "transfer_lower"} - {only}
    given = config(stages=ALL | without(other))
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


# Variants


def with_variant(name: str, **changes: Any) -> tuple[Config, Arm]:
    made = config(comparison={"arms": [name], "variants": {name: changes}})
    return made, arm_named(made, name)


def test_a_variant_is_its_arm_with_settings_changed() -> None:
    places: dict[str, Any] = {"vocabulary.size": 9000, "stages.language_specific.learning_rate": 2e-4}
    given, variant = with_variant("counts+mine", **places)
    expected = ARMS["counts"].configure(
        config(
            comparison=given.comparison.model_dump(),
            vocabulary={"size": 9000},
            stages={"language_specific": {"learning_rate": 2e-4}},
        ),
        seed=5,
    )
    found = variant.configure(given, seed=5)
    assert found == expected
    assert found.vocabulary.size == 9000
    assert variant.program(found)[0].settings.learning_rate == 2e-4
    assert (variant.program, variant.prepares) == (ARMS["counts"].program, ARMS["counts"].prepares)
    words = "vocabulary.size = 9000, stages.language_specific.learning_rate = 0.0002"
    assert variant.description == f"{ARMS['counts'].description}; {words}"


def test_what_a_variant_says_goes_before_what_its_arm_says() -> None:
    given, variant = with_variant("trelm-stages+even", **{"stages.plain.share": 0, "stages.commonality.share": 80})
    shares = [part.settings.share for part in variant.program(variant.configure(given, seed=1))]
    assert shares == [80, 7, 7, 72]
    given, variant = with_variant("counts+pieces", **{"embeddings.initialisation": "pieces"})
    assert variant.configure(given, seed=1).embeddings.initialisation == "pieces"


def test_an_arm_without_a_variant_of_its_name_is_the_arm() -> None:
    given, _ = with_variant("counts+mine", **{"vocabulary.size": 9000})
    assert arm_named(given, "counts") is ARMS["counts"]


@pytest.mark.parametrize("name", ARM_NAMES)
def test_a_variant_is_a_rival_where_its_arm_is(name: str) -> None:
    assert is_rival(f"{name}+mine") == is_rival(name)


@pytest.mark.parametrize("name", sorted(OF_HALVES))
def test_without_halves_there_is_nothing_to_change(name: str) -> None:
    nothing = {"stages.transfer_upper.share": 0, "stages.transfer_lower.share": 0}
    given, variant = with_variant(f"{name}+bare", **nothing)
    words = (
        rf"^comparison\.arms: expected a share of stages\.transfer_upper or stages\.transfer_lower, which '{name}' "
        r"changes, found 0; leave the arm out$"
    )
    with pytest.raises(ConfigError, match=words):
        variant.configure(given, seed=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocabulary.sise": 9000}, r"^comparison: unknown key 'vocabulary\.sise'; did you mean 'size'\?"),
        ({"vocabulary.size": 9}, r"^comparison: vocabulary\.size: .*greater than or equal to 300"),
        ({"embeddings.initialisation": "wechsel"}, r"initialisation 'wechsel' needs a dictionary"),
    ],
)
def test_settings_of_a_variant_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    given, variant = with_variant("random+odd", **changes)
    with pytest.raises(ConfigError, match=words):
        variant.configure(given, seed=1)


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (
            {"variants": {"mine": {}}},
            r"comparison: variants: expected names like 'counts\+mine', an arm and a name of yours .*, found 'mine'",
        ),
        ({"variants": {"counts+": {}}}, r"found 'counts\+'"),
        ({"variants": {"cuonts+mine": {}}}, r"found 'cuonts\+mine' .*; did you mean 'counts'\?"),
        ({"arms": ["counts+mine"]}, r"comparison: arms: unknown arm 'counts\+mine' \(known: trelm-recommended, "),
        (
            {"arms": ["counts+nime"], "variants": {"counts+mine": {}}},
            r"arms: unknown arm 'counts\+nime' .*; did you mean 'counts\+mine'\?",
        ),
        *(
            (
                {"variants": {"counts+mine": {"vocabulary.size": 900, place: 1}}},
                r"^config: comparison: variants\.counts\+mine: expected settings of training or of what is trained, "
                rf"found '{place}', which all cells have alike; make another comparison with it$",
            )
            for place in ("seed", "budget.updates", "corpus.max_pairs", "recipe", "training.mask_rate", "card.license")
        ),
    ],
)
def test_names_of_variants_that_cannot_be_are_refused(comparison: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(comparison=comparison)


def test_an_arm_that_lacks_what_it_needs_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="initialisation 'wechsel' needs a dictionary"):
        ARMS["wechsel"].configure(config(), seed=1)
