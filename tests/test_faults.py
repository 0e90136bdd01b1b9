"""Real faults: a full disk, a read-only one, a second process, bytes that change: one line each, and a run goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from terminal import Terminal
from toy import ToyRun, copy_of, toy_values, without_seconds
from trelm import pipeline
from trelm.training import checkpoints
from trelm.workspace import Run, read_json

DISK = 64 << 20
BALLAST = "ballast"
FULL = "the disk is full; free some space and run the same command again: it goes on from there"
PAGE = 4096


@pytest.fixture
def trelm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def toy(tmp_path: Path, toy_run: ToyRun) -> Path:
    """The configuration of the session's toy run as a file."""
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_values(toy_run.data, toy_run.model)), encoding="utf-8")
    return path


def mount(*arguments: str | Path) -> None:
    """Call `mount`; skips the test where that is refused."""
    if shutil.which("mount") is None:
        pytest.skip("this test needs a disk of its own: there is no `mount` here")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this test needs a disk of its own, and mounting one is refused: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with ExitStack() as stack:
        mount("-t", "tmpfs", "-o", f"size={DISK}", "trelm-test", folder)
        stack.callback(subprocess.run, ["umount", str(folder)], check=True)
        yield folder


def leave(disk: Path, free: int) -> None:
    """Fill the disk up to so many free bytes."""
    with (disk / BALLAST).open("wb") as stream:
        stream.write(bytes(shutil.disk_usage(disk).free - free))


def size(folder: Path) -> int:
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


def flip_a_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def same_weights(run: Path, other: Path) -> None:
    """All weights of a run are those of another, and so are the figures of its report."""
    names = [path.relative_to(other) for path in other.rglob("*.safetensors")]
    assert names
    for name in names:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert without_seconds(read_json(run / "report.json")) == without_seconds(read_json(other / "report.json"))


# A full disk


@pytest.mark.slow
def test_a_disk_that_fills_up_in_any_step_is_one_line_and_the_same_command_goes_on(
    trelm: Terminal, toy: Path, disk: Path, toy_run: ToyRun
) -> None:
    run = disk / "run"
    for step in pipeline.steps(toy_run.config()):
        leave(disk, size(toy_run.folder / step.name) // 2 // PAGE * PAGE)
        call = ("transfer", toy, "--run", run, "--quiet", "--until", step.name)
        mistake = trelm(*call).mistake
        assert mistake.startswith(f"trelm: {run}"), (step.name, mistake)
        assert mistake.endswith(FULL), (step.name, mistake)
        assert not (run / step.name / "manifest.json").exists()
        (disk / BALLAST).unlink()
        assert not list(run.rglob("*.part")), step.name
        assert trelm(*call).code == 0
    same_weights(run, toy_run.folder)


def test_a_disk_without_a_free_byte_is_one_line(trelm: Terminal, toy: Path, disk: Path) -> None:
    leave(disk, 0)
    mistake = trelm("transfer", toy, "--run", disk / "run", "--quiet").mistake
    assert mistake == f"trelm: {disk / 'run' / 'config.yaml'}: {FULL}"


# A folder that cannot be written


def test_a_disk_that_may_only_be_read_is_one_line(trelm: Terminal, toy: Path, disk: Path, toy_run: ToyRun) -> None:
    run = copy_of(toy_run, disk / "run")
    mount("-o", "remount,ro", disk)
    words = "cannot be written (Read-only file system); choose another folder with --run"
    assert trelm("transfer", toy, "--run", run.folder, "--quiet").mistake == f"trelm: {run.folder}: {words}"
    new = disk / "new"
    assert trelm("transfer", toy, "--run", new, "--quiet").mistake == f"trelm: {new}: {words}"
    mistake = trelm("export", run.folder, "--quiet", "--trelm").mistake
    assert mistake.startswith(f"trelm: {run.folder / 'trelm'}"), mistake
    assert mistake.endswith(words), mistake


# Two processes


def test_a_second_process_is_told_and_the_first_goes_on(trelm: Terminal, toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "trelm", "transfer", str(toy), "--run", str(run), "--quiet", "--until", "corpus"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        ends = time.monotonic() + 120
        while not (run / "config.yaml").exists() and first.poll() is None and time.monotonic() < ends:
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)
        try:
            words = f"trelm: {run}: another process is working in this run folder; wait for it or stop it"
            assert trelm("transfer", toy, "--run", run, "--quiet").mistake == words
        finally:
            first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=120)
    assert (first.returncode, errors) == (0, "")
    assert trelm("transfer", toy, "--run", run, "--until", "corpus").err.count("done before") == 1


