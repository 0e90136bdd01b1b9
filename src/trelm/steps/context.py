"""What every step is given: the configuration, the run folder, the source encoder, and readers of earlier outputs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from trelm.config import Config
from trelm.corpus.ragged import Ragged
from trelm.errors import ConfigError, RunFolderError
from trelm.model.head import with_head
from trelm.model.source import SourceEncoder, load_source
from trelm.progress import StepProgress
from trelm.steps.head_cache import HEAD_FILE
from trelm.training.account import OnUpdate
from trelm.training.batches import Vocabulary
from trelm.training.checkpoints import remove_checkpoints
from trelm.training.device import has_fast_bfloat16
from trelm.workspace import Run, Step

CORPUS, HEAD, VOCABULARY, TOKENS, WORD_LINKS = "corpus", "head", "vocabulary", "tokens", "word-links"
EMBEDDINGS, ALIGNMENT, MODEL, DIAGNOSIS, PLAN = "embeddings", "alignment", "model", "diagnosis", "plan"
EVALUATION, EXPORT = "evaluation", "export"

Figures = dict[str, Any]
StepFunction = Callable[["Context", Path, StepProgress], Figures]


@dataclass(frozen=True)
class RunStep:
    """A step by name; `work` fills its folder and returns its figures.

    Attributes:
        resumes: whether it goes on from checkpoints in its folder; any other step starts again when it was cut off.
        joint: whether all processes of a run do it together; any other step is the first one's alone.
    """

    name: str
    work: StepFunction
    resumes: bool = False
    joint: bool = False


class Context:
    """Shared by the steps of one run; holds no state but what can be read again from the folder."""

    def __init__(self, config: Config, run: Run) -> None:
        self.config = config
        self.run = run

    @property
    def source(self) -> SourceEncoder:
        """The source encoder, with the head that was fitted to it where there is one."""
        manifest = self.run.step(HEAD).manifest() if self.config.head.updates else None
        return self._with_fitted_head if manifest is not None and manifest["fitted"] else self.pretrained

    @cached_property
    def _with_fitted_head(self) -> SourceEncoder:
        return with_head(self.pretrained, load_file(self.folder(HEAD) / HEAD_FILE))

    @cached_property
    def pretrained(self) -> SourceEncoder:
        """The source encoder as it was published."""
        source = self.config.source
        return load_source(
            source.model,
            revision=source.revision,
            tokenizer=source.tokenizer,
            seed=self.config.seed,
            follow_links=source.follow_links,
        )

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the joint vocabulary."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(self.folder(VOCABULARY)), trust_remote_code=False
        )
        return tokenizer

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What batches need to know of the joint vocabulary."""
        return vocabulary_of(self.tokenizer)

    @property
    def languages(self) -> tuple[str, str]:
        """Codes of the source and the target language."""
        return self.config.source.language, self.config.target.language

    @cached_property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where training runs.

        Raises:
            ConfigError: a GPU is asked for and there is none.
        """
        wanted, there = self.config.training.device, torch.cuda.is_available()
        if wanted == "cuda" and not there:
            raise ConfigError("training.device: expected a CUDA device, found none; set it to auto or cpu")
        return "cuda" if there and wanted != "cpu" else "cpu"

    @cached_property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """What training computes in: bfloat16 where the hardware has it, unless the configuration says otherwise."""
        wanted = self.config.training.precision
        if wanted != "auto":
            return wanted
        return "bfloat16" if has_fast_bfloat16(self.device) else "float32"

    def folder(self, step: str) -> Path:
        """The folder of a step."""
        return self.run.step(step).folder

    def figures(self, step: str) -> Figures:
        """What a finished step left in its manifest.

        Raises:
            RunFolderError: the step is not done.
        """
        manifest = self.run.step(step).manifest()
        if manifest is None:
            raise RunFolderError(f"{self.run.folder}: step '{step}' is not done; run `trelm transfer` to its end first")
        return manifest

    def tokens(self, name: str) -> Ragged:
        """Token ids that the tokens step wrote."""
        return Ragged.load(self.folder(TOKENS), name)

    def lines(self, name: str) -> list[str]:
        """The lines of a file of the corpus step."""
        return (self.folder(CORPUS) / name).read_text(encoding="utf-8").split("\n")[:-1]


def carry_out(
    place: Step,
    inputs: str,
    work: Callable[[], Figures],
    *,
    resumes: bool,
    note: Callable[[str], None],
    also: Callable[[], Figures] = dict,
) -> None:
    """Do a step that is not done: its manifest, with the seconds that it took, is written when its work has ended.

    Args:
        inputs: digest of what it depends on. resumes: as in `RunStep`. also: more for the manifest.
        note: told why, where the step ended once and a file of it is not as it was left.
    """
    if (damage := place.damage()) is not None:
        note(f"{place.folder / damage[0]}: {damage[1]}; the step is done again")
    place.begin(inputs, afresh=not resumes)
    started = time.perf_counter()
    figures = work()
    place.finish(inputs, {"seconds": time.perf_counter() - started, **figures, **also()})
    remove_checkpoints(place.folder)  # not before: until the manifest stands, they are what a kill leaves


def telling(tell: StepProgress) -> OnUpdate:
    """What the training loop calls after an update, so that progress is told with the rate and the loss."""

    def on_update(done: int, total: int, rate: float, loss: float | None) -> None:
        tell.update(done, total, "updates", tokens_a_second=rate, **({} if loss is None else {"loss": loss}))

    return on_update


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """What batches need to know of a vocabulary.

    Raises:
        ConfigError: a special token is missing.
    """
    return Vocabulary(
        size=len(tokenizer),
        start=_token(tokenizer.cls_token_id, tokenizer.bos_token_id),
        end=_token(tokenizer.sep_token_id, tokenizer.eos_token_id),
        padding=_token(tokenizer.pad_token_id),
        mask=_token(tokenizer.mask_token_id),
        special=tuple(tokenizer.all_special_ids),
    )


def parallel_sources(config: Config) -> list[str | tuple[str, str]]:
    """The parallel inputs as the readers take them."""
    return [entry if isinstance(entry, str) else (entry.source, entry.target) for entry in config.parallel]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings of transformers' own: what they say is expected, and said by us in one line."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def use_all_cores() -> int:
    """Let torch use every core this process may use, or as many as OMP_NUM_THREADS says; returns their number."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(int(wanted), allowed) if wanted.isdigit() and int(wanted) > 0 else allowed
    torch.set_num_threads(cores)
    return cores


def _token(*candidates: int | None) -> int:
    for candidate in candidates:
        if candidate is not None:
            return candidate
    raise ConfigError("source.model: expected a tokenizer with start, end, padding and mask tokens, found one without")
