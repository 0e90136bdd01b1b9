"""What every step is given."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers.utils import logging as transformers_logging

from toy import ToyRun, in_source, sentences
from trelm.errors import ConfigError, RunFolderError
from trelm.steps import context as context_module
from trelm.steps.context import Context, parallel_sources, quiet_transformers, use_all_cores
from trelm.workspace import Run, read_json


def test_the_source_encoder_is_the_one_of_the_configuration(toy_run: ToyRun) -> None:
    source = toy_run.context().source
    assert source.path == str(toy_run.model)
    assert source.table.shape == (200, 32)
    assert toy_run.context().languages == ("en", "xx")


def test_the_vocabulary_is_what_batches_need_of_the_tokenizer(toy_run: ToyRun) -> None:
    context = toy_run.context()
    ids = context.tokenizer.get_vocab()
    vocabulary = context.vocabulary
    assert vocabulary.size == len(ids) == read_json(toy_run.folder / "vocabulary" / "manifest.json")["size"]
    assert vocabulary.start == ids["[CLS]"]
    assert vocabulary.end == ids["[SEP]"]
    assert vocabulary.padding == ids["[PAD]"]
    assert vocabulary.mask == ids["[MASK]"]
    assert sorted(vocabulary.special) == sorted(ids[f"[{name}]"] for name in ("PAD", "UNK", "CLS", "SEP", "MASK"))


def test_beginning_and_end_of_a_sentence_stand_in_for_cls_and_sep(toy_run: ToyRun) -> None:
    context = toy_run.context()
    roles = {"cls": None, "sep": None, "bos": 7, "eos": 8, "pad": 0, "mask": 9}

    class Tokenizer(SimpleNamespace):
        def __len__(self) -> int:
            return 10

    tokenizer = Tokenizer(all_special_ids=[0, 7, 8, 9], **{f"{role}_token_id": row for role, row in roles.items()})
    vars(context)["tokenizer"] = tokenizer
    assert (context.vocabulary.start, context.vocabulary.end, context.vocabulary.padding) == (7, 8, 0)
    for role in ("bos", "eos", "pad", "mask"):
        without = toy_run.context()
        vars(without)["tokenizer"] = Tokenizer(**{**vars(tokenizer), f"{role}_token_id": None})
        with pytest.raises(ConfigError, match=r"^source\.model: expected a tokenizer with start, end, padding"):
            _ = without.vocabulary


@pytest.mark.parametrize(
    ("wanted", "there", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_the_one_wished_for_or_the_best_there_is(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert toy_run.context(f"training.device={wanted}").device == device


def test_a_gpu_that_is_not_there_is_said(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = r"^training\.device: expected a CUDA device, found none; set it to auto or cpu$"
    with pytest.raises(ConfigError, match=words):
        _ = toy_run.context("training.device=cuda").device


@pytest.mark.parametrize("fast", [True, False])
def test_the_precision_is_what_the_hardware_does_well(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    asked = []
    monkeypatch.setattr(context_module, "has_fast_bfloat16", lambda device: bool(asked.append(device)) or fast)
    assert toy_run.context("training.precision=auto").precision == ("bfloat16" if fast else "float32")
    assert toy_run.context("training.precision=bfloat16").precision == "bfloat16"
    assert toy_run.context("training.precision=float32").precision == "float32"
    assert asked == ["cpu"]


def test_figures_are_those_of_the_manifest(toy_run: ToyRun) -> None:
    assert toy_run.context().figures("plan") == read_json(toy_run.folder / "plan" / "manifest.json")
    words = r": step 'plan' is not done; run `trelm transfer` to its end first$"
    with pytest.raises(RunFolderError, match=words):
        Context(toy_run.config(), Run(toy_run.data)).figures("plan")


def test_lines_and_tokens_are_those_of_the_files(toy_run: ToyRun) -> None:
    context = toy_run.context()
    lines = context.lines("source.txt")
    assert {in_source(words) for words in sentences(20, 1)} & set(lines)
    tokens = context.tokens("source")
    assert len(tokens) == len(lines)
    assert tokens[3].tolist() == context.tokenizer(lines[3], add_special_tokens=False)["input_ids"]


def test_parallel_inputs_are_names_or_pairs_of_files(toy_run: ToyRun) -> None:
    config = toy_run.config("parallel=[a.tsv, {source: b.en, target: b.xx}]")
    assert parallel_sources(config) == ["a.tsv", ("b.en", "b.xx")]


def test_transformers_is_quiet_only_for_the_time_being() -> None:
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        transformers_logging.set_verbosity_info()
        transformers_logging.enable_progress_bar()
        with quiet_transformers():
            assert transformers_logging.get_verbosity() == transformers_logging.ERROR
            assert not transformers_logging.is_progress_bar_enabled()
        with pytest.raises(KeyError), quiet_transformers():
            raise KeyError
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        with quiet_transformers():
            pass
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity(level)
        (transformers_logging.enable_progress_bar if bars else transformers_logging.disable_progress_bar)()


def test_all_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
        assert use_all_cores() == 2 == torch.get_num_threads()
        for wanted, given in (("1", 1), ("9", 2), ("0", 2), ("", 2), ("many", 2)):
            monkeypatch.setenv("OMP_NUM_THREADS", wanted)
            assert use_all_cores() == given == torch.get_num_threads()
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
        assert use_all_cores() == 3 == torch.get_num_threads()
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert use_all_cores() == 1
    finally:
        torch.set_num_threads(threads)


def test_a_folder_is_that_of_its_step(toy_run: ToyRun) -> None:
    assert toy_run.context().folder("stages/scratch") == Path(toy_run.folder) / "stages" / "scratch"
