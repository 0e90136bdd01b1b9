"""The final model as a folder: which stage it is of, that it computes the same, what its card says of the run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, MPNetForMaskedLM

from tiny_tokenizers import source_tokenizer
from toy import (
    WITH_PLAIN,
    Silent,
    ToyRun,
    copy_of,
    export_toy,
    make_toy_run,
    run_toy,
    stamps,
    toy_config,
    write_toy_data,
)
from trelm import pipeline
from trelm.config import CARD_FILE, dump_card
from trelm.errors import ExportError, RunFolderError
from trelm.model import plain as model_plain
from trelm.model.plain import ROUNDING
from trelm.steps import export as step
from trelm.steps.context import Context
from trelm.steps.outcome import score_text
from trelm.steps.training import load_model
from trelm.workspace import Run, read_json

TELL: Any = Silent()
POSITIONS = ["positions at the TRILayer"]


pytestmark = pytest.mark.usefixtures("one_core_a_test")


@pytest.fixture(scope="module")
def planned(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A run with a plain stage; only to be read."""
    return make_toy_run(tmp_path_factory.mktemp("planned"), tiny_bert, *WITH_PLAIN)


@dataclass(frozen=True)
class Later:
    """A run that was planned without a plain stage, after its plain export; only to be read."""

    run: ToyRun
    folder: Path
    figures: dict[str, Any]

    @property
    def card(self) -> str:
        return (self.folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def later(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> Later:
    folder = tmp_path_factory.mktemp("later")
    run = copy_of(toy_run, folder / "run")
    return Later(run, folder / "to", export_toy(run, folder / "to", kind="plain"))


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A run without a plain stage of an encoder whose every input at the TRILayer folds; its card states a licence."""
    folder = tmp_path_factory.mktemp("mpnet")
    source = folder / "encoder"
    tokenizer = source_tokenizer("mpnet")
    tokenizer.save_pretrained(source)
    config = MPNetForMaskedLM.config_class(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        MPNetForMaskedLM(config).save_pretrained(source)
    (source / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return make_toy_run(folder, source)


def logits(model: Any, folder: Path, lines: list[str]) -> torch.Tensor:
    """Logits of a batch at its real tokens, in float64."""
    batch = AutoTokenizer.from_pretrained(folder)(
        lines, padding=True, truncation=True, max_length=32, return_tensors="pt", return_token_type_ids=False
    )
    model.double().eval()
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits[batch["attention_mask"].bool()]
    return found


def rows(card: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, its own heading left out."""
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


# Which stage, which kind


def test_the_stage_that_folds_is_the_plain_one_or_one_with_nothing_to_take_away(
    toy_run: ToyRun, planned: ToyRun, later: Later, mpnet: ToyRun
) -> None:
    found = [step.foldable_stage(context) for context in (toy_run.context(), planned.context(*WITH_PLAIN))]
    assert found == [None, "plain"]
    assert step.foldable_stage(later.run.context()) == "plain"
    assert step.foldable_stage(mpnet.context()) == "language-specific"
    kinds = [step.chosen_kind(run.context()) for run in (toy_run, later.run, mpnet)]
    assert kinds == ["trelm", "plain", "plain"]


def test_what_is_asked_for_is_written_and_said(toy_run: ToyRun, later: Later, tmp_path: Path) -> None:
    assert step.export_to(toy_run.context(), tmp_path / "unasked") == {"kind": "trelm"}
    assert step.export_to(later.run.context(), tmp_path / "ours", kind="trelm") == {"kind": "trelm"}
    found = {name: read_json(tmp_path / name / "config.json")["architectures"] for name in ("unasked", "ours")}
    assert found == {"unasked": ["TrelmForMaskedLM"], "ours": ["TrelmForMaskedLM"]}
    assert step.export_to(later.run.context(), tmp_path / "plain")["kind"] == "plain"
    assert read_json(tmp_path / "plain" / "config.json")["architectures"] == ["BertForMaskedLM"]


def test_trelms_own_class_gives_the_logits_of_the_final_model(toy_run: ToyRun, tmp_path: Path) -> None:
    step.export_to(toy_run.context(), tmp_path / "exported")
    ours = load_model(toy_run.context(), "language-specific").eval()
    for folder in (tmp_path / "exported", toy_run.folder / "export"):
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer(toy_run.context().lines("target-held-out.txt")[:4], padding=True, return_tensors="pt")
        with torch.no_grad():
            theirs = model(**inputs).logits
            assert torch.equal(theirs, ours(**inputs).logits)
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert yaml.safe_load(card.split("---\n")[1])["language"] == "xx"


def test_trelms_own_class_is_that_of_the_last_stage_of_the_plan(planned: ToyRun, later: Later, tmp_path: Path) -> None:
    for run, context, stage in (
        (planned, planned.context(*WITH_PLAIN), "plain"),
        (later.run, later.run.context(), "language-specific"),
    ):
        folder, lines = tmp_path / stage, context.lines("target-held-out.txt")
        step.export_to(context, folder, kind="trelm")
        exported = AutoModelForMaskedLM.from_pretrained(folder)
        assert torch.equal(logits(exported, folder, lines), logits(load_model(context, stage), folder, lines)), run
    assert load_model(planned.context(*WITH_PLAIN), "plain").config.plainness == 1.0


@pytest.mark.parametrize("which", ["planned", "later", "mpnet"])
def test_a_plain_folder_is_an_ordinary_model_with_the_same_logits(
    planned: ToyRun, later: Later, mpnet: ToyRun, tmp_path: Path, which: str
) -> None:
    context = {"planned": planned.context(*WITH_PLAIN), "later": later.run.context(), "mpnet": mpnet.context()}[which]
    folder = tmp_path / "plain"
    figures = step.export_to(context, folder)
    stage = step.foldable_stage(context)
    assert stage is not None
    plain, ours = AutoModelForMaskedLM.from_pretrained(folder), load_model(context, stage)
    assert type(plain) is (MPNetForMaskedLM if which == "mpnet" else BertForMaskedLM)
    assert plain.config.num_hidden_layers == 5
    assert plain.config.hidden_dropout_prob == 0.1  # the source's own, not that of the training here
    assert "trelm" not in (folder / "config.json").read_text(encoding="utf-8")
    # what is compared is the held-out text, whole or its first 64 lines, in float64
    lines, check = context.lines("target-held-out.txt"), figures["check"]
    theirs, expected = logits(plain, folder, lines), logits(ours, folder, lines)
    assert check["sentences"] == len(lines) == 20
    assert check["tokens"] == len(theirs)
    assert check["largest_logit"] == pytest.approx(float(expected.abs().max()), rel=1e-6)
    assert check["limit"] == ROUNDING * max(1.0, check["largest_logit"])
    assert check["rounding"] == ROUNDING
    difference = float((theirs - expected).abs().max())  # the sums of the folded biases are rounded to float32
    assert check["largest_difference"] == pytest.approx(difference, rel=1e-3)
    assert difference < 1e-7
    assert 0 < check["largest_difference_in_float32"] < 1e-4
    assert check["trained_away"] == ([] if which == "mpnet" else POSITIONS)


def test_the_step_writes_into_its_own_folder(planned: ToyRun, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    figures = step.write_export(planned.context(*WITH_PLAIN), tmp_path / "export", TELL)
    assert figures == {**planned.report["export"], "path": str(tmp_path / "export")}
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for folder in (tmp_path / "export", planned.folder / "export"):
        assert names <= {path.name for path in folder.iterdir()}
        assert not (folder / "model").exists()
        assert type(AutoModelForMaskedLM.from_pretrained(folder)) is BertForMaskedLM


def test_only_so_many_sentences_are_compared(planned: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "COMPARED", 3)
    context = planned.context(*WITH_PLAIN)
    check = step.export_to(context, tmp_path / "to")["check"]
    tokens = context.tokenizer(context.lines("target-held-out.txt")[:3], truncation=True, max_length=32)["input_ids"]
    assert (check["sentences"], check["tokens"]) == (3, sum(map(len, tokens)))


def test_with_onnx_beside_it(planned: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "ONNX_COMPARED", 2)
    figures = step.export_to(planned.context(*WITH_PLAIN), tmp_path / "to", onnx=True)
    assert (tmp_path / "to" / figures["onnx"]["path"]).is_file()
    assert figures["onnx"]["sentences"] == 2
    line = step.summary({"path": "to", **figures})[2]
    assert line == (
        f"ONNX: onnx/model.onnx, on 2 sentences: largest difference {figures['onnx']['largest_difference']:.1e}; "
        f"largest logit {figures['onnx']['largest_logit']:.1f}"
    )
    assert "`onnx/model.onnx` is the same model for ONNX Runtime" in (tmp_path / "to" / "README.md").read_text("utf-8")


# What is refused


def test_an_export_overwrites_nothing(toy_run: ToyRun, later: Later, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for context in (toy_run.context(), later.run.context()):
        with pytest.raises(RunFolderError, match="expected a new or empty folder, found files there"):
            step.export_to(context, tmp_path)
    assert sorted(stamps(tmp_path)) == ["mine.txt"]


@pytest.mark.parametrize("fault", ["the language is forgotten", "a weight is no number"])
def test_a_fold_that_computes_something_else_leaves_nothing(
    later: Later, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def broken(model: Any, language: int) -> dict[str, torch.Tensor]:
        weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        if fault == "a weight is no number":
            next(value for name, value in weights.items() if name.endswith("layer.0.output.dense.bias"))[0] = torch.nan
        return weights

    trained: Any = load_model(later.run.context(), "plain").trelm
    assert float(trained.language_embeddings.weight.detach().abs().max()) > 1e-4
    monkeypatch.setattr(model_plain, "_folded", broken)
    words = (
        r"^export: expected a plain model with the TreLM model's logits, within \d\.\de-0\d, found a difference of .+ "
        r"on 20 sentences; nothing was written; this is a fault of trelm, please report it$"
    )
    with pytest.raises(ExportError, match=words):
        step.export_to(later.run.context(), tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_held_out_text_is_gone_is_not_called_checked(
    later: Later, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = later.run.context()
    monkeypatch.setattr(context, "lines", lambda _: [])
    with pytest.raises(ExportError, match=r"found a difference of .* on 0 sentences; nothing was written"):
        step.export_to(context, tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


# What the card says


def test_the_card_tells_the_numbers_of_the_run(toy_run: ToyRun) -> None:
    card = (toy_run.folder / "export" / "README.md").read_text(encoding="utf-8")
    for model in ("transferred", "scratch"):
        assert f"| {model} | {toy_run.report['models'][model]['bits_per_character']:.3f} |" in card
    assert "| budget | 12 updates |" in card
    assert toy_run.report["baseline_rule"] in card
    assert f"target.txt: {toy_run.report['corpus']['outputs']['target.txt']['lines']:,} lines" in card
    assert [row[0] for row in rows(card, "How good it is")] == ["transferred", "scratch"]
    assert "How it was checked" not in card


def test_a_model_trained_outside_the_plan_has_a_row_of_its_own(toy_run: ToyRun, later: Later) -> None:
    figures = read_json(later.run.folder / "stages" / "6-plain" / "manifest.json")
    context = later.run.context()
    scores = score_text(context, load_model(context, "plain"), context.lines("target-held-out.txt"))
    assert figures["scores"] == {name: pytest.approx(value) for name, value in scores.items()}
    shown = rows(later.card, "How good it is")
    names = {"this model": scores, **{name: toy_run.report["models"][name] for name in ("transferred", "scratch")}}
    assert [row[:3] for row in shown] == [
        [name, f"{found['bits_per_character']:.3f}", f"{100 * found['masked_accuracy']:.1f} %"]
        for name, found in names.items()
    ]
    assert shown[0][1] != shown[1][1]
    assert f"; plain: 20 updates, {figures['tokens']:,} tokens |" in later.card


def test_trelms_own_class_of_the_same_run_has_no_such_row(later: Later, tmp_path: Path) -> None:
    step.export_to(later.run.context(), tmp_path / "ours", kind="trelm")
    card = (tmp_path / "ours" / "README.md").read_text(encoding="utf-8")
    assert [row[0] for row in rows(card, "How good it is")] == ["transferred", "scratch"]
    assert "plain: " not in card


def test_a_plain_stage_of_the_plan_is_the_model_that_was_evaluated(planned: ToyRun) -> None:
    card = (planned.folder / "export" / "README.md").read_text(encoding="utf-8")
    assert [row[:2] for row in rows(card, "How good it is")] == [
        [name, f"{planned.report['models'][name]['bits_per_character']:.3f}"] for name in ("transferred", "scratch")
    ]
    assert "; plain: 2 updates, " in card
    check = planned.report["export"]["check"]
    words = "This model and the TreLM model that it was folded from computed the logits of 20 sentences; the largest "
    numbers = f"{check['largest_difference']:.2g} in float64, {check['largest_difference_in_float32']:.2g} in float32."
    assert f"{words}difference was {numbers}" in card


def test_the_data_are_listed_with_the_lines_that_were_kept(later: Later) -> None:
    read = later.run.report["corpus"]["inputs"]
    kept = {name.rpartition("/")[2]: f"{figures['kept']:,}" for name, figures in read.items()}
    assert sorted(kept) == ["pairs.tsv", "source.txt", "target.txt"]
    assert rows(later.card, "Data") == [
        ["source.txt", "source text", kept["source.txt"], "not stated"],
        ["target.txt", "target text", kept["target.txt"], "not stated"],
        ["pairs.tsv", "parallel text", kept["pairs.tsv"], "not stated"],
        ["translation", "evaluation", "not stated", "not stated"],
        ["toy", "evaluation", "not stated", "not stated"],
    ]
    assert str(later.run.data) not in later.card


def test_licences_are_those_of_the_configuration(later: Later, tmp_path: Path) -> None:
    target, pairs = later.run.data / "target.txt", later.run.data / "pairs.tsv"
    context = later.run.context(
        "card.license=cc-by-sa-4.0",
        "card.source_license=apache-2.0",
        f"card.data_licenses={{'{target}': cc0-1.0, '{pairs}': 'public, mostly', toy: mit}}",
    )
    step.export_to(context, tmp_path / "to")
    card = (tmp_path / "to" / "README.md").read_text(encoding="utf-8")
    assert [(row[0], row[3]) for row in rows(card, "Data")] == [
        ("source.txt", "not stated"),
        ("target.txt", "cc0-1.0"),
        ("pairs.tsv", "public, mostly"),
        ("translation", "not stated"),
        ("toy", "mit"),
    ]
    assert "\nlicense: cc-by-sa-4.0\n" in card
    assert [row[2] for row in _languages(card)] == ["licence: cc-by-sa-4.0", "licence: apache-2.0"]


def test_the_licence_of_the_encoder_is_what_its_own_card_states(later: Later, mpnet: ToyRun, tmp_path: Path) -> None:
    assert [row[2] for row in _languages(later.card)] == ["licence: not stated"] * 2
    card = (mpnet.folder / "export" / "README.md").read_text(encoding="utf-8")
    assert [row[2] for row in _languages(card)] == ["licence: not stated", "licence: mit"]
    step.export_to(mpnet.context("card.source_license=bsd"), tmp_path / "to")
    card = (tmp_path / "to" / "README.md").read_text(encoding="utf-8")
    assert _languages(card)[1][2] == "licence: bsd"


def _languages(card: str) -> list[list[str]]:
    return rows(card, "Languages and licences")


def test_a_pattern_and_aligned_files_are_a_row_each(tiny_bert: Path, tmp_path: Path) -> None:
    write_toy_data(tmp_path / "data")
    shutil.copy(tmp_path / "data" / "target.txt", tmp_path / "data" / "more-target.txt")
    source, target = tmp_path / "data" / "source.txt", tmp_path / "data" / "more-target.txt"
    target.write_text("\n".join(target.read_text("utf-8").splitlines()[:400]) + "\n", encoding="utf-8")
    config = toy_config(
        tmp_path / "data",
        tiny_bert,
        f"target.text=['{tmp_path}/data/*target.txt']",
        f"parallel=[{{source: '{source}', target: '{target}'}}, '{tmp_path}/data/pairs.tsv']",
        f"card.data_licenses={{'{target}': mit}}",
        "evaluation=[]",
    )
    run_toy(config, tmp_path / "run", until="corpus")
    context = Context(config, Run(tmp_path / "run"))
    read = context.figures("corpus")["read"]
    kept = {name.rpartition("/")[2]: figures["kept"] for name, figures in read.items() if name.startswith("target")}
    assert sorted(kept) == ["more-target.txt", "target.txt"]
    found = [(row["name"], row["role"], row["lines"], row["license"]) for row in step._data_rows(context)]
    assert found == [
        ("source.txt", "source text", read[f"source: {source}"]["kept"], None),
        ("data/*target.txt", "target text", sum(kept.values()), None),
        ("source.txt, more-target.txt", "parallel text", read[f"parallel: {source} + {target}"]["kept"], "mit"),
        ("pairs.tsv", "parallel text", read[f"parallel: {tmp_path}/data/pairs.tsv"]["kept"], None),
    ]


# In words


def test_the_summary_says_what_was_written_and_how_it_was_checked(later: Later) -> None:
    check = later.figures["check"]
    assert later.figures["summary"] == [
        f"plain model: {later.folder}",
        f"logits of the plain model and of the TreLM model on 20 held-out sentences ({check['tokens']} tokens): "
        f"largest difference {check['largest_difference']:.1e} in float64, "
        f"{check['largest_difference_in_float32']:.1e} in float32; "
        f"largest logit {check['largest_logit']:.1f}; limit {check['limit']:.1e}",
    ]
    assert step.summary({"path": "to", "kind": "trelm"}) == ["trelm model: to"]
    assert step.summary({"path": "to", "kind": "trelm", "url": "https://there"})[-1] == "pushed: https://there"


def test_what_is_returned_can_be_written_as_json(later: Later) -> None:
    assert json.loads(json.dumps(later.figures)) == later.figures
    assert later.figures.keys() == {"path", "kind", "check", "summary"}


# A card that changed alone


def test_a_run_goes_on_when_only_its_card_changed_and_the_next_export_has_it(toy_run: ToyRun, tmp_path: Path) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    steps = {name: stamp for name, stamp in stamps(run.folder).items() if "/" in name}
    config = run.config("card.license=cc-by-4.0")
    report = run_toy(config, run.folder)
    assert {name: stamp for name, stamp in stamps(run.folder).items() if "/" in name} == steps
    assert report["models"] == toy_run.report["models"]
    assert (run.folder / CARD_FILE).read_text(encoding="utf-8") == dump_card(config)
    assert pipeline.read_run_config(run.folder) == config
    export_toy(run, tmp_path / "to", kind="trelm")
    assert re.search(r"^license: cc-by-4\.0$", (tmp_path / "to" / "README.md").read_text("utf-8"), flags=re.MULTILINE)


def test_a_broken_off_run_goes_on_under_another_card(toy_run: ToyRun, tmp_path: Path) -> None:
    run_toy(toy_run.config("card.license=mit"), tmp_path / "run", until="vocabulary")
    before = stamps(tmp_path / "run" / "vocabulary")
    run_toy(toy_run.config("card.license=bsd"), tmp_path / "run", until="tokens")
    assert stamps(tmp_path / "run" / "vocabulary") == before
    assert pipeline.read_run_config(tmp_path / "run").card.license == "bsd"
    with pytest.raises(RunFolderError, match="belongs to another configuration"):
        run_toy(toy_run.config("card.license=bsd", "seed=2"), tmp_path / "run", until="tokens")
    assert pipeline.read_run_config(tmp_path / "run").card.license == "bsd"
