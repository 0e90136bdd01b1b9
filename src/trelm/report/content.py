"""What the report says, independent of how it is written: a verdict, and sections of tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trelm.report.parts import MISSING, Section, Table, flatten, humanise, number, number_table, share
from trelm.report.schema import CorpusInput, Diagnosis, Example, Report, Rows, Scores, StepCost

HARDLY = 0.01
"""Relative difference of bits per character below which one run cannot tell two models apart."""

STEP_COLUMNS = {"seconds": "Seconds", "tokens": "Tokens", "flops": "FLOPs", "updates": "Updates"}


def verdict(report: Report) -> str:
    """One sentence: was the transfer worth it, by bits per character and masked accuracy against scratch?"""
    ours, scratch = report.models.transferred, report.models.scratch
    if _bits(ours) is None:
        return "Unknown: the run holds no bits per character of the transferred model."
    if scratch is None or _bits(scratch) is None:
        return f"Unknown: no model was trained from scratch to compare with; {_own_bits(report)}."
    relative = 1 - float(ours.bits_per_character or 0) / float(scratch.bits_per_character or math.inf)
    direction = "fewer" if relative >= 0 else "more"
    text = (
        f"{_judgement(relative, ours, scratch)}: {_own_bits(report)}, {share(abs(relative))} {direction} than the same "
        f"architecture trained from scratch ({number(scratch.bits_per_character)})"
    )
    if ours.masked_accuracy is not None:
        text += f", and fills {share(ours.masked_accuracy)} of the masked tokens rightly"
        text += f", against {share(scratch.masked_accuracy)}" if scratch.masked_accuracy is not None else ""
    return text + "."


def _judgement(relative: float, ours: Scores, scratch: Scores) -> str:
    """The first word(s) of the verdict; `relative` is the share of bits saved."""
    if abs(relative) < HARDLY:
        return "Hardly, the two models are within 1 % of each other"
    gained = (ours.masked_accuracy or 0) - (scratch.masked_accuracy or 0)
    both = ours.masked_accuracy is not None and scratch.masked_accuracy is not None
    if both and gained * relative < 0:
        return "Mixed, bits per character and accuracy disagree"
    return "Yes" if relative > 0 else "No"


def _own_bits(report: Report) -> str:
    return (
        f"the transferred model spends {number(report.models.transferred.bits_per_character)} bits per character "
        f"on held-out text in '{report.languages.target}'"
    )


def _bits(scores: Scores) -> float | None:
    value = scores.bits_per_character
    return value if value is not None and math.isfinite(value) and value > 0 else None


def sections(report: Report) -> list[Section]:
    """Every section that the report has data for, in order."""
    found = [
        _models(report),
        _curves(report),
        _examples(report),
        diagnosis_section(report.diagnosis) if report.diagnosis is not None else None,
        _alignment(report),
        _numbers("word-links", "Word links", report.word_links),
        _numbers("cdlm", "Cross-lingual objective (CdLM)", report.cdlm),
        _corpus(report),
        _numbers("vocabulary", "Vocabulary", report.vocabulary),
        _steps(report),
        _setting(report),
    ]
    return [section for section in found if section is not None]


def _models(report: Report) -> Section:
    models = report.models
    named = {
        "transferred": models.transferred,
        "from scratch": models.scratch,
        "transferred, before training": models.start,
        "token frequencies alone (floor)": report.unigram,
    }
    rows = [
        (
            name,
            number(scores.bits_per_character),
            share(scores.masked_accuracy),
            number(scores.masked_loss),
            share(scores.unit_accuracy),
        )
        for name, scores in named.items()
        if scores is not None
    ]
    header = ("Model", "Bits per character", "Masked accuracy", "Masked loss (nats)", "Whole words right")
    note = (
        "Fewer bits and a lower loss are better; so is a higher accuracy. The same held-out words are masked for all."
    )
    paragraphs = (note, report.baseline_rule) if report.baseline_rule else (note,)
    return Section("models", "Models", paragraphs, (Table("Scores on held-out text", header, tuple(rows)),))


def _curves(report: Report) -> Section | None:
    names = ["loss"] if any(curve.loss for curve in report.curves.values()) else []
    if any(curve.held_out and curve.held_out.bits_per_character for curve in report.curves.values()):
        names.append("held-out")
    if not names:
        return None
    note = (
        "The stages of the transferred model follow one another; the model from scratch starts at zero. The stages "
        "predict different things, so only losses of masked language modelling on the target language compare."
    )
    rows = tuple(
        (stage, number(_first(curve.loss)), number(_last(curve.loss)), number(_last(curve.tokens)))
        for stage, curve in report.curves.items()
        if curve.loss
    )
    table = Table("Training loss of each stage", ("Stage", "First", "Last", "Tokens"), rows)
    return Section("curves", "Training", (note,), (table,) if rows else (), tuple(names))


def _examples(report: Report) -> Section | None:
    if not report.examples:
        return None
    known = any(example.truth is not None for example in report.examples)
    rows = tuple(
        (example.text, *((example.truth or MISSING,) if known else ()), guesses(example)) for example in report.examples
    )
    header = ("Text", *(("In the text",) if known else ()), "Guesses, best first")
    return Section(
        "examples", "Examples", (), (Table("Masks filled by the transferred model", header, rows, prose=True),)
    )


def guesses(example: Example) -> str:
    """The guesses for a mask in one line, best first."""
    return ", ".join(f"{guess.token} ({share(guess.score)})" for guess in example.predictions) or MISSING


LEGEND = (
    "Share: of all entries. Of text: of the subwords of the target language's training text. Of words: of those that "
    "are words or parts of words. Length: the mean length of the rows, divided by that of the source's rows."
)


def diagnosis_section(diagnosis: Diagnosis) -> Section:
    """What could be told before anything trained: its warnings, and a table of each kind of figure that there is."""
    tables = (_entries(diagnosis), _cuts(diagnosis), _initial_translation(diagnosis), _start(diagnosis))
    warnings = tuple(f"Warning: {warning}." for warning in diagnosis.warnings) or ("No warnings.",)
    return Section(
        "diagnosis",
        "Before training",
        (*warnings, LEGEND),
        tuple(table for table in tables if table is not None and table.rows),
    )


def _entries(diagnosis: Diagnosis) -> Table:
    named = {
        "spelled alike": diagnosis.entries.get("shared"),
        "alike and words": diagnosis.entries.get("shared_words"),
        "with word links": diagnosis.entries.get("linked"),
        **{f"{name} rows": rows for name, rows in diagnosis.rows.items()},
        "all rows": Rows(norm_ratio=diagnosis.norm_ratio) if diagnosis.norm_ratio is not None else None,
    }
    rows = tuple(
        (
            name,
            number(some.entries),
            share(some.share_of_entries),
            share(some.share_of_tokens),
            share(some.share_of_word_tokens),
            number(some.norm_ratio),
        )
        for name, some in named.items()
        if some is not None
    )
    way = f" (embeddings.initialisation: {diagnosis.initialisation})" if diagnosis.initialisation else ""
    header = ("Entries", "Number", "Share", "Of text", "Of words", "Length")
    return Table(f"Entries and rows of the new vocabulary{way}", header, rows)


def _cuts(diagnosis: Diagnosis) -> Table:
    rows = tuple(
        (
            {"new": "new", "source": "the source's own"}.get(name, name),
            number(cut.fertility),
            number(cut.characters_per_piece),
            share(cut.unknown_rate),
        )
        for name, cut in diagnosis.tokenizers.items()
    )
    header = ("Tokenizer", "Subwords a word", "Characters a subword", "Unknown subwords")
    return Table("Tokenizers on held-out target text", header, rows)


def _initial_translation(diagnosis: Diagnosis) -> Table | None:
    keys = ("precision_at_1", "precision_at_5", "distinct_precision_at_1", "distinct_precision_at_5", "chance_at_1")
    found = diagnosis.translation or {}
    chosen = {key: found[key] for key in (*keys, "queries") if found.get(key) is not None}
    return number_table("Word translation by the initial table", chosen) if chosen else None


def _start(diagnosis: Diagnosis) -> Table:
    names = {"unigram": "token frequencies", "start": "before any update"}
    rows = tuple(
        (
            names.get(name, f"{number(scores.updates)} updates of the head"),
            number(scores.masked_loss),
            share(scores.masked_accuracy),
            number(scores.bits_per_character),
        )
        for name, scores in diagnosis.held_out.items()
    )
    header = ("Model", "Loss (nats)", "Accuracy", "Bits per character")
    return Table("Masked prediction of held-out target text", header, rows)


def _alignment(report: Report) -> Section | None:
    alignment = report.alignment
    if alignment is None:
        return None
    keys = ("criterion", "precision_at_1", "precision_at_5", "chance_at_1", "queries")
    chosen = {key: getattr(alignment, key) for key in keys if getattr(alignment, key) is not None}
    rows = tuple(
        (
            name + (" (chosen)" if name == alignment.method else ""),
            number(candidate.criterion),
            share(candidate.precision_at_1),
            share(candidate.precision_at_5),
            number(candidate.seconds),
            {True: "yes", False: "no", None: MISSING}[candidate.collapsed],
        )
        for name, candidate in alignment.candidates.items()
    )
    header = ("Method", "Criterion", "Precision@1", "Precision@5", "Seconds", "Collapsed")
    tables = [number_table("Chosen alignment", chosen)] if chosen else []
    tables += [Table("Methods tried", header, rows)] if rows else []
    sentences: tuple[str, ...] = (f"Method: {alignment.method}.",) if alignment.method else ()
    sentences += (f"Why: {alignment.reason}.",) if alignment.reason else ()
    return Section("alignment", "Alignment of the embedding spaces", sentences, tuple(tables))


def _corpus(report: Report) -> Section | None:
    if report.corpus is None:
        return None
    tables = []
    if report.corpus.inputs:
        rows = tuple(_input_row(name, counts) for name, counts in report.corpus.inputs.items())
        tables.append(Table("Inputs, in lines", ("Input", "Read", "Kept", "Dropped", "Reasons"), rows))
    if report.corpus.outputs:
        tables.append(number_table("Outputs", report.corpus.outputs))
    return Section("corpus", "Corpus", (), tuple(tables)) if tables else None


def _input_row(name: str, counts: CorpusInput) -> tuple[str, ...]:
    reasons = ", ".join(f"{humanise(reason)} {number(lines)}" for reason, lines in counts.dropped.items() if lines)
    dropped = sum(counts.dropped.values())
    return name, number(counts.read), number(counts.kept), number(dropped), reasons or MISSING


def _steps(report: Report) -> Section | None:
    if not report.steps:
        return None
    columns = [key for key in STEP_COLUMNS if any(getattr(cost, key) is not None for cost in report.steps.values())]
    rows = [(name, *(_step_cell(cost, key) for key in columns)) for name, cost in report.steps.items()]
    totals = [sum(getattr(cost, key) or 0 for cost in report.steps.values()) for key in columns]
    rows.append(("total", *(number(total) for total in totals)))
    header = ("Step", *(STEP_COLUMNS[key] for key in columns))
    return Section("steps", "Cost of each step", (), (Table("What each step cost", header, tuple(rows)),))


def _step_cell(cost: StepCost, key: str) -> str:
    """A figure of a step; with the updates, whether the stage ended early, and after which its weights are."""
    text = number(getattr(cost, key))
    if key != "updates" or cost.planned_updates is None:
        return text
    ended = (cost.updates or 0) < cost.planned_updates
    text = f"stopped after {text} of {number(cost.planned_updates)}" if ended else text
    return f"{text} (best: {number(cost.best_update)})"


def _setting(report: Report) -> Section | None:
    values: dict[str, Any] = {}
    if report.seed is not None:
        values["seed"] = str(report.seed)
    values |= {f"budget: {key}": value for key, value in flatten(report.budget or {}).items()}
    values |= {f"export: {key}": value for key, value in flatten(report.export or {}).items()}
    values |= {f"version of {key}": str(value) for key, value in (report.versions or {}).items()}
    tables = (number_table("Setting", values),) if values else ()
    folded = "Show seed, versions and configuration"
    found = bool(tables or report.config)
    return Section("setting", "Seed, versions, configuration", (), tables, folded=folded) if found else None


def _numbers(identifier: str, title: str, values: Mapping[str, Any] | None) -> Section | None:
    return Section(identifier, title, (), (number_table(title, values),)) if values else None


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _last(values: list[float | None]) -> float | None:
    return _first(reversed(values))
