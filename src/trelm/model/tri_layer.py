"""The TRILayer: reorders the lower half's states along word links, then one more layer (METHOD section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NO_LINK = -1


def reorder(states: Tensor, ordering: Tensor, null_state: Tensor) -> Tensor:
    """h_{a(j)} for every output position j.

    Args:
        states: (B, S, h), from the lower half.
        ordering: (B, T), the input position of each output position; `NO_LINK` where there is none.
        null_state: (h,), taken where there is no link.

    Returns:
        (B, T, h).
    """
    linked = (ordering != NO_LINK).unsqueeze(-1)
    index = ordering.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
    return torch.where(linked, torch.gather(states, 1, index), null_state.to(states.dtype))


class TriLayer(nn.Module):
    """z_j = h_{a(j)} + lang[l_out] + pos[j], and one layer of the encoder's own kind on it.

    Args:
        layer: a layer of the encoder's kind; None: states are reordered and go on as they are.
        hidden_size: h.
    """

    def __init__(self, layer: nn.Module | None, hidden_size: int) -> None:
        super().__init__()
        self.layer = layer
        self.null_state = nn.Parameter(torch.zeros(hidden_size))

    def arrange(self, states: Tensor, ordering: Tensor | None, language: Tensor, positions: Tensor | None) -> Tensor:
        """The layer's input z (B, T, h).

        Args:
            states: (B, S, h). ordering: (B, T), or None for the identity with T = S.
            language: (B, h), lang[l_out]. positions: (T, h) or (B, T, h), or None where there are
                none to add.
        """
        arranged = states if ordering is None else reorder(states, ordering, self.null_state)
        arranged = arranged + language.unsqueeze(1)
        return arranged if positions is None else arranged + positions

    def forward(self, arranged: Tensor, mask: Any, run_layer: Callable[[nn.Module, Tensor, Any], Tensor]) -> Tensor:
        """(B, T, h) -> (B, T, h); `run_layer` and `mask` are the family's."""
        return arranged if self.layer is None else run_layer(self.layer, arranged, mask)
