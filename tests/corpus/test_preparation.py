"""Preparation of whole corpora."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import datasets
import pytest

from trelm.corpus.cleaning import fingerprint
from trelm.corpus.preparation import prepare
from trelm.errors import DataError

FILES = [
    "parallel-held-out.tsv",
    "parallel.tsv",
    "source-held-out.txt",
    "source.txt",
    "target-held-out.txt",
    "target.txt",
]


def write(path: Path, *lines: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def run(folder: Path, source: list[str], target: list[str], parallel: list[Any], **options: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "languages": ("en", "id"), "evaluation_text": [], "min_characters": 2, "max_characters": 200,
        "max_pair_ratio": 4.0, "held_out_fraction": 1e-12, "held_out_lines": 10, "max_lines": None,
    }  # fmt: skip
    return prepare(folder, source_text=source, target_text=target, parallel=parallel, **{**values, **options})


def sentences(prefix: str, count: int) -> list[str]:
    return [f"{prefix} sentence number {number}." for number in range(count)]


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[list[str], list[str], list[Any]]:
    """2,000 lines a language and 1,000 pairs, half of whose sides are among the lines."""
    source, target = sentences("English", 2500), sentences("Indonesia", 2500)
    pairs = [f"{s}\t{t}" for s, t in zip(source[1500:], target[1500:])]
    files = [
        write(tmp_path / "in" / "source.txt", *source[:2000]),
        write(tmp_path / "in" / "target.txt", *target[:2000]),
        write(tmp_path / "in" / "pairs.tsv", *pairs),
    ]
    return files[:1], files[1:2], list(files[2:])


def dropped(counts: dict[str, Any], role: str) -> dict[str, int]:
    (entry,) = (value for name, value in counts["inputs"].items() if name.startswith(role))
    assert entry["read"] == entry["kept"] + sum(entry["dropped"].values())
    return {reason: count for reason, count in entry["dropped"].items() if count}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rise of the held-out fraction for small corpora."""
    monkeypatch.setattr("trelm.corpus.splitting._LARGEST_RISE", 0.0)


@pytest.mark.usefixtures("quiet")
def test_every_reason_is_counted(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s.txt", "Good line", "", "x", "y" * 201, "\u200b", "GOOD, line!", "An exam sentence.", "Two"
    )
    target = write(tmp_path / "t.txt", "baris  baik")
    pairs = write(
        tmp_path / "p.tsv", "one\tsatu", "One.\tSatu!", "\tx", "a\tempat", "y\t" + "y" * 201, "no\t" + "dua " * 9,
        "2008\t2008.", "an exam sentence\tujian", "good LINE\tbaris baik", "three\ttiga", "four\tempat",
    )  # fmt: skip
    counts = run(tmp_path / "out", [source], [target], [pairs], evaluation_text=["an exam sentence"], max_lines=10)
    expected = {"too_short": 1, "too_long": 1, "empty": 1, "duplicate": 1, "evaluation": 1}
    assert dropped(counts, "source") == expected
    assert dropped(counts, "target") == {}
    assert dropped(counts, "parallel") == {
        "duplicate": 1, "empty": 1, "too_short": 2, "ratio": 1, "same_on_both_sides": 1, "evaluation": 1,
        "beyond_max_lines": 1,
    }  # fmt: skip
    assert read(tmp_path / "out" / "source.txt") == ["Good line", "Two", "one", "three"]
    assert read(tmp_path / "out" / "target.txt") == ["baris baik", "satu", "tiga"]
    assert read(tmp_path / "out" / "parallel.tsv") == ["one\tsatu", "good LINE\tbaris baik", "three\ttiga"]
    assert counts["outputs"]["target.txt"] == {"lines": 3, "characters": 18}
    assert counts["outputs"]["parallel.tsv"] == {"lines": 3, "characters": 7 + 19 + 9}
    assert counts["outputs"]["source-held-out.txt"] == {"lines": 0, "characters": 0}
    assert counts["evaluation_sentences"] == 1


def test_held_out_text_is_nowhere_in_training(tmp_path: Path, corpus: tuple[list[str], list[str], list[Any]]) -> None:
    out = tmp_path / "out"
    counts = run(out, *corpus, held_out_lines=1500)
    assert sorted(path.name for path in out.iterdir()) == FILES
    files = {name: read(out / name) for name in FILES}
    for side, language in enumerate(("source", "target")):
        training = {fingerprint(line) for line in files[f"{language}.txt"]}
        training |= {fingerprint(line.split("\t")[side]) for line in files["parallel.tsv"]}
        held_out = {fingerprint(line) for line in files[f"{language}-held-out.txt"]}
        assert not training & held_out
        assert not training & {fingerprint(line.split("\t")[side]) for line in files["parallel-held-out.tsv"]}
        assert len(files[f"{language}.txt"]) == len(training)
        assert len(training) + len(held_out) == 2500
        assert 60 < len(held_out) < 250
        assert counts["held_out_fraction"][language] == 0.05
    assert len(files["parallel.tsv"]) + len(files["parallel-held-out.tsv"]) == 1000
    for name, lines in files.items():
        characters = sum(len(line.replace("\t", "")) for line in lines)
        assert counts["outputs"][name] == {"lines": len(lines), "characters": characters}


