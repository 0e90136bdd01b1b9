"""The whole configuration: one frozen, typed tree, read from a YAML file over a recipe. Imports no torch."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trelm.errors import ConfigError, did_you_mean

RECIPES = ("recommended", "paper", "quick")


class Section(BaseModel):
    """A frozen mapping that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SourceConfig(Section):
    """The encoder that is transferred, and text in its language."""

    model: str = Field(description="folder or Hub id of the encoder; 'minilm' is the MiniLM of the `demo` extra")
    language: str = Field("en", description="code of the encoder's language")
    text: tuple[str, ...] = Field(description="files, globs or hf:// data sets of text in that language")
    revision: str | None = Field(None, description="Hub revision of the encoder")
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint")


class TargetConfig(Section):
    """The language that the encoder is moved to."""

    language: str = Field(description="code of the target language")
    text: tuple[str, ...] = Field(description="files, globs or hf:// data sets of text in that language")


class TwoFiles(Section):
    """Two line-aligned files."""

    source: str
    target: str


class EvaluationConfig(Section):
    """One evaluation set; its sentences are removed from the training text."""

    task: Literal["translation", "parsing", "text"] = Field(
        description="translation: dictionary 'source<TAB>target' for precision@k of the aligned table; "
        "parsing: CoNLL-U; text: held-out text in the target language"
    )
    name: str | None = Field(None, description="name in the report; the task's name where absent")
    train: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @field_validator("train", "dev", "test", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class BudgetConfig(Section):
    """What the run may cost. Exactly one of the three."""

    minutes: float | None = Field(None, gt=0, description="wall-clock time of the whole command, baseline included")
    tokens: int | None = Field(None, gt=0, description="tokens that each model trains on, padding not counted")
    updates: int | None = Field(None, gt=0, description="optimiser updates of each model")

    @model_validator(mode="after")
    def _exactly_one(self) -> BudgetConfig:
        given = [name for name in ("minutes", "tokens", "updates") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of minutes, tokens, updates (given: {', '.join(given) or 'none'})")
        return self


class CorpusConfig(Section):
    """Cleaning, deduplication, held-out split."""

    min_characters: int = Field(2, ge=1, description="shorter lines are dropped")
    max_characters: int = Field(2000, ge=1, description="longer lines are dropped")
    max_pair_ratio: float = Field(4.0, gt=1, description="pairs whose character lengths differ by more are dropped")
    held_out_fraction: float = Field(0.01, gt=0, lt=0.5, description="share of lines held out, by content hash")
    held_out_lines: int = Field(1500, ge=10, description="at most so many lines a language are held out")
    max_lines: int | None = Field(None, ge=1, description="at most so many lines of each input, from its start")


class VocabularyConfig(Section):
    """METHOD section 1: the joint vocabulary."""

    size: int = Field(80_000, ge=300, description="entries of the joint vocabulary")
    min_frequency: int = Field(2, ge=1, description="rarer subwords get no entry")
    alphabet_limit: int | None = Field(
        None, ge=10, description="characters; default 30,000 for Han scripts, else 1,000"
    )
    lowercase: bool | None = Field(None, description="default: as the source tokenizer does")
    max_lines: int = Field(2_000_000, ge=100, description="lines a language that the vocabulary is trained on")


class EmbeddingsConfig(Section):
    """METHOD section 2: skip-gram vectors of subwords; and the rows that are copied."""

    epochs: int = Field(10, ge=1)
    window: int = Field(5, ge=1)
    negatives: int = Field(10, ge=1)
    max_tokens: int | None = Field(None, ge=1, description="at most so many tokens of each language")
    copy_shared: bool = Field(True, description="entries spelled alike in the source vocabulary take its own vector")


class AlignmentConfig(Section):
    """METHOD section 3."""

    method: Literal["auto", "adversarial", "identical", "parallel", "none"] = "auto"
    normalisation: Literal["none", "unit", "centre-unit"] = Field(
        "centre-unit", description="of both tables before a map is learned; undone afterwards"
    )
    csls_neighbours: int = Field(10, ge=1)
    criterion_entries: int = Field(10_000, ge=10, description="most frequent entries that the criterion is taken over")
    refinement_rounds: int = Field(5, ge=0)
    refinement_entries: int = Field(15_000, ge=10)
    adversarial_epochs: int = Field(5, ge=1)
    adversarial_samples: int = Field(320_000, ge=1, description="samples an epoch that the mapping is trained on")
    adversarial_batch: int = Field(128, ge=2)
    discriminator_width: int = Field(2048, ge=1)
    discriminator_steps: int = Field(5, ge=1)
    discriminator_dropout: float = Field(0.1, ge=0, lt=1)
    smoothing: float = Field(0.1, ge=0, lt=0.5)
    learning_rate: float = Field(0.1, gt=0)
    learning_rate_decay: float = Field(0.98, gt=0, le=1)
    orthogonalisation: float = Field(0.001, ge=0, description="beta of W <- (1 + b) W - b (W W^T) W")
    patience: int = Field(2, ge=1, description="epochs without a better criterion after which the game stops")


class WordLinksConfig(Section):
    """METHOD section 5: statistical word alignment of the parallel text."""

    unit: Literal["subword", "word"] = Field("subword", description="what is linked; words are projected to subwords")
    iterations: int = Field(5, ge=1)
    max_pairs: int | None = Field(None, ge=1, description="pairs that the aligner is trained on; all by default")


class StageConfig(Section):
    """How one stage trains."""

    share: float = Field(ge=0, description="part of the budget, relative to the other stages' shares")
    learning_rate: float = Field(3e-5, gt=0)
    warmup: float = Field(500, ge=0, description="updates (1 or more) or share of the stage's updates (below 1)")
    schedule: Literal["linear", "constant"] = "linear"


class StagesConfig(Section):
    """METHOD section 5: the stages that train (the combination is a mean of two of them)."""

    commonality: StageConfig = StageConfig(share=20_000)
    transfer_upper: StageConfig = StageConfig(share=20_000)
    transfer_lower: StageConfig = StageConfig(share=20_000)
    language_specific: StageConfig = StageConfig(share=80_000)
    scratch: StageConfig = StageConfig(share=1, learning_rate=1e-4)


class TrainingConfig(Section):
    """What all stages share."""

    batch_tokens: int = Field(4096, ge=16, description="tokens of a batch, padding counted")
    max_length: int = Field(128, ge=8, description="tokens of a sequence, special ones counted; longer are cut")
    mask_rate: float = Field(0.15, gt=0, lt=1)
    source_share: float = Field(0.5, ge=0, le=1, description="source-language part of the commonality stage")
    weight_decay: float = Field(0.01, ge=0)
    epsilon: float = Field(1e-6, gt=0, description="of AdamW")
    gradient_clipping: float = Field(5.0, gt=0)
    hidden_dropout: float | None = Field(0.0, ge=0, lt=1, description="null: the encoder's own")
    attention_dropout: float | None = Field(
        0.0, ge=0, lt=1, description="null: the encoder's own; above 0 is slow on CPUs"
    )
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_minutes: float = Field(2.0, gt=0, description="time between checkpoints of a stage")
    log_updates: int = Field(10, ge=1)


class BaselineConfig(Section):
    """The from-scratch model that the transferred one is compared with."""

    scratch: bool = Field(True, description="also train the same architecture from random weights, on an equal budget")


class Config(Section):
    """Everything that a run depends on."""

    source: SourceConfig
    target: TargetConfig
    parallel: tuple[str | TwoFiles, ...] = Field(description="TSV, TMX, hf:// or {source: file, target: file}")
    budget: BudgetConfig
    recipe: Literal["recommended", "paper", "quick"] = "recommended"
    evaluation: tuple[EvaluationConfig, ...] = ()
    seed: int = 1
    corpus: CorpusConfig = CorpusConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    word_links: WordLinksConfig = WordLinksConfig()
    stages: StagesConfig = StagesConfig()
    training: TrainingConfig = TrainingConfig()
    baseline: BaselineConfig = BaselineConfig()

    @model_validator(mode="after")
    def _two_languages(self) -> Config:
        if self.source.language == self.target.language:
            raise ValueError(f"source.language and target.language are both '{self.source.language}'")
        return self


class _Tasks(Section):
    """A file of evaluation sets."""

    evaluation: tuple[EvaluationConfig, ...] = ()


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, lay it over its recipe, apply `a.b=c` overrides, resolve paths against the file's folder.

    Raises:
        ConfigError: no such file, not YAML, unknown key (with the nearest known one), or a value out of range.
    """
    path = Path(path)
    return make_config(override_values(read_yaml(path), overrides), base=path.parent, origin=str(path))


def load_tasks(path: Path) -> tuple[EvaluationConfig, ...]:
    """The evaluation sets that a YAML file lists under `evaluation`, paths resolved against the file's folder.

    Raises:
        ConfigError: no such file, not YAML, unknown key, or no evaluation set.
    """
    values = read_yaml(path)
    _expand_variables(values, str(path))
    _resolve_paths(values, path.parent)
    try:
        tasks = _Tasks.model_validate(values).evaluation
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
    return make_config(read_yaml(path), origin=str(path))


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
    merged = _merge(recipe_values(recipe), values)
    _expand_variables(merged, origin)
    if base is not None:
        _resolve_paths(merged, base)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error)}") from None


def recipe_values(name: str) -> dict[str, Any]:
    """The values of a recipe that the package carries."""
    text = resources.files("trelm").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text) or {})


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a YAML file, found nothing there; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a readable UTF-8 YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "a syntax error"
        raise ConfigError(f"{path}{where}: expected YAML, found {problem}; mend the line") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a mapping of settings, found {type(values).__name__}; see `trelm config show`"
        )
    return values


def dump_config(config: Config) -> str:
    """The configuration as YAML, every default written out; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set {override}: expected name=value, as in --set budget.minutes=30")
    node: Any = values
    keys = name.split(".")
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: '{key}' is a value, not a section")
    value = yaml.safe_load(text)
    if keys[0] == "budget" and len(keys) == 2 and value is not None:
        node.clear()  # the budget is one of three: the new one replaces the old one
    node[keys[-1]] = value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _expand_variables(node: Any, origin: str) -> None:
    """Replace `${NAME}` in every string of the tree by the environment's value, in place."""

    def expand(text: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise ConfigError(
                    f"{origin}: {text}: the environment variable {match[1]} is not set; set it to a folder"
                )
            return os.environ[match[1]]

        return re.sub(r"\$\{(\w+)\}", value, text)

    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items:
        if isinstance(value, str):
            node[key] = expand(value)
        elif isinstance(value, (dict, list)):
            node[key] = dict(value) if isinstance(value, dict) else list(value)
            _expand_variables(node[key], origin)


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make the data paths of the tree absolute, in place; `hf://` names and absolute paths stay."""

    def resolve(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {key: resolve(value) for key, value in entry.items()}
        if isinstance(entry, (list, tuple)):
            return [resolve(value) for value in entry]
        if not isinstance(entry, str) or entry.startswith("hf://"):
            return entry
        return os.path.normpath(base.absolute() / os.path.expanduser(entry))

    for section in ("source", "target"):
        node = values.get(section)
        if isinstance(node, dict) and "text" in node:
            node["text"] = resolve(node["text"] if isinstance(node["text"], list) else [node["text"]])
    source = values.get("source")
    if isinstance(source, dict) and isinstance(source.get("model"), str) and (base / source["model"]).is_dir():
        source["model"] = resolve(source["model"])
    if isinstance(values.get("parallel"), (list, str)):
        parallel = values["parallel"]
        values["parallel"] = resolve(parallel if isinstance(parallel, list) else [parallel])
    for task in values.get("evaluation") or []:
        if isinstance(task, dict):
            task.update({part: resolve(task[part]) for part in ("train", "dev", "test") if part in task})


def _first_problem(error: ValidationError) -> str:
    """One line for the first problem of a validation error: the key's path, what is wrong, the nearest known key."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"] if not _is_union_member(str(part))]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        return f"unknown key '{name}'{did_you_mean(location[-1], known)} (known there: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"'{name}' is missing; see `trelm config show` for what it means"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name or 'config'}: {message}" + (f" (found {problem['input']!r})" if name and location else "")


def _is_union_member(part: str) -> bool:
    return part in ("str", "TwoFiles")


def _known_keys(location: Sequence[str]) -> list[str]:
    """The keys of the section at `location`."""
    model: Any = Config
    for part in location:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        nested = [inner for c in candidates for inner in (c, *getattr(c, "__args__", ()))]
        sections = [c for c in nested if isinstance(c, type) and issubclass(c, Section)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
