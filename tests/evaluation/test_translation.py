from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trelm.errors import DataError
from trelm.evaluation.translation import precision_at, read_dictionary

SOURCE = {"dog": 0, "cat": 1, "house": 2, "radio": 3, "sun": 4}
JOINT = {"dog": 0, "cat": 1, "radio": 2, "anjing": 3, "kucing": 4, "rumah": 5, "matahari": 6, "surya": 7}
TARGET = torch.tensor([word in ("radio", "anjing", "kucing", "rumah", "matahari", "surya") for word in JOINT])


def rows(vocabulary: dict[str, int], concepts: dict[str, int]) -> Tensor:
    """One direction a concept, with a little noise so that nothing ties."""
    noise = torch.Generator().manual_seed(len(vocabulary))
    table = torch.randn(len(vocabulary), 6, generator=noise) * 0.01
    for word, concept in concepts.items():
        table[vocabulary[word], concept] += 1
    return table


SOURCE_ROWS = rows(SOURCE, {"dog": 0, "cat": 1, "house": 2, "radio": 3, "sun": 4})
# `kucing` is where `house` ought to be and `rumah` where `cat` ought to be.
JOINT_ROWS = rows(
    JOINT, {"dog": 0, "cat": 1, "radio": 3, "anjing": 0, "kucing": 2, "rumah": 1, "matahari": 5, "surya": 4}
)
DICTIONARY = {
    "dog": {"anjing"},
    "cat": {"kucing"},
    "house": {"rumah"},
    "radio": {"radio"},
    "sun": {"matahari", "surya"},
    "moon": {"bulan"},
    "aeroplane": {"matahari"},
}


def ask(**changes: object) -> dict[str, float | int | None]:
    settings: dict[str, object] = {
        "dictionary": DICTIONARY,
        "target_id_of": JOINT.get,
        "source_id_of": SOURCE.get,
        "candidates": TARGET,
        "csls_k": 2,
        **changes,
    }
    return precision_at(JOINT_ROWS, SOURCE_ROWS, **settings)  # type: ignore[arg-type]


def csls_by_definition(queries: Tensor, targets: Tensor, k: int) -> Tensor:
    """2 cos - r - r with dense tables."""
    cosines = (queries / queries.norm(dim=1, keepdim=True)) @ (targets / targets.norm(dim=1, keepdim=True)).T
    scores = 2 * cosines - cosines.topk(k, dim=1).values.mean(dim=1)[:, None]
    return scores - cosines.topk(k, dim=0).values.mean(dim=0)


def brute_force(rank: int, csls_k: int) -> float:
    """One word at a time."""
    words = [word for word, index in JOINT.items() if TARGET[index]]
    scores = csls_by_definition(SOURCE_ROWS, JOINT_ROWS[TARGET], csls_k)
    asked = ["dog", "cat", "house", "radio", "sun"]
    right = 0
    for word in asked:
        best = scores[SOURCE[word]].argsort(descending=True)[:rank].tolist()
        right += bool({words[index] for index in best} & DICTIONARY[word])
    return right / len(asked)


def test_precision_by_hand() -> None:
    scores = ask(k=(1, 5))
    assert scores["precision_at_1"] == pytest.approx(3 / 5)  # dog, radio, sun
    assert scores["queries"] == 5
    assert scores["dictionary_words"] == 7
    assert scores["coverage"] == pytest.approx(5 / 7)
    assert scores["candidates"] == 6


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("csls_k", [1, 2, 4])
def test_precision_equals_brute_force(rank: int, csls_k: int) -> None:
    assert ask(k=(rank,), csls_k=csls_k)[f"precision_at_{rank}"] == pytest.approx(brute_force(rank, csls_k))


def test_the_other_words_of_the_dictionary_do_not_matter() -> None:
    """Hubness is over the whole source table, also where one word is asked."""
    generator = torch.Generator().manual_seed(0)
    source, joint = torch.randn(40, 4, generator=generator), torch.randn(40, 4, generator=generator)
    candidates = torch.ones(40, dtype=torch.bool)
    order = csls_by_definition(source, joint, 3).argsort(dim=1, descending=True).tolist()
    for word in range(40):
        rank = order[word].index(word) + 1
        dictionary = {str(word): {str(word)}}
        scores = precision_at(joint, source, dictionary, int, int, candidates=candidates, k=(rank - 1, rank), csls_k=3)
        assert (scores[f"precision_at_{rank - 1}"], scores[f"precision_at_{rank}"]) == (0, 1)


def test_capitals_do_not_make_a_word_distinct() -> None:
    """`Radio` in the dictionary, `radio` in an uncased vocabulary."""
    scores = ask(dictionary={"Radio": {"radio"}}, source_id_of=lambda word: SOURCE.get(word.lower()))
    assert (scores["queries"], scores["distinct_queries"]) == (1, 0)


def test_words_spelled_alike_are_also_left_out() -> None:
    scores = ask(k=(1,))
    assert scores["distinct_queries"] == 4
    assert scores["distinct_precision_at_1"] == pytest.approx(2 / 4)


def test_only_candidates_are_found_and_accepted() -> None:
    """Among all entries `dog` itself is as near as `anjing`; an answer that is no candidate cannot be asked."""
    without = TARGET.clone()
    without[JOINT["anjing"]] = False
    assert ask(candidates=without)["queries"] == 4
    assert ask(candidates=torch.ones(len(JOINT), dtype=torch.bool))["candidates"] == 8


def test_chance_is_that_of_drawing_at_random() -> None:
    one = ask(dictionary={"dog": {"anjing"}}, k=(1, 5, 9))
    assert one["chance_at_1"] == pytest.approx(1 / 6)
    assert one["chance_at_5"] == pytest.approx(5 / 6)
    assert one["chance_at_9"] == pytest.approx(1)
    two = ask(dictionary={"sun": {"matahari", "surya"}}, k=(2,))
    assert two["chance_at_2"] == pytest.approx(1 - 4 / 6 * 3 / 5)


def test_nothing_to_ask_is_not_a_precision_of_zero() -> None:
    scores = ask(dictionary={"moon": {"bulan"}})
    assert (scores["queries"], scores["coverage"], scores["precision_at_1"], scores["chance_at_5"]) == (
        0,
        0,
        None,
        None,
    )


def test_an_empty_dictionary_is_refused() -> None:
    with pytest.raises(DataError, match=r"dictionary: expected a translation, found none; give a file of"):
        ask(dictionary={})


def test_dictionaries_are_joined(tmp_path: Path) -> None:
    first, second = tmp_path / "one.tsv", tmp_path / "two.tsv"
    first.write_text("dog\tanjing\nsun\tmatahari\n\nice cream\tes krim\n")
    second.write_text("sun\tsurya\nsun\tmatahari\n")
    expected = {"dog": {"anjing"}, "sun": {"matahari", "surya"}, "ice cream": {"es krim"}}
    assert read_dictionary([first, second]) == expected


@pytest.mark.parametrize(
    ("line", "found"), [("dog", "1 columns"), ("a\tb\tc", "3 columns"), ("\tanjing", "an empty column")]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(f"sun\tsurya\n{line}\n")
    words = f"{path}, line 2: expected a source word, a tab and a target word, found {found}; write one translation"
    with pytest.raises(DataError, match=re.escape(words)):
        read_dictionary([path])
