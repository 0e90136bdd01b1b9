"""The scripts that bring results into the repository and its pages: figures alone, and as the results have them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType

import pytest
from made_up import ARMS, SEEDS, TASKS, cell, write, write_made_up

from trelm.report.comparison_schema import read_comparison

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Loaded under its name in `sys.modules`, where dataclasses look for their annotations."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, f"benchmark_{name}", module)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["script", *arguments])
    module.main()


def test_the_pages_say_what_the_committed_results_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(script("headline", monkeypatch), monkeypatch, "--check")


def test_tables_of_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("headline", monkeypatch)
    grid = read_comparison(write_made_up(tmp_path))
    regime = module.Regime("anywhere", "English to Indonesian", "little")
    bits = {arm: [cell(arm, seed)["metrics"]["bits_per_character"] for seed in SEEDS] for arm in ARMS}
    lines = module.table(regime, grid).splitlines()
    assert lines[0] == "### English to Indonesian: little"
    assert "24 of 24 cells are done." in lines[2]
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert list(rows) == sorted(ARMS, key=lambda arm: fmean(bits[arm]))
    for arm, values in bits.items():
        assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in rows[arm]
        tasks = [fmean(cell(arm, seed)["metrics"][label] for seed in SEEDS) for label in TASKS]
        assert rows[arm].endswith(f"| {100 * fmean(tasks):.1f} |")
    assert "**1.8" in rows["trelm-recommended"]
    assert "**" not in rows["scratch"]
    line = module.headline({regime: grid}).splitlines()[-1]
    assert line.startswith(f"| English to Indonesian, little | 3 | **{fmean(bits['trelm-recommended']):.3f}")
    assert "(counts)" in line
    assert line.endswith("|")


def test_marks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, page = script("headline", monkeypatch), tmp_path / "page.md"
    page.write_text("a\n<!-- here: made by benchmarks/headline.py -->\nold\n<!-- here: end -->\nz\n", encoding="utf-8")
    assert not module.put(page, "here", "new | \\1", write=False)
    assert "old" in page.read_text(encoding="utf-8")
    assert not module.put(page, "here", "new | \\1", write=True)
    assert module.put(page, "here", "new | \\1", write=True)
    text = page.read_text(encoding="utf-8")
    assert text == "a\n<!-- here: made by benchmarks/headline.py -->\nnew | \\1\n<!-- here: end -->\nz\n"
    with pytest.raises(SystemExit, match="expected the marks '<!-- there: made by"):
        module.put(page, "there", "new", write=True)


def test_what_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = script("collect", monkeypatch)
    first, second, to = write_made_up(tmp_path / "a"), tmp_path / "b", tmp_path / "to"
    monkeypatch.setenv("TRELM_DATA", "/somewhere/data")
    overview = json.loads((first / "comparison.json").read_text(encoding="utf-8"))
    write(second / "comparison.json", {**overview, "arms": {"counts+mine": "a variant"}, "seeds": [4],
                                       "config": "text: /somewhere/data/x"})  # fmt: skip
    write(second / "results" / "counts+mine" / "seed-4.json", {**cell("counts", 4), "arm": "counts+mine"})
    run(collect, monkeypatch, str(first), str(second), "--to", str(to))
    grid = read_comparison(to)
    assert len(grid.cells) == len(ARMS) * len(SEEDS) + 1
    assert not grid.strange
    assert set(grid.comparison.arms) == {*ARMS, "counts+mine"}
    assert grid.comparison.seeds == [1, 2, 3, 4]
    assert grid.comparison.config == "text: ${TRELM_DATA}/x"
    everything = "".join(path.read_text(encoding="utf-8") for path in to.rglob("*.json"))
    for quoted in ("Jakarta", "kami", "/somewhere"):
        assert quoted not in everything
    run(collect, monkeypatch, str(first), "--to", str(to))  # what is there stays
    assert set(read_comparison(to).comparison.arms) == {*ARMS, "counts+mine"}
