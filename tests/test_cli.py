"""Every command through its entry point: what it prints, what it exits with, that it can be stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer

from terminal import Terminal, write_toy
from toy import ToyRun
from trelm import cli, pipeline
from trelm.config import RECIPES, make_config
from trelm.report.schema import read_report
from trelm.training import objectives

COMMANDS = [
    *((name,) for name in ("transfer", "plan", "diagnose", "evaluate", "report", "export", "doctor", "demo", "config")),
    ("config", "show"),
    ("config", "check"),
]


@pytest.fixture
def trelm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def toy(tmp_path: Path, tiny_bert: Path) -> Path:
    return write_toy(tmp_path / "toy", tiny_bert)


@pytest.fixture
def finished(tmp_path: Path, toy_run: ToyRun) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(toy_run.folder, tmp_path / "finished"))


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_of_every_command_answers_without_torch() -> None:
    program = (
        "import sys\n"
        "from trelm.cli import app\n"
        f"for command in {[(), *COMMANDS]!r}:\n"
        "    assert app([*command, '--help'], prog_name='trelm', standalone_mode=False) == 0\n"
        "heavy = [name for name in ('torch', 'transformers', 'gensim', 'plotly') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"Usage: trelm {' '.join(command)} [OPTIONS]" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["config", "--help"], ["transfer", "--help"]])
def test_help_is_no_mistake(trelm: Terminal, arguments: list[str]) -> None:
    answer = trelm(*arguments)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("Usage: trelm")


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "trelm", "nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "trelm: No such command 'nonsense'; see `trelm --help`\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config"], "Missing command; see `trelm config --help`"),
        (["config", "chek"], "No such command 'chek'. Did you mean 'check'?; see `trelm config --help`"),
        (["transfer", "c.yaml"], "Missing option '--run'; see `trelm transfer --help`"),
        (["transfer", "c.yaml", "--run", "r", "--quite"], "No such option: --quite"),
        (["export"], "Missing argument 'run'; see `trelm export --help`"),
        (["export", "r", "--push"], "Option '--push' requires an argument"),
        (["diagnose"], "Missing argument 'config'; see `trelm diagnose --help`"),
        (["plan"], "Missing argument 'config'; see `trelm plan --help`"),
    ],
)
def test_a_wrong_call_is_one_line(trelm: Terminal, arguments: list[str], message: str) -> None:
    assert trelm(*arguments).mistake.startswith(f"trelm: {message}")


# --- config -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_show_prints_every_setting_of_a_recipe_and_reads_it_back(trelm: Terminal, recipe: str) -> None:
    answer = trelm("config", "show", "--recipe", recipe)
    assert (answer.code, answer.err) == (0, "")
    values = yaml.safe_load(answer.out)
    assert values["recipe"] == recipe
    assert make_config(values).model_dump(mode="json") == values


def test_config_show_resolves_a_file_with_its_overrides(trelm: Terminal, toy: Path) -> None:
    answer = trelm("config", "show", toy, "--set", "budget.minutes=7", "--set", "seed=3")
    values = yaml.safe_load(answer.out)
    assert values["budget"] == {"minutes": 7.0, "tokens": None, "updates": None, "flops": None}
    assert values["seed"] == 3
    assert values["source"]["text"] == [str(toy.parent / "source.txt")]


def test_config_show_obeys_overrides_and_the_recipe_with_and_without_a_file(trelm: Terminal, toy: Path) -> None:
    for file in ([], [toy]):
        values = yaml.safe_load(trelm("config", "show", *file, "--recipe", "paper", "--set", "seed=5").out)
        assert (values["seed"], values["recipe"], values["training"]["mask_rate"]) == (5, "paper", 0.15)
        assert values["alignment"]["normalisation"] == "none"
    assert "unknown recipe 'papre'" in trelm("config", "show", "--recipe", "papre").mistake


def test_config_check_counts_the_files_and_finds_a_missing_one(trelm: Terminal, toy: Path) -> None:
    answer = trelm("config", "check", toy)
    assert (answer.code, answer.out) == (0, f"{toy}: valid, 5 input files\n")
    (toy.parent / "target.txt").unlink()
    mistake = trelm("config", "check", toy).mistake
    assert mistake == f"trelm: {toy.parent / 'target.txt'}: expected a file, found nothing there; check the path"


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_says_the_same_in_words_and_in_json(trelm: Terminal) -> None:
    plain, as_json = trelm("doctor"), trelm("doctor", "--json")
    facts = json.loads(as_json.out)
    assert (plain.code, as_json.code) == (0, 0)
    names = [line.partition(":")[0] for line in plain.out.splitlines()]
    assert names == [*(name for name in facts if name != "advice"), *("advice" for _ in facts["advice"])]
    assert f"torch {facts['packages']['torch']}" in plain.out
    assert f"bfloat16: {'yes' if facts['bfloat16'] else 'no'}" in plain.out


# --- plan, transfer, report, export, evaluate -------------------------------------------------------------------------


def test_plan_writes_nothing_and_names_every_step(trelm: Terminal, toy: Path) -> None:
    before = sorted(toy.parent.iterdir())
    plan = json.loads(trelm("plan", toy, "--json").out)
    assert [row["name"] for row in plan["steps"]][-8:] == [
        *("commonality", "transfer-upper", "transfer-lower", "combination", "language-specific", "scratch"),
        *("evaluation", "export"),
    ]
    assert plan["total"]["updates"] == 24  # twelve for each of the two models
    assert "source text: 400 lines" in plan["summary"][0]
    assert sorted(toy.parent.iterdir()) == before


def test_plan_prints_a_table(trelm: Terminal, toy: Path) -> None:
    answer = trelm("plan", toy, "--set", "baseline.scratch=false", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert "measured on 400 lines of source text" in answer.out
    assert "language-specific" in answer.out
    assert "scratch" not in answer.out
    assert "time: about" in answer.out


@pytest.fixture
def diagnosed(finished: Path) -> Path:
    """A run in which nothing has been done after the diagnosis, and that either."""
    for name in ("diagnosis", "plan", "stages", "evaluation", "export", "report.json", "report.html", "report.md"):
        place = finished / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return finished


def test_diagnose_goes_on_in_a_run_and_stops_before_training(trelm: Terminal, diagnosed: Path, toy_run: ToyRun) -> None:
    answer = trelm("diagnose", diagnosed / "config.yaml", "--run", diagnosed, "--set", "seed=1")
    assert answer.code == 0
    steps = [line.partition("] ")[2] for line in answer.err.splitlines() if line.endswith(("before", " s"))]
    assert [step.partition(":")[0] for step in steps] == [*toy_run.report["steps"]][:8]
    assert all(step.endswith(": done before") for step in steps[:-1])
    assert (diagnosed / "diagnosis" / "manifest.json").is_file()
    assert not (diagnosed / "plan").exists()
    for shown in ("spelled alike", "linked rows", "random rows", "the source's own", "precision at 1", "3 updates of"):
        assert shown in answer.out, shown
    warnings = [f"warning: {line}" for line in toy_run.report["diagnosis"]["warnings"]] or ["no warnings"]
    again = f"go on with: trelm transfer {diagnosed / 'config.yaml'} --run {diagnosed} --set seed=1"
    assert answer.out.splitlines()[-1 - len(warnings) :] == [*warnings, again]


def test_json_of_diagnose_is_what_the_report_holds(trelm: Terminal, diagnosed: Path, toy_run: ToyRun) -> None:
    answer = trelm("diagnose", diagnosed / "config.yaml", "--run", diagnosed, "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out) == toy_run.report["diagnosis"]


def test_diagnose_without_a_run_leaves_nothing_and_says_so(
    trelm: Terminal, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy.parent / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(toy.parent / "temporary"))
    before = sorted(toy.parent.rglob("*"))
    answer = trelm("diagnose", toy, "--set", "diagnosis.head_updates=0", "--set", "embeddings.initialisation=shared")
    assert answer.code == 0
    warnings = [line for line in answer.out.splitlines() if line.startswith("warning: ")]
    assert any(
        line.endswith(
            "start at random (expected 5.0 % of the text or less); set embeddings.initialisation to recommended"
        )
        for line in warnings
    )
    assert answer.err.startswith("no --run: what is prepared goes into a temporary folder, which is removed at the end")
    assert "spelled alike" in answer.out
    assert "updates of the head" not in answer.out
    assert "go on with" not in answer.out
    assert sorted(toy.parent.rglob("*")) == before


def test_diagnose_says_that_there_is_nothing_to_warn_of(
    trelm: Terminal, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        pipeline, "diagnose", lambda *given, **named: calls.append((given[1], named)) or {"warnings": []}
    )
    answer = trelm("diagnose", toy, "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "no warnings\n", "")
    assert calls == [(None, {"quiet": True})]


def test_diagnose_refuses_what_transfer_refuses(trelm: Terminal, toy: Path) -> None:
    run = toy.parent / "run"
    mistake = trelm("diagnose", toy, "--run", run, "--set", "diagnosis.head_update=3").mistake
    assert "unknown key 'diagnosis.head_update'; did you mean 'head_updates'?" in mistake
    assert "--run: expected" not in mistake
    (toy.parent / "target.txt").unlink()
    mistake = trelm("diagnose", toy, "--run", run, "--quiet").mistake
    assert "target.txt: expected a file, found nothing there; check the path" in mistake
    assert not run.exists()


def test_transfer_until_a_step_answers_with_its_figures(trelm: Terminal, toy: Path) -> None:
    run = toy.parent / "run"
    answer = trelm("transfer", toy, "--run", run, "--until", "corpus", "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["outputs"]["source.txt"]["lines"] > 400  # the sides of the pairs are text as well
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["corpus"]
    assert trelm("transfer", toy, "--run", run, "--until", "corpus").out == ""


def test_transfer_tells_what_it_does_on_standard_error(trelm: Terminal, toy: Path) -> None:
    answer = trelm("transfer", toy, "--run", toy.parent / "run", "--until", "vocabulary")
    assert [line.partition(":")[0] for line in answer.err.splitlines()] == [
        *("[1/17] corpus", "[1/17] corpus", "[2/17] vocabulary", "[2/17] vocabulary"),
    ]


def test_transfer_refuses_an_unknown_step(trelm: Terminal, toy: Path) -> None:
    mistake = trelm("transfer", toy, "--run", toy.parent / "run", "--until", "vocabluary").mistake
    assert "--until vocabluary: unknown step (known: corpus, vocabulary" in mistake
    assert mistake.endswith("did you mean 'vocabulary'?")
    assert not (toy.parent / "run").exists()


def test_a_finished_run_prints_its_scores_again(trelm: Terminal, finished: Path, toy_run: ToyRun) -> None:
    answer = trelm("transfer", finished / "config.yaml", "--run", finished)
    assert answer.code == 0
    assert "transferred" in answer.out
    assert "scratch" in answer.out
    assert answer.out.endswith(f"model: {toy_run.folder / 'export'}\nreport: {finished / 'report.html'}\n")
    steps = answer.err.splitlines()
    assert len(steps) == 17
    assert all(line.endswith(": done before") for line in steps)


def test_json_of_transfer_is_the_report(trelm: Terminal, finished: Path) -> None:
    answer = trelm("transfer", finished / "config.yaml", "--run", finished, "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    report = json.loads(answer.out)
    assert report["models"] == json.loads((finished / "report.json").read_text("utf-8"))["models"]
    assert read_report(finished).models.scratch is not None


def test_report_writes_both_forms_again(trelm: Terminal, finished: Path) -> None:
    (finished / "report.html").unlink()
    answer = trelm("report", finished)
    assert answer.out.split() == [str(finished / name) for name in ("report.md", "report.html")]
    assert (finished / "report.html").is_file()


def test_report_and_export_refuse_what_is_no_finished_run(trelm: Terminal, tmp_path: Path, toy: Path) -> None:
    assert "expected the report of a finished run, found nothing there" in trelm("report", tmp_path / "no").mistake
    mistake = trelm("export", tmp_path / "no", "--to", tmp_path / "to").mistake
    assert "expected a run folder with a config.yaml, found none; give the --run folder" in mistake
    run = tmp_path / "half"
    assert trelm("transfer", toy, "--run", run, "--until", "corpus", "--quiet").code == 0
    mistake = trelm("export", run, "--to", tmp_path / "to").mistake
    assert "step 'evaluation' is not done; run `trelm transfer` to its end first" in mistake
    assert not (tmp_path / "to").exists()


def test_export_writes_a_folder_that_transformers_load(trelm: Terminal, finished: Path, tmp_path: Path) -> None:
    answer = trelm("export", finished, "--to", tmp_path / "to")
    assert (answer.code, answer.out, answer.err) == (0, f"trelm model: {tmp_path / 'to'}\n", "")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "to")
    assert model.config.model_type == "trelm"
    assert len(AutoTokenizer.from_pretrained(tmp_path / "to")) == model.get_input_embeddings().num_embeddings
    again = trelm("export", finished, "--to", tmp_path / "to").mistake
    assert "expected a new or empty folder, found files there; choose another --to folder" in again


def test_evaluate_scores_any_encoder(trelm: Terminal, finished: Path, tiny_bert: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.yaml"
    text = finished / "corpus" / "target-held-out.txt"
    tasks.write_text(f"evaluation: [{{task: text, name: held out, test: {text}}}]\n", encoding="utf-8")
    exported = json.loads(trelm("evaluate", finished / "export", "--tasks", tasks, "--json").out)
    source = json.loads(trelm("evaluate", tiny_bert, "--tasks", tasks, "--json").out)
    lines = len(text.read_text("utf-8").splitlines())
    assert exported["held out"]["lines"] == source["held out"]["lines"] == lines
    assert exported["held out"]["bits_per_character"] > 0
    table = trelm("evaluate", tiny_bert, "--tasks", tasks).out
    assert f"{source['held out']['bits_per_character']:.3f}" in table


def test_evaluate_tunes_and_reads_only_the_sets_of_a_whole_configuration(
    trelm: Terminal, tiny_bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "tags.tsv").write_text("the\tD\nstate\tN\n\npeople\tN\nwork\tV\n\n", encoding="utf-8")
    files = "train: tags.tsv, dev: tags.tsv, test: tags.tsv"
    tuning = "fine_tuning: {epochs: 1, seeds: [1, 2], learning_rates: [0.001]}"
    config = tmp_path / "run.yaml"
    config.write_text(
        f"source: {{text: '${{NO_SUCH_VARIABLE}}'}}\nevaluation:\n- {{task: tagging, name: tags, {files}, {tuning}}}\n"
        "- {task: text, test: tags.tsv}\n- {task: translation, name: words, test: words.tsv}\n",
        encoding="utf-8",
    )
    arguments = ("evaluate", tiny_bert, "--tasks", config, "--only", "tags", "--work", tmp_path / "work")
    scores = json.loads(trelm(*arguments, "--quiet", "--json").out)
    assert list(scores) == ["tags"]
    again = trelm(*arguments)
    assert f"accuracy {100 * scores['tags']['score']:.1f} ± {100 * scores['tags']['spread']:.1f}" in again.out
    assert "[1/1] tags: done before: " in again.err
    whole = trelm(*arguments[:4], "--work", tmp_path / "work")
    assert "words: skipped: needs the two tables of a run" in whole.err
    assert "words" not in whole.out


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("evaluation: []", "expected evaluation sets under 'evaluation', found none; list at least one"),
        ("evaluation: [{task: text, tets: a.txt}]", "unknown key 'evaluation.0.tets'; did you mean 'test'?"),
        ("evaluation: [{task: translation, test: a}]", "'translation': translation needs the two tables of a run"),
        ("evaluation: [{task: text, test: nowhere.txt}]", "nowhere.txt: expected a file, found nothing there"),
        (None, "expected a YAML file, found nothing there; check the path"),
    ],
)
def test_evaluate_refuses_a_bad_list(
    trelm: Terminal, tiny_bert: Path, tmp_path: Path, tasks: str | None, message: str
) -> None:
    path = tmp_path / "tasks.yaml"
    if tasks is not None:
        path.write_text(tasks, encoding="utf-8")
    assert message in trelm("evaluate", tiny_bert, "--tasks", path).mistake


def test_evaluate_refuses_what_is_no_model(trelm: Terminal, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.yaml"
    (tmp_path / "text.txt").write_text("one line\n", encoding="utf-8")
    tasks.write_text("evaluation: [{task: text, test: text.txt}]\n", encoding="utf-8")
    mistake = trelm("evaluate", tmp_path, "--tasks", tasks).mistake
    assert f"{tmp_path}: expected a model folder or a reachable Hub id, found none (" in mistake


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_prepares_transfers_and_judges_the_links(
    trelm: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    config = make_config(
        {
            "source": {"model": "minilm", "text": ["a"]},
            "target": {"language": "xx", "text": ["b"]},
            "parallel": ["c"],
            "budget": {"minutes": 1},
        }
    )
    figures = {"precision": 0.5, "recall": 0.25, "alignment_error_rate": 0.75}
    demonstration = cli._load("trelm.demo.run")
    monkeypatch.setattr(
        demonstration, "prepare", lambda folder, overrides: calls.append((str(folder), list(overrides))) or config
    )
    monkeypatch.setattr(demonstration, "link_scores", lambda folder: {"forward": figures, "reverse": figures})
    monkeypatch.setattr(
        pipeline, "transfer", lambda config, run, **_: calls.append(("transfer", run)) or {"budget": {}}
    )
    answer = trelm("demo", "--run", tmp_path / "demo", "--set", "seed=2", "--json")
    assert calls == [(str(tmp_path / "demo"), ["seed=2"]), ("transfer", tmp_path / "demo" / "run")]
    assert json.loads(answer.out) == {"budget": {}}
    line = "word links against the known truth, {}: precision 0.500, recall 0.250, alignment error rate 0.750"
    assert answer.err.splitlines() == [line.format("forward"), line.format("reverse")]
    assert trelm("demo", "--run", tmp_path / "demo").out.splitlines() == answer.err.splitlines()


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_a_fault_of_the_program_is_1_and_one_line(trelm: Terminal, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug\nwith a long explanation")

    monkeypatch.setattr(pipeline, "transfer", fail)
    answer = trelm("transfer", toy, "--run", toy.parent / "run")
    assert answer.code == 1
    assert answer.err == "trelm: a fault of the program: RuntimeError: a bug; --debug shows where\n"
    traced = trelm("transfer", toy, "--run", toy.parent / "run", "--debug")
    assert traced.code == 1
    assert traced.err.startswith("Traceback (most recent call last):")
    assert traced.err.endswith(answer.err)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_gives_a_traceback_and_the_same_code(trelm: Terminal, place: int) -> None:
    arguments = ["plan", "nowhere.yaml", "--json"]
    answer = trelm(*arguments[:place], "--debug", *arguments[place:])
    assert answer.code == 2
    assert answer.err.startswith("Traceback (most recent call last):")
    assert answer.err.splitlines()[-1] == (
        "trelm: nowhere.yaml: expected a YAML file, found nothing there; check the path"
    )


def test_an_interruption_is_130(trelm: Terminal, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(pipeline, "transfer", stop)
    answer = trelm("transfer", toy, "--run", toy.parent / "run")
    assert (answer.code, answer.err) == (130, "trelm: stopped; the same command goes on from here\n")


def test_a_run_that_is_stopped_by_a_signal_goes_on(trelm: Terminal, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM to a process in the middle of a stage, Ctrl-C at the fifth update of the next try, then to the end."""
    run = toy.parent / "run"
    call = ["transfer", str(toy), "--run", str(run), "--set", "budget.updates=900"]
    call += ["--set", "training.checkpoint_minutes=1"]
    code, said = _stopped_in_training(call, signal.SIGTERM)
    assert (code, said[-1]) == (130, "trelm: stopped; the same command goes on from here\n")
    assert not any("Traceback" in line for line in said)

    updates, batch_loss = 0, objectives.batch_loss

    def interrupt(*arguments: Any) -> Any:
        nonlocal updates
        updates += 1
        if updates == 5:
            signal.raise_signal(signal.SIGINT)
        return batch_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(objectives, "batch_loss", interrupt)
        answer = trelm(*call)
    assert (answer.code, updates) == (130, 5)
    assert answer.err.endswith("trelm: stopped; the same command goes on from here\n")

    answer = trelm(*call, "--until", "commonality", "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["updates"] == 150
    assert "[9/17] plan: done before" in answer.err.splitlines()
    assert not list(run.rglob("*.part"))


def _stopped_in_training(call: list[str], number: signal.Signals) -> tuple[int, list[str]]:
    """Run `trelm` in a process of its own and send it the signal when the first stage begins; its code and words."""
    with subprocess.Popen(
        [sys.executable, "-m", "trelm", *call],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "1-commonality" in line and "stopped" not in line:
                process.send_signal(number)
        return process.wait(timeout=60), said
