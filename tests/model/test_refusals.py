"""What is no encoder that TreLM can move is refused, in words that say why; configurations only, no weights."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_families import FAMILY_NAMES, tiny_config
from transformers import AutoConfig

from trelm.errors import ConfigError
from trelm.model.families import FAMILIES, family_of

NAMES = ", ".join(FAMILIES)
BEGINNING = f"source.model: expected an encoder of one of the families {NAMES}, found one that cannot be moved: "
END = "; choose an encoder of one of these families"


def refusal(config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        family_of(config)
    words = str(caught.value)
    assert "\n" not in words
    return words


def test_a_layer_that_runs_again_and_again_has_no_halves() -> None:
    why = "ALBERT runs one shared layer again and again: it has no lower and upper half that could train in turn"
    assert refusal(AutoConfig.for_model("albert")) == BEGINNING + why + END


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "qwen2", "gpt_neox", "opt"])
def test_a_decoder_is_refused(kind: str) -> None:
    why = f"'{kind}' is a decoder here: it sees only what stands before a token, and TreLM predicts from both sides"
    assert refusal(AutoConfig.for_model(kind)) == BEGINNING + why + END


@pytest.mark.parametrize("kind", ["t5", "mt5", "bart", "mbart", "marian", "pegasus"])
def test_an_encoder_with_a_decoder_is_refused(kind: str) -> None:
    why = f"'{kind}' is an encoder with a decoder: it predicts from left to right, not what is masked"
    assert refusal(AutoConfig.for_model(kind)) == BEGINNING + why + END


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "camembert", "electra-discriminator"])
def test_an_encoder_that_is_used_as_a_decoder_is_refused(name: str) -> None:
    config = tiny_config(name, is_decoder=True)
    why = f"'{config.model_type}' is a decoder here: it sees only what stands before a token, and TreLM predicts from"
    assert refusal(config) == f"{BEGINNING}{why} both sides{END}"


@pytest.mark.parametrize("kind", ["fnet", "deberta", "longformer", "vit"])
def test_an_unknown_family_is_refused(kind: str) -> None:
    assert refusal(AutoConfig.for_model(kind)) == (
        f"source.model: expected an encoder of a known family ({NAMES}), found '{kind}'; choose an encoder of one of "
        "these families, or add its family (docs/how-to/add-a-family.md)"
    )


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_an_encoder_without_two_halves_is_refused(name: str) -> None:
    assert refusal(tiny_config(name, layers=1)) == (
        "source.model: expected an encoder of 2 layers or more, to have a lower and an upper half, found 1; choose a "
        "deeper encoder"
    )
    assert family_of(tiny_config(name, layers=2)) is FAMILIES[tiny_config(name).model_type]
