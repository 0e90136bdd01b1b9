"""Which parameters belong to the lower half, to the upper half, to both; freezing and combining (METHOD section 5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from trelm.model.encoder import TrelmForMaskedLM

Part = Literal["lower", "upper", "shared"]
PARTS: tuple[Part, ...] = ("lower", "upper", "shared")


def part_of_parameters(model: TrelmForMaskedLM) -> dict[str, Part]:
    """The part of every entry of the state dict; tied entries are listed under every name that they have.

    `shared` is all that is not a body layer: embeddings, TRILayer, pooler and head.
    """
    trelm = model.trelm
    lower = _tensors_of([*trelm.lower_layers, *trelm.family.beside_lower(trelm.backbone)])
    upper = _tensors_of(model.trelm.upper_layers)

    def part(tensor: Tensor) -> Part:
        return "lower" if tensor.data_ptr() in lower else "upper" if tensor.data_ptr() in upper else "shared"

    return {name: part(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


def freeze_all_but(model: TrelmForMaskedLM, trained: Collection[Part]) -> dict[Part, int]:
    """Let only the parameters of the `trained` parts train; returns how many parameters each part has."""
    parts = part_of_parameters(model)
    sizes: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parts[name] in trained)
        sizes[parts[name]] += parameter.numel()
    return sizes


def freeze_all_but_head(model: TrelmForMaskedLM) -> list[str]:
    """Let only the head train; the encoder and both tables, of the input and of the output, stay as they are.

    Returns:
        The names of the parameters that train.
    """
    output: Any = model.get_output_embeddings()
    frozen = {parameter.data_ptr() for parameter in model.trelm.parameters()}
    frozen |= {output.weight.data_ptr()} if output is not None else set()
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.data_ptr() not in frozen)
        trained += [name] * parameter.requires_grad
    return trained


def combine(
    upper_run: Mapping[str, Tensor], lower_run: Mapping[str, Tensor], parts: Mapping[str, Part]
) -> dict[str, Tensor]:
    """METHOD section 5, stage 3: lower half of the run that trained it, upper half of the other, the mean of the rest.

    Args:
        upper_run: state dict after the transfer of the upper half. lower_run: of the lower half.
        parts: part of every entry, from `part_of_parameters`.
    """
    combined = {}
    for name, part in parts.items():
        if part == "lower":
            combined[name] = lower_run[name].clone()
        elif part == "upper":
            combined[name] = upper_run[name].clone()
        else:
            combined[name] = (upper_run[name] + lower_run[name]) / 2
    return combined


def combined(upper: TrelmForMaskedLM, lower: TrelmForMaskedLM) -> TrelmForMaskedLM:
    """`upper` with the weights that `combine` makes of both models."""
    upper.load_state_dict(combine(upper.state_dict(), lower.state_dict(), part_of_parameters(upper)))
    return upper


def _tensors_of(layers: list[nn.Module]) -> set[int]:
    return {tensor.data_ptr() for layer in layers for tensor in (*layer.parameters(), *layer.buffers())}
