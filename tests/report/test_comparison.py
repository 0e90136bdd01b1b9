from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import ARMS, HOSTILE, cell, comparison, write, write_made_up
from scipy.stats import t as student
from test_report import Page

from trelm.errors import RunFolderError
from trelm.report.comparison import budget_to_reach, curve_points, first_reach, mean_curve, summary, welch
from trelm.report.comparison_figures import arm_styles, comparison_figures, links_drawing
from trelm.report.comparison_page import write_comparison
from trelm.report.comparison_schema import Cell, WordLinks, read_comparison
from trelm.report.comparison_verdict import verdict

NAN = float("nan")


def cells(values: dict[str, list[float]], metric: str = "bits_per_character") -> list[Cell]:
    """A cell for each value, with seeds from 1."""
    return [
        Cell(arm=arm, seed=seed, metrics={metric: value})
        for arm, some in values.items()
        for seed, value in enumerate(some, start=1)
    ]


def curves(values: dict[str, list[list[float]]], x: list[float]) -> list[Cell]:
    """A cell for each curve, at these tokens."""
    return [
        Cell.model_validate({"arm": arm, "seed": seed, "curve": {"tokens": x, "bits_per_character": y}})
        for arm, some in values.items()
        for seed, y in enumerate(some, start=1)
    ]


def write_few(run: Path, arms: dict[str, list[float]], **changes: Any) -> Path:
    """A comparison of these arms, of which the cells with these bits per character are done."""
    write(run / "comparison.json", comparison() | {"arms": dict.fromkeys(arms, "an arm"), "tasks": {}} | changes)
    for done in cells(arms):
        write(run / "results" / done.arm / f"seed-{done.seed}.json", done.model_dump())
    return run


class TestSummary:
    def test_means_spreads_and_ranks(self) -> None:
        found = summary(cells({"a": [1.0, 2.0, 4.5], "b": [3.0], "c": [NAN, 0.5]}))["bits_per_character"]
        assert (found.best, found.rival) == ("c", "c")
        assert {arm: standing.rank for arm, standing in found.arms.items()} == {"a": 2, "b": 3, "c": 1}
        assert found.arms["a"].mean == pytest.approx(np.mean([1.0, 2.0, 4.5]))
        assert found.arms["a"].spread == pytest.approx(np.std([1.0, 2.0, 4.5], ddof=1))
        assert (found.arms["b"].spread, found.arms["b"].p, found.arms["b"].untested) == (None, None, "too few seeds")
        assert found.arms["c"].values == (0.5,)

    def test_more_is_better_unless_it_is_a_loss(self) -> None:
        values = {"a": [1.0], "b": [2.0]}
        assert summary(cells(values, "accuracy"))["accuracy"].best == "b"
        assert summary(cells(values, "set"), lower=("set",))["set"].best == "a"

    def test_the_rival_is_neither_ours_nor_an_ablation(self) -> None:
        values = {"trelm-paper": [1.0], "no-cdlm": [2.0], "joint": [2.5], "counts": [3.0], "scratch": [4.0]}
        found = summary(cells(values))["bits_per_character"]
        assert (found.best, found.rival, found.arms["counts"].untested) == ("trelm-paper", "counts", "the best rival")
        alone = summary(cells({"trelm-paper": [1.0]}))["bits_per_character"]
        assert (alone.rival, alone.arms["trelm-paper"].untested) == (None, "no rival is done")

    @pytest.mark.parametrize(("other", "tied"), [([2.0, 4.0], True), ([3.0, 5.0], False)])
    def test_ties_are_within_one_standard_error_of_the_difference(self, other: list[float], tied: bool) -> None:
        found = summary(cells({"a": [1.0, 3.0], "b": other}))["bits_per_character"]
        error = np.sqrt(2 / 2 + 2 / 2)
        assert tied == (np.mean(other) - 2.0 <= error)
        assert (found.arms["b"].tied, found.arms["a"].tied) == (tied, False)

    def test_welch_is_as_the_textbook_has_it(self) -> None:
        one, other = np.array([1.0, 1.2, 1.7]), np.array([2.0, 2.9, 2.1, 2.4])
        a, b = one.var(ddof=1) / 3, other.var(ddof=1) / 4
        freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
        expected = 2 * student.sf(abs(one.mean() - other.mean()) / np.sqrt(a + b), freedom)
        assert welch(one.tolist(), other.tolist()) == (pytest.approx(expected), "")
        assert welch([1.0, 1.0], [2.0, 2.0]) == (None, "no spread")
        assert welch([1.0], [2.0, 2.1]) == (None, "too few seeds")


