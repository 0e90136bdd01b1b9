"""README and documentation against the package: examples parse, commands exist, named paths are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from trelm.cli import app
from trelm.config import RECIPES, load_config, load_tasks, make_config, read_yaml, recipe_values

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
EVERYWHERE = {"--debug", "--help"}  # taken out before the command is looked at, or added by typer


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def called(page: Path) -> list[list[str]]:
    """Every `trelm ...` in code: the words after the name of the program."""
    text = page.read_text("utf-8")
    spans = re.findall(r"`(trelm [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = re.findall(r"^(?:    |\$ )?(trelm .*)$", text, flags=re.MULTILINE)
    return [shlex.split(call, comments=True)[1:] for call in (*spans, *lines)]


def parameters(words: list[str]) -> set[str]:
    """The options of the command that `words` begins with; fails where there is no such command."""
    command: Any = typer.main.get_command(app)
    for word in words:
        below = getattr(command, "commands", None)
        if below is None or word.startswith("-") or word == "COMMAND":
            break
        assert word in below, f"no command: trelm {' '.join(words)}"
        command = below[word]
    names = (option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
    return {option for option in names if option.startswith("--")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    for words in called(page):
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= parameters(words) | EVERYWHERE, words


def test_commands_are_found_in_text() -> None:
    assert ["transfer", "indonesian.yaml", "--run", "runs/id"] in called(README)
    with pytest.raises(AssertionError, match="no command: trelm trasnfer"):
        parameters(["trasnfer", "x.yaml"])
    assert "--until" in parameters(["transfer", "x.yaml"])
    assert {"--plain", "--trelm"} <= parameters(["export", "runs/id"])  # one option, two names


def test_every_command_is_in_the_reference() -> None:
    page = ROOT / "docs" / "reference" / "cli.md"
    documented, reference = called(page), page.read_text("utf-8")
    command: Any = typer.main.get_command(app)
    for name, below in command.commands.items():
        for path in [[name, inner] for inner in below.commands] if hasattr(below, "commands") else [[name]]:
            assert any(words[: len(path)] == path for words in documented), path
            for option in parameters(path) - EVERYWHERE:
                assert option in reference, f"{path}: {option}"


def test_the_readme_shows_a_configuration_that_is_one() -> None:
    examples = blocks(README, "yaml")
    assert examples
    for example in examples:
        config = make_config(yaml.safe_load(example), base=Path("/data"))
        assert config.recipe == "recommended"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_python_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_the_python_of_the_readme_names_what_the_package_has() -> None:
    import trelm

    (block,) = blocks(README, "python")
    names = re.findall(r"trelm\.(\w+)", block)
    assert names == ["load_config", "transfer"]
    assert set(names) <= set(trelm.__all__)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README.read_text("utf-8")):
        assert "://" in target or (ROOT / target).exists(), target


def test_the_tree_of_the_readme_names_what_is_there() -> None:
    (tree,) = [block for block in blocks(README, "") if block.startswith("src/trelm/")]
    package = True
    named = []
    for line in tree.splitlines():
        name = line.split()[0]
        package = package and (line.startswith(" ") or name == "src/trelm/")
        folder = ROOT / "src" / "trelm" if line.startswith("  ") else ROOT
        assert (folder / name).is_dir() if name.endswith("/") else (folder / name).is_file(), name
        named.append(name.rstrip("/"))
    rooms = {path.name for path in (ROOT / "src" / "trelm").iterdir() if not path.name.startswith(("_", "."))}
    plumbing = {"errors.py", "progress.py", "doctor.py", "py.typed", "recipes"}
    assert rooms - plumbing <= set(named)


def test_the_picture_of_the_readme_names_what_is_there() -> None:
    (picture,) = [block for block in blocks(README, "") if "text s, text t" in block]
    for name in re.findall(r"[\w]+(?:\.py|/)", picture):
        assert (ROOT / "src" / "trelm" / name).exists(), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_configuration_with_four_more_keys(recipe: str) -> None:
    values = {
        "source": {"model": "minilm", "text": ["a.txt"]},
        "target": {"language": "xx", "text": ["b.txt"]},
        "parallel": ["c.tsv"],
        "budget": {"minutes": 1},
        "recipe": recipe,
    }
    dumped = make_config(values).model_dump(mode="json")
    for section, keys in recipe_values(recipe).items():
        for key, value in keys.items():
            given = dumped[section][key]
            assert given == value or value.items() <= given.items()


def test_every_configuration_of_the_benchmarks_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRELM_DATA", str(tmp_path))
    files = sorted((ROOT / "benchmarks").rglob("*.yaml"))
    assert files
    for file in files:
        if set(read_yaml(file)) == {"evaluation"}:
            texts = [text for task in load_tasks(file) for text in (*task.train, *task.dev, *task.test)]
            assert all(task.lacks is None for task in load_tasks(file))
        else:
            config = load_config(file)
            texts = [*config.source.text, *config.target.text]
        assert all(text.startswith(str(tmp_path)) for text in texts), f"{file}: data are looked for in TRELM_DATA"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_placeholder_is_left(page: Path) -> None:
    assert "@@" not in page.read_text("utf-8")
