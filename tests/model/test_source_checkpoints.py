"""Checkpoints that others wrote: names of their own, no biases, no tokenizer, half precision, only a pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import save_source
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer

from trelm.errors import ConfigError
from trelm.model import source as module
from trelm.model.source import load_masked_lm, load_source, public_name, transferred_model, trelm_config

Weights = dict[str, Tensor]
WEIGHTS, CONFIGURATION = "model.safetensors", "config.json"
DENSE_BIAS, NORM_BIAS = (f"cls.predictions.transform.{part}.bias" for part in ("dense", "layer_norm"))


@pytest.fixture(scope="module")
def nomic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to be read."""
    return save_source("nomic-bert", tmp_path_factory.mktemp("nomic"))


@pytest.fixture(scope="module")
def deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to be read."""
    return save_source("deberta-v3", tmp_path_factory.mktemp("deberta"))


def with_weights(folder: Path, to: Path, change: Callable[[Weights], Weights]) -> Path:
    """A copy of an encoder with other weights."""
    shutil.copytree(folder, to)
    save_file(change(load_file(folder / WEIGHTS)), to / WEIGHTS, metadata={"format": "pt"})
    return to


def with_configuration(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of an encoder with another configuration; None takes a key away."""
    shutil.copytree(folder, to)
    values = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in values.items() if key not in changes or value is not None}
    (to / CONFIGURATION).write_text(json.dumps(kept), encoding="utf-8")
    return to


def as_nomic_names_them(weights: Weights) -> Weights:
    """The backbone below `bert.`, as in the checkpoints that Nomic's own program wrote."""
    return {
        name if name.startswith("cls.") else f"bert.{name.removeprefix('nomic_bert.')}": value
        for name, value in weights.items()
    }


def same_tensors(one: Weights, two: Weights) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def refusal(call: Callable[..., Any], *given: Any, **options: Any) -> str:
    """The one line with which something is refused."""
    with pytest.raises(ConfigError) as caught:
        call(*given, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names of their own


def test_a_nomic_checkpoint_of_its_own_program_is_read_whole(nomic: Path, tmp_path: Path) -> None:
    folder = with_weights(nomic, tmp_path / "own", as_nomic_names_them)
    assert {name.split(".")[0] for name in load_file(folder / WEIGHTS)} == {"bert", "cls"}
    ours, theirs = load_source(str(folder)), load_source(str(nomic))
    assert same_tensors(ours.backbone.state_dict(), theirs.backbone.state_dict())
    assert same_tensors(ours.head, theirs.head)
    assert ours.has_head
    scored, expected = (load_masked_lm(str(place))[0].state_dict() for place in (folder, nomic))
    assert same_tensors(scored, expected)


def test_the_names_are_those_of_nomic_alone(tmp_path: Path) -> None:
    """BERT's own `bert.` stays what it was."""
    folder = save_source("bert", tmp_path)
    saved = load_file(folder / WEIGHTS)
    found = load_source(str(folder)).backbone.state_dict()
    key = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(found[key], saved[f"bert.{key}"])


# A head without biases


@pytest.mark.parametrize("lacking", [{DENSE_BIAS}, {NORM_BIAS}, {DENSE_BIAS, NORM_BIAS, "cls.predictions.bias"}])
def test_a_head_without_biases_is_kept_with_biases_of_zero(nomic: Path, tmp_path: Path, lacking: set[str]) -> None:
    def without(weights: Weights) -> Weights:
        assert lacking <= weights.keys()
        return {name: value for name, value in weights.items() if name not in lacking}

    folder = with_weights(nomic, tmp_path / "bare", without)
    whole, bare = load_source(str(nomic)), load_source(str(folder))
    assert bare.has_head
    assert bare.head.keys() == whole.head.keys()
    for name, value in bare.head.items():
        is_absent = name in lacking or (name == "cls.predictions.decoder.bias" and "cls.predictions.bias" in lacking)
        assert torch.equal(value, torch.zeros_like(value) if is_absent else whole.head[name]), name
    config = trelm_config(bare.config, vocabulary_size=40, special_ids={"pad": 0}, languages=("en", "id"))
    model: Any = transferred_model(config, bare, torch.randn(40, 16), seed=1)
    found = model.head.state_dict()
    for name in ("cls.predictions.transform.dense.weight", DENSE_BIAS, NORM_BIAS):
        assert torch.equal(found[name], bare.head[name]), name
    assert same_tensors(load_masked_lm(str(folder))[0].cls.state_dict(), _below_cls(bare.head))


def _below_cls(head: Weights) -> Weights:
    return {name.removeprefix("cls."): value for name, value in head.items()}


def test_a_head_without_a_matrix_is_no_head(nomic: Path, tmp_path: Path) -> None:
    name = "cls.predictions.transform.dense.weight"
    folder = with_weights(nomic, tmp_path / "bare", lambda weights: {k: v for k, v in weights.items() if k != name})
    assert not load_source(str(folder)).has_head
    assert f"found a checkpoint without '{name}'; it would fill masks at random" in refusal(load_masked_lm, str(folder))


# Sizes that transformers passes over


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_embd": 768}, "n_embd 768, which it takes for hidden_size 16"),
        ({"n_layer": 12}, "n_layer 12, which it takes for num_hidden_layers 4"),
        ({"n_head": 12}, "n_head 12, which it takes for num_attention_heads 2"),
        ({"n_inner": 3072}, "n_inner 3072, which it takes for intermediate_size 24"),
        ({"n_embd": 16, "n_inner": 25}, "n_inner 25, which it takes for intermediate_size 24"),
        ({"rotary_emb_base": 10000}, "rotary_emb_base 10000, which it takes for a rope_theta of 1000.0"),
    ],
)
def test_sizes_in_the_words_of_gpt2_that_disagree_are_refused(
    nomic: Path, tmp_path: Path, changes: dict[str, int], said: str
) -> None:
    folder = with_configuration(nomic, tmp_path / "own", **changes)
    assert refusal(load_source, str(folder)) == (
        f"source.model: expected a configuration that transformers reads whole, found {said}; "
        "rename the keys in config.json"
    )


