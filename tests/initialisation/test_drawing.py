from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_tables import plain_table
from transformers import BertConfig, BertModel

from trelm.initialisation import multivariate_rows, random_rows
from trelm.initialisation.drawing import TRANSFORMERS_SCALE

MIXING = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.1, 2.0]])
TABLE = (np.random.default_rng(0).normal(size=(500, 3)) @ MIXING + [1.0, -2.0, 3.0]).astype(np.float32)


def covariance(rows: np.ndarray) -> np.ndarray:
    return np.cov(rows.astype(np.float64).T, bias=True)


def test_random_rows_are_exactly_those_of_the_table_before_this_room():
    none = np.zeros((0, 2), dtype=np.int64)
    absent = np.zeros(30, np.bool_)
    mapped = np.zeros((30, 3), np.float32)
    rows, _ = plain_table(mapped, absent, TABLE, shared=none, specials=none, copy_shared=True, seed=11)
    np.testing.assert_array_equal(random_rows(30, TABLE, 11), rows)


def test_random_rows_have_each_dimensions_moments_and_no_correlation():
    rows = random_rows(40_000, TABLE, 1)
    np.testing.assert_allclose(rows.mean(axis=0), TABLE.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(covariance(rows), np.diag(TABLE.var(axis=0)), atol=0.1)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_multivariate_rows_have_the_mean_and_the_whole_covariance(scale):
    rows = multivariate_rows(40_000, TABLE, 1, scale=scale)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows.mean(axis=0), TABLE.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(covariance(rows), scale * covariance(TABLE), atol=0.1)
    assert abs(covariance(rows)[0, 1]) > 0.3 * scale


@pytest.mark.parametrize("draw", [random_rows, multivariate_rows])
def test_the_seed_decides_and_a_row_does_not_depend_on_how_many_follow(draw):
    np.testing.assert_array_equal(draw(9, TABLE, 4), draw(9, TABLE, 4))
    np.testing.assert_allclose(draw(9, TABLE, 4)[:5], draw(5, TABLE, 4), rtol=1e-6)
    assert not np.allclose(draw(9, TABLE, 4), draw(9, TABLE, 5))
    assert draw(0, TABLE, 4).shape == (0, 3)


def test_nothing_varies_where_the_table_does_not():
    """Transformers gives up on such a covariance and writes the mean; here the other directions still vary."""
    flat = TABLE.copy()
    flat[:, 1] = 7
    rows = multivariate_rows(2_000, flat, 2)
    np.testing.assert_allclose(rows[:, 1], 7, atol=1e-5)
    np.testing.assert_allclose(covariance(rows)[0, 2], covariance(flat)[0, 2], atol=0.2)
    few = multivariate_rows(2_000, TABLE[:2], 2)
    difference = (TABLE[1] - TABLE[0]).astype(np.float64)
    along = (few - TABLE[:2].mean(axis=0)) @ difference / (difference @ difference)
    np.testing.assert_allclose(few, TABLE[:2].mean(axis=0) + along[:, None] * difference, atol=1e-4)


def test_the_scale_is_that_of_transformers():
    """What `resize_token_embeddings` draws, by its mean and its spread; the table is large, so that both show."""
    torch.manual_seed(0)
    large = (
        TABLE[:, [0]] * 1e3 * np.array([1.0, 0.5], np.float32) + np.random.default_rng(8).normal(size=(500, 2)) * 1e3
    )
    large = large.astype(np.float32) - large.mean(axis=0)
    model = BertModel(
        BertConfig(vocab_size=500, hidden_size=2, num_attention_heads=1, num_hidden_layers=1, intermediate_size=2)
    )
    model.get_input_embeddings().weight.data = torch.from_numpy(large.astype(np.float32))
    model.resize_token_embeddings(20_500, mean_resizing=True)
    theirs = model.get_input_embeddings().weight.detach().numpy()[500:]
    ours = multivariate_rows(20_000, large.astype(np.float32), 0, scale=TRANSFORMERS_SCALE)
    np.testing.assert_allclose(covariance(ours), covariance(theirs), rtol=0.1)
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=1e-2)


@pytest.mark.parametrize("draw", [random_rows, multivariate_rows])
def test_tables_that_cannot_be_drawn_from_are_refused(draw):
    name = draw.__name__
    with pytest.raises(
        ValueError, match=rf"^{name}: expected a finite table \[V_s, d\] with rows, found shape \(0, 3\)$"
    ):
        draw(1, TABLE[:0], 0)
    with pytest.raises(
        ValueError, match=rf"^{name}: expected a finite table \[V_s, d\] with rows, found NaN or infinity$"
    ):
        draw(1, np.full((2, 3), np.nan, np.float32), 0)


def test_a_negative_scale_is_refused():
    with pytest.raises(ValueError, match=r"^multivariate_rows: expected a scale of 0 or more, found -1$"):
        multivariate_rows(1, TABLE, 0, scale=-1)
