"""The model card: every number of the run, front matter that the Hub understands, and what it says about licences."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from card_values import CARD, without
from huggingface_hub import ModelCard
from jinja2 import UndefinedError

from trelm.export import card as card_module
from trelm.export.card import data_row, hub_dataset, public_data_name, render_card, source_licence
from trelm.export.licences import HUB_LICENCES, hub_licence

DATA = [
    data_row("/home/me/data/en/*.txt.xz", "source text", lines=12345, licence="CC BY-SA 4.0"),
    data_row("hf://user/opus:en-no/train#en,no", "parallel text", lines=678, licence=None),
    data_row(("/home/me/bible.en.txt", "/home/me/bible.no.txt"), "parallel text", lines=None, licence="a|b\nc"),
]
ONNX = {
    "path": "onnx/model.onnx",
    "inputs": ["input_ids", "attention_mask"],
    "sentences": 1500,
    "largest_difference": 0.0000123,
    "largest_logit": 17.25,
}
FULL = CARD | {
    "plain": True,
    "repo": "me/norwegian",
    "license": "CC-BY-SA-4.0",
    "source_license": "apache-2.0",
    "data": DATA,
    "check": {"sentences": 2000, "largest_difference": 3.14e-15, "largest_difference_in_float32": 0.00000217},
    "onnx": ONNX,
}


def metadata(card: str) -> dict[str, Any]:
    """The front matter as the Hub's own client reads it."""
    return dict(ModelCard(card).data.to_dict())


def card_table(card: str, first: str) -> list[list[str]]:
    """The rows of the Markdown table whose header starts with `first`, up to the first line that is no row."""
    lines = card[card.index(f"| {first} |") :].splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def test_the_front_matter_of_a_bare_card_has_what_is_known_and_nothing_else() -> None:
    """`no`, Norwegian, is a truth value where it is not quoted."""
    assert metadata(render_card(CARD)) == {
        "language": "no",
        "base_model": "some/encoder",
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["trelm", "cross-lingual-transfer"],
    }
    assert yaml.safe_load(render_card(CARD).split("---\n")[1]) == metadata(render_card(CARD))


def test_the_front_matter_of_a_full_card_has_licence_data_sets_and_onnx() -> None:
    assert metadata(render_card(FULL)) == {
        "language": "no",
        "license": "cc-by-sa-4.0",
        "base_model": "some/encoder",
        "datasets": ["user/opus"],
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["trelm", "cross-lingual-transfer", "onnx"],
    }


@pytest.mark.parametrize("name", ["tiny-bert", "C: #1 'model'", "a/b/c", "../x", "/abs/x", ""])
def test_a_base_model_that_is_no_hub_id_is_named_in_the_text_alone(name: str) -> None:
    card = render_card(CARD | {"base_model": name})
    assert "base_model" not in metadata(card)
    assert f"# {name} moved to `no` by TreLM" in card


def test_the_code_of_the_language_is_in_lower_case_for_the_hub() -> None:
    card = render_card(CARD | {"languages": {"source": "en", "target": "zh-Hant"}})
    assert metadata(card)["language"] == "zh-hant"
    assert "An encoder of language `zh-Hant`" in card


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, (None, None)),
        ("", (None, None)),
        ("MIT", ("mit", None)),
        (" cc0-1.0 ", ("cc0-1.0", None)),
        ("Ours, v2", ("other", "ours-v2")),
        ("other", ("other", None)),
    ],
)
def test_a_licence_becomes_the_name_that_the_hub_has_for_it(given: str | None, expected: tuple[Any, Any]) -> None:
    assert hub_licence(given) == expected
    front = metadata(render_card(CARD | {"license": given}))
    assert (front.get("license"), front.get("license_name")) == expected


def test_the_names_of_licences_are_spelled_as_the_hub_spells_them() -> None:
    assert all(re.fullmatch(r"[a-z0-9.+-]+", name) for name in HUB_LICENCES)


def test_the_data_has_names_roles_sizes_and_licences() -> None:
    assert card_table(render_card(FULL), "data")[2:] == [
        ["en/*.txt.xz", "source text", "12,345", "CC BY-SA 4.0"],
        ["user/opus", "parallel text", "678", "not stated"],
        ["bible.en.txt, bible.no.txt", "parallel text", "not stated", "a\\", "b c"],
    ]
    assert "/home/me" not in render_card(FULL)


def test_languages_and_licences_are_stated_or_said_not_to_be() -> None:
    rows = ["| language of this model | `no` | licence: {} |", "| language of `some/encoder` | `en` | licence: {} |"]
    for card, licences in ((FULL, ("CC-BY-SA-4.0", "apache-2.0")), (CARD, ("not stated",) * 2)):
        for row, licence in zip(rows, licences):
            assert row.format(licence) in render_card(card)


