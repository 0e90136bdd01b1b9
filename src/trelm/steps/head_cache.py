"""Fitted heads, kept between runs: one folder a digest, written whole, by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from safetensors.torch import load, save_file
from torch import Tensor

from trelm.errors import DiskError, RunFolderError
from trelm.workspace import MANIFEST, atomic_path, read_json, write_json, write_text

HEAD_FILE = "head.safetensors"

Note = Callable[[str], None]


@dataclass(frozen=True)
class FittedHead:
    """The head's weights by their names in the masked-LM class, and how it was fitted, as plain values."""

    weights: Mapping[str, Tensor]
    figures: dict[str, Any]


def cache_folder() -> Path:
    """Where trelm keeps what several runs share: $TRELM_CACHE, else $XDG_CACHE_HOME/trelm, else ~/.cache/trelm."""
    own, shared = os.environ.get("TRELM_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own)
    # by its specification, a relative XDG_CACHE_HOME is to be ignored
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "trelm"


@contextmanager
def cache_entry(digest: str, note: Note) -> Iterator[Path | None]:
    """The folder of one head, for this process alone; None, with a note, where the cache cannot be written.

    Another process that has it is waited for: it fits the same head, which can then be read.
    """
    place = cache_folder() / "heads" / digest
    lock = _lock(place.with_name(f"{digest}.lock"), note)
    if lock is None:
        yield None
        return
    with lock:
        yield place


def is_kept(digest: str) -> bool:
    """Whether an earlier run has left this head."""
    return (cache_folder() / "heads" / digest / MANIFEST).exists()


def remember(inputs: str, digest: str, note: Note) -> None:
    """Write down which head belongs to these inputs, for who asks before there is a corpus; a note where that fails."""
    try:
        write_text(cache_folder() / "heads" / f"{inputs}.digest", digest)
    except DiskError as error:
        note(f"the head is kept, but not for which inputs: {error}")


def remembered(inputs: str) -> str | None:
    """The digest of the head that belongs to these inputs; None where nobody knows."""
    path = cache_folder() / "heads" / f"{inputs}.digest"
    return path.read_text(encoding="utf-8") if path.exists() else None


def read_entry(place: Path, note: Note) -> FittedHead | None:
    """The head that was kept in `place`; None where there is none, with a note where it is damaged."""
    if not (place / MANIFEST).exists():
        return None
    try:
        manifest, content = read_json(place / MANIFEST), (place / HEAD_FILE).read_bytes()
        if manifest["sha256"] == hashlib.sha256(content).hexdigest():
            return FittedHead(load(content), dict(manifest["figures"]))
        problem = f"{HEAD_FILE} is not what its manifest says"
    except (OSError, RunFolderError, KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    note(f"{place}: the head kept there is damaged ({problem}); fitting it again")
    return None


def write_entry(place: Path, head: FittedHead, note: Note) -> None:
    """Keep a head in `place`; a note where that cannot be."""
    try:
        write_head(place / HEAD_FILE, head.weights)
        found = hashlib.sha256((place / HEAD_FILE).read_bytes()).hexdigest()
        write_json(place / MANIFEST, {"sha256": found, "figures": head.figures})  # last: with it the entry is whole
    except DiskError as error:
        note(f"the head is kept in this run only: {error}")


def write_head(path: Path, weights: Mapping[str, Tensor]) -> None:
    """One safetensors file, atomically; weights that are one tensor under two names are written twice."""
    with atomic_path(path) as temporary:
        save_file({name: weight.clone() for name, weight in weights.items()}, temporary)


def _lock(path: Path, note: Note) -> TextIO | None:
    """An open file that this process alone has locked; None, with a note, where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("another process is fitting the same head; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        note(
            f"{path.parent}: heads cannot be kept there ({error.strerror}), this one is kept in this run only; "
            "set TRELM_CACHE to a folder that can be written"
        )
        return None
    return handle
