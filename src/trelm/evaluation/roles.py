"""Scores of semantic role labelling, as the CoNLL-2009 shared task defines them (Hajič et al. 2009)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from trelm.corpus.treebanks import Frame

_Key = TypeVar("_Key", bound=Hashable)
_Dependencies = Counter[tuple[int, int, int, str]]


@dataclass(frozen=True)
class RoleScores:
    """Shares from 0 to 1, over all sentences together; 0 where there is nothing to divide by.

    Attributes:
        labelled_f1, labelled_precision, labelled_recall: of the dependencies with their labels, senses and roles alike.
        unlabelled_f1: of the dependencies without labels. argument_f1: labelled, of the arguments alone.
        sense_accuracy: share of the gold predicates with the right sense.
        predicates, arguments: how many the gold frames have.
    """

    labelled_f1: float
    labelled_precision: float
    labelled_recall: float
    unlabelled_f1: float
    argument_f1: float
    sense_accuracy: float
    predicates: int
    arguments: int

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def role_scores(gold: Sequence[Sequence[Frame]], predicted: Sequence[Sequence[Frame]]) -> RoleScores:
    """Precision and recall of the semantic dependencies, with frames matched by the position of their predicates.

    A predicate is a dependency on a virtual root, labelled by its sense, and each argument one on its predicate,
    labelled by its role. Senses are compared whole (`come.03`), where the shared task's script compares what follows
    the dot: its lemmas are given.

    Args:
        gold, predicted: the frames of each sentence.

    Raises:
        ValueError: another number of sentences, or two frames of one predicate.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"expected the frames of {len(gold)} sentences, found those of {len(predicted)}")
    gold_senses, gold_arguments = _dependencies(gold)
    senses, arguments = _dependencies(predicted)
    precision, recall, labelled_f1 = _shares(gold_senses + gold_arguments, senses + arguments)
    bare_gold, bare = _unlabelled(gold_senses + gold_arguments), _unlabelled(senses + arguments)
    predicates = gold_senses.total()
    return RoleScores(
        labelled_f1=labelled_f1,
        labelled_precision=precision,
        labelled_recall=recall,
        unlabelled_f1=_shares(bare_gold, bare)[2],
        argument_f1=_shares(gold_arguments, arguments)[2],
        sense_accuracy=(gold_senses & senses).total() / predicates if predicates else 0.0,
        predicates=predicates,
        arguments=gold_arguments.total(),
    )


def _dependencies(sentences: Sequence[Sequence[Frame]]) -> tuple[_Dependencies, _Dependencies]:
    """Those of predicates and those of arguments: (sentence, head, dependent, label), 0 for the virtual root."""
    senses: _Dependencies = Counter()
    arguments: _Dependencies = Counter()
    for number, frames in enumerate(sentences):
        predicates = [frame.predicate for frame in frames]
        if len(set(predicates)) != len(predicates):
            raise ValueError(f"sentence {number + 1}: expected one frame for each predicate, found two of one")
        senses.update((number, 0, frame.predicate, frame.sense) for frame in frames)
        arguments.update((number, frame.predicate, word, label) for frame in frames for word, label in frame.roles)
    return senses, arguments


def _unlabelled(dependencies: _Dependencies) -> Counter[tuple[int, int, int]]:
    """An argument with several labels counts as often."""
    bare: Counter[tuple[int, int, int]] = Counter()
    for (sentence, head, dependent, _), count in dependencies.items():
        bare[sentence, head, dependent] += count
    return bare


def _shares(gold: Counter[_Key], predicted: Counter[_Key]) -> tuple[float, float, float]:
    """Precision, recall and F1."""
    right = (gold & predicted).total()
    precision = right / predicted.total() if predicted else 0.0
    recall = right / gold.total() if gold else 0.0
    both = gold.total() + predicted.total()
    return precision, recall, 2 * right / both if both else 0.0
