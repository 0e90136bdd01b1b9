"""Our WECHSEL and FOCUS beside the published packages, on the same inputs.

    python benchmarks/initialisation/agreement.py --work FOLDER --out benchmarks/initialisation/agreement.json

Each package gets an environment of its own in FOLDER (pip; fastText is compiled, which takes a C++ compiler and about a
minute) and trains its own fastText vectors. Ours are given the same vectors, the real table of MiniLM and the same
joint vocabulary, so that what differs is the method and not the training. The text is that of TRELM_DATA, by default
../shared/data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from gensim.models.fasttext import load_facebook_model
from numpy.typing import NDArray

from trelm.initialisation.focus import focus, overlap
from trelm.initialisation.mixture import Mixture
from trelm.initialisation.static_vectors import StaticVectors, Words
from trelm.initialisation.surface import surfaces
from trelm.initialisation.wechsel import dictionary_vectors, entry_vectors, wechsel
from trelm.model.source import load_source
from trelm.vocabulary import ALPHABET_LIMIT, save_tokenizer, special_rows, train_vocabulary
from trelm.workspace import digest, read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"wechsel": ["wechsel==0.0.4"], "focus": ["deepfocus==1.0.1"]}
BESIDE = ["torch==2.13.0", "transformers==5.23.0", "numpy==2.4.6"]
SETTINGS = {
    # The packages' own defaults, but for n-grams from 3 characters on (5 leaves short entries without a vector), fewer
    # buckets and epochs, which change the vectors and not the method.
    "wechsel": {"dim": 100, "neg": 10, "minn": 3, "maxn": 6, "epoch": 5, "minCount": 2, "bucket": 200_000},
    "focus": {"epochs": 3, "dim": 100, "min_count": 10},
}
EQUAL = 1e-5  # of every number of a row
CLASSES = ("special", "overlap, word-initial", "overlap, continuation", "new, word-initial", "new, continuation")

Table = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for environments and inputs; kept")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--size", type=int, default=20_000, help="entries of the joint vocabulary")
    parser.add_argument("--lines", type=int, default=60_000, help="lines of each language")
    parser.add_argument("--torch-index", help="another index for torch alone, such as PyTorch's own of CPU builds")
    arguments = parser.parse_args()
    inputs = arguments.work / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    problem = Problem(inputs, arguments.size, arguments.lines)
    seconds = {
        f"{name}, training included": run_package(
            environment(arguments.work / name, PACKAGES[name], arguments.torch_index), name, inputs, problem.digest
        )
        for name in PACKAGES
    }
    figures = {
        "settings": {**SETTINGS, "equal": EQUAL, "lines of each language": arguments.lines, "packages": PACKAGES},
        "vocabulary": {"size": len(problem.tokenizer), **problem.class_sizes()},
        "seconds": seconds,
        "wechsel": compare_wechsel(problem),
        "focus": compare_focus(problem),
    }
    print(json.dumps(figures, indent=2))
    if arguments.out:
        write_json(arguments.out, figures)


class Problem:
    """The inputs of all: the text of two languages, a dictionary, MiniLM's table, and a joint vocabulary."""

    def __init__(self, folder: Path, size: int, lines: int) -> None:
        self.folder = folder
        source = load_source("minilm")
        self.source_tokenizer = source.tokenizer
        self.table: Table = source.table.numpy()
        text = {side: list(islice(data_lines(f"{code}/mono/*.txt.xz"), lines)) for side, code in SIDES.items()}
        self.dictionary = [tuple(line.split("\t")) for line in data_lines("dict/en-id.wiktionary.tsv.xz")]
        self.tokenizer = train_vocabulary(
            self.source_tokenizer,
            chain(*text.values()),
            size=size,
            min_frequency=2,
            alphabet_limit=ALPHABET_LIMIT,
            lowercase=None,
        )
        self.surfaces = surfaces(self.tokenizer)
        self.source_surfaces = surfaces(self.source_tokenizer)
        self.specials = special_rows(self.tokenizer, self.source_tokenizer)
        self.shared = overlap(self.surfaces, self.source_surfaces)
        self._write(text)

    def _write(self, text: dict[str, list[str]]) -> None:
        np.save(self.folder / "table.npy", self.table, allow_pickle=False)
        self.source_tokenizer.save_pretrained(self.folder / "source-tokenizer")
        save_tokenizer(self.tokenizer, self.folder / "vocabulary")
        for side, lines in text.items():
            write_lines(self.folder / f"{side}.txt", lines)
            write_lines(self.folder / f"{side}.words.txt", (" ".join(words) for words in Words(lines)))
        write_lines(self.folder / "dictionary.tsv", ("\t".join(pair) for pair in self.dictionary))
        write_json(self.folder / "settings.json", SETTINGS)

    @property
    def digest(self) -> str:
        """Of all that the packages are given."""
        files = sorted(path for path in self.folder.glob("*.t*") if path.is_file())
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return digest([[hashlib.sha256(path.read_bytes()).hexdigest() for path in files], vocabulary, SETTINGS])

    def classes(self) -> NDArray[np.int64]:
        """The class of each entry, an index into `CLASSES`."""
        begins = np.array([surface.begins_word for surface in self.surfaces])
        found = np.where(begins, 3, 4)
        found[self.shared[:, 0]] -= 2
        found[self.specials[:, 0]] = 0
        return found

    def class_sizes(self) -> dict[str, int]:
        return dict(zip(CLASSES, np.bincount(self.classes(), minlength=len(CLASSES)).tolist(), strict=True))


