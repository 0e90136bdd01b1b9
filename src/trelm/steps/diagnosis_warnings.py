"""What in the figures of a diagnosis promises a poor start: one line each, with the numbers and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from trelm.steps.context import Figures
from trelm.steps.initialisation import MIN_SEEDS

LEAST_SHARED_WORDS = 0.1
"""Share of the target text's words that must be spelled alike for ways that start from such entries. On the data of
`benchmarks/initialisation` English to Indonesian has 0.315, to Chinese 0.077, nearly all of it one particle."""
LEAST_LINKED = 0.75
"""Share of the target text's tokens that should have word links for RAMEN's mixtures, which need them."""
LEAST_FOUND, LEAST_ASKED = 0.1, 50
"""Share of a dictionary's words whose translation should be among the five nearest entries; from how many words on. On
the data of `benchmarks/initialisation` it is 0.71 for `recommended` (English to Indonesian), 0.004 for `pieces`."""
MOST_RANDOM = 0.05
WEIGHTY = 0.05
"""Share of the target text's tokens from which on the lengths of rows of one provenance are looked at."""
NORM_RATIOS = (0.5, 2.0)
WORSE_CUT = 1.1
MOST_UNKNOWN = 0.01

FROM_SHARED = {
    "shared": "copies entries spelled alike and draws all others at random",
    "focus": "mixes every row from entries spelled alike",
    "pieces": "copies entries spelled alike and takes the mean of source pieces for the others",
}
DRAWN = ("random", "multivariate")
BETTER = "set embeddings.initialisation to recommended, which starts from word links"


def find_warnings(figures: Figures, languages: tuple[str, str]) -> list[str]:
    """What is likely to spoil the transfer, by the figures of `diagnose_start`.

    Args:
        languages: codes of the source and of the target.
    """
    return [
        *_too_few_shared(figures, languages),
        *_too_few_linked(figures, languages),
        *_collapsed(figures, languages),
        *_few_words_known(figures, languages),
        *_too_many_random(figures, languages),
        *_strange_lengths(figures),
        *_poor_cut(figures, languages),
    ]


def _too_few_shared(figures: Figures, languages: tuple[str, str]) -> Iterator[str]:
    """Digits, punctuation and names are alike everywhere: only words in use in both languages can carry meaning."""
    way, words = figures["initialisation"], figures["entries"]["shared_words"]
    if way in FROM_SHARED and words["share_of_word_tokens"] < LEAST_SHARED_WORDS:
        yield (
            f"embeddings.initialisation is {way}, which {FROM_SHARED[way]}; but entries spelled alike that are words "
            f"or parts of words in '{languages[1]}', and in use in the '{languages[0]}' text too, are only "
            f"{_percent(words['share_of_word_tokens'])} of the words in the '{languages[1]}' text (expected "
            f"{_percent(LEAST_SHARED_WORDS)} or more); {BETTER}"
        )


def _too_few_linked(figures: Figures, languages: tuple[str, str]) -> Iterator[str]:
    way, linked = figures["initialisation"], figures["entries"]["linked"]
    if way in ("counts", "recommended") and linked["share_of_tokens"] < LEAST_LINKED:
        yield (
            f"embeddings.initialisation is {way}, which mixes rows by word links; but entries with links are only "
            f"{_percent(linked['share_of_tokens'])} of the '{languages[1]}' text (expected {_percent(LEAST_LINKED)} or "
            "more); give more parallel text, or parallel text that is more like the rest"
        )


