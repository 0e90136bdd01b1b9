"""Bad input to `trelm transfer`: one line, exit code 2, and nothing of the user's is changed."""

from __future__ import annotations

import errno
import json
import lzma
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from terminal import Terminal, write_toy
from trelm import workspace
from trelm.corpus.ragged import RaggedWriter
from trelm.model.encoder import TrelmForMaskedLM
from trelm.workspace import Run

Spoil = Callable[[Path], list[str]]


@pytest.fixture
def trelm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def toy(tmp_path: Path, tiny_bert: Path) -> Path:
    return write_toy(tmp_path / "toy", tiny_bert)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the user's: all below the folder but the run."""
    files = (path for path in folder.rglob("*") if path.is_file() and folder / "run" not in path.parents)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- what is wrong: each function spoils the toy folder and returns more arguments ------------------------------------


def missing_text(folder: Path) -> list[str]:
    (folder / "target.txt").unlink()
    return []


def a_glob_without_files(folder: Path) -> list[str]:
    return ["--set", f"target.text=['{folder}/*.text']"]


def an_empty_file(folder: Path) -> list[str]:
    (folder / "target.txt").write_bytes(b"")
    return []


def three_columns(folder: Path) -> list[str]:
    lines = (folder / "pairs.tsv").read_text("utf-8").splitlines()
    lines[6] += "\tone more"
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return []


def one_column(folder: Path) -> list[str]:
    shutil.copy(folder / "source.txt", folder / "pairs.tsv")
    return []


def unequal_files(folder: Path) -> list[str]:
    lines = (folder / "target.txt").read_text("utf-8").splitlines()
    (folder / "short.txt").write_text("\n".join(lines[:399]) + "\n", encoding="utf-8")
    return ["--set", f"parallel=[{{source: '{folder}/source.txt', target: '{folder}/short.txt'}}]"]


def bytes_of_another_encoding(folder: Path) -> list[str]:
    with (folder / "source.txt").open("ab") as stream:
        stream.write("und so weiter, schön\n".encode("latin-1"))
    return []


def a_line_of_ten_megabytes(folder: Path) -> list[str]:
    with (folder / "source.txt").open("ab") as stream:
        stream.write(b"word " * 2_000_000 + b"\n")
    return []


