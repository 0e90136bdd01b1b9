"""`trelm compare --prepare`: what the cells of a comparison need, and nothing else, in a folder for another machine."""

from __future__ import annotations

import copy
import lzma
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trelm.comparison.arms import CellStage
from trelm.comparison.cell import Cell
from trelm.comparison.inputs import tokenizer_of
from trelm.comparison.portable_packing import Record, pack_array, pack_value
from trelm.comparison.portable_rows import RowPool, halved, is_small, pack_mixture, pack_rows
from trelm.comparison.preparation import CellRun
from trelm.comparison.run import Job
from trelm.comparison.scoring import HELD_OUT
from trelm.config import Config, EvaluationConfig
from trelm.corpus.files import expand
from trelm.corpus.hub import is_hub_name
from trelm.errors import ComparisonError
from trelm.initialisation import complete
from trelm.model.source import SourceEncoder, public_name
from trelm.progress import StepProgress
from trelm.stages import is_taught
from trelm.steps.context import CORPUS
from trelm.steps.initialisation import initialise, source_tables, start_mixture
from trelm.steps.outcome import versions
from trelm.steps.selection import DEVELOPMENT
from trelm.workspace import MANIFEST, atomic_path, digest, record_files, write_sealed, write_text

FORMAT = 1
ARRAYS, SOURCE, TOKENIZER, SOURCE_TOKENIZER, LINES = "arrays", "source", "tokenizer", "source-tokenizer", "lines"
ROWS, EVALUATION, CONFIG = "rows", "evaluation", "config.yaml"
COMPRESSED = (".gz", ".xz", ".zst", ".bz2")  # as `trelm.corpus.files` reads them
MUCH = 60_000_000  # bytes
EXACT = 1_000_000  # numbers of a head's weight up to which it is kept in float32


def check_portable(config: Config, to: Path) -> None:
    """Refuse what cannot be computed elsewhere, before anything is prepared.

    Raises:
        ComparisonError: a budget in minutes, text that is read while training, evaluation sets on the Hub, or a folder
            that is there.
    """
    if config.budget.minutes is not None:
        raise ComparisonError(
            f"--prepare: expected a budget in flops, tokens or updates, found {config.budget.minutes:g} minutes; "
            "seconds of preparation here mean nothing elsewhere: give another one, as in --set budget.flops=1e13"
        )
    for name, streams in (("source.stream", config.source.stream), ("target.stream", config.target.stream)):
        if streams:
            raise ComparisonError(
                f"--prepare: expected text in files, found {name} ({streams[0]}), which is read while training and "
                "cannot be carried; take it out, or compare on one machine"
            )
    for task in config.evaluation:
        for pattern in (*task.train, *task.dev, *task.test):
            if task.task != "translation" and is_hub_name(pattern):
                raise ComparisonError(
                    f"--prepare: evaluation '{task.label}': expected files, found an hf:// name ('{pattern}'); save it "
                    "to files first"
                )
    if to.exists():
        raise ComparisonError(f"--prepare: expected a new folder, found {to}; remove it or name another")


def write_portable(jobs: Sequence[Job], config: Config, to: Path, tell: StepProgress) -> Record:
    """Write the folder, whole or not at all.

    Args:
        jobs: the cells that are to be computed elsewhere. config: the comparison's.

    Returns:
        `path`, `bytes`, `parts`: bytes of each part; `cells`: their names.
    """
    with atomic_path(to) as folder:
        folder.mkdir()
        cells = [job.make() for job in jobs]
        _write_config(cells, config, folder)
        _write_text(cells, folder)
        packed = {"source": _write_source(cells, folder), **_write_cells(cells, jobs, folder, tell)}
        records = record_files(folder, skip=lambda _: False)
        values = {"format": FORMAT, "versions": versions(), **packed, "files": records}
        write_sealed(folder / MANIFEST, values)
        parts: dict[str, int] = {}
        for name, record in records.items():
            part = name.partition("/")[0]
            parts[part] = parts.get(part, 0) + record["bytes"]
        parts[MANIFEST] = (folder / MANIFEST).stat().st_size
    return {"path": str(to), "bytes": sum(parts.values()), "parts": parts, "cells": list(packed["cells"])}


