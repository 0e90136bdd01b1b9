"""From the user's files to clean, deduplicated training and held-out text, every dropped line counted.

`prepare` writes six files, each atomically. `source.txt`, `target.txt`: training text, a line each, the sides of the
training pairs included. `parallel.tsv`: training pairs. `source-held-out.txt`, `target-held-out.txt`,
`parallel-held-out.tsv`: lowest content hash first.

Deduplication is exact, by `fingerprint`: within a language, and for pairs by both sides. Evaluation sentences go from
all six files. A pair is dropped when one side is more than `max_pair_ratio` times as wide as the other, wide East Asian
characters counting twice. Of each input file or data set, the first `max_lines` lines are taken; those beyond are
counted, except in Hub data sets, which are left there and marked as not complete. What is named twice is read once.
Of what would train, `max_target_lines` and `max_pairs` leave a sample: see `trelm.corpus.limiting`.

The held-out rule. A sentence is held out if its fingerprint, hashed once more, is below its language's fraction: this
depends on the content alone, not on file or order. A pair is held out if either side is, and then the other side is
held out too. Whatever is held out is in no training file of its language; a pair that shares a side with a held-out
pair is neither trained on nor held out. The fraction is `held_out_fraction`, or more for a small corpus: as much as
makes `min(held_out_lines, 200)` lines expected, but at most 5 % a language, so that of the pairs (which go when either
side does) and of their text about 10 % at most is held out, unless `held_out_fraction` itself asks for more. Of what is
held out, the `held_out_lines` lowest hashes a file are written; of those of the target text, `development_lines`, an
even sample, go to `target-development.txt` instead: models may be chosen on them.

The counts that `prepare` returns. `inputs`: for each file or data set `read` (lines, blank ones of text aside), `kept`
(for training), `dropped` by reason, `complete`. `outputs`: for each file written `lines` and `characters` (line breaks
and tabs aside). `held_out_fraction`: the effective one, for `source` and `target`. `evaluation_sentences`: distinct.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trelm.corpus import hub
from trelm.corpus.cleaners import Cleaners, Limits
from trelm.corpus.cleaning import fingerprint, normalise
from trelm.corpus.files import expand
from trelm.corpus.limiting import LIMIT_REASONS, limit_training
from trelm.corpus.parallel import read_pairs
from trelm.corpus.splitting import REASONS, TRAINING, FingerprintFile, Fingerprints, Part, Split, split_corpus
from trelm.corpus.text import read_text
from trelm.errors import DataError, data_error
from trelm.workspace import atomic_path, write_text, writing

TEXT_REASONS = (
    "empty",
    "too_short",
    "too_long",
    "duplicate",
    "evaluation",
    "held_out",
    "beyond_max_lines",
    *LIMIT_REASONS,
)
PAIR_REASONS = (*TEXT_REASONS, "ratio", "same_on_both_sides")

_REPORT_EVERY = 10_000  # lines between two calls of on_progress

Item = TypeVar("Item", str, tuple[str, str])


@dataclass
class Input:
    """One input file or data set: what became of its lines.

    Attributes:
        read: lines that were read, blank ones of text aside.
        dropped: how many of them were dropped, by reason.
        spooled: the lines of the spool that came from here.
        complete: False where a Hub data set was left at `max_lines`, so that nobody knows what else it holds.
    """

    name: str
    dropped: Counter[str]
    read: int = 0
    complete: bool = True
    spooled: slice = field(default_factory=lambda: slice(0, 0))

    def report(self) -> dict[str, Any]:
        """Plain values, every reason named; `kept` lines are those that are trained on."""
        kept = self.read - self.dropped.total()
        return {"read": self.read, "kept": kept, "dropped": dict(self.dropped), "complete": self.complete}


@dataclass
class Spool:
    """Clean lines (or pairs) of all inputs, in a file, and their fingerprints, in a file beside it.

    Attributes:
        fingerprints: one a line of text, two a pair: source, target, source, ...
    """

    path: Path
    inputs: list[Input]
    fingerprints: FingerprintFile

    def lines(self) -> Iterator[str]:
        """The lines, each with its line break."""
        with self.path.open(encoding="utf-8", newline="\n") as stream:
            yield from stream

    def sides(self, column: int) -> Iterator[str]:
        """One side of each pair, with a line break."""
        return (line.rstrip("\n").split("\t")[column] + "\n" for line in self.lines())

    def columns(self) -> tuple[Fingerprints, Fingerprints]:
        """[p] and [p] fingerprints of the sides of pairs, in memory."""
        both = np.fromfile(self.fingerprints.path, dtype=np.uint64)
        return both[::2].copy(), both[1::2].copy()

    def count(self, part: Part) -> None:
        """Add to each input what it lost."""
        for entry in self.inputs:
            tally = part.tally(entry.spooled.start, entry.spooled.stop)
            for reason, fate in (REASONS | LIMIT_REASONS).items():
                entry.dropped[reason] += tally[fate]


def prepare(
    folder: Path,
    *,
    source_text: Sequence[str],
    target_text: Sequence[str],
    parallel: Sequence[str | tuple[str, str]],
    languages: tuple[str, str],
    evaluation_text: Iterable[str],
    min_characters: int,
    max_characters: int,
    max_pair_ratio: float,
    held_out_fraction: float,
    held_out_lines: int,
    max_lines: int | None,
    max_target_lines: int | None = None,
    max_pairs: int | None = None,
    development_lines: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Clean, deduplicate and split all text into six files of `folder`, by the rules at the top of this module.

    Args:
        source_text, target_text, parallel: as `read_text` and `read_pairs` take them.
        evaluation_text: sentences of evaluation sets, of either language.
        min_characters, max_characters: of a line, or of each side of a pair.
        max_target_lines, max_pairs: how much trains, see `trelm.corpus.limiting`; None for all.
        development_lines: held-out lines of target text that go to a file of their own.

    Raises:
        DataError: an input cannot be read, nothing is left for the source text, the target text or the pairs, or more
            than half of the held-out target text would be development lines.
    """
    limits = Limits(min_characters, max_characters, max_pair_ratio)
    evaluation = _unique_fingerprints(evaluation_text)
    progress = _Progress(on_progress)
    with _spool_folder(folder) as spools:
        with Cleaners(limits) as cleaners:
            source = _spool_text(spools / "source", source_text, cleaners, max_lines, progress, "source")
            target = _spool_text(spools / "target", target_text, cleaners, max_lines, progress, "target")
            pairs = _spool_pairs(spools / "pairs", parallel, languages, cleaners, max_lines, progress)
        progress.finish()
        split = split_corpus(
            *(source.fingerprints, target.fingerprints, pairs.columns()),
            evaluation=evaluation, fraction=held_out_fraction, limit=held_out_lines, folder=_made(spools / "buckets"),
        )  # fmt: skip
        limit_training(
            split, target.fingerprints, pairs.columns(), max_lines=max_target_lines, max_pairs=max_pairs
        )  # fmt: skip
        _count_and_require(source, target, pairs, split)
        _require_held_out(len(split.target.held_out), development_lines)
        outputs = _write_all(folder, source, target, pairs, split, development_lines)
    return {
        "inputs": {entry.name: entry.report() for spool in (source, target, pairs) for entry in spool.inputs},
        "outputs": outputs,
        "held_out_fraction": {"source": split.fractions[0], "target": split.fractions[1]},
        "evaluation_sentences": len(evaluation),
    }


