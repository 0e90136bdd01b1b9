"""An export takes what it needs of the source encoder from the run, and looks at what it wrote as others will."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toy import ToyRun, copy_of, export_toy
from trelm.steps import export as step
from trelm.steps.training import load_model
from trelm.workspace import read_json

pytestmark = pytest.mark.usefixtures("one_core_a_test")


@pytest.fixture(scope="module")
def later(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A run after the plain export that it was not planned for; only to be read."""
    run = copy_of(toy_run, tmp_path_factory.mktemp("later") / "run")
    export_toy(run, kind="plain")
    return run


@pytest.mark.parametrize("kind", ["plain", "trelm"])
def test_an_export_needs_no_source_folder(
    tiny_bert: Path, later: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: step.Kind
) -> None:
    """What it takes of the encoder, its dropout rates and its name, the run itself has."""
    monkeypatch.setattr("trelm.steps.context.load_source", _nowhere)
    gone = str(tmp_path / "moved" / tiny_bert.name)
    assert not Path(gone).exists()
    context = later.context(f"source.model={gone}", "training.hidden_dropout=0.0", "training.attention_dropout=0.0")
    step.export_to(context, tmp_path / "to", kind=kind)
    found = read_json(tmp_path / "to" / "config.json")
    found = found if kind == "plain" else found["source"]
    own = read_json(tiny_bert / "config.json")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        assert found[name] == own[name] == 0.1
    card = (tmp_path / "to" / "README.md").read_text(encoding="utf-8")
    assert f"# {tiny_bert.name} moved to `xx` by TreLM" in card
    assert str(tmp_path) not in card


def _nowhere(name: str, **_: Any) -> Any:
    raise AssertionError(f"{name} was opened")


def test_dropout_rates_are_the_sources_own_whatever_was_trained_with(
    toy_run: ToyRun, later: ToyRun, tmp_path: Path
) -> None:
    trained = load_model(later.context(), "plain").config.source
    assert (trained.hidden_dropout_prob, trained.attention_probs_dropout_prob) == (0.0, 0.0)
    rates = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1}
    assert toy_run.context().figures("model")["dropout"] == rates
    run = copy_of(later, tmp_path / "run")
    path = run.folder / "model" / "manifest.json"
    changed = read_json(path)
    changed["dropout"] = {"attention_probs_dropout_prob": 0.25, "hidden_dropout_prob": 0.35}
    path.write_text(json.dumps(changed), encoding="utf-8")
    step.export_to(run.context(), tmp_path / "to")
    assert read_json(tmp_path / "to" / "config.json").items() >= changed["dropout"].items()


def test_what_is_compared_is_read_by_the_tokenizer_of_the_written_folder(
    later: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was written wrongly is seen: the model computes what those who load the folder will see."""
    context, read = later.context(), []
    from_pretrained, batches = step.AutoTokenizer.from_pretrained, step._batches

    def noted(place: str, *given: Any, **options: Any) -> Any:
        tokenizer = from_pretrained(place, *given, **options)
        read.append((place, tokenizer))
        return tokenizer

    def seen(context: Any, tokenizer: Any, lines: list[str]) -> Any:
        ((place, written),) = read
        assert tokenizer is written
        assert tokenizer is not context.tokenizer
        assert Path(place).parent == tmp_path  # not yet under its name
        assert (Path(place) / "tokenizer.json").is_file()
        return batches(context, tokenizer, lines)

    assert context.tokenizer is not None  # read before it is watched
    monkeypatch.setattr(step.AutoTokenizer, "from_pretrained", noted)
    monkeypatch.setattr(step, "_batches", seen)
    step.export_to(context, tmp_path / "to")
    assert len(read) == 1