@pytest.mark.parametrize(
    "changes",
    [{"n_embd": 16, "n_layer": 4, "n_head": 2, "n_inner": 24}, {"rotary_emb_base": 1000}, {"rotary_emb_base": 1000.0}],
)
def test_sizes_in_the_words_of_gpt2_that_agree_are_no_harm(
    nomic: Path, tmp_path: Path, changes: dict[str, float]
) -> None:
    found = load_source(str(with_configuration(nomic, tmp_path / "own", **changes)))
    assert same_tensors(found.backbone.state_dict(), load_source(str(nomic)).backbone.state_dict())


# The tokenizer


def without_tokenizer(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (to / name).unlink()
    return to


def test_a_tokenizer_may_be_in_another_folder(nomic: Path, tmp_path: Path) -> None:
    folder = without_tokenizer(nomic, tmp_path / "encoder")
    (tmp_path / "tokenizer").mkdir()
    AutoTokenizer.from_pretrained(nomic).save_pretrained(tmp_path / "tokenizer")
    assert refusal(load_source, str(folder)).endswith(
        "put the tokenizer's own files beside config.json, or name their folder in source.tokenizer"
    )
    found = load_source(str(folder), tokenizer=str(tmp_path / "tokenizer"))
    assert found.path == str(folder)
    assert found.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(nomic).get_vocab()
    assert len(found.tokenizer) == len(found.table)


def test_a_tokenizer_of_another_encoder_is_refused(nomic: Path, tmp_path: Path) -> None:
    other = AutoTokenizer.from_pretrained(nomic)
    other.add_tokens(["one too many"])
    other.save_pretrained(tmp_path / "other")
    said = refusal(load_source, str(nomic), tokenizer=str(tmp_path / "other"))
    rows = len(other) - 1
    assert f"expected the tokenizer of its table of {rows} embeddings, found one of {rows + 1} entries" in said


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/no-such-tokenizer"])
def test_a_tokenizer_that_is_not_there_is_named(nomic: Path, name: str) -> None:
    said = refusal(load_source, str(nomic), tokenizer=name)
    assert said.startswith(
        f"source.tokenizer: {name}: expected a tokenizer in that folder or Hub repository, found none that loads ("
    )
    assert said.endswith("); check the name and the tokenizer's files")


@pytest.mark.parametrize("text", ["{", '{"version": "1.0"}', '{"added_tokens": [], "model": {"type": "Unheard"}}'])
def test_a_damaged_tokenizer_is_one_line(nomic: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(nomic, tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text(text, encoding="utf-8")
    place = str(tmp_path / "damaged")
    words = f"{place}: expected a tokenizer in that folder or Hub repository, found none that loads ("
    assert refusal(load_source, place).startswith(f"source.model: {words}")
    assert refusal(load_source, str(nomic), tokenizer=place).startswith(f"source.tokenizer: {words}")
    assert refusal(load_masked_lm, place).startswith(words)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ImportError("\n\nThis tokenizer needs a package.\nInstall it.\n"), "This tokenizer needs a package.)"),
        (ImportError(), "ImportError)"),
        (ValueError(""), "ValueError)"),
    ],
)
def test_a_missing_package_of_a_tokenizer_is_one_line(
    nomic: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, found: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module.AutoTokenizer, "from_pretrained", fail)
    for call in (load_source, load_masked_lm):
        assert f"found none that loads ({found}" in refusal(call, str(nomic))