class _Progress:
    """Counts lines, and tells of them now and then."""

    def __init__(self, tell: Callable[[int], None] | None) -> None:
        self._tell = tell
        self._lines = 0

    def tick(self) -> None:
        self._lines += 1
        if self._lines % _REPORT_EVERY == 0:
            self.finish()

    def finish(self) -> None:
        if self._tell is not None:
            self._tell(self._lines)


@contextmanager
def _spool_folder(folder: Path) -> Iterator[Path]:
    """A folder for what is only needed meanwhile; what an earlier attempt left there is cleared."""
    spools = folder / ".spool"
    with writing(folder):
        shutil.rmtree(spools, ignore_errors=True)
        spools.mkdir(parents=True)
        try:
            yield spools
        finally:
            shutil.rmtree(spools, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _unique_fingerprints(texts: Iterable[str]) -> Fingerprints:
    prints = (fingerprint(text) for text in map(normalise, texts) if text)
    return np.unique(np.fromiter(prints, dtype=np.uint64))


def _spool_text(
    path: Path, sources: Sequence[str], cleaners: Cleaners, limit: int | None, progress: _Progress, role: str
) -> Spool:
    """Clean the lines of one language's inputs."""

    def named() -> Iterator[tuple[Input, Iterator[str]]]:
        for source in _each_input(sources):
            entry = Input(f"{role}: {source}", Counter(dict.fromkeys(TEXT_REASONS, 0)))
            yield entry, _from_start(read_text(source), entry, limit, progress)

    return _spool(path, named(), cleaners, 1)


def _spool_pairs(
    path: Path,
    sources: Sequence[str | tuple[str, str]],
    languages: tuple[str, str],
    cleaners: Cleaners,
    limit: int | None,
    progress: _Progress,
) -> Spool:
    """Clean the pairs of all parallel inputs."""

    def named() -> Iterator[tuple[Input, Iterator[tuple[str, str]]]]:
        for source in _each_input(sources):
            name = source if isinstance(source, str) else " + ".join(source)
            entry = Input(f"parallel: {name}", Counter(dict.fromkeys(PAIR_REASONS, 0)))
            yield entry, _from_start(read_pairs(source, languages), entry, limit, progress)

    return _spool(path, named(), cleaners, 2)


def _spool(path: Path, inputs: Iterable[tuple[Input, Iterator[Item]]], cleaners: Cleaners, columns: int) -> Spool:
    """Clean what the inputs hold; `columns` of fingerprints a line."""
    found: list[Input] = []
    beside = path.with_name(f"{path.name}.fingerprints")
    lines = 0
    with path.open("wb") as stream, beside.open("wb") as prints:
        for entry, items in inputs:
            begin = lines
            for clean in cleaners.clean(items):
                stream.write(clean.text)
                prints.write(clean.fingerprints.tobytes())
                entry.dropped.update(clean.dropped)
                lines += len(clean.fingerprints) // columns
            entry.spooled = slice(begin, lines)
            found.append(entry)
    return Spool(path, found, FingerprintFile(beside, lines * columns))


def _each_input(sources: Sequence[Any]) -> list[Any]:
    """Globs as their files; data sets and pairs of files as they are; what is named twice, once."""
    inputs: dict[Any, None] = {}
    for source in sources:
        one = not isinstance(source, str) or hub.is_hub_name(source)
        inputs.update(dict.fromkeys([source] if one else map(str, expand(source))))
    return list(inputs)


def _from_start(items: Iterable[Item], entry: Input, limit: int | None, progress: _Progress) -> Iterator[Item]:
    """The first `limit` items; the others are counted, except in Hub data sets, which may be endless."""
    for item in items:
        entry.read += 1
        progress.tick()
        if limit is None or entry.read <= limit:
            yield item
            continue
        entry.dropped["beyond_max_lines"] += 1
        if hub.PREFIX in entry.name:
            entry.complete = False
            return


def _count_and_require(source: Spool, target: Spool, pairs: Spool, split: Split) -> None:
    """Count what the split drops, then refuse to go on where one of the three has nothing to train on."""
    parts = {"source text": (source, split.source), "target text": (target, split.target)}
    parts["parallel text"] = (pairs, split.pairs)
    for spool, part in parts.values():
        spool.count(part)
    for what, (spool, part) in parts.items():
        _require(what, spool, part)


def _require(what: str, spool: Spool, part: Part) -> None:
    """Refuse to go on without training text."""
    if part.tally(0, len(part.fates))[TRAINING]:
        return
    read = sum(entry.read for entry in spool.inputs)
    dropped = sum((entry.dropped for entry in spool.inputs), Counter[str]())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common())
    found = f"none: all of the {read:,} lines read were dropped ({reasons})" if read else "none: no line was read"
    hint = "give more text, or relax the limits under `corpus`"
    raise data_error(what, None, expected="lines to train on", found=found, hint=hint)


