"""`trelm plan`: an estimate that is measured and leaves nothing behind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model

from tiny_tokenizers import source_tokenizer
from toy import ToyRun, manifests, one_core, stamps, toy_values
from trelm.config import make_config, override_values
from trelm.cost import human_seconds, memory_bytes
from trelm.errors import BudgetError
from trelm.model.families import FAMILIES, padding_of_positions
from trelm.model.shape import layer_shape
from trelm.model.source import special_ids
from trelm.progress import Progress
from trelm.stages import plan_updates
from trelm.steps import estimate as module
from trelm.steps import rehearsal
from trelm.steps.context import Context, quiet_transformers
from trelm.steps.estimate import Estimate, Texts, estimate, read_texts
from trelm.steps.head import inputs_of
from trelm.steps.head_cache import is_kept, remember, remembered
from trelm.steps.rates import HeadCost, Machine, Part
from trelm.steps.rehearsal import in_small, rehearse, steps_of_rehearsal
from trelm.steps.space import peak_bytes
from trelm.steps.training import seconds_for_each
from trelm.workspace import Run

SECONDS = {"commonality": 0.5, "transfer-upper": 1.0, "transfer-lower": 1.0, "language-specific": 0.25}
BEFORE = ["corpus", "vocabulary", "tokens", "word-links", "embeddings", "alignment", "model", "diagnosis", "plan"]
STAGES = ["commonality", "transfer-upper", "transfer-lower", "language-specific"]
ORDER = [*BEFORE, *STAGES[:3], "combination", STAGES[3], "scratch", "evaluation", "export"]
NAMES = ("source text", "target text", "pairs")
COLUMNS = {"name", "seconds", "updates", "tokens", "flops", "memory_bytes", "disk_bytes", "basis"}
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def rehearsed(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    """The estimate of the toy run, whose text is all of its sample; only to be read."""
    folder = tmp_path_factory.mktemp("rehearsal")
    context = Context(toy_run.config(), Run(folder / "none"))
    before = stamps(toy_run.data), stamps(toy_run.folder), stamps(toy_run.model)
    with one_core(), quiet_transformers(), Progress(99, quiet=True) as progress:
        texts = read_texts(context)
        machine, data = rehearse(context, texts.samples, folder / "work", progress)
    assert (stamps(toy_run.data), stamps(toy_run.folder), stamps(toy_run.model)) == before
    assert [path.name for path in folder.iterdir()] == ["work"]
    return Estimate(context, texts, machine, data, 100 * MEGABYTE)


@pytest.fixture
def estimated(toy_run: ToyRun, rehearsed: Estimate) -> Any:
    """Estimates of other configurations, with updates of known seconds."""

    def of_toy(*overrides: str) -> Any:
        machine = replace(rehearsed.machine, per_update=SECONDS)
        with one_core():
            found = replace(rehearsed, context=toy_run.context(*overrides), machine=machine).result()
        return {row["name"]: row for row in found["steps"]}, found["summary"]

    return of_toy


def test_every_step_is_estimated_in_its_order(rehearsed: Estimate) -> None:
    found = rehearsed.result()
    assert [row["name"] for row in found["steps"]] == ORDER
    for row in found["steps"]:
        assert row.keys() == COLUMNS
        assert row["seconds"] > 0
        assert row["memory_bytes"] >= 100 * MEGABYTE
        assert (
            (row["flops"] > 0) == (row["tokens"] > 0) == (row["updates"] > 0) == (row["name"] in (*STAGES, "scratch"))
        )
    derived = [row["name"] for row in found["steps"] if row["basis"] != "measured"]
    assert derived == ["plan", "transfer-lower", "scratch"]
    for name in ("seconds", "updates", "tokens", "flops", "disk_bytes"):
        assert found["total"][name] == sum(row[name] for row in found["steps"])
    assert found["total"]["memory_bytes"] == max(row["memory_bytes"] for row in found["steps"])


def test_work_and_disk_are_those_of_the_run(rehearsed: Estimate, toy_run: ToyRun) -> None:
    """The sample is the whole text: what does not depend on the clock must be what the run has done."""
    rows = {row["name"]: row for row in rehearsed.result()["steps"]}
    done = {
        name.rpartition("/")[2].lstrip("0123456789-"): figures for name, figures in manifests(toy_run.folder).items()
    }
    folders = {path.parent.name.lstrip("0123456789-"): path.parent for path in toy_run.folder.rglob("manifest.json")}
    assert rows.keys() == done.keys()
    for name in (*STAGES, "scratch"):
        assert rows[name]["updates"] == done[name]["updates"]
        assert rows[name]["tokens"] == pytest.approx(done[name]["tokens"], rel=0.15)
        assert rows[name]["flops"] == pytest.approx(done[name]["flops"], rel=0.15)
    for name in ("corpus", "tokens", "word-links", "embeddings", "alignment", "model", *STAGES, "scratch"):
        size = sum(path.stat().st_size for path in folders[name].rglob("*") if path.is_file())
        assert rows[name]["disk_bytes"] == pytest.approx(size, rel=0.15), name


def _plain(folder: str) -> str:
    """`stages/1-commonality` as a stage's name."""
    return folder.rpartition("/")[2].lstrip("0123456789-")


