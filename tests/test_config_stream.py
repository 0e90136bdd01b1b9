"""`source.stream` and `target.stream`: names of data sets that are read while training."""

from __future__ import annotations

from typing import Any

import pytest

from trelm.config import Config, make_config
from trelm.errors import ConfigError


def config(**target: Any) -> Config:
    return make_config(
        {
            "source": {"model": "minilm", "text": ["en.txt"]},
            "target": {"language": "id", "text": ["id.txt"], **target},
            "parallel": ["pairs.tsv"],
            "budget": {"updates": 10},
        }
    )


def test_there_is_no_stream_by_default() -> None:
    assert config().target.stream == config().source.stream == ()
    assert config().training.stream_lines == 20_000


def test_one_name_or_several() -> None:
    assert config(stream="hf://a/b/train").target.stream == ("hf://a/b/train",)
    assert config(stream=["hf://a/b/train", "hf://c:id/train#body"]).target.stream[1] == "hf://c:id/train#body"


@pytest.mark.parametrize("stream", ["id.txt", ["hf://a/b/train", "id.txt"]])
def test_files_are_no_stream(stream: Any) -> None:
    expected = (
        r"target\.stream: expected hf:// names of data sets, which are read while training; name files under text"
    )
    with pytest.raises(ConfigError, match=expected):
        config(stream=stream)


@pytest.mark.parametrize(("stream", "found"), [(5, "5"), (None, "nothing")])
def test_a_stream_is_a_list(stream: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"target\.stream: expected a list, found {found}"):
        config(stream=stream)


def test_text_is_needed_beside_a_stream() -> None:
    with pytest.raises(ConfigError, match=r"target\.text: expected at least one entry"):
        config(text=[], stream=["hf://a/b/train"])
