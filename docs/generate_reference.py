"""Write docs/reference/config.md from the configuration's own types: python docs/generate_reference.py"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trelm.config import Config, Section

PAGE = Path(__file__).parent / "reference" / "config.md"

HEADER = """\
# Configuration

Every key, with the default that holds where neither your file nor the recipe names it. A recipe (`recommended`,
`paper`, `quick`) is a YAML file of the package that is laid over these defaults; your file is laid over the recipe, and
`--set name=value` over your file. `trelm config show` prints the result. An unknown key is refused.

Relative paths are taken from the folder of the file; `${NAME}` is replaced by the environment variable of that name.

<!-- Written by docs/generate_reference.py; edit the descriptions in src/trelm/config/. -->
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(reference_page(), encoding="utf-8")


def reference_page() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEADER, *section_lines(Config, "")]).rstrip() + "\n"


def section_lines(model: type[Section], names: str) -> list[str]:
    """Heading, sentence and table of one kind of section, then those of the sections below it, each kind once."""
    head = [
        f"## {names or 'The top'}",
        "",
        _sentence(model),
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    rows = [_row(key, field) for key, field in model.model_fields.items()]
    below: dict[type[Section], list[str]] = {}
    for key, field in model.model_fields.items():
        for section in _sections(field.annotation):
            below.setdefault(section, []).append(f"`{_below(names.strip('`'), key, field)}`")
    return [
        *head,
        *rows,
        "",
        *(line for kind, where in below.items() for line in section_lines(kind, ", ".join(where))),
    ]


def _below(name: str, key: str, field: FieldInfo) -> str:
    return ".".join(part for part in (name, key) if part) + ("[]" if get_origin(field.annotation) is tuple else "")


def _sentence(model: type[Section]) -> str:
    return " ".join((model.__doc__ or "").split())


def _row(key: str, field: FieldInfo) -> str:
    sections = _sections(field.annotation)
    meaning = field.description or " ".join(_sentence(section) for section in sections) or ""
    cells = [f"`{key}`", _type_name(field.annotation), _default(field), meaning]
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"


def _default(field: FieldInfo) -> str:
    default: Any = field.default
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, Section):
        return (
            ", ".join(f"{key}: {_plain(value)}" for key, value in default.model_dump().items())
            if _is_leaf(default)
            else ""
        )
    return f"`{_plain(default)}`"


def _is_leaf(section: Section) -> bool:
    """Whether a default differs from section to section, so that the table has to show it where it is used."""
    return any(field.is_required() for field in type(section).model_fields.values())


def _plain(value: Any) -> str:
    """A value as YAML writes it."""
    names = {None: "null", True: "true", False: "false", (): "[]"}
    return names[value] if isinstance(value, bool | tuple | types.NoneType) and value in names else str(value)


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections(inner)]


def _type_name(annotation: Any) -> str:
    """A type in the words of someone who writes YAML."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", types.NoneType: "null"}
    names[Any] = "any value"
    origin, inner = get_origin(annotation), [part for part in get_args(annotation) if part is not Ellipsis]
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return f"list of {_type_name(inner[0])}"
    if origin is dict:
        return f"mapping of {_type_name(inner[0])} to {_type_name(inner[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(part) for part in inner)
    if _sections(annotation) and isinstance(annotation, type):
        return "mapping"
    return names[annotation] if annotation in names else _type_name(inner[0])


if __name__ == "__main__":
    main()
