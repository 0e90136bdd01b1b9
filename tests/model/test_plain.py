"""The plain model of every family is the TreLM model, in a class that knows nothing of it; what is not, is caught."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import FAMILY_NAMES, FIRST_WORD, SETTINGS, VOCABULARY, trelm_of
from tiny_models import mask_of, random_ids
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from trelm.errors import ExportError
from trelm.model import plain as plain_module
from trelm.model.encoder import TrelmModel
from trelm.model.families import FAMILIES
from trelm.model.plain import (
    Agreement,
    check,
    compare,
    plain_config,
    plain_model,
    plain_weights,
    trained_away,
    write_plain,
)

WITH_POOLER = {"bert", "roberta", "xlm-roberta", "camembert", "mpnet"}
"""Model types."""
POSITIONS, OUTPUT, INPUT = "positions at the TRILayer", "language at the TRILayer", "language at the input"
TRAINED_AWAY: dict[str, list[str]] = {
    "bert": [POSITIONS],
    "roberta": [POSITIONS],
    "xlm-roberta": [POSITIONS],
    "camembert": [POSITIONS],
    "electra-discriminator": [POSITIONS],
    "electra-generator": [POSITIONS],
    "distilbert": [POSITIONS],
    "mpnet": [],
    "deberta-v2": [INPUT],
    "deberta-v3": [INPUT],
    "modernbert": [OUTPUT, INPUT],
    "eurobert": [OUTPUT],
    "nomic-bert": [],
    "bert-untied": [POSITIONS],
    "electra-same-width": [POSITIONS],
    "deberta-v2-convolution": [INPUT],
    "deberta-v2-positions": [],
    "deberta-v2-narrow": [INPUT],
    "modernbert-biases": [INPUT],
    "eurobert-tied": [OUTPUT, INPUT],
    "eurobert-biases": [],
}
"""From docs/explanation/plain-export.md: what no weight of the family's own class can hold."""


@functools.cache
def annealed(name: str, layers: int = 4) -> Any:
    """A rough model after its plain stage; only to be read."""
    model = trelm_of(name, layers)
    assert model.trelm.language_embeddings.weight.abs().min() > 0
    model.config.plainness = 1.0
    return model


