"""What is shared between arms and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from test_arms import config

from trelm.comparison.arms import ARMS
from trelm.comparison.preparation import STEPS, needed_steps, step_digest
from trelm.steps.context import ALIGNMENT, CORPUS, EMBEDDINGS, HEAD, TOKENS, VOCABULARY, WORD_LINKS

EVERY = set(STEPS)
TAUGHT = {"transfer_upper": {"share": 0}, "transfer_lower": {"share": 0}, "transfer_joint": {"share": 1, "taught": 0.5}}


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ({"stages": {"scratch": {"share": 2}}}, set()),
        ({"budget": {"minutes": 3}}, set()),
        ({"comparison": {"seeds": [1]}}, set()),
        ({"embeddings": {"initialisation": "counts", "min_links": 2}}, set()),
        ({"alignment": {"method": "identical"}}, {ALIGNMENT}),
        ({"embeddings": {"epochs": 2}}, {EMBEDDINGS, ALIGNMENT}),
        ({"word_links": {"iterations": 2}}, {WORD_LINKS, ALIGNMENT}),
        ({"head": {"updates": 7}}, {HEAD}),
        ({"stages": TAUGHT}, {WORD_LINKS, ALIGNMENT}),  # what a teacher needs lies with the links
        ({"stages": TAUGHT | {"transfer_joint": {"share": 1}}}, set()),
        ({"vocabulary": {"size": 900}}, {VOCABULARY, TOKENS, WORD_LINKS, EMBEDDINGS, ALIGNMENT}),
        ({"evaluation": [{"task": "text", "test": ["t"]}]}, EVERY),
        ({"seed": 2}, EVERY),
    ],
)
def test_a_step_is_done_again_where_what_it_reads_has_changed_and_nowhere_else(
    changed: dict[str, Any], steps: set[str]
) -> None:
    before, after = (
        {name: step_digest(made, name, ["a 1"]) for name in STEPS} for made in (config(), config(**changed))
    )
    assert {name for name in STEPS if before[name] != after[name]} == steps


def test_how_models_are_tuned_changes_no_preparation() -> None:
    sets = [
        {"task": "tagging", "train": ["a"], "dev": ["b"], "test": ["c"], "fine_tuning": {"epochs": n}} for n in (1, 2)
    ]
    first, second = (step_digest(config(evaluation=[one]), CORPUS, []) for one in sets)
    assert first == second


def test_an_input_file_of_another_size_is_other_text() -> None:
    assert step_digest(config(), CORPUS, ["a 1"]) != step_digest(config(), CORPUS, ["a 2"])


def test_arms_need_what_they_use() -> None:
    assert needed_steps(ARMS["scratch"]) == [CORPUS, VOCABULARY, TOKENS]
    assert needed_steps(ARMS["counts"]) == [CORPUS, HEAD, VOCABULARY, TOKENS, WORD_LINKS]
    assert needed_steps(ARMS["source-tokenizer"]) == [CORPUS, HEAD, "source-tokens"]
    assert set(needed_steps(ARMS["trelm-recommended"])) == EVERY - {"source-tokens"}
