"""The reordering against a plain loop, and the TRILayer's input by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WIDTH, bert_config
from torch import Tensor, nn

from trelm.model.families import FAMILIES
from trelm.model.tri_layer import NO_LINK, TriLayer, reorder


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@st.composite
def orderings(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """(S, a (B, T)) with T above, below and equal to S, repeated and missing links."""
    source, target = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    row = st.lists(st.integers(NO_LINK, source - 1), min_size=target, max_size=target)
    return source, draw(st.lists(row, min_size=1, max_size=3))


@settings(deadline=None)
@given(case=orderings())
def test_reorder_equals_a_plain_loop(case: tuple[int, list[list[int]]]) -> None:
    length, ordering = case
    states, null = numbers(len(ordering), length, 3), numbers(3)
    expected = [
        [null if link == NO_LINK else states[example, link] for link in row] for example, row in enumerate(ordering)
    ]
    found = reorder(states, torch.tensor(ordering), null)
    assert torch.equal(found, torch.stack([torch.stack(row) for row in expected]))


def test_the_gradient_goes_where_the_links_say() -> None:
    """Each state gets one for each link to it, the null state one for each position without a link."""
    states, null = numbers(2, 3, 4).requires_grad_(), numbers(4).requires_grad_()
    reorder(states, torch.tensor([[0, 0, NO_LINK, 2], [NO_LINK, 1, NO_LINK, 1]]), null).sum().backward()
    assert states.grad is not None
    assert null.grad is not None
    assert states.grad[..., 0].tolist() == [[2, 0, 1], [0, 2, 0]]
    assert null.grad.tolist() == [3.0] * 4


def test_the_null_state_takes_the_number_format_of_the_states() -> None:
    """Under autocast the states are bfloat16 and the parameter stays float32."""
    found = reorder(numbers(1, 2, 4).bfloat16(), torch.tensor([[NO_LINK, 1]]), numbers(4))
    assert found.dtype is torch.bfloat16
    assert torch.equal(found[0, 0], numbers(4).bfloat16())


@pytest.fixture
def tri_layer() -> TriLayer:
    layer = TriLayer(FAMILIES["bert"].new_layer(bert_config(), 0), WIDTH)
    nn.init.normal_(layer.null_state)
    return layer.eval()


def test_the_null_state_is_zero_at_first() -> None:
    assert torch.equal(TriLayer(nn.Identity(), 5).null_state, torch.zeros(5))


@pytest.mark.parametrize("relative", [False, True])
def test_the_input_by_hand(tri_layer: TriLayer, relative: bool) -> None:
    """z_j = h_{a(j)} + lang + pos_j; without pos where positions are relative."""
    states, language, positions = numbers(2, 3, WIDTH), numbers(2, WIDTH), numbers(4, WIDTH)
    ordering = [[2, 0, NO_LINK, 2], [1, NO_LINK, 0, 0]]
    found = tri_layer.arrange(states, torch.tensor(ordering), language, None if relative else positions)
    assert found.shape == (2, 4, WIDTH)
    for example, row in enumerate(ordering):
        for j, link in enumerate(row):
            state = tri_layer.null_state if link == NO_LINK else states[example, link]
            expected = state + language[example] + (0 if relative else positions[j])
            assert torch.allclose(found[example, j], expected, atol=1e-6)


def test_no_ordering_is_the_identity(tri_layer: TriLayer) -> None:
    states, language, positions = numbers(2, 3, WIDTH), numbers(2, WIDTH), numbers(3, WIDTH)
    identity = torch.arange(3).expand(2, -1)
    expected = tri_layer.arrange(states, identity, language, positions)
    assert torch.equal(tri_layer.arrange(states, None, language, positions), expected)


def test_the_layer_is_run_by_the_family_with_the_mask(tri_layer: TriLayer) -> None:
    seen: list[Any] = []

    def run(layer: nn.Module, states: Tensor, mask: Any) -> Tensor:
        seen.append((layer, mask))
        return states + 1

    states, mask = numbers(1, 2, WIDTH), object()
    assert torch.equal(tri_layer(states, mask, run), states + 1)
    assert seen == [(tri_layer.layer, mask)]
