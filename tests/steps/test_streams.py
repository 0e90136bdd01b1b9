"""From the configuration to streams: whose text they are of, and that nothing that is judged is among it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertTokenizer

from trelm.config import make_config
from trelm.steps.streams import judged_sentences, text_streams

HELD_OUT = {
    "source-held-out.txt": ["the state of that"],
    "target-held-out.txt": ["we may then do"],
    "parallel-held-out.tsv": ["some time\tany time"],
}
ROWS = ["the people", "The state of that!", "we may then do", "any time", "good work", "long before", "some time"]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(tiny_bert)


def context(tmp_path: Path, **target: Any) -> Any:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "train.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    (tmp_path / "test.txt").write_text("good  work\nx\n")
    task = {"task": "text", "test": str(tmp_path / "test.txt")}
    config = make_config(
        {
            "source": {"model": "minilm", "text": ["en.txt"]},
            "target": {"language": "id", "text": ["id.txt"], **target},
            "parallel": ["pairs.tsv"],
            "budget": {"updates": 10},
            "evaluation": [task],
        }
    )
    return SimpleNamespace(config=config, lines=HELD_OUT.__getitem__)


def test_without_a_stream_there_is_none(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    assert text_streams(context(tmp_path), tokenizer) == {}


def test_what_is_judged_is_known(tmp_path: Path) -> None:
    expected = {"the state of that", "we may then do", "some time", "any time", "good work", "x"}
    assert set(judged_sentences(context(tmp_path))) == expected


@pytest.mark.parametrize("process", [None, ("1", "2")])
def test_the_target_stream_gives_what_is_left_as_batches_of_the_target_language(
    tmp_path: Path, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch, process: tuple[str, str] | None
) -> None:
    for name, value in zip(("RANK", "WORLD_SIZE"), process or ()):
        monkeypatch.setenv(name, value)
    streams = text_streams(context(tmp_path, stream=f"hf://{tmp_path}/shards/train"), tokenizer)
    assert list(streams) == ["target-text"]
    stream = streams["target-text"].sequence(1000, 5)
    batch, tokens = stream.batch(0)
    whole = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    lines = sorted(tokenizer.batch_decode(whole, skip_special_tokens=True))
    assert lines == (["long before", "the people"] if process is None else ["long before"])
    assert tokens == int(batch["attention_mask"].sum())
    assert (batch["language"] == 1).all()


def test_a_stage_s_own_mask_rate_is_another_share_of_the_same_text(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    text = text_streams(context(tmp_path, stream=f"hf://{tmp_path}/shards/train"), tokenizer)["target-text"]
    usual, nearly_all = (stream.sequence(1000, 5).batch(0)[0] for stream in (text, text.masked_at(1 - 1e-9)))
    wholes = [
        torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"]) for batch in (usual, nearly_all)
    ]
    assert torch.equal(*wholes)
    ordinary = int(usual["attention_mask"].sum()) - 2 * len(wholes[0])
    assert int((usual["labels"] != -100).sum()) < ordinary
    assert int((nearly_all["labels"] != -100).sum()) == ordinary