class TestBudget:
    @pytest.mark.parametrize(
        ("y", "target", "expected"),
        [
            ([4.0, 2.0, 1.0], 3.0, 5.0), ([4.0, 2.0, 1.0], 2.0, 10.0), ([4.0, 2.0, 1.0], 1.5, 20.0),
            ([4.0, 2.0, 1.0], 4.5, 0.0), ([4.0, 2.0, 1.0], 0.5, None), ([4.0, 1.0, 3.0], 2.5, 5.0),
        ],
    )  # fmt: skip
    def test_first_reach(self, y: list[float], target: float, expected: float | None) -> None:
        assert first_reach(np.array([0.0, 10.0, 30.0]), np.array(y), target) == expected

    def test_budgets_over_seeds(self) -> None:
        values = {
            "scratch": [[6.0, 4.0, 1.5], [6.0, 4.0, 2.5]],
            "fast": [[4.0, 0.0, 0.0], [3.0, 1.0, 1.0]],
            "some": [[4.0, 0.0, 0.0], [9.0, 9.0, 9.0]],
            "ready": [[1.0, 1.0, 1.0]],
            "never": [[9.0, 9.0, 9.0]],
        }
        found = budget_to_reach(curves(values, [0.0, 10.0, 40.0]))
        assert found is not None
        assert (found.target, found.whole) == (2.0, {"tokens": 40.0})
        reaches = {arm: by_axis["tokens"] for arm, by_axis in found.arms.items()}
        assert (reaches["fast"].values, reaches["fast"].mean, reaches["fast"].ratio) == ((5.0, 5.0), 5.0, 8.0)
        assert (reaches["some"].values, reaches["some"].mean, reaches["some"].ratio) == ((5.0, None), None, None)
        assert (reaches["ready"].mean, reaches["ready"].ratio) == (0.0, None)
        assert reaches["never"].reached == ()
        assert budget_to_reach(curves({"fast": [[1.0]]}, [0.0])) is None

    def test_points_that_are_no_numbers_are_left_out(self) -> None:
        (one,) = curves({"a": [[NAN, 2.0, 1.0]]}, [0.0, 1.0, 2.0])
        points = curve_points(one.curve, "tokens")
        assert points is not None
        assert [part.tolist() for part in points] == [[1.0, 2.0], [2.0, 1.0]]
        assert curve_points(one.curve, "seconds") is None

    def test_the_mean_curve_is_exact_at_every_knot(self) -> None:
        x, y = mean_curve([(np.array([0.0, 2.0, 4.0]), np.array([4.0, 2.0, 0.0])), (np.array([1.0, 3.0]), np.ones(2))])
        assert (x.tolist(), y.tolist()) == ([1.0, 2.0, 3.0], [2.0, 1.5, 1.0])