def test_the_updates_are_those_that_the_run_would_plan(estimated: Any, rehearsed: Estimate) -> None:
    rows, _ = estimated()
    updates = {name: rows[name]["updates"] for name in (*STAGES, "scratch")}
    assert updates == dict(zip((*STAGES, "scratch"), (2, 2, 2, 6, 12), strict=True))
    assert rows["commonality"]["seconds"] == 2 * 0.5 + rehearsed.machine.moving
    assert rows["scratch"]["seconds"] == 12 * 0.25 + rehearsed.machine.moving  # as the stage that reads the same text


def test_the_summary_says_how_much_text_model_time_and_memory(toy_run: ToyRun, estimated: Any) -> None:
    _, (text, measured, model, cost) = estimated()
    lines = [len((toy_run.data / name).read_text().splitlines()) for name in ("source.txt", "target.txt", "pairs.tsv")]
    found = re.findall(r"(source text|target text|pairs): (\d+) lines, [^;]+ characters", text)
    assert found == [(name, str(count)) for name, count in zip(NAMES, lines, strict=True)]
    samples = ", ".join(f"{count} lines of {name}" for name, count in zip(NAMES, lines))
    assert measured == f"measured on {samples}; on 20 updates of each kind of stage"
    assert re.fullmatch(r"model: .+ parameters; cpu, 1 cores, float32", model)
    pattern = r"time: about .+; memory: about .+; disk: about .+, and .+ of checkpoints while a stage trains"
    assert re.fullmatch(pattern, cost)


def test_an_input_that_was_not_read_to_its_end_is_said(rehearsed: Estimate) -> None:
    texts = rehearsed.texts
    large = Texts(replace(texts.source, extrapolated=True), replace(texts.target, at_least=True), texts.pairs)
    summary = replace(rehearsed, texts=large).result()["summary"]
    assert summary[0].startswith("source text: about 400 lines")
    assert "target text: at least 412 lines" in summary[0]
    assert summary[-1].startswith("an input is too large to be read whole")


def test_the_memory_grows_with_the_batch(estimated: Any) -> None:
    small, large = (estimated(f"training.batch_tokens={tokens}")[0] for tokens in (256, 100_000))
    for name in (*STAGES, "scratch"):
        assert small[name]["memory_bytes"] < large[name]["memory_bytes"]
    assert small["commonality"]["memory_bytes"] < small["scratch"]["memory_bytes"]  # its halves do not train


def test_a_budget_in_tokens_is_estimated(estimated: Any) -> None:
    rows, _ = estimated("budget.tokens=6000")
    assert rows["scratch"]["tokens"] == pytest.approx(6000, abs=256)
    assert rows["language-specific"]["tokens"] == pytest.approx(3000, abs=256)


