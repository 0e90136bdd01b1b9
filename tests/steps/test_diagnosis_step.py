"""The diagnosis of the toy run and of tables written by hand, against plain loops."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from toy import ToyRun
from trelm.evaluation.intrinsic import mask_lines
from trelm.initialisation import PROVENANCES, Initialisation, Surface
from trelm.steps import diagnosis, initialisation
from trelm.steps.diagnosis import coverage, row_figures, word_entries
from trelm.steps.outcome import score_text
from trelm.steps.training import load_model
from trelm.vocabulary.description import special_ids

START_FILE = "model/start/model.safetensors"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "use_all_cores", lambda: 1)


@pytest.fixture
def told(toy_run: ToyRun) -> dict[str, Any]:
    """What the diagnosis of the toy run left."""
    return dict(toy_run.report["diagnosis"])


class Tell(SimpleNamespace):
    """Keeps the notes."""

    def __init__(self) -> None:
        super().__init__(notes=[], updates=0)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, *_: Any, **__: Any) -> None:
        self.updates += 1


def counts_of(run: ToyRun, side: str) -> Counter[int]:
    return Counter(run.context().tokens(side).values.tolist())


# Entries


def test_coverage_by_hand() -> None:
    flags, counts = np.array([True, False, True, False]), np.array([3, 6, 0, 1])
    assert coverage(flags, counts) == {"entries": 2, "share_of_entries": 0.5, "share_of_tokens": 0.3}
    assert coverage(flags, np.zeros(4, dtype=np.int64))["share_of_tokens"] == 0


def test_shared_entries_are_those_spelled_alike(toy_run: ToyRun, told: dict[str, Any]) -> None:
    context, counts = toy_run.context(), counts_of(toy_run, "target")
    own, theirs = context.tokenizer.get_vocab(), context.source.tokenizer.get_vocab()
    alike = {row for piece, row in own.items() if piece in theirs and row not in special_ids(context.tokenizer)}
    assert told["entries"]["shared"] == {
        "entries": len(alike),
        "share_of_entries": pytest.approx(len(alike) / len(own)),
        "share_of_tokens": pytest.approx(sum(counts[row] for row in alike) / counts.total()),
    }
    source = counts_of(toy_run, "source")
    letters = {row: piece.removeprefix("##").isalpha() for piece, row in own.items() if row not in {0, 1, 2, 3, 4}}
    known = {row for row in alike if letters[row] and source[row] >= 5}
    words = sum(count for row, count in counts.items() if letters.get(row))
    assert 0 < len(known) < len(alike)
    found = told["entries"]["shared_words"]
    assert found["entries"] == len(known)
    assert found["share_of_word_tokens"] == pytest.approx(sum(counts[row] for row in known) / words)


def test_linked_entries_are_those_with_links(toy_run: ToyRun, told: dict[str, Any]) -> None:
    counts = counts_of(toy_run, "target")
    linked = set(initialisation.linked_pairs(toy_run.context())[0][:, 0].tolist())
    found = told["entries"]["linked"]
    assert found["entries"] == len(linked)
    assert found["share_of_tokens"] == pytest.approx(sum(counts[row] for row in linked) / counts.total())


WORDS = [
    *(Surface(text, True) for text in ("the", "和", "中国", "usb", "3", "。", "a1", "é", "ß\u0301", "")),
    Surface(None, False),
    Surface(None, False),
]


def flags_of(target: dict[str, int], source: dict[str, int]) -> tuple[set[str], set[str]]:
    """Which of the words are the target's own, and which are words at all, by text."""
    counts = [np.array([side.get(str(one.text), 0) for one in WORDS]) for side in (target, source)]
    found = word_entries(WORDS, {len(WORDS) - 1}, counts[0], counts[1])
    own, words = ({str(one.text) for one, flag in zip(WORDS, flags, strict=True) if flag} for flags in found)
    assert not found[1][-1]  # a special token
    return own, words


def test_words_are_of_letters_and_of_bytes_of_letters() -> None:
    _, words = flags_of({"和": 9}, {"the": 9})
    assert words == {"the", "和", "中国", "usb", "é", "ß\u0301", "None"}


