"""Data for a demonstration, from nothing but Python itself: English prose, and a made-up language with known truth.

English is what every Python ships: the topics of `help()`, and the docstrings and comments of the standard library.
The made-up language `xx` is a function of English and a seed:

* **words**: every letter becomes another one of its kind (vowel or consonant), by a rotation that depends on the two
  letters before it, so that words which begin alike still do. Common endings become endings of their own
  (-ing: -ön, -s: -öt ...); `ö` occurs nowhere else, so the re-spelling is injective. Numbers and identifiers stay.
* **one to many**: some words become a phrase of two (`ONE_TO_MANY`): "without" becomes the words for "not" and "with".
* **many to one**: some pairs fuse (`FUSED`): "of the" becomes one word. Other articles vanish: they have no link.
* **order**: clauses (split at commas, semicolons and `CLAUSE_OPENERS`) come in reverse; in each, the first of
  `AUXILIARIES` goes to the end. Nothing in brackets or double quotes is split or moved out.
* **insertion**: a clause that begins with a clause opener ends with the particle `nö`, which has no link.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from trelm.workspace import write_text

LANGUAGES = ("en", "xx")
SHARES = {"source": 0.40, "target": 0.35, "parallel": 0.25}
"""Parts of the sentences: English text, text of the made-up language, pairs. No sentence is in two of them."""
DICTIONARY_COUNT = 3
"""Words that occur fewer times are not in the dictionary: no vocabulary of a demonstration holds them whole."""

SKIPPED_FOLDERS = frozenset({"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"})
FUNCTION_WORDS = frozenset({
    "a", "an", "and", "any", "are", "as", "at", "be", "by", "can", "do", "for", "from", "has", "have", "if", "in",
    "into", "is", "it", "its", "may", "must", "no", "not", "of", "on", "only", "or", "should", "so", "that", "the",
    "then", "there", "they", "this", "to", "was", "we", "when", "which", "will", "with", "you",
})  # fmt: skip
NOT_OF_PROSE = re.compile(r"[^A-Za-z0-9_ ,.;:!?()'-]")
CODE = re.compile(
    r"\w\(|[(,]\)|''|--|\s-|\.\.|\s[.,;:]"  # calls, options, gaps
    r"|\w'(?!s\b|t\b|re\b|ll\b|ve\b|d\b|m\b)\w|(?<!\w)'|'(?!\w)"  # apostrophes that are quotes
)

SOURCE_CONSONANTS, TARGET_CONSONANTS = "bcdfghjklmnpqrstvwxz", "bcdfghjklmnpçrstvwyz"
SOURCE_VOWELS, TARGET_VOWELS = "aeiouy", "aeioué"
ENDINGS = {
    "ing": "ön", "ed": "ör", "ly": "öl", "er": "ök", "able": "öv", "ment": "öm", "tion": "öc", "ness": "öp",
    "ity": "öd", "al": "öb", "ive": "öf", "s": "öt",
}  # fmt: skip
PARTICLE = "nö"

ARTICLES = frozenset({"the", "a", "an"})
FUSED = frozenset({
    ("of", "the"), ("in", "the"), ("to", "the"), ("for", "the"), ("on", "the"), ("from", "the"), ("by", "the"),
    ("to", "be"), ("can", "be"), ("will", "be"), ("must", "be"), ("may", "be"), ("should", "be"), ("as", "a"),
    ("is", "a"), ("such", "as"), ("does", "not"), ("is", "not"), ("it", "is"), ("there", "is"),
})  # fmt: skip
ONE_TO_MANY = {
    "without": ("not", "with"), "cannot": ("can", "not"), "default": ("usual", "value"), "otherwise": ("if", "not"),
    "current": ("this", "now"), "optional": ("not", "must"), "create": ("make", "new"), "dictionary": ("word", "list"),
    "directory": ("file", "list"), "exception": ("special", "case"), "sequence": ("row", "order"),
    "subclass": ("lower", "class"), "integer": ("whole", "number"), "character": ("written", "sign"),
    "empty": ("not", "full"), "false": ("not", "true"), "ignore": ("not", "see"), "begin": ("make", "start"),
    "each": ("every", "one"), "function": ("called", "thing"), "information": ("known", "things"),
}  # fmt: skip
CLAUSE_OPENERS = frozenset({
    "that", "which", "because", "if", "when", "while", "although", "unless", "until", "whether", "where", "since",
})  # fmt: skip
AUXILIARIES = frozenset({
    "is", "are", "was", "were", "be", "been", "has", "have", "had", "can", "could", "may", "might", "must", "will",
    "would", "shall", "should", "do", "does", "did", "cannot",
})  # fmt: skip

TOKEN = re.compile(r"[^\W_](?:[\w.'’-]*\w)?|\S")
PLAIN_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
INNER_CAPITAL = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")


@dataclass(frozen=True)
class Transformed:
    """A sentence of the made-up language with its English words and the truth about which word became which.

    Attributes:
        text: the sentence as it is written.
        words_source, words_target: words and punctuation marks of both sentences, in order.
        links: pairs (i, j): word i of the source became word j of the target, both 0-based. A target word without
            a link was inserted, a source word without one vanished.
    """

    text: str
    words_source: tuple[str, ...]
    words_target: tuple[str, ...]
    links: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class _Unit:
    """One or two source words, and what they became: the unit that moves as a whole."""

    sources: tuple[int, ...]
    words: tuple[str, ...]
    key: str


# --- words ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=200_000)
def respell(word: str, *, seed: int = 1) -> str:
    """The word of the made-up language for a lower-case English word; two words never become the same one.

    Numbers and identifiers (digits, underscores, dots or capitals inside) stay as they are.
    """
    if not PLAIN_WORD.fullmatch(word) or not word.islower():
        return word
    stem, ending = _split_ending(word)
    return "".join(_respell_letter(stem, index, seed) for index in range(len(stem))) + ENDINGS.get(ending, "")


def _split_ending(word: str) -> tuple[str, str]:
    """Stem and ending; a stem has three letters or more, one of them a vowel, and no ending after -ss, -us, -is."""
    if word.endswith(("ss", "us", "is")):
        return word, ""
    for ending in ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3 and stem.isalpha() and set(stem) & set(SOURCE_VOWELS):
            return stem, ending
    return word, ""


def _respell_letter(stem: str, index: int, seed: int) -> str:
    letter, context = stem[index], stem[max(0, index - 2) : index]
    for source, target in ((SOURCE_VOWELS, TARGET_VOWELS), (SOURCE_CONSONANTS, TARGET_CONSONANTS)):
        if letter in source:
            ring = _ring(len(source), seed)
            place = (ring.index(source.index(letter)) + _rotation(context, len(source), seed)) % len(source)
            return target[ring[place]]
    return letter


@lru_cache
def _ring(size: int, seed: int) -> tuple[int, ...]:
    """The letters of a kind in the order in which they rotate."""
    return tuple(int(index) for index in np.random.default_rng([seed, size]).permutation(size))


@lru_cache(maxsize=10_000)
def _rotation(context: str, size: int, seed: int) -> int:
    """By how much letters rotate after `context`: never by nothing, so that no letter stays what it was."""
    digest = blake2b(f"{seed} {size} {context}".encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % (size - 1)


# --- sentences --------------------------------------------------------------------------------------------------------


def transform(sentence: str, *, seed: int = 1) -> Transformed:
    """A sentence of the made-up language, by the rules at the head of this module."""
    words = tuple(TOKEN.findall(sentence))
    units = _reorder(_translate(words, seed))
    target: list[str] = []
    links: set[tuple[int, int]] = set()
    for unit in units:
        for word in unit.words:
            links |= {(source, len(target)) for source in unit.sources}
            target.append(word)
    cased = _restore_case(words, target, links)
    return Transformed(_write(cased), words, tuple(cased), frozenset(links))


def _translate(words: Sequence[str], seed: int) -> list[_Unit]:
    """Units in source order; what vanishes is no longer there."""
    units, index = [], 0
    keys = [_key(word) for word in words]
    while index < len(words):
        pair = tuple(keys[index : index + 2])
        if pair in FUSED:
            units.append(_Unit((index, index + 1), (respell("".join(pair), seed=seed),), keys[index]))
            index += 1
        elif keys[index] in ONE_TO_MANY:
            phrase = tuple(respell(part, seed=seed) for part in ONE_TO_MANY[keys[index]])
            units.append(_Unit((index,), phrase, keys[index]))
        elif keys[index] not in ARTICLES:
            units.append(_Unit((index,), (respell(keys[index], seed=seed),), keys[index]))
        index += 1
    return units


def _key(word: str) -> str:
    """The word as the rules know it: lower case, but an identifier as it is."""
    return word.lower() if _is_word(word) else word


def _is_word(token: str) -> bool:
    return PLAIN_WORD.fullmatch(token) is not None and not INNER_CAPITAL.search(token)


def _reorder(units: Sequence[_Unit]) -> list[_Unit]:
    """Clauses in reverse, separators between them in place, the final mark last."""
    body, final = list(units), list[_Unit]()
    while body and body[-1].key in {".", "!", "?", ":"}:
        final.insert(0, body.pop())
    clauses, separators = _clauses(body)
    reordered = []
    for clause, separator in zip(reversed(clauses), [*separators, []]):
        reordered += _reorder_clause(clause) + separator
    return reordered + final


def _clauses(units: Sequence[_Unit]) -> tuple[list[list[_Unit]], list[list[_Unit]]]:
    """Clauses, and between each two of them the separating mark, if there is one."""
    clauses: list[list[_Unit]] = [[]]
    separators: list[list[_Unit]] = []
    for unit, enclosed in zip(units, _enclosed(units)):
        if not enclosed and unit.key in {",", ";"} and clauses[-1]:
            clauses.append([])
            separators.append([unit])
            continue
        if not enclosed and unit.key in CLAUSE_OPENERS and clauses[-1]:
            clauses.append([])
            separators.append([])
        clauses[-1].append(unit)
    return clauses, separators


def _enclosed(units: Sequence[_Unit]) -> list[bool]:
    """Whether each unit stands in brackets or double quotes."""
    depth, quoted, enclosed = 0, False, []
    for unit in units:
        quoted ^= unit.key == '"'
        depth = max(0, depth + (unit.key in "([{") - (unit.key in ")]}"))
        enclosed.append(depth > 0 or quoted)
    return enclosed


def _reorder_clause(clause: Sequence[_Unit]) -> list[_Unit]:
    """The first auxiliary goes to the end; a clause with an opener ends with the particle."""
    free = (place for place, enclosed in enumerate(_enclosed(clause)) if not enclosed)
    place = next((place for place in free if clause[place].key in AUXILIARIES), None)
    reordered = [unit for index, unit in enumerate(clause) if index != place]
    if place is not None:
        reordered.append(clause[place])
    if clause and clause[0].key in CLAUSE_OPENERS:
        reordered.append(_Unit((), (PARTICLE,), PARTICLE))
    return reordered


def _restore_case(words: Sequence[str], target: Sequence[str], links: set[tuple[int, int]]) -> list[str]:
    """A capital where the sentence begins and where a name had one inside it; capitals throughout where they were."""
    lowest = {j: i for i, j in sorted(links, reverse=True)}
    first = next((index for index, word in enumerate(words) if word[0].isalnum()), -1)
    kept = {j: words[i] for j, i in lowest.items() if i != first or words[i].isupper()}
    cased = [_case_as(kept[j], word) if j in kept else word for j, word in enumerate(target)]
    start = next((j for j, word in enumerate(cased) if word[0].isalnum()), None)
    if start is not None and words[first][0].isupper() and _is_word(words[lowest.get(start, first)]):
        cased[start] = cased[start][0].upper() + cased[start][1:]
    return cased


def _case_as(source: str, word: str) -> str:
    if source == "I" or _key(source) == source:
        return word
    return word.upper() if source.isupper() and len(source) > 1 else word[0].upper() + word[1:]


def _write(words: Sequence[str]) -> str:
    """Words as a line: closing marks on the word before, opening marks on the word after."""
    text, glue, quoted = "", True, False
    for word in words:
        closing = word in {",", ";", ".", "!", "?", ":", ")", "]", "}"} or (word == '"' and quoted)
        text += word if glue or closing else f" {word}"
        quoted ^= word == '"'
        glue = word in {"(", "[", "{"} or (word == '"' and quoted)
    return text


# --- English prose of Python itself -----------------------------------------------------------------------------------


def english_sentences() -> list[str]:
    """Sentences of the documentation that Python carries, without code, in an order that is always the same."""
    found: dict[str, str] = {}
    for text in _documentation():
        for sentence in _split_sentences(text):
            if is_prose(sentence):
                found.setdefault(sentence.casefold(), sentence)
    return list(found.values())


def _documentation() -> Iterator[str]:
    for name in sorted(topics):
        yield topics[name]
    root = Path(os.__file__).parent
    for folder, below, names in os.walk(root):
        below[:] = sorted(set(below) - SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(".py"):
                yield from _texts_of_module((Path(folder) / name).read_bytes())


def _texts_of_module(code: bytes) -> Iterator[str]:
    """Docstrings and blocks of comments; a file that this Python cannot parse (a template, say) has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            tree, text = ast.parse(code), code.decode("utf-8")
    except (SyntaxError, ValueError):
        return
    yield from _docstrings(tree)
    for block in re.findall(r"(?:^[ \t]*#(?:[ \t].*)?\n)+", text, flags=re.MULTILINE):
        yield re.sub(r"^[ \t]*# ?", "", block, flags=re.MULTILINE)


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of the node and of all below it; only statements are visited, which is several times faster."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield ast.get_docstring(node) or ""
    for block in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, block, ()):
            yield from _docstrings(child)