class TestVerdict:
    @pytest.mark.parametrize(
        ("arms", "said"),
        [
            ({"trelm-recommended": [1.0, 1.1], "scratch": [2.0, 2.1], "counts": [1.5, 1.6]},
             r"Yes: trelm-recommended spends 1\.050 .*\(mean of 2 seeds\), 48\.8 % fewer than a model trained from "
             r"scratch \(2\.050\), beyond .*\(p = 0\.005\); and 32\.3 % fewer than counts, the best rival"),
            ({"trelm-recommended": [1.0, 1.1], "scratch": [2.0, 2.1], "counts": [1.0, 1.2]},
             r"In part: .* 4\.5 % fewer than counts, the best rival \(1\.100\), within the spread between seeds"),
            ({"trelm-recommended": [3.0, 3.1], "scratch": [2.0, 2.1], "counts": [3.0, 3.2]},
             r"No: .* 48\.8 % more than a model trained from scratch, the best rival \(2\.050\), beyond"),
            ({"trelm-recommended": [1.9, 2.0], "scratch": [3.0, 3.1], "counts": [1.0, 1.1]}, "In part: .* 85.7 % more"),
            ({"trelm-recommended": [1.0], "scratch": [2.0]},
             r"Not settled: .*\(1 seed\), .* which one seed cannot tell from chance\."),
            ({"trelm-recommended": [1.0, 1.0], "scratch": [2.0, 2.0]}, "Yes: .*and no seed differs from another"),
            ({"trelm-recommended": [1.0, 1.1]}, "Unknown: .*there is no other method to compare with yet"),
            ({"trelm-paper": [1.0, 1.1], "scratch": [2.0, 2.1]}, "Yes: trelm-paper"),
            ({"counts": [1.0, 1.1], "scratch": [2.0, 2.1]}, "Unknown: no TreLM arm has bits per character yet"),
        ],
    )  # fmt: skip
    def test_words(self, tmp_path: Path, arms: dict[str, list[float]], said: str) -> None:
        grid = read_comparison(write_few(tmp_path, arms, seeds=list(range(1, 1 + len(next(iter(arms.values())))))))
        text = verdict(grid, summary(grid.cells))
        assert re.match(said, text)
        assert "not done" not in text

    def test_tasks_and_cells_that_are_not_done(self, tmp_path: Path) -> None:
        grid = read_comparison(write_few(tmp_path, {"trelm-recommended": [1.0, 1.1], "counts": [2.0, 2.1]}))
        both = [*grid.cells, *cells({"trelm-recommended": [0.9, 0.91], "counts": [0.5, 0.51]}, "A")]
        both += cells({"trelm-recommended": [0.4, 0.41], "counts": [0.5, 0.51]}, "B")
        both += cells({"trelm-recommended": [0.4, 0.6], "counts": [0.5, 0.51]}, "C")
        assert verdict(grid, summary(both)).endswith(
            " Of 3 tasks: ahead of the best rival on A; behind the best rival on B; not told apart from the best rival "
            "on C. 2 of 6 cells are not done, so this may change."
        )


