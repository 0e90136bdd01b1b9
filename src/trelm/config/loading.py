"""Reading a configuration: a YAML file over a recipe, overrides, paths and variables, and what is wrong with it."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from trelm.config.evaluation import EvaluationConfig, TasksConfig
from trelm.config.section import Section
from trelm.config.sections import ONE_NAME, TWO_FILES, Config
from trelm.errors import ConfigError, did_you_mean

RECIPES = ("recommended", "paper", "quick")
CARD_FILE = "card.yaml"
LONGEST_FILE = 4_000_000  # characters; that of a run names each of its input files in a comment
DEEPEST = 40  # levels; the configuration has six
MOST_VALUES = 100_000  # with every alias copied out
RETIRED = (("source", "trust_remote_code"),)  # keys that older runs have written, and that mean nothing any more


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, lay it over its recipe, apply `a.b=c` overrides, resolve paths against the file's folder.

    Raises:
        ConfigError: no such file, not YAML, unknown key (with the nearest known one), or a value out of range.
    """
    path = Path(path)
    return make_config(override_values(read_yaml(path), overrides), base=path.parent, origin=str(path))


def load_tasks(path: Path) -> tuple[EvaluationConfig, ...]:
    """The evaluation sets that a YAML file lists under `evaluation`, paths resolved against the file's folder.

    Of a run's whole configuration, nothing else is read.

    Raises:
        ConfigError: no such file, not YAML, unknown key, or no evaluation set.
    """
    values = read_yaml(path)
    if values.keys() & (Config.model_fields.keys() - TasksConfig.model_fields.keys()):
        values = {"evaluation": values.get("evaluation", [])}
    _expand_variables(values, str(path))
    _resolve_paths(values, path.parent)
    try:
        tasks = TasksConfig.model_validate(values).evaluation
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from None
    if not tasks:
        raise ConfigError(f"{path}: expected evaluation sets under 'evaluation', found none; list at least one")
    return tasks


def read_run_config(folder: Path) -> Config:
    """The configuration that a run folder belongs to.

    Raises:
        ConfigError: it is no run folder.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise ConfigError(f"{folder}: expected a run folder with a config.yaml, found none; give the --run folder")
    card = folder / CARD_FILE
    values = {**read_yaml(path), **(read_yaml(card) if card.exists() else {})}
    for section, key in RETIRED:
        if isinstance(values.get(section), dict):
            values[section].pop(key, None)
    return make_config(values, origin=str(path))


def override_values(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of plain values with `a.b=c` overrides applied.

    Raises:
        ConfigError: an override without a value, or one that goes through something that is no section.
    """
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply_override(changed, override)
    return changed


def make_config(values: Mapping[str, Any], *, base: Path | None = None, origin: str = "config") -> Config:
    """A `Config` from plain values over the recipe that they name; relative paths are taken from `base`."""
    recipe = values.get("recipe", "recommended")
    if recipe not in RECIPES:
        raise ConfigError(f"{origin}: recipe: unknown recipe '{recipe}' (known: {', '.join(RECIPES)})"
                          f"{did_you_mean(str(recipe), RECIPES)}")  # fmt: skip
    merged = _plain(lay_over(recipe_values(recipe), values))
    _check_licensed(merged, origin)
    _expand_variables(merged, origin)
    if base is not None:
        _resolve_paths(merged, base)
    _rename_licensed(merged, origin, base)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error)}") from None


def recipe_values(name: str) -> dict[str, Any]:
    """The values of a recipe that the package carries."""
    text = resources.files("trelm").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text) or {})


