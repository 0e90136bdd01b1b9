"""The run folder: one sub-folder a step, each with a manifest that is written last and atomically."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trelm.errors import DiskError, RunFolderError

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
LOCK = ".lock"
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_FREE_SPACE = "free some space and run the same command again: it goes on from there"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well, removed when it does not.

    Raises:
        DiskError: the disk is full or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            yield temporary
            if temporary.is_file():
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # what went wrong before is what the user must hear of
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskError(f"{path}: the disk is full; {_FREE_SPACE}") from None
        if error.errno in REFUSED:
            raise DiskError(f"{path}: cannot be written ({error.strerror}); choose another folder with --run") from None
        raise
    except Exception as error:
        # libraries written in other languages tell of a full disk in their own exceptions
        if os.strerror(errno.ENOSPC) in str(error):
            raise DiskError(f"{path}: the disk is full; {_FREE_SPACE}") from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path}: expected JSON, found {error}; remove the file and run again") from None


def digest(value: Any) -> str:
    """A short digest of plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Step:
    """One sub-folder of a run."""

    name: str
    folder: Path

    @property
    def manifest_path(self) -> Path:
        return self.folder / MANIFEST

    def manifest(self) -> dict[str, Any] | None:
        """What the step left when it was done, or None where it is not."""
        if not self.manifest_path.exists():
            return None
        value = read_json(self.manifest_path)
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise RunFolderError(
                f"{self.manifest_path}: expected a mapping, found {kind}; remove the file and run again"
            )
        return value

    def is_done(self, inputs: str) -> bool:
        """Whether the step ended with inputs of this digest."""
        manifest = self.manifest()
        return manifest is not None and manifest.get("inputs") == inputs

    def begin(self, inputs: str, *, afresh: bool = False) -> None:
        """Make the folder; outputs of other inputs are cleared, a half-done step of the same inputs is kept.

        Args:
            afresh: clear a half-done step too: it has no checkpoints to go on from.
        """
        mark = self.folder / ".inputs"
        with writing(self.folder):
            if self.folder.exists() and (afresh or not mark.exists() or mark.read_text() != inputs):
                # First: a clearing that is broken off must not leave a step that looks done without its outputs.
                self.manifest_path.unlink(missing_ok=True)
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        write_text(mark, inputs)

    def finish(self, inputs: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest: from now on the step is done.

        Raises:
            ValueError: `values` has a key that is the manifest's own.
        """
        own = {"step": self.name, "inputs": inputs}
        if own.keys() & values.keys():
            raise ValueError(f"step {self.name}: {sorted(own.keys() & values.keys())} are the manifest's own keys")
        manifest = {**own, **values}
        write_json(self.manifest_path, manifest)
        return manifest


@dataclass(frozen=True)
class Run:
    """A run folder that holds one configuration's steps."""

    folder: Path

    def step(self, name: str) -> Step:
        return Step(name, self.folder / name)

    def claim(self, config_text: str) -> None:
        """Make the folder and write the resolved configuration, or check that it is the one already there.

        Raises:
            RunFolderError: the folder holds something else, or another configuration.
        """
        path = self.folder / CONFIG
        if path.exists():
            if path.read_text(encoding="utf-8") != config_text:
                raise RunFolderError(
                    f"{self.folder}: the run folder belongs to another configuration "
                    f"({_first_difference(path.read_text(encoding='utf-8'), config_text)}); choose another --run folder"
                )
            return
        self._refuse_foreign()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, config_text)

    def _refuse_foreign(self) -> None:
        """Raises RunFolderError where the folder is no run and not empty; nothing in it is touched."""
        if not self.folder.exists() or (self.folder / CONFIG).exists():
            return
        if not self.folder.is_dir():
            raise RunFolderError(f"{self.folder}: expected a folder, found a file; choose another --run folder")
        if any(entry.name != LOCK for entry in self.folder.iterdir()):
            raise RunFolderError(
                f"{self.folder}: expected an empty folder or a run, found other files; choose another --run folder"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of the folder; the lock goes with the process, however it ends.

        Raises:
            RunFolderError: another process works in the folder, or it is no run and not empty.
        """
        self._refuse_foreign()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / LOCK).open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    f"{self.folder}: another process is working in this run folder; wait for it or stop it"
                ) from None
            yield


def _first_difference(old: str, new: str) -> str:
    for before, after in zip(old.splitlines(), new.splitlines()):
        if before != after:
            return f"there '{before.strip()}', here '{after.strip()}'"
    return "one is longer than the other"
