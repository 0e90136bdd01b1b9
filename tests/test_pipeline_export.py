"""The export of a finished run, as a function and as a command: what is trained for it, where it goes, refusals."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from terminal import Terminal
from toy import ToyRun, copy_of, export_and_die, export_toy, hold_lock, manifests, one_core, run_toy, stamps
from trelm import pipeline
from trelm.errors import ExportError, RunFolderError, TrelmError
from trelm.model import plain as model_plain
from trelm.training import objectives
from trelm.workspace import read_json

PLAIN_STEP = "stages/6-plain"
WEIGHTS = "model.safetensors"
UPDATES = 20


@pytest.fixture
def trelm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(toy_run: ToyRun, tmp_path: Path) -> ToyRun:
    """A copy of a finished run that was planned without a plain stage."""
    return copy_of(toy_run, tmp_path / "run")


@pytest.fixture(scope="module")
def exported(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """Such a run after `trelm export RUN --plain`; only to be read."""
    run = copy_of(toy_run, tmp_path_factory.mktemp("exported") / "run")
    export_toy(run, kind="plain")
    return run


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with every update that is trained in this process."""
    seen: list[None] = []
    batch_loss = objectives.batch_loss

    def counted(*given: Any) -> Any:
        seen.append(None)
        return batch_loss(*given)

    monkeypatch.setattr(objectives, "batch_loss", counted)
    return seen


def tasks_of(run: Path, data: Path, file: Path) -> Path:
    """A list of evaluation sets: the run's held-out text, and the sentences of its own evaluation set."""
    sets = {"held out": run / "corpus" / "target-held-out.txt", "toy": data / "evaluation.txt"}
    listed = ", ".join(f"{{task: text, name: {name}, test: {path}}}" for name, path in sets.items())
    file.write_text(f"evaluation: [{listed}]", encoding="utf-8")
    return file


def class_of(folder: Path) -> str:
    (name,) = read_json(folder / "config.json")["architectures"]
    return str(name)


# The plain stage


def test_a_run_without_a_plain_stage_trains_it_once(run: ToyRun, tmp_path: Path, updates: list[None]) -> None:
    before = stamps(run.folder)
    result = export_toy(run, tmp_path / "first", kind="plain")
    assert len(updates) == UPDATES
    assert (result["kind"], result["path"]) == ("plain", str(tmp_path / "first"))
    manifest = manifests(run.folder)[PLAIN_STEP]
    assert manifest["updates"] == UPDATES
    assert manifest["scores"]["bits_per_character"] > 0
    assert len(manifest["curve"]["loss"]) == UPDATES
    assert not list(run.folder.rglob("checkpoint-*"))
    after = stamps(run.folder)
    assert before.items() <= after.items()
    assert all(name.startswith(PLAIN_STEP) for name in after.keys() - before.keys())

    again = export_toy(run, tmp_path / "second", kind="plain")
    unasked = export_toy(run, tmp_path / "third")
    assert len(updates) == UPDATES
    assert stamps(run.folder) == after
    assert again["check"] == unasked["check"] == result["check"]
    weights = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("first", "second", "third")]
    assert weights[0] == weights[1] == weights[2]
    assert class_of(tmp_path / "third") == "BertForMaskedLM"


def test_the_run_itself_stays_done(exported: ToyRun, tmp_path: Path, updates: list[None]) -> None:
    run = copy_of(exported, tmp_path / "run")
    assert run_toy(run.config(), run.folder) == run.report
    assert updates == []
    assert PLAIN_STEP in manifests(run.folder)


def test_trelms_own_class_trains_nothing(run: ToyRun, toy_run: ToyRun, tmp_path: Path, updates: list[None]) -> None:
    for kind in (None, "trelm"):
        result = export_toy(run, tmp_path / str(kind), kind=kind)
        assert result["kind"] == "trelm"
        assert class_of(tmp_path / str(kind)) == "TrelmForMaskedLM"
    assert updates == []
    final = toy_run.folder / "stages" / "5-language-specific" / "model" / WEIGHTS
    assert (tmp_path / "trelm" / WEIGHTS).read_bytes() == final.read_bytes()


