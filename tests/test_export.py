"""The exported folder: what is in it, what its card says, and that the card's own lines load it."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jinja2 import UndefinedError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, pipeline

from trelm.errors import RunFolderError
from trelm.export import export_model, render_card
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.source import load_source, transferred_model, trelm_config

CARD: dict[str, Any] = {
    "languages": {"source": "en", "target": "no"},
    "base_model": "some/encoder",
    "models": {
        "transferred": {"bits_per_character": 1.23449, "masked_accuracy": 0.45678, "masked_loss": 2.71828},
        "scratch": {"bits_per_character": 2.5, "masked_accuracy": 0.1, "masked_loss": 4.0},
    },
    "baseline_rule": "The model from scratch had the same hours.",
    "budget": "2 hours, 300 updates",
    "alignment": {"method": "identical", "criterion": 0.7},
    "text": {"train.no": 123456, "valid.no": 789},
    "stages": {
        "commonality": {"updates": 1200, "tokens": 9876543},
        "language_specific": {"updates": 34, "tokens": 56},
    },
    "seed": 4711,
}


@pytest.fixture(scope="module")
def parts(tiny_bert: Path) -> tuple[TrelmForMaskedLM, PreTrainedTokenizerBase]:
    source = load_source(str(tiny_bert))
    config = trelm_config(source.config, vocabulary_size=200, pad_token_id=0, languages=("en", "no"))
    model: Any = transferred_model(config, source, source.table, seed=1)
    model.eval()
    return model, source.tokenizer


@pytest.fixture(scope="module")
def exported(parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "new" / "model"
    export_model(folder, *parts, CARD)
    return folder


def card_table(card: str, first: str) -> list[list[str]]:
    """The rows of the Markdown table whose header starts with `first`, up to the first line that is no row."""
    lines = card[card.index(f"| {first} |") :].splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def test_the_folder_has_weights_configuration_tokenizer_and_card_and_nothing_else(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md")
    }
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


def test_the_front_matter_is_yaml(exported: Path) -> None:
    """`no`, Norwegian, is a truth value where it is not quoted; a name may hold a colon or a number sign."""
    odd = CARD | {"base_model": "C: #1 'model'"}
    for card in ((exported / "README.md").read_text(encoding="utf-8"), render_card(odd)):
        front = yaml.safe_load(card.split("---\n")[1])
        assert front["language"] == "no"
        assert front["base_model"] in ("some/encoder", "C: #1 'model'")
        assert front["library_name"] == "transformers"
        assert front["pipeline_tag"] == "fill-mask"
        assert front["tags"] == ["trelm", "cross-lingual-transfer"]


def test_the_card_says_how_good_it_is() -> None:
    assert card_table(render_card(CARD), "model")[2:] == [
        ["transferred", "1.234", "45.7 %", "2.718"],
        ["scratch", "2.500", "10.0 %", "4.000"],
    ]
    assert CARD["baseline_rule"] in render_card(CARD)


def test_the_card_of_a_run_without_a_rival_has_one_row() -> None:
    alone = CARD | {"models": {"transferred": CARD["models"]["transferred"]}}
    assert card_table(render_card(alone), "model")[2:] == [["transferred", "1.234", "45.7 %", "2.718"]]


def test_the_card_says_how_it_was_made() -> None:
    card = render_card(CARD)
    made = card[card.index("## How it was made") :]
    found = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", made, re.MULTILINE))
    assert found == {
        "budget": "2 hours, 300 updates",
        "alignment of the embeddings": "identical",
        "text": "train.no: 123,456 lines; valid.no: 789 lines",
        "stages": "commonality: 1200 updates, 9,876,543 tokens; language_specific: 34 updates, 56 tokens",
        "seed": "4711",
    }
    assert "# some/encoder moved to `no` by TreLM" in card
    assert "made from `some/encoder` (language `en`)" in card


NEEDED = [
    *("base_model", "languages", "models", "baseline_rule", "budget", "alignment", "text", "stages", "seed"),
    *("languages.source", "languages.target", "alignment.method"),
    *(f"models.scratch.{score}" for score in ("bits_per_character", "masked_accuracy", "masked_loss")),
    *("stages.commonality.updates", "stages.commonality.tokens"),
]


def without(path: str) -> dict[str, Any]:
    """The card's values but one."""
    values = copy.deepcopy(CARD)
    *above, last = path.split(".")
    inner = values
    for key in above:
        inner = inner[key]
    del inner[last]
    return values


@pytest.mark.parametrize("path", NEEDED)
def test_a_missing_value_is_an_error_and_never_a_blank(path: str) -> None:
    with pytest.raises(UndefinedError, match=path.split(".")[-1]):
        render_card(without(path))


def test_a_card_that_fails_leaves_no_folder(
    parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    with pytest.raises(UndefinedError):
        export_model(tmp_path / "model", *parts, without("seed"))
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
        export_model(folder, *parts, CARD)
    assert kept.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_an_empty_folder_will_do(parts: tuple[TrelmForMaskedLM, PreTrainedTokenizerBase], tmp_path: Path) -> None:
    export_model(tmp_path, *parts, CARD)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == render_card(CARD)
