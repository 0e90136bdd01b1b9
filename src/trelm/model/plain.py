"""The plain model: an encoder of the source's own class with one layer more, equal to the TreLM model it is made from.

What is exact and what is trained away is worked out in docs/explanation/plain-export.md.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from trelm.errors import ExportError
from trelm.model.encoder import TrelmForMaskedLM, TrelmModel
from trelm.model.families.record import BACKBONE, HEAD

TRI_LAYER = "trelm.tri_layer.layer."
POOLER = "pooler."
ROUNDING = 1e-5
"""Largest difference of two logits, computed in float64, that is rounding: relative to the largest logit, or to 1."""


@dataclass(frozen=True)
class Agreement:
    """How far two models' logits are apart on the same sentences.

    Attributes:
        sentences, tokens: how many were compared, padding not counted.
        largest: the largest difference, in float64. single: the same in float32, as users compute.
        largest_logit: the largest absolute logit. limit: what `largest` may be.
    """

    sentences: int
    tokens: int
    largest: float
    single: float
    largest_logit: float

    @property
    def limit(self) -> float:
        """What rounding explains."""
        return ROUNDING * max(1.0, self.largest_logit)


def trained_away(model: TrelmModel) -> list[str]:
    """The inputs that no weight of a plain model can hold: the plain stage anneals them to zero."""
    positions = model.family.positions(model.backbone, 1, None)
    inputs = {
        "positions at the TRILayer": positions is not None,
        "language at the TRILayer": model.tri_bias is None,
        "language at the input": model.input_bias is None,
    }
    return [name for name, present in inputs.items() if present]


def plain_config(model: TrelmForMaskedLM) -> PreTrainedConfig:
    """The configuration of the plain model: the source's, with one layer more where there is a TRILayer."""
    source: PreTrainedConfig = copy.deepcopy(model.config.source)
    longer: PreTrainedConfig = model.trelm.family.longer_config(source, model.config.tri_position)
    return longer if model.config.has_tri_layer else source


def plain_weights(model: TrelmForMaskedLM, language: int | None = None) -> dict[str, Tensor]:
    """The weights of the plain model by their names in the family's masked-LM class, the pooler's among them.

    Args:
        language: id of the language that the plain model reads and speaks; None: the default one.

    Raises:
        ExportError: inputs that cannot fold have not been annealed to zero.
    """
    trelm = model.trelm
    if trelm.kept and trained_away(trelm):
        raise ExportError(
            f"export: expected a model whose plain stage is done, found one that still takes "
            f"{' and '.join(trained_away(trelm))} ({trelm.kept:.0%} of it); run `trelm export RUN --plain`"
        )
    weights = _folded(model, model.config.default_language if language is None else language)
    place = re.escape(f"{BACKBONE}{trelm.family.layers_at}.")
    above = model.config.tri_position
    more = int(model.config.has_tri_layer)

    def number(match: re.Match[str]) -> str:
        layer = int(match[2])
        return f"{match[1]}{layer + more * (layer >= above)}."

    plain = {}
    for name, weight in weights.items():
        if name.startswith(TRI_LAYER):
            ours = f"{BACKBONE}{trelm.family.layers_at}.{above}.{name.removeprefix(TRI_LAYER)}"
        elif name.startswith((BACKBONE, HEAD)):
            ours = re.sub(f"^({place})(\\d+)\\.", number, name)
        else:
            continue  # the null state, which monolingual use never meets, and the language embeddings, now folded
        plain[trelm.family.plain_name(ours)] = weight
    return plain


def plain_model(model: TrelmForMaskedLM, language: int | None = None) -> PreTrainedModel:
    """The plain model in memory, in evaluation mode.

    Raises:
        ExportError: as in `plain_weights`, or weights that do not fit the family's own class.
    """
    return _filled(model, plain_weights(model, language))