class _StrictLoader(yaml.SafeLoader):
    """Makes plain values only, and refuses a key that stands twice: YAML would silently take the last."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check_unfolded(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):  # PyYAML's own, for values unlike their tag
            found = f"'{str(node.value)[:60]}', which is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _check_unfolded(root: yaml.Node) -> None:
    """Refuse a document that its aliases or its brackets would blow up when what they stand for is copied out."""
    sizes: dict[int, int] = {}  # values below a node, aliases unfolded, by its identity; 0 while it is being counted
    pending = [(root, 1)]
    while pending:
        node, depth = pending[-1]
        below = [inner for pair in node.value for inner in (pair if isinstance(pair, tuple) else (pair,))
                 ] if isinstance(node, yaml.CollectionNode) else []  # fmt: skip
        if id(node) not in sizes:
            sizes[id(node)] = 0
            if depth > DEEPEST:
                raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} levels", node.start_mark)
            if any(sizes.get(id(inner)) == 0 for inner in below):
                raise yaml.composer.ComposerError(None, None, "an alias inside what it names", node.start_mark)
            pending += [(inner, depth + 1) for inner in below if id(inner) not in sizes]
            continue
        pending.pop()
        sizes[id(node)] = 1 + sum(sizes[id(inner)] for inner in below)
        if sizes[id(node)] > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_VALUES:,} values", node.start_mark)


def _load_yaml(text: str) -> Any:
    """The value of a YAML document, by plain values only.

    Raises:
        yaml.YAMLError: also where it is too long or nested too deeply.
    """
    if len(text) > LONGEST_FILE:
        raise yaml.YAMLError(f"more than {LONGEST_FILE:,} characters")
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except RecursionError:  # the parser itself gives up long after the depth that is allowed
        raise yaml.YAMLError(f"more than {DEEPEST} levels") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        with path.open(encoding="utf-8") as stream:
            values = _load_yaml(stream.read(LONGEST_FILE + 1))
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a YAML file, found nothing there; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a readable UTF-8 YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{where}: expected YAML, found {_yaml_problem(error)}; mend the line") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{path}: expected a mapping of settings, found {kind}; see `trelm config show`")
    return values


def _yaml_problem(error: yaml.YAMLError) -> str:
    own = str(error) if type(error) is yaml.YAMLError else "a syntax error"
    return str(getattr(error, "problem", None) or own).removeprefix("found ")


def dump_config(config: Config, *, card: bool = True) -> str:
    """The configuration as YAML, every default written out; `load_config` reads it back to an equal one.

    Args:
        card: with the section `card`, on which nothing depends that is computed.
    """
    values = config.model_dump(mode="json", exclude=None if card else {"card"})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def dump_card(config: Config) -> str:
    """The section `card` alone as YAML: what `read_run_config` expects in `card.yaml` beside a run's `config.yaml`."""
    return yaml.safe_dump(config.model_dump(mode="json", include={"card"}), sort_keys=False, allow_unicode=True)


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not all(name.split(".")):
        raise ConfigError(f"--set {override}: expected name=value, as in --set budget.minutes=30")
    node: Any = values
    keys = name.split(".")
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: '{key}' is a value, not a section")
    try:
        value = _load_yaml(text)
    except yaml.YAMLError as error:
        problem = _yaml_problem(error)
        raise ConfigError(f"--set {override}: expected a YAML value, found {problem}; put it in quotes") from None
    if keys[0] == "budget" and len(keys) == 2 and value is not None:
        node.clear()  # the budget is one of three: the new one replaces the old one
    node[keys[-1]] = value