class TestPage:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
        return read(write_made_up(tmp_path_factory.mktemp("whole")))

    @pytest.mark.parametrize(
        "shown",
        [
            *ARMS, *(words for words, _, _ in ARMS.values()), "Every arm spends the same", "1.861 ± 0.008", "p < 0.001",
            "the best rival", "GSD (parsing)", "UAS", "macro F1", "4.9× cheaper", "scratch (the whole)", "22,713,216",
            "Seconds of preparation", "3.200 ± 0.000", "spelled alike", "Jakarta adalah", "going", "akan (forward)",
            "PCA of 70 rows", "1, 2, 3", "24 cells", "0.1.0", "seed: 17",
        ],
    )  # fmt: skip
    def test_every_figure_is_shown(self, whole: tuple[str, Page], shown: str) -> None:
        markdown, page = whole
        assert shown.replace("<", "&lt;") in markdown
        assert shown in page.text
        assert "Not done" not in page.text

    def test_the_best_of_a_column_is_bold(self, whole: tuple[str, Page]) -> None:
        markdown, page = whole
        assert page.count("strong") == 5
        assert markdown.count("| **") == 5

    def test_it_is_well_formed_and_its_headings_lead_somewhere(self, whole: tuple[str, Page]) -> None:
        _, page = whole
        assert not page.open
        assert page.count("h2") == page.count("section")
        identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        links = {(attributes["href"] or "")[1:] for tag, attributes in page.elements if tag == "a"}
        assert links <= set(identifiers)
        assert len(set(identifiers)) == len(identifiers)

    def test_hostile_text_stays_text(self, tmp_path: Path) -> None:
        run = write_made_up(tmp_path)
        ordinary = len(read(run)[1].scripts)
        point = {"x": 0, "y": 0, "token": HOSTILE, "side": "target"}
        changes = {
            "title": HOSTILE, "budget_rule": HOSTILE, "config": HOSTILE, "projection": {"points": [point]},
            "arms": {"scratch": HOSTILE, "<script>": HOSTILE}, "failed": {"<script>/seed-1": HOSTILE},
            "word_links": {"source": [HOSTILE], "target": ["b"], "forward": [[0, 0]]},
        }  # fmt: skip
        write(run / "comparison.json", comparison() | changes)
        done = cell("scratch", 1) | {"examples": [{"text": HOSTILE, "predictions": [{"token": HOSTILE}]}]}
        write(run / "results" / "scratch" / "seed-1.json", done | {"metrics": {HOSTILE: 0.5}})
        markdown, page = read(run)
        assert len(page.scripts) == ordinary
        assert page.text.count(HOSTILE) >= 9
        assert json.loads(page.scripts[1])["projection"]["axes"]["plane"]["traces"][0]["text"] == [HOSTILE]
        assert "<script" not in markdown.partition("### Configuration")[0]

    def test_a_comparison_that_has_only_begun(self, tmp_path: Path) -> None:
        run = write_few(tmp_path, {"trelm-recommended": [1.0], "scratch": []}, failed={"scratch/seed-2": "disk | full"})
        write(run / "results" / "gone" / "seed-1.json", {})
        markdown, page = read(run)
        assert "5 of 6 cells are not done." in page.text
        assert "| scratch/seed-1 | not run yet |" in markdown
        assert "| scratch/seed-2 | disk \\| full |" in markdown
        assert "Left out, since they belong to no arm or seed of this comparison: gone/seed-1." in page.text
        assert "n = 1, no p: no rival is done" in page.text

    @pytest.mark.parametrize("absent", ["budget", "budget_rule", "tasks", "failed", "word_links", "projection",
                                        "diagnosis", "config", "versions"])  # fmt: skip
    def test_any_part_may_be_absent(self, tmp_path: Path, absent: str) -> None:
        write(tmp_path / "comparison.json", {key: value for key, value in comparison().items() if key != absent})
        write(tmp_path / "results" / "scratch" / "seed-1.json", cell("scratch", 1))
        markdown, page = read(tmp_path)
        assert "None" not in markdown + page.text

    def test_main_scores_are_named_by_the_comparison_or_else_by_its_cells(self, tmp_path: Path) -> None:
        run = write_made_up(tmp_path, tasks={"NERGrit": {"task": "entities", "metric": "bits_per_character"}})
        header = next(line for line in read(run)[0].splitlines() if line.startswith("| Arm | Bits"))
        assert header.endswith("| GSD ↑ (LAS, %) | NusaX sentiment ↑ (accuracy, %) | NERGrit ↓ (bits per character) |")

    def test_nothing_is_done_yet(self, tmp_path: Path) -> None:
        least = {key: comparison()[key] for key in ("title", "languages", "arms", "seeds")}
        write(tmp_path / "comparison.json", least)
        markdown, page = read(tmp_path)
        assert "Unknown: no TreLM arm has bits per character yet. 24 of 24 cells are not done" in markdown
        assert page.count("table") == 3

    def test_seconds_of_different_devices_do_not_compare(self, tmp_path: Path) -> None:
        run = write_made_up(tmp_path)
        write(run / "results" / "scratch" / "seed-1.json", cell("scratch", 1) | {"device": "cuda"})
        assert "do not compare: cpu, bfloat16 (23 cells), cuda, bfloat16 (1 cell)" in read(run)[0]

    @pytest.mark.parametrize(
        ("y", "said"),
        [([5, 5, 5], "never"), ([1, 1, 1], "from the start"), ([5, 3, 1], "2.0× cheaper (10)"),
         ([5, 1, 1], "4.0× cheaper (5)")],
    )  # fmt: skip
    def test_budgets_in_words(self, tmp_path: Path, y: list[float], said: str) -> None:
        run = write_few(tmp_path, {"scratch": [], "counts": []}, seeds=[1])
        for done in curves({"scratch": [[6, 4, 3]], "counts": [y]}, [0, 10, 20]):
            write(run / "results" / done.arm / "seed-1.json", done.model_dump())
        assert f"| counts | {said} |" in read(run)[0]


