"""Nothing is written, cleared or truncated outside the run folder, whatever names and links a stranger chose."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up import comparison, write_made_up
from test_report import report_values

from trelm.config import EvaluationConfig, make_config
from trelm.corpus.files import expand
from trelm.errors import ConfigError, DataError, RunFolderError
from trelm.report.comparison_page import write_comparison
from trelm.report.page import write_report
from trelm.steps.tasks import evaluate_model
from trelm.workspace import LOCK, Run, atomic_path, write_text

NAMES = [
    "../../outside/x",
    "/outside/x",
    "a\x00b",
    "x" * 300,
    "CON",
    "a:b|c?.txt ",
    "..",
    "~/x",
    "a\nb",
    "${HOME}",
    "-rf",
]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that stays as it is."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "precious.txt").write_text("mine")
    (place / "deep").mkdir()
    (place / "deep" / "manifest.json").write_text("{}")
    yield place
    assert (place / "precious.txt").read_text() == "mine"
    assert sorted(path.name for path in place.rglob("*")) == ["deep", "manifest.json", "precious.txt"]
    assert (place / "deep" / "manifest.json").read_text() == "{}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    return Run(folder)


class TestLinksInRunFolders:
    @pytest.mark.parametrize("place", [LOCK, "config.yaml", "corpus", "stages", "stages/1-commonality", "model/start"])
    @pytest.mark.parametrize("target", ["outside", "outside/precious.txt", "outside/none"])
    def test_a_run_with_one_that_leads_out_is_refused(
        self, run: Run, outside: Path, tmp_path: Path, place: str, target: str
    ) -> None:
        path = run.folder / place
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(tmp_path / target)
        with (
            pytest.raises(
                RunFolderError, match=r"expected a run folder without links that lead out of it, found one to "
            ),
            run.lock(),
        ):
            pass
        if place == "config.yaml":
            return
        with pytest.raises(RunFolderError, match=r"found one to .*; put a copy in its place, or choose another --run"):
            run.step(place).begin("inputs")

    def test_a_step_that_is_one_is_not_cleared(self, run: Run, outside: Path) -> None:
        (run.folder / "corpus").symlink_to(outside)
        with pytest.raises(RunFolderError, match="corpus: expected a run folder without links that lead out of it"):
            run.step("corpus").begin("inputs", afresh=True)

    def test_one_that_stays_inside_is_no_harm(self, run: Run) -> None:
        (run.folder / "corpus").mkdir()
        (run.folder / "corpus" / "a.txt").write_text("x")
        (run.folder / "corpus" / "b.txt").symlink_to("a.txt")
        with run.lock():
            run.step("corpus").begin("inputs")

    def test_one_in_a_circle_is_refused(self, run: Run) -> None:
        (run.folder / "loop").symlink_to(run.folder / "loop")
        (run.folder / "corpus").symlink_to(run.folder / ".." / ".." / "nowhere")
        with pytest.raises(RunFolderError, match="without links that lead out of it"), run.lock():
            pass

    def test_the_run_folder_itself_may_be_one(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "named").symlink_to(run.folder)
        named = Run(tmp_path / "named")
        with named.lock():
            named.step("corpus").begin("inputs")
            named.step("corpus").finish("inputs", {})
        assert run.step("corpus").is_done("inputs")

    def test_a_file_that_is_written_takes_the_place_of_one(self, run: Run, outside: Path) -> None:
        path = run.folder / "report.json"
        path.symlink_to(outside / "precious.txt")
        (run.folder / f".report.json.{os.getpid()}.part").symlink_to(outside / "precious.txt")
        write_text(path, "new")
        assert path.read_text() == "new"
        assert not path.is_symlink()

    def test_a_folder_that_is_written_does_not_go_through_one(self, run: Run, outside: Path) -> None:
        (run.folder / f".model.{os.getpid()}.part").symlink_to(outside)
        with atomic_path(run.folder / "model") as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text("x")
        assert (run.folder / "model" / "weights").read_text() == "x"

    @pytest.mark.parametrize("page", ["report.html", "report.md"])
    def test_pages_do_not_go_through_one(self, run: Run, outside: Path, page: str) -> None:
        (run.folder / "report.json").write_text(json.dumps(report_values()), "utf-8")
        (run.folder / page).symlink_to(outside / "precious.txt")
        write_report(run.folder)
        assert len((run.folder / page).read_text("utf-8")) > 1000


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_comparison_of_strange_arms_and_sets_writes_its_pages_alone(
        self, tmp_path: Path, outside: Path, name: str
    ) -> None:
        run = write_made_up(tmp_path / "runs" / "x")
        made = comparison()
        values = made | {"arms": {name: "what it is"} | made["arms"], "tasks": {name: {"task": name, "metric": name}}}
        (run / "comparison.json").write_text(json.dumps(values), "utf-8")
        before = set(tmp_path.rglob("*"))
        write_comparison(run)
        assert set(tmp_path.rglob("*")) - before == {run / "comparison.html", run / "comparison.md"}

    @pytest.mark.parametrize("name", NAMES)
    def test_an_arm_must_be_one_of_ours(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"comparison(\.|: )arms|found a NUL"):
            make_config({"comparison": {"arms": [name]}, **whole()})

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "CON"])  # after an arm it names no device
    def test_a_variant_has_a_plain_name(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"comparison: variants: expected names like|found a NUL"):
            make_config({"comparison": {"variants": {f"counts+{name}": {}}}, **whole()})

    @pytest.mark.parametrize("name", NAMES)
    def test_a_set_of_a_strange_name_is_kept_under_a_digest(
        self, tmp_path: Path, outside: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "cache"))
        (tmp_path / "pairs.tsv").write_text("the of and\tand of the\nto in a\ta in to\n")
        task = EvaluationConfig(task="retrieval", name=name, test=(str(tmp_path / "pairs.tsv"),))
        before = set(tmp_path.rglob("*"))
        assert list(evaluate_model(str(tiny_bert), [task], work=tmp_path / "work", quiet=True)) == [name]
        made = {path.relative_to(tmp_path) for path in set(tmp_path.rglob("*")) - before}
        assert {path.parts[0] for path in made} <= {"cache", "work"}
        assert all(name not in str(path) for path in made)

    @pytest.mark.parametrize("name", NAMES)
    def test_an_input_of_a_strange_name_is_not_there(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"expected a file, found (nothing there|a folder); "):
            expand(f"{tmp_path}/none/{name}")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("key", ["model", "tokenizer"])
    def test_a_model_of_a_strange_name_is_no_exception(self, name: str, key: str, tmp_path: Path) -> None:
        values = whole()
        values["source"] = {"model": "minilm", "text": ["a"], key: name}
        try:
            config = make_config(values, base=tmp_path)
        except ConfigError:
            return
        assert getattr(config.source, key)


def whole() -> dict[str, Any]:
    return {
        "source": {"model": "minilm", "text": ["a"]},
        "target": {"language": "id", "text": ["b"]},
        "parallel": ["c"],
        "budget": {"updates": 9},
    }