def test_a_budget_in_flops_is_estimated(estimated: Any) -> None:
    rows, _ = estimated("budget.flops=1e10")
    assert rows["scratch"]["flops"] == pytest.approx(1e10, rel=0.02)
    assert sum(rows[name]["flops"] for name in STAGES) == pytest.approx(1e10, rel=0.02)


def test_a_budget_in_minutes_is_planned_as_the_run_plans_it(estimated: Any, rehearsed: Estimate) -> None:
    rows, _ = estimated("budget.minutes=10", "alignment.method=identical")
    assert 500 < sum(row["seconds"] for row in rows.values()) <= 600  # the reserve is not all used
    prepared = sum(rows[name]["seconds"] for name in BEFORE)
    extra = sum(rows[name]["seconds"] for name in ("word-links", "embeddings", "alignment"))
    amount = seconds_for_each(600, prepared, extra, True)
    expected = plan_updates(amount, "seconds", dict(zip(STAGES, (1, 1, 1, 3))), SECONDS)
    assert {name: rows[name]["updates"] for name in STAGES} == expected
    assert rows["scratch"]["updates"] == int((amount + extra) / 0.25)
    measuring = 9 * (0.5 + 1.0 + 0.25)  # transfer-lower is like transfer-upper
    assert rows["plan"]["seconds"] == pytest.approx(measuring + rehearsed.machine.moving)


def test_without_a_baseline_nothing_is_estimated_of_it(estimated: Any) -> None:
    both, _ = estimated("budget.minutes=10")
    rows, _ = estimated("baseline.scratch=false", "budget.minutes=10")
    assert rows.keys() == both.keys() - {"scratch"}
    assert 500 < sum(row["seconds"] for row in rows.values()) <= 600
    for name in ("model", "evaluation"):
        assert rows[name]["seconds"] < both[name]["seconds"]
    assert rows["model"]["disk_bytes"] < both["model"]["disk_bytes"]


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


def test_longer_settings_take_longer_by_what_was_measured(estimated: Any, rehearsed: Estimate) -> None:
    """Rounds of refinement, updates of the diagnosis' head, iterations of word links, epochs of vectors."""
    cost, one = rehearsed.machine.alignment, estimated()[0]
    more = estimated("alignment.refinement_rounds=4")[0]["alignment"]["seconds"] - one["alignment"]["seconds"]
    assert more == pytest.approx(3 * 4 * cost.a_round)  # of three random maps and the method's
    more = estimated("diagnosis.head_updates=13")[0]["diagnosis"]["seconds"] - one["diagnosis"]["seconds"]
    assert more == pytest.approx(10 * rehearsed.machine.diagnosis_update)
    for name, override, times in (
        ("word-links", "word_links.iterations=7", 2),
        ("embeddings", "embeddings.epochs=4", 2),
    ):
        assert estimated(override)[0][name]["seconds"] == pytest.approx(times * one[name]["seconds"])


def test_the_game_costs_time_only_where_it_is_played(toy_run: ToyRun, rehearsed: Estimate) -> None:
    cost = replace(rehearsed.machine.alignment, game_step=0.01, game_epoch=2.0)
    played = replace(rehearsed.machine, alignment=cost)

    def seconds(machine: Machine, restarts: int) -> float:
        settings = ("alignment.adversarial_samples=3200", "alignment.adversarial_epochs=5")
        context = toy_run.context(*settings, f"alignment.restarts={restarts}")
        other = replace(rehearsed, context=context, machine=machine)
        return other.expected.preparation()["alignment"]

    without = seconds(rehearsed.machine, 2)
    once = seconds(played, 0)
    assert once - without == pytest.approx(5 * (100 * 0.01 + 2.0))
    thrice = seconds(played, 2)
    assert thrice - without == pytest.approx(3 * (once - without))


