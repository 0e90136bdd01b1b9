"""What the cells of a comparison share: each step of preparation is done once for all arms that need it alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from trelm.comparison.arms import Arm
from trelm.config import Config
from trelm.progress import Progress, StepProgress
from trelm.steps.context import (
    ALIGNMENT,
    CORPUS,
    EMBEDDINGS,
    HEAD,
    TOKENS,
    VOCABULARY,
    WORD_LINKS,
    Context,
    Figures,
    RunStep,
    carry_out,
)
from trelm.steps.head import fit_head
from trelm.steps.preparation import (
    align_embeddings,
    build_vocabulary,
    link_words,
    prepare_corpus,
    tokenize,
    train_vectors,
)
from trelm.training.checkpoints import remove_checkpoints
from trelm.vocabulary import encode_lines
from trelm.workspace import Run, Step, digest

SOURCE_TOKENS = "source-tokens"
PREPARED = "prepared"


@dataclass(frozen=True)
class SharedStep:
    """A step of preparation, what its result depends on, and the steps that it reads."""

    step: RunStep
    settings: Mapping[str, tuple[str, ...]]
    after: tuple[str, ...] = ()


SOURCE_MODEL = ("model", "revision", "tokenizer")
ROW_SETTINGS = ("initialisation", "dictionary", "min_links", "copy_shared")  # read when rows are made, not before


def encode_with_source(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """The target text as ids of the source's own tokenizer."""
    ids, _ = encode_lines(context.pretrained.tokenizer, context.lines("target.txt"), max_pieces=None)
    ids.save(folder, "target")
    return {}


STEPS: dict[str, SharedStep] = {
    CORPUS: SharedStep(
        RunStep(CORPUS, prepare_corpus),
        {"source": ("language", "text"), "target": (), "parallel": (), "evaluation": (), "corpus": ()},
    ),
    HEAD: SharedStep(
        RunStep(HEAD, fit_head, resumes=True), {"source": SOURCE_MODEL, "head": (), "training": ()}, (CORPUS,)
    ),
    VOCABULARY: SharedStep(
        RunStep(VOCABULARY, build_vocabulary), {"source": SOURCE_MODEL, "vocabulary": ()}, (CORPUS,)
    ),
    TOKENS: SharedStep(RunStep(TOKENS, tokenize), {}, (VOCABULARY,)),
    SOURCE_TOKENS: SharedStep(RunStep(SOURCE_TOKENS, encode_with_source), {"source": SOURCE_MODEL}, (CORPUS,)),
    WORD_LINKS: SharedStep(RunStep(WORD_LINKS, link_words), {"word_links": ()}, (TOKENS,)),
    EMBEDDINGS: SharedStep(RunStep(EMBEDDINGS, train_vectors), {"embeddings": ()}, (TOKENS,)),
    ALIGNMENT: SharedStep(RunStep(ALIGNMENT, align_embeddings), {"alignment": ()}, (EMBEDDINGS, WORD_LINKS)),
}


@dataclass(frozen=True)
class CellRun(Run):
    """A run folder some of whose steps lie elsewhere, where other cells find them too."""

    prepared: Mapping[str, Path] = field(default_factory=dict)

    def step(self, name: str) -> Step:
        return Step(name, self.prepared.get(name, self.folder / name))


def needed_steps(arm: Arm) -> list[str]:
    """The steps of preparation of an arm, in order."""
    tokens = [SOURCE_TOKENS] if arm.start == "source" else [VOCABULARY, TOKENS]
    wanted = {CORPUS, *tokens, *arm.prepares}
    return [name for name in STEPS if name in wanted]


def step_digest(config: Config, name: str, inputs: Iterable[str]) -> str:
    """What the result of a step depends on: its settings, the seed, and the same of all that it reads."""
    shared = STEPS[name]
    values: dict[str, Any] = {}
    for section, keys in shared.settings.items():
        value = config.model_dump(mode="json", include={section})[section]
        if section == "embeddings":
            values[section] = {key: one for key, one in value.items() if key not in ROW_SETTINGS}
        elif section == "evaluation":  # whose sentences are removed from the text; how models are tuned matters not
            values[section] = [[task[key] for key in ("task", "train", "dev", "test")] for task in value]
        else:
            values[section] = {key: value[key] for key in keys} if keys else value
    if name == WORD_LINKS and config.stages.teaches:
        values["teaches"] = True  # what a teacher needs lies with the links
    above = [step_digest(config, other, inputs) for other in shared.after]
    return digest([name, values, config.seed, above, list(inputs) if name == CORPUS else []])


def places(config: Config, arm: Arm, root: Path, inputs: list[str]) -> dict[str, Path]:
    """Where each step of the arm's preparation lies; `config` has the comparison's own seed."""
    return {name: root / PREPARED / f"{name}-{step_digest(config, name, inputs)}" for name in needed_steps(arm)}


def claimed(config: Config) -> str:
    """The configuration without what may grow: arms and seeds can be added to a comparison."""
    values = config.model_dump(mode="json", exclude={"card": True, "comparison": {"arms", "seeds", "variants"}})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def plan_preparation(
    configs: Mapping[str, tuple[Arm, Config]], root: Path, inputs: list[str]
) -> dict[Path, tuple[str, Config, dict[str, Path]]]:
    """Every step that any arm needs, each once: its folder -> its name, a configuration that it is for, all places."""
    plan: dict[Path, tuple[str, Config, dict[str, Path]]] = {}
    for arm, config in configs.values():
        there = places(config, arm, root, inputs)
        for name, folder in there.items():
            plan.setdefault(folder, (name, config, there))
    order = list(STEPS)
    return dict(sorted(plan.items(), key=lambda item: order.index(item[1][0])))


def prepare_all(plan: Mapping[Path, tuple[str, Config, dict[str, Path]]], root: Path, progress: Progress) -> None:
    """Do what is not done."""
    for folder, (name, config, there) in plan.items():
        step, place = STEPS[name].step, Step(name, folder)
        inputs = folder.name
        if place.is_done(inputs):
            remove_checkpoints(folder)
            progress.skip(f"prepare: {name}")
            continue
        context = Context(config, CellRun(root, there))
        with progress.step(f"prepare: {name}") as tell:
            carry_out(place, inputs, partial(step.work, context, folder, tell), resumes=step.resumes, note=tell.note)
