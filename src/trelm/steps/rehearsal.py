"""A run in small, to see how fast this machine is: the steps' own functions on a sample of the user's text, timed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trelm.alignment.adversarial import Game
from trelm.alignment.criterion import NULL_DRAWS, mean_cosine_criterion, refine
from trelm.config import Config
from trelm.progress import Progress, StepProgress
from trelm.stages import COMBINATION, START, StageData, combines
from trelm.steps.context import (
    ALIGNMENT,
    CORPUS,
    DIAGNOSIS,
    EMBEDDINGS,
    EVALUATION,
    EXPORT,
    HEAD,
    MODEL,
    PLAN,
    TOKENS,
    VOCABULARY,
    WORD_LINKS,
    Context,
    Figures,
    StepFunction,
    carry_out,
    use_all_cores,
)
from trelm.steps.diagnosis import diagnose_start
from trelm.steps.export import write_export
from trelm.steps.head import fit, fitting_of, inputs_of
from trelm.steps.head_cache import HEAD_FILE, is_kept, remembered, write_head
from trelm.steps.initialisation import linked_pairs
from trelm.steps.outcome import evaluate_models
from trelm.steps.preparation import (
    align_embeddings,
    alignment_inputs,
    build_models,
    build_vocabulary,
    game_settings,
    link_words,
    prepare_corpus,
    tokenize,
    train_vectors,
)
from trelm.steps.rates import AlignmentCost, Amounts, HeadCost, Line, Machine, Part, ScoringCost
from trelm.steps.text_sizes import Item
from trelm.steps.training import (
    STAGE_FOLDERS,
    combine_halves,
    load_model,
    measure,
    planned_stages,
    save_model,
    stage_data,
)
from trelm.workspace import Run

HEAD_UPDATES, DIAGNOSIS_UPDATES, ROUNDS = 20, 10, 1
REHEARSED_UPDATES = 20  # of each kind of stage
VECTOR_TOKENS = 300_000  # that skip-gram reads, of both languages and in all epochs
HELD_OUT_LINES = 200
GAME_STEPS = 50
ALL_TRAINS = {"max_target_lines": None, "max_pairs": None, "development_lines": 0}  # what limits leave is reckoned
SMALLER = 8  # the first of two samples is so many times smaller, which parts what a step costs from what a line costs
LEAST_LINES = 800  # of the larger sample, for there to be a smaller one
SIZED: dict[str, StepFunction] = {
    CORPUS: prepare_corpus,
    VOCABULARY: build_vocabulary,
    TOKENS: tokenize,
    WORD_LINKS: link_words,
    EMBEDDINGS: train_vectors,
}
"""Steps whose time grows with the text, in their order."""
AFTER: dict[str, StepFunction] = {ALIGNMENT: align_embeddings, MODEL: build_models, DIAGNOSIS: diagnose_start}
INPUTS, END = "rehearsal", "end"


@dataclass
class Watched(StepProgress):
    """Tells on, and keeps the moment of everything that is told: (what, seconds)."""

    moments: list[tuple[str, float]] = field(default_factory=list)

    @staticmethod
    def over(tell: StepProgress) -> Watched:
        """One that tells on to `tell`."""
        return Watched(tell.label, tell._voice, tell._rate)

    def update(self, done: float, total: float | None = None, unit: str = "", **figures: float) -> None:
        self.moments.append((unit, time.perf_counter()))
        super().update(done, total, unit, **figures)

    def note(self, text: str) -> None:
        """Of a sample, what a step says would mislead: it is not told on."""
        self.moments.append((text, time.perf_counter()))

    def moment_of(self, beginning: str) -> float:
        """When what begins so was told last."""
        return [moment for told, moment in self.moments if told.startswith(beginning)][-1]

    def seconds_each(self, unit: str) -> float:
        """Mean seconds from one update of a unit to the next; 0 where there are fewer than two."""
        times = [moment for told, moment in self.moments if told == unit]
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


@dataclass(frozen=True)
class Samples:
    """Text of each kind to rehearse on, and whether each is all that there is."""

    source: Sequence[Item]
    target: Sequence[Item]
    pairs: Sequence[Item]
    are_whole: bool

    def smaller(self) -> Samples | None:
        """An eighth of each; None where that would be too little, or where there is nothing to extrapolate to."""
        if self.are_whole or min(map(len, (self.source, self.target, self.pairs))) < LEAST_LINES:
            return None
        return Samples(self.source[::SMALLER], self.target[::SMALLER], self.pairs[::SMALLER], are_whole=False)


def rehearse(context: Context, samples: Samples, folder: Path, progress: Progress) -> tuple[Machine, StageData]:
    """Do the run's steps on a sample, in `folder`, and time them; nothing is written elsewhere.

    Args:
        context: of the run that is planned.

    Returns:
        What was found, and the data that the training updates were measured on.

    Raises:
        TrelmError: what the run itself would stop at.
    """
    use_all_cores()
    small, earlier = samples.smaller(), None
    if small is not None:
        earlier = Rehearsal.begin(context, small, folder / "small")
        with progress.step("a smaller sample") as tell:
            for name, work in SIZED.items():
                earlier.do(name, work, Watched.over(tell))
    rehearsal = Rehearsal.begin(context, samples, folder / "large")
    for name, work in rehearsal.preparation().items():
        with progress.step(name) as tell:
            rehearsal.do(name, work, Watched.over(tell))
    data = stage_data(rehearsal.context)
    with progress.step("training updates") as tell:
        per_update = rehearsal.updates(data, tell)
    with progress.step("evaluation and export") as tell:
        rehearsal.finish(tell)
        machine = rehearsal.machine(earlier, per_update)
    return machine, data


def steps_of_rehearsal(context: Context, samples: Samples) -> int:
    """How many steps `rehearse` tells of."""
    head = in_small(context, Path(), samples.are_whole).head.updates > 0
    return len(SIZED) + len(AFTER) + head + (samples.smaller() is not None) + 2


def in_small(context: Context, folder: Path, whole: bool) -> Config:
    """The configuration of a rehearsal on the text in `folder`."""
    config = context.config
    head = 0 if context.pretrained.has_head else min(config.head.updates, HEAD_UPDATES)
    alignment, epochs = config.alignment, config.embeddings.epochs
    held_out = config.corpus.held_out_lines if whole else min(config.corpus.held_out_lines, HELD_OUT_LINES)
    tokens = min(config.embeddings.max_tokens or VECTOR_TOKENS, max(1000, VECTOR_TOKENS // (2 * epochs)))
    changes: dict[str, dict[str, Any]] = {
        "source": {"text": (str(folder / "source.txt"),), "stream": ()},
        "target": {"text": (str(folder / "target.txt"),), "stream": ()},
        "corpus": {"held_out_lines": held_out, "max_lines": None, **({} if whole else ALL_TRAINS)},
        "head": {"updates": head},
        "embeddings": {"max_tokens": tokens},
        "alignment": {
            "refinement_rounds": min(alignment.refinement_rounds, ROUNDS),
            "restarts": 0,
            "adversarial_epochs": 1,
            "adversarial_samples": alignment.adversarial_batch,
        },
        "diagnosis": {"head_updates": min(config.diagnosis.head_updates, DIAGNOSIS_UPDATES)},
        "training": {"log_updates": 1},
        "baseline": {"scratch": False},
    }
    sections = {name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    return config.model_copy(update={**sections, "parallel": (str(folder / "pairs.tsv"),)})


@dataclass
class Rehearsal:
    """One sample's run folder, and what was timed in it besides whole steps.

    Attributes:
        planned: the run that is planned. whole: whether the sample is all of its text.
    """

    context: Context
    planned: Context
    whole: bool
    told: dict[str, Watched] = field(default_factory=dict)
    moving: float = 0.0
    head_update: float = 0.0

    @staticmethod
    def begin(planned: Context, samples: Samples, folder: Path) -> Rehearsal:
        """Write the sample's text."""
        folder.mkdir(parents=True)
        texts = {"source.txt": samples.source, "target.txt": samples.target, "pairs.tsv": samples.pairs}
        for name, items in texts.items():
            lines = ("\t".join(" ".join(side.split()) for side in item) for item in items)
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        context = Context(in_small(planned, folder, samples.are_whole), Run(folder / "run"))
        context.__dict__["pretrained"] = planned.pretrained  # loaded once
        return Rehearsal(context, planned, samples.are_whole)

    def do(self, name: str, work: StepFunction, tell: Watched) -> None:
        """One step, timed in its manifest."""
        place = self.context.run.step(name)
        self.told[name] = tell
        carry_out(place, INPUTS, partial(work, self.context, place.folder, tell), resumes=False, note=tell.note)
        tell.note(END)

    def seconds(self, name: str) -> float:
        """Of a step that is done."""
        return float(self.context.figures(name)["seconds"])

    def preparation(self) -> dict[str, StepFunction]:
        """All steps before training, in their order."""
        head: dict[str, StepFunction] = {HEAD: self._fit_head} if self.context.config.head.updates else {}
        corpus, *others = SIZED
        return {corpus: SIZED[corpus], **head, **{name: SIZED[name] for name in others}, **AFTER}

    def updates(self, data: StageData, tell: StepProgress) -> dict[str, float]:
        """Seconds of an update of each stage; and the last stage's model, untrained, where it belongs."""
        started = time.perf_counter()
        model = load_model(self.context, START)
        stages = planned_stages(self.context.config)
        model.config.plainness = 1.0  # it folds into a plain model so
        save_model(model, self.context.folder(STAGE_FOLDERS[stages[-1].name]))
        self.moving = time.perf_counter() - started
        model.config.plainness = 0.0
        return measure(
            self.context,
            model,
            stages,
            data,
            lambda done, total: tell.update(done, total, "kinds of stages"),
            updates=REHEARSED_UPDATES,
        )

    def finish(self, tell: StepProgress) -> None:
        """Combination, evaluation and export, of models that were not trained."""
        names = [stage.name for stage in planned_stages(self.context.config)]
        untrained = {"updates": 0, "tokens": 0}
        for name in names:
            place = self.context.run.step(STAGE_FOLDERS[name])
            if not place.folder.exists():
                shutil.copytree(self.context.folder(MODEL) / "start", place.folder / "model")
            place.finish(INPUTS, untrained)
        plan = self.context.run.step(PLAN)
        plan.folder.mkdir(parents=True)
        plan.finish(INPUTS, {"updates": dict.fromkeys(names, 0), "baseline_rule": ""})
        if combines(planned_stages(self.context.config)):
            self.do(STAGE_FOLDERS[COMBINATION], combine_halves, Watched.over(tell))
        sets = tuple(task for task in self.context.config.evaluation if task.task == "translation")
        whole = self.context
        self.context = _like(whole, whole.config.model_copy(update={"evaluation": sets}))
        self.do(EVALUATION, evaluate_models, Watched.over(tell))
        self.context = whole
        self.do(EXPORT, write_export, Watched.over(tell))

    def machine(self, earlier: Rehearsal | None, per_update: dict[str, float]) -> Machine:
        """What was found."""
        amounts, config = self.amounts(), self.context.config
        work = {name: (amounts.work(config)[name], self.seconds(name)) for name in SIZED}
        before = dict.fromkeys(SIZED) if earlier is None else earlier.timed()
        linking = _seconds(lambda: linked_pairs(self.context))
        return Machine(
            amounts=amounts,
            whole=self.whole,
            held_out=(len(self.context.lines("target-held-out.txt")), len(self.context.lines("parallel-held-out.tsv"))),
            sized={name: Line.through(before[name], work[name]) for name in SIZED},
            vocabulary=len(self.context.tokenizer),
            head=self._head_cost() if config.head.updates else None,
            alignment=self._alignment_cost(),
            model=self.seconds(MODEL),
            diagnosis=self.seconds(DIAGNOSIS),
            diagnosis_updates=config.diagnosis.head_updates,
            diagnosis_update=self.told[DIAGNOSIS].seconds_each("updates of the head"),
            linking=linking,
            moving=self.moving,
            combination=self.seconds(STAGE_FOLDERS[COMBINATION]) if combines(planned_stages(config)) else 0.0,
            scoring=self._scoring_cost(),
            per_update=per_update,
            disk={name: _size(self.context.folder(name)) for name in (*SIZED, *AFTER, EXPORT)},
        )

    def timed(self) -> dict[str, tuple[float, float] | None]:
        """Work and seconds of the steps that grow with the text."""
        work = self.amounts().work(self.context.config)
        return {name: (work[name], self.seconds(name)) for name in SIZED}

    def amounts(self) -> Amounts:
        """The sample as the steps have counted it."""
        written, tokens = self.context.figures(CORPUS)["outputs"], self.context.figures(TOKENS)
        pairs = self.context.lines("parallel.tsv")
        characters = [sum(len(line.split("\t")[side]) for line in pairs) for side in (0, 1)]
        counts = [tokens[f"parallel-{side}"]["tokens"] for side in ("source", "target")]
        sides = [Part(len(pairs), *one) for one in zip(characters, counts, strict=True)]
        text = [
            Part(written[f"{name}.txt"]["lines"], written[f"{name}.txt"]["characters"], tokens[name]["tokens"])
            + side.times(-1)
            for name, side in zip(("source", "target"), sides, strict=True)
        ]
        lengths = [self.context.tokens(f"parallel-{side}").lengths() for side in ("source", "target")]
        folder = Path(self.context.config.source.text[0]).parent
        read = sum(len((folder / name).read_text("utf-8")) for name in ("source.txt", "target.txt", "pairs.tsv"))
        return Amounts(read, text[0], text[1], sides[0], sides[1], cells=float((lengths[0] * lengths[1]).sum()))

    def _fit_head(self, context: Context, folder: Path, tell: StepProgress) -> Figures:
        """As `fit_head`, but that nothing is kept for other runs."""
        fitting = fitting_of(context)
        head = fit(context.pretrained, fitting, folder, tell)
        write_head(folder / HEAD_FILE, head.weights)
        text = {"characters": sum(map(len, fitting.lines)), "held_out_lines": len(fitting.held_out)}
        return {"fitted": True, **head.figures, **text}

    def _head_cost(self) -> HeadCost:
        figures = self.context.figures(HEAD)
        moments = [moment for unit, moment in self.told[HEAD].moments if unit == "updates"]
        update = self.told[HEAD].seconds_each("updates") or figures["fit_seconds"] / len(moments)
        return HeadCost(
            update=update,
            around=figures["seconds"] - figures["fit_seconds"],
            text=Part(figures["lines"], figures["characters"], 0),
            held_out=figures["held_out_lines"],
            is_kept=self._head_is_kept(),
        )

    def _head_is_kept(self) -> bool:
        """Whether an earlier run has left the head: of this text, which the sample may be, or of these inputs."""
        known = remembered(inputs_of(self.planned))
        if known is None and self.whole:
            config = self.planned.config
            own = self.context.config.model_copy(update={"head": config.head, "training": config.training})
            known = fitting_of(_like(self.context, own)).digest(self.planned.pretrained)
        return known is not None and is_kept(known)

    def _alignment_cost(self) -> AlignmentCost:
        settings, figures = self.context.config.alignment, self.context.figures(ALIGNMENT)
        tried, seconds = figures["candidates"], figures["seconds"]
        plays = "adversarial" in tried
        if settings.method == "auto" and plays:  # all other maps collapsed: of a sample, for want of text
            seconds -= tried["adversarial"]["seconds"]
            tried = {name: account for name, account in tried.items() if name != "adversarial"}
            plays = self.whole
        return AlignmentCost(
            seconds,
            0 if settings.method == "none" else settings.refinement_rounds,
            self._round(),
            NULL_DRAWS + len(tried),
            *(self._game() if plays else ()),
        )

    def _round(self) -> float:
        """Seconds of a round of refinement."""
        given, settings = alignment_inputs(self.context), self.context.config.alignment
        W = torch.eye(given.Y.shape[1], given.X.shape[1])

        def refined(rounds: int) -> None:
            refine(
                given.X,
                given.Y,
                W,
                rounds=rounds,
                entries=settings.refinement_entries,
                k=settings.csls_neighbours,
                criterion_entries=settings.criterion_entries,
            )

        return max(_seconds(lambda: refined(1)) - _seconds(lambda: refined(0)), 0.0)

    def _game(self) -> tuple[float, float]:
        """Seconds of a step of the adversarial game, and of what an epoch costs besides."""
        given, rules = alignment_inputs(self.context), game_settings(self.context.config.alignment)
        game = Game(given.X, given.Y, replace(rules, samples=rules.batch * GAME_STEPS), self.context.config.seed)
        step = _seconds(lambda: game.epoch(rules.learning_rate)) / GAME_STEPS
        entries, k = rules.criterion_entries, rules.csls_neighbours
        judging = _seconds(lambda: mean_cosine_criterion(given.X[:entries] @ game.W.T, given.Y, entries=entries, k=k))
        return step, judging

    def _scoring_cost(self) -> ScoringCost:
        """The step tells when it has scored the model before training, and when the other; then come the pairs."""
        told, figures = self.told[EVALUATION], self.context.figures(EVALUATION)
        start, final = (told.moment_of(f"{name}: ") for name in ("start", "transferred"))
        of_model, of_pairs = final - start, told.moment_of(END) - final
        lines, pairs = figures["models"]["start"]["lines"], figures["cdlm"]["pairs"]
        fixed = self.seconds(EVALUATION) - 2 * of_model - of_pairs
        export = self.seconds(EXPORT)
        return ScoringCost(of_model / max(lines, 1), of_pairs / max(pairs, 1), max(fixed, 0.0), export)


def _like(context: Context, config: Config) -> Context:
    """The same run under another configuration."""
    other = Context(config, context.run)
    other.__dict__["pretrained"] = context.pretrained
    return other


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
