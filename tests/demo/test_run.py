from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from trelm.corpus.ragged import Ragged
from trelm.demo import run as demonstration
from trelm.errors import ConfigError, RunFolderError
from trelm.pipeline import describe_inputs

# Two pairs: source words, target words, true links, and what an aligner found for the pieces of each side.
PAIRS = [
    (["the", "zoo", "."], ["we", "was", "."], "1-0 2-2"),
    (["she", "had", "."], ["his", "one", "."], "0-0 1-1 2-2"),
]
SOURCE_OF_TARGET = [[1, 0, 4], [0, 1, 2]]  # "zoo" is the pieces 1 to 3
TARGET_OF_SOURCE = [[-1, 0, 0, -1, 2], [0, 1, 2]]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where data were written, by a stand-in that takes no time."""
    calls: list[Path] = []

    def write(folder: Path) -> dict[str, Any]:
        calls.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("source.txt", "target.txt", "parallel.tsv", "dictionary.tsv"):
            (folder / name).write_text("a\tb\n", encoding="utf-8")
        return {"sentences": 1}

    monkeypatch.setattr(demonstration, "write_demo_data", write)
    return calls


def test_data_are_written_once(tmp_path: Path, writes: list[Path]) -> None:
    first = demonstration.prepare(tmp_path / "demo")
    assert describe_inputs(first) == [
        f"{tmp_path / 'demo' / 'data' / name} 4 bytes"
        for name in ("source.txt", "target.txt", "parallel.tsv", "dictionary.tsv")
    ]
    assert demonstration.prepare(tmp_path / "demo") == first
    assert len(writes) == 1
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["data"]


def test_the_configuration_is_the_quick_one_with_overrides(tmp_path: Path, writes: list[Path]) -> None:
    config = demonstration.prepare(tmp_path, ["budget.updates=9", "seed=4"])
    assert (config.recipe, config.source.model, config.target.language) == ("quick", "minilm", "xx")
    assert (config.budget.updates, config.budget.minutes, config.seed) == (9, None, 4)


def test_a_wrong_override_is_a_mistake_in_the_call(tmp_path: Path, writes: list[Path]) -> None:
    with pytest.raises(ConfigError, match="trelm demo: unknown key 'sed'; did you mean 'seed'"):
        demonstration.prepare(tmp_path, ["sed=4"])


def test_other_data_are_left_alone(tmp_path: Path, writes: list[Path]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "source.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match="expected data of the demonstration, found other files; choose another"):
        demonstration.prepare(tmp_path)
    assert (tmp_path / "data" / "source.txt").read_text("utf-8") == "mine"
    assert writes == []


def test_data_that_were_cut_off_are_not_there(
    tmp_path: Path, writes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = demonstration.write_demo_data

    def stop(folder: Path) -> None:
        whole(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demonstration, "write_demo_data", stop)
        with pytest.raises(KeyboardInterrupt):
            demonstration.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []
    demonstration.prepare(tmp_path)
    assert (tmp_path / "data" / demonstration.COUNTS).is_file()


@pytest.fixture
def finished(tmp_path: Path, tiny_bert: Path) -> Path:
    """What `link_scores` reads, of two pairs."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    run, data = tmp_path / "run", tmp_path / "data"
    for folder in (data, run / "corpus", run / "tokens", run / "word-links"):
        folder.mkdir(parents=True)
    shutil.copytree(tiny_bert, run / "vocabulary")
    lines = [" ".join(source) + "\t" + " ".join(target) for source, target, _ in PAIRS]
    truth = [f"{line}\t{links}" for line, (*_, links) in zip(lines, PAIRS)]
    (data / "parallel.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (data / "parallel-links.tsv").write_text("".join(f"{line}\n" for line in truth), encoding="utf-8")
    (run / "corpus" / "parallel.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for side, name in enumerate(("source", "target")):
        pieces = [tokenizer(" ".join(pair[side]), add_special_tokens=False)["input_ids"] for pair in PAIRS]
        Ragged.of([np.array(ids) for ids in pieces]).save(run / "tokens", f"parallel-{name}")
    Ragged.of([np.array(links) for links in SOURCE_OF_TARGET]).save(run / "word-links", "source-of-target")
    Ragged.of([np.array(links) for links in TARGET_OF_SOURCE]).save(run / "word-links", "target-of-source")
    return tmp_path


def test_links_of_pieces_are_judged_as_links_of_words(finished: Path) -> None:
    # forward: {1-0, 0-1, 2-2} and all three of the second pair; 5 of 6 are among the 5 true ones
    # reverse: exactly the true ones
    assert demonstration.link_scores(finished) == {
        "forward": pytest.approx({"precision": 5 / 6, "recall": 1.0, "alignment_error_rate": 1 - 10 / 11}),
        "reverse": pytest.approx({"precision": 1.0, "recall": 1.0, "alignment_error_rate": 0.0}),
        "pairs": 2,
        "pairs_skipped": 0,
    }


def test_pairs_whose_pieces_are_not_those_of_their_words_are_counted(finished: Path) -> None:
    tokens = Ragged.load(finished / "run" / "tokens", "parallel-target")
    other = Ragged(np.append(tokens.values[:-1], tokens.values[-1] + 1), tokens.offsets)
    other.save(finished / "run" / "tokens", "parallel-target")
    scores = demonstration.link_scores(finished)
    assert (scores["pairs"], scores["pairs_skipped"]) == (1, 1)
    # of the first pair alone: two of three right
    assert scores["forward"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "alignment_error_rate": 1 - 4 / 5})


def test_held_out_pairs_are_not_asked_for(finished: Path) -> None:
    """The truth knows every pair of the data; the run trains on fewer, in another order."""
    corpus = finished / "run" / "corpus" / "parallel.tsv"
    second = corpus.read_text("utf-8").splitlines()[1]
    corpus.write_text(f"{second}\n", encoding="utf-8")
    for folder, names in (("tokens", ("parallel-source", "parallel-target")), ("word-links", ("source-of-target",))):
        for name in names:
            whole = Ragged.load(finished / "run" / folder, name)
            Ragged.of([whole[1]]).save(finished / "run" / folder, name)
    Ragged.of([np.array([0, -1, -1])]).save(finished / "run" / "word-links", "target-of-source")
    scores = demonstration.link_scores(finished)
    assert scores["forward"]["alignment_error_rate"] == 0.0
    assert scores["reverse"] == pytest.approx({"precision": 1.0, "recall": 1 / 3, "alignment_error_rate": 1 - 2 / 4})
