from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from trelm.errors import RunFolderError
from trelm.report.content import diagnosis_section, sections, verdict
from trelm.report.figures import SCRATCH_COLOUR, figures
from trelm.report.markdown import escape
from trelm.report.page import write_report
from trelm.report.parts import flatten, number, share
from trelm.report.schema import Diagnosis, Report, read_report

HOSTILE = "<script>alert('x')</script> & \"quotes\" | `ticks`"
VOID = {"meta", "link", "br", "img", "input", "hr"}


def curve(tokens: list[float], loss: list[float | None], **more: Any) -> dict[str, Any]:
    return {"tokens": tokens, "seconds": [value / 100 for value in tokens], "loss": loss, **more}


@pytest.fixture
def values() -> dict[str, Any]:
    return report_values()


def report_values() -> dict[str, Any]:
    held_out = {"tokens": [100, 200], "seconds": [1, 2], "bits_per_character": [3.0, 2.0]}
    return {
        "title": "English to xx",
        "languages": {"source": "en", "target": "xx"},
        "models": {
            "transferred": {
                "bits_per_character": 1.9,
                "masked_accuracy": 0.321,
                "masked_loss": 4.1,
                "unit_accuracy": 0.25,
            },
            "scratch": {"bits_per_character": 3.8, "masked_accuracy": 0.152, "masked_loss": 6.3, "unit_accuracy": 0.11},
            "start": {"bits_per_character": 5.25, "masked_accuracy": 0.01},
        },
        "unigram": {"bits_per_character": 4.75},
        "alignment": {
            "reason": "parallel: finds held-out links of 11.1 % of 1,254 entries again",
            "method": "parallel",
            "precision_at_1": 0.41,
            "precision_at_5": 0.63,
            "chance_at_1": 0.0002,
            "queries": 1234,
            "criterion": 0.6321,
            "candidates": {
                "adversarial": {"criterion": 0.31, "precision_at_1": 0.02, "seconds": 31.2, "collapsed": True},
                "parallel": {"criterion": 0.6321, "precision_at_1": 0.41, "seconds": 5.8, "collapsed": False},
            },
        },
        "word_links": {"links_per_target_token": 0.97, "share_unlinked": {"forward": 0.031}},
        "corpus": {
            "inputs": {"source.txt": {"read": 5200, "kept": 5100, "dropped": {"duplicate": 80, "too_short": 20}}},
            "outputs": {"source.txt": {"lines": 5100}},
        },
        "vocabulary": {"size": 8000, "shared_entries": 2900},
        "diagnosis": {
            "initialisation": "focus",
            "entries": {
                "shared": {"entries": 4321, "share_of_entries": 0.2161, "share_of_tokens": 0.4162},
                "shared_words": {"entries": 36, "share_of_word_tokens": 0.0774},
                "linked": {"entries": 5446, "share_of_entries": 0.2723, "share_of_tokens": 0.9904},
            },
            "rows": {
                "neighbours": {"entries": 6543, "share_of_entries": 0.3272, "norm_ratio": 0.8172},
                "random": {"entries": 0, "share_of_entries": 0.0, "share_of_tokens": 0.0, "norm_ratio": None},
            },
            "norm_ratio": 1.0321,
            "tokenizers": {
                "new": {"fertility": 1.342, "characters_per_piece": 4.398, "unknown_rate": 0.0},
                "source": {"fertility": 2.499, "characters_per_piece": 2.362, "unknown_rate": 0.637},
            },
            "translation": {"precision_at_1": 0.493, "distinct_precision_at_5": 0.713, "queries": 268},
            "held_out": {
                "unigram": {"masked_loss": 7.553, "masked_accuracy": 0.047, "bits_per_character": 2.522},
                "start": {"masked_loss": 10.56, "masked_accuracy": 0.001, "bits_per_character": 3.527},
                "after_head": {"masked_loss": 7.668, "masked_accuracy": 0.0494, "updates": 50},
            },
            "warnings": ["few words are <alike>; do something"],
        },
        "steps": {"corpus": {"seconds": 2.25}, "scratch": {"seconds": 180.5, "tokens": 5000000, "flops": 3.2e14}},
        "curves": {
            "commonality": curve([100, 200], [9.0, 8.0]),
            "language-specific": curve([100, 300], [7.0, 6.0], held_out=held_out),
            "scratch": curve([100, 500], [9.5, 8.5]),
        },
        "cdlm": {"upper_loss": 4.4},
        "examples": [{"text": "Né [MASK] föla.", "predictions": [{"token": "pélo", "score": 0.31}]}],
        "budget": {"minutes": 6},
        "export": {"path": "runs/demo/export"},
        "seed": 17,
        "versions": {"torch": "2.13.0"},
        "config": "seed: 17\n",
        "baseline_rule": "Scratch trains for as long.",
    }