SIDES = {"source": "en", "target": "id"}


def compare_wechsel(problem: Problem) -> dict[str, Any]:
    """Ours beside the package: with its look-up of entries, so that only the formula counts, and with our own."""
    package = np.load(problem.folder / "wechsel.npz", allow_pickle=False)
    source, target = (package_vectors(problem.folder / f"{side}.bin") for side in SIDES)
    target_words, source_words = reversed_pair(dictionary_vectors(problem.dictionary, source, target))
    looked_up = {
        "entries as the package looks them up": (package["target"], package["source"]),
        "entries by their surface text": by_surface(problem, with_all_ngrams(target), with_all_ngrams(source)),
        "the same, n-grams of no word left out (as it is)": by_surface(problem, target, source),
    }
    return {
        name: compare(
            problem,
            wechsel(*vectors, target_words, source_words, specials=problem.specials),
            package["rows"],
            package["drawn"],
        )
        for name, vectors in looked_up.items()
    }


def compare_focus(problem: Problem) -> dict[str, Any]:
    """Ours beside the package, on its vectors of subword tokens."""
    package = np.load(problem.folder / "focus.npz", allow_pickle=False)
    shared = {tuple(pair) for pair in problem.shared.tolist()}
    theirs = {tuple(pair) for pair in package["shared"].tolist()}
    by_role = {tuple(pair) for pair in problem.specials.tolist()}
    drawn = ~package["has_vector"]
    drawn[package["shared"][:, 0]] = False
    none = np.zeros((0, 2), dtype=np.int64)
    pairs = {
        "special tokens shared and mixed in, as in the package": (package["shared"], none),
        "special tokens copied by role alone (as it is)": (problem.shared, problem.specials),
    }
    vectors, has_vector = package["vectors"], package["has_vector"]
    mixtures = {
        name: focus(vectors, has_vector, mixed, specials=specials, source_size=len(problem.table))
        for name, (mixed, specials) in pairs.items()
    }
    return {
        "overlap": {
            "of both": len(shared & theirs),
            "special tokens, which ours copies by role": len(theirs & by_role),
            "others of the package alone": len(theirs - shared - by_role),
            "of ours alone": len(shared - theirs),
        },
        **{name: compare(problem, mixture, package["rows"], drawn) for name, mixture in mixtures.items()},
    }


