"""What the run folder says when something is in its way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trelm.errors import DiskError, RunFolderError
from trelm.workspace import Run, write_text

REFUSED = r"cannot be written \(.+\); choose another folder with --run"


def test_a_file_where_a_folder_must_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(DiskError, match=REFUSED):
        write_text(tmp_path / "a" / "b.txt", "x")
    words = "expected a folder, found a file; choose another --run folder"
    with pytest.raises(RunFolderError, match=words), Run(tmp_path / "a").lock():
        pass
    with pytest.raises(RunFolderError, match=words):
        Run(tmp_path / "a").claim("seed: 1\n")
    with pytest.raises(DiskError, match=REFUSED), Run(tmp_path / "a" / "below").lock():
        pass


def test_a_folder_where_a_file_must_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(DiskError, match=REFUSED):
        write_text(tmp_path / "a.txt", "x")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=REFUSED):
        write_text(tmp_path / ("x" * 300) / "a.txt", "x")
    with pytest.raises(DiskError, match=REFUSED):
        Run(tmp_path).step("x" * 300).begin("1")


def test_a_manifest_that_is_no_mapping_is_said(tmp_path: Path) -> None:
    step = Run(tmp_path).step("alignment")
    step.begin("1")
    step.manifest_path.write_text("[1]")
    with pytest.raises(
        RunFolderError, match=r"manifest\.json: expected a mapping, found list; remove the file and run again"
    ):
        step.manifest()
    assert not step.is_done("1")


def test_a_clearing_that_is_broken_off_leaves_no_step_that_looks_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Run(tmp_path).step("alignment")
    step.begin("1")
    step.finish("1", {})

    def broken_off(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", broken_off)
    with pytest.raises(KeyboardInterrupt):
        step.begin("2")
    assert not step.is_done("1")
