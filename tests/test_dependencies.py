"""What the package imports is what `pip install trelm` brings along."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from transformers.utils import is_protobuf_available, is_sentencepiece_available

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, as the index normalises them."""
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in requirements}


DECLARED = names(PROJECT["dependencies"])
OF_JINJA2 = {"markupsafe"}  # its own type of text, always installed with it


def imported() -> dict[str, set[str]]:
    """Top-level modules of others that a module of the package imports with an import statement -> where."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "src" / "trelm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            for module in modules:
                found.setdefault(module.split(".")[0], set()).add(path.name)
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names | {"trelm"}}


def test_every_import_of_the_package_is_declared() -> None:
    distributions, found = packages_distributions(), imported()
    assert names(requires("jinja2") or []) >= OF_JINJA2
    assert {"torch", "transformers", "gensim", "sentencepiece", "numpy"} <= found.keys()
    for module, files in found.items():
        owners = {name.lower().replace("_", "-") for name in distributions[module]}
        assert owners & (DECLARED | OF_JINJA2), (
            f"{sorted(files)}: {module} is of {sorted(owners)}, which pyproject.toml does not name"
        )


def test_what_transformers_reads_sentencepiece_models_with_is_declared() -> None:
    """It asks for both when a tokenizer is loaded, and declares neither."""
    assert {"sentencepiece", "protobuf"} <= DECLARED
    assert is_protobuf_available()
    assert is_sentencepiece_available()


def test_every_requirement_has_a_lower_and_an_upper_bound() -> None:
    for line in PROJECT["dependencies"]:
        assert re.search(r">=\d", line), line
        assert re.search(r"<\d", line), line