class Page(HTMLParser):
    """Text outside scripts and styles, attributes, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def write(folder: Path, values: Any) -> tuple[str, Page]:
    """Markdown, and the parsed page, of a report with these values."""
    (folder / "report.json").write_text(json.dumps(values), encoding="utf-8")
    paths = write_report(folder)
    return paths["markdown"].read_text(encoding="utf-8"), Page(paths["html"].read_text(encoding="utf-8"))


def report_of(values: dict[str, Any]) -> Report:
    return Report.model_validate(values)


class TestBothForms:
    def test_files_are_written_beside_the_json(self, tmp_path: Path, values: dict[str, Any]) -> None:
        write(tmp_path, values)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]

    @pytest.mark.parametrize(
        "shown",
        [
            "English to xx", "50.0 % fewer", "Scratch trains for as long.", "1.900", "3.800", "5.250", "4.750",
            "32.1 %", "parallel (chosen)", "adversarial", "0.02 %", "1,234", "63.0 %", "31.20", "0.9700", "3.1 %",
            "5,200", "5,100", "duplicate 80, too short 20", "8,000", "2,900", "180.5", "182.8", "5,000,000",
            "3.20 × 10¹⁴", "upper loss", "4.400", "pélo (31.0 %)", "runs/demo/export", "17", "2.13.0", "seed: 17",
            "language-specific", "4,321", "21.6 %", "41.6 %", "7.7 %", "5,446", "neighbours rows", "6,543", "0.8172",
            "1.032", "1.342", "2.362", "63.7 %", "49.3 %", "71.3 %", "268", "token frequencies", "7.553",
            "before any update", "10.56", "50 updates of the head", "7.668", "4.9 %",
            "(embeddings.initialisation: focus)", "Why: parallel: finds held-out links of 11.1 % of 1,254",
        ],
    )  # fmt: skip
    def test_every_figure_is_shown(self, tmp_path: Path, values: dict[str, Any], shown: str) -> None:
        markdown, page = write(tmp_path, values)
        assert shown in markdown
        assert shown in page.text

    def test_a_stage_that_ended_early_says_so(self, tmp_path: Path, values: dict[str, Any]) -> None:
        values["steps"]["language-specific"] = {"updates": 1200, "planned_updates": 2000, "best_update": 700}
        values["steps"]["scratch"] |= {"updates": 2000, "planned_updates": 2000, "best_update": 1900}
        values["steps"]["commonality"] = {"updates": 150}
        markdown, page = write(tmp_path, values)
        for shown in ("stopped after 1,200 of 2,000 (best: 700)", "2,000 (best: 1,900)", "3,350"):
            assert shown in markdown
            assert shown in page.text
        assert "150 (" not in markdown

    def test_only_what_must_be_there(self, tmp_path: Path, values: dict[str, Any]) -> None:
        least = {key: values[key] for key in ("title", "languages")}
        markdown, page = write(tmp_path, {**least, "models": {"transferred": values["models"]["transferred"]}})
        assert "Unknown: no model was trained from scratch" in markdown
        assert [line for line in markdown.splitlines() if line.startswith("## ")] == ["## Models"]
        assert page.count("h2") == 2
        assert page.count("script") == 0
        assert "from scratch |" not in markdown

    @pytest.mark.parametrize("part", ["unigram", "alignment", "word_links", "corpus", "vocabulary", "diagnosis",
                                      "steps", "curves",
                                      "cdlm", "examples", "budget", "export", "seed", "versions", "config",
                                      "baseline_rule"])  # fmt: skip
    def test_any_part_may_be_absent(self, tmp_path: Path, values: dict[str, Any], part: str) -> None:
        del values[part]
        markdown, page = write(tmp_path, values)
        assert "None" not in markdown + page.text
        assert not page.open

    @pytest.mark.parametrize("part", ["initialisation", "entries", "rows", "norm_ratio", "tokenizers", "translation",
                                      "held_out", "warnings"])  # fmt: skip
    def test_any_part_of_the_diagnosis_may_be_absent(self, tmp_path: Path, values: dict[str, Any], part: str) -> None:
        del values["diagnosis"][part]
        markdown, page = write(tmp_path, values)
        assert "None" not in markdown + page.text
        assert "## Before training" in markdown
        assert ("No warnings." in markdown) == ("No warnings." in page.text) == (part == "warnings")

    def test_warnings_are_shown_first(self, tmp_path: Path, values: dict[str, Any]) -> None:
        markdown, page = write(tmp_path, values)
        begin = markdown.partition("## Before training\n\n")[2]
        assert begin.startswith("Warning: few words are &lt;alike&gt;; do something.\n\nShare: of all entries.")
        assert "Warning: few words are <alike>; do something." in page.text

    def test_a_diagnosis_of_nothing_says_no_more(self) -> None:
        section = diagnosis_section(Diagnosis())
        assert section.tables == ()
        assert section.paragraphs[0] == "No warnings."

    def test_null_is_absent(self, tmp_path: Path, values: dict[str, Any]) -> None:
        values |= {"alignment": None, "unigram": None, "cdlm": None, "seed": None, "config": None}
        values["models"]["scratch"] = None
        markdown, page = write(tmp_path, values)
        assert "None" not in markdown + page.text

    def test_the_word_that_stood_there_is_shown_where_it_is_known(self, tmp_path: Path, values: dict[str, Any]) -> None:
        assert "| Text | Guesses, best first |" in write(tmp_path, values)[0]
        values["examples"] += [{"text": "So [MASK].", "truth": "pélat"}]
        markdown, page = write(tmp_path, values)
        assert "| Né \\[MASK\\] föla. | – | pélo (31.0 %) |" in markdown
        assert "| So \\[MASK\\]. | pélat | – |" in markdown
        assert "pélat" in page.text


class TestPage:
    def test_it_is_well_formed_and_loads_nothing(self, tmp_path: Path, values: dict[str, Any]) -> None:
        _, page = write(tmp_path, values)
        assert not page.open
        for tag, attributes in page.elements:
            assert tag not in {"link", "iframe", "img", "object", "embed"}
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")
        assert "@import" not in (tmp_path / "report.html").read_text(encoding="utf-8").split("</style>")[0]

    def test_it_suits_phones_dark_screens_and_readers_of_headings(self, tmp_path: Path, values: dict[str, Any]) -> None:
        _, page = write(tmp_path, values)
        meta = [attributes for tag, attributes in page.elements if tag == "meta"]
        assert any(attributes.get("name") == "viewport" for attributes in meta)
        style = (tmp_path / "report.html").read_text(encoding="utf-8").split("</style>")[0]
        assert "prefers-color-scheme: dark" in style
        assert page.count("h1") == 1
        assert page.count("h2") == page.count("section")
        scrolled = [attributes for tag, attributes in page.elements if attributes.get("class") == "scroll"]
        assert len(scrolled) == page.count("table") > 8
        assert ("html", {"lang": "en"}) in page.elements

    def test_links_of_the_contents_lead_somewhere(self, tmp_path: Path, values: dict[str, Any]) -> None:
        _, page = write(tmp_path, values)
        identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        links = [(attributes["href"] or "")[1:] for tag, attributes in page.elements if tag == "a"]
        assert len(set(identifiers)) == len(identifiers)
        assert set(links) < set(identifiers)
        assert len(links) == len(sections(report_of(values)))

    def test_hostile_text_stays_text(self, tmp_path: Path, values: dict[str, Any]) -> None:
        ordinary = len(write(tmp_path, values)[1].scripts)
        values["title"] = values["config"] = values["baseline_rule"] = HOSTILE
        values["examples"] = [{"text": HOSTILE, "predictions": [{"token": HOSTILE, "score": 0.5}]}]
        values["steps"][HOSTILE] = {"seconds": 1}
        values["curves"] = {HOSTILE: curve([1], [2.0])} | values["curves"]
        markdown, page = write(tmp_path, values)
        assert len(page.scripts) == ordinary
        assert page.text.count(HOSTILE) >= 6
        assert list(json.loads(page.scripts[1])["loss"]["axes"]["tokens"]["traces"][0].values())[2] == HOSTILE
        assert "<script" not in markdown.partition("### Configuration")[0]

    def test_the_figures_reach_the_page(self, tmp_path: Path, values: dict[str, Any]) -> None:
        values["curves"]["commonality"]["loss"] = [float("nan"), 8.0]
        _, page = write(tmp_path, values)
        drawn = json.loads(page.scripts[1])
        assert drawn == json.loads(json.dumps(figures(read_report(tmp_path))))
        assert drawn["loss"]["axes"]["tokens"]["traces"][0]["y"] == [None, 8.0]
        identifiers = {attributes.get("id") for _, attributes in page.elements}
        assert {"plot-loss", "plot-held-out"} < identifiers
        assert "plotly.js" in page.scripts[0][:300]


class TestFigures:
    def test_stages_follow_one_another_and_scratch_starts_at_zero(self, values: dict[str, Any]) -> None:
        axes = figures(report_of(values))["loss"]["axes"]
        assert [trace["x"] for trace in axes["tokens"]["traces"]] == [[100, 200], [300, 500], [100, 500]]
        assert [trace["x"] for trace in axes["seconds"]["traces"]] == [[1, 2], [3, 5], [1, 5]]

    def test_every_stage_has_its_own_colour(self, values: dict[str, Any]) -> None:
        traces = figures(report_of(values))["loss"]["axes"]["tokens"]["traces"]
        colours = [trace["line"]["color"] for trace in traces]
        assert len(set(colours)) == 3
        assert colours[-1] == SCRATCH_COLOUR

    def test_held_out_curves_keep_their_place_and_colour(self, values: dict[str, Any]) -> None:
        drawn = figures(report_of(values))
        (trace,) = drawn["held-out"]["axes"]["tokens"]["traces"]
        assert trace["x"] == [300, 400]
        assert trace["y"] == [3.0, 2.0]
        assert trace["line"] == drawn["loss"]["axes"]["tokens"]["traces"][1]["line"]

    def test_an_axis_without_data_is_left_out(self, values: dict[str, Any]) -> None:
        for stage in values["curves"].values():
            del stage["seconds"]
            stage.pop("held_out", None)
        drawn = figures(report_of(values))
        assert list(drawn) == ["loss"]
        assert list(drawn["loss"]["axes"]) == ["tokens"]


class TestVerdict:
    @pytest.mark.parametrize(
        ("ours", "scratch", "said"),
        [
            (
                (2.0, 0.4),
                (4.0, 0.2),
                "Yes: .* 2 bits .* 50.0 % fewer .* from scratch \\(4\\).* 40.0 % .* against 20.0 %",
            ),
            ((4.0, 0.2), (2.0, 0.4), "No: .* 100.0 % more"),
            ((2.0, 0.2), (4.0, 0.4), "Mixed"),
            ((2.0, 0.4), (2.01, 0.2), "Hardly, .* within 1 %"),
            ((2.0, None), (4.0, 0.2), "Yes: .* from scratch \\(4\\)\\.$"),
            ((None, 0.4), (4.0, 0.2), "Unknown: the run holds no bits"),
            ((float("nan"), 0.4), (4.0, 0.2), "Unknown: the run holds no bits"),
            ((2.0, 0.4), (None, 0.2), "Unknown: no model was trained from scratch"),
        ],
    )
    def test_words(self, values: dict[str, Any], ours: tuple[Any, Any], scratch: tuple[Any, Any], said: str) -> None:
        for name, (bits, accuracy) in (("transferred", ours), ("scratch", scratch)):
            values["models"][name] = {"bits_per_character": bits, "masked_accuracy": accuracy}
        assert re.match(said, verdict(report_of(values)))


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "–"), (float("nan"), "–"), (True, "yes"), (False, "no"), ("x", "x"), (0, "0"),
            (1234567, "1,234,567"), (4.0, "4"), (0.12345, "0.1235"), (1.23456, "1.235"), (123.456, "123.5"),
            (12345.6, "12,346"), (-2.5, "-2.500"), (1.5e15, "1.50 × 10¹⁵"), (1e-6, "1.00 × 10⁻⁶"),
        ],
    )  # fmt: skip
    def test_number(self, value: Any, text: str) -> None:
        assert number(value) == text

    @pytest.mark.parametrize(
        ("value", "text"), [(None, "–"), (0.0, "0.0 %"), (0.5, "50.0 %"), (0.0002, "0.02 %"), (float("inf"), "–")]
    )
    def test_share(self, value: float | None, text: str) -> None:
        assert share(value) == text

    def test_flatten(self) -> None:
        assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2.5], "e": None}) == {"a b c": 1, "d": "1, 2.500"}


class TestMarkdown:
    def test_tables_have_as_many_cells_in_every_row(self, tmp_path: Path, values: dict[str, Any]) -> None:
        values["examples"][0]["text"] = "one | two\nthree"
        markdown, _ = write(tmp_path, values)
        for block in markdown.split("\n\n"):
            if block.startswith("|"):
                widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
                assert len(widths) == 1
        assert "one \\| two three" in markdown

    def test_escape(self) -> None:
        assert escape("a_b *c* [d] <e> & `f` \\") == "a\\_b \\*c\\* \\[d\\] &lt;e&gt; &amp; \\`f\\` \\\\"

    def test_the_configuration_survives_its_fence(self, tmp_path: Path, values: dict[str, Any]) -> None:
        values["config"] = "a: '````'\n"
        markdown, _ = write(tmp_path, values)
        assert yaml.safe_load(markdown.split("`````yaml\n")[1].split("\n`````")[0]) == {"a": "````"}


class TestErrors:
    def test_no_report(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"expected the report of a finished run, found nothing there"):
            write_report(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", '{"title": ', "\udc80"])
    def test_damaged_json(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(RunFolderError, match=r"report\.json: expected JSON, found") as caught:
            write_report(tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"title": None}, "found title: Input should be a valid string"),
            ({"models": {}}, "found models.transferred: Field required"),
            ({"models": {"transferred": {"bits_per_character": "x"}}}, "found models.transferred.bits_per_character"),
            ({"curves": {"scratch": {"loss": [1], "tokens": [1, 2]}}}, "found curves.scratch: 1 values but 2 tokens"),
            (
                {"curves": {"a": {"held_out": {"bits_per_character": [1], "seconds": [1, 2]}}}},
                "found curves.a.held_out: 1 values but 2 seconds",
            ),
        ],
    )
    def test_a_part_of_the_wrong_kind(
        self, tmp_path: Path, values: dict[str, Any], change: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(RunFolderError, match="expected a report of ours, " + said) as caught:
            write(tmp_path, values | change)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "report.html").exists()

    def test_not_a_mapping(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match="found the whole: "):
            write(tmp_path, [1, 2])
