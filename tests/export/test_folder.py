"""The exported folder, plain or TreLM's own: what is in it, that the card's own lines load it, and who else can."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from card_values import CARD, without
from jinja2 import UndefinedError
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipeline,
)

from trelm.errors import ExportError, RunFolderError
from trelm.export import write_folder
from trelm.export.card import render_card
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.source import load_source, transferred_model, trelm_config

TEXTS = ["the people said that it was good .", "how are you ?"]
FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}


def saver(model: PreTrainedModel) -> Callable[[Path], None]:
    return lambda folder: model.save_pretrained(str(folder))


@pytest.fixture(scope="module")
def parts(tiny_bert: Path) -> tuple[TrelmForMaskedLM, PreTrainedTokenizerBase]:
    source = load_source(str(tiny_bert))
    config = trelm_config(source.config, vocabulary_size=200, special_ids={"pad": 0}, languages=("en", "no"))
    model: Any = transferred_model(config, source, source.table, seed=1)
    model.eval()
    return model, source.tokenizer


@pytest.fixture(scope="module")
def exported(parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "new" / "model"
    write_folder(folder, saver(parts[0]), parts[1], CARD)
    return folder


def test_the_folder_has_weights_configuration_tokenizer_and_card_and_nothing_else(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    assert [path.name for path in exported.parent.iterdir()] == ["model"]


def test_no_file_names_a_path_of_this_machine(exported: Path, tiny_bert: Path) -> None:
    for path in exported.glob("*.[jm][sd]*"):
        text = path.read_text(encoding="utf-8")
        assert str(tiny_bert.parent) not in text, path
        assert str(exported.parent.parent) not in text, path
        assert str(Path.home()) not in text, path
    assert str(tiny_bert.parent).encode() not in (exported / "model.safetensors").read_bytes()


@torch.no_grad()
def test_the_lines_of_the_card_load_it(exported: Path, parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = parts
    match = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    names: dict[str, Any] = {}
    exec(match.group(1).replace("PATH_TO_THIS_FOLDER", str(exported)), names)
    text = "the people said that it was good ."
    batch = names["tokenizer"](text, return_tensors="pt")
    assert batch["input_ids"].tolist() == tokenizer(text, return_tensors="pt")["input_ids"].tolist()
    assert type(names["model"]) is TrelmForMaskedLM
    assert torch.equal(names["model"](**batch).logits, model(**batch).logits)


@torch.no_grad()
def test_it_fills_masks_as_the_card_promises(
    exported: Path, parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase]
) -> None:
    model, tokenizer = parts
    text = "the people [MASK] that it was good ."
    batch = AutoTokenizer.from_pretrained(exported)(text, return_tensors="pt")
    place = batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    scores = model(**batch).logits[0, place].softmax(-1)
    (best,) = pipeline("fill-mask", model=str(exported), device="cpu")(text, top_k=1)
    assert best["token"] == int(scores.argmax())
    assert best["score"] == pytest.approx(float(scores.max()), rel=1e-4)


@pytest.fixture(scope="module")
def plain_parts(tiny_bert: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model: Any = BertForMaskedLM.from_pretrained(tiny_bert)
    return model.eval(), AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture(scope="module")
def plain(
    plain_parts: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "model"
    figures = write_folder(
        folder,
        saver(plain_parts[0]),
        plain_parts[1],
        CARD | {"plain": True},
        verify=lambda temporary: {"sentences": len(list(temporary.iterdir())), "largest_difference": 2e-6},
        onnx_sentences=TEXTS,
    )
    assert figures["onnx"]["sentences"] == 2
    assert figures["check"] == {"sentences": len(FILES) - 1, "largest_difference": 2e-6}  # all but the card are there
    return folder


@torch.no_grad()
def test_the_lines_of_a_plain_card_load_an_ordinary_model(
    plain: Path, plain_parts: tuple[PreTrainedModel, PreTrainedTokenizerBase]
) -> None:
    model, tokenizer = plain_parts
    match = re.search(r"```python\n(.*?)```", (plain / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    assert "trelm" not in match.group(1)
    names: dict[str, Any] = {}
    exec(match.group(1).replace("PATH_TO_THIS_FOLDER", str(plain)), names)
    batch = names["tokenizer"](TEXTS, padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == tokenizer(TEXTS, padding=True)["input_ids"]
    assert type(names["model"]) is BertForMaskedLM
    assert torch.equal(names["model"](**batch).logits, model(**batch).logits)


def test_a_plain_folder_has_its_onnx_file_and_says_so(plain: Path) -> None:
    assert {path.relative_to(plain).as_posix() for path in plain.rglob("*") if path.is_file()} == {
        *FILES,
        "onnx/model.onnx",
    }
    card = " ".join((plain / "README.md").read_text(encoding="utf-8").split())
    assert "ONNX Runtime computed the logits of 2 sentences" in card
    assert "computed the logits of 4 sentences; the largest difference was 2e-06." in card


@torch.no_grad()
def test_sentence_transformers_takes_the_mean_of_its_states(plain: Path) -> None:
    encoder, tokenizer = AutoModel.from_pretrained(plain).eval(), AutoTokenizer.from_pretrained(plain)
    expected = []
    for text in TEXTS:  # one by one: no padding to be left out of the mean
        states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state
        expected.append(states[0].mean(0))
    found = SentenceTransformer(str(plain), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_a_card_that_fails_leaves_no_folder(
    parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    with pytest.raises(UndefinedError):
        write_folder(tmp_path / "model", saver(parts[0]), parts[1], without("seed"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_verified_leaves_no_folder(
    parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    def refuse(folder: Path) -> dict[str, Any]:
        raise ExportError(f"expected another model in {folder.name}")

    with pytest.raises(ExportError, match="expected another model"):
        write_folder(tmp_path / "model", saver(parts[0]), parts[1], CARD, verify=refuse)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken_by", ["file", "folder"])
def test_what_is_there_is_not_overwritten(
    parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path: Path, taken_by: str
) -> None:
    folder = tmp_path / "model"
    kept = folder if taken_by == "file" else folder / "notes.txt"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    words = f"^{re.escape(str(folder))}: expected a new or empty folder, found files there; choose another --to folder$"
    with pytest.raises(RunFolderError, match=words):
        write_folder(folder, saver(parts[0]), parts[1], CARD)
    assert kept.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_an_empty_folder_will_do(parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path: Path) -> None:
    write_folder(tmp_path, saver(parts[0]), parts[1], CARD)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == render_card(CARD)