def _require_held_out(found: int, development_lines: int) -> None:
    """Refuse to score models on less held-out text than they are chosen on."""
    if 2 * development_lines > found:
        raise DataError(
            f"corpus.development_lines: expected at most {found // 2:,}, half of the {found:,} held-out lines of "
            f"target text, found {development_lines:,}; lower it, or raise corpus.held_out_fraction"
        )


def _write_all(
    folder: Path, source: Spool, target: Spool, pairs: Spool, split: Split, development: int
) -> dict[str, dict[str, int]]:
    """Write the six files, and the seventh where there are development lines."""
    return {
        **_write(folder / "source.txt", chain(source.lines(), pairs.sides(0)), split.source),
        **_write(folder / "target.txt", chain(target.lines(), pairs.sides(1)), split.target, development),
        **_write(folder / "parallel.tsv", pairs.lines(), split.pairs),
    }


def _write(path: Path, lines: Iterator[str], part: Part, development: int = 0) -> dict[str, dict[str, int]]:
    """Write the training lines to `path` and the held-out ones beside it; lines and characters of each file.

    Args:
        development: so many of the held-out lines, an even sample, go to a third file.
    """
    slots = {int(position): slot for slot, position in enumerate(part.held_out)}
    held_out = [""] * len(slots)
    totals = [0, 0]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        fates = chain.from_iterable(chunk.tobytes() for chunk in part.chunks())
        for position, (line, fate) in enumerate(zip(lines, fates)):
            if fate == TRAINING:
                stream.write(line)
                totals = [totals[0] + 1, totals[1] + _characters(line)]
            elif position in slots:
                held_out[slots[position]] = line
    chosen = set(np.linspace(0, len(held_out) - 1, development).round().astype(int).tolist())
    files = {"held-out": [line for number, line in enumerate(held_out) if number not in chosen]}
    files |= {"development": [held_out[number] for number in sorted(chosen)]} if development else {}
    outputs = {path.name: {"lines": totals[0], "characters": totals[1]}}
    for kind, some in files.items():
        beside = path.with_name(f"{path.stem}-{kind}{path.suffix}")
        write_text(beside, "".join(some))
        outputs[beside.name] = {"lines": len(some), "characters": sum(map(_characters, some))}
    return outputs


def _characters(line: str) -> int:
    """Characters of a line, its line break and the tab of a pair aside."""
    return len(line) - 1 - line.count("\t")
