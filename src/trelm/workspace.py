"""The run folder: one sub-folder a step, each with a manifest that is written last and atomically."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trelm.errors import DiskError, RunFolderError

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
LOCK = ".lock"
MARK = ".inputs"
SEAL = ".seal.json"
OWN_DIGEST = "sha256"
"""The key in a sealed file under which the digest of everything else in it stands."""
PART = ".part"
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_FREE_SPACE = "free some space and run the same command again: it goes on from there"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well, removed when it does not.

    When the block has ended the disk holds it: what is written after it may rely on it, whenever the power goes.

    Raises:
        DiskError: the disk is full or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with writing(path):
            if temporary.is_symlink():  # somebody's who wants us to write elsewhere
                temporary.unlink()
            yield temporary
            _sync_all(temporary)
            os.replace(temporary, path)
            sync(path.parent)
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
        # half a surrogate pair, which JSON of others may hold, is written as its escape
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sync(path: Path) -> None:
    """Have the disk hold the bytes of a file, or the names in a folder, whenever the power goes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems have nothing to sync in a folder, and say so
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def _sync_all(path: Path) -> None:
    """`sync` a file, or a folder with all that is below it; nothing where there is nothing."""
    if path.is_file():
        sync(path)
    for place, _, names in os.walk(path):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file, atomically."""
    write_text(path, _json_text(value))


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # brackets without end exhaust the parser
        raise RunFolderError(f"{path}: expected JSON, found {error}; remove the file and run again") from None


def digest(value: Any) -> str:
    """A short digest of plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file that holds a digest of itself, atomically."""
    write_json(path, {**values, OWN_DIGEST: _digest_of_values(values)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read back what `write_sealed` wrote.

    Raises:
        RunFolderError: the file is damaged.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.pop(OWN_DIGEST, None) != _digest_of_values(values):
        raise RunFolderError(
            f"{path}: expected what was written there, found another digest; remove the file and run again"
        )
    return values


def _digest_of_values(values: Any) -> str:
    as_read = json.loads(json.dumps(values))  # whose keys are strings, whatever they were
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; the file is read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_files(folder: Path, *, skip: Callable[[str], bool]) -> dict[str, dict[str, Any]]:
    """`bytes`, `changed_ns` (time of change) and `sha256` of every file below `folder`; the disk then holds them all.

    Args:
        skip: whether an entry of `folder` itself, by its name, is left out.

    Returns:
        By the file's path relative to `folder`.
    """
    records = {}
    for entry in sorted(folder.iterdir()):
        if skip(entry.name):
            continue
        for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
            if path.is_file():
                found = path.stat()
                records[path.relative_to(folder).as_posix()] = {
                    "bytes": found.st_size,
                    "changed_ns": found.st_mtime_ns,
                    "sha256": file_digest(path),
                }
        _sync_all(entry)
    sync(folder)
    return records


def find_damage(folder: Path, records: Mapping[str, Mapping[str, Any]], *, trust_times: bool) -> tuple[str, str] | None:
    """The first file that is not as it was recorded, and how it differs; None where there is no such file.

    Args:
        records: from `record_files`. trust_times: do not read a file whose size and time of change are the recorded.
    """
    for name, record in records.items():
        path = folder / name
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return name, "the file is missing"
        if not stat.S_ISREG(found.st_mode):
            return name, "expected a file, found something else"
        if found.st_size != record["bytes"]:
            return name, f"expected {record['bytes']:,} bytes, found {found.st_size:,}"
        if trust_times and found.st_mtime_ns == record["changed_ns"]:
            continue
        if (actual := file_digest(path)) != record["sha256"]:
            return name, f"expected SHA-256 {record['sha256'][:12]}, found {actual[:12]}"
    return None


def refuse_links(folder: Path) -> None:
    """Refuse a folder that is, or holds at any depth, a symbolic link that leads out of it.

    Run folders come from others too, and what is cleared or written must not be elsewhere.

    Raises:
        RunFolderError: there is such a link.
    """
    root = os.path.join(os.path.realpath(folder.parent), folder.name)
    inside = (os.path.join(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files))
    for path in (str(folder), *inside):
        leads_to = os.path.realpath(path) if os.path.islink(path) else root
        if leads_to != root and not leads_to.startswith(root + os.sep):
            raise RunFolderError(
                f"{path}: expected a run folder without links that lead out of it, found one to {leads_to}; put a copy "
                "in its place, or choose another --run folder"
            )


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
        """Whether the step ended with inputs of this digest, and its files are as it left them; see `damage`."""
        if not self.manifest_path.exists() or self.damage() is not None:
            return False
        manifest = self.manifest()
        return manifest is not None and manifest.get("inputs") == inputs

    def damage(self) -> tuple[str, str] | None:
        """Which file of a step that ended is not as it was left, and how; None where there is none, or it did not end.

        A file is read only where its time of change is not the recorded one. A step of an earlier version, which
        recorded nothing, is taken as it is.
        """
        if not self.manifest_path.exists():
            return None
        seal = self.folder / SEAL
        try:
            records = read_sealed(seal)["files"] if seal.exists() else {}
        except RunFolderError:
            return SEAL, "the file is damaged"
        try:
            self.manifest()
        except RunFolderError:
            return MANIFEST, "the file is damaged"
        return find_damage(self.folder, records, trust_times=True)

    def require_whole(self) -> None:
        """Refuse to go on from a step with a file that is not as it was left.

        Raises:
            RunFolderError: there is one.
        """
        if (damage := self.damage()) is not None:
            raise RunFolderError(
                f"{self.folder / damage[0]}: {damage[1]}; run `trelm transfer` again: it does the step again"
            )

    def begin(self, inputs: str, *, afresh: bool = False) -> None:
        """Make the folder; outputs of other inputs are cleared, a half-done step of the same inputs is kept.

        Args:
            afresh: clear a half-done step too: it has no checkpoints to go on from.
        """
        mark = self.folder / MARK
        refuse_links(self.folder)
        with writing(self.folder):
            damage = self.damage()
            spoilt = damage is not None and damage[0] not in (MANIFEST, SEAL)
            # First: a clearing that is broken off must not leave a step that looks done without its outputs.
            self.manifest_path.unlink(missing_ok=True)
            (self.folder / SEAL).unlink(missing_ok=True)
            if self.folder.exists() and (afresh or spoilt or not mark.exists() or mark.read_bytes() != inputs.encode()):
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove_parts(self.folder)
        write_text(mark, inputs)

    def finish(self, inputs: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Record the step's files and write the manifest: from now on the step is done.

        Raises:
            ValueError: `values` has a key that is the manifest's own.
        """
        own = {"step": self.name, "inputs": inputs}
        if own.keys() & values.keys():
            raise ValueError(f"step {self.name}: {sorted(own.keys() & values.keys())} are the manifest's own keys")
        manifest = {**own, **values}
        text = _json_text(manifest)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            records = record_files(self.folder, skip=_is_no_output)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        records[MANIFEST] = {"bytes": len(text.encode()), "changed_ns": 0, "sha256": sha256}
        write_sealed(self.folder / SEAL, {"files": records})
        write_text(self.manifest_path, text)
        return manifest

    def forget(self) -> None:
        """Remove the step and all that it left."""
        with writing(self.folder):
            self.manifest_path.unlink(missing_ok=True)  # first, as in `begin`
            if self.folder.exists():
                shutil.rmtree(self.folder)

    def drop(self, name: str) -> None:
        """Remove a folder of the step's output that nobody needs any more; the step stays done without it."""
        seal = self.folder / SEAL
        if seal.exists():
            records = read_sealed(seal)["files"]
            kept = {path: record for path, record in records.items() if not path.startswith(f"{name}/")}
            write_sealed(seal, {"files": kept})
        shutil.rmtree(self.folder / name, ignore_errors=True)


