"""`trelm compare` on the command line: which options go together, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trelm import cli

CONFIG = """
source: {model: minilm, text: [a.txt]}
target: {language: id, text: [b.txt]}
parallel: [c.tsv]
budget: {flops: 1.0e+9}
"""


class Pipeline:
    """Notes what it is called with."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result, self.calls = result, list[tuple[Any, ...]]()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> dict[str, Any]:
            self.calls.append((name, arguments, options))
            return self.result

        return call


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str], result: dict[str, Any] | None = None) -> Pipeline:
    pipeline = Pipeline(result or {})
    monkeypatch.setattr(cli, "_pipeline", lambda: pipeline)
    monkeypatch.setattr("sys.argv", ["trelm", "compare", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == (0 if result is not None else 2)
    return pipeline


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    return str(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "compare: expected CONFIG and --run FOLDER, or --run-prepared FOLDER; see `trelm compare --help`"),
        (["CONFIG"], "compare: expected CONFIG and --run FOLDER, or --run-prepared FOLDER"),
        (["--run", "r"], "compare: expected CONFIG and --run FOLDER, or --run-prepared FOLDER"),
        (["--run-prepared", "d"], "--run-prepared: expected --out FOLDER, where its results go"),
        (["CONFIG", "--run-prepared", "d", "--out", "o"], "--run-prepared: expected it without CONFIG, found both"),
        (["--run", "r", "--run-prepared", "d", "--out", "o"], "--run-prepared: expected it without --run, found both"),
        (["--prepare", "p", "--run-prepared", "d"], "--run-prepared: expected it without --prepare, found both"),
        (["CONFIG", "--run", "r", "--out", "o"], "--out: expected it together with --run-prepared, found it alone"),
        (
            ["CONFIG", "--run", "r", "--device-minutes", "3"],
            "--device-minutes: expected it together with --run-prepared",
        ),
        (["CONFIG", "--run", "r", "--arms", "a"], "--arms: expected it together with --prepare or --run-prepared"),
        (["CONFIG", "--run", "r", "--seeds", "1"], "--seeds: expected it together with --prepare or --run-prepared"),
        (["CONFIG", "--run", "r", "--prepare", "p", "--seeds", "1,x"], "--seeds 1,x: expected whole numbers"),
        (["--run-prepared", "d", "--out", "o", "--device-minutes", "0"], "--device-minutes 0: expected more than 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: str, arguments: list[str], words: str
) -> None:
    assert run(monkeypatch, [config if one == "CONFIG" else one for one in arguments]).calls == []
    assert words in capsys.readouterr().err


def test_a_prepared_folder_is_told_with_its_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    written = {
        "path": "p",
        "bytes": 61_000_000,
        "cells": ["scratch/seed-1", "random/seed-1"],
        "warning": "more than 60 MB",
    }
    arguments = [config, "--run", "r", "--prepare", "p", "--arms", "scratch, random", "--seeds", "1", "--quiet"]
    ((name, given, options),) = run(monkeypatch, arguments, written).calls
    assert (name, given[1:]) == ("prepare_for_elsewhere", (Path("r"), Path("p")))
    assert options == {"arms": ["scratch", "random"], "seeds": [1], "quiet": True}
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["p: 2 cells, 61.0 MB: scratch/seed-1, random/seed-1", "warning: more than 60 MB"]


def test_cells_of_a_prepared_folder_are_told_with_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = {"updates": 1200, "seconds": 3.4}
    cell = {"arm": "scratch", "seed": 1, "metrics": {"bits_per_character": 2.5}, "cost": cost}
    done = {"cells": [cell], "failed": {}, "left": ["random/seed-2"]}
    arguments = ["--run-prepared", "d", "--out", "o", "--set", "budget.updates=5", "--device-minutes", "12"]
    ((name, given, options),) = run(monkeypatch, arguments, done).calls
    assert (name, given) == ("run_prepared", (Path("d"), Path("o")))
    expected = {"overrides": ["budget.updates=5"], "minutes": 12, "arms": None, "seeds": None, "quiet": False}
    assert options == expected
    shown = capsys.readouterr().out
    for part in (
        "scratch",
        "2.500",
        "1,200",
        "no time for random/seed-2: the same command goes on",
        "copy the folders",
    ):
        assert part in shown


def test_results_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, ["--run-prepared", "d", "--out", "o", "--json"], {"cells": [], "left": []})
    assert capsys.readouterr().out.split() == ["{", '"cells":', "[],", '"left":', "[]", "}"]
