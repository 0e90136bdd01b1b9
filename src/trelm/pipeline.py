"""The whole method on one page: the steps in the order of the paper, each in a folder of the run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from trelm import processes
from trelm.comparison.portable import chosen, load_portable
from trelm.comparison.portable_running import FAILED, run_portable
from trelm.comparison.portable_writing import check_portable, size_warning, write_portable
from trelm.comparison.preparation import claimed
from trelm.comparison.run import (
    Comparison,
    prepare_comparison,
    read_results,
    run_comparison,
    steps_of_preparation,
)
from trelm.config import CARD_FILE, Config, dump_card, dump_config, load_tasks, read_run_config
from trelm.corpus.files import expand
from trelm.errors import ComparisonError, ConfigError, ExportError, did_you_mean
from trelm.export import check_before, push
from trelm.progress import Progress, StepProgress
from trelm.report.comparison_page import write_comparison
from trelm.report.page import write_report
from trelm.report.schema import REPORT
from trelm.stages import COMBINATION, PLAIN, SCRATCH_STAGE, Stage
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
    RunStep,
    carry_out,
    parallel_sources,
    quiet_transformers,
    use_all_cores,
)
from trelm.steps.diagnosis import diagnose_start
from trelm.steps.estimate import estimate as steps_estimate
from trelm.steps.export import (
    Kind,
    chosen_kind,
    export_to,
    foldable_stage,
    summary,
    train_plain_stage,
    write_export,
)
from trelm.steps.head import fit_head
from trelm.steps.outcome import collect_report, evaluate_models, versions, without_bookkeeping
from trelm.steps.preflight import preflight
from trelm.steps.preparation import (
    align_embeddings,
    build_models,
    build_vocabulary,
    link_words,
    prepare_corpus,
    tokenize,
    train_vectors,
)
from trelm.steps.tasks import check_tunable, evaluate_model
from trelm.steps.training import STAGE_FOLDERS, combine_halves, masked_as, plan_training, planned_stages, train_stage
from trelm.training.checkpoints import remove_checkpoints
from trelm.workspace import Run, digest, write_json, write_text


def steps(config: Config) -> list[RunStep]:
    """METHOD, section by section."""
    training = []
    for stage in planned_stages(config):
        if stage.starts_from == COMBINATION:
            training.append(RunStep(STAGE_FOLDERS[COMBINATION], combine_halves))
        training.append(_training_step(stage))
    if config.baseline.scratch:
        training.append(_training_step(masked_as(config, SCRATCH_STAGE)))
    head = [RunStep(HEAD, fit_head, resumes=True)] if config.head.updates else []
    return [
        RunStep(CORPUS, prepare_corpus),
        *head,  # a masked-LM head, where the encoder has none
        RunStep(VOCABULARY, build_vocabulary),  # 1. joint vocabulary
        RunStep(TOKENS, tokenize),
        RunStep(WORD_LINKS, link_words),  # 5. word alignments
        RunStep(EMBEDDINGS, train_vectors),  # 2. subword vectors
        RunStep(ALIGNMENT, align_embeddings),  # 3. adversarial embedding alignment
        RunStep(MODEL, build_models),  # 4. the TreLM model
        RunStep(DIAGNOSIS, diagnose_start),  # what can be told before anything trains
        RunStep(PLAN, plan_training, joint=True),
        *training,  # 5. commonality, transfer of each half, combination, language-specific, plain; from scratch
        RunStep(EVALUATION, evaluate_models),  # 6. evaluation
        RunStep(EXPORT, write_export),
    ]


def transfer(
    config: Config, run_folder: Path | str, *, until: str | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Move the source encoder to the target language: all steps that are not done yet, in `run_folder`.

    Where `torchrun` has started several processes, they train together; the first one does all the rest and writes.

    Args:
        until: the last step to do, by its name or its folder's; all by default.
        quiet: print no progress.

    Returns:
        What `report.json` holds; with `until`, the figures of that step. Nothing in a process that is not the first.

    Raises:
        TrelmError: bad input, in one line; what is done stays done.
    """
    run, plan = Run(Path(run_folder)), steps(config)
    last = _last_step(plan, until)
    inputs = describe_inputs(config)
    context = Context(config, run)
    wanted = dump_config(config, card=False)  # what the model card says changes nothing that is computed
    claim, of_inputs = wanted + "".join(f"# input {line}\n" for line in inputs), digest([wanted, inputs])
    if not processes.is_first():
        processes.wait_until(lambda: run.is_claimed(claim))
        with quiet_transformers():
            _take_part(context, plan[: last + 1], of_inputs)
        return {}
    with quiet_transformers():
        preflight(context)
    with run.lock(), quiet_transformers():
        run.claim(claim)
        write_text(run.folder / CARD_FILE, dump_card(config))
        _run_steps(context, plan[: last + 1], of_inputs, len(plan), quiet)
        if until is not None and last + 1 < len(plan):
            return context.figures(plan[last].name)
        report = collect_report(context, [step.name for step in plan])
        write_json(run.folder / REPORT, report)
        write_report(run.folder)
    return report