def compare(problem: Problem, mixture: Mixture, theirs: Table, drawn: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures of each class of entries; rows that either side draws at random are counted, not compared."""
    ours = mixture.of(problem.table)
    classes = problem.classes()
    return {name: _figures(ours, theirs, mixture.covered, ~drawn, classes == c) for c, name in enumerate(CLASSES)}


def _figures(
    ours: Table, theirs: Table, covered: NDArray[np.bool_], theirs_covered: NDArray[np.bool_], among: NDArray[np.bool_]
) -> dict[str, Any]:
    both = among & covered & theirs_covered
    counts = {
        "rows": int(among.sum()),
        "drawn by both": int((among & ~covered & ~theirs_covered).sum()),
        "drawn by the package alone": int((among & covered & ~theirs_covered).sum()),
        "drawn by ours alone": int((among & ~covered & theirs_covered).sum()),
        "compared": int(both.sum()),
    }
    if not both.any():
        return counts
    a, b = ours[both].astype(np.float64), theirs[both].astype(np.float64)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    largest = np.abs(a - b).max(axis=1)
    return {
        **counts,
        "share equal": round(float((largest <= EQUAL).mean()), 5),
        "largest difference": float(f"{largest.max():.2g}"),
        "mean cosine": round(float(((a * b).sum(axis=1) / (lengths[0] * lengths[1])).mean()), 5),
        "mean norm ratio, ours to the package": round(float((lengths[0] / lengths[1]).mean()), 5),
    }


def by_surface(problem: Problem, target: StaticVectors, source: StaticVectors) -> tuple[Table, Table]:
    return entry_vectors(problem.surfaces, target), entry_vectors(problem.source_surfaces, source)


def package_vectors(path: Path) -> StaticVectors:
    """The fastText model of a package, read by gensim."""
    keyed = load_facebook_model(str(path)).wv
    counts = {word: int(keyed.get_vecattr(word, "count")) for word in keyed.index_to_key}
    vectors = StaticVectors(keyed, frozenset(), counts, 0, 0)
    ngrams = frozenset(ngram for word in counts for ngram in vectors.ngrams_of(word))
    return StaticVectors(keyed, ngrams, counts, 0, 0)


def with_all_ngrams(vectors: StaticVectors) -> StaticVectors:
    """As the packages do: any n-gram has the vector of its bucket, also one that no word has."""
    return StaticVectors(vectors.keyed, _Everything(), vectors.counts, 0, 0)


class _Everything(frozenset[bytes]):
    def __contains__(self, item: object) -> bool:
        return True


def reversed_pair(pair: tuple[Table, Table]) -> tuple[Table, Table]:
    return pair[1], pair[0]


def environment(folder: Path, packages: list[str], torch_index: str | None) -> Path:
    """The Python of an environment that holds the packages, made where there is none."""
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # First and alone: a looser torch may pull another build with gigabytes of GPU packages.
    subprocess.run([*install, BESIDE[0], *(["--index-url", torch_index] if torch_index else [])], check=True)
    subprocess.run([*install, *BESIDE, *packages], check=True)
    (folder / "complete").touch()
    return python


def run_package(python: Path, name: str, inputs: Path, digest: str) -> float:
    """Let a package make its table; the seconds that it took. Once for the same inputs: FOCUS takes minutes."""
    done = inputs / f"{name}.done.json"
    if done.exists() and read_json(done)["inputs"] == digest:
        return float(read_json(done)["seconds"])
    surroundings = {
        **os.environ,
        "XDG_CACHE_HOME": str(inputs / "cache" / digest),  # deepfocus knows a text by its path alone
        "HF_HOME": str(inputs / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    script = Path(__file__).with_name("published_packages.py")
    started = time.monotonic()
    subprocess.run([python, script, name, inputs], check=True, env=surroundings, stdout=sys.stderr)
    seconds = round(time.monotonic() - started, 1)
    write_json(done, {"inputs": digest, "seconds": seconds})
    return seconds


def data_lines(pattern: str) -> Iterator[str]:
    """Lines of the compressed files of the data folder, in the order of their names."""
    folder = Path(os.environ.get("TRELM_DATA") or ROOT.parent / "shared" / "data")
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SystemExit(f"{folder}: found no {pattern}; set TRELM_DATA to the folder that holds the data")
    for path in paths:
        with lzma.open(path, "rt", encoding="utf-8") as stream:
            yield from (line.rstrip("\n") for line in stream)


def write_lines(path: Path, lines: Any) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