def lay_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = lay_over(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _plain(value: Any) -> Any:
    """A deep copy in mappings and lists, as YAML would give it: from Python, tuples and sections may come."""
    value = value.model_dump() if isinstance(value, BaseModel) else value
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _data_licences(values: Mapping[str, Any]) -> dict[Any, Any] | None:
    """`card.data_licenses`, where it is a mapping."""
    card = values.get("card")
    licences = card.get("data_licenses") if isinstance(card, dict) else None
    return licences if isinstance(licences, dict) else None


def _check_licensed(values: Mapping[str, Any], origin: str) -> None:
    """Refuse a licence of something that the configuration does not name, before any name is resolved."""
    known = list(dict.fromkeys(_input_names(values)))
    for name in _data_licences(values) or {}:
        if isinstance(name, str) and name not in known:
            raise ConfigError(
                f"{origin}: card.data_licenses: unknown input '{name}'{did_you_mean(name, known)} "
                f"(known: {', '.join(known)})"
            )


def _input_names(values: Mapping[str, Any]) -> Iterator[str]:
    """Every name under which an input or an evaluation set stands in the tree; what is malformed is left out."""
    for section in ("source", "target"):
        node = values.get(section)
        yield from _texts(node.get("text") if isinstance(node, dict) else None)
    parallel = values.get("parallel")
    for entry in parallel if isinstance(parallel, list) else [parallel]:
        yield from _texts([entry.get("source"), entry.get("target")] if isinstance(entry, dict) else entry)
    tasks = values.get("evaluation")
    for task in tasks if isinstance(tasks, list) else []:
        yield from _texts(task.get("name") or task.get("task") if isinstance(task, dict) else None)


def _texts(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _expand_variables(node: Any, origin: str) -> None:
    """Replace `${NAME}` in every string of the tree by the environment's value, in place."""
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items:
        if isinstance(value, str):
            node[key] = _expand(value, origin)
        else:
            _expand_variables(value, origin)


def _expand(text: str, origin: str) -> str:
    if re.search(r"[\x00\ud800-\udfff]", text):
        raise ConfigError(f"{origin}: {text}: expected text, found a NUL or half a character; take it out")

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{origin}: {text}: the environment variable {match[1]} is not set; set it to a folder")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _rename_licensed(values: dict[str, Any], origin: str, base: Path | None) -> None:
    """Give the keys of `card.data_licenses` the names that the inputs have by now, in place."""
    licences = _data_licences(values) or {}
    known = set(_input_names(values))
    for name in [name for name in licences if isinstance(name, str)]:
        expanded = _expand(name, origin)
        current = expanded if base is None else _absolute(expanded, base)
        licence = licences[name] if name in known else licences.pop(name)  # an evaluation set may be called like a file
        if current in known:
            licences[current] = licence


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make the data paths of the tree absolute, in place; `hf://` names and absolute paths stay."""
    resolve = partial(_absolute, base=base)
    for section in ("source", "target"):
        node = values.get(section)
        if isinstance(node, dict) and "text" in node:
            node["text"] = resolve(node["text"] if isinstance(node["text"], list) else [node["text"]])
    embeddings = values.get("embeddings")
    if isinstance(embeddings, dict) and "dictionary" in embeddings:
        embeddings["dictionary"] = resolve(embeddings["dictionary"])
    source = values.get("source")
    for key in ("model", "tokenizer"):
        if isinstance(source, dict) and isinstance(source.get(key), str) and os.path.isdir(resolve(source[key])):
            source[key] = resolve(source[key])
    if isinstance(values.get("parallel"), (list, str)):
        parallel = values["parallel"]
        values["parallel"] = resolve(parallel if isinstance(parallel, list) else [parallel])
    tasks = values.get("evaluation")
    for task in tasks if isinstance(tasks, list) else []:
        if isinstance(task, dict):
            task.update({part: resolve(task[part]) for part in ("train", "dev", "test") if part in task})


def _absolute(entry: Any, base: Path) -> Any:
    if isinstance(entry, dict):
        return {key: _absolute(value, base) for key, value in entry.items()}
    if isinstance(entry, (list, tuple)):
        return [_absolute(value, base) for value in entry]
    if not isinstance(entry, str) or entry.startswith("hf://"):
        return entry
    return os.path.normpath(base.absolute() / os.path.expanduser(entry))


# What pydantic's kinds of errors mean to someone who writes YAML: what was expected, what to do.
_EXPECTED = {
    "string_type": ("text", "write one text there, in quotes"),
    "string_too_short": ("text", "fill it in"),
    "tuple_type": ("a list", "write it as [first, second]"),
    "too_short": ("at least one entry", "add one"),
    "model_type": ("a mapping of settings", "write it as {name: value}"),
    "dict_type": ("a mapping", "write it as {name: value}"),
    "int_type": ("a whole number", "write it in digits, as in 1000000"),
    "int_parsing": ("a whole number", "write it in digits, as in 1000000"),
    "float_parsing": ("a number", "write it as in 0.5"),
    "finite_number": ("a finite number", "choose one"),
    "invalid_key": ("names as keys", "put the key in quotes"),
}


def _first_problem(error: ValidationError) -> str:
    """One line for the first problem of a validation error: the key's path, what is wrong, the nearest known key."""
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # it explains a missing key
    location = [str(part) for part in problem["loc"] if part not in (ONE_NAME, TWO_FILES, "[key]")]
    name = ".".join(location) or "config"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        return f"unknown key '{name}'{did_you_mean(location[-1], known)} (known there: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"'{name}' is missing; see `trelm config show` for what it means"
    found = repr(problem["input"]) if problem["input"] not in (None, "", (), []) else "nothing"
    if problem["type"] in _EXPECTED:
        expected, hint = _EXPECTED[problem["type"]]
        hint += " (YAML reads a bare no, yes, on or off as true or false)" if isinstance(problem["input"], bool) else ""
        return f"{name}: expected {expected}, found {found}; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    nearest = did_you_mean(str(problem["input"]), re.findall("'([^']*)'", message))
    of_section = isinstance(problem["input"], Mapping)  # whose message names what was found in it
    return f"{name}: {message}" + (f" (found {found}){nearest}" if location and not of_section else "")


def _known_keys(location: Sequence[str]) -> list[str]:
    """The keys of the section at `location`."""
    model: type[Section] = Config
    for part in location:
        if not part.isdigit():
            model = next(_sections(model.model_fields[part].annotation))
    return list(model.model_fields)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
