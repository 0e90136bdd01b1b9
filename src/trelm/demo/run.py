"""The demonstration's configuration, and how many of the aligner's links are the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trelm.config import Config, make_config, override_values
from trelm.corpus.cleaning import normalise
from trelm.corpus.ragged import Ragged
from trelm.demo.language import demo_values, write_demo_data
from trelm.errors import RunFolderError
from trelm.word_links.links import alignment_error_rate
from trelm.workspace import atomic_path, write_json

DATA = "data"
COUNTS = "counts.json"
RUN = "run"
Links = frozenset[tuple[int, int]]


def prepare(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Write the data into `folder/data`, once, and return the configuration of the run in `folder/run`.

    Raises:
        RunFolderError: `folder/data` holds something else.
        ConfigError: an override is wrong.
    """
    data = folder / DATA
    if not (data / COUNTS).exists():
        if data.exists() and (not data.is_dir() or any(data.iterdir())):
            raise RunFolderError(
                f"{data}: expected data of the demonstration, found other files; choose another --run folder"
            )
        with atomic_path(data) as temporary:  # whole or not at all: what is there is never half of it
            write_json(temporary / COUNTS, write_demo_data(temporary))
    return make_config(override_values(demo_values(data), overrides), origin="trelm demo")


def link_scores(folder: Path) -> dict[str, Any]:
    """The word links of the demonstration's run against the truth.

    Pieces are joined to words: two words are linked where any of their pieces are.

    Returns:
        For each direction `precision`, `recall` and `alignment_error_rate`; `pairs` compared and `pairs_skipped`,
        whose pieces are not those of the words in the file of the truth.
    """
    run = folder / RUN
    tokenizer = AutoTokenizer.from_pretrained(str(run / "vocabulary"))
    truth = _truth(folder / DATA)
    lines = (run / "corpus" / "parallel.tsv").read_text(encoding="utf-8").splitlines()
    ids = [Ragged.load(run / "tokens", f"parallel-{side}") for side in ("source", "target")]
    forward = Ragged.load(run / "word-links", "source-of-target")
    reverse = Ragged.load(run / "word-links", "target-of-source")
    found: dict[str, set[tuple[int, int, int]]] = {"forward": set(), "reverse": set()}
    true: set[tuple[int, int, int]] = set()
    skipped = 0
    for number, line in enumerate(lines):
        words = truth[line]
        source = _words_of_pieces(tokenizer, words[0], ids[0][number])
        target = _words_of_pieces(tokenizer, words[1], ids[1][number])
        if source is None or target is None:
            skipped += 1
            continue
        true |= {(number, i, j) for i, j in words[2]}
        found["forward"] |= {(number, source[i], target[j]) for j, i in enumerate(forward[number]) if i >= 0}
        found["reverse"] |= {(number, source[i], target[j]) for i, j in enumerate(reverse[number]) if j >= 0}
    scores = {name: _scores(links, true) for name, links in found.items()}
    return {**scores, "pairs": len(lines) - skipped, "pairs_skipped": skipped}


def _scores(links: set[Any], true: set[Any]) -> dict[str, float]:
    right = len(links & true)
    return {
        "precision": right / max(len(links), 1),
        "recall": right / max(len(true), 1),
        "alignment_error_rate": alignment_error_rate(links, true, true),
    }


def _truth(data: Path) -> dict[str, tuple[list[str], list[str], Links]]:
    """For each pair as the corpus step writes it: its words on both sides and the links between them."""
    pairs = (data / "parallel.tsv").read_text(encoding="utf-8").splitlines()
    known = (data / "parallel-links.tsv").read_text(encoding="utf-8").splitlines()
    truth = {}
    for pair, line in zip(pairs, known, strict=True):
        source, target, links = line.split("\t")
        joined = frozenset((int(i), int(j)) for i, j in (link.split("-") for link in links.split()))
        truth["\t".join(normalise(side) for side in pair.split("\t"))] = (source.split(), target.split(), joined)
    return truth


def _words_of_pieces(tokenizer: PreTrainedTokenizerBase, words: list[str], pieces: Any) -> list[int] | None:
    """The word of each piece, or None where the words do not give these pieces."""
    encoded = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
    if list(encoded["input_ids"]) != [int(piece) for piece in pieces]:
        return None
    return [int(word) for word in encoded.word_ids()]
