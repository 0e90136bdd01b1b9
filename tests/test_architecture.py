"""The rooms of the package and the arrows between them, as the design draws them, checked on the source text."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "trelm"

# Room (a module or package at the top of trelm; `__init__` is the top itself) -> what it may import of the package:
# a whole room, or one module of it as "room.module".
ARROWS: dict[str, set[str]] = {
    "__init__": {"errors", "config", "_register", "pipeline"},
    "__main__": {"cli"},
    "_register": {"model"},
    "errors": set(),
    "config": {"errors"},
    "workspace": {"errors"},
    "processes": {"errors"},
    "progress": {"cost"},
    "corpus": {"errors", "workspace"},
    "vocabulary": {"errors", "corpus"},
    "embeddings": {"errors", "workspace", "corpus"},
    "word_links": {"errors", "corpus"},
    "alignment": {"errors"},
    "initialisation": {"errors", "workspace", "corpus", "vocabulary", "alignment", "embeddings"},
    "model": {"errors", "cost"},
    "cost": {"errors"},
    "training": {"errors", "workspace", "processes", "corpus", "cost"},
    "stages": {"errors", "workspace", "processes", "corpus", "training", "model", "cost"},
    "evaluation": {"errors", "corpus", "alignment.csls"},
    "tasks": {"errors", "workspace", "corpus", "evaluation", "training"},
    "report": {"errors", "workspace"},
    "export": {"errors", "workspace", "vocabulary", "model"},
    "demo": {"errors", "config", "workspace", "corpus", "word_links"},
    "doctor": {"errors", "cost", "training"},
    "steps": {
        "initialisation",
        *("errors", "config", "workspace", "processes", "progress", "corpus", "vocabulary", "embeddings"),
        *("word_links", "alignment", "model", "training", "stages", "evaluation", "tasks", "export", "cost"),
    },
    "comparison": {
        *("errors", "config", "workspace", "progress", "corpus", "vocabulary", "model", "training", "stages"),
        *("initialisation", "evaluation", "steps", "report.comparison_schema"),
    },
    "cli": {"errors", "config", "workspace", "processes", "pipeline", "report", "doctor", "demo", "progress"},
}
ARROWS["pipeline"] = ARROWS.keys() - {"cli", "__init__", "__main__"}

# Imports of the package inside a function: `trelm --help` would otherwise wait for torch.
LATE = {("cli", "pipeline"), ("__init__", "pipeline")}

WITHOUT_TORCH = ("errors", "config", "workspace", "progress", "cost", "report", "demo")
HEAVY = ("torch", "transformers")

LONGEST_FUNCTION = 80
LONGEST_FILE = 450


@dataclass(frozen=True)
class Arrow:
    """One import of the package by itself: `room` imports `target` ("errors", "corpus.ragged") at `line` of `file`."""

    room: str
    target: str
    file: str
    line: int
    late: bool

    @property
    def target_room(self) -> str:
        return self.target.partition(".")[0]


def room_of(file: Path, package: Path) -> str:
    return file.relative_to(package).with_suffix("").parts[0]


def source_files(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imported_modules(node: ast.AST, file: Path, package: Path) -> Iterator[str]:
    """Modules of the package that one statement imports, as dotted names below it; `__init__` is the package itself."""
    name = package.name
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = list(_imported_from(node, file, package))
    elif isinstance(node, ast.Call) and _function_name(node) in ("import_module", "__import__"):
        first = node.args[0] if node.args else None
        modules = [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    else:
        return
    for module in modules:
        if module == name:
            yield "__init__"
        elif module.startswith(f"{name}."):
            yield module.removeprefix(f"{name}.")


def _function_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _imported_from(node: ast.ImportFrom, file: Path, package: Path) -> Iterator[str]:
    """`from base import name` imports the module base.name where there is one, otherwise something of base."""
    above = [package.name, *file.relative_to(package).parts[:-1]]
    parts = above[: len(above) - node.level + 1] if node.level else []
    base = ".".join([*parts, *([node.module] if node.module else [])])
    folder = package.parent.joinpath(*base.split("."))
    for alias in node.names:
        is_module = (folder / alias.name).is_dir() or (folder / f"{alias.name}.py").is_file()
        yield f"{base}.{alias.name}" if is_module else base


def arrows(package: Path) -> list[Arrow]:
    """Every import of the package by itself that crosses from one room to another."""
    found = []
    for file in source_files(package):
        room = room_of(file, package)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        inside = {id(below) for function in functions(tree) for below in ast.walk(function)}
        for node in ast.walk(tree):
            for target in dict.fromkeys(imported_modules(node, file, package)):
                arrow = Arrow(
                    room, target, str(file.relative_to(package)), getattr(node, "lineno", 0), id(node) in inside
                )
                found.extend([arrow] if arrow.target_room != room or arrow.late else [])
    return found


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def unknown_rooms(package: Path) -> list[str]:
    """Rooms that the table does not have."""
    return sorted({room_of(file, package) for file in source_files(package)} - ARROWS.keys())


def forbidden_arrows(package: Path) -> list[str]:
    """Imports that the table does not have."""
    return [
        f"{arrow.file}:{arrow.line}: {arrow.room} -> {arrow.target}"
        for arrow in arrows(package)
        if arrow.target_room != arrow.room and not _is_allowed(arrow)
    ]


def _is_allowed(arrow: Arrow) -> bool:
    return any(
        arrow.target == allowed or arrow.target.startswith(f"{allowed}.") for allowed in ARROWS.get(arrow.room, ())
    )


def late_imports(package: Path) -> list[str]:
    """Imports of the package inside functions, but for those that are allowed there."""
    return [
        f"{arrow.file}:{arrow.line}: {arrow.room} -> {arrow.target}"
        for arrow in arrows(package)
        if arrow.late and (arrow.room, arrow.target_room) not in LATE
    ]


def cycles(package: Path) -> list[str]:
    """Rooms that import each other, however long the way round, as "a -> b -> a"."""
    graph: dict[str, set[str]] = {}
    for arrow in arrows(package):
        if arrow.target_room != arrow.room:
            graph.setdefault(arrow.room, set()).add(arrow.target_room)
    found = []
    finished: set[str] = set()

    def visit(room: str, way: tuple[str, ...]) -> None:
        if room in way:
            found.append(" -> ".join([*way[way.index(room) :], room]))
        elif room not in finished:
            for below in sorted(graph.get(room, ())):
                visit(below, (*way, room))
            finished.add(room)

    for room in sorted(graph):
        visit(room, ())
    return found


def long_functions(package: Path) -> list[str]:
    return [
        f"{file.relative_to(package)}:{node.lineno}: {node.name} has {length} lines"
        for file in source_files(package)
        for node in functions(ast.parse(file.read_text(encoding="utf-8")))
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def long_files(package: Path) -> list[str]:
    return [
        f"{file.relative_to(package)} has {length} lines"
        for file in source_files(package)
        if (length := len(file.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    ]


def untyped_functions(package: Path) -> list[str]:
    """Functions with an argument or a return value that has no type; `self` and `cls` need none."""
    found = []
    for file in source_files(package):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        methods = {id(below) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for below in node.body}
        for node in functions(tree):
            if _untyped_parts(node, is_method=id(node) in methods):
                found.append(f"{file.relative_to(package)}:{node.lineno}: {node.name}")
    return found


def _untyped_parts(node: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool) -> list[str]:
    is_static = any(
        isinstance(decorator, ast.Name) and decorator.id == "staticmethod" for decorator in node.decorator_list
    )
    positional = [*node.args.posonlyargs, *node.args.args]
    arguments = [
        *(positional[1:] if is_method and not is_static else positional),
        *node.args.kwonlyargs,
        *(argument for argument in (node.args.vararg, node.args.kwarg) if argument is not None),
    ]
    untyped = [argument.arg for argument in arguments if argument.annotation is None]
    return [*untyped, *(["return"] if node.returns is None else [])]


CHECKS = [unknown_rooms, forbidden_arrows, late_imports, cycles, long_functions, long_files, untyped_functions]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_keeps_to_the_design(check: object) -> None:
    assert callable(check)
    assert check(PACKAGE) == []


def test_light_rooms_import_neither_torch_nor_transformers() -> None:
    present = sorted({room_of(file, PACKAGE) for file in source_files(PACKAGE)} & set(WITHOUT_TORCH))
    program = (
        "import importlib, sys\n"
        f"for room in {present!r}:\n"
        "    importlib.import_module(f'trelm.{room}')\n"
        f"    loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not loaded, f'trelm.{room} imports {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"errors", "config", "workspace"} <= set(present)


def test_the_table_itself_has_no_cycle_and_names_only_its_own_rooms() -> None:
    named = {target.partition(".")[0] for targets in ARROWS.values() for target in targets}
    assert named <= ARROWS.keys()
    finished: set[str] = set()
    while ready := {
        room
        for room, targets in ARROWS.items()
        if room not in finished and {target.partition(".")[0] for target in targets} <= finished
    }:
        finished |= ready
    assert finished == ARROWS.keys()


# The checker itself, on packages made up for it.


def made_up(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "trelm"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


def test_the_checker_lets_a_good_package_pass(tmp_path: Path) -> None:
    package = made_up(
        tmp_path,
        {
            "errors.py": "class Error(Exception):\n    def line(self) -> str:\n        return ''\n",
            "corpus/__init__.py": "",
            "corpus/text.py": "import json\nfrom trelm import errors\nfrom . import ragged\nfrom ..errors import E\n",
            "corpus/ragged.py": "",
            "alignment/csls.py": "",
            "evaluation/translation.py": "from trelm.alignment import csls\nfrom trelm.alignment.csls import rank\n",
            "pipeline.py": "import trelm.corpus.text as text\n",
            "cli.py": "def main() -> None:\n    from trelm import pipeline\n",
        },
    )
    assert [check(package) for check in CHECKS] == [[]] * len(CHECKS)


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("model/encoder.py", "from trelm.alignment.csls import rank\n", "model/encoder.py:1: model -> alignment.csls"),
        ("model/encoder.py", "from trelm import errors, alignment\n", "model/encoder.py:1: model -> alignment"),
        (
            "model/deep/encoder.py",
            "from ...alignment import csls\n",
            "model/deep/encoder.py:1: model -> alignment.csls",
        ),
        (
            "training/loop.py",
            "import json\nimport trelm.model.encoder\n",
            "training/loop.py:2: training -> model.encoder",
        ),
        ("evaluation/tags.py", "from trelm.alignment import x\n", "evaluation/tags.py:1: evaluation -> alignment"),
        ("stages.py", "from trelm.cli import main\n", "stages.py:1: stages -> cli"),
        ("progress.py", "from trelm import __version__\n", "progress.py:1: progress -> __init__"),
        ("errors.py", "if TYPE_CHECKING:\n    from trelm.config import Config\n", "errors.py:2: errors -> config"),
        (
            "report/page.py",
            "import importlib\nimportlib.import_module('trelm.model')\n",
            "report/page.py:2: report -> model",
        ),
    ],
)
def test_the_checker_catches_a_forbidden_arrow(tmp_path: Path, file: str, text: str, found: str) -> None:
    package = made_up(tmp_path, {"errors.py": "", "alignment/csls.py": "", "model/__init__.py": "", file: text})
    assert forbidden_arrows(package) == [found]


def test_the_checker_catches_a_room_that_the_table_does_not_have(tmp_path: Path) -> None:
    assert unknown_rooms(made_up(tmp_path, {"utilities.py": "", "errors.py": ""})) == ["utilities"]


def test_the_checker_catches_late_imports_but_for_the_pipeline_in_the_command_line(tmp_path: Path) -> None:
    late = "def run() -> None:\n    from trelm import {}\n"
    files = {"pipeline.py": late.format("stages"), "stages.py": "", "errors.py": "", "cli.py": late.format("pipeline")}
    assert late_imports(made_up(tmp_path, files)) == ["pipeline.py:2: pipeline -> stages"]


def test_the_checker_catches_a_late_import_within_one_room(tmp_path: Path) -> None:
    files = {"model/a.py": "class A:\n    def f(self) -> None:\n        from trelm.model import b\n", "model/b.py": ""}
    assert late_imports(made_up(tmp_path, files)) == ["model/a.py:3: model -> model.b"]


def test_the_checker_catches_a_cycle_the_long_way_round(tmp_path: Path) -> None:
    files = {
        "corpus.py": "from trelm.model import x\n",
        "model.py": "from trelm.stages import x\n",
        "stages.py": "from trelm.corpus import x\n",
        "errors.py": "",
    }
    assert cycles(made_up(tmp_path, files)) == ["corpus -> model -> stages -> corpus"]


def test_the_checker_catches_long_functions_and_files(tmp_path: Path) -> None:
    body = "    pass\n"
    package = made_up(
        tmp_path,
        {
            "errors.py": "def f() -> None:\n" + body * LONGEST_FUNCTION,
            "config.py": "def f() -> None:\n" + body * (LONGEST_FUNCTION - 1),
            "model.py": "\n" * (LONGEST_FILE + 1),
            "stages.py": "\n" * LONGEST_FILE,
        },
    )
    assert long_functions(package) == [f"errors.py:1: f has {LONGEST_FUNCTION + 1} lines"]
    assert long_files(package) == [f"model.py has {LONGEST_FILE + 1} lines"]


@pytest.mark.parametrize(
    "text",
    [
        "def f(x) -> None: ...\n",
        "def f(x: int): ...\n",
        "def f(*x: int, **y) -> None: ...\n",
        "def f(self) -> None: ...\n",
        "class A:\n    @staticmethod\n    def f(x) -> None: ...\n",
        "class A:\n    def f(self, *, x) -> None: ...\n",
        "class A:\n    async def f(self, x): ...\n",
    ],
)
def test_the_checker_catches_a_function_without_types(tmp_path: Path, text: str) -> None:
    (found,) = untyped_functions(made_up(tmp_path, {"errors.py": text}))
    assert found.endswith(": f")
