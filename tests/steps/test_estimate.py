"""`trelm plan`: an estimate that is computed and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model

from tiny_tokenizers import source_tokenizer
from toy import ToyRun, one_core, stamps
from trelm import pipeline
from trelm.cost import memory_bytes
from trelm.errors import BudgetError
from trelm.model.families import FAMILIES, padding_of_positions
from trelm.model.shape import layer_shape
from trelm.model.source import special_ids
from trelm.steps import estimate as module
from trelm.steps.estimate import TextSize

SECONDS = {"commonality": 0.5, "transfer-upper": 1.0, "transfer-lower": 1.0, "language-specific": 0.25}
PREPARATION = ["corpus", "vocabulary", "tokens", "word-links", "embeddings", "alignment", "model", "diagnosis"]
STAGES = ["commonality", "transfer-upper", "transfer-lower", "language-specific"]
NAMES = ("source text", "target text", "pairs")
LAST = "evaluation, export, report"


@pytest.fixture
def estimated(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Estimates with updates of known seconds."""
    monkeypatch.setattr(module, "measure", lambda *_: SECONDS)

    def estimate(*overrides: str) -> Any:
        with one_core():
            found = pipeline.estimate(toy_run.config(*overrides))
        return {row["name"]: row for row in found["steps"]}, found["summary"]

    return estimate


