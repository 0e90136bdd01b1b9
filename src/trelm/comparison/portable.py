"""`trelm compare --run-prepared`: cells from a folder that another machine has prepared, with no data and no Hub."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from trelm.comparison.arms import arm_named
from trelm.comparison.cell import Cell, cell_key
from trelm.comparison.portable_packing import Record, classes_within, unpack_array, unpack_value
from trelm.comparison.portable_rows import unpack_start
from trelm.comparison.portable_writing import (
    ARRAYS,
    CONFIG,
    FORMAT,
    LINES,
    ROWS,
    SOURCE,
    SOURCE_TOKENIZER,
    TOKENIZER,
)
from trelm.comparison.preparation import claimed
from trelm.config import Config, make_config, override_values, read_yaml
from trelm.errors import ComparisonError
from trelm.initialisation import Initialisation, SourceTables
from trelm.model.source import SourceEncoder, load_config
from trelm.stages import StageData
from trelm.steps.context import Context
from trelm.workspace import MANIFEST, Run, file_digest, find_damage, read_sealed

CHANGEABLE = ("budget", "training")


def load_portable(folder: Path, overrides: Sequence[str] = ()) -> Portable:
    """A folder that `write_portable` wrote, every file of it checked.

    Args:
        overrides: `name=value`, of the budget and of training.

    Raises:
        ComparisonError: there is no such folder, a file of it is not as it was written, or an override of what is
            prepared.
        ConfigError: an override of something unknown, or a value out of range.
    """
    if not (folder / MANIFEST).exists():
        raise ComparisonError(
            f"{folder}: expected a folder that `trelm compare --prepare` wrote, found no {MANIFEST} there; "
            "check the path"
        )
    manifest = read_sealed(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ComparisonError(
            f"{folder}: expected a prepared comparison of form {FORMAT}, found form {manifest.get('format')}; "
            "prepare and run with the same version of trelm"
        )
    if (damage := find_damage(folder, manifest["files"], trust_times=False)) is not None:
        raise ComparisonError(f"{folder / damage[0]}: {damage[1]}; copy the prepared folder again")
    for override in overrides:
        if override.partition(".")[0] not in CHANGEABLE:
            raise ComparisonError(
                f"--set {override}: expected a setting of {' or '.join(CHANGEABLE)}, found one of what is prepared; "
                "prepare again with it"
            )
    config = make_config(override_values(read_yaml(folder / CONFIG), overrides), base=folder, origin=str(folder))
    if config.budget.minutes is not None:
        raise ComparisonError(
            "--set budget.minutes: expected flops, tokens or updates, found minutes; give one of these"
        )
    return Portable(folder, config, manifest)


@dataclass(frozen=True)
class Portable:
    """A prepared comparison, on whatever machine.

    Attributes:
        config: the comparison's, with paths in the folder. manifest: what lies where.
    """

    folder: Path
    config: Config
    manifest: Record

    def cell(self, name: str, seed: int, work: Path) -> Cell:
        """The cell of an arm with a seed, whose steps go to folders in `work`."""
        arm = arm_named(self.config, name)
        context = PortableContext(arm.configure(self.config, seed), Run(work), self)
        inputs = PortableInputs(self, self.manifest["cells"][cell_key(name, seed)], context)
        return Cell(name, arm, context, inputs, self.config.seed)

    def claimed(self, config: Config) -> str:
        """What results depend on of the settings, the same wherever the folder lies."""
        place = os.path.normpath(self.folder.absolute()) + os.sep
        return yaml.safe_dump(_inside(place, yaml.safe_load(claimed(config))), sort_keys=False, allow_unicode=True)

    @cached_property
    def source(self) -> SourceEncoder:
        """The source encoder; without weights where no arm starts from them."""
        config = load_config(str(self.folder / SOURCE))
        own = self.folder / SOURCE_TOKENIZER
        # nothing asks for the source's tokenizer where it was not carried, and whoever did would be told at once
        tokenizer = _tokenizer(own) if own.exists() else cast(PreTrainedTokenizerBase, None)
        packed = self.manifest["source"]
        if packed is None:
            return SourceEncoder(self.config.source.model, "", config, tokenizer, None, {}, has_head=False)
        body, head = (self._weights(packed[part]) for part in ("backbone", "head"))
        with torch.random.fork_rng(devices=[]):
            backbone = AutoModel.from_config(config, dtype=torch.float32)
        missing, _ = backbone.load_state_dict(body, strict=False)
        table = backbone.get_input_embeddings().weight
        if packed["has_tables"] == bool(missing) or len(missing) > 1:
            raise ComparisonError(
                f"{self.folder}: expected the weights of a {type(backbone).__name__}, found {len(missing)} missing; "
                "use the versions of trelm and transformers that prepared it"
            )
        if missing:  # the table, which no arm reads: nobody is to take random numbers for it
            torch.nn.init.constant_(table, float("nan"))
        return SourceEncoder(self.config.source.model, "", config, tokenizer, backbone, head, packed["has_head"])

    def _weights(self, packed: Record) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(unpack_array(record, self.folder / SOURCE)).float()
            for name, record in packed.items()
        }

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the joint vocabulary."""
        return _tokenizer(self.folder / TOKENIZER)

    @cached_property
    def tables(self) -> SourceTables | None:
        """What the source has for each of its entries, where that was carried."""
        packed = self.manifest["source"]
        if packed is None or not packed["has_tables"]:
            return None
        outputs, bias = self.source.output_table, self.source.output_bias
        return SourceTables(
            self.source.table.numpy(),
            None if outputs is None else outputs.numpy(),
            None if bias is None else bias.numpy(),
        )

    @cached_property
    def digest(self) -> str:
        """Of all that was carried."""
        return file_digest(self.folder / MANIFEST)


