"""Where the rows of a new vocabulary start (METHOD section 4, and the ways of others)."""

from trelm.initialisation.counts import counts
from trelm.initialisation.drawing import multivariate_rows, random_rows
from trelm.initialisation.frequency import frequency_bias
from trelm.initialisation.linked_neighbours import image_neighbours, linked_neighbours
from trelm.initialisation.mixture import (
    PROVENANCES,
    Initialisation,
    Mixture,
    SourceTables,
    assemble,
    complete,
    from_pairs,
    normalised,
    nothing,
    one_hot,
    overlay,
    restricted,
    through,
)
from trelm.initialisation.simple import pieces, shared, specials
from trelm.initialisation.spread import rescale
from trelm.initialisation.surface import Surface, surfaces

__all__ = [
    "PROVENANCES",
    "Initialisation",
    "Mixture",
    "SourceTables",
    "Surface",
    "assemble",
    "complete",
    "counts",
    "frequency_bias",
    "from_pairs",
    "image_neighbours",
    "linked_neighbours",
    "multivariate_rows",
    "normalised",
    "nothing",
    "one_hot",
    "overlay",
    "pieces",
    "random_rows",
    "rescale",
    "restricted",
    "shared",
    "specials",
    "surfaces",
    "through",
]
