"""A masked-LM head for an encoder whose checkpoint has none: fresh, fitted on a frozen body, put into the source."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from trelm.model.encoder import IGNORED, TrelmForMaskedLM
from trelm.model.families import Family, family_of
from trelm.model.source import POOLER, SourceEncoder, set_dropout


def source_masked_lm(source: SourceEncoder, *, seed: int = 1) -> PreTrainedModel:
    """The source's weights in the masked-LM class of its family; what its checkpoint lacks of the head is fresh.

    In float32, with weights of its own, and without dropout: a frozen body is one function.

    Args:
        seed: of the fresh weights.

    Raises:
        RuntimeError: the source is not whole, which `load_source` would have refused.
    """
    family, config = family_of(source.config), copy.deepcopy(source.config)
    set_dropout(config, 0.0, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.masked_lm(config)
    body: Any = model.base_model
    found = body.load_state_dict(source.backbone.state_dict(), strict=False)
    strange = [name for name in found.unexpected_keys if not name.startswith(POOLER)]
    if found.missing_keys or strange:
        raise RuntimeError(f"expected the weights of a {type(body).__name__}, found {found.missing_keys + strange}")
    model.load_state_dict(source.head, strict=False)
    model.tie_weights()
    return model


def freeze_body(model: PreTrainedModel, family: Family) -> list[str]:
    """Let only the head train; what it shares with the body, such as a tied word table, stays frozen.

    Returns:
        The names of the parameters that train.
    """
    heads, body = _prefixes(model, family), _addresses(model.base_model)
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(heads) and parameter.data_ptr() not in body)
        trained += [name] * parameter.requires_grad
    return trained


def set_unigram_bias(model: PreTrainedModel, family: Family, counts: NDArray[np.int64]) -> bool:
    """Let the head begin with the tokens' frequencies: the bias of entry v becomes ln(counts[v] + 1), less the mean.

    Small steps would take thousands of updates to get so far. The mean is taken off so that an entry without a
    frequency, whose bias is 0, is neither frequent nor rare.

    Args:
        counts: (V,) occurrences of each entry in text, or fewer where the table has rows beyond the tokenizer's.

    Returns:
        Whether the head has such a bias; that of some families has none.
    """
    return _fill_bias(model, _prefixes(model, family), counts)


def set_target_bias(model: TrelmForMaskedLM, counts: NDArray[np.int64]) -> bool:
    """The same for the head of a TreLM model."""
    return _fill_bias(model, ("head.",), counts)


def _fill_bias(model: PreTrainedModel, heads: tuple[str, ...], counts: NDArray[np.int64]) -> bool:
    logs = np.log(counts + 1.0)
    bias = torch.zeros(int(model.config.vocab_size))
    bias[: len(logs)] = torch.from_numpy(logs - logs.mean()).float()
    found = [
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith(heads) and parameter.shape == bias.shape
    ]
    with torch.no_grad():
        for parameter in found:
            parameter.copy_(bias)
    return bool(found)


def head_weights(model: PreTrainedModel, family: Family) -> dict[str, Tensor]:
    """Copies of the head's weights by their names in the masked-LM class; what is the body's own is left out."""
    heads, body = _prefixes(model, family), _addresses(model.base_model)
    return {
        name: weight.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, weight in model.state_dict(keep_vars=True).items()
        if name.startswith(heads) and weight.data_ptr() not in body
    }


def with_head(source: SourceEncoder, weights: Mapping[str, Tensor]) -> SourceEncoder:
    """The source as if its checkpoint had this head, from `head_weights`."""
    return replace(source, head={**source.head, **weights}, has_head=True)


class SparseMaskedLM(PreTrainedModel):
    """A masked-LM model of a family's own class, asked for logits at some positions only.

    It takes and ignores what TreLM models take besides. A checkpoint of it holds what trains and nothing else.
    """

    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(copy.deepcopy(model.config))
        self.inner: Any = model
        self.family = family_of(model.config)
        self.post_init()  # type: ignore[no-untyped-call]
        trained = {parameter.data_ptr() for parameter in model.parameters() if parameter.requires_grad}
        self._keys_to_ignore_on_save = {
            name for name, weight in self.state_dict(keep_vars=True).items() if weight.data_ptr() not in trained
        }

    def masked_logits(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """Logits (chosen positions, V) in row-major order.

        Args:
            input_ids, attention_mask: (B, S). positions: (B, S) bool.
        """
        states = self.inner.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        head: Any = {name: getattr(self.inner, name) for name in self.family.head_names(self.inner.config)}
        return self.family.predict(head, states[positions], self.inner.get_input_embeddings())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        language: Tensor | None = None,
        num_items_in_batch: int | None = None,
    ) -> MaskedLMOutput:
        """Mean cross-entropy over the labels, and the logits there.

        Args:
            input_ids, attention_mask, labels: (B, S); labels are -100 where there is none. language: ignored.
            num_items_in_batch: what the sum of the cross-entropies is divided by, instead of the labels' number.
        """
        chosen = labels != IGNORED
        logits = self.masked_logits(input_ids, attention_mask, chosen)
        total: Any = functional.cross_entropy(logits.float(), labels[chosen], reduction="sum")
        loss = total / (max(1, int(chosen.sum())) if num_items_in_batch is None else num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits)


def _prefixes(model: PreTrainedModel, family: Family) -> tuple[str, ...]:
    return tuple(f"{name}." for name in family.head_names(model.config))


def _addresses(body: nn.Module) -> set[int]:
    return {parameter.data_ptr() for parameter in body.parameters()}