def read(run: Path) -> tuple[str, Page]:
    """Markdown and the parsed page."""
    paths = write_comparison(run)
    return paths["markdown"].read_text(encoding="utf-8"), Page(paths["html"].read_text(encoding="utf-8"))


class TestFigures:
    def test_arms_look_different(self) -> None:
        arms = ["scratch", *(f"arm-{index}" for index in range(24))]
        assert len({tuple(style.values()) for style in arm_styles(arms).values()}) == 25

    def test_seeds_are_thin_and_their_mean_is_bold(self, tmp_path: Path) -> None:
        drawn = comparison_figures(read_comparison(write_made_up(tmp_path)))["curves"]
        assert list(drawn["axes"]) == ["tokens", "seconds", "flops"]
        traces = [trace for trace in drawn["axes"]["tokens"]["traces"] if trace["name"] == "counts"]
        assert [trace["line"]["width"] for trace in traces] == [1, 1, 1, 3]
        assert traces[3]["y"] == pytest.approx(np.mean([trace["y"] for trace in traces[:3]], axis=0))

    def test_lines_join_translations(self, tmp_path: Path) -> None:
        lines, *_ = comparison_figures(read_comparison(write_made_up(tmp_path)))["projection"]["axes"]["plane"][
            "traces"
        ]
        assert (len(lines["x"]), lines["x"][2::3]) == (15, [None] * 5)

    def test_links_are_drawn_from_token_to_token(self) -> None:
        links = WordLinks(source=["a", "b" * 20], target=["c"], forward=[(0, 0), (1, 0)], reverse=[(0, 0)])
        drawing = links_drawing(links)
        assert drawing.lines == ((15, 15, "both"), (45, 15, "forward"))
        assert [token[2] for token in drawing.tokens] == ["a", "b" * 13 + "…", "c"]
        assert drawing.height > 45


class TestErrors:
    def test_no_comparison(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"comparison\.json: expected a comparison, found nothing there; run"):
            write_comparison(tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"arms": []}, "found arms: "),
            ({"word_links": {"source": ["a"], "target": ["b"], "forward": [[0, 1]]}},
             r"found word_links: a link \(0, 1\) of 1 and 1 tokens"),
            ({"projection": {"points": [{"x": 0, "y": 0, "token": "a", "side": "left"}]}},
             "found projection.points.0.side"),
        ],
    )  # fmt: skip
    def test_damaged_comparison(self, tmp_path: Path, change: dict[str, Any], said: str) -> None:
        write(tmp_path / "comparison.json", comparison() | change)
        with pytest.raises(RunFolderError, match="expected a comparison of ours, " + said):
            write_comparison(tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"seed": 2}, "expected the result of scratch with seed 1, found that of scratch with seed 2; remove"),
            ({"metrics": {"a": "x"}}, "expected the result of a cell, found metrics.a: "),
            ({"tasks": {"a": {"scores": 1}}}, "found tasks.a.scores: "),
            ({"curve": {"tokens": [1], "bits_per_character": [1, 2]}}, "found curve: 2 values but 1 tokens"),
        ],
    )
    def test_damaged_cell(self, tmp_path: Path, change: dict[str, Any], said: str) -> None:
        write(tmp_path / "comparison.json", comparison())
        write(tmp_path / "results" / "scratch" / "seed-1.json", cell("scratch", 1) | change)
        with pytest.raises(RunFolderError, match=r"seed-1\.json: .*" + said) as caught:
            write_comparison(tmp_path)
        assert "\n" not in str(caught.value)