# Bytes that change


def broken_off_in_training(trelm: Terminal, toy: Path, toy_run: ToyRun, folder: Path, count: int) -> Path:
    """A copy of the run without its last stage, which is stopped when it has left so many checkpoints."""
    run, marked = copy_of(toy_run, folder), 0
    for name in ("stages/scratch", "evaluation", "export"):
        Run(run.folder).step(name).forget()
    whole = checkpoints.mark_complete

    def mark(*arguments: Any) -> None:
        nonlocal marked
        whole(*arguments)
        marked += 1
        if marked == count:
            raise KeyboardInterrupt

    with trelm.patch.context() as patch:
        patch.setattr(checkpoints, "mark_complete", mark)
        assert trelm("transfer", toy, "--run", run.folder, "--quiet").code == 130
    return run.folder


def test_a_checkpoint_with_a_flipped_byte_is_named_and_the_one_before_it_is_used(
    trelm: Terminal, toy: Path, toy_run: ToyRun, tmp_path: Path
) -> None:
    run = broken_off_in_training(trelm, toy, toy_run, tmp_path / "run", 3)
    damaged = run / "stages" / "scratch" / "checkpoint-3" / "optimizer.safetensors"
    expected = read_json(damaged.parent / checkpoints.COMPLETE)["files"][damaged.name]["sha256"]
    flip_a_byte(damaged, -5)
    answer = trelm("transfer", toy, "--run", run)
    assert answer.code == 0, answer.err
    words = f"{damaged}: expected SHA-256 {expected[:12]}, found "
    (line,) = [line for line in answer.err.splitlines() if words in line]
    assert line.endswith("; the checkpoint is damaged and removed, training goes on from checkpoint-2")
    same_weights(run, toy_run.folder)


def test_where_no_checkpoint_is_whole_the_stage_starts_from_its_beginning(
    trelm: Terminal, toy: Path, toy_run: ToyRun, tmp_path: Path
) -> None:
    run = broken_off_in_training(trelm, toy, toy_run, tmp_path / "run", 2)
    stage = run / "stages" / "scratch"
    flip_a_byte(stage / "checkpoint-1" / "model.safetensors", -5)
    (stage / "checkpoint-2" / "random.safetensors").unlink()
    answer = trelm("transfer", toy, "--run", run)
    assert answer.code == 0, answer.err
    assert f"{stage / 'checkpoint-2' / 'random.safetensors'}: the file is missing; the checkpoint" in answer.err
    assert f"{stage / 'checkpoint-1' / 'model.safetensors'}: expected SHA-256 " in answer.err
    assert answer.err.count("training starts from its beginning") == 2
    same_weights(run, toy_run.folder)


def test_a_manifest_with_a_flipped_byte_is_named_and_its_step_done_again(
    trelm: Terminal, toy: Path, toy_run: ToyRun, tmp_path: Path
) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    path = run.folder / "stages" / "1-commonality" / "manifest.json"
    place = path.read_bytes().index(b'"seconds": ') + len(b'"seconds": ')
    flip_a_byte(path, place)  # one figure is another, in JSON as good as ever
    read_json(path)
    answer = trelm("transfer", toy, "--run", run.folder)
    assert answer.code == 0, answer.err
    assert f"{path}: expected SHA-256 " in answer.err
    assert answer.err.count("the step is done again") == 1
    same_weights(run.folder, toy_run.folder)


def test_an_export_from_a_run_with_a_damaged_file_names_it(trelm: Terminal, toy_run: ToyRun, tmp_path: Path) -> None:
    run = copy_of(toy_run, tmp_path / "run")
    path = run.folder / "stages" / "5-language-specific" / "model" / "model.safetensors"
    flip_a_byte(path, -5)
    mistake = trelm("export", run.folder, "--quiet").mistake
    assert mistake.startswith(f"trelm: {path}: expected SHA-256 ")
    assert mistake.endswith("; run `trelm transfer` again: it does the step again")
    assert not (run.folder / "trelm").exists()