def batch_of(model: Any, seed: int = 5) -> dict[str, Tensor]:
    mask = mask_of([11, 6, 2], 11)
    words = random_ids(3, 11, seed=seed, below=VOCABULARY - FIRST_WORD + 1) + FIRST_WORD - 1
    return {"input_ids": torch.where(mask.bool(), words, model.config.pad_token_id), "attention_mask": mask}


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("layers", [2, 3, 4, 5])
@torch.no_grad()
def test_the_plain_model_is_the_trelm_model(name: str, layers: int) -> None:
    model = annealed(name, layers)
    plain, batch = plain_model(model), batch_of(model)
    real = batch["attention_mask"].bool()
    assert type(plain) is FAMILIES[SETTINGS[name][0]].masked_lm
    assert plain.config.num_hidden_layers == layers + 1
    assert not plain.training
    assert torch.allclose(plain(**batch).logits[real], model(**batch).logits[real], atol=1e-5)
    agreement = compare(model, plain, [batch, batch_of(model, seed=6)])
    check(agreement)
    assert (agreement.sentences, agreement.tokens) == (6, 38)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_either_language_folds(name: str) -> None:
    """Where the language cannot fold it is trained away, and both plain models are then the same."""
    model = annealed(name)
    batch = batch_of(model)
    real = batch["attention_mask"].bool()
    logits = [plain_model(model, language)(**batch).logits[real] for language in (0, 1)]
    for language in (0, 1):
        assert torch.allclose(logits[language], model(**batch, language=language).logits[real], atol=1e-5)
    assert torch.equal(plain_model(model)(**batch).logits[real], logits[1])
    speechless = {OUTPUT, INPUT} <= set(trained_away(model.trelm))
    assert torch.allclose(logits[0], logits[1], atol=1e-3) == speechless


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_a_written_plain_model_is_an_ordinary_folder(name: str, tmp_path: Path) -> None:
    model = annealed(name)
    write_plain(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    text = (tmp_path / "config.json").read_text()
    written = json.loads(text)
    assert written["architectures"] == [FAMILIES[SETTINGS[name][0]].masked_lm.__name__]
    assert written["model_type"] == SETTINGS[name][0]
    for word in ("trelm", "plainness", "tri_position", "languages", str(Path.home()), str(tmp_path)):
        assert word not in text
    assert not [key for key in load_file(tmp_path / "model.safetensors") if "tri" in key or "language" in key]
    plain, batch = AutoModelForMaskedLM.from_pretrained(tmp_path), batch_of(model)
    real = batch["attention_mask"].bool()
    assert torch.allclose(plain(**batch).logits[real], model(**batch).logits[real], atol=1e-5)
    assert plain.config.to_dict() | {"_name_or_path": ""} == AutoConfig.from_pretrained(tmp_path).to_dict() | {
        "_name_or_path": ""
    }


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_the_bare_encoder_comes_with_its_pooler(name: str, tmp_path: Path) -> None:
    model = annealed(name)
    write_plain(model, tmp_path)
    bare, found = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"]
    batch = batch_of(model)
    real = batch["attention_mask"].bool()
    theirs, ours = bare(**batch), model.trelm(**batch)
    assert torch.allclose(theirs.last_hidden_state[real], ours.last_hidden_state[real], atol=1e-5)
    pooled = getattr(theirs, "pooler_output", None)
    assert (pooled is not None) == (ours.pooler_output is not None) == (SETTINGS[name][0] in WITH_POOLER)
    if pooled is not None:
        assert torch.allclose(pooled, ours.pooler_output, atol=1e-5)


def body_of(plain: Any) -> list[dict[str, Tensor]]:
    family = FAMILIES[plain.config.model_type]
    return [layer.state_dict() for layer in family.layers(plain.base_model)]


def the_same_layer(one: dict[str, Tensor], two: dict[str, Tensor], but: str | None = None) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items() if key != but)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("layers", [2, 5])
def test_the_layers_stand_in_order(name: str, layers: int) -> None:
    """Layers 1..m, the TRILayer, layers m+1..N; only the output bias of layer m differs."""
    model, below = annealed(name, layers), layers // 2
    found = body_of(plain_model(model))
    ours = [layer.state_dict() for layer in [*model.trelm.lower_layers, model.trelm.tri_layer.layer]]
    ours += [layer.state_dict() for layer in model.trelm.upper_layers]
    bias = model.trelm.tri_bias
    own = dict(model.trelm.lower_layers[-1].named_parameters(remove_duplicate=False))
    folded = next((key for key, value in own.items() if value is bias), None)
    assert len(found) == layers + 1
    for number, (one, two) in enumerate(zip(found, ours, strict=True)):
        assert the_same_layer(one, two, folded if number == below - 1 else None), number
    if folded is not None:
        assert not the_same_layer(found[below - 1], ours[below - 1])


@pytest.mark.parametrize("layers", [2, 3, 4, 5, 6])
def test_every_layer_of_modernbert_keeps_its_kind(layers: int) -> None:
    model = annealed("modernbert", layers)
    trelm = model.trelm
    kinds = [layer.attention_type for layer in [*trelm.lower_layers, trelm.tri_layer.layer, *trelm.upper_layers]]
    assert plain_config(model).layer_types == kinds
    assert [layer.attention_type for layer in plain_model(model).model.layers] == kinds


