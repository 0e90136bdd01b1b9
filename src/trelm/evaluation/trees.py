"""The best dependency tree: Chu-Liu/Edmonds with exactly one word at the root, in O(n^2) (Tarjan 1977)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def maximum_spanning_tree(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The heads of the tree with the greatest sum of scores among those with exactly one word attached to the root.

    An arc from the root counts as worse than any other, whatever their scores: that is the constant of Stanojević and
    Cohen (2021) taken to infinity, so no digit of a score is lost to it. Words are then contracted until one node is
    left, and it alone takes an arc from the root.

    Args:
        scores: [n + 1, n + 1], `scores[dependent, head]`; index 0 is the root. Row 0 and the diagonal are ignored.

    Returns:
        int64 [n]: entry i - 1 is the head of word i, 0 for the root.

    Raises:
        ValueError: scores of another shape, or an arc whose score is not finite.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not scores.size:
        raise ValueError(
            f"scores: expected a square matrix over the root and the words, found the shape {scores.shape}"
        )
    weights = np.array(scores, dtype=np.float64)
    np.fill_diagonal(weights, 0.0)
    if not np.isfinite(weights[1:]).all():
        raise ValueError("scores: expected a finite number for each arc, found NaN or an infinity")
    return _expanded(_Contraction(weights)) if len(weights) > 1 else np.zeros(0, dtype=np.int64)


class _Contraction:
    """The words, contracted cycle by cycle into one node.

    A node is a word (1 to n) or a contracted cycle (from n + 1 on). The row and column of a cycle are those of its
    first member; the columns of the others are closed.

    Attributes:
        parents: node -> the cycle that took it in. members: cycle -> the nodes in it.
        best: node -> the (dependent, head) words of its best arc from another node, of those that were left.
        root: (dependent, 0), the best arc from the root into the last node.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        """Args: weights [n + 1, n + 1], n > 0, which are used up."""
        self.size = len(weights)
        self.parents: dict[int, int] = {}
        self.members: dict[int, list[int]] = {}
        self.best: dict[int, tuple[int, int]] = {}
        self._weights = weights
        self._arcs = np.arange(self.size**2).reshape(weights.shape)  # the words an entry stands for, as one number
        self._nodes = list(range(self.size))  # row -> the node it holds now
        self._range = np.arange(self.size)
        np.fill_diagonal(weights, -np.inf)
        self.root = self._words(self._contract_all(), 0)

    def _words(self, row: int, column: int) -> tuple[int, int]:
        dependent, head = divmod(int(self._arcs[row, column]), self.size)
        return dependent, head

    def _contract_all(self) -> int:
        """Follow best arcs backwards, contract each cycle that closes; the row of the node that is left."""
        path, values = [1], dict[int, float]()
        left = self.size - 1
        while left > 1:
            row = path[-1]
            head = int(self._weights[row, 1:].argmax()) + 1
            values[row] = float(self._weights[row, head])
            self.best[self._nodes[row]] = self._words(row, head)
            if head in path:
                cycle = path[path.index(head) :]
                self._contract(np.array(cycle), np.array([values[member] for member in cycle]))
                del path[path.index(head) + 1 :]
                left -= len(cycle) - 1
            else:
                path.append(head)
        return path[-1]

    def _contract(self, cycle: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Make one node of the rows of a cycle, whose inner arcs are worth `values`."""
        weights, arcs, kept = self._weights, self._arcs, cycle[0]
        entering = weights[cycle] - values[:, None]
        where = cycle[entering.argmax(axis=0)]
        weights[kept], arcs[kept] = entering.max(axis=0), arcs[where, self._range]
        leaving = cycle[weights[:, cycle].argmax(axis=1)]
        weights[:, kept], arcs[:, kept] = weights[self._range, leaving], arcs[self._range, leaving]
        weights[:, cycle[1:]] = -np.inf
        weights[kept, kept] = -np.inf
        node = self.size + len(self.members)
        self.members[node] = [self._nodes[row] for row in cycle]
        self.parents.update(dict.fromkeys(self.members[node], node))
        self._nodes[kept] = node


def _expanded(contraction: _Contraction) -> NDArray[np.int64]:
    """The head of each word: a cycle is opened at the member that its arc enters, the others keep their best arcs."""
    heads = np.zeros(contraction.size, dtype=np.int64)
    open_arcs = [
        (contraction.root, 2 * contraction.size)
    ]  # an arc, and the node it enters (here, any number above all)
    while open_arcs:
        (dependent, head), entered = open_arcs.pop()
        heads[dependent] = head
        node = dependent
        while node != entered and node in contraction.parents:
            cycle = contraction.parents[node]
            others = (member for member in contraction.members[cycle] if member != node)
            open_arcs.extend((contraction.best[member], member) for member in others)
            node = cycle
    return heads[1:]