def test_an_estimate_measures_updates_and_writes_nothing(
    toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = stamps(toy_run.data), stamps(toy_run.folder), stamps(toy_run.model)
    with one_core():
        found = pipeline.estimate(toy_run.config())
    assert (stamps(toy_run.data), stamps(toy_run.folder), stamps(toy_run.model)) == before
    assert not list(tmp_path.iterdir())
    assert [row["name"] for row in found["steps"]] == [*PREPARATION, *STAGES, "scratch", LAST]
    for row in found["steps"]:
        assert row.keys() == {"name", "seconds", "plain_seconds", "updates", "tokens", "what"}
        assert row["plain_seconds"] > 0
    assert len(found["summary"]) == 3


def test_the_updates_are_those_that_the_run_would_plan(estimated: Any) -> None:
    rows, _ = estimated()
    updates = {name: rows[name]["updates"] for name in (*STAGES, "scratch")}
    assert updates == dict(zip((*STAGES, "scratch"), ("2", "2", "2", "6", "12"), strict=True))
    assert rows["commonality"]["plain_seconds"] == 2 * 0.5
    assert rows["scratch"]["plain_seconds"] == 12 * 0.25  # as the stage that reads the same text
    assert rows["corpus"]["updates"] == rows["corpus"]["tokens"] == ""


def test_the_summary_says_how_much_text_model_time_and_memory(toy_run: ToyRun, estimated: Any) -> None:
    _, (text, model, cost) = estimated()
    lines = [len((toy_run.data / name).read_text().splitlines()) for name in ("source.txt", "target.txt", "pairs.tsv")]
    found = re.findall(r"(source text|target text|pairs): (\d+) lines, [^;]+ characters", text)
    assert found == [(name, str(count)) for name, count in zip(NAMES, lines, strict=True)]
    assert re.fullmatch(r"model: .+ parameters; cpu, 1 cores, float32", model)
    assert re.fullmatch(r"time: about .+; memory: about .+ for training; disk: about .+", cost)


def test_the_memory_grows_with_the_batch(estimated: Any) -> None:
    small, large = (estimated(f"training.batch_tokens={tokens}")[1][2] for tokens in (256, 100_000))
    sizes = [re.findall(r"memory: about ([0-9.]+) ([kMGT]?B)", line)[0] for line in (small, large)]
    units = ["B", "kB", "MB", "GB", "TB"]
    assert (units.index(sizes[0][1]), float(sizes[0][0])) < (units.index(sizes[1][1]), float(sizes[1][0]))


def test_a_budget_in_tokens_is_estimated(estimated: Any) -> None:
    rows, _ = estimated("budget.tokens=6000")
    tokens = {name: int(rows[name]["updates"]) * 256 for name in (*STAGES, "scratch")}
    assert 0.5 * 6000 < tokens["scratch"] < 2 * 6000
    assert tokens["language-specific"] == pytest.approx(tokens["scratch"] / 2, abs=256)


def test_a_budget_in_minutes_is_spent(estimated: Any) -> None:
    rows, _ = estimated("budget.minutes=10", "alignment.method=identical")
    total = sum(row["plain_seconds"] for row in rows.values())
    assert total == pytest.approx(600, abs=6)
    extra = sum(rows[name]["plain_seconds"] for name in ("word-links", "embeddings", "alignment"))
    transferred = sum(rows[name]["plain_seconds"] for name in STAGES)
    assert rows["scratch"]["plain_seconds"] == pytest.approx(transferred + extra, abs=4)


def test_without_a_baseline_nothing_is_estimated_of_it(estimated: Any) -> None:
    rows, _ = estimated("baseline.scratch=false", "budget.minutes=10")
    assert "scratch" not in rows
    assert sum(row["plain_seconds"] for row in rows.values()) == pytest.approx(600, abs=6)


@pytest.mark.parametrize("baseline", ["true", "false"])
def test_too_few_minutes_are_said_with_how_many_are_enough(estimated: Any, baseline: str) -> None:
    words = r"^budget\.minutes: expected about (\d+) or more, found 0\.1; raise it$"
    with pytest.raises(BudgetError, match=words) as caught:
        estimated("budget.minutes=0.1", f"baseline.scratch={baseline}")
    enough = re.findall(r"about (\d+)", str(caught.value))[0]
    assert estimated(f"budget.minutes={enough}", f"baseline.scratch={baseline}")


def test_too_few_updates_are_said(estimated: Any) -> None:
    with pytest.raises(BudgetError, match=r"^budget: 3 updates for training are too few: stage 'commonality'"):
        estimated("budget.updates=3")


def test_the_game_costs_time_only_where_it_is_played(estimated: Any) -> None:
    played, _ = estimated("alignment.method=adversarial", "alignment.adversarial_epochs=10")
    shorter, _ = estimated("alignment.method=adversarial", "alignment.adversarial_epochs=5")
    not_played, _ = estimated("alignment.method=none")
    seconds = [rows["alignment"]["plain_seconds"] for rows in (played, shorter, not_played)]
    assert seconds[0] - seconds[2] == pytest.approx(2 * (seconds[1] - seconds[2]))
    assert seconds[1] > seconds[2]


def test_the_games_after_a_collapse_are_counted_where_they_are_played(estimated: Any) -> None:
    changes = {
        "once": ("alignment.method=adversarial", "alignment.restarts=0"),
        "thrice": ("alignment.method=adversarial", "alignment.restarts=2"),
        "auto": ("alignment.method=auto", "alignment.restarts=2"),
        "none": ("alignment.method=none",),
    }
    seconds = {name: estimated(*given)[0]["alignment"]["plain_seconds"] for name, given in changes.items()}
    assert seconds["thrice"] - seconds["none"] == pytest.approx(3 * (seconds["once"] - seconds["none"]))
    assert seconds["auto"] == seconds["none"]  # games only where every map from pairs collapsed


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
SMALL_DISTILBERT = {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 24}


def small_encoder(kind: str, folder: Path) -> Path:
    """An encoder of the family as `save_pretrained` writes it, with a tokenizer of its own kind."""
    tokenizer = source_tokenizer(kind)
    family: Any = FAMILIES[kind].masked_lm
    config = family.config_class(
        **(SMALL_DISTILBERT if kind == "distilbert" else SMALL),
        **{f"{role}_token_id": number for role, number in special_ids(tokenizer).items() if number is not None},
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
    )
    family(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_encoder_of_every_family_is_estimated(
    toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Before there is a vocabulary: its special tokens have stand-ins that the family's configuration accepts."""
    seen: list[Any] = []

    def measured(context: Any, model: Any, stages: Any, data: Any, tell: Any) -> dict[str, float]:
        seen.append((model, data))
        return SECONDS

    monkeypatch.setattr(module, "measure", measured)
    with one_core():
        found = pipeline.estimate(toy_run.config(f"source.model={small_encoder(kind, tmp_path)}"))
    assert [row["name"] for row in found["steps"]] == [*PREPARATION, *STAGES, "scratch", LAST]
    ((model, data),) = seen
    assert model.config.source.model_type == kind
    assert model.get_input_embeddings().num_embeddings == data.vocabulary.size == 400
    assert model.config.source.pad_token_id == data.vocabulary.padding == padding_of_positions(model.config.source)
    vocabulary = data.vocabulary
    special = {vocabulary.start, vocabulary.end, vocabulary.padding, vocabulary.mask}
    assert len(special) == 4
    assert special <= set(vocabulary.special)
    assert not special & set(data.target.values.tolist())


def test_text_is_measured_in_lines_and_characters() -> None:
    assert module._measure_lines(["abc", "de"]) == TextSize(2, 5)
    assert module._measure_lines([]) == TextSize(0, 0)
    assert TextSize(1, 42).tokens == 10
    assert [size.mean_tokens for size in (TextSize(4, 420), TextSize(4, 4), TextSize(0, 0))] == [25, 2, 2]


WIDTHS = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
RELATIVE = {"relative_attention": True, "position_buckets": 200, "share_att_key": True, "pos_att_type": ["c2p", "p2c"]}


@pytest.mark.parametrize(
    ("backbone", "mean_length", "decisive"),
    [
        (BertModel(BertConfig(**WIDTHS, attn_implementation="eager")), 8, 64),  # it keeps attention weights
        (DebertaV2Model(DebertaV2Config(**WIDTHS, **RELATIVE)), 8, 10),  # it keeps a table for each sentence
        (DebertaV2Model(DebertaV2Config(**WIDTHS, **RELATIVE)), 80, 64),  # longer sentences are cut
    ],
)
def test_memory_is_that_of_the_lengths_that_need_most(backbone: Any, mean_length: int, decisive: int) -> None:
    training = SimpleNamespace(batch_tokens=640, max_length=64)
    config = SimpleNamespace(training=training, vocabulary=SimpleNamespace(size=100))
    context: Any = SimpleNamespace(pretrained=SimpleNamespace(backbone=backbone), config=config)
    batch = {"tokens": 640, "length": decisive, "vocabulary": 100, "labelled": 320}
    layers = {"layers": 3, "parameters": 1000, "trained_parameters": 1000}  # the TRILayer is the third
    expected = memory_bytes(layer_shape(backbone.encoder.layer[0], backbone.config), **batch, **layers)
    assert module._memory(context, 1000, mean_length) == expected