def diagnose(config: Config, run_folder: Path | str | None = None, *, quiet: bool = False) -> dict[str, Any]:
    """What can be told before anything trains: all steps up to the diagnosis that are not done yet, in `run_folder`.

    Args:
        run_folder: `transfer` goes on from there; None for a temporary folder, which is removed.
        quiet: print no progress.

    Returns:
        What `report.json` holds under `diagnosis`; see `trelm.steps.diagnosis.diagnose_start`.

    Raises:
        TrelmError: bad input, in one line; what is done stays done.
    """
    processes.require_one("diagnose")
    if run_folder is None:
        with tempfile.TemporaryDirectory(prefix="trelm-diagnosis-") as folder:
            return diagnose(config, folder, quiet=quiet)
    return without_bookkeeping(transfer(config, run_folder, until=DIAGNOSIS, quiet=quiet))


def compare(config: Config, run_folder: Path | str, *, quiet: bool = False) -> dict[str, Any]:
    """TreLM beside its rivals: every arm of `comparison.arms` with every seed, on the same data and the same budget.

    Args:
        quiet: print no progress.

    Returns:
        `cells`: what each cell's JSON holds; `failed`: cells that could not be done; `paths`: of the pages.

    Raises:
        TrelmError: bad input, in one line; or cells that cannot be done, after all others are. What is done stays done.
    """
    comparison = _comparison(config, run_folder)
    total = steps_of_preparation(comparison) + len(comparison.cells())
    with _opened(comparison), Progress(total, quiet=quiet) as progress:
        overview = run_comparison(comparison, progress)
        paths = write_comparison(comparison.root)
    _tell_failed(overview["failed"], f"the page is {paths['html']}")
    cells = read_results(comparison.root)
    return {"cells": cells, "failed": {}, "paths": {kind: str(path) for kind, path in paths.items()}}