def test_ten_times_the_text_takes_ten_times_as_long_where_time_grows_with_text(rehearsed: Estimate) -> None:
    texts, machine = rehearsed.texts, replace(rehearsed.machine, whole=False)
    sizes = [
        replace(size, lines=10 * size.lines, characters=tuple(10 * count for count in size.characters))
        for size in (texts.source, texts.target, texts.pairs)
    ]
    config = rehearsed.context.config.model_copy(
        update={"vocabulary": rehearsed.context.config.vocabulary.model_copy(update={"size": machine.vocabulary})}
    )
    small = {row["name"]: row for row in rehearsed.result()["steps"]}
    context = Context(config, rehearsed.context.run)
    large = replace(rehearsed, context=context, texts=Texts(*sizes), machine=machine).result()["steps"]
    for row in large:
        if row["name"] in ("corpus", "vocabulary", "tokens", "word-links", "embeddings"):
            assert row["seconds"] == pytest.approx(10 * small[row["name"]]["seconds"], rel=0.05)
        if row["name"] in ("corpus", "tokens", "word-links"):
            assert row["disk_bytes"] == pytest.approx(10 * small[row["name"]]["disk_bytes"], rel=0.05)
        if row["name"] in STAGES:
            assert row["seconds"] == pytest.approx(small[row["name"]]["seconds"], rel=0.05)


LITTLE = ("corpus.max_target_lines=100", "corpus.max_pairs=50", "corpus.development_lines=8")


def test_limits_and_stages_that_may_stop_are_said(estimated: Any, rehearsed: Estimate) -> None:
    _, summary = estimated(*LITTLE, "training.patience=2", "training.evaluate_updates=4")
    assert summary[4] == "of these, at most 100 lines of target text and 50 pairs train, as `corpus` says"
    scores = 2 + 3  # after updates 4 and 6 of language-specific, after 4, 8 and 12 of scratch
    seconds = human_seconds(scores * 8 * rehearsed.machine.scoring.line)
    assert summary[5] == (
        "may stop early (training.patience): language-specific, scratch; counted here with all planned updates; "
        f"scoring 8 development lines on the way takes up to {seconds} more"
    )


def test_what_trains_is_limited_and_all_text_is_read_and_held_out_from(toy_run: ToyRun, rehearsed: Estimate) -> None:
    machine = replace(rehearsed.machine, whole=False)  # as if the text were more than the sample, if only just
    whole, little = (
        replace(rehearsed, context=toy_run.context(*some), machine=machine).expected for some in ((), LITTLE)
    )
    assert (little.amounts.target.lines, little.amounts.pair_target.lines) == pytest.approx((100, 50))
    assert little.amounts.sides()[0].lines == pytest.approx(whole.amounts.sides()[0].lines)
    assert little.held_out == (whole.held_out[0] - 8, whole.held_out[1])
    assert little.preparation()["corpus"] == whole.preparation()["corpus"]
    for name in ("tokens", "word-links"):
        assert little.preparation()[name] < whole.preparation()[name]
    assert little.memory(32, 500)["corpus"] == whole.memory(32, 500)["corpus"]


def test_a_rehearsal_on_a_sample_trains_on_all_of_it(toy_run: ToyRun, tmp_path: Path) -> None:
    context = toy_run.context(*LITTLE)
    part, whole = (in_small(context, tmp_path, is_whole).corpus for is_whole in (False, True))
    assert (part.max_target_lines, part.max_pairs, part.development_lines) == (None, None, 0)
    assert (whole.max_target_lines, whole.max_pairs, whole.development_lines) == (100, 50, 8)


def test_a_head_that_is_kept_takes_no_time(rehearsed: Estimate, toy_run: ToyRun) -> None:
    for kept in (False, True):
        head = HeadCost(update=2.0, around=1.0, text=Part(10, 100, 0), held_out=10, is_kept=kept)
        given = replace(rehearsed, machine=replace(rehearsed.machine, head=head))
        given = replace(given, context=toy_run.context("head.updates=50"))
        row = {row["name"]: row for row in given.result()["steps"]}["head"]
        assert row["seconds"] == pytest.approx(0.0 if kept else 2.0 * 50 + 1.0, abs=1.0)


