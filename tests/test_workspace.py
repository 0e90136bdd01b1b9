"""The run folder: whole files or none, steps, claims, the lock, a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from trelm.errors import DiskError, RunFolderError
from trelm.workspace import (
    Run,
    Step,
    atomic_path,
    digest,
    read_json,
    read_sealed,
    sync,
    write_json,
    write_sealed,
    write_text,
    writing,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refusing(code: int) -> Callable[..., NoReturn]:
    """A function of the operating system that refuses with this error."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return refuse


def break_off(path: Path, write: Callable[[Path], object]) -> None:
    """Write something, and fail before the end of the block."""
    with atomic_path(path) as temporary:
        write(temporary)
        raise KeyError("stop")


# Whole files or none


def test_atomic_path_gives_the_file_its_name_only_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_atomic_path_leaves_no_part_and_keeps_the_old_file_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError, match="stop"):
        break_off(path, lambda temporary: temporary.write_text("half"))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_atomic_path_makes_whole_folders_too(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("w")
    assert (tmp_path / "model" / "weights").read_text() == "w"
    with pytest.raises(KeyError, match="stop"):
        break_off(tmp_path / "other", lambda temporary: (temporary / "below").mkdir(parents=True))
    assert names(tmp_path) == ["model"]


def test_atomic_path_without_anything_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass


def test_text_and_json_are_written_as_utf_8_and_read_back(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é中\n")
    assert (tmp_path / "a.txt").read_bytes() == "é中\n".encode()
    value = {"é": [1, 2.5, None, True, "中"], "nested": {"a": {}}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "中" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {1, 2})
    assert read_json(tmp_path / "a.json") == 1


@pytest.mark.parametrize("damage", [b'{"a": ', b"", b"\xff\xfe"])
def test_a_damaged_json_file_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(damage)
    with pytest.raises(RunFolderError, match=r"manifest\.json: expected JSON, found .*; remove the file and run again"):
        read_json(path)


def test_digest_depends_on_the_values_alone() -> None:
    assert digest({"a": 1, "b": [2, "é"]}) == digest({"b": [2, "é"], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) != digest({"a": "1"})
    assert digest([1, 2]) != digest([2, 1])
    # Pinned: a digest of another version or machine must stay comparable, or every run would start again.
    assert digest({"seed": 1, "path": Path("a")}) == digest({"path": "a", "seed": 1}) == "5410b967df7d9859"


# A full disk, a folder that cannot be written


FULL = r"a\.txt: the disk is full; free some space and run the same command again: it goes on from there"
REFUSED = r"a\.txt: cannot be written \(.+\); choose another folder with --run"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_is_said_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, function: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, function, refusing(code))
    with pytest.raises(DiskError, match=FULL):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_disk_that_fills_while_the_file_is_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", refusing(errno.ENOSPC))
    with pytest.raises(DiskError, match=FULL):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_really_full_device_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=FULL), writing(tmp_path / "a.txt"), open("/dev/full", "wb", 0) as device:
        device.write(b"x")


def test_a_full_disk_that_a_library_tells_of_in_its_own_way_is_said(tmp_path: Path) -> None:
    def write(_: Path) -> NoReturn:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(DiskError, match=FULL):
        break_off(tmp_path / "a.txt", write)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_file_that_may_not_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(Path, "write_text", refusing(code))
    with pytest.raises(DiskError, match=REFUSED):
        write_text(tmp_path / "a.txt", "new")


def test_a_read_only_folder_is_said() -> None:
    """By a process without root's powers, whom the mode of the folder does not stop."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from trelm.workspace import write_text; from trelm.errors import DiskError\n"
        "os.getuid() or os.setuid(65534)\n"
        "try:\n    write_text(Path(sys.argv[1]) / 'a.txt', 'x')\n"
        "except DiskError as error:\n    sys.exit(str(error))\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, into whose parents only their owner can look
        Path(folder).chmod(0o555)
        command = [sys.executable, "-c", program, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        Path(folder).chmod(0o755)
    expected = f"{folder}/a.txt: cannot be written (Permission denied); choose another folder with --run"
    assert (done.stderr.strip(), done.returncode) == (expected, 1)


def test_other_errors_of_the_system_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), writing(tmp_path):
        refusing(errno.EIO)()


# Steps


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Run(tmp_path / "run").step("alignment")


def test_a_step_is_done_only_after_its_end_and_only_for_its_inputs(step: Step) -> None:
    assert not step.is_done("1")
    assert step.manifest() is None
    step.begin("1")
    assert not step.is_done("1")
    assert step.finish("1", {"seconds": 2}) == {"step": "alignment", "inputs": "1", "seconds": 2}
    assert step.is_done("1")
    assert not step.is_done("2")
    assert step.manifest() == {"step": "alignment", "inputs": "1", "seconds": 2}
    assert names(step.folder) == [".inputs", ".seal.json", "manifest.json"]


def test_a_step_that_was_broken_off_finds_its_checkpoint_again(step: Step) -> None:
    step.begin("1")
    (step.folder / "checkpoint").write_text("half")
    step.begin("1")
    assert (step.folder / "checkpoint").read_text() == "half"


def test_a_step_without_checkpoints_begins_afresh(step: Step) -> None:
    step.begin("1")
    (step.folder / "half").write_text("half")
    step.begin("1", afresh=True)
    assert names(step.folder) == [".inputs"]


def test_other_inputs_clear_what_the_step_left(step: Step) -> None:
    step.begin("1")
    (step.folder / "checkpoint").write_text("half")
    (step.folder / "below").mkdir()
    step.finish("1", {})
    step.begin("2")
    assert names(step.folder) == [".inputs"]
    assert not step.is_done("1")
    assert not step.is_done("2")


def test_a_folder_whose_inputs_nobody_knows_is_cleared(step: Step) -> None:
    step.folder.mkdir(parents=True)
    (step.folder / "checkpoint").write_text("whose?")
    step.begin("1")
    assert names(step.folder) == [".inputs"]


def test_steps_may_lie_deeper(tmp_path: Path) -> None:
    step = Run(tmp_path).step("stages/1-commonality")
    step.begin("1")
    step.finish("1", {})
    assert json.loads((tmp_path / "stages" / "1-commonality" / "manifest.json").read_text())["inputs"] == "1"


def test_a_damaged_manifest_is_said_to_who_reads_it_and_the_step_is_not_done(step: Step) -> None:
    step.begin("1")
    step.manifest_path.write_text("{")
    with pytest.raises(RunFolderError, match="expected JSON"):
        step.manifest()
    assert not step.is_done("1")
    assert step.damage() == ("manifest.json", "the file is damaged")


# Claims


def test_a_run_claims_a_new_an_empty_and_its_own_folder(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "id")
    run.claim("seed: 1\n")
    assert (run.folder / "config.yaml").read_text() == "seed: 1\n"
    run.step("alignment").begin("1")
    run.claim("seed: 1\n")
    assert names(run.folder) == ["alignment", "config.yaml"]
    (tmp_path / "empty").mkdir()
    Run(tmp_path / "empty").claim("seed: 1\n")
    assert names(tmp_path / "empty") == ["config.yaml"]


def test_a_run_claims_a_folder_that_holds_only_its_lock(tmp_path: Path) -> None:
    run = Run(tmp_path / "id")
    with run.lock():
        run.claim("seed: 1\n")
    assert names(run.folder) == [".lock", "config.yaml"]


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    words = "expected an empty folder or a run, found other files; choose another --run folder"
    with pytest.raises(RunFolderError, match=words):
        Run(tmp_path).claim("seed: 1\n")
    assert names(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        ("a: 1\nseed: 2\n", "there 'seed: 1', here 'seed: 2'"),
        ("a: 1\nseed: 1\nmore: 3\n", "one is longer than the other"),
    ],
)
def test_another_configuration_is_refused_with_the_first_difference(tmp_path: Path, now: str, difference: str) -> None:
    run = Run(tmp_path / "id")
    run.claim("a: 1\nseed: 1\n")
    run.step("corpus").begin("1")
    with pytest.raises(RunFolderError) as caught:
        run.claim(now)
    assert str(caught.value) == (
        f"{run.folder}: the run folder belongs to another configuration ({difference}); choose another --run folder"
    )
    assert (run.folder / "config.yaml").read_text() == "a: 1\nseed: 1\n"


# The lock

TRY_THE_LOCK = (
    "import sys; from pathlib import Path; from trelm.workspace import Run; from trelm.errors import RunFolderError\n"
    "try:\n    with Run(Path(sys.argv[1])).lock():\n        print('locked')\n"
    "except RunFolderError as error:\n    sys.exit(str(error))\n"
)


def test_a_second_process_is_kept_out_while_the_first_works(tmp_path: Path) -> None:
    run = Run(tmp_path / "id")
    command = [sys.executable, "-c", TRY_THE_LOCK, str(run.folder)]
    with run.lock():
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    words = f"{run.folder}: another process is working in this run folder; wait for it or stop it"
    assert (second.stderr.strip(), second.stdout, second.returncode) == (words, "", 1)
    third = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (third.stdout.strip(), third.returncode) == ("locked", 0)


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    run = Run(tmp_path / "id")
    program = TRY_THE_LOCK.replace("print('locked')", "print('locked', flush=True); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(RunFolderError, match="another process is working"), run.lock():
            pass
        first.kill()
        first.wait()
        with run.lock():
            assert names(run.folder) == [".lock"]


def test_the_lock_is_free_again_after_an_exception(tmp_path: Path) -> None:
    run = Run(tmp_path / "id")
    with pytest.raises(KeyError, match="stop"), run.lock():
        raise KeyError("stop")
    with run.lock():
        assert run.folder.is_dir()


def test_a_lock_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", refusing(errno.EROFS))
    with (
        pytest.raises(DiskError, match=r"id: cannot be written \(.+\); choose another folder"),
        Run(tmp_path / "id").lock(),
    ):
        pass


def test_figures_may_not_take_the_keys_of_the_manifest(tmp_path: Path) -> None:
    step = Run(tmp_path).step("corpus")
    step.begin("digest")
    with pytest.raises(ValueError, match=r"step corpus: \['inputs'\] are the manifest's own keys"):
        step.finish("digest", {"inputs": 3})
    assert step.manifest() is None


# What a step left


def finished(step: Step) -> Step:
    """A step that has ended with two files."""
    step.begin("1")
    (step.folder / "below").mkdir()
    (step.folder / "below" / "a.npy").write_bytes(b"12345678")
    write_text(step.folder / "b.txt", "text")
    step.finish("1", {"seconds": 2})
    return step


def test_a_step_whose_files_are_as_it_left_them_is_done_also_after_a_copy(step: Step, tmp_path: Path) -> None:
    finished(step)
    assert step.damage() is None
    shutil.copytree(step.folder, tmp_path / "copy", copy_function=shutil.copyfile)  # new times of change
    copy = Step("alignment", tmp_path / "copy")
    assert copy.damage() is None
    assert copy.is_done("1")
    copy.require_whole()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("below/a.npy", b"1234", "expected 8 bytes, found 4"),
        ("below/a.npy", b"12345679", "expected SHA-256 ef797c8118f0, found 9a6b8a6b8b5a"),
        ("below/a.npy", None, "the file is missing"),
        ("b.txt", b"", "expected 4 bytes, found 0"),
        (".seal.json", b"{", "the file is damaged"),
        (".seal.json", b"[]", "the file is damaged"),
        ("manifest.json", b"{", "the file is damaged"),
        ("manifest.json", b"[]", "the file is damaged"),
    ],
)
def test_a_step_with_a_damaged_file_is_not_done(step: Step, name: str, content: bytes | None, words: str) -> None:
    path = finished(step).folder / name
    if content == b"12345679":
        digests = [hashlib.sha256(value).hexdigest()[:12] for value in (b"12345678", content)]
        words = f"expected SHA-256 {digests[0]}, found {digests[1]}"
    path.unlink() if content is None else path.write_bytes(content)
    assert step.damage() == (name, words)
    assert not step.is_done("1")
    with pytest.raises(RunFolderError) as caught:
        step.require_whole()
    assert str(caught.value) == f"{path}: {words}; run `trelm transfer` again: it does the step again"


def test_another_figure_in_a_manifest_is_found(step: Step) -> None:
    manifest = finished(step).manifest_path
    manifest.write_text(manifest.read_text().replace('"seconds": 2', '"seconds": 3'))
    damage = step.damage()
    assert damage is not None
    assert damage[0] == "manifest.json"
    assert damage[1].startswith("expected SHA-256 ")
    assert not step.is_done("1")


def test_where_a_folder_or_a_device_stands_for_a_file_it_is_not_read(step: Step) -> None:
    path = finished(step).folder / "b.txt"
    path.unlink()
    path.mkdir()
    assert step.damage() == ("b.txt", "expected a file, found something else")
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert step.damage() == ("b.txt", "expected a file, found something else")


def test_a_step_of_an_earlier_version_is_taken_as_it_is(step: Step) -> None:
    (finished(step).folder / ".seal.json").unlink()
    (step.folder / "b.txt").unlink()
    assert step.is_done("1")


def test_a_lost_manifest_keeps_the_checkpoints_a_lost_output_does_not(step: Step) -> None:
    (finished(step).folder / "checkpoint-1").mkdir()
    step.manifest_path.write_text("{")
    step.begin("1")
    assert names(step.folder) == [".inputs", "b.txt", "below", "checkpoint-1"]
    step.finish("1", {})
    (step.folder / "b.txt").write_text("cut")
    step.begin("1")
    assert names(step.folder) == [".inputs"]


def test_what_a_killed_process_left_half_written_is_removed(step: Step) -> None:
    step.begin("1")
    (step.folder / "checkpoint-1").mkdir()
    (step.folder / ".model.17.part").mkdir()
    (step.folder / ".a.txt.17.part").write_text("half")
    step.begin("1")
    assert names(step.folder) == [".inputs", "checkpoint-1"]


def test_a_dropped_output_is_missed_no_more_and_a_forgotten_step_is_gone(step: Step) -> None:
    finished(step).drop("below")
    assert names(step.folder) == [".inputs", ".seal.json", "b.txt", "manifest.json"]
    assert step.is_done("1")
    (step.folder / "b.txt").write_text("cut")
    assert not step.is_done("1")
    step.forget()
    assert not step.folder.exists()
    step.forget()


def test_a_sealed_file_that_is_another_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"values": {"1": 0.1, "é": [None, 1e-300]}})
    assert read_sealed(path) == {"values": {"1": 0.1, "é": [None, 1e-300]}}
    path.write_text(path.read_text().replace("0.1", "0.2"))
    words = r"a\.json: expected what was written there, found another digest; remove the file and run again"
    with pytest.raises(RunFolderError, match=words):
        read_sealed(path)


def test_keys_that_json_makes_strings_do_not_change_the_seal(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", {"points": {3: 1.5, 10: 2.5}})
    assert read_sealed(tmp_path / "a.json") == {"points": {"3": 1.5, "10": 2.5}}


# What the disk holds


def test_a_file_and_its_name_are_on_the_disk_when_it_has_been_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def watch(descriptor: int) -> None:
        done.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        done.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(os, "replace", rename)
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("w")
    assert done == [
        ("fsync", f"{temporary}/weights"),
        ("fsync", str(temporary)),
        ("replace", str(tmp_path / "model")),
        ("fsync", str(tmp_path)),
    ]


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    sync(tmp_path)
    (tmp_path / "a").write_text("a")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        sync(tmp_path / "a")


# A configuration that a power cut has shortened


def test_a_configuration_that_is_cut_off_is_written_again(tmp_path: Path) -> None:
    run, text = Run(tmp_path / "id"), "a: 1\nname: Zürich\n# input x 10 bytes\n"
    run.claim(text)
    path = run.folder / "config.yaml"
    for length in range(len(text.encode())):
        path.write_bytes(text.encode()[:length])
        run.claim(text)
        assert path.read_text(encoding="utf-8") == text


def test_beside_other_files_only_one_that_ends_in_mid_line_is_written_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "id")
    run.claim("a: 1\nb: 2\n")
    run.step("corpus").begin("1")
    path = run.folder / "config.yaml"
    for other in ("", "a: 1\n", "a: 2"):
        path.write_text(other)
        with pytest.raises(RunFolderError, match="belongs to another configuration"):
            run.claim("a: 1\nb: 2\n")
    path.write_text("a: 1\nb:")
    run.claim("a: 1\nb: 2\n")
    assert path.read_text() == "a: 1\nb: 2\n"


def test_a_process_that_was_killed_while_it_claimed_the_folder_is_no_hindrance(tmp_path: Path) -> None:
    run = Run(tmp_path / "id")
    run.folder.mkdir()
    (run.folder / ".config.yaml.17.part").write_text("a:")
    with run.lock():
        run.claim("a: 1\n")
    (run.folder / ".report.json.17.part").write_text("{")
    run.claim("a: 1\n")
    assert names(run.folder) == [".lock", "config.yaml"]
