"""The encoder families that TreLM moves to another language, and clear words for those that it does not."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from trelm.errors import ConfigError
from trelm.model.families import absolute, relative, rotary  # noqa: F401 (each registers its families)
from trelm.model.families.record import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "family_of", "padding_of_positions", "usable_positions"]

LEAST_LAYERS = 2

REFUSED = {
    "albert": "ALBERT runs one shared layer again and again: it has no lower and upper half that could train in turn",
}


def family_of(config: Any) -> Family:
    """The family of an encoder.

    Raises:
        ConfigError: TreLM cannot move that kind of model, or does not know it yet.
    """
    kind = config.model_type
    why = REFUSED.get(kind)
    if why is None and getattr(config, "is_encoder_decoder", False):
        why = f"'{kind}' is an encoder with a decoder: it predicts from left to right, not what is masked"
    decodes = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if why is None and (decodes or getattr(config, "is_decoder", False)):
        why = f"'{kind}' is a decoder here: it sees only what stands before a token, and TreLM predicts from both sides"
    if why is not None:
        raise ConfigError(
            f"source.model: expected an encoder of one of the families {', '.join(FAMILIES)}, found one that cannot "
            f"be moved: {why}; choose an encoder of one of these families"
        )
    if kind not in FAMILIES:
        raise ConfigError(
            f"source.model: expected an encoder of a known family ({', '.join(FAMILIES)}), found '{kind}'; choose an "
            "encoder of one of these families, or add its family (docs/how-to/add-a-family.md)"
        )
    if config.num_hidden_layers < LEAST_LAYERS:
        raise ConfigError(
            f"source.model: expected an encoder of {LEAST_LAYERS} layers or more, to have a lower and an upper half, "
            f"found {config.num_hidden_layers}; choose a deeper encoder"
        )
    objection = FAMILIES[kind].objection(config)
    if objection is not None:
        raise ConfigError(f"source.model: expected a configuration that transformers reads whole, found {objection}")
    return FAMILIES[kind]


def usable_positions(config: Any) -> int | None:
    """Tokens of the longest sequence that an encoder reads; None where nothing says.

    RoBERTa's table of 514 positions is for 512 tokens: the ids up to the padding token's are never used.
    """
    positions = getattr(config, "max_position_embeddings", None)
    family = FAMILIES.get(config.model_type)
    if not positions:
        return None
    return int(positions) - (family.first_position(config) if family else 0)


def padding_of_positions(config: Any) -> int:
    """The padding token's id from which an encoder counts its positions; 0, which fits all others, where it doesn't."""
    return max(family_of(config).first_position(config) - 1, 0)
