"""Encoders and tokenizers that `trelm transfer` refuses in one line, before anything is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, EuroBertConfig, EuroBertForMaskedLM, PreTrainedTokenizerFast

from terminal import Terminal, write_toy
from tiny_tokenizers import source_tokenizer

Spoil = Callable[[Path], list[str]]


@pytest.fixture
def trelm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def dropout_that_eurobert_has_not(folder: Path) -> list[str]:
    tokenizer = source_tokenizer("eurobert")
    config = EuroBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
    )
    EuroBertForMaskedLM(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return ["--set", f"source.model={folder}/encoder", "--set", "training.hidden_dropout=0.1"]


def a_tokenizer_of_whole_words(folder: Path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(_encoder_of(folder))
    return _with_backend(folder, Tokenizer(models.WordLevel(tokenizer.get_vocab(), unk_token="[UNK]")))


def a_tokenizer_without_a_mask(folder: Path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(_encoder_of(folder))
    return _with_backend(folder, tokenizer.backend_tokenizer, mask_token=None)


def a_tokenizer_that_is_not_there(folder: Path) -> list[str]:
    return ["--set", f"source.tokenizer={folder}/nowhere"]


def weights_as_a_pickle(folder: Path) -> list[str]:
    shutil.copytree(_encoder_of(folder), folder / "encoder")
    torch.save(load_file(folder / "encoder" / "model.safetensors"), folder / "encoder" / "pytorch_model.bin")
    (folder / "encoder" / "model.safetensors").unlink()
    return ["--set", f"source.model={folder}/encoder"]


def _encoder_of(folder: Path) -> str:
    """The encoder that the toy configuration names."""
    return str(yaml.safe_load((folder / "toy.yaml").read_text("utf-8"))["source"]["model"])


def _with_backend(folder: Path, backend: Tokenizer, **roles: str | None) -> list[str]:
    """The toy encoder with another tokenizer, which is in another folder."""
    names = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    given = {f"{role}_token": name for role, name in names.items()} | roles
    kept = {name: token for name, token in given.items() if token is not None}
    PreTrainedTokenizerFast(tokenizer_object=backend, **kept).save_pretrained(folder / "tokenizer")
    return ["--set", f"source.tokenizer={folder}/tokenizer"]


REFUSED: list[tuple[Spoil, str]] = [
    (
        dropout_that_eurobert_has_not,
        r"training\.hidden_dropout: expected 0 or null, since eurobert has none, found 0\.1; set it to 0",
    ),
    (
        a_tokenizer_of_whole_words,
        r"source\.model: expected a WordPiece, Unigram or byte-level BPE tokenizer, found WordLevel; choose another .*",
    ),
    (
        a_tokenizer_without_a_mask,
        r"source\.model: expected a tokenizer with .* tokens, found no mask; choose an encoder that was trained by .*",
    ),
    (
        a_tokenizer_that_is_not_there,
        r"source\.tokenizer: {folder}/nowhere: expected a tokenizer in that folder or Hub repository, found none .*",
    ),
    (
        weights_as_a_pickle,
        r"source\.model: {folder}/encoder: expected weights as model\.safetensors, found none \(.*\); a pickle is "
        r"never opened: give another checkpoint, or a source\.revision that has them .*",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED, ids=[spoil.__name__ for spoil, _ in REFUSED])
def test_it_is_one_line_and_leaves_no_run_folder(
    trelm: Terminal, tmp_path: Path, tiny_bert: Path, spoil: Spoil, message: str
) -> None:
    toy = write_toy(tmp_path / "toy", tiny_bert)
    more = spoil(toy.parent)
    before = sorted(toy.parent.rglob("*"))
    mistake = trelm("transfer", toy, "--run", toy.parent / "run", "--quiet", *more).mistake
    assert re.fullmatch("trelm: " + message.replace("{folder}", re.escape(str(toy.parent))), mistake), mistake
    assert sorted(toy.parent.rglob("*")) == before