def test_the_targets_words_are_in_its_script() -> None:
    latin = {"the", "usb", "é", "ß\u0301"}
    assert flags_of({"和": 9, "usb": 8}, {"the": 9})[0] == {"和", "中国"}
    assert flags_of({"é": 9}, {"the": 9})[0] == {*latin, "和", "中国"}  # one script: loans stay
    assert flags_of({"the": 9}, {"和": 9})[0] == latin


# Rows


def test_rows_by_provenance_by_hand() -> None:
    words = np.array([[3, 4], [0, 1], [6, 8], [0, 2], [1, 0]], dtype=np.float32)  # of lengths 5, 1, 10, 2, 1
    kinds = np.array([PROVENANCES.index(name) for name in ("special", "linked", "mapped", "linked", "mapped")])
    made = Initialisation(words, None, None, kinds.astype(np.int8))
    found = row_figures(made, np.array([0, 4, 3, 2, 1]), source_norm=2.0)
    assert found == {
        "special": {"entries": 1, "share_of_entries": 0.2, "share_of_tokens": 0.0, "norm_ratio": 2.5},
        "linked": {"entries": 2, "share_of_entries": 0.4, "share_of_tokens": 0.6, "norm_ratio": 0.75},
        "mapped": {"entries": 2, "share_of_entries": 0.4, "share_of_tokens": 0.4, "norm_ratio": 2.75},
        "random": {"entries": 0, "share_of_entries": 0.0, "share_of_tokens": 0.0, "norm_ratio": None},
    }


def test_rows_of_a_run_are_those_of_its_table(toy_run: ToyRun, told: dict[str, Any]) -> None:
    made = toy_run.context().figures("model")
    counted = {name: row["entries"] for name, row in told["rows"].items() if row["entries"]}
    assert counted == {name: count for name, count in made["rows"].items() if count}
    assert sum(row["share_of_tokens"] for row in told["rows"].values()) == pytest.approx(1)
    table = load_file(toy_run.folder / START_FILE)["trelm.backbone.embeddings.word_embeddings.weight"]
    source = toy_run.context().source
    usable = [row for row in range(200) if row not in source.tokenizer.all_special_ids]
    lengths = [math.dist(row, [0] * 32) for row in source.table[usable].tolist()]
    mean = sum(math.dist(row, [0] * 32) for row in table.tolist()) / len(table)
    assert told["norm_ratio"] == pytest.approx(mean / (sum(lengths) / len(lengths)), rel=1e-5)


# Tokenizers, translation


def test_tokenizers_cut_the_same_lines(toy_run: ToyRun, told: dict[str, Any]) -> None:
    context = toy_run.context()
    lines = context.lines("target-held-out.txt")[:200]
    for name, tokenizer in (("new", context.tokenizer), ("source", context.source.tokenizer)):
        pieces = sum(len(tokenizer(line, add_special_tokens=False)["input_ids"]) for line in lines)
        assert told["tokenizers"][name]["fertility"] == pytest.approx(pieces / sum(len(line.split()) for line in lines))
    assert told["tokenizers"]["new"]["fertility"] < told["tokenizers"]["source"]["fertility"]


def test_translation_is_of_the_initial_table(toy_run: ToyRun, told: dict[str, Any]) -> None:
    """Mixed from true links, it knows more words than the aligned table does."""
    found = told["translation"]
    assert found["queries"] == toy_run.report["alignment"]["queries"]
    assert found["chance_at_1"] < toy_run.report["alignment"]["precision_at_1"] < found["precision_at_1"]
    assert found["precision_at_1"] <= found["precision_at_5"] <= 1


# Masked prediction


def test_masked_prediction_is_that_of_the_model_before_training(toy_run: ToyRun, told: dict[str, Any]) -> None:
    context = toy_run.context()
    lines = context.lines("target-held-out.txt")[:200]
    scores = score_text(context, load_model(context, "model"), lines)
    held_out = told["held_out"]
    assert list(held_out) == ["unigram", "start", "after_head"]
    assert held_out["start"] == {name: pytest.approx(scores[name]) for name in diagnosis.SCORES}
    assert held_out["start"]["masked_loss"] == pytest.approx(
        toy_run.report["models"]["start"]["masked_loss"]
    )  # the toy has fewer lines than are looked at
    masked = mask_lines(context.tokenizer, lines, mask_rate=0.15, seed=1, max_length=64)
    counts = counts_of(toy_run, "target")
    total = counts.total() + len(context.tokenizer)
    losses = [-math.log((counts[int(label)] + 1) / total) for line in masked for label in line.labels]
    assert held_out["unigram"]["masked_loss"] == pytest.approx(sum(losses) / len(losses))
    assert len({one["masked_tokens"] for one in held_out.values()}) == 1


