"""The output bias of a new vocabulary: what the source's says beyond frequency, and the new text's frequencies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trelm.initialisation.mixture import Mixture


def frequency_bias(
    mixture: Mixture,
    bias: NDArray[np.float32],
    source_counts: NDArray[np.integer],
    counts: NDArray[np.integer] | NDArray[np.floating],
) -> NDArray[np.float32]:
    """`sum_e w_e (b_e - ln p_e) + ln p_row`, [V]: the mixture's bias, with the row's own frequency for the source's.

    A head's bias is near the log-frequency of its entries. A mixture carries the frequency of the source's words over,
    and Adam moves a bias by no more than the learning rate an update: hundreds of updates for one nat. So the part that
    is frequency is taken off and the new text's is put in its place. p is (count + 1) / (total + entries).

    Args:
        mixture: [V, V_s]; where a row is empty, the residual is the source's mean.
        bias: [V_s or more], the source head's output bias.
        source_counts: [V_s], occurrences of the source's entries in source-language text, cut by its own tokenizer.
        counts: [V], occurrences of the new entries in the text that the model is to learn.

    Raises:
        ValueError: the shapes do not fit together.
    """
    rows, columns = mixture.weights.shape
    if counts.shape != (rows,) or source_counts.shape != (columns,) or len(bias) < columns:
        raise ValueError(
            f"frequency_bias: expected counts ({rows},), source_counts ({columns},) and a bias of {columns}, "
            f"found {counts.shape}, {source_counts.shape} and {bias.shape}"
        )
    residual = (bias[:columns] - log_frequencies(source_counts)).astype(np.float32)
    # Entries that the text does not have say nothing about what a bias is beyond frequency.
    seen = source_counts > 0
    mean = float(residual[seen].mean()) if seen.any() else 0.0
    carried = np.where(mixture.covered, mixture.of(residual), mean)
    return np.asarray(carried + log_frequencies(counts), dtype=np.float32)


def log_frequencies(counts: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
    """ln of the add-one smoothed relative frequencies [V]."""
    exact = np.asarray(counts, dtype=np.float64)
    return np.asarray(np.log((exact + 1) / (exact.sum() + len(exact))))
