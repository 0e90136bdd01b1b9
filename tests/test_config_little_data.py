"""Limits for little data, development lines and patience: what fits together, and what is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest

from trelm.config import Config, make_config
from trelm.errors import ConfigError


def config(stream: tuple[str, ...] = (), **sections: Any) -> Config:
    return make_config(
        {
            "source": {"model": "minilm", "text": ["en.txt"]},
            "target": {"language": "id", "text": ["id.txt"], "stream": list(stream)},
            "parallel": ["pairs.tsv"],
            "budget": {"updates": 10},
            **sections,
        }
    )


def test_by_default_everything_trains_as_planned() -> None:
    corpus, training = config().corpus, config().training
    assert (corpus.max_target_lines, corpus.max_pairs, corpus.development_lines) == (None, None, 0)
    assert (training.patience, training.evaluate_updates) == (None, 100)


def test_patience_with_development_lines() -> None:
    made = config(corpus={"development_lines": 500, "held_out_lines": 1000}, training={"patience": 5})
    assert made.training.patience == 5


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"training": {"patience": 5}},
            r"config: training\.patience: expected development lines to choose weights on, found none; set "
            r"corpus\.development_lines, or leave patience out$",
        ),
        (
            {"corpus": {"development_lines": 200}, "training": {"patience": 5, "sharding": "fsdp"}},
            r"config: training\.patience: expected training\.sharding none \(.*\), found fsdp; leave one of the two",
        ),
        (
            {"corpus": {"development_lines": 501, "held_out_lines": 1000}},
            r"config: corpus\.development_lines: expected at most 500, half of corpus\.held_out_lines, found 501; "
            r"lower it, or raise corpus\.held_out_lines$",
        ),
        ({"training": {"patience": 0}}, r"training\.patience: .*greater than or equal to 1 \(found 0\)"),
        ({"training": {"evaluate_updates": 0}}, r"training\.evaluate_updates: .*greater than or equal to 1"),
        ({"corpus": {"max_target_lines": 0}}, r"corpus\.max_target_lines: .*greater than or equal to 1"),
        ({"corpus": {"max_pairs": 0}}, r"corpus\.max_pairs: .*greater than or equal to 1"),
        ({"corpus": {"development_lines": -1}}, r"corpus\.development_lines: .*greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_line(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**sections)


@pytest.mark.parametrize("limit", ["max_target_lines", "max_pairs"])
def test_limits_and_a_stream_of_target_text_exclude_each_other(limit: str) -> None:
    words = (
        rf"config: corpus\.{limit}: expected no target\.stream, whose text would train besides, found "
        "'hf://a/b/train'; leave one of the two out$"
    )
    with pytest.raises(ConfigError, match=words):
        config(("hf://a/b/train",), corpus={limit: 100})
    config(("hf://a/b/train",))