def write_plain(model: TrelmForMaskedLM, folder: Path, language: int | None = None) -> None:
    """Save the plain model in `folder`, with the pooler where the encoder has one."""
    weights = plain_weights(model, language)
    poolers = {name: weight for name, weight in weights.items() if POOLER in name}
    plain = _filled(model, weights)
    plain.save_pretrained(str(folder), state_dict={**plain.state_dict(), **poolers})


def _filled(model: TrelmForMaskedLM, weights: dict[str, Tensor]) -> PreTrainedModel:
    """The family's own model with these weights."""
    with torch.random.fork_rng(devices=[]):  # its random start is overwritten
        plain = model.trelm.family.masked_lm(plain_config(model))
    found = plain.load_state_dict(weights, strict=False)
    strange = [name for name in found.unexpected_keys if POOLER not in name]
    if found.missing_keys or strange:
        raise ExportError(
            f"export: expected the weights of a {type(plain).__name__}, found {found.missing_keys + strange} "
            "missing or left over; this is a fault of trelm, please report it"
        )
    plain.tie_weights()
    plain.train(False)
    return plain


def compare(
    model: TrelmForMaskedLM,
    plain: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    language: int | None = None,
) -> Agreement:
    """Logits of both models, in evaluation mode, at every real position.

    Args:
        batches: `input_ids` and `attention_mask` (B, S). language: the one that was folded.
    """
    pairs: list[tuple[Any, ...]] = [(model, plain), _in_float64(model, plain)]
    modes = [(part, part.training) for part in pairs[0]]
    sentences, tokens = 0, 0
    differences, logits = [torch.zeros(len(pairs))], [torch.zeros(1)]  # maxima of tensors: they keep what is no number
    for batch in batches:
        real = batch["attention_mask"].bool()
        found = [
            (_logits(ours, batch, language=language)[real], _logits(theirs, batch)[real]) for ours, theirs in pairs
        ]
        differences.append(torch.stack([(one - other).abs().max().double() for one, other in found]))
        logits.append(found[-1][0].abs().max().reshape(1))
        sentences, tokens = sentences + len(real), tokens + int(real.sum())
    for part, mode in modes:
        part.train(mode)
    single, largest = torch.stack([row.double() for row in differences]).amax(dim=0).tolist()
    return Agreement(sentences, tokens, largest, single, float(torch.cat([row.double() for row in logits]).max()))


def check(agreement: Agreement) -> None:
    """Refuse a plain model that is not the TreLM model.

    Raises:
        ExportError: nothing was compared, or the logits differ by more than rounding.
    """
    if not agreement.tokens or not agreement.largest <= agreement.limit:
        raise ExportError(
            f"export: expected a plain model with the TreLM model's logits, within {agreement.limit:.1e}, found a "
            f"difference of {agreement.largest:.1e} on {agreement.sentences} sentences; nothing was written; this is "
            "a fault of trelm, please report it"
        )


def _in_float64(*models: PreTrainedModel) -> tuple[Any, ...]:
    return tuple(copy.deepcopy(model).double() for model in models)


def _logits(model: Any, batch: Mapping[str, Tensor], **arguments: Any) -> Tensor:
    model.train(False)
    with torch.inference_mode():
        logits: Tensor = model(**{name: value.to(model.device) for name, value in batch.items()}, **arguments).logits
    return logits.cpu()


def _folded(model: TrelmForMaskedLM, language: int) -> dict[str, Tensor]:
    """Copies of the weights, the language embedding added to the biases that can hold it."""
    trelm = model.trelm
    spoken = trelm.language_embeddings.weight[language].detach()
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    if trelm.input_bias is not None:
        weights[_name_of(model, trelm.input_bias.weight)] += spoken
    if trelm.tri_bias is not None:
        weights[_name_of(model, trelm.tri_bias)] += trelm.family.project(trelm.backbone, spoken).detach()
    return weights


def _name_of(model: nn.Module, wanted: Tensor) -> str:
    return next(name for name, parameter in model.named_parameters() if parameter is wanted)