def test_how_it_was_checked_is_told_where_it_was() -> None:
    card = " ".join(render_card(FULL).split())
    words = "the logits of 2,000 sentences; the largest difference was 3.1e-15"
    assert f"{words} in float64, 2.2e-06 in float32." in card
    alone = render_card(FULL | {"check": {"sentences": 2000, "largest_difference": 3.14e-15}})
    assert f"{words}." in " ".join(alone.split())
    assert (
        "the logits of 1,500 sentences from `onnx/model.onnx`; the largest difference from PyTorch's was 1.2e-05"
        in card
    )
    assert "inputs input_ids, attention_mask; output `logits`" in card
    assert "checked" not in render_card(CARD)
    assert "onnx" not in render_card(CARD).lower()


def test_the_loading_code_is_that_of_the_class() -> None:
    plain, own = (re.findall(r"```python\n(.*?)```", render_card(card), re.DOTALL) for card in (FULL, CARD))
    lines = (
        "from transformers import AutoModelForMaskedLM, AutoTokenizer\n\n"
        'model = AutoModelForMaskedLM.from_pretrained("{0}")\n'
        'tokenizer = AutoTokenizer.from_pretrained("{0}")\n'
    )
    assert plain == [lines.format("me/norwegian")]
    assert own == ["import trelm  # teaches transformers the class\n" + lines.format("PATH_TO_THIS_FOLDER")]


def test_a_plain_model_says_which_transformers_it_needs() -> None:
    plain, own = (" ".join(render_card(card).split()) for card in (FULL, CARD))
    words = "of the class that `some/encoder` has: nothing but `transformers` is needed, version 5 or later."
    assert words in plain
    assert "version 5" not in own


@pytest.mark.parametrize(
    ("source", "dataset", "name"),
    [
        ("hf://user/data/train#text", "user/data", "user/data"),
        ("hf://user/data:en-id/train", "user/data", "user/data"),
        ("hf://squad/train", "squad", "squad"),
        ("hf:///data/saved#text", None, "saved"),
        ("hf://./saved/train", None, "train"),
        ("hf://~/saved/train#a,b", None, "train"),
        ("/home/me/id.txt", None, "id.txt"),
        ("/home/me/id/*.txt", None, "id/*.txt"),
        ("*.txt", None, "*.txt"),
    ],
)
def test_an_input_is_named_without_the_folders_of_this_machine(source: str, dataset: str | None, name: str) -> None:
    assert hub_dataset(source) == dataset
    assert public_data_name(source) == name


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license: [mit, cc0-1.0]", "mit, cc0-1.0"),
        ("license: other\nlicense_name: ours", "ours"),
        ("license: other", "other"),
        ("language: en", None),
        ("license:", None),
        ("license: []", None),
        ("license: {a: b}", None),
        ("license: [", None),
        ("- a", None),
    ],
)
def test_the_licence_of_a_source_is_what_its_card_states(tmp_path: Path, front: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")
    assert source_licence(str(tmp_path)) == licence


def test_a_source_without_a_card_or_front_matter_states_nothing(tmp_path: Path) -> None:
    assert source_licence(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("# A model\n", encoding="utf-8")
    assert source_licence(str(tmp_path)) is None


def test_the_bundled_encoder_states_its_licence(minilm_folder: Path) -> None:
    assert source_licence(str(minilm_folder)) == "apache-2.0"


@pytest.mark.parametrize("name", ["google-bert/bert-base-cased", "a/b/c/d", ""])
def test_without_the_hub_a_licence_is_not_stated(name: str) -> None:
    """The tests' environment forbids the network: the client refuses."""
    assert source_licence(name) is None


def test_the_hub_is_asked_for_the_licence_of_a_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(name: str, *, revision: str | None, timeout: float) -> Any:
        licence = {("me/model", None): "mit", ("me/model", "v1"): "gpl-3.0"}[name, revision]
        return SimpleNamespace(card_data=ModelCard(f"---\nlicense: {licence}\n---\n").data)

    monkeypatch.setattr(card_module, "model_info", model_info)
    assert source_licence("me/model") == "mit"
    assert source_licence("me/model", "v1") == "gpl-3.0"


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
        "trelm": version("trelm"),
    }
    assert "# some/encoder moved to `no` by TreLM" in card
    assert "made from `some/encoder` (language `en`)" in card


NEEDED = [
    *("base_model", "languages", "models", "baseline_rule", "budget", "alignment", "text", "stages", "seed"),
    *("languages.source", "languages.target", "alignment.method"),
    *(f"models.scratch.{score}" for score in ("bits_per_character", "masked_accuracy", "masked_loss")),
    *("stages.commonality.updates", "stages.commonality.tokens"),
]


@pytest.mark.parametrize("path", NEEDED)
def test_a_missing_value_is_an_error_and_never_a_blank(path: str) -> None:
    with pytest.raises(UndefinedError, match=path.split(".")[-1]):
        render_card(without(path))