def a_damaged_archive(folder: Path) -> list[str]:
    packed = lzma.compress((folder / "source.txt").read_bytes())
    (folder / "source.txt.xz").write_bytes(packed[: len(packed) // 2])
    return ["--set", f"source.text=['{folder}/source.txt.xz']"]


def no_archive_at_all(folder: Path) -> list[str]:
    shutil.copy(folder / "source.txt", folder / "source.txt.xz")
    return ["--set", f"source.text=['{folder}/source.txt.xz']"]


def lines_that_are_all_dropped(folder: Path) -> list[str]:
    return ["--set", "corpus.min_characters=1900"]


def source_without_config(folder: Path) -> list[str]:
    (folder / "encoder").mkdir()
    return ["--set", f"source.model={folder}/encoder"]


def a_decoder(folder: Path) -> list[str]:
    (folder / "decoder").mkdir()
    (folder / "decoder" / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    return ["--set", f"source.model={folder}/decoder"]


def an_unknown_hub_name(folder: Path) -> list[str]:
    return ["--set", "source.model=nobody/no-such-encoder"]


def an_unknown_key(folder: Path) -> list[str]:
    with (folder / "toy.yaml").open("a", encoding="utf-8") as stream:
        stream.write("vocabluary: {size: 400}\n")
    return []


def an_unknown_key_below(folder: Path) -> list[str]:
    return ["--set", "stages.commonality.lerning_rate=0.1"]


def broken_yaml(folder: Path) -> list[str]:
    (folder / "toy.yaml").write_text("source:\n  model: minilm\n  text: [a, b\ntarget: {language: xx}\n", "utf-8")
    return []


def no_yaml(folder: Path) -> list[str]:
    (folder / "toy.yaml").unlink()
    return []


def a_budget_too_small(folder: Path) -> list[str]:
    return ["--set", "budget.updates=2"]


def set_without_a_value(folder: Path) -> list[str]:
    return ["--set", "seed"]


def set_through_a_value(folder: Path) -> list[str]:
    return ["--set", "budget.updates.of=1"]


def set_out_of_range(folder: Path) -> list[str]:
    return ["--set", "vocabulary.size=12"]


def set_to_no_yaml(folder: Path) -> list[str]:
    return ["--set", "seed=[1"]


def sequences_too_long(folder: Path) -> list[str]:
    return ["--set", "training.max_length=4096"]


def a_gpu_that_is_not_there(folder: Path) -> list[str]:
    return ["--set", "training.device=cuda"]


def a_dictionary_of_one_column(folder: Path) -> list[str]:
    (folder / "dictionary.tsv").write_text("one\tsatu\ntwo\n", encoding="utf-8")
    return ["--set", f"evaluation=[{{task: translation, test: ['{folder}/dictionary.tsv']}}]"]


BEFORE_THE_RUN: list[tuple[Spoil, str]] = [
    (missing_text, r"{folder}/target\.txt: expected a file, found nothing there; check the path"),
    (a_glob_without_files, r"{folder}/\*\.text: expected a file, found nothing there; check the path"),
    (an_unknown_key, r"{folder}/toy\.yaml: unknown key 'vocabluary'; did you mean 'vocabulary'\? \(known there: .*"),
    (an_unknown_key_below, r".*unknown key 'stages\.commonality\.lerning_rate'; did you mean 'learning_rate'\?.*"),
    (broken_yaml, r"{folder}/toy\.yaml, line \d: expected YAML, found .*; mend the line"),
    (no_yaml, r"{folder}/toy\.yaml: expected a YAML file, found nothing there; check the path"),
    (set_without_a_value, r"--set seed: expected name=value, as in --set budget\.minutes=30"),
    (set_through_a_value, r"--set budget\.updates\.of=1: 'updates' is a value, not a section"),
    (set_out_of_range, r".*vocabulary\.size: Input should be greater than or equal to 300 \(found 12\)"),
    (set_to_no_yaml, r"--set seed=\[1: expected a YAML value, found .*; put it in quotes"),
    (source_without_config, r"source\.model: {folder}/encoder: expected a model folder with a config\.json, found .*"),
    (
        a_decoder,
        r"source\.model: expected an encoder of one of the families bert, .*, found one that cannot be moved: 'gpt2' "
        r"is a decoder here: .*; choose an encoder of one of these families",
    ),
    (an_unknown_hub_name, r"source\.model: nobody/no-such-encoder: expected a model folder or a reachable Hub id, .*"),
    (
        a_budget_too_small,
        r"budget: 2 updates for training are too few: stage 'commonality' would get no update; give .* 6 updates",
    ),
    (sequences_too_long, r"training\.max_length: expected at most \d+, the positions of .*, found 4096; lower it"),
    (a_gpu_that_is_not_there, r"training\.device: expected a CUDA device, found none; set it to auto or cpu"),
    (
        a_dictionary_of_one_column,
        r"{folder}/dictionary\.tsv, line 2: expected a source word, a tab and a target word, .*",
    ),
]
IN_A_STEP: list[tuple[Spoil, str]] = [
    (an_empty_file, r"{folder}/target\.txt: expected at least one line of text, found an empty file; check the file.*"),
    (three_columns, r"{folder}/pairs\.tsv, line 7: expected 2 columns parted by a tab, found 3 columns; keep .*"),
    (one_column, r"{folder}/pairs\.tsv, line 1: expected 2 columns parted by a tab, found 1 column; keep .*"),
    (unequal_files, r"{folder}/source\.txt: expected as many lines as in {folder}/short\.txt \(399\), found 400; .*"),
    (
        bytes_of_another_encoding,
        r"{folder}/source\.txt, line 401: expected UTF-8 text, found the byte 0xf6 at position 19; convert .*",
    ),
    (
        a_line_of_ten_megabytes,
        r"{folder}/source\.txt, line 401: expected lines of at most 1,000,000 bytes, found a longer one; split .*",
    ),
    (
        a_damaged_archive,
        r"{folder}/source\.txt\.xz, line \d+: expected a whole \.xz archive, found a damaged or incomplete one .*; "
        r"fetch it again, or unpack and repair it",
    ),
    (no_archive_at_all, r"{folder}/source\.txt\.xz, line 1: expected a whole \.xz archive, found a damaged .*"),
    (
        lines_that_are_all_dropped,
        r"source text: expected lines to train on, found none: all of the \d+ lines read were dropped \(too_short .*",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), BEFORE_THE_RUN, ids=[spoil.__name__ for spoil, _ in BEFORE_THE_RUN])
def test_what_can_be_told_at_once_leaves_no_run_folder(
    trelm: Terminal, toy: Path, spoil: Spoil, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    more = spoil(toy.parent)
    before = contents(toy.parent)
    mistake = trelm("transfer", toy, "--run", toy.parent / "run", "--quiet", *more).mistake
    assert re.fullmatch("trelm: " + message.replace("{folder}", re.escape(str(toy.parent))), mistake), mistake
    assert contents(toy.parent) == before
    assert not (toy.parent / "run").exists()


@pytest.mark.parametrize(("spoil", "message"), IN_A_STEP, ids=[spoil.__name__ for spoil, _ in IN_A_STEP])
def test_what_a_step_finds_out_changes_nothing_of_the_users(
    trelm: Terminal, toy: Path, tiny_bert: Path, spoil: Spoil, message: str
) -> None:
    run = toy.parent / "run"
    more = spoil(toy.parent)
    before = contents(toy.parent)
    mistake = trelm("transfer", toy, "--run", run, "--quiet", *more).mistake
    assert re.fullmatch("trelm: " + message.replace("{folder}", re.escape(str(toy.parent))), mistake), mistake
    assert contents(toy.parent) == before
    assert not list(run.rglob("*.part"))
    # Corrected, it is another configuration: the old folder is refused with a word on what to do, a new one works.
    write_toy(toy.parent, tiny_bert)
    refused = trelm("transfer", toy, "--run", run, "--quiet").mistake
    assert "the run folder belongs to another configuration (there '" in refused
    assert refused.endswith("choose another --run folder")
    assert trelm("transfer", toy, "--run", toy.parent / "run" / "new", "--quiet", "--until", "corpus").code == 0


# --- the run folder ---------------------------------------------------------------------------------------------------


def test_a_foreign_folder_is_refused(trelm: Terminal, toy: Path) -> None:
    run = toy.parent / "photos"
    run.mkdir()
    (run / "holiday.jpg").write_bytes(b"not ours")
    (run / "corpus").mkdir()
    (run / "corpus" / "thesis.txt").write_bytes(b"not ours either")
    mistake = trelm("transfer", toy, "--run", run, "--quiet").mistake
    assert mistake == (
        f"trelm: {run}: expected an empty folder or a run, found other files; choose another --run folder"
    )
    assert (run / "holiday.jpg").read_bytes() == b"not ours"
    assert (run / "corpus" / "thesis.txt").read_bytes() == b"not ours either"


def test_a_run_of_another_configuration_is_refused_with_the_difference(trelm: Terminal, toy: Path) -> None:
    run = toy.parent / "run"
    call = ("transfer", toy, "--run", run, "--quiet", "--until", "corpus")
    assert trelm(*call).code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    mistake = trelm(*call, "--set", "vocabulary.size=500").mistake
    assert "belongs to another configuration (there 'size: 400', here 'size: 500')" in mistake
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert trelm(*call).code == 0


def test_a_folder_in_which_another_process_works_is_refused(trelm: Terminal, toy: Path) -> None:
    call = ("transfer", toy, "--run", toy.parent / "run", "--quiet", "--until", "corpus")
    with Run(toy.parent / "run").lock():
        mistake = trelm(*call).mistake
    assert mistake.endswith("run: another process is working in this run folder; wait for it or stop it")
    assert trelm(*call).code == 0


def test_a_file_is_no_run_folder(trelm: Terminal, toy: Path) -> None:
    before = contents(toy.parent)
    a_file = "expected a folder, found a file; choose another --run folder"
    below_one = "cannot be written (Not a directory); choose another folder with --run"
    for run, reason in ((toy, a_file), (toy / "run", below_one)):
        mistake = trelm("transfer", toy, "--run", run, "--quiet").mistake
        assert mistake == f"trelm: {run}: {reason}"
    assert contents(toy.parent) == before


def test_a_folder_that_cannot_be_written_is_refused(
    trelm: Terminal, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, mkdir = toy.parent / "run", os.mkdir

    def refuse(path: Any, *arguments: Any, **options: Any) -> None:
        if str(path).startswith(str(run)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    mistake = trelm("transfer", toy, "--run", run, "--quiet").mistake
    assert mistake == f"trelm: {run}: cannot be written (Permission denied); choose another folder with --run"


# --- a full disk ------------------------------------------------------------------------------------------------------


def fills_up_at_rename(patch: pytest.MonkeyPatch, name: str) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    patch.setattr(workspace.os, "replace", full)


def fills_up_in_arrays(patch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(RaggedWriter, "append", full)


def fills_up_in_the_tokenizer(patch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise Exception("No space left on device (os error 28)")  # as the library in Rust says it

    patch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)


def fills_up_in_a_model(patch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    patch.setattr(TrelmForMaskedLM, "save_pretrained", full)


FULL: list[tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = [
    (lambda patch: fills_up_at_rename(patch, "config.yaml"), "config.yaml", "corpus"),
    (lambda patch: fills_up_at_rename(patch, "source.txt"), "corpus/source.txt", "corpus"),
    (lambda patch: fills_up_at_rename(patch, "manifest.json"), "corpus/manifest.json", "corpus"),
    (fills_up_in_the_tokenizer, "vocabulary", "vocabulary"),
    (fills_up_in_arrays, "tokens/", "tokens"),
    (lambda patch: fills_up_at_rename(patch, "alignment.safetensors"), "alignment/alignment.safetensors", "alignment"),
    (fills_up_in_a_model, "model", "model"),
    (lambda patch: fills_up_at_rename(patch, "complete.json"), "stages/1-commonality", "commonality"),
    (lambda patch: fills_up_at_rename(patch, "model"), "stages/1-commonality/model", "commonality"),
]


@pytest.mark.parametrize(("fill", "where", "step"), FULL, ids=[where.replace("/", "-") for _, where, _ in FULL])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    trelm: Terminal,
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    fill: Callable[[pytest.MonkeyPatch], None],
    where: str,
    step: str,
) -> None:
    run, before = toy.parent / "run", contents(toy.parent)
    call = ("transfer", toy, "--run", run, "--quiet", "--until", step)
    with monkeypatch.context() as patch:
        fill(patch)
        mistake = trelm(*call).mistake
    assert mistake.startswith(f"trelm: {run / where}"), mistake
    assert mistake.endswith("the disk is full; free some space and run the same command again: it goes on from there")
    assert contents(toy.parent) == before
    assert not list(run.rglob("*.part"))
    assert trelm(*call).code == 0
