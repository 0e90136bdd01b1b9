"""Aligned-state distillation against loops over rows and positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from toy_teaching import ITS_VOCABULARY, MAX_LENGTH, SEQUENCES, toy_taught, toy_taught_batches, toy_teacher
from toy_training import VOCABULARY, toy_batches, toy_model

from trelm.training.batches import link_count
from trelm.training.objectives import Objective, batch_loss, micro_batches, share, share_of_process
from trelm.training.teaching import (
    END,
    MASK,
    READ,
    START,
    _framed,
    is_taught,
    read_by_student,
    span_means,
    taught_loss,
    without_links,
)

ALL = np.arange(SEQUENCES)


def collated(indices: Any = ALL, **changes: Any) -> dict[str, Tensor]:
    return toy_taught(**changes).collate(np.asarray(indices), np.random.default_rng(3))


# What a batch says


def test_masks_are_those_of_the_same_text_without_a_teacher() -> None:
    examples = toy_taught()
    part = examples.collate(ALL, np.random.default_rng(3))
    plain = examples.masked.collate(ALL, np.random.default_rng(3))
    assert {name: value.tolist() for name, value in read_by_student(part).items()} == {
        name: value.tolist() for name, value in plain.items()
    }
    assert is_taught(part)
    assert not is_taught(plain)


def test_links_of_a_batch_lead_where_those_of_its_sequences_do() -> None:
    """Token by token: what the teacher is given at a span of a batch is what the span of the sequence held."""
    examples, part = toy_taught(), collated()
    given, limit = examples.teaching, MAX_LENGTH - 2
    assert max(given.read.lengths()) > limit  # some are cut
    cut_off = 0
    for row in range(SEQUENCES):
        its, length = given.read[row].tolist()[:limit], min(len(examples.masked.texts[row]), limit)
        assert part[READ][row, part[MASK][row] == 1].tolist() == [7, *its, 8]
        assert (part[READ][row, part[MASK][row] == 0] == ITS_VOCABULARY.padding).all()
        spans = list(zip(part[START][row].tolist(), part[END][row].tolist()))
        assert part[READ][row, slice(*spans[0])].tolist() == [ITS_VOCABULARY.start]
        assert part[READ][row, slice(*spans[length + 1])].tolist() == [ITS_VOCABULARY.end]
        assert set(spans[length + 2 :]) <= {(-1, -1)}
        for place in range(length):
            start, end = int(given.starts[row][place]), int(given.ends[row][place])
            kept = its[start:end] if start >= 0 else []
            cut_off += start >= limit
            assert part[READ][row, slice(*spans[place + 1])].tolist() == kept
            assert (spans[place + 1] == (-1, -1)) == (not kept)
    assert cut_off > 0
    assert link_count(part) == int((part[START] >= 0).sum())


@given(st.data())
def test_spans_that_reach_into_what_was_cut_off_end_before_it(data: st.DataObject) -> None:
    tokens, length, read = (data.draw(st.integers(0, 9)) for _ in range(3))
    length = min(tokens, length) + 2
    starts, ends = [], []
    for _ in range(tokens):
        start = data.draw(st.integers(-1, 9))
        starts.append(start)
        ends.append(-1 if start == -1 else data.draw(st.integers(start + 1, 12)))
    first, last = _framed(np.array(starts, dtype=np.int32), np.array(ends, dtype=np.int32), length, read + 2)
    assert len(first) == len(last) == length
    assert (first[0], last[0], first[-1], last[-1]) == (0, 1, read + 1, read + 2)
    for place in range(length - 2):
        expected = [token + 1 for token in range(max(starts[place], 0), ends[place]) if token < read]
        assert [*range(first[place + 1], last[place + 1])] == expected
        assert (first[place + 1] == -1) == (last[place + 1] == -1) == (not expected)


def test_a_sequence_is_as_long_as_the_longer_of_what_both_read() -> None:
    examples = toy_taught()
    limit = MAX_LENGTH - 2
    both = zip(examples.masked.texts.lengths().tolist(), examples.teaching.read.lengths().tolist())
    assert examples.lengths_at(ALL).tolist() == [min(max(own, its), limit) + 2 for own, its in both]
    assert examples.tokens(ALL) == examples.masked.tokens(ALL)
    assert len(examples) == SEQUENCES


def test_links_are_counted_and_there_is_at_least_one() -> None:
    part = collated([0, 1])
    assert link_count(part) == sum(start >= 0 for row in part[START].tolist() for start in row)
    assert link_count(without_links(part)) == 1
    assert link_count(toy_batches(1)[0]["parts"][0]) is None
    plain = read_by_student(part)
    assert without_links(plain) is plain


# The loss


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_means_of_spans_are_those_of_a_loop(rows: int, taught: int, read: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    states = torch.from_numpy(random.normal(size=(rows, read, 3)).astype(np.float32))
    start = random.integers(-1, read, size=(rows, taught))
    end = np.where(start < 0, -1, np.minimum(start + random.integers(1, 4, size=start.shape), read))
    expected = [
        states[row, start[row, place] : end[row, place]].mean(0)
        for row in range(rows)
        for place in range(taught)
        if start[row, place] >= 0
    ]
    found = span_means(states, torch.from_numpy(start), torch.from_numpy(end))
    torch.testing.assert_close(found, torch.stack(expected) if expected else torch.zeros(0, 3), rtol=1e-5, atol=1e-5)


def by_hand(states: Any, part: dict[str, Tensor], weight: float, teacher: Any) -> float:
    """The loss of a part, one position after the other; the teacher reads each sentence alone, without padding."""
    distances = []
    for row in range(len(part[READ])):
        ids = part[READ][row][part[MASK][row] == 1]
        with torch.no_grad():
            its = teacher.model(input_ids=ids[None], output_hidden_states=True).hidden_states
        for place, (start, end) in enumerate(zip(part[START][row].tolist(), part[END][row].tolist())):
            if start >= 0:
                cosines = [
                    functional.cosine_similarity(states[own][row, place], its[layer][0, start:end].mean(0), dim=0)
                    for own, layer in teacher.layers
                ]
                distances.append(1 - sum(cosines) / len(cosines))
    return weight * float(sum(distances)) / len(distances)


def test_the_loss_is_that_of_a_loop_over_positions() -> None:
    model, teacher, part = toy_model().eval(), toy_teacher(0.7), collated()
    with torch.no_grad():
        output = model(**read_by_student(part), output_hidden_states=True)
    expected = by_hand(output.hidden_states, part, 0.7, teacher)
    assert 0.3 < expected < 1.4
    assert taught_loss(output.hidden_states, part, teacher).item() == pytest.approx(expected, rel=1e-4)
    links = int((part[START] >= 0).sum())
    halved = taught_loss(output.hidden_states, part, teacher, 2 * links)
    assert halved.item() == pytest.approx(expected / 2, rel=1e-4)
    whole = batch_loss(model, {"parts": [part], "weights": [1.0]}, teacher)
    assert whole.item() == pytest.approx(output.loss.item() + expected, rel=1e-4)


def test_states_that_point_where_the_teacher_s_do_cost_nothing() -> None:
    """However long they are; and those that point the other way cost twice the weight."""
    teacher, part = toy_teacher(0.5), collated([0, 1, 2], linked=1.0, longest=5)
    its = teacher.model(input_ids=part[READ], attention_mask=part[MASK], output_hidden_states=True).hidden_states
    linked = part[START] >= 0
    for scale, expected in ((3.0, 0.0), (-2.0, 1.0)):
        states = [torch.zeros(*part[START].shape, 16) for _ in its]
        for own, layer in teacher.layers:
            states[own][linked] = scale * span_means(its[layer], part[START], part[END])
        assert taught_loss(states, part, teacher).item() == pytest.approx(expected, abs=1e-5)


def test_where_nothing_is_linked_nothing_is_taught() -> None:
    model, teacher, part = toy_model(), toy_teacher(), without_links(collated([0, 1]))
    output = model(**read_by_student(part), output_hidden_states=True)
    loss = taught_loss(output.hidden_states, part, teacher)
    assert loss.item() == 0.0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_part_with_links_needs_a_teacher() -> None:
    with pytest.raises(ValueError, match=r"^expected a teacher: a part of the batch has links to its tokens$"):
        batch_loss(toy_model(), toy_taught_batches(1)[0])


# Pieces of a batch


def gradients(pieces: list[Any]) -> tuple[float, list[Tensor]]:
    """The losses and gradients of pieces of a batch, added up."""
    model, teacher = toy_model(), toy_teacher()
    total = 0.0
    for piece in pieces:
        loss = Objective(model, teacher)(piece)
        loss.backward()
        total += loss.item()
    assert all(weight.grad is None for weight in teacher.model.parameters())
    return total, [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


@pytest.mark.parametrize("pieces", [2, 3, 7, 50])
@pytest.mark.parametrize("way", ["micro-batches", "processes", "both"])
def test_pieces_add_up_to_the_batch(pieces: int, way: str) -> None:
    """Also where there are more pieces than sentences: those left over have neither labels nor links."""
    batch = toy_taught_batches(1)[0]
    loss, whole = gradients([batch])
    if way == "micro-batches":
        cut = list(micro_batches(batch, pieces))
    else:
        cut = [share_of_process(batch, number, pieces) for number in range(pieces)]
    if way == "both":
        cut = [piece for its_share in cut for piece in micro_batches(its_share, 2)]
    summed, parts = gradients(cut)
    assert summed == pytest.approx(loss, rel=1e-4)
    for one, other in zip(whole, parts):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("of", [2, 3, 50])
def test_every_link_is_in_one_share(of: int) -> None:
    batch = toy_taught_batches(1)[0]
    shares = [share(batch, number, of)["parts"][0] for number in range(of)]
    assert batch["linked"] == [int((batch["parts"][0][START] >= 0).sum()), None]
    assert sum(int((part[START] >= 0).sum()) for part in shares) == batch["linked"][0]
    assert all((part[START] >= 0).sum() == (part[END] >= 0).sum() for part in shares)


def test_a_batch_is_the_same_whenever_it_is_made() -> None:
    first, again = toy_taught_batches(3), toy_taught_batches(3)
    again[0], again[2]
    for one, other in zip(first[1]["parts"], again[1]["parts"]):
        assert {name: value.tolist() for name, value in one.items()} == {k: v.tolist() for k, v in other.items()}


def test_a_teacher_is_no_part_of_what_is_trained() -> None:
    model, teacher = toy_model(), toy_teacher()
    objective = Objective(model, teacher)
    alone = Objective(model)
    assert list(objective.state_dict()) == list(alone.state_dict())
    assert [id(one) for one in objective.parameters()] == [id(one) for one in alone.parameters()]
    objective.train()
    assert not teacher.model.training


def test_other_layers_may_be_taught() -> None:
    model, teacher, part = toy_model().eval(), replace(toy_teacher(), layers=((0, 0), (1, 1), (3, 2))), collated([3, 4])
    with torch.no_grad():
        states = model(**read_by_student(part), output_hidden_states=True).hidden_states
    expected = by_hand(states, part, teacher.weight, teacher)
    assert taught_loss(states, part, teacher).item() == pytest.approx(expected, rel=1e-4)
    assert part["input_ids"].max() < VOCABULARY.size
