"""Files and lines: globs, compressed text, strict UTF-8, bounded memory; every problem told in one line."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from trelm.errors import data_error

LONGEST_LINE = 1_000_000
"""Bytes of the longest line that is read, its line break not counted."""

FREELY_UNPACKED = 100_000_000
"""Bytes that any archive may unpack to, however small it is."""
GREATEST_RATIO = 500
"""Bytes that an archive may unpack to beyond that, for each of its own.

Text unpacks to 3 to 10 times its size, and to some tens where whole files of it were packed several times over. Nothing
but one line for ever, or zeros, reaches what a bomb does: 400 to 1,000 by gzip, 7,000 and more by the others.
"""

_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstandard.ZstdError)
_MARKS = 5  # bytes of a byte order mark and a line break, which a line of the greatest length may have besides
_ZSTD_CHUNK = 8192  # small, so that even an archive made to explode unpacks in bounded pieces


def expand(pattern: str) -> list[Path]:
    """The files that a path or a glob (`**` included) names, sorted.

    A file whose own name is the pattern wins over the pattern, so names with brackets work.

    Raises:
        DataError: nothing is there, or only folders are.
    """
    # os.path, not Path: a name that is too long or holds a NUL is no file, rather than an exception
    if os.path.isfile(pattern):
        return [Path(pattern)]
    found = glob.glob(pattern, recursive=True)
    files = sorted(Path(name) for name in found if os.path.isfile(name))
    if files:
        return files
    if found:
        raise data_error(pattern, None, expected="a file", found="a folder", hint="name its files, as in folder/*.txt")
    raise data_error(pattern, None, expected="a file", found="nothing there", hint="check the path")


def plain_name(path: Path) -> str:
    """The file's name in lower case, without the ending of its compression."""
    name = path.name.lower()
    return os.path.splitext(name)[0] if os.path.splitext(name)[1] in _OPENERS else name


@contextmanager
def opened(path: Path, line: Callable[[], int | None] = lambda: None) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file; its compression is told by its ending (.gz .xz .zst .bz2).

    Args:
        path: the file.
        line: asked for the line that is being read, when something goes wrong inside the block.

    Raises:
        DataError: the file cannot be read, its archive is damaged or cut short, or it unpacks to far more than it is
            (`GREATEST_RATIO`).
    """
    ending = path.suffix.lower()
    try:
        with _OPENERS.get(ending, _open_plain)(path) as stream:
            yield _bounded(stream, path, line) if ending in _OPENERS else stream
    except _DAMAGE as error:
        raise _damaged(path, line(), str(error)) from None
    except OSError as error:
        if error.errno is None:  # bz2 tells of damage by a bare OSError
            raise _damaged(path, line(), str(error)) from None
        found = "nothing there" if isinstance(error, FileNotFoundError) else f"an error ({error.strerror})"
        raise data_error(path, None, expected="a readable file", found=found, hint="check the path") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file, compressed or not, as (1-based line number, line without its line break).

    A byte order mark is taken off. Memory is bounded by `LONGEST_LINE`, whatever the file holds.

    Raises:
        DataError: unreadable file, damaged archive, bytes that are not UTF-8, a line longer than `LONGEST_LINE` bytes,
            or no line with anything in it.
    """
    number, blank = 1, True
    with opened(path, lambda: number) as stream:
        while raw := stream.readline(LONGEST_LINE + _MARKS):
            line = _decode(path, number, raw)
            blank = blank and not line.strip()
            yield number, line
            number += 1
    if blank:
        hint = "check the file, or take it out of the configuration"
        raise data_error(path, None, expected="at least one line of text", found="an empty file", hint=hint)


def _decode(path: Path, number: int, raw: bytes) -> str:
    """One line as text, without its line break."""
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    body = raw.rstrip(b"\r\n")
    if len(body) > LONGEST_LINE:
        expected = f"lines of at most {LONGEST_LINE:,} bytes"
        hint = "split the text into one sentence or paragraph a line"
        raise data_error(path, number, expected=expected, found="a longer one", hint=hint)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"the byte 0x{body[error.start]:02x} at position {error.start + 1}"
        raise data_error(path, number, expected="UTF-8 text", found=found, hint="convert the file to UTF-8") from None


def _damaged(path: Path, line: int | None, problem: str) -> Exception:
    found = f"a damaged or incomplete one ({problem})"
    hint = "fetch it again, or unpack and repair it"
    return data_error(path, line, expected=f"a whole {path.suffix} archive", found=found, hint=hint)


class _BoundedReader(io.RawIOBase):
    """Unpacked bytes, counted: no more of them than an honest archive of that size holds."""

    def __init__(self, stream: BinaryIO, path: Path, line: Callable[[], int | None]) -> None:
        self._stream, self._path, self._line = stream, path, line
        self._left = max(FREELY_UNPACKED, GREATEST_RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._left -= size
        if self._left < 0:
            raise data_error(
                self._path,
                self._line(),
                expected=f"an archive that unpacks to at most {GREATEST_RATIO} times its size",
                found="one that goes on and on",
                hint="look into it: where it is what you want, unpack it and name the unpacked file",
            )
        return int(size)


def _bounded(stream: BinaryIO, path: Path, line: Callable[[], int | None]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_BoundedReader(stream, path, line), io.DEFAULT_BUFFER_SIZE))


class _ZstdReader(io.RawIOBase):
    """Unpacked bytes of a Zstandard file. Unlike the library's own stream, it tells of a file that was cut short."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame = self._unpacker.decompressobj()
        self._inside = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._inside = self._unpacker.decompressobj(), False
            packed = packed or self._file.read(_ZSTD_CHUNK)
            if not packed:
                if self._inside:
                    raise EOFError("the file ends too early")
                return 0
            self._inside = True
            self._ready = memoryview(self._frame.decompress(packed))
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_gzip(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb"))))


def _open_xz(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, lzma.open(path, "rb"))))


def _open_bzip2(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, bz2.open(path, "rb"))))


def _open_zstd(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_ZstdReader(path)))


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": _open_gzip,
    ".xz": _open_xz,
    ".bz2": _open_bzip2,
    ".zst": _open_zstd,
}
