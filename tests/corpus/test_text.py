"""Text from files, treebanks and data sets."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import numpy as np
import pytest

from trelm.corpus.text import read_text, sample_lines
from trelm.errors import DataError


def test_plain_lines_without_the_blank_ones_from_every_file_of_a_glob(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("third\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"first\n \nsecond\n"))
    assert list(read_text(f"{tmp_path}/*.txt*")) == ["first", "second", "third"]


def test_a_treebank_gives_its_sentences(tmp_path: Path) -> None:
    row = "\t".join(["1", "Hai", "_", "INTJ", "_", "_", "0", "root", "_", "_"])
    (tmp_path / "a.conllu.gz").write_bytes(gzip.compress(f"# text = Hai!\n{row}\n\n".encode()))
    assert list(read_text(f"{tmp_path}/a.conllu.gz")) == ["Hai!"]


def test_a_data_set_gives_the_lines_of_its_texts(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["one\n\ntwo", "", "three"]}).save_to_disk(tmp_path / "saved")
    assert list(read_text(f"hf://{tmp_path}/saved")) == ["one", "two", "three"]


def test_reading_starts_only_when_asked_and_stops_when_left(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nb\xffd\n")
    lines = read_text(str(tmp_path / "a.txt"))
    assert next(lines) == "good"
    with pytest.raises(DataError, match="line 2: expected UTF-8"):
        next(lines)


def test_a_sample_is_even_and_in_order(tmp_path: Path) -> None:
    path, lines = tmp_path / "text.txt", [f"line {number}" for number in range(2000)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    assert sample_lines(path, 2000, seed=1) == sample_lines(path, 5000, seed=2) == lines
    some = sample_lines(path, 500, seed=1)
    assert some == sample_lines(path, 500, seed=1)
    assert some != sample_lines(path, 500, seed=2)
    numbers = [int(line.split()[1]) for line in some]
    assert len(set(numbers)) == 500
    assert numbers == sorted(numbers)
    assert np.histogram(numbers, bins=4, range=(0, 2000))[0].min() > 90
