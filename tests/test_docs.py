"""The documentation says what the code does: the generated page is up to date, examples parse, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from trelm.config import Config, make_config

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate_reference", DOCS / "generate_reference.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_reference_of_the_configuration_is_the_generated_one(generator: ModuleType) -> None:
    committed = (DOCS / "reference" / "config.md").read_text(encoding="utf-8")
    assert committed == generator.reference_page(), "run: python docs/generate_reference.py"


def test_the_reference_has_a_row_for_every_key(generator: ModuleType) -> None:
    page = generator.reference_page()

    def rows_below(model: type) -> list[str]:
        fields = model.model_fields  # type: ignore[attr-defined]
        kinds = [kind for field in fields.values() for kind in generator._sections(field.annotation)]
        return [*fields, *(key for kind in dict.fromkeys(kinds) for key in rows_below(kind))]

    rows = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert rows == rows_below(Config)
    assert all(line.count("|") == 5 for line in page.splitlines() if line.startswith("|"))


def test_the_generator_writes_the_page(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "PAGE", tmp_path / "config.md")
    generator.main()
    assert (tmp_path / "config.md").read_text(encoding="utf-8") == generator.reference_page()


def test_every_page_is_in_the_navigation_and_the_other_way_round() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md", text)
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in PAGES)
    assert yaml.safe_load(text)["strict"] is True


def links(text: str) -> list[str]:
    """Where the links of a page lead; what looks like one in code, fenced or in a line, is none."""
    prose = re.sub(r"^(`{3,}).*?^\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)#]+)", re.sub(r"`[^`\n]+`", "`code`", prose))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).is_file(), target


def test_links_are_found_in_prose_and_not_in_code() -> None:
    page = '[a](a.md) and `x[0](y)`\n\n```python\nhead["cls"](states)\n```\n\n- [b `code`](b.md#part),\n    [c](c.md)\n'
    page += "\n````\n```\n[no](no.md)\n````\n[d](d.md)\n"
    assert links(page) == ["a.md", "b.md", "c.md", "d.md"]
    everywhere = [target for written in WRITTEN for target in links(written.read_text(encoding="utf-8"))]
    assert len(everywhere) > 20


def test_every_example_of_a_configuration_is_one() -> None:
    examples = [
        example
        for page in PAGES
        for example in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    ]
    assert examples
    for example in examples:
        assert make_config(yaml.safe_load(example)).recipe == "recommended"


def test_the_files_that_the_method_names_are_named_in_the_design() -> None:
    design = (DOCS / "explanation" / "design.md").read_text(encoding="utf-8")
    table = re.findall(
        r"^\| \d \| .* \| (.*) \|$", (DOCS / "explanation" / "method.md").read_text("utf-8"), flags=re.MULTILINE
    )
    assert len(table) == 6
    for name in re.findall(r"`([^`]+)`", " ".join(table)):
        assert f"`{name}`" in design