def _remove_parts(folder: Path) -> None:
    """Remove what a process that was killed has left half-written in a folder of ours."""
    for left in folder.glob(f".*{PART}"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_no_output(name: str) -> bool:
    """Whether an entry of a step's folder is bookkeeping, or is removed when the step has ended."""
    return name in (MANIFEST, SEAL, MARK) or name.startswith(("checkpoint-", "selected-")) or name.endswith(PART)


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
        found = path.read_bytes() if path.exists() else None
        if found == config_text.encode():
            with writing(self.folder):
                _remove_parts(self.folder)
            return
        if found is not None and not self._is_cut_off(found, config_text.encode()):
            difference = _first_difference(found.decode(errors="replace"), config_text)
            raise RunFolderError(
                f"{self.folder}: the run folder belongs to another configuration ({difference}); choose another --run "
                "folder"
            )
        self._refuse_foreign()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove_parts(self.folder)
        write_text(path, config_text)

    def _is_cut_off(self, found: bytes, wanted: bytes) -> bool:
        """Whether the configuration in the folder is the wanted one, of which a power cut has left the beginning.

        One that ends with a line may be whole and have had fewer input files: it is only taken where nothing is lost.
        """
        nothing_else = all(entry.name in (LOCK, CONFIG) for entry in self.folder.iterdir())
        return wanted.startswith(found) and (nothing_else or (bool(found) and not found.endswith(b"\n")))

    def is_claimed(self, config_text: str) -> bool:
        """Whether the folder belongs to this configuration."""
        path = self.folder / CONFIG
        return path.exists() and path.read_bytes() == config_text.encode()

    def _refuse_foreign(self) -> None:
        """Raises RunFolderError where the folder is no run and not empty; nothing in it is touched."""
        if not self.folder.exists() or (self.folder / CONFIG).exists():
            return
        if not self.folder.is_dir():
            raise RunFolderError(f"{self.folder}: expected a folder, found a file; choose another --run folder")
        # a process that was killed at the very beginning leaves a part of the configuration
        if any(entry.name != LOCK and not entry.match(f".{CONFIG}.*{PART}") for entry in self.folder.iterdir()):
            raise RunFolderError(
                f"{self.folder}: expected an empty folder or a run, found other files; choose another --run folder"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of the folder; the lock goes with the process, however it ends.

        Raises:
            RunFolderError: another process works in the folder, it is no run and not empty, or has links out of it.
        """
        refuse_links(self.folder.resolve())  # the folder itself may be one: the user has named it
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
