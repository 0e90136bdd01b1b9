"""Loss and gradients of the chunked cross-entropy against torch's own cross-entropy of whole logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trelm.model import cross_entropy
from trelm.model.cross_entropy import summed_cross_entropy

WIDTH, VOCABULARY = 12, 101

Parts = tuple[Tensor, Tensor, Tensor | None, Tensor]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 rows."""
    monkeypatch.setitem(cross_entropy.CHUNK_BYTES, "cpu", 7 * 4 * VOCABULARY)


def parts(count: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> Parts:
    """Features, table, bias and labels; leaves that train."""
    random = torch.Generator().manual_seed(count)
    features = torch.randn(count, WIDTH, generator=random, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=random, dtype=dtype).requires_grad_()
    offset = torch.randn(VOCABULARY, generator=random, dtype=dtype).requires_grad_() if bias else None
    return features, weight, offset, torch.randint(VOCABULARY, (count,), generator=random)


def plain(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    logits = functional.linear(features, weight, bias)
    return functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="sum"
    )


def gradients(loss: Tensor, given: Parts) -> list[Tensor]:
    leaves = [part for part in given[:3] if part is not None]
    return list(torch.autograd.grad(loss, leaves))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("count", [1, 6, 7, 8, 50])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradients_are_those_of_whole_logits(count: int, bias: bool) -> None:
    given = parts(count, bias=bias)
    exact: Parts = tuple(  # type: ignore[assignment]
        part.detach().double().requires_grad_(part.is_floating_point()) if part is not None and i < 3 else part
        for i, part in enumerate(given)
    )
    found, expected = summed_cross_entropy(*given), plain(*exact)
    assert found.dtype == torch.float32
    assert relative(found.detach(), expected.detach()) < 1e-6
    for one, other in zip(gradients(found / 3, given), gradients(expected / 3, exact)):
        assert relative(one, other) < 1e-6


def test_without_labels_the_loss_and_every_gradient_are_zero() -> None:
    given = parts(0)
    loss = summed_cross_entropy(*given)
    assert loss.item() == 0
    assert [(tuple(one.shape), float(one.abs().sum())) for one in gradients(loss, given)] == [
        ((0, WIDTH), 0.0),
        ((VOCABULARY, WIDTH), 0.0),
        ((VOCABULARY,), 0.0),
    ]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_has_no_gradient_and_the_rest_has_its_own(frozen: int) -> None:
    given, whole = parts(20), parts(20)
    leaves = [part for part in given[:3] if part is not None]
    leaves[frozen].requires_grad_(False)
    summed_cross_entropy(*given).backward()
    expected = gradients(plain(*whole), whole)
    assert leaves[frozen].grad is None
    for number, leaf in enumerate(leaves):
        if number != frozen:
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad, expected[number])


def test_without_gradients_it_is_the_loss_alone() -> None:
    given = parts(20)
    with torch.no_grad():
        loss = summed_cross_entropy(*given)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(*given).detach())


def test_huge_and_tiny_logits_give_finite_numbers() -> None:
    """A probability that underflows has a cross-entropy all the same."""
    features, weight, bias, labels = parts(9)
    given = (features.detach() * 1e4).requires_grad_(), weight, bias, labels
    loss = summed_cross_entropy(*given)
    torch.testing.assert_close(loss.detach(), plain(*given).detach())
    assert all(bool(one.isfinite().all()) for one in gradients(loss, given))


def test_a_second_backward_pass_is_refused() -> None:
    given = parts(5)
    loss = summed_cross_entropy(*given)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_logits_are_kept() -> None:
    """Between the passes there are three gradients, however many labels there are."""
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(tuple(one.shape)) or one, lambda one: one):
        summed_cross_entropy(*parts(50))
    assert kept == [(50, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]


@pytest.mark.parametrize("count", [1, 40])
def test_under_autocast_it_is_near_the_plain_way_under_autocast(count: int) -> None:
    given, exact = parts(count), parts(count)
    with torch.autocast("cpu", torch.bfloat16):
        found, rough = summed_cross_entropy(*given), plain(*given)
    expected = plain(*exact)
    assert found.dtype == torch.float32
    assert relative(found.detach(), rough.detach()) < 1e-5  # the products are bfloat16's, too
    assert relative(found.detach(), plain(*exact).detach()) > 1e-5
    best = gradients(expected, exact)
    for one, two, right in zip(gradients(found, given), gradients(rough, given), best):
        assert one.dtype == torch.float32
        assert relative(one, right) < 1.5 * relative(two, right) < 0.05
        assert relative(one, right) > 1e-5  # the products are in bfloat16


def test_labels_that_are_no_entries_are_refused() -> None:
    features, weight, bias, labels = parts(5)
    labels[2] = VOCABULARY
    with pytest.raises(RuntimeError, match="out of bounds"):
        summed_cross_entropy(features, weight, bias, labels)