def test_held_out_files_do_not_depend_on_order(tmp_path: Path, corpus: tuple[list[str], list[str], list[Any]]) -> None:
    first = run(tmp_path / "a", *corpus)
    for names in corpus:
        lines = read(Path(names[0]))
        random.Random(1).shuffle(lines)
        write(Path(names[0]), *lines)
    second = run(tmp_path / "b", *corpus)
    assert first["outputs"] == second["outputs"]
    for name in FILES:
        assert ("held" not in name) or read(tmp_path / "a" / name) == read(tmp_path / "b" / name)
        assert sorted(read(tmp_path / "a" / name)) == sorted(read(tmp_path / "b" / name))
    assert len(read(tmp_path / "a" / "source-held-out.txt")) == 10


def test_evaluation_sentences_are_in_no_file(tmp_path: Path, corpus: tuple[list[str], list[str], list[Any]]) -> None:
    exam = [line.upper() + "!" for line in (*sentences("Indonesia", 2500)[::3], *sentences("English", 2500)[::5])]
    counts = run(tmp_path / "out", *corpus, evaluation_text=exam, held_out_lines=1500)
    banned = {fingerprint(line) for line in exam}
    for name in FILES:
        texts = [text for line in read(tmp_path / "out" / name) for text in line.split("\t")]
        assert not banned & {fingerprint(text) for text in texts}
    assert counts["evaluation_sentences"] == len(banned)


@pytest.mark.usefixtures("quiet")
def test_each_file_of_a_glob_is_an_input_read_once(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"s{number}.txt", *sentences(f"file {number}", 5))
    other = write(tmp_path / "a.tsv", "one\tsatu")
    names = [f"{tmp_path}/s*.txt", f"{tmp_path}/s1.txt"]
    counts = run(tmp_path / "out", names, [], [other], max_lines=2)
    expected = {f"source: {tmp_path}/s{n}.txt": (5, 2) for n in range(3)} | {f"parallel: {other}": (1, 1)}
    assert {name: (entry["read"], entry["kept"]) for name, entry in counts["inputs"].items()} == expected
    assert all(entry["complete"] for entry in counts["inputs"].values())


@pytest.mark.usefixtures("quiet")
def test_a_data_set_is_left_at_max_lines_and_two_files_have_one_name(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": sentences("row", 50)}).save_to_disk(tmp_path / "saved")
    sides = write(tmp_path / "a.en", "one"), write(tmp_path / "a.id", "satu")
    counts = run(tmp_path / "out", [f"hf://{tmp_path}/saved"], [], [sides], max_lines=3)
    entry = counts["inputs"][f"source: hf://{tmp_path}/saved"]
    assert (entry["read"], entry["kept"], entry["complete"]) == (4, 3, False)
    assert entry["dropped"]["beyond_max_lines"] == 1
    assert f"parallel: {sides[0]} + {sides[1]}" in counts["inputs"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            (["x"], ["baik"], ["a\tb"]),
            r"source text: expected lines to train on, found none: all of the 1 lines read .*",
        ),
        (
            (["good"], ["x", "y"], ["a\tb"]),
            r"target text: .* all of the 2 lines read were dropped \(too_short 2\); give",
        ),
        ((["good"], ["baik"], ["same\tSame", "a\tb"]), r"parallel text: .*\(too_short 1, same_on_both_sides 1.*; give"),
    ],
)
def test_nothing_left_is_refused(tmp_path: Path, lines: tuple[list[str], list[str], list[str]], words: str) -> None:
    files = [[write(tmp_path / name, *part)] for name, part in zip(("s.txt", "t.txt", "p.tsv"), lines)]
    with pytest.raises(DataError, match=words):
        run(tmp_path / "out", files[0], files[1], list(files[2]))
    assert list((tmp_path / "out").iterdir()) == []


def test_no_input_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source text: expected lines to train on, found none: no line was read; give"):
        run(tmp_path / "out", [], [], [])


def test_progress_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "s.txt", *sentences("s", 12_000))
    told: list[int] = []
    run(tmp_path / "out", [source], [], [write(tmp_path / "p.tsv", "one\tsatu")], on_progress=told.append)
    assert told == [10_000, 12_001]