def test_the_configuration_of_the_model_is_left_alone() -> None:
    model = annealed("modernbert", 5)
    before = model.config.to_dict()
    plain_model(model)
    assert model.config.to_dict() == before


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_weights_of_the_model_are_left_alone(name: str) -> None:
    model = annealed(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for value in plain_weights(model).values():
        value.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_what_is_trained_away(name: str) -> None:
    assert trained_away(annealed(name).trelm) == TRAINED_AWAY[name]


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize(("plainness", "left"), [(0.0, "100%"), (0.75, "25%")])
def test_a_model_that_is_not_annealed_is_refused(name: str, plainness: float, left: str) -> None:
    model = trelm_of(name)
    model.config.plainness = plainness
    inputs = " and ".join(TRAINED_AWAY[name])
    if not inputs:
        check(compare(model, plain_model(model), [batch_of(model)]))  # nothing to anneal
        return
    words = f"^export: expected a model whose plain stage is done, found one that still takes {inputs} \\({left} of it"
    with pytest.raises(ExportError, match=words):
        plain_weights(model)
    with pytest.raises(ExportError, match=words):
        plain_model(model)


OTHERS_COMPUTER = """
import sys
sys.modules["trelm"] = None  # an import of it fails
import torch
from transformers import AutoModelForMaskedLM
for folder in sys.argv[1:]:
    model = AutoModelForMaskedLM.from_pretrained(folder)
    batch = torch.load(folder + "/batch.pt", weights_only=True)
    with torch.no_grad():
        difference = (model(**batch["inputs"]).logits - batch["logits"])[batch["inputs"]["attention_mask"].bool()]
    print(type(model).__name__, float(difference.abs().max()))
assert not [name for name, module in sys.modules.items() if name.split(".")[0] == "trelm" and module is not None]
"""


@torch.no_grad()
def test_it_loads_where_there_is_no_trelm(tmp_path: Path) -> None:
    names = ["bert", "deberta-v3", "modernbert", "eurobert"]
    for name in names:
        model = annealed(name, 5)
        write_plain(model, tmp_path / name)
        batch = batch_of(model)
        torch.save({"inputs": batch, "logits": model(**batch).logits}, tmp_path / name / "batch.pt")
    folders = [str(tmp_path / name) for name in names]
    done = subprocess.run(
        [sys.executable, "-c", OTHERS_COMPUTER, *folders], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in found] == [FAMILIES[SETTINGS[name][0]].masked_lm.__name__ for name in names]
    assert all(float(line[1]) < 1e-5 for line in found)


def assert_caught(model: Any, plain: Any, *, sentences: int = 3) -> Agreement:
    agreement = compare(model, plain, [batch_of(model)])
    words = (
        f"^export: expected a plain model with the TreLM model's logits, within {agreement.limit:.1e}, found a "
        f"difference of {agreement.largest:.1e} on {sentences} sentences; nothing was written; this is a fault of"
    )
    with pytest.raises(ExportError, match=words.replace("+", r"\+")):
        check(agreement)
    return agreement


NONE = property(lambda self: None)


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if OUTPUT not in TRAINED_AWAY[name]])
def test_forgetting_the_language_of_the_tri_layer_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = annealed(name)
    with monkeypatch.context() as patch:
        patch.setattr(TrelmModel, "tri_bias", NONE)
        plain = plain_model(model)
    assert_caught(model, plain)


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if INPUT not in TRAINED_AWAY[name]])
def test_forgetting_the_language_of_the_input_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = annealed(name)
    with monkeypatch.context() as patch:
        patch.setattr(TrelmModel, "input_bias", NONE)
        plain = plain_model(model)
    assert_caught(model, plain)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_other_language_is_caught(name: str) -> None:
    model = annealed(name)
    if {OUTPUT, INPUT} <= set(TRAINED_AWAY[name]):
        check(compare(model, plain_model(model, 0), [batch_of(model)]))  # it has no language any more
    else:
        assert_caught(model, plain_model(model, 0))


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize(("one", "other"), [(1, 2), (2, 3)])
def test_swapped_layers_are_caught(name: str, one: int, other: int) -> None:
    """The TRILayer is number 2; number 0 is left out: ModernBERT's has other weights."""
    model = annealed(name)
    plain = plain_model(model)
    body = body_of(plain)
    first, second = ({key: value.clone() for key, value in body[number].items()} for number in (one, other))
    layers = FAMILIES[SETTINGS[name][0]].layers(plain.base_model)
    layers[one].load_state_dict(second)
    layers[other].load_state_dict(first)
    assert_caught(model, plain)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("place", [1, 3])