def _collapsed(figures: Figures, languages: tuple[str, str]) -> Iterator[str]:
    """Rows that were taken from vectors mapped by an alignment that found nothing are as good as random."""
    way, alignment, rows = figures["initialisation"], figures["alignment"], figures["rows"]
    name = {"trelm": "mapped", "recommended": "neighbours"}.get(way, "")
    if way == "recommended" and rows.get("linked", {}).get("entries", 0) >= MIN_SEEDS:
        return  # neighbours are then found among subword vectors, without the alignment
    if alignment["collapsed"] and name in rows:
        yield (
            f"the alignment ({alignment['method']}) has collapsed, and {rows[name]['entries']:,} rows, "
            f"{_percent(rows[name]['share_of_tokens'])} of the '{languages[1]}' text, come from it: they are "
            f"probably no better than random; {BETTER if way == 'trelm' else 'give more parallel text'}"
        )


def _few_words_known(figures: Figures, languages: tuple[str, str]) -> Iterator[str]:
    """By the dictionary, where there is one: words whose translation is spelled like them are left out."""
    found, way = figures.get("translation") or {}, figures["initialisation"]
    share, asked = found.get("distinct_precision_at_5"), found.get("distinct_queries", 0)
    if way not in DRAWN and share is not None and asked >= LEAST_ASKED and share < LEAST_FOUND:
        todo = "give more parallel text" if way == "recommended" else BETTER
        yield (
            f"in the initial word table the '{languages[1]}' translation is among the five nearest entries for only "
            f"{_percent(share)} of {asked} '{languages[0]}' words (expected {_percent(LEAST_FOUND)} or more); {todo}"
        )


def _too_many_random(figures: Figures, languages: tuple[str, str]) -> Iterator[str]:
    way, random = figures["initialisation"], figures["rows"]["random"]
    if way not in DRAWN and random["share_of_tokens"] > MOST_RANDOM:
        todo = "give more text" if way == "recommended" else "set embeddings.initialisation to recommended"
        yield (
            f"{random['entries']:,} rows, {_percent(random['share_of_entries'])} of the vocabulary and "
            f"{_percent(random['share_of_tokens'])} of the '{languages[1]}' text, start at random (expected "
            f"{_percent(MOST_RANDOM)} of the text or less); {todo}"
        )


def _strange_lengths(figures: Figures) -> Iterator[str]:
    """Rows much longer or shorter than those that the encoder is used to spoil every layer above."""
    ratios = {f"{name} rows": row["norm_ratio"] for name, row in figures["rows"].items() if _weighs(name, row)}
    strange = {
        name: ratio
        for name, ratio in {"all rows": figures["norm_ratio"], **ratios}.items()
        if not NORM_RATIOS[0] <= ratio <= NORM_RATIOS[1]
    }
    if strange:
        told = ", ".join(f"{name} {ratio:.2f} times" for name, ratio in strange.items())
        yield (
            f"rows are far from the source's in mean length: {told} as long (expected {NORM_RATIOS[0]:g} to "
            f"{NORM_RATIOS[1]:g}); set embeddings.initialisation to recommended, which gives rows the source's lengths"
        )


def _weighs(name: str, row: Figures) -> bool:
    return name != "special" and row["norm_ratio"] is not None and row["share_of_tokens"] >= WEIGHTY


def _poor_cut(figures: Figures, languages: tuple[str, str]) -> Iterator[str]:
    """Against the source's tokenizer, where that knows the text: unknown words are whole, however long."""
    new, source = figures["tokenizers"]["new"], figures["tokenizers"]["source"]
    if (new["unknown_rate"] or 0) > MOST_UNKNOWN:
        yield (
            f"{_percent(new['unknown_rate'])} of the new tokenizer's subwords of '{languages[1]}' text are unknown "
            f"(expected {_percent(MOST_UNKNOWN)} or less); raise vocabulary.alphabet_limit, or give more text"
        )
    cut, own = new["characters_per_piece"], source["characters_per_piece"]
    if cut and own and (source["unknown_rate"] or 0) <= MOST_UNKNOWN and own / cut > WORSE_CUT:
        yield (
            f"the new tokenizer cuts '{languages[1]}' text finer than the source's own: {cut:.2f} characters a "
            f"subword, against {own:.2f}; raise vocabulary.size, or give more text"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
