"""Held-out links, pruning and the choice in words, against brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trelm.alignment.judging import (
    DECISIVE,
    MIN_SEEDS,
    beats_chance,
    collapsed,
    links_found,
    merit,
    mutual_links,
    reason,
    split_links,
)


def account(**changes: Any) -> dict[str, Any]:
    values = {"collapsed": False, "links_found": None, "criterion": 0.3, "null_criterion": 0.2, "games": []}
    return values | changes


def test_links_found_by_brute_force() -> None:
    Y = torch.eye(6)
    links = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2]])
    assert links_found(Y.clone(), Y, links, k=1) == pytest.approx(2 / 3)
    assert links_found(Y, Y, links[:0], k=1) is None


LINKS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 4)), max_size=20)


@given(LINKS)
def test_mutual_links_by_brute_force(links: list[tuple[int, int, int]]) -> None:
    counts = {(x, y): count for x, y, count in links}
    pairs = torch.tensor(list(counts), dtype=torch.int64).reshape(-1, 2)
    expected = [
        all(count >= other for (a, b), other in counts.items() if a == x or b == y) for (x, y), count in counts.items()
    ]
    weights = torch.tensor(list(counts.values()), dtype=torch.float32).log1p()
    assert mutual_links(pairs, weights).tolist() == expected


def test_a_row_of_x_is_on_one_side_only_and_rows_spelled_alike_judge_nothing() -> None:
    g = torch.Generator().manual_seed(1)
    pairs = torch.randint(0, 1500, (4000, 2), generator=g)
    weights = torch.rand(4000, generator=g)
    identical = torch.arange(300).repeat(2, 1).T
    (kept, kept_weights), held = split_links(pairs, weights, identical, seed=3)
    assert len(kept) + len(held) == 4000
    assert not set(kept[:, 0].tolist()) & set(held[:, 0].tolist())
    assert int(held[:, 0].min()) >= 300
    assert len(held) == pytest.approx(0.2 * 3200, rel=0.15)
    given_pairs = [(int(x), int(y), float(w)) for (x, y), w in zip(pairs, weights)]
    assert {(int(x), int(y), float(w)) for (x, y), w in zip(kept, kept_weights)} <= set(given_pairs)


def test_few_links_are_all_learned_from() -> None:
    pairs = torch.arange(MIN_SEEDS).repeat(2, 1).T
    (kept, _), held = split_links(pairs, torch.ones(MIN_SEEDS), pairs[:0], seed=1)
    assert kept.equal(pairs)
    assert held.shape == (0, 2)


@pytest.mark.parametrize(
    ("found", "judges", "beats"),
    [
        (None, 0, False),
        (0.0, 1000, False),
        (0.004, 1000, False),
        (0.02, 1000, True),
        (0.04, 100, False),
        (0.05, 100, True),
    ],
)
def test_chance_is_beaten_by_a_share_and_a_number_of_links(found: float | None, judges: int, beats: bool) -> None:
    assert beats_chance(found, judges) == beats


@pytest.mark.parametrize("random_like", [True, False])
def test_many_held_out_links_decide_whether_a_map_has_collapsed(random_like: bool) -> None:
    assert collapsed(0.002, DECISIVE, random_like)
    assert not collapsed(0.1, DECISIVE, random_like)
    assert not collapsed(0.1, 100, random_like)


@pytest.mark.parametrize(("found", "judges"), [(None, 0), (0.0, DECISIVE - 1)])
def test_few_held_out_links_leave_it_to_the_criterion(found: float | None, judges: int) -> None:
    assert collapsed(found, judges, True)
    assert not collapsed(found, judges, False)


def test_merit_is_no_collapse_then_links_then_the_criterion() -> None:
    worst_first = [
        account(collapsed=True, links_found=0.004, criterion=0.9),
        account(links_found=0.0, criterion=0.3),
        account(links_found=0.0, criterion=0.5),
        account(links_found=0.1, criterion=0.2),
    ]
    assert sorted(worst_first, key=merit, reverse=True) == worst_first[::-1]
    assert merit(account()) < merit(account(criterion=0.31))


def test_reason_with_links() -> None:
    candidates = {
        "parallel": account(links_found=0.041),
        "identical": account(links_found=0.004),
        "adversarial": account(links_found=0.0, collapsed=True, games=[{}]),
    }
    assert reason("parallel", candidates, judges=1820, asked=False) == (
        "parallel: finds held-out links of 4.1 % of 1,820 entries again, identical 0.4 %, adversarial 0.0 % (collapsed)"
    )


def test_reason_without_links() -> None:
    candidates = {"identical": account(), "adversarial": account(collapsed=True, criterion=0.21, games=[{}, {}])}
    assert reason("identical", candidates, judges=0, asked=False) == (
        "identical: criterion 0.300 without labels (random maps 0.200), adversarial 0.210 (collapsed, 2 games)"
    )


def test_reason_where_all_collapsed_warns() -> None:
    collapsed = account(collapsed=True, games=[{}, {}, {}])
    assert reason("adversarial", {"adversarial": collapsed}, judges=0, asked=True) == (
        "adversarial: asked for; criterion 0.300 without labels (random maps 0.200) (collapsed, 3 games); "
        "by the criterion no map that was learned is better than a random one: give other seeds, or more text"
    )
    assert "no map" not in reason("none", {"none": account(collapsed=True)}, judges=0, asked=True)
