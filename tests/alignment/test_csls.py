"""CSLS against brute force."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trelm.alignment import csls
from trelm.alignment.csls import csls_neighbours, mean_similarity, mutual_neighbours, unit_rows


def rows(n: int, d: int, seed: int, zeros: int = 0) -> Tensor:
    table = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    table[:zeros] = 0
    return table


def cosine(a: Tensor, b: Tensor) -> float:
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / lengths if lengths else 0.0


def brute_force_mean(row: Tensor, others: Tensor, k: int) -> float:
    nearest = sorted((cosine(row, other) for other in others), reverse=True)[:k]
    return sum(nearest) / len(nearest)


def brute_force_csls(queries: Tensor, targets: Tensor, k: int) -> Tensor:
    return torch.tensor(
        [
            [2 * cosine(x, y) - brute_force_mean(x, targets, k) - brute_force_mean(y, queries, k) for y in targets]
            for x in queries
        ]
    )


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9), m=st.integers(1, 9), k=st.integers(1, 12), chunk=st.integers(1, 10), seed=st.integers(0, 999)
)
def test_equals_brute_force(n: int, m: int, k: int, chunk: int, seed: int) -> None:
    queries, targets = rows(n, 4, seed, zeros=seed % 2), rows(m, 4, seed + 1)
    expected = brute_force_csls(queries, targets, k)
    scores, indices = csls_neighbours(queries, targets, k=k, top=m, chunk=chunk)
    torch.testing.assert_close(scores, expected.sort(dim=1, descending=True).values, atol=1e-5, rtol=0)
    torch.testing.assert_close(expected.gather(1, indices), scores, atol=1e-5, rtol=0)
    assert sorted(indices[0].tolist()) == list(range(m))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9), m=st.integers(1, 9), k=st.integers(1, 12), chunk=st.integers(1, 10), seed=st.integers(0, 999)
)
def test_mutual_pairs_equal_brute_force(n: int, m: int, k: int, chunk: int, seed: int) -> None:
    a, b = rows(n, 4, seed), rows(m, 4, seed + 1)
    scores = brute_force_csls(a, b, k)
    forward, backward = scores.argmax(dim=1).tolist(), scores.argmax(dim=0).tolist()
    expected = [[i, j] for i, j in enumerate(forward) if backward[j] == i]
    assert mutual_neighbours(a, b, k=k, chunk=chunk).tolist() == expected


def test_chunks_do_not_change_the_result() -> None:
    a, b = rows(50, 8, 1), rows(40, 8, 2)
    whole, parts = csls_neighbours(a, b, top=3), csls_neighbours(a, b, top=3, chunk=7)
    torch.testing.assert_close(whole[0], parts[0])
    assert whole[1].equal(parts[1])


def test_given_hubness_of_all_queries_is_used_for_a_part_of_them() -> None:
    a, b = rows(50, 8, 1), rows(40, 8, 2)
    whole = csls_neighbours(a, b)[1]
    part = csls_neighbours(a[:5], b, target_hubness=mean_similarity(b, a))[1]
    assert part.equal(whole[:5])


def test_lengths_do_not_matter() -> None:
    a, b = rows(20, 8, 1), rows(30, 8, 2)
    stretch = torch.linspace(0.1, 9, 20)[:, None]
    assert csls_neighbours(a * stretch, b)[1].equal(csls_neighbours(a, b)[1])


def test_a_hub_is_held_down() -> None:
    # The hub lies between all queries; each query's own target points away from it, a little farther than the hub.
    queries = torch.eye(4) + 0.9
    hub, own = torch.ones(1, 4), torch.eye(4) * 4 + 0.5
    targets = torch.cat([hub, own])
    cosines = unit_rows(queries) @ unit_rows(targets).T
    assert cosines.argmax(dim=1).tolist() == [0, 0, 0, 0]
    assert csls_neighbours(queries, targets, k=2)[1][:, 0].tolist() == [1, 2, 3, 4]


def test_zero_rows_have_cosine_zero_and_no_nan() -> None:
    a, b = rows(6, 4, 1, zeros=2), rows(5, 4, 2, zeros=1)
    assert unit_rows(a)[:2].abs().sum() == 0
    torch.testing.assert_close(unit_rows(a)[2:].norm(dim=1), torch.ones(4))
    assert mean_similarity(a, b, 3)[:2].tolist() == [0, 0]
    assert csls_neighbours(a, b, k=3)[0].isfinite().all()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation has made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return made


@pytest.mark.parametrize("search", [csls_neighbours, mean_similarity, mutual_neighbours])
def test_nothing_of_the_size_of_all_pairs_is_ever_held(search: Callable[..., Any]) -> None:
    a, b = rows(500, 4, 1), rows(400, 4, 2)
    with Largest() as whole:
        search(a, b, k=3, chunk=500)
    with Largest() as parts:
        search(a, b, k=3, chunk=10)
    assert whole.elements == 500 * 400  # it would be seen
    assert parts.elements <= max(10 * 500, 500 * 4)


def plain_csls(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """r_B(a), the scores and places of the best of `b` for `a`, and the mutual pairs, each from one table of all."""
    a, b = unit_rows(a), unit_rows(b)
    of_a, of_b = ((x @ y.T).topk(k, dim=1).values.mean(dim=1) for x, y in ((a, b), (b, a)))
    scores = 2 * (a @ b.T) - of_a[:, None] - of_b
    best, backward = scores.topk(1, dim=1), scores.argmax(dim=0)
    nearest = scores.argmax(dim=1)
    mutual = torch.arange(len(a))[backward[nearest] == torch.arange(len(a))]
    return of_a, best.values, best.indices, torch.stack([mutual, nearest[mutual]], dim=1)


@pytest.mark.parametrize("block", [2, 5, 64])
def test_blocks_and_used_memory_change_no_bit(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(csls, "BLOCK", block)
    a, b = rows(60, 8, 1, zeros=1), rows(333, 8, 2, zeros=2)
    mean, scores, nearest, mutual = plain_csls(a, b, 3)
    found = csls_neighbours(a, b, k=3, chunk=60)
    assert mean_similarity(a, b, 3, chunk=60).equal(mean)
    assert found[0].equal(scores)
    assert found[1][1:].equal(nearest[1:])  # all targets are alike to a row of zeros
    assert mutual_neighbours(a, b, k=3, chunk=60).equal(mutual)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5), m=st.integers(1, 120), k=st.integers(1, 5), levels=st.integers(1, 30), seed=st.integers(0, 9)
)
def test_the_greatest_are_those_of_topk_with_ties_too(n: int, m: int, k: int, levels: int, seed: int) -> None:
    values = torch.randint(0, levels, (n, m), generator=torch.Generator().manual_seed(seed)).float()
    k = min(k, m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csls, "BLOCK", 2)
        assert csls._greatest(values, k).equal(values.topk(k, dim=1).values)
