"""What the time of a step is proportional to, against what the steps do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trelm.config import Config, make_config
from trelm.corpus.balance import balanced_lines
from trelm.corpus.ragged import Ragged
from trelm.embeddings import skip_gram
from trelm.steps.rates import Amounts, Line, Part, vector_tokens


def config(**sections: dict[str, object]) -> Config:
    values = {
        "source": {"model": "minilm", "language": "en", "text": ["none.txt"]},
        "target": {"language": "xx", "text": ["none.txt"]},
        "parallel": ["none.tsv"],
        "budget": {"updates": 1},
    }
    return make_config({**values, **sections})


def amounts(cells: float = 100.0) -> Amounts:
    return Amounts(1000, Part(10, 500, 100), Part(4, 200, 50), Part(5, 150, 30), Part(5, 160, 40), cells)


def test_a_line_through_two_measurements() -> None:
    line = Line.through((10, 3.0), (100, 12.0))
    assert (line.fixed, line.slope) == pytest.approx((2.0, 0.1))
    assert line.at(1000) == pytest.approx(102)


def test_without_a_second_measurement_all_time_is_the_works() -> None:
    assert Line.through(None, (100, 5.0)) == Line(0.0, 0.05)
    assert Line.through((100, 4.0), (100, 5.0)) == Line(0.0, 0.05)


def test_disturbed_measurements_give_no_absurd_line() -> None:
    flat = Line.through((10, 6.0), (100, 5.0))  # the smaller sample took longer
    assert (flat.fixed, flat.slope) == pytest.approx((2.5, 0.025))
    steep = Line.through((50, 0.1), (100, 5.0))  # a fixed part below nothing
    assert (steep.fixed, steep.slope) == pytest.approx((0.0, 0.05))


def test_twice_the_text_is_twice_the_work() -> None:
    setting = config(embeddings={"max_tokens": None})
    once, twice = amounts(), amounts().scaled(source=2, target=2, pairs=2, read=2000)
    work = twice.work(setting)
    assert work == {name: pytest.approx(2 * value) for name, value in once.work(setting).items()}
    assert work.keys() == {"corpus", "vocabulary", "tokens", "word-links", "embeddings"}


def test_more_pairs_are_more_text_of_both_languages() -> None:
    source, target = amounts().scaled(source=1, target=1, pairs=3, read=0).sides()
    assert (source, target) == (Part(25, 950, 190), Part(19, 680, 170))


def test_word_links_take_a_pass_for_each_iteration_and_one_to_link() -> None:
    assert amounts().work(config(word_links={"iterations": 5}))["word-links"] == 600
    assert amounts().work(config(word_links={"iterations": 5, "max_pairs": 1}))["word-links"] == 200


@pytest.mark.parametrize("most", [None, 150, 400, 5000])
@pytest.mark.parametrize("lines", [(100, 30), (100, 100), (300, 3)])
def test_skip_gram_reads_as_many_tokens_as_are_counted(most: int | None, lines: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    corpora = [Ragged.of([random.integers(0, 20, random.integers(2, 9)) for _ in range(n)]) for n in lines]
    sides = [Part(len(corpus), 0, len(corpus.values)) for corpus in corpora]
    settings = {"width": 4, "window": 2, "negatives": 1, "epochs": 1, "max_tokens": most, "seed": 1}
    found = skip_gram(corpora, vocabulary_size=20, **settings).tokens
    assert vector_tokens((sides[0], sides[1]), most) == pytest.approx(found, abs=9)


@pytest.mark.parametrize("most", [10, 100, 10_000])
@pytest.mark.parametrize("counts", [(200, 50), (50, 200), (500, 5)])
def test_the_vocabulary_reads_as_many_characters_as_are_counted(
    tmp_path: Path, most: int, counts: tuple[int, int]
) -> None:
    most = max(most, 100)
    texts = [[f"line number {n} of {count}" for n in range(count)] for count in counts]
    paths = [tmp_path / name for name in ("source.txt", "target.txt")]
    for path, text in zip(paths, texts):
        path.write_text("\n".join(text) + "\n")
    read = sum(len(line.rstrip("\n")) for line in balanced_lines(paths[0], paths[1], most, 1))
    sides = [Part(len(text), sum(map(len, text)), 0) for text in texts]
    nothing = Part(0, 0, 0)
    own = Amounts(0, sides[0], sides[1], nothing, nothing, 0)
    assert own.work(config(vocabulary={"max_lines": most}))["vocabulary"] == pytest.approx(read, rel=0.05)
