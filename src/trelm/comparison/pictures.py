"""Two pictures of what was prepared: word links of one pair, and the aligned tables in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.ragged import Ragged
from trelm.steps.context import TOKENS, WORD_LINKS, Context
from trelm.steps.initialisation import linked_pairs, mapped_vectors, target_entries

LENGTHS = range(6, 15)
"""Tokens of a side of the pair that is shown."""
POINTS = 60
"""Translation pairs in the picture of the tables."""
LETTERS = 3


def word_link_picture(context: Context) -> dict[str, Any] | None:
    """The first held-out pair of middling length: tokens and links (source position, target position) both ways."""
    source, target = (Ragged.load(context.folder(TOKENS), f"parallel-held-out-{side}") for side in ("source", "target"))
    links = context.folder(WORD_LINKS)
    of_target, of_source = (Ragged.load(links, f"{name}-held-out") for name in ("source-of-target", "target-of-source"))
    fitting = [row for row in range(len(source)) if len(source[row]) in LENGTHS and len(target[row]) in LENGTHS]
    if not fitting:
        return None
    row, spell = fitting[0], context.tokenizer.convert_ids_to_tokens
    return {
        "source": spell(source[row].tolist()),
        "target": spell(target[row].tolist()),
        "forward": [[int(place), number] for number, place in enumerate(of_target[row]) if place >= 0],
        "reverse": [[number, int(place)] for number, place in enumerate(of_source[row]) if place >= 0],
    }


def table_picture(context: Context) -> dict[str, Any] | None:
    """Target entries and the source entries that they are linked to most often, in the aligned space."""
    pairs, counts = linked_pairs(context)
    chosen = _best_pairs(context, pairs, counts)
    if len(chosen) < 2:
        return None
    mapped, table = mapped_vectors(context)[chosen[:, 0]], context.source.table.numpy()[chosen[:, 1]]
    places = principal_plane(np.concatenate([_unit(mapped), _unit(table)]))
    spelled = [
        *context.tokenizer.convert_ids_to_tokens(chosen[:, 0].tolist()),
        *context.source.tokenizer.convert_ids_to_tokens(chosen[:, 1].tolist()),
    ]
    sides = ["target"] * len(chosen) + ["source"] * len(chosen)
    return {
        "method": f"Principal components of {len(chosen)} of the most frequently linked target entries (mapped subword "
        "vectors) and of the source entries that each is linked to most often, all at length 1",
        "points": [
            {"x": float(x), "y": float(y), "token": token, "side": side, "group": number % len(chosen)}
            for number, ((x, y), token, side) in enumerate(zip(places, spelled, sides))
        ],
    }


def _best_pairs(context: Context, pairs: NDArray[np.int64], counts: NDArray[np.float32]) -> NDArray[np.int64]:
    """[n, 2] rows (joint, source): whole words of the target, each once, by falling number of links."""
    mine = target_entries(context).numpy()
    spelled = context.tokenizer.convert_ids_to_tokens(list(range(len(context.tokenizer))))
    found: dict[int, int] = {}
    for place in np.argsort(-counts, kind="stable").tolist():
        row, source_row = (int(number) for number in pairs[place])
        if row not in found and mine[row] and len(spelled[row]) >= LETTERS and spelled[row].isalpha():
            found[row] = source_row
        if len(found) == POINTS:
            break
    return np.array(list(found.items()), dtype=np.int64).reshape(-1, 2)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows at length 1, each side centred: a map is learned on such rows."""
    centred = rows - rows.mean(axis=0)
    unit: NDArray[np.float32] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return unit


def principal_plane(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, 2]: the rows on their first two principal components, each turned so that its largest place is positive."""
    centred = rows.astype(np.float64) - rows.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    places: NDArray[np.float64] = left[:, :2] * values[:2]
    signs = np.sign(places[np.abs(places).argmax(axis=0), np.arange(2)])
    return places * np.where(signs == 0, 1.0, signs)