@pytest.mark.parametrize("moment", [80, 300, 420])
def test_killed_in_the_plain_stage_the_same_call_goes_on(
    run: ToyRun, exported: ToyRun, updates: list[None], moment: int
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trelm.pipeline"])
    child = processes.Process(target=export_and_die, args=(run, moment))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert not (run.folder / PLAIN_STEP / "manifest.json").exists()
    assert not (run.folder / "plain").exists()
    assert list((run.folder / PLAIN_STEP).glob("checkpoint-*/complete.json"))

    result = export_toy(run, kind="plain")
    assert 0 < len(updates) < UPDATES
    for name in (f"{PLAIN_STEP}/model/{WEIGHTS}", f"plain/{WEIGHTS}"):
        assert (run.folder / name).read_bytes() == (exported.folder / name).read_bytes(), name
    ours, theirs = (manifests(one.folder)[PLAIN_STEP] for one in (run, exported))
    assert ours["curve"]["loss"] == theirs["curve"]["loss"]
    assert (ours["tokens"], ours["scores"]) == (theirs["tokens"], theirs["scores"])
    assert result["path"] == str(run.folder / "plain")


def test_no_second_process_trains_in_the_same_run(run: ToyRun) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trelm.pipeline"])
    held, free = processes.Event(), processes.Event()
    first = processes.Process(target=hold_lock, args=(str(run.folder), held, free))
    first.start()
    try:
        assert held.wait(60)
        with pytest.raises(RunFolderError, match="another process is working in this run folder"):
            export_toy(run, kind="plain")
    finally:
        free.set()
        first.join(60)
    assert not (run.folder / "stages" / "6-plain").exists()


# Where it goes


def test_without_a_folder_it_goes_into_the_run(exported: ToyRun, tmp_path: Path, trelm: Terminal) -> None:
    assert class_of(exported.folder / "plain") == "BertForMaskedLM"
    run = copy_of(exported, tmp_path / "run")
    shutil.rmtree(run.folder / "plain")
    assert trelm("export", run.folder).out.startswith(f"plain model: {run.folder / 'plain'}\n")
    assert trelm("export", run.folder, "--trelm").out == f"trelm model: {run.folder / 'trelm'}\n"
    assert class_of(run.folder / "trelm") == "TrelmForMaskedLM"
    assert (run.folder / "plain" / WEIGHTS).read_bytes() == (exported.folder / "plain" / WEIGHTS).read_bytes()


def test_a_run_that_folds_nothing_goes_out_as_trelms(run: ToyRun, trelm: Terminal) -> None:
    assert trelm("export", run.folder).out == f"trelm model: {run.folder / 'trelm'}\n"
    assert not (run.folder / "plain").exists()


def test_a_folder_with_files_is_refused(exported: ToyRun, tmp_path: Path, trelm: Terminal) -> None:
    words = "expected a new or empty folder, found files there; choose another --to folder"
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine", encoding="utf-8")
    for folder, more in ((exported.folder / "plain", ()), (tmp_path / "to", ("--to", tmp_path / "to"))):
        before = stamps(folder)
        for kind in ((), ("--plain",)):
            assert trelm("export", exported.folder, *kind, *more).mistake == f"trelm: {folder}: {words}"
        assert stamps(folder) == before
    (tmp_path / "empty").mkdir()
    assert trelm("export", exported.folder, "--to", tmp_path / "empty").code == 0


def test_an_unfinished_run_is_refused(toy_run: ToyRun, tmp_path: Path, trelm: Terminal) -> None:
    run_toy(toy_run.config(), tmp_path / "run", until="language-specific")
    before = stamps(tmp_path / "run")
    for kind in ((), ("--plain",), ("--trelm",)):
        mistake = trelm("export", tmp_path / "run", *kind, "--to", tmp_path / "to").mistake
        assert mistake.endswith("run: step 'evaluation' is not done; run `trelm transfer` to its end first")
    assert stamps(tmp_path / "run") == before
    assert not (tmp_path / "to").exists()


# What is written


def test_what_it_says_is_how_it_was_checked(exported: ToyRun, tmp_path: Path, trelm: Terminal) -> None:
    answer = trelm("export", exported.folder, "--to", tmp_path / "to", "--json")
    assert (answer.code, answer.err) == (0, "")
    result = json.loads(answer.out)
    assert result["kind"] == "plain"
    assert result["check"]["sentences"] == 20
    assert result["check"]["largest_difference"] <= result["check"]["limit"]
    assert trelm("export", exported.folder, "--to", tmp_path / "again").out.splitlines() == [
        f"plain model: {tmp_path / 'again'}",
        *result["summary"][1:],
    ]


def test_training_for_an_export_is_told_on_standard_error_unless_quiet(
    toy_run: ToyRun, tmp_path: Path, trelm: Terminal
) -> None:
    for name, quiet in (("told", ()), ("quiet", ("--quiet",))):
        run = copy_of(toy_run, tmp_path / name)
        answer = trelm("export", run.folder, "--plain", *quiet)
        assert answer.code == 0
        assert answer.out.startswith("plain model: ")
        assert bool(answer.err) is (name == "told")
        if answer.err:
            first, last = answer.err.splitlines()
            assert first == "[1/1] stages/6-plain"
            assert last.startswith("[1/1] stages/6-plain: done in ")


def test_the_program_and_the_command_evaluate_it_as_the_run_did(
    exported: ToyRun, toy_run: ToyRun, tmp_path: Path, trelm: Terminal
) -> None:
    """The scores of the plain folder, which knows nothing of us, are those of the model in the run."""
    tasks = tasks_of(exported.folder, exported.data, tmp_path / "tasks.yaml")
    plain = json.loads(trelm("evaluate", exported.folder / "plain", "--tasks", tasks, "--json").out)
    assert plain["held out"] == _approximately(manifests(exported.folder)[PLAIN_STEP]["scores"])
    own = json.loads(trelm("evaluate", toy_run.folder / "export", "--tasks", tasks, "--json").out)
    transferred = dict(toy_run.report["models"]["transferred"])
    assert own["toy"] == _approximately(transferred.pop("tasks")["toy"])
    assert own["held out"] == _approximately(transferred)


def test_a_plain_folder_of_a_planned_run_scores_as_its_report_says(
    toy_run: ToyRun, tmp_path: Path, trelm: Terminal
) -> None:
    config = toy_run.config("budget.updates=14", "stages.plain.share=1", "baseline.scratch=false")
    report = run_toy(config, tmp_path / "run")
    transferred = dict(report["models"]["transferred"])
    tasks = tasks_of(tmp_path / "run", toy_run.data, tmp_path / "tasks.yaml")
    assert class_of(tmp_path / "run" / "export") == "BertForMaskedLM"
    found = json.loads(trelm("evaluate", tmp_path / "run" / "export", "--tasks", tasks, "--json").out)
    assert found["toy"] == _approximately(transferred.pop("tasks")["toy"])
    assert found["held out"] == _approximately(transferred)
    assert report["curves"]["plain"]["updates"] == [1, 2]
    assert report["steps"][PLAIN_STEP]["updates"] == 2


def _approximately(scores: dict[str, Any]) -> dict[str, Any]:
    """Counts exactly, figures up to the rounding of sums in another order."""
    return {
        name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for name, value in scores.items()
    }


def test_transformers_load_it_without_asking(exported: ToyRun) -> None:
    folder = exported.folder / "plain"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__module__ == "transformers.models.bert.modeling_bert"
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert tokenizer.model_max_length <= model.config.max_position_embeddings


# What goes wrong


def test_a_wrong_fold_is_refused_and_leaves_no_folder(
    exported: ToyRun, tmp_path: Path, trelm: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(exported, tmp_path / "run")
    shutil.rmtree(run.folder / "plain")
    before = stamps(run.folder)
    monkeypatch.setattr(
        model_plain,
        "_folded",  # without the language embedding
        lambda model, language: {name: weight.detach().clone() for name, weight in model.state_dict().items()},
    )
    with pytest.raises(ExportError, match="expected a plain model with the TreLM model's logits"):
        export_toy(run, kind="plain")
    monkeypatch.setattr("trelm.export.hub.get_token", lambda: "hf_of_nobody")
    mistake = trelm("export", run.folder, "--push", "me/mine").mistake
    assert mistake.startswith("trelm: export: expected a plain model with the TreLM model's logits, within ")
    assert stamps(run.folder) == before
    assert not (run.folder / "plain").exists()


def test_onnx_without_a_plain_model_is_refused(run: ToyRun, trelm: Terminal, tmp_path: Path) -> None:
    for kind in ((), ("--trelm",)):
        mistake = trelm("export", run.folder, *kind, "--onnx", "--to", tmp_path / "to").mistake
        assert mistake == "trelm: --onnx: expected a plain model, found one of TreLM's own class; add --plain"
    assert not (tmp_path / "to").exists()


def test_onnx_without_a_plain_model_is_refused_before_anything_else(
    run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the folder, the packages and the token are looked at, and before any model is read."""
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr("trelm.export.onnx.PACKAGES", ("a_package_that_nobody_has",))
    monkeypatch.setattr("trelm.steps.export.load_model", None)
    before = stamps(run.folder)
    for kind in (None, "trelm"):
        with pytest.raises(ExportError, match=r"^--onnx: expected a plain model, found one .*; add --plain$"):
            export_toy(run, tmp_path / "to", kind=kind, onnx=True, repo="me/mine")
    assert stamps(run.folder) == before


# To the Hub


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str, bool]]:
    """What was pushed; nothing leaves this machine."""
    calls: list[tuple[Path, str, bool]] = []

    def push(folder: Path, repo: str, *, private: bool = False) -> str:
        assert (folder / "config.json").is_file()
        calls.append((folder, repo, private))
        return f"https://hub/{repo}/commit/1"

    monkeypatch.setattr(pipeline, "push", push)
    monkeypatch.setattr("trelm.export.hub.get_token", lambda: "hf_of_nobody")
    return calls


def test_push_takes_the_folder_to_the_repository(
    exported: ToyRun, tmp_path: Path, trelm: Terminal, pushed: list[tuple[Path, str, bool]]
) -> None:
    answer = trelm("export", exported.folder, "--to", tmp_path / "open", "--push", "me/open")
    assert answer.out.splitlines()[-1] == "pushed: https://hub/me/open/commit/1"
    answer = trelm("export", exported.folder, "--to", tmp_path / "own", "--push", "me/own", "--private", "--json")
    assert json.loads(answer.out)["url"] == "https://hub/me/own/commit/1"
    assert pushed == [(tmp_path / "open", "me/open", False), (tmp_path / "own", "me/own", True)]


def test_nothing_is_pushed_unasked(exported: ToyRun, tmp_path: Path, pushed: list[tuple[Path, str, bool]]) -> None:
    with one_core():
        result = pipeline.export(exported.folder, tmp_path / "to", private=True)
    assert "url" not in result
    assert pushed == []


# What is refused is refused before anything trains


def test_a_folder_with_files_is_refused_before_the_plain_stage(
    run: ToyRun, tmp_path: Path, updates: list[None]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="expected a new or empty folder, found files there"):
        pipeline.export(run.folder, tmp_path / "full", kind="plain", quiet=True)
    assert not updates
    assert not (run.folder / PLAIN_STEP).exists()


def test_a_missing_extra_is_told_before_the_plain_stage(
    run: ToyRun, updates: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trelm.export.onnx.PACKAGES", ("a_package_that_nobody_has",))
    with pytest.raises(ExportError, match=r"found no a_package_that_nobody_has; install them with: pip install"):
        pipeline.export(run.folder, kind="plain", onnx=True, quiet=True)
    assert not updates


def test_a_missing_token_is_told_before_the_plain_stage(
    run: ToyRun, updates: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trelm.export.hub.get_token", lambda: None)
    with pytest.raises(TrelmError, match=r"--push me/mine: expected a token of the Hub, found none"):
        pipeline.export(run.folder, kind="plain", repo="me/mine", quiet=True)
    assert not updates


def test_private_is_for_a_push(exported: ToyRun, trelm: Terminal) -> None:
    said = trelm("export", exported.folder, "--private").mistake
    assert said == "trelm: --private: expected it together with --push, found it alone; name the repository"
