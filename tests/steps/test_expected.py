"""What is expected of the steps under the limits for little data."""

from __future__ import annotations

import pytest

from trelm.steps.expected import limited
from trelm.steps.rates import Amounts, Part

AMOUNTS = Amounts(
    read=1e6,
    source=Part(1000, 50_000, 12_000),
    target=Part(800, 40_000, 10_000),
    pair_source=Part(200, 8_000, 2_000),
    pair_target=Part(200, 9_000, 2_500),
    cells=40_000,
)


def test_without_limits_or_with_large_ones_everything_trains() -> None:
    assert limited(AMOUNTS, None, None) == limited(AMOUNTS, 10_000, 10_000) == AMOUNTS


def test_a_limit_of_lines_leaves_the_pairs_and_the_source() -> None:
    found = limited(AMOUNTS, 80, None)
    assert found.target == AMOUNTS.target.times(0.1)
    assert (found.source, found.pair_source, found.pair_target) == (
        AMOUNTS.source,
        AMOUNTS.pair_source,
        AMOUNTS.pair_target,
    )
    assert (found.read, found.cells) == (AMOUNTS.read, AMOUNTS.cells)


def test_a_limit_of_pairs_leaves_all_source_text() -> None:
    found = limited(AMOUNTS, None, 50)
    assert (found.pair_target, found.pair_source) == (AMOUNTS.pair_target.times(0.25), AMOUNTS.pair_source.times(0.25))
    assert found.cells == pytest.approx(10_000)
    assert found.sides()[0] == AMOUNTS.sides()[0]
    assert found.target == AMOUNTS.target