def _split_sentences(text: str) -> Iterator[str]:
    """Sentences of all paragraphs and list items, markup taken away."""
    for paragraph in re.split(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*+•]|\d+[.)])[ \t])", text):
        line = re.sub(r"^[ \t]*(?:[-*+•]|\d+[.)])[ \t]+", "", paragraph)
        line = " ".join(re.sub(r"(?<=[a-z])-\n\s*(?=[a-z])", "-", line).split())
        yield from re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)\s+(?=[A-Z(])", _without_markup(line))


def _without_markup(line: str) -> str:
    line = re.sub(r":[a-z:]+:(?=`)", "", line)
    line = re.sub(r"``([^`]*)``|[`\"“]([^`\"“”']*)[`'\"”]", lambda match: match[1] or match[2] or "", line)
    line = re.sub(r"(?<!\w)\*{1,2}(\w[^*]*)\*{1,2}(?!\w)", r"\1", line)
    line = re.sub(r"(?<=\w)\(\)|:(?=:+$)", "", line).replace("’", "'")
    return re.sub(r"(?<!\w)'([^']*)'(?!\w)", r"\1", line)


def is_prose(sentence: str) -> bool:
    """Whether a line is an English sentence and not code, a title, a table or a signature."""
    words = sentence.split()
    return (
        30 <= len(sentence) <= 300
        and len(words) >= 5
        and sentence[0].isupper()
        and sentence[-1] in ".!?:"
        and not NOT_OF_PROSE.search(sentence)
        and not CODE.search(sentence)
        and sum(character.isalpha() or character == " " for character in sentence) >= 0.9 * len(sentence)
        and sum(word.lower() in FUNCTION_WORDS for word in words) >= 2
        and sum(not PLAIN_WORD.fullmatch(word.strip(".,;:!?()'")) for word in words) <= 0.15 * len(words)
    )


# --- files ------------------------------------------------------------------------------------------------------------


def write_demo_data(folder: Path, *, seed: int = 1) -> dict[str, Any]:
    """Write the demonstration's data: the same files for the same Python and seed.

    `source.txt` (English), `target.txt` (made-up language), `parallel.tsv` (pairs), `parallel-links.tsv` (the truth
    about the pairs: English words, words of the made-up language, links `i-j`, all separated by spaces) and
    `dictionary.tsv` (an English word, its re-spelling; words that become one word, the most frequent first).

    Returns:
        Lines of each file, by its name without ending, and `sentences`, their number before the split.

    Raises:
        DiskError: the folder cannot be written.
    """
    parts = _split(english_sentences(), seed)
    target = [transform(sentence, seed=seed).text for sentence in parts["target"]]
    pairs = [(sentence, transform(sentence, seed=seed)) for sentence in parts["parallel"]]
    files = {
        "source.txt": parts["source"],
        "target.txt": target,
        "parallel.tsv": [f"{sentence}\t{made.text}" for sentence, made in pairs],
        "parallel-links.tsv": [_links_line(made) for _, made in pairs],
        "dictionary.tsv": _dictionary([sentence for part in parts.values() for sentence in part], seed),
    }
    for name, lines in files.items():
        write_text(folder / name, "".join(f"{line}\n" for line in lines))
    return {"sentences": sum(map(len, parts.values())), **{Path(n).stem: len(lines) for n, lines in files.items()}}


def _split(sentences: Sequence[str], seed: int) -> dict[str, list[str]]:
    order = np.random.default_rng(seed).permutation(len(sentences))
    parts, start = {}, 0.0
    for name, part in SHARES.items():
        chosen = order[round(start * len(order)) : round((start + part) * len(order))]
        parts[name] = [sentences[int(index)] for index in chosen]
        start += part
    return parts


def _links_line(made: Transformed) -> str:
    links = " ".join(f"{i}-{j}" for i, j in sorted(made.links))
    return f"{' '.join(made.words_source)}\t{' '.join(made.words_target)}\t{links}"


def _dictionary(sentences: Sequence[str], seed: int) -> list[str]:
    counts = Counter(_key(word) for sentence in sentences for word in TOKEN.findall(sentence))
    ranked = sorted(
        (word for word in counts if counts[word] >= DICTIONARY_COUNT), key=lambda word: (-counts[word], word)
    )
    words = (w for w in ranked if w.isalpha() and w.islower() and w not in ARTICLES and w not in ONE_TO_MANY)
    return [f"{word}\t{respell(word, seed=seed)}" for word in words]


def demo_values(folder: Path) -> dict[str, Any]:
    """The configuration of the demonstration, for `trelm.config.make_config`, on data that `write_demo_data` wrote."""
    folder = folder.absolute()
    return {
        "recipe": "quick",
        "source": {"model": "minilm", "language": LANGUAGES[0], "text": [str(folder / "source.txt")]},
        "target": {"language": LANGUAGES[1], "text": [str(folder / "target.txt")]},
        "parallel": [str(folder / "parallel.tsv")],
        "budget": {"minutes": 6},
        "vocabulary": {"size": 8000},
        "evaluation": [{"task": "translation", "name": "dictionary", "test": str(folder / "dictionary.tsv")}],
    }