def test_a_tri_layer_at_the_wrong_place_is_caught(name: str, place: int) -> None:
    """Its language folds where it should, but it stands below layer m, or above layer m+1."""
    model = annealed(name)
    family = FAMILIES[SETTINGS[name][0]]
    plain = plain_model(model)
    body = [{key: value.clone() for key, value in layer.items()} for layer in body_of(plain)]
    moved = body.pop(2)
    body.insert(place, moved)
    for layer, weights in zip(family.layers(plain.base_model), body, strict=True):
        layer.load_state_dict(weights)
    assert_caught(model, plain)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("number", [0, 2, 4])
@torch.no_grad()
def test_a_weight_that_is_off_by_a_thousandth_is_caught(name: str, number: int) -> None:
    """One row of one matrix of each layer; a single number may belong to a unit that never fires."""
    model = annealed(name)
    plain = plain_model(model)
    layer = FAMILIES[SETTINGS[name][0]].layers(plain.base_model)[number]
    matrices = [value for value in layer.parameters() if value.dim() == 2]
    matrices[-1][0] += 1e-3
    assert_caught(model, plain)


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v3"])
@torch.no_grad()
def test_a_plain_model_that_computes_nothing_is_caught(name: str) -> None:
    model = annealed(name)
    plain = plain_model(model)
    plain.get_input_embeddings().weight.fill_(math.nan)
    assert_caught(model, plain)


def test_an_agreement_without_sentences_is_none() -> None:
    model = annealed("bert")
    agreement = compare(model, plain_model(model), [])
    assert agreement == Agreement(0, 0, 0.0, 0.0, 0.0)
    with pytest.raises(ExportError, match=r"found a difference of 0\.0e\+00 on 0 sentences; nothing was written"):
        check(agreement)


@torch.no_grad()
def test_an_agreement_says_how_far_apart_the_logits_are() -> None:
    """By hand: an output bias moves every logit of one word; padding is not counted."""
    model = annealed("bert")
    plain, batch = plain_model(model), batch_of(model)
    plain.cls.predictions.decoder.bias[7] += 0.25
    real = batch["attention_mask"].bool()
    found = compare(model, plain, [batch])
    assert (found.sentences, found.tokens) == (3, 11 + 6 + 2)
    assert found.largest == pytest.approx(0.25, abs=1e-6)
    assert found.single == pytest.approx(0.25, abs=1e-5)
    assert found.largest_logit == pytest.approx(float(model(**batch).logits[real].abs().max()), rel=1e-5)
    assert found.limit == pytest.approx(1e-5 * max(1.0, found.largest_logit))


def test_the_limit_is_relative_to_the_largest_logit_or_to_one() -> None:
    assert Agreement(1, 1, 0.0, 0.0, 20.0).limit == pytest.approx(2e-4)
    assert Agreement(1, 1, 0.0, 0.0, 0.5).limit == pytest.approx(1e-5)
    check(Agreement(1, 1, 1.9e-4, 0.1, 20.0))
    with pytest.raises(ExportError, match=r"within 2\.0e-04, found a difference of 2\.1e-04 on 1 sentences"):
        check(Agreement(1, 1, 2.1e-4, 0.0, 20.0))
    with pytest.raises(ExportError, match=r"found a difference of nan on 1 sentences"):
        check(Agreement(1, 1, math.nan, 0.0, 20.0))


def test_comparing_changes_neither_model() -> None:
    model = annealed("bert")
    plain = plain_model(model)
    plain.train()
    compare(model, plain, [batch_of(model)])
    assert plain.training
    assert not model.training
    assert {value.dtype for value in (*model.parameters(), *plain.parameters())} == {torch.float32}


def test_the_global_random_state_is_left_alone() -> None:
    model = annealed("bert")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    plain_model(model)
    assert torch.equal(torch.rand(1), expected)


def test_weights_that_do_not_fit_are_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    model = annealed("bert")
    weights = plain_weights(model)
    del weights["bert.encoder.layer.4.output.dense.bias"]
    weights["bert.other"] = torch.zeros(1)
    monkeypatch.setattr(plain_module, "plain_weights", lambda *_: weights)
    words = (
        r"^export: expected the weights of a BertForMaskedLM, found \['bert.encoder.layer.4.output.dense.bias', "
        r"'bert.other'\] missing or left over; this is a fault of trelm, please report it$"
    )
    with pytest.raises(ExportError, match=words):
        plain_model(model)