def size_warning(written: Mapping[str, Any]) -> str | None:
    """What to say of a folder that is too large to be carried to many a lent machine; None where it is not."""
    if written["bytes"] <= MUCH:
        return None
    largest = sorted(written["parts"].items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in largest)
    return (
        f"more than {MUCH / 1e6:.0f} MB; the largest parts: {named}; cells can be spread over several folders with "
        "--arms and --seeds"
    )


def _write_config(cells: list[Cell], config: Config, folder: Path) -> None:
    """The configuration with the paths of this machine replaced; evaluation sets, and their files, come along."""
    values = config.model_dump(mode="json", exclude={"card"})
    model, names = public_name(config.source.model), values["source"]
    values["source"] = {**names, "model": model, "tokenizer": None, "text": _bare(names["text"])}
    values["target"]["text"] = _bare(values["target"]["text"])
    values["parallel"] = _bare(values["parallel"])
    values["embeddings"]["dictionary"] = _bare(values["embeddings"]["dictionary"])
    values["comparison"]["arms"] = list(dict.fromkeys(cell.name for cell in cells))
    values["comparison"]["seeds"] = list(dict.fromkeys(cell.config.seed for cell in cells))
    tasks = [task for task in config.evaluation if task.task != "translation"]
    carried: dict[Path, str] = {}
    values["evaluation"] = [_with_files(task, folder, carried) for task in tasks]
    write_text(folder / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _bare(names: Any) -> Any:
    """Names of files without their folders: they say what was read, and are not there to be read."""
    if isinstance(names, dict):
        return {key: _bare(one) for key, one in names.items()}
    if isinstance(names, list):
        return [_bare(one) for one in names]
    return names if is_hub_name(names) else Path(names).name


def _with_files(task: EvaluationConfig, folder: Path, carried: dict[Path, str]) -> dict[str, Any]:
    """An evaluation set whose files lie in the folder, each once, and its settings."""
    values = task.model_dump(mode="json")
    for part in ("train", "dev", "test"):
        paths = [path.resolve() for pattern in values[part] for path in expand(pattern)]
        for path in paths:
            if path not in carried:
                carried[path] = f"{EVALUATION}/{len(carried):03d}-{path.name}"
                (folder / EVALUATION).mkdir(exist_ok=True)
                carried[path] += _copy_small(path, folder / carried[path])
        values[part] = [carried[path] for path in paths]
    return values


def _copy_small(path: Path, to: Path) -> str:
    """Copy a file, compressed where it is not; returns what its name ends with besides."""
    if path.suffix.lower() in COMPRESSED:
        shutil.copyfile(path, to)
        return ""
    with path.open("rb") as plain, lzma.open(f"{to}.xz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    return ".xz"


def _write_text(cells: list[Cell], folder: Path) -> None:
    """Lines that models are scored on, and the tokenizers of the arms."""
    context = cells[0].context
    (folder / LINES).mkdir()
    for name in (HELD_OUT, DEVELOPMENT):
        if (context.folder(CORPUS) / name).exists():
            shutil.copyfile(context.folder(CORPUS) / name, folder / LINES / name)
    for cell in cells:
        place = folder / (SOURCE_TOKENIZER if cell.arm.start == "source" else TOKENIZER)
        if not place.exists():
            tokenizer_of(cell.arm, cell.context).save_pretrained(str(place))


def _write_source(cells: list[Cell], folder: Path) -> Record | None:
    """The source encoder's configuration; and its weights in half precision, where an arm starts from them.

    The parts that have a row for each of its entries are left out where no arm reads them.
    """
    having = [cell for cell in cells if cell.arm.start != "random"]
    source = (having or cells)[0].context.source
    config = copy.deepcopy(source.config)
    config._name_or_path = ""  # a path of this machine means nothing elsewhere
    config.save_pretrained(str(folder / SOURCE))
    if not having:
        return None
    whole, table = carries_tables(cells), source.backbone.get_input_embeddings().weight
    body = {n: w for n, w in source.backbone.state_dict(keep_vars=True).items() if whole or w is not table}
    head = {n: w for n, w in source.head.items() if whole or len(w) != source.config.vocab_size}
    place = folder / SOURCE
    packed = {"backbone": _pack_weights(body, place, exact=0), "head": _pack_weights(head, place, exact=EXACT)}
    return packed | {"has_head": source.has_head, "has_tables": whole}


def carries_tables(cells: list[Cell]) -> bool:
    """Whether an arm reads the source's tables themselves, rather than rows that were made of them."""
    return any(cell.arm.start == "source" or _is_mixed(cell) or any(map(_is_taught, cell.program)) for cell in cells)


def _is_mixed(cell: Cell) -> bool:
    """Whether its rows are a mixture of the source's, or drawn like them, and nothing more."""
    return cell.arm.start == "rows" and cell.config.embeddings.initialisation not in ("trelm", "recommended")


def _is_taught(part: CellStage) -> bool:
    """Whether the source encoder itself teaches a stage."""
    return is_taught(part.stage)


def _pack_weights(weights: Mapping[str, Any], folder: Path, *, exact: int) -> Record:
    """Weights by name: matrices in half precision, vectors and what has at most `exact` numbers as they are."""
    arrays = {name: weight.detach().cpu().float().numpy() for name, weight in weights.items()}
    return {
        name: pack_array(
            array if array.ndim < 2 or array.size <= exact else halved(array, f"the source's {name}"), folder
        )
        for name, array in arrays.items()
    }


def _write_cells(cells: list[Cell], jobs: Sequence[Job], folder: Path, tell: StepProgress) -> Record:
    """What each cell's stages read, and the tables that it starts from; equal arrays are there once.

    Args:
        jobs: make each cell again, so that none keeps what it has read.
    """
    arrays, rows = folder / ARRAYS, folder / ROWS
    arrays.mkdir()
    rows.mkdir()
    source: SourceEncoder | None = None
    having = [cell for cell in cells if cell.arm.start == "rows"]
    if having and carries_tables(cells):
        source = having[0].context.source
    outputs = None if source is None or source.output_table is None else source.output_table.numpy()
    pools = {"words": RowPool(None if source is None else source.table.numpy()), "outputs": RowPool(outputs)}
    starts: dict[str, Record] = {}
    packed: dict[str, Record] = {}
    for number, job in enumerate(jobs):
        tell.update(number, len(jobs), "cells")
        cell = job.make()
        key = _start_key(cell)
        if key not in starts:
            starts[key] = _pack_start(cell, pools, rows)
        packed[job.key] = {
            "start": starts[key],
            "data": pack_value(cell.data, arrays),
            "preparation_seconds": cell.inputs.preparation_seconds,
        }
    return {"cells": packed, "pools": _pack_pools(having, pools, rows)}


def _start_key(cell: Cell) -> str:
    """What a cell's start depends on: cells with the same key start alike, and one of them is asked."""
    run = cell.context.run
    places = sorted(map(str, run.prepared.values())) if isinstance(run, CellRun) else []
    return digest([cell.arm.start, cell.config.embeddings.model_dump(mode="json"), cell.config.seed, places])


def _pack_start(cell: Cell, pools: Mapping[str, RowPool], folder: Path) -> Record:
    if cell.arm.start != "rows":
        return {}
    context = cell.context
    tables, mixed = source_tables(context), start_mixture(context)
    if mixed is not None and is_small(mixed[0], tables):
        return {"mixture": pack_mixture(*mixed, folder)}
    made = initialise(context) if mixed is None else complete(mixed[0], tables, cell.config.seed, fallback=mixed[1])
    return {"rows": pack_rows(made, pools["words"], pools["outputs"], folder)}


def _pack_pools(having: list[Cell], pools: Mapping[str, RowPool], folder: Path) -> Record:
    if not having:
        return {}
    source = having[0].context.source
    outputs = source.output_table
    packed = {"words": pools["words"].pack(source.table.shape[1], folder)}
    return packed if outputs is None else packed | {"outputs": pools["outputs"].pack(outputs.shape[1], folder)}
