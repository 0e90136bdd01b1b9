"""Files and lines."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus.files import LONGEST_LINE, expand, opened, plain_name, read_lines
from trelm.errors import DataError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def test_expand_finds_files_sorted_and_skips_folders(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "d.txt").mkdir()
    assert [path.name for path in expand(f"{tmp_path}/*.txt")] == ["a.txt", "b.txt"]
    assert [path.name for path in expand(f"{tmp_path}/**/*.txt")] == ["a.txt", "b.txt", "c.txt"]


def test_expand_takes_a_file_whose_name_has_brackets(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert expand(str(tmp_path / "a[1].txt")) == [tmp_path / "a[1].txt"]


def test_expand_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.\*: expected a file, found nothing there; check the path"):
        expand(f"{tmp_path}/none.*")


def test_expand_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a file, found a folder; name its files"):
        expand(str(tmp_path))


def test_plain_name_takes_one_compression_ending_off() -> None:
    assert plain_name(Path("x/A.CONLLU.xz")) == "a.conllu"
    assert plain_name(Path("x/a.conllu")) == "a.conllu"
    assert plain_name(Path("gz")) == "gz"


@pytest.mark.parametrize("ending", PACKERS)
def test_lines_are_the_same_in_every_compression(tmp_path: Path, ending: str) -> None:
    text = "erste Zeile\r\n\nzweite: ä 中文\nletzte ohne Umbruch"
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(PACKERS[ending](b"\xef\xbb\xbf" + text.encode()))
    expected = [(1, "erste Zeile"), (2, ""), (3, "zweite: ä 中文"), (4, "letzte ohne Umbruch")]
    assert list(read_lines(path)) == expected


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
def test_archives_of_several_parts_are_read_whole(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"".join(PACKERS[ending](f"line {n}\n".encode() * 5000) for n in range(3)))
    assert [line for _, line in read_lines(path)] == [f"line {n}" for n in range(3) for _ in range(5000)]


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("harm", ["cut", "garbage"])
def test_a_damaged_archive_is_told(tmp_path: Path, ending: str, harm: str) -> None:
    whole = PACKERS[ending](os.urandom(30_000).hex().encode())
    path = tmp_path / f"a{ending}"
    path.write_bytes(whole[: len(whole) // 2] if harm == "cut" else b"no archive at all")
    expected = rf"a\{ending}, line 1: expected a whole \{ending} archive, found a damaged or incomplete one"
    with pytest.raises(DataError, match=expected):
        list(read_lines(path))


def test_bytes_that_are_not_utf8_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nna\xefve\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2: expected UTF-8 text, found the byte 0xef at position 3"):
        list(read_lines(tmp_path / "a.txt"))


def test_the_longest_line_is_read_and_a_longer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + b"x" * LONGEST_LINE + b"\r\ny\n")
    assert [len(line) for _, line in read_lines(path)] == [LONGEST_LINE, 1]
    path.write_bytes(b"ok\n" + b"x" * (LONGEST_LINE + 1) + b"\n")
    with pytest.raises(
        DataError, match=r"line 2: expected lines of at most 1,000,000 bytes, found a longer one; split"
    ):
        list(read_lines(path))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_an_endless_line_is_refused_in_bounded_memory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKERS[ending](b"x" * 60_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="expected lines of at most"):
        list(read_lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (10_000_000 if ending == ".gz" else 150_000_000)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match="expected at least one line of text, found an empty file; check"):
        list(read_lines(tmp_path / "a.txt"))


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a readable file, found nothing there"):
        list(read_lines(tmp_path / "none.txt"))
    with (
        pytest.raises(DataError, match=r"expected a readable file, found an error \(Is a directory\)"),
        opened(tmp_path),
    ):
        pass


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"])), min_size=1))
def test_any_lines_come_back(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes("\n".join([*lines, "end"]).encode())
    assert [line for _, line in read_lines(path)] == [*lines, "end"]
