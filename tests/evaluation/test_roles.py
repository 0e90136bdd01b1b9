"""Scores of semantic roles, against the loops of the shared task's script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus.treebanks import Frame
from trelm.evaluation.roles import role_scores

Sentences = list[list[Frame]]

roles = st.sets(st.tuples(st.integers(1, 4), st.sampled_from(["A0", "A1"])), max_size=5).map(sorted).map(tuple)
frames = st.lists(
    st.builds(Frame, st.integers(1, 4), st.sampled_from(["x.01", "x.02"]), roles),
    max_size=4,
    unique_by=lambda frame: frame.predicate,
)
pairs = st.lists(st.tuples(frames, frames), max_size=3)


def matches(gold: Sentences, predicted: Sentences) -> dict[str, int]:
    """What eval09.pl 0.4 counts as right: each pair of frames, and each pair of their arguments, in turn."""
    right = {"predicates": 0, "senses": 0, "arguments": 0, "roles": 0}
    for ours, theirs in ((o, t) for o_s, t_s in zip(gold, predicted) for o in o_s for t in t_s):
        if ours.predicate != theirs.predicate:
            continue
        right["predicates"] += 1
        right["senses"] += ours.sense == theirs.sense
        taken: set[int] = set()
        for word, label in ours.roles:
            places = [place for place, role in enumerate(theirs.roles) if role[0] == word]
            right["roles"] += sum(theirs.roles[place][1] == label for place in places)
            if free := [place for place in places if place not in taken]:
                taken.add(free[0])
                right["arguments"] += 1
    return right


def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


@given(pairs)
def test_scores_are_those_of_the_shared_task(sentences: list[tuple[list[Frame], list[Frame]]]) -> None:
    gold, predicted = [pair[0] for pair in sentences], [pair[1] for pair in sentences]
    right, scores = matches(gold, predicted), role_scores(gold, predicted)
    predicates = [sum(map(len, side)) for side in (gold, predicted)]
    arguments = [sum(len(frame.roles) for frames in side for frame in frames) for side in (gold, predicted)]
    labelled = right["senses"] + right["roles"]
    assert scores.as_dict() == pytest.approx(
        {
            "labelled_f1": share(2 * labelled, sum(predicates) + sum(arguments)),
            "labelled_precision": share(labelled, predicates[1] + arguments[1]),
            "labelled_recall": share(labelled, predicates[0] + arguments[0]),
            "unlabelled_f1": share(2 * (right["predicates"] + right["arguments"]), sum(predicates) + sum(arguments)),
            "argument_f1": share(2 * right["roles"], sum(arguments)),
            "sense_accuracy": share(right["senses"], predicates[0]),
            "predicates": predicates[0],
            "arguments": arguments[0],
        }
    )


def test_a_case_by_hand() -> None:
    gold = [[Frame(2, "come.03", ((1, "ARG1"), (4, "ARG2"))), Frame(5, "go.01", ())]]
    scores = role_scores(gold, [[Frame(2, "come.03", ((1, "ARG0"), (4, "ARG2"), (3, "ARG0")))]])
    assert (scores.labelled_precision, scores.labelled_recall) == (2 / 4, 2 / 4)
    assert (scores.unlabelled_f1, scores.argument_f1, scores.sense_accuracy) == (3 / 4, 2 / 5, 1 / 2)
    assert role_scores([[Frame(1, "come.01", ())]], [[Frame(1, "go.01", ())]]).sense_accuracy == 0


@pytest.mark.parametrize(
    ("predicted", "words"),
    [
        ([], "expected the frames of 1 sentences, found those of 0"),
        ([[Frame(1, "a", ()), Frame(1, "b", ())]], "sentence 1: expected one frame for each predicate, found two"),
    ],
)
def test_frames_that_do_not_fit_are_told(predicted: Sentences, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        role_scores([[]], predicted)
