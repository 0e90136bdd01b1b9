"""The cells of a comparison: what they start from, where their curves have points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_comparison import comparison_config
from transformers import AutoModelForMaskedLM

from trelm.comparison.cell import Cell, start_model
from trelm.comparison.preparation import plan_preparation, prepare_all
from trelm.comparison.run import Comparison
from trelm.comparison.scoring import points_within
from trelm.config import ARM_NAMES
from trelm.progress import Progress


@pytest.fixture(scope="module")
def comparison(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """All arms, prepared."""
    folder = tmp_path_factory.mktemp("cells")
    arms = ",".join(name for name in ARM_NAMES if name not in ("trelm-paper", "adversarial"))
    dictionary = f"embeddings.dictionary=[{folder / 'data' / 'dictionary.tsv'}]"
    config = comparison_config(folder / "data", tiny_bert, f"comparison.arms=[{arms}]", dictionary)
    made = Comparison(config, folder / "run", [])
    prepare_all(plan_preparation(made.arms(), made.root, []), made.root, Progress(20, quiet=True))
    return made


def cell(comparison: Comparison, name: str, seed: int = 1) -> Cell:
    return comparison.cell(name, seed)


@torch.no_grad()
def test_the_source_with_its_own_tokenizer_starts_as_the_source(comparison: Comparison, tiny_bert: Path) -> None:
    model: Any = start_model(cell(comparison, "source-tokenizer")).eval()
    source: Any = AutoModelForMaskedLM.from_pretrained(str(tiny_bert)).eval()
    ids = torch.arange(10, 19).unsqueeze(0)
    assert torch.allclose(model(ids).logits, source(ids).logits, atol=1e-5)


def test_rivals_have_the_layers_of_the_source_and_trelm_one_more(comparison: Comparison) -> None:
    layers = {name: start_model(cell(comparison, name)).config.num_hidden_layers for name in ("counts", "scratch")}
    assert layers == {"counts": 4, "scratch": 5}


def test_a_seed_draws_other_rows_and_the_same_seed_the_same(comparison: Comparison) -> None:
    tables = [start_model(cell(comparison, "random", seed)).get_input_embeddings().weight for seed in (1, 2, 1)]  # type: ignore[no-untyped-call]
    assert torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0], tables[1])


def test_without_ordering_position_j_reads_position_j(comparison: Comparison) -> None:
    data, real = cell(comparison, "no-ordering").data, cell(comparison, "trelm-recommended").data
    for row in range(20):
        lengths = len(data.pair_source[row]), len(data.pair_target[row])
        expected = [place if place < lengths[0] else -1 for place in range(lengths[1])]
        assert data.source_of_target[row].tolist() == expected
    assert data.source_of_target.offsets.tolist() == real.source_of_target.offsets.tolist()
    assert data.source_of_target.values.tolist() != real.source_of_target.values.tolist()


def test_a_rival_reads_the_pairs_target_side_as_text(comparison: Comparison) -> None:
    rival, ours = cell(comparison, "counts").data, cell(comparison, "trelm-recommended").data
    texts = {rival.target[row].tobytes() for row in range(len(rival.target))}
    sides = {ours.pair_target[row].tobytes() for row in range(len(ours.pair_target))}
    assert len(sides) > 100
    assert sides <= texts


@given(st.dictionaries(st.text(min_size=1, max_size=2), st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 12))
def test_the_points_of_a_curve_are_spread_over_all_stages(updates: dict[str, int], evaluations: int) -> None:
    found = points_within(updates, evaluations)
    starts = dict(zip(updates, np.cumsum([0, *updates.values()])))
    total = sum(updates.values())
    marks = [int(starts[name]) + place for name, places in found.items() for place in places]
    assert all(1 <= place <= updates[name] for name, places in found.items() for place in places)
    assert marks == sorted(set(marks))
    assert marks[-1] == total
    assert len(marks) == min(evaluations, total)
    assert max(np.diff([0, *marks])) <= total / evaluations + 1
