"""Scores, filled masks and the report of the toy run, against plain loops."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tiny_tokenizers import source_tokenizer
from toy import ToyRun, translation
from trelm.config import EvaluationConfig
from trelm.corpus.ragged import Ragged
from trelm.errors import ConfigError, DataError, RunFolderError
from trelm.evaluation.intrinsic import masked_text_scores
from trelm.report.schema import Report
from trelm.steps import outcome
from trelm.steps.context import Context
from trelm.steps.tasks import evaluate_model
from trelm.steps.training import load_model
from trelm.training.batches import CrossLingualExamples
from trelm.vocabulary import single_piece
from trelm.workspace import Run, read_json

WORD, OTHER = translation("them"), translation("to")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "use_all_cores", lambda: 1)


def held_out_examples(context: Context, direction: str) -> CrossLingualExamples:
    """Held-out pairs in one direction."""
    sides = [context.tokens(f"parallel-held-out-{side}") for side in ("source", "target")]
    name, languages = "source-of-target-held-out", (0, 1)
    if direction == "target_to_source":
        name, languages, sides = "target-of-source-held-out", (1, 0), sides[::-1]
    links = Ragged.load(context.folder("word-links"), name)
    return CrossLingualExamples(*sides, links, languages, context.vocabulary, 32)


def naive_cdlm_loss(model: Any, examples: CrossLingualExamples, pairs: int) -> float:
    """One pair at a time, one token at a time."""
    total, tokens = 0.0, 0
    model.eval()
    with torch.no_grad():
        for pair in range(pairs):
            one = examples.collate(np.array([pair]), np.random.default_rng(pair))
            labels = one.pop("labels")[0]
            log_probabilities = model(**one).logits[0].double().log_softmax(-1)
            for place, label in enumerate(labels.tolist()):
                if label != -100:
                    total -= float(log_probabilities[place, label])
                    tokens += 1
    return total / tokens


# Scores


@pytest.mark.parametrize(
    ("stage", "direction"),
    [
        ("transfer-upper", "source_to_target"),
        ("transfer-lower", "target_to_source"),
        ("combination", "source_to_target"),
        ("combination", "target_to_source"),
    ],
)
def test_the_cdlm_loss_is_a_mean_over_every_token(toy_run: ToyRun, stage: str, direction: str) -> None:
    context = toy_run.context()
    model, examples = load_model(context, stage), held_out_examples(context, direction)
    pairs = len(examples.inputs)
    expected = naive_cdlm_loss(model, examples, pairs)
    assert outcome.cdlm_loss(model, examples, pairs) == pytest.approx(expected, rel=1e-5)
    told = context.figures("evaluation")["cdlm"]
    assert told["pairs"] == pairs
    assert told[f"{stage}_{direction}".replace("-", "_")] == pytest.approx(expected, rel=1e-5)
    assert outcome.cdlm_loss(model, examples, 3) == pytest.approx(naive_cdlm_loss(model, examples, 3), rel=1e-5)


def test_no_cdlm_loss_without_held_out_pairs(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    context = toy_run.context()
    monkeypatch.setattr(context, "tokens", lambda _: Ragged.of([]))
    assert outcome._cdlm_losses(context) == {"pairs": 0}


@pytest.mark.parametrize(("name", "stage"), [("start", "model"), ("scratch", "scratch")])
def test_every_model_is_scored_on_the_same_masks(toy_run: ToyRun, name: str, stage: str) -> None:
    context = toy_run.context()
    told = context.figures("evaluation")["models"]
    scores = outcome.score_text(context, load_model(context, stage), context.lines("target-held-out.txt"))
    assert {key: pytest.approx(value) for key, value in scores.items()} == {
        key: value for key, value in told[name].items() if key != "tasks"
    }
    for count in ("masked_tokens", "masked_characters", "lines", "dropped_units"):
        assert len({told[model][count] for model in told}) == 1
    assert told[name]["lines"] == len(context.lines("target-held-out.txt"))


def test_the_unigram_floor_is_by_training_counts(toy_run: ToyRun) -> None:
    floor = toy_run.report["unigram"]["bits_per_character"]
    assert 0 < floor < 8
    scores = outcome.score_unigram(toy_run.context(), toy_run.context().lines("target-held-out.txt"))
    assert scores["bits_per_character"] == pytest.approx(floor)


def test_tasks_with_sentences_are_scored_by_name(toy_run: ToyRun) -> None:
    tasks = toy_run.report["models"]["transferred"]["tasks"]
    assert list(tasks) == ["toy"]
    assert tasks["toy"]["lines"] == 12
    context = toy_run.context("evaluation=[]")
    assert outcome._task_scores(context, load_model(context, "model")) == {}


def test_any_masked_language_model_is_scored(toy_run: ToyRun) -> None:
    path = str(toy_run.data / "evaluation.txt")
    tasks = [EvaluationConfig(task="text", name="toy", test=(path,)), EvaluationConfig(task="parsing", test=(path,))]
    scores = evaluate_model(str(toy_run.model), tasks)
    direct = masked_text_scores(
        AutoModelForMaskedLM.from_pretrained(toy_run.model),
        AutoTokenizer.from_pretrained(toy_run.model),
        Path(path).read_text().splitlines(),
        seed=1,
        batch_tokens=outcome.EVALUATION_BATCH_TOKENS,
        max_length=64,
        device="cpu",
    )
    assert list(scores) == ["toy", "parsing"]
    assert scores["toy"] == {name: pytest.approx(value) for name, value in direct.as_dict().items()}
    assert scores["parsing"] == scores["toy"]


def test_our_own_export_is_scored_too(toy_run: ToyRun) -> None:
    tasks = [EvaluationConfig(task="text", test=(str(toy_run.data / "evaluation.txt"),))]
    scores = evaluate_model(str(toy_run.folder / "export"), tasks)["text"]
    assert scores["bits_per_character"] == pytest.approx(
        toy_run.report["models"]["transferred"]["tasks"]["toy"]["bits_per_character"]
    )


def test_what_cannot_be_scored_is_said(toy_run: ToyRun, tmp_path: Path) -> None:
    text = EvaluationConfig(task="text", test=(str(toy_run.data / "evaluation.txt"),))
    words = r": expected a model folder or a reachable Hub id, found none \(.+\)$"
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=words) as caught:
            evaluate_model(str(place), [text])
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError):
        evaluate_model(str(toy_run.model), [EvaluationConfig(task="text")])


# Filled masks


def test_filled_masks_show_the_first_sentences_that_fit(toy_run: ToyRun) -> None:
    context = toy_run.context()
    lines, model = context.lines("target-held-out.txt"), load_model(context, "language-specific")
    examples = outcome.fill_masks(context, model, lines)
    assert len(examples) == 5
    piece = single_piece(context.tokenizer)
    fitting = [line for line in lines if outcome._mask_one_word(context.tokenizer, line, piece) is not None]
    whole = [example["text"].replace("[MASK]", example["truth"]) for example in examples]
    assert whole == fitting[:5]
    told = context.figures("evaluation")["examples"]
    assert [(one["text"], one["truth"]) for one in told] == [(one["text"], one["truth"]) for one in examples]
    assert toy_run.report["examples"] == told


def test_guesses_are_the_models_best(toy_run: ToyRun) -> None:
    context = toy_run.context()
    model, tokenizer = load_model(context, "language-specific").eval(), context.tokenizer
    (example,) = outcome.fill_masks(context, model, [f"{OTHER} " * 3 + f"{WORD} " + f"{OTHER} " * 12])
    assert example["text"] == f"{OTHER} " * 3 + "[MASK] " + f"{OTHER} " * 12
    assert example["truth"] == WORD
    ids = tokenizer(example["text"], return_tensors="pt")["input_ids"]
    place = ids[0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        probabilities = model(input_ids=ids).logits[0, place].softmax(-1)
    order = probabilities.argsort(descending=True)[:5].tolist()
    assert [guess["token"] for guess in example["predictions"]] == [tokenizer.decode([row]) for row in order]
    scores = [guess["score"] for guess in example["predictions"]]
    assert scores == pytest.approx(probabilities[order].tolist(), rel=1e-5)
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1


def test_the_longest_word_of_one_piece_is_masked(toy_run: ToyRun) -> None:
    context = toy_run.context()
    piece = single_piece(context.tokenizer)
    assert outcome._mask_one_word(context.tokenizer, f"{WORD} {OTHER}", piece) is None  # too short
    assert outcome._mask_one_word(context.tokenizer, f"{WORD} " * 20, piece) is None  # too long
    assert outcome._mask_one_word(context.tokenizer, f"{WORD} " * 8, piece) is None  # not the only one of its kind
    assert (
        outcome._mask_one_word(context.tokenizer, "x1 zqzqzqzq qzqzqzq 12345678 " * 2, piece) is None
    )  # no whole word
    assert outcome._mask_one_word(context.tokenizer, "this little state " + "of the " * 5, piece) == (
        "this [MASK] state " + "of the " * 5,
        "little",
    )


@pytest.mark.parametrize("with_prefix", [False, True])
def test_a_word_of_bytes_is_masked_where_it_is_one_piece_after_a_space(
    monkeypatch: pytest.MonkeyPatch, with_prefix: bool
) -> None:
    """Byte-level BPE splits the same word where it is alone."""
    tokenizer = source_tokenizer("roberta")
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=with_prefix)
    assert ("Ġlittle" in tokenizer.get_vocab(), "little" in tokenizer.get_vocab()) == (True, False)
    context: Any = SimpleNamespace(tokenizer=tokenizer)
    line = "all of us are the little of it and we can say"
    assert outcome._mask_one_word(context.tokenizer, line, single_piece(tokenizer)) == (
        line.replace("little", "<mask>"),
        "little",
    )
    model = MagicMock(device="cpu")
    model.return_value.logits = torch.zeros(1, 64, len(tokenizer))
    monkeypatch.setattr(outcome, "scored_length", lambda _: 64)
    (example,) = outcome.fill_masks(context, model, [line])
    assert example["truth"] == "little"


# The report


@pytest.mark.parametrize(
    ("override", "words"),
    [("updates=12", "12 updates"), ("minutes=30.5", "30.5 minutes"), ("tokens=4000", "4,000 tokens")],
)
def test_the_budget_in_words(toy_run: ToyRun, override: str, words: str) -> None:
    assert outcome.describe_budget(toy_run.context(f"budget.{override}")) == words


def test_large_budgets_are_written_in_full(toy_run: ToyRun) -> None:
    assert outcome.describe_budget(toy_run.context("budget.tokens=12345678")) == "12,345,678 tokens"


def test_versions_are_those_installed() -> None:
    found = outcome.versions()
    assert found.pop("python") == platform.python_version()
    assert {"trelm", "torch", "transformers", "tokenizers", "gensim", "numpy"} <= found.keys()
    assert all(found[name] == version(name) for name in found)


def test_the_report_is_collected_from_the_manifests(toy_run: ToyRun) -> None:
    names = list(toy_run.report["steps"])
    assert outcome.collect_report(toy_run.context(), names) == toy_run.report
    evaluation = read_json(toy_run.folder / "evaluation" / "manifest.json")
    assert toy_run.report["models"] == evaluation["models"]
    assert toy_run.report["cdlm"] == evaluation["cdlm"]
    for section in ("word_links", "vocabulary", "plan", "alignment", "diagnosis"):
        assert not {"step", "inputs", "versions"} & toy_run.report[section].keys()
    for step, cost in toy_run.report["steps"].items():
        manifest = read_json(toy_run.folder / step / "manifest.json")
        assert cost["seconds"] == manifest["seconds"]
        assert cost["tokens"] == (manifest.get("tokens", 0))


def test_a_run_without_a_diagnosis_has_a_report_without_one(toy_run: ToyRun) -> None:
    names = [name for name in toy_run.report["steps"] if name != "diagnosis"]
    report = outcome.collect_report(toy_run.context(), names)
    assert report.keys() == toy_run.report.keys() - {"diagnosis"}
    assert "diagnosis" not in report["steps"]
    assert Report.model_validate(report).diagnosis is None


def test_the_report_of_an_unfinished_run_is_refused(toy_run: ToyRun, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="step 'corpus' is not done"):
        outcome.collect_report(Context(toy_run.config(), Run(tmp_path)), ["corpus"])


def test_a_checkpoint_without_its_head_is_not_scored(minilm_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Satu dua tiga.\n", encoding="utf-8")
    task = EvaluationConfig(task="text", test=(str(tmp_path / "text.txt"),))
    words = r"expected a masked language model, found a checkpoint without 'cls\.predictions.*give a checkpoint with"
    with pytest.raises(ConfigError, match=words):
        evaluate_model(str(minilm_folder), [task])