def test_no_more_lines_are_looked_at_than_two_hundred(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    context, seen = toy_run.context(), []
    monkeypatch.setattr(context, "lines", lambda _: ["satu dua"] * 999)
    monkeypatch.setattr(diagnosis, "masked_prediction", lambda _, lines, *__: seen.append(len(lines)) or {})
    diagnosis.diagnose_start(context, toy_run.folder, Tell())
    assert seen == [200]


@pytest.mark.parametrize("has_head", [True, False])
def test_only_the_head_moves(toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_head: bool) -> None:
    context, tell = toy_run.context(), Tell()
    source = SimpleNamespace(has_head=has_head)
    monkeypatch.setattr(type(context), "source", property(lambda _: source))
    model = load_model(context, "model")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = diagnosis.train_head(context, model, tmp_path, tell)
    assert trained is not None
    assert (trained.updates, tell.updates) == (3, 3)
    assert 0 < trained.tokens <= 3 * 1024
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "head.cls.predictions.transform.dense.weight" in moved
    assert all(name.startswith("head.cls.") for name in moved)
    assert not [name for name in moved if before[name].shape == before["head.cls.predictions.decoder.weight"].shape]
    bias, counts = model.state_dict()["head.cls.predictions.bias"], counts_of(toy_run, "target")
    logs = torch.tensor([math.log(counts[row] + 1) for row in range(len(bias))])
    assert (float((bias - (logs - logs.mean())).abs().max()) < 0.1) is not has_head  # begins at the frequencies
    assert not list(tmp_path.rglob("*.safetensors"))


def test_updates_of_the_head_help_and_are_the_same_every_time(toy_run: ToyRun, tmp_path: Path) -> None:
    context = toy_run.context("diagnosis.head_updates=30")
    lines = context.lines("target-held-out.txt")
    first, again = (diagnosis.masked_prediction(context, lines, tmp_path, Tell()) for _ in range(2))
    assert first == again
    assert first["after_head"]["masked_loss"] < first["start"]["masked_loss"]
    assert first["after_head"]["updates"] == 30


def test_no_updates_no_figure(toy_run: ToyRun, tmp_path: Path) -> None:
    context = toy_run.context("diagnosis.head_updates=0")
    found = diagnosis.masked_prediction(context, context.lines("target-held-out.txt"), tmp_path, Tell())
    assert list(found) == ["unigram", "start"]


def test_a_head_that_is_a_table_is_said(toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "freeze_all_but_head", lambda _: [])
    context, tell = toy_run.context(), Tell()
    found = diagnosis.masked_prediction(context, context.lines("target-held-out.txt"), tmp_path, tell)
    assert list(found) == ["unigram", "start"]
    assert tell.notes == ["the head is nothing but a table: there is no score after updates of the head alone"]


# The whole


def test_the_whole_is_what_the_report_holds(toy_run: ToyRun, told: dict[str, Any], tmp_path: Path) -> None:
    found = diagnosis.diagnose_start(toy_run.context(), tmp_path, Tell())
    assert found == told
    chosen = toy_run.report["alignment"]["candidates"]["parallel"]
    assert found["alignment"] == {"method": "parallel", "collapsed": chosen["collapsed"]}
    assert found["initialisation"] == toy_run.config().embeddings.initialisation
    assert found["source_has_head"] is True
    without = diagnosis.diagnose_start(toy_run.context("evaluation=[]", "diagnosis.head_updates=0"), tmp_path, Tell())
    assert without.keys() == found.keys() - {"translation"}


def test_warnings_are_counted_while_the_run_goes_on(toy_run: ToyRun, tmp_path: Path) -> None:
    tell = Tell()
    found = diagnosis.diagnose_start(
        toy_run.context("embeddings.initialisation=shared", "diagnosis.head_updates=0"), tmp_path, tell
    )
    number = len(found["warnings"])
    assert number > 0
    assert tell.notes == [f"warnings: {number}; `trelm diagnose` prints them, and so does the report"]