class PortableContext(Context):
    """What the steps of a cell are given where there is no folder of the comparison's."""

    def __init__(self, config: Config, run: Run, portable: Portable) -> None:
        super().__init__(config, run)
        self._portable = portable

    @property
    def source(self) -> SourceEncoder:
        """The source encoder, with the head that was fitted to it where there is one."""
        return self._portable.source

    @cached_property
    def pretrained(self) -> SourceEncoder:
        """One of the cell's own: a teacher is moved to the device."""
        return replace(self._portable.source, backbone=copy.deepcopy(self._portable.source.backbone))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the joint vocabulary."""
        return self._portable.tokenizer

    def lines(self, name: str) -> list[str]:
        """The lines of a file of held-out text."""
        return (self._portable.folder / LINES / name).read_text(encoding="utf-8").split("\n")[:-1]


@dataclass(frozen=True)
class PortableInputs:
    """From a prepared folder.

    Attributes:
        record: of the cell in the manifest.
    """

    portable: Portable
    record: Record
    context: Context

    @cached_property
    def rows(self) -> Initialisation:
        """Start tables; drawn rows by the cell's seed."""
        portable = self.portable
        pools, seed = portable.manifest["pools"], self.context.config.seed
        return unpack_start(self.record["start"], portable.folder / ROWS, portable.tables, pools, seed)

    @cached_property
    def data(self) -> StageData:
        """What the stages draw their batches from; lengths and rates are the configuration's."""
        classes, training = classes_within(StageData), self.context.config.training
        data: StageData = unpack_value(self.record["data"], self.portable.folder / ARRAYS, classes)
        return replace(
            data,
            max_length=training.max_length,
            mask_rate=training.mask_rate,
            label_rate=training.cross_lingual_labels,
        )

    @property
    def preparation_seconds(self) -> float:
        """On the machine that prepared."""
        return float(self.record["preparation_seconds"])

    @property
    def depends_on(self) -> list[Any]:
        return [self.portable.claimed(self.context.config), self.portable.digest]


def _inside(place: str, value: Any) -> Any:
    """Plain values, paths within `place` taken from there."""
    if isinstance(value, dict):
        return {key: _inside(place, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_inside(place, one) for one in value]
    return value.removeprefix(place) if isinstance(value, str) else value


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return tokenizer


def chosen(config: Config, arms: Sequence[str] | None, seeds: Sequence[int] | None) -> list[tuple[str, int]]:
    """The cells of some arms and seeds, seed by seed; all where None.

    Raises:
        ComparisonError: an arm or a seed that is not among the configuration's.
    """
    wanted: dict[str, tuple[Any, ...]] = {}
    for option, given, known in (("--arms", arms, config.comparison.arms), ("--seeds", seeds, config.comparison.seeds)):
        for one in given or ():
            if one not in known:
                raise ComparisonError(
                    f"{option} {one}: expected one of {', '.join(map(str, known))}, found another; name one of these, "
                    "or add it to the configuration and prepare again"
                )
        wanted[option] = tuple(one for one in known if given is None or one in given)
    return [(name, seed) for seed in wanted["--seeds"] for name in wanted["--arms"]]
