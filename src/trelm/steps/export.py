"""The final model as a folder for Hugging Face tools: an ordinary model where the plain stage is done, else TreLM's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer

from trelm.errors import ExportError
from trelm.export import data_row, source_licence, write_folder
from trelm.model.configuration import TrelmConfig
from trelm.model.encoder import TrelmForMaskedLM, TrelmModel
from trelm.model.plain import ROUNDING, Agreement, check, compare, trained_away, write_plain
from trelm.model.source import public_name, source_path
from trelm.progress import StepProgress
from trelm.stages import LANGUAGE_SPECIFIC, PLAIN, PLAIN_STAGE, START
from trelm.steps.context import (
    ALIGNMENT,
    CORPUS,
    EVALUATION,
    MODEL,
    PLAN,
    Context,
    Figures,
    parallel_sources,
    use_all_cores,
)
from trelm.steps.outcome import describe_budget
from trelm.steps.scoring import score_text
from trelm.steps.training import (
    STAGE_FOLDERS,
    final_stage,
    load_model,
    masked_as,
    model_folder,
    planned_stages,
    train_stage,
)

COMPARED = 64
ONNX_COMPARED = 8

Kind = Literal["plain", "trelm"]


def write_export(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """The final model as a folder for Hugging Face tools, in `export/` itself."""
    whole = folder / "model"
    figures = export_to(context, whole)
    for path in whole.iterdir():
        shutil.move(str(path), folder / path.name)
    whole.rmdir()
    return {"path": str(folder), **figures}


def export_to(context: Context, folder: Path, *, kind: Kind | None = None, onnx: bool = False) -> Figures:
    """Write the final model anywhere; a plain one is loaded again and compared before the folder appears.

    Args:
        kind: None: plain where the run has a model that folds into one.
        onnx: also write the model for ONNX Runtime.

    Returns:
        `kind`, and of a plain model `check`: sentences, tokens, the largest difference of logits in float64 and in
        float32, the largest logit, the limit, and what was trained away.

    Raises:
        RunFolderError: the folder is not empty, or the run has not come so far.
        ExportError: the plain model is not the TreLM model, or ONNX is asked for without a plain one.
    """
    context.figures(EVALUATION)  # the run has come so far
    kind = kind or chosen_kind(context)
    stage = foldable_stage(context) if kind == "plain" else final_stage(context.config)
    if stage is None:
        raise ExportError(
            "export: expected a run whose plain stage is done, found none; run `trelm export RUN --plain`"
        )
    model = load_model(context, stage)
    for name, rate in context.figures(MODEL).get("dropout", {}).items():
        setattr(model.config.source, name, rate)  # whatever we trained with
    lines = context.lines("target-held-out.txt")[:COMPARED]
    return write_folder(
        folder,
        _writer(model, kind),
        context.tokenizer,
        {**_card(context, stage), "plain": kind == "plain"},
        verify=_verifier(context, model, lines) if kind == "plain" else None,
        onnx_sentences=lines[:ONNX_COMPARED] if onnx else (),
    ) | {"kind": kind}


def foldable_stage(context: Context) -> str | None:
    """The stage whose model folds into a plain one; None where a plain stage has to be trained first."""
    if context.run.step(STAGE_FOLDERS[PLAIN]).manifest() is not None:
        return PLAIN
    config = TrelmConfig.from_pretrained(str(model_folder(context, LANGUAGE_SPECIFIC)))
    with torch.device("meta"):  # only its structure is asked
        model = TrelmModel(config)
    return None if model.kept and trained_away(model) else LANGUAGE_SPECIFIC


def chosen_kind(context: Context) -> Kind:
    """What is written where nobody asks for one or the other."""
    return "trelm" if foldable_stage(context) is None else "plain"


def train_plain_stage(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """The stage before a plain export, for a run that was planned without it, and how good the model is then."""
    figures = train_stage(context, masked_as(context.config, PLAIN_STAGE), folder, tell)
    lines = context.lines("target-held-out.txt")
    return figures | {"scores": score_text(context, load_model(context, PLAIN), lines)}


def summary(figures: Figures) -> list[str]:
    """What was written, and how it was checked, a line each."""
    lines = [f"{figures['kind']} model: {figures['path']}"]
    if "check" in figures:
        found = figures["check"]
        lines.append(
            f"logits of the plain model and of the TreLM model on {found['sentences']} held-out sentences "
            f"({found['tokens']} tokens): largest difference {found['largest_difference']:.1e} in float64, "
            f"{found['largest_difference_in_float32']:.1e} in float32; largest logit {found['largest_logit']:.1f}; "
            f"limit {found['limit']:.1e}"
        )
    if "onnx" in figures:
        found = figures["onnx"]
        lines.append(
            f"ONNX: {found['path']}, on {found['sentences']} sentences: largest difference "
            f"{found['largest_difference']:.1e}; largest logit {found['largest_logit']:.1f}"
        )
    if "url" in figures:
        lines.append(f"pushed: {figures['url']}")
    return lines


def _writer(model: TrelmForMaskedLM, kind: Kind) -> Callable[[Path], None]:
    if kind == "plain":
        return lambda folder: write_plain(model, folder)
    return lambda folder: model.save_pretrained(str(folder))


def _verifier(context: Context, model: TrelmForMaskedLM, lines: list[str]) -> Callable[[Path], Figures]:
    """What reads a written folder again and refuses one that computes something else."""

    def verify(folder: Path) -> Figures:
        use_all_cores()
        plain = AutoModelForMaskedLM.from_pretrained(str(folder), use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        agreement = compare(model, plain, _batches(context, tokenizer, lines))
        check(agreement)
        return {**_figures(agreement), "trained_away": _annealed(context, model)}

    return verify


def _annealed(context: Context, model: TrelmForMaskedLM) -> list[str]:
    """What the plain stage trained away: nothing of a model that was plain before it trained."""
    start = TrelmConfig.from_pretrained(str(model_folder(context, START)))
    return [] if start.plainness == 1.0 else trained_away(model.trelm)


def _figures(agreement: Agreement) -> Figures:
    return {
        "sentences": agreement.sentences,
        "tokens": agreement.tokens,
        "largest_difference": agreement.largest,
        "largest_difference_in_float32": agreement.single,
        "largest_logit": agreement.largest_logit,
        "limit": agreement.limit,
        "rounding": ROUNDING,
    }


def _batches(context: Context, tokenizer: Any, lines: list[str], size: int = 8) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(lines), size):
        batch: Any = tokenizer(
            lines[start : start + size],
            padding=True,
            truncation=True,
            max_length=context.config.training.max_length,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        yield {name: batch[name] for name in ("input_ids", "attention_mask")}


def _card(context: Context, stage: str) -> Figures:
    """What the model card says of the run and of the model that `stage` left."""
    evaluation, plan, config = context.figures(EVALUATION), context.figures(PLAN), context.config
    names = [stage.name for stage in planned_stages(config)]
    models = {name: evaluation["models"][name] for name in ("transferred", "scratch") if name in evaluation["models"]}
    if stage == PLAIN and PLAIN not in names:  # the model in the folder is not the one that the run evaluated
        names.append(PLAIN)
        models = {"this model": context.figures(STAGE_FOLDERS[PLAIN])["scores"], **models}
    return {
        "languages": dict(zip(("source", "target"), context.languages)),
        "base_model": public_name(config.source.model),
        "models": models,
        "baseline_rule": plan["baseline_rule"],
        "budget": describe_budget(context),
        "alignment": context.figures(ALIGNMENT),
        "text": {name: figures["lines"] for name, figures in context.figures(CORPUS)["outputs"].items()},
        "stages": {name: context.figures(STAGE_FOLDERS[name]) for name in names},
        "seed": config.seed,
        "license": config.card.license,
        "source_license": config.card.source_license
        or source_licence(source_path(config.source.model), config.source.revision),
        "data": list(_data_rows(context)),
    }


def _data_rows(context: Context) -> Iterator[Figures]:
    """The inputs as the configuration names them, with the lines that were kept and the licences that the user gave."""
    config, corpus = context.config, context.figures(CORPUS)
    read, files = corpus["read"], corpus.get("named", {})
    inputs: list[tuple[str, str, str | tuple[str, str]]] = [
        *(("source", "source text", name) for name in config.source.text),
        *(("target", "target text", name) for name in config.target.text),
        *(("parallel", "parallel text", name) for name in parallel_sources(config)),
    ]
    for kind, role, name in inputs:
        names = (name,) if isinstance(name, str) else name
        kept = [read[key]["kept"] for key in files.get(f"{kind}: {' + '.join(names)}", []) if key in read]
        yield data_row(name, role, lines=sum(kept) if kept else None, licence=config.card.license_of(*names))
    for task in config.evaluation:
        yield data_row(task.label, "evaluation", lines=None, licence=config.card.license_of(task.label))