def test_as_many_steps_are_told_as_were_announced(toy_run: ToyRun, rehearsed: Estimate) -> None:
    assert steps_of_rehearsal(rehearsed.context, rehearsed.texts.samples) == 10


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


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
SMALL_DISTILBERT = {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 24}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_shape_of_every_family_is_known_without_its_weights(
    toy_run: ToyRun, tmp_path: Path, rehearsed: Estimate, kind: str
) -> None:
    config = toy_run.config(f"source.model={small_encoder(kind, tmp_path)}")
    context = Context(config, Run(tmp_path / "none"))
    padding = padding_of_positions(context.pretrained.config)
    vocabulary = replace(rehearsed.data.vocabulary, padding=padding, mask=4)
    given = replace(rehearsed, context=context, data=replace(rehearsed.data, vocabulary=vocabulary))
    with one_core():
        found = given.result()
    assert [row["name"] for row in found["steps"]] == ORDER
    assert given.model.config.source.model_type == kind
    assert all(weight.is_meta for weight in given.model.parameters())
    assert given.model.get_input_embeddings().num_embeddings == rehearsed.machine.vocabulary


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
    layers = backbone.encoder.layer
    source = backbone.config
    source.vocab_size = 100
    model: Any = SimpleNamespace(
        config=SimpleNamespace(source=source),
        trelm=SimpleNamespace(lower_layers=layers),
        num_parameters=lambda: 1000,
    )
    batch = {"tokens": 640, "length": decisive, "vocabulary": 100, "labelled": 320}
    sizes = {"layers": 3, "parameters": 1000, "trained_parameters": 700}  # the TRILayer is the third
    expected = memory_bytes(layer_shape(layers[0], source), **batch, **sizes)
    found = peak_bytes(model, trained=700, batch_tokens=640, mean_length=mean_length, max_length=64)
    assert found == expected


@pytest.fixture
def headless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives contexts of an encoder without a head, and a cache of their own for fitted heads."""
    monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "cache"))
    for name in ("source.txt", "target.txt", "pairs.tsv"):
        (tmp_path / name).write_text("a text\n")

    def context(*overrides: str) -> Context:
        values = toy_values(tmp_path, tmp_path / "model") | {"evaluation": [], "head": {"updates": 5}}
        values["parallel"] = [str(tmp_path / "pairs.tsv")]
        return Context(make_config(override_values(values, overrides)), Run(tmp_path / "none"))

    return context


def test_a_kept_head_is_known_by_its_inputs(headless: Any, tmp_path: Path) -> None:
    key = inputs_of(headless())
    assert remembered(key) is None
    remember(key, "abc", print)
    assert remembered(key) == "abc"
    assert not is_kept("abc")
    (tmp_path / "cache" / "heads" / "abc").mkdir()
    (tmp_path / "cache" / "heads" / "abc" / "manifest.json").write_text("{}")
    assert is_kept("abc")
    assert inputs_of(headless("budget.updates=99", "seed=3")) == key  # on which no head depends
    assert inputs_of(headless("head.updates=6")) != key
    (tmp_path / "source.txt").write_text("another text\n")
    assert inputs_of(headless()) != key


def test_inputs_that_cannot_be_remembered_are_told(headless: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    told: list[str] = []
    remember(inputs_of(headless()), "abc", told.append)
    assert len(told) == 1
    assert told[0].startswith("the head is kept, but not for which inputs: ")


def test_of_more_text_a_sample_and_a_smaller_one_are_rehearsed_on(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXT_CHARACTERS", 6_500)
    monkeypatch.setattr(module, "PAIR_CHARACTERS", 6_500)
    monkeypatch.setattr(rehearsal, "SMALLER", 2)
    monkeypatch.setattr(rehearsal, "LEAST_LINES", 50)
    with one_core(), quiet_transformers():
        found = estimate(toy_run.context("alignment.method=auto", "baseline.scratch=false"))
    assert found["summary"][1].startswith("measured on 200 lines of source text, 206 lines of target text, 75 lines of")
    rows = {row["name"]: row for row in found["steps"]}
    assert [*rows] == [name for name in ORDER if name != "scratch"]
    whole = sum(path.stat().st_size for path in (toy_run.folder / "tokens").rglob("*") if path.is_file())
    assert rows["tokens"]["disk_bytes"] == pytest.approx(whole, rel=0.3)