@pytest.mark.parametrize("error", [ImportError(), OSError("\n"), RuntimeError(""), ValueError("  ")])
def test_a_library_that_says_nothing_is_named_by_its_error(
    nomic: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module.AutoConfig, "from_pretrained", fail)
    for call in (load_source, load_masked_lm):
        assert f"({type(error).__name__})" in refusal(call, str(nomic))


# Pickles


def test_a_pickle_alone_is_said_to_be_never_opened(nomic: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(nomic, tmp_path / "old"))
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    said = refusal(load_source, str(folder))
    assert said.startswith(f"source.model: {folder}: expected weights as model.safetensors, found none (")
    assert said.endswith(
        "a pickle is never opened: give another checkpoint, or a source.revision that has them "
        "(refs/pr/N of the Hub's conversion)"
    )
    assert "safetensors" in refusal(load_masked_lm, str(folder))


# Models to be scored


def test_half_precision_is_scored_in_full(deberta: Path, tmp_path: Path) -> None:
    shutil.copytree(deberta, tmp_path / "half")
    AutoModelForMaskedLM.from_pretrained(deberta, dtype=torch.float16).save_pretrained(tmp_path / "half")
    assert {value.dtype for value in load_file(tmp_path / "half" / WEIGHTS).values()} == {torch.float16}
    model, tokenizer = load_masked_lm(str(tmp_path / "half"))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    batch = tokenizer("the state of the house", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
        expected = AutoModelForMaskedLM.from_pretrained(deberta).eval()(**batch).logits
    assert logits.dtype is torch.float32
    assert torch.allclose(logits, expected, rtol=0.02, atol=0.02)  # the weights were rounded, nothing else


def test_a_deberta_v3_that_does_not_name_its_head_is_scored_with_it(deberta: Path, tmp_path: Path) -> None:
    folder = with_configuration(deberta, tmp_path / "hub", legacy=None)
    assert "legacy" not in (folder / CONFIGURATION).read_text(encoding="utf-8")
    model, _ = load_masked_lm(str(folder))
    assert same_tensors(model.state_dict(), load_masked_lm(str(deberta))[0].state_dict())
    saved = load_file(deberta / WEIGHTS)
    assert torch.equal(
        model.get_parameter("lm_predictions.lm_head.dense.weight"), saved["lm_predictions.lm_head.dense.weight"]
    )


def test_a_checkpoint_without_a_head_is_not_scored(deberta: Path, tmp_path: Path) -> None:
    folder = with_weights(
        deberta, tmp_path / "bare", lambda weights: {k: v for k, v in weights.items() if k.startswith("deberta.")}
    )
    assert refusal(load_masked_lm, str(folder)) == (
        f"{folder}: expected a masked language model, found a checkpoint without "
        "'lm_predictions.lm_head.LayerNorm.weight'; it would fill masks at random: give a checkpoint with its head"
    )


@pytest.mark.parametrize("text", ["{", '{"model_type": "unheard-of"}', '{"model_type": "bert", "hidden_size": "wide"}'])
def test_a_damaged_model_is_not_scored(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIGURATION).write_text(text, encoding="utf-8")
    said = refusal(load_masked_lm, str(tmp_path))
    expected = "a JSON object in config.json" if text == "{" else "a model folder or a reachable Hub id, found none ("
    assert said.startswith(f"{tmp_path}: expected {expected}")


# What it is called


def test_a_folder_that_has_moved_away_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    name = str(tmp_path / "mine")
    assert public_name(name) == "mine"
    (tmp_path / "mine").rmdir()
    assert public_name(name) == "mine"
