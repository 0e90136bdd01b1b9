"""The step that fits a masked-LM head, and the place where heads are kept between runs."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel, BertTokenizer

from toy import LINES, in_source, one_core, sentences, toy_config
from trelm.errors import ConfigError
from trelm.model.head import SparseMaskedLM, source_masked_lm, with_head
from trelm.model.source import load_source
from trelm.steps import head as step
from trelm.steps import head_cache
from trelm.steps.context import Context
from trelm.steps.head import fit_head, held_out_scores, source_digest, source_vocabulary
from trelm.steps.head_cache import HEAD_FILE, FittedHead, cache_entry, cache_folder, read_entry, write_entry
from trelm.workspace import Run

UPDATES = 20


class Listener:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.updates: list[tuple[Any, ...]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, *values: Any, **figures: Any) -> None:
        self.updates.append((*values, figures))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own."""
    monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "cache"))
    with one_core():
        yield tmp_path / "cache"


@pytest.fixture(scope="session")
def bare_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT without its head; only to be read."""
    folder = tmp_path_factory.mktemp("bare-bert")
    BertModel.from_pretrained(tiny_bert).save_pretrained(folder)
    BertTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """What the corpus step leaves of the source language, in a run folder."""
    folder = tmp_path / "run" / "corpus"
    folder.mkdir(parents=True)
    for name, count, seed in (("source.txt", LINES, 1), ("source-held-out.txt", 20, 2)):
        lines = [in_source(words) for words in sentences(count, seed)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def context_of(corpus: Path, model: Path, *overrides: str) -> Context:
    head = (f"head.updates={UPDATES}", "head.batch_tokens=256", "head.learning_rate=0.01")
    return Context(toy_config(corpus, model, *head, "training.checkpoint_minutes=10", *overrides), Run(corpus.parent))


def fitted(corpus: Path, model: Path, to: Path, *overrides: str) -> tuple[dict[str, Any], Listener]:
    """The figures of the step that fills the new folder `to`, and what it told."""
    listener, told = Listener(), Any
    to.mkdir()
    told = listener
    return fit_head(context_of(corpus, model, *overrides), to, told), listener


def no_training(*_: Any, **__: Any) -> None:
    raise AssertionError("a head was fitted")


# Fitting


def test_a_head_is_fitted_and_predicts_better(corpus: Path, bare_bert: Path, tmp_path: Path) -> None:
    figures, told = fitted(corpus, bare_bert, tmp_path / "head")
    assert (figures["fitted"], figures["cached"], figures["source_has_head"]) == (True, False, False)
    assert (figures["lines"], figures["cut_lines"], figures["updates"]) == (LINES, 0, UPDATES)
    assert figures["curve"]["updates"] == list(range(1, UPDATES + 1))
    assert figures["tokens"] > UPDATES * 128
    assert figures["fit_seconds"] > 0
    width, size = 32, 200
    assert figures["parameters"] == width * width + 3 * width + size  # dense, two of the norm; the bias of each entry
    before, floor, after = (figures["held_out"][name] for name in ("before", "unigram", "after"))
    assert after["masked_loss"] < before["masked_loss"] - 0.5
    assert after["masked_loss"] < floor["masked_loss"] + 0.1
    assert after["masked_accuracy"] >= before["masked_accuracy"]
    assert after["lines"] == before["lines"] == floor["lines"] == 20
    assert told.notes == []
    assert [update[:3] for update in told.updates] == [(n, UPDATES, "updates") for n in range(1, UPDATES + 1)]
    assert all(update[3]["tokens_a_second"] > 0 for update in told.updates)
    assert [path.name for path in (tmp_path / "head").iterdir() if path.is_file()] == [HEAD_FILE]


def test_what_is_left_is_the_head_that_was_scored(corpus: Path, bare_bert: Path, tmp_path: Path) -> None:
    figures, _ = fitted(corpus, bare_bert, tmp_path / "head")
    context = context_of(corpus, bare_bert)
    source = with_head(context.source, load_file(tmp_path / "head" / HEAD_FILE))
    model = SparseMaskedLM(source_masked_lm(source, seed=5))
    scores = held_out_scores(model, source.tokenizer, step.fitting_of(context))
    assert scores == pytest.approx(figures["held_out"]["after"], rel=1e-6)
    expected, found = context.source.backbone.state_dict(), source.backbone.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_an_interrupted_fitting_goes_on_to_the_same_head(
    corpus: Path, bare_bert: Path, tmp_path: Path, cache: Path
) -> None:
    whole, _ = fitted(corpus, bare_bert, tmp_path / "whole")
    shutil.rmtree(cache)
    folder, context = tmp_path / "parts", context_of(corpus, bare_bert, "training.checkpoint_minutes=1.0e-6")

    def stop(done: int, *_: Any, **__: Any) -> None:
        if done == 12:
            raise KeyboardInterrupt

    folder.mkdir()
    broken: Any = SimpleNamespace(update=stop, note=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        fit_head(context, folder, broken)
    assert not list(cache.glob("heads/*/*"))
    listener = Listener()
    told: Any = listener
    parts = fit_head(context, folder, told)
    assert listener.updates[0][0] > 10
    assert parts["held_out"] == whole["held_out"]
    ours, theirs = load_file(folder / HEAD_FILE), load_file(tmp_path / "whole" / HEAD_FILE)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_source_that_has_a_head_keeps_it(
    corpus: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "train", no_training)
    figures, told = fitted(corpus, tiny_bert, tmp_path / "head")
    assert figures == {"fitted": False, "source_has_head": True}
    assert not list((tmp_path / "head").iterdir())
    assert told.notes == []


def test_no_head_is_fitted_where_none_is_wanted(
    corpus: Path, bare_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "train", no_training)
    figures, told = fitted(corpus, bare_bert, tmp_path / "head", "head.updates=0")
    assert figures == {"fitted": False, "source_has_head": False}
    assert told.notes == ["head.updates is 0: the source has no masked-LM head, and none is fitted"]
    assert not list((tmp_path / "head").iterdir())


def test_without_held_out_text_nothing_is_scored(corpus: Path, bare_bert: Path, tmp_path: Path) -> None:
    (corpus / "source-held-out.txt").write_text("")
    figures, _ = fitted(corpus, bare_bert, tmp_path / "head")
    assert figures["held_out"] == {"before": None, "unigram": None, "after": None}


def test_cut_lines_are_counted(corpus: Path, bare_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "MAX_LENGTH", 12)
    figures, _ = fitted(corpus, bare_bert, tmp_path / "head")
    longer = [line for line in (corpus / "source.txt").read_text().split("\n")[:-1] if len(line.split()) > 10]
    assert figures["cut_lines"] >= len(longer) > 0


def test_a_tokenizer_without_a_special_token_is_refused(bare_bert: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(bare_bert)
    vocabulary = source_vocabulary(tokenizer)
    assert (vocabulary.start, vocabulary.end) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert (vocabulary.padding, vocabulary.mask) == (tokenizer.pad_token_id, tokenizer.mask_token_id)
    assert (vocabulary.size, set(vocabulary.special)) == (len(tokenizer), set(tokenizer.all_special_ids))
    tokenizer.mask_token = tokenizer.sep_token = None
    words = r"start, end, padding and mask tokens, found one without end or mask; a head cannot be fitted: give another"
    with pytest.raises(ConfigError, match=words):
        source_vocabulary(tokenizer)


# What is kept


def test_a_head_is_fitted_once_for_runs_of_every_seed(
    corpus: Path, bare_bert: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = fitted(corpus, bare_bert, tmp_path / "first")
    entry = cache / "heads" / first["digest"]
    assert sorted(path.name for path in entry.iterdir()) == ["head.safetensors", "manifest.json"]
    monkeypatch.setattr(step, "train", no_training)
    second, told = fitted(corpus, bare_bert, tmp_path / "second", "seed=2", "training.log_updates=7")
    assert second == {**first, "cached": True}
    assert told.notes == ["the head was fitted in an earlier run"]
    one, two = ((tmp_path / name / HEAD_FILE).read_bytes() for name in ("first", "second"))
    assert one == two == (entry / HEAD_FILE).read_bytes()
    kept = json.loads((entry / "manifest.json").read_text())["figures"]["held_out"]["after"]["masked_accuracy"]
    assert kept == first["held_out"]["after"]["masked_accuracy"]


def test_other_text_or_settings_are_another_head(corpus: Path, bare_bert: Path) -> None:
    def name(*overrides: str) -> str:
        context = context_of(corpus, bare_bert, *overrides)
        return step.fitting_of(context).digest(context.source)

    overrides = ("head.updates=21", "head.batch_tokens=128", "head.learning_rate=0.02", "head.max_lines=50")
    names = [name(), *(name(one) for one in (*overrides, "training.mask_rate=0.2", "training.precision=bfloat16"))]
    assert name("seed=4") == names[0]
    for file in ("source.txt", "source-held-out.txt"):
        with (corpus / file).open("a") as stream:
            stream.write("one more line\n")
        names.append(name())
    assert len(set(names)) == len(names)


def test_the_digest_is_the_sources_and_not_the_folders(bare_bert: Path, tmp_path: Path) -> None:
    source = load_source(str(bare_bert))
    expected = source_digest(source)
    source.tokenizer(["a b c"], truncation=True, max_length=3, padding=True)  # leaves its mark on the tokenizer
    assert source_digest(source) == expected
    copy = Path(shutil.copytree(bare_bert, tmp_path / "copy"))
    assert source_digest(load_source(str(copy), seed=9)) == expected
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.3.output.dense.bias"][5] += 1e-6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert source_digest(load_source(str(copy))) != expected
    assert source_digest(replace(source, tokenizer=BertTokenizer(vocab={"a": 0, "[UNK]": 1}))) != expected
    source.config.layer_norm_eps = 1e-3
    assert source_digest(source) != expected


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda entry: (entry / HEAD_FILE).write_bytes(b"\0" * 100), "head.safetensors is not what its manifest says"),
        (lambda entry: (entry / HEAD_FILE).unlink(), "FileNotFoundError"),
        (lambda entry: (entry / "manifest.json").write_text("{"), "RunFolderError"),
        (lambda entry: (entry / "manifest.json").write_text("[]"), "TypeError"),
        (lambda entry: (entry / "manifest.json").write_text("{}"), "KeyError"),
    ],
    ids=["bytes", "no-weights", "half-a-manifest", "a-list", "no-keys"],
)
def test_a_damaged_entry_is_fitted_again(
    damage: Any, words: str, corpus: Path, bare_bert: Path, tmp_path: Path, cache: Path
) -> None:
    first, _ = fitted(corpus, bare_bert, tmp_path / "first")
    entry = cache / "heads" / first["digest"]
    damage(entry)
    second, told = fitted(corpus, bare_bert, tmp_path / "second")
    assert not second["cached"]
    assert len(told.notes) == 1
    assert told.notes[0].startswith(f"{entry}: the head kept there is damaged ({words}")
    assert told.notes[0].endswith("); fitting it again")
    assert second["held_out"] == first["held_out"]
    third, _ = fitted(corpus, bare_bert, tmp_path / "third")
    assert third["cached"]


def test_an_entry_that_was_cut_off_is_none(tmp_path: Path) -> None:
    notes: list[str] = []
    head_cache.write_head(tmp_path / HEAD_FILE, {"bias": torch.ones(2)})
    assert read_entry(tmp_path, notes.append) is None
    assert notes == []
    shared = torch.arange(3.0)
    write_entry(tmp_path, FittedHead({"bias": shared, "decoder.bias": shared}, {"tokens": 5}), notes.append)
    head = read_entry(tmp_path, notes.append)
    assert head is not None
    assert head.figures == {"tokens": 5}
    assert {name: value.tolist() for name, value in head.weights.items()} == {
        "bias": [0, 1, 2], "decoder.bias": [0, 1, 2],
    }  # fmt: skip
    assert notes == []


def test_a_second_process_waits_for_the_first(cache: Path) -> None:
    """Locks of one process exclude each other as those of two do: each belongs to an open file."""
    order: list[str] = []
    waits = threading.Event()

    def note(text: str) -> None:
        order.append(text)
        waits.set()

    def second() -> None:
        with cache_entry("abc", note) as place:
            assert place == cache / "heads" / "abc"
            order.append("second")

    other = threading.Thread(target=second)
    with cache_entry("abc", order.append) as place:
        assert place is not None
        other.start()
        assert waits.wait(20)
        order.append("first")
    other.join(20)
    assert order == ["another process is fitting the same head; waiting for it", "first", "second"]


def test_a_cache_that_cannot_be_written_is_done_without(
    corpus: Path, bare_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "file"))
    figures, told = fitted(corpus, bare_bert, tmp_path / "head")
    assert figures["fitted"]
    assert (tmp_path / "head" / HEAD_FILE).exists()
    place = tmp_path / "file" / "heads"
    assert told.notes == [
        f"{place}: heads cannot be kept there (Not a directory), this one is kept in this run only; "
        "set TRELM_CACHE to a folder that can be written"
    ]


def test_an_entry_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "entry").write_text("")
    notes: list[str] = []
    write_entry(tmp_path / "entry", FittedHead({"bias": torch.ones(2)}, {}), notes.append)
    assert len(notes) == 1
    assert notes[0].startswith(f"the head is kept in this run only: {tmp_path / 'entry'}")


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [("/own", "/shared", "/own"), ("", "/shared", "/shared/trelm"), ("", "relative", "HOME/.cache/trelm")],
)
def test_where_the_cache_is(own: str, shared: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELM_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", shared)
    monkeypatch.setenv("HOME", "/somebody")
    assert cache_folder() == Path(expected.replace("HOME", "/somebody"))
    monkeypatch.delenv("TRELM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/somebody/.cache/trelm")