def prepare_for_elsewhere(
    config: Config,
    run_folder: Path | str,
    to: Path | str,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """What the cells of a comparison share, made in `run_folder`; and what they need, written to the new folder `to`.

    `run_prepared` computes them from there, on whatever machine.

    Args:
        arms, seeds: of the cells; all of the configuration's where None. quiet: print no progress.

    Returns:
        `path`, `bytes`, `parts`: bytes of each part; `cells`: their names; `warning`: of a large folder, or None.

    Raises:
        TrelmError: bad input, or something that cannot be computed elsewhere, in one line.
    """
    comparison = _comparison(config, run_folder)
    wanted = chosen(config, arms, seeds)
    check_portable(config, Path(to))
    total = steps_of_preparation(comparison) + 1
    with _opened(comparison), Progress(total, quiet=quiet) as progress:
        prepare_comparison(comparison, progress)
        with progress.step(f"write {to}") as tell:
            written = write_portable([comparison.job(cell) for cell in wanted], config, Path(to), tell)
    return written | {"warning": size_warning(written)}


def run_prepared(
    folder: Path | str,
    out: Path | str,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    minutes: float | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Every cell of a prepared folder that has no result in `out`; neither data nor the Hub is asked.

    Args:
        arms, seeds: of the cells; all that are prepared where None. overrides: `name=value`, of the budget and of
            training. minutes: begin no cell that would not end in time, by what cells took so far.

    Returns:
        `cells`: what each cell's JSON holds; `failed`: cells that could not be done; `left`: those for which there was
        no time.

    Raises:
        TrelmError: bad input, in one line; or cells that cannot be done, after all others are. What is done stays done.
    """
    processes.require_one("compare")
    portable = load_portable(Path(folder), overrides)
    with quiet_transformers():
        done = run_portable(portable, chosen(portable.config, arms, seeds), Path(out), minutes=minutes, quiet=quiet)
    _tell_failed(done["failed"], f"they are named in {Path(out) / FAILED}")
    return done


def _comparison(config: Config, run_folder: Path | str) -> Comparison:
    """A comparison that fits its configuration, before anything is written."""
    processes.require_one("compare")
    run = Run(Path(run_folder))
    comparison = Comparison(config, run.folder, describe_inputs(config))
    comparison.arms()
    check_tunable(config.evaluation, (config.source.language, config.target.language))
    with quiet_transformers():
        preflight(Context(config, run), stages=False)
    return comparison


@contextmanager
def _opened(comparison: Comparison) -> Iterator[None]:
    """Its folder, kept for this process and this configuration."""
    run = Run(comparison.root)
    with run.lock(), quiet_transformers():
        run.claim(claimed(comparison.config) + "".join(f"# input {line}\n" for line in comparison.inputs))
        use_all_cores()
        yield


def _tell_failed(failed: Mapping[str, str], where: str) -> None:
    """Raises ComparisonError where cells could not be done."""
    if failed:
        cell, reason = next(iter(failed.items()))
        raise ComparisonError(
            f"{len(failed)} of the cells could not be done, the first: {cell}: {reason} (all others are; {where})"
        )


def estimate(config: Config, *, quiet: bool = True) -> dict[str, Any]:
    """What `transfer` would do: steps with their time, memory and disk; see `trelm.steps.estimate`.

    Args:
        quiet: print no progress.
    """
    processes.require_one("plan")
    describe_inputs(config)
    context = Context(config, Run(Path(".")))
    with quiet_transformers():
        preflight(context)
        return steps_estimate(context, quiet=quiet)


def evaluate(
    model: str, tasks: Path, *, only: str | None = None, work: Path | None = None, quiet: bool = True
) -> dict[str, dict[str, Any]]:
    """Scores of any Hugging Face encoder on the evaluation sets that a YAML file lists, tuned where they have train.

    Args:
        only: the name of one set. work: where trainings under way lie; in the cache where None.
        quiet: print no progress.
    """
    processes.require_one("evaluate")
    with quiet_transformers():
        return evaluate_model(model, load_tasks(tasks), only=only, work=work, quiet=quiet)


def export(
    run_folder: Path | str,
    to: Path | str | None = None,
    *,
    kind: Kind | None = None,
    onnx: bool = False,
    repo: str | None = None,
    private: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """The final model of a finished run as a folder for Hugging Face tools, and on request on the Hub.

    Args:
        to: a new folder; by default one in the run folder, named by the kind.
        kind: `plain`: an ordinary model of the source's class, after the plain stage, which is trained now where the
            run was planned without it; `trelm`: the TreLM class; None: plain where that stage is done.
        onnx: also write it for ONNX Runtime. repo: push it to this repository of the Hub, `private` or not.

    Returns:
        `path`, `kind`, `check` and `onnx` where there are any, `url` of what was pushed, `summary`: it all in words.

    Raises:
        TrelmError: the run is not done, the folder is not empty, or what was written is not the model.
    """
    processes.require_one("export")
    run = Run(Path(run_folder))
    config = read_run_config(run.folder)
    context = Context(config, run)
    for step in steps(config):
        run.step(step.name).require_whole()
    context.figures(EVALUATION)  # the run has come to its end
    with quiet_transformers():
        kind = kind or chosen_kind(context)
        folder = Path(to) if to is not None else run.folder / kind
        if onnx and kind == "trelm":
            raise ExportError("--onnx: expected a plain model, found one of TreLM's own class; add --plain")
        check_before(folder, onnx=onnx, repo=repo)
        if kind == "plain" and foldable_stage(context) is None:
            step = RunStep(STAGE_FOLDERS[PLAIN], train_plain_stage, resumes=True)
            with run.lock():
                _run_steps(context, [step], digest([dump_config(config, card=False)]), 1, quiet)
        figures = {"path": str(folder), **export_to(context, folder, kind=kind, onnx=onnx)}
        if repo is not None:
            figures["url"] = push(folder, repo, private=private)
    return figures | {"summary": summary(figures)}


def _take_part(context: Context, plan: list[RunStep], inputs: str) -> None:
    """What a process that is not the first one does: train with it, wait for it otherwise, and write nothing there."""
    use_all_cores()
    with Progress(len(plan), quiet=True) as progress:
        for step in plan:
            place = context.run.step(step.name)
            if step.joint and not place.is_done(inputs):
                with progress.step(step.name) as tell, tempfile.TemporaryDirectory(prefix="trelm-process-") as folder:
                    step.work(context, Path(folder), tell)
            processes.wait_until(partial(place.is_done, inputs))


def _run_steps(context: Context, plan: list[RunStep], inputs: str, total: int, quiet: bool) -> None:
    """Do what is not done; a manifest is written only when its step has ended."""
    use_all_cores()
    with Progress(total, quiet=quiet) as progress:
        for step in plan:
            place = context.run.step(step.name)
            if place.is_done(inputs):
                remove_checkpoints(place.folder)
                progress.skip(step.name)
                continue
            if step.name == PLAN and place.damage() is not None and context.config.budget.minutes is not None:
                _forget_training(context)
            together = nullcontext() if step.joint else processes.alone()
            with progress.step(step.name) as tell, together:
                carry_out(
                    place,
                    inputs,
                    partial(step.work, context, place.folder, tell),
                    resumes=step.resumes,
                    note=tell.note,
                    also=lambda: {
                        "seed": context.config.seed,
                        "processes": processes.count(),
                        "versions": versions(),
                    },
                )


def _forget_training(context: Context) -> None:
    """What followed a lost plan: one measured again gives other numbers of updates, and half a run of each is none."""
    for name in (*STAGE_FOLDERS.values(), EVALUATION, EXPORT):
        context.run.step(name).forget()


def _training_step(stage: Stage) -> RunStep:
    def work(context: Context, folder: Path, tell: StepProgress) -> Figures:
        return train_stage(context, stage, folder, tell)

    return RunStep(STAGE_FOLDERS[stage.name], work, resumes=True, joint=True)


def _last_step(plan: list[RunStep], until: str | None) -> int:
    """The number of the step named `until`; the last one where there is no such wish."""
    if until is None:
        return len(plan) - 1
    names = {step.name: number for number, step in enumerate(plan)}
    names |= {name.rpartition("/")[2].lstrip("0123456789-"): number for name, number in names.items()}
    if until not in names:
        raise ConfigError(f"--until {until}: unknown step (known: {', '.join(names)}){did_you_mean(until, names)}")
    return names[until]


def describe_inputs(config: Config) -> list[str]:
    """Every input file with its size: a run belongs to them as it belongs to its configuration.

    Raises:
        DataError: a file is missing.
    """
    return [f"{path} {path.stat().st_size} bytes" for path in _input_files(config)]


def _input_files(config: Config) -> Iterator[Path]:
    patterns = [*config.source.text, *config.target.text, *config.embeddings.dictionary]
    for entry in parallel_sources(config):
        patterns += [entry] if isinstance(entry, str) else entry
    for task in config.evaluation:
        patterns += [*task.train, *task.dev, *task.test]
    for pattern in patterns:
        if not pattern.startswith("hf://"):
            yield from expand(pattern)
