"""WECHSEL and FOCUS on the text of a run: the static vectors that each was published with, then its mixture."""

from __future__ import annotations

from trelm.corpus.files import expand
from trelm.corpus.ragged import Ragged
from trelm.embeddings import choose_lines
from trelm.evaluation.translation import read_dictionary
from trelm.initialisation.focus import focus, overlap
from trelm.initialisation.mixture import Mixture
from trelm.initialisation.static_vectors import StaticVectors, SubwordTokens, Words, train_static_vectors
from trelm.initialisation.surface import surfaces
from trelm.initialisation.wechsel import dictionary_vectors, entry_vectors, wechsel
from trelm.steps.context import Context
from trelm.vocabulary import special_rows

WIDTH = 100
WECHSEL_EPOCHS, WECHSEL_MIN_COUNT = 10, 2
FOCUS_EPOCHS, FOCUS_MIN_COUNT = 3, 10  # the package's own defaults


def wechsel_mixture(context: Context) -> Mixture:
    """WECHSEL (Minixhofer et al. 2022): word vectors of both languages, turned into one space by a dictionary.

    Raises:
        DataError: the dictionary is damaged, or none of its pairs is in the text.
    """
    entries = read_dictionary([path for pattern in context.config.embeddings.dictionary for path in expand(pattern)])
    pairs = [(word, translation) for word, known in entries.items() for translation in sorted(known)]
    lexicons = (frozenset(word for word, _ in pairs), frozenset(translation for _, translation in pairs))
    source, target = (
        _word_vectors(context, side, lexicon) for side, lexicon in zip(("source", "target"), lexicons, strict=True)
    )
    source_words, target_words = dictionary_vectors(pairs, source, target)
    return wechsel(
        entry_vectors(surfaces(context.tokenizer), target),
        entry_vectors(surfaces(context.source.tokenizer), source),
        target_words,
        source_words,
        specials=special_rows(context.tokenizer, context.source.tokenizer),
    )


def focus_mixture(context: Context) -> Mixture:
    """FOCUS (Dobler & de Melo 2023): vectors of the new entries in target text, entries in common as landmarks."""
    vocabularies = (context.tokenizer, context.source.tokenizer)
    spelled = context.tokenizer.convert_ids_to_tokens(list(range(len(context.tokenizer))))
    vectors = train_static_vectors(
        SubwordTokens(_sampled(context, "target"), spelled),
        architecture="cbow",
        width=WIDTH,
        epochs=FOCUS_EPOCHS,
        min_count=FOCUS_MIN_COUNT,
        seed=context.config.seed,
    )
    return focus(
        *vectors.of(spelled),
        overlap(*(surfaces(tokenizer) for tokenizer in vocabularies)),
        specials=special_rows(*vocabularies),
        source_size=len(context.source.tokenizer),
    )


def _word_vectors(context: Context, side: str, lexicon: frozenset[str]) -> StaticVectors:
    lines = context.lines(f"{side}.txt")
    tokens = context.tokens(side)
    chosen = choose_lines(tokens.lengths(), context.config.embeddings.max_tokens or len(tokens.values))
    lower = _lowers(context)
    text = [lines[line].lower() if lower else lines[line] for line in chosen.tolist()]
    return train_static_vectors(
        Words(text, frozenset(word.lower() for word in lexicon) if lower else lexicon),
        architecture="cbow",
        width=WIDTH,
        epochs=WECHSEL_EPOCHS,
        min_count=WECHSEL_MIN_COUNT,
        seed=context.config.seed,
    )


def _lowers(context: Context) -> bool:
    """Whether the joint vocabulary knows lower case alone."""
    normaliser = context.tokenizer.backend_tokenizer.normalizer
    return normaliser is not None and str(normaliser.normalize_str("A")) == "a"


def _sampled(context: Context, side: str) -> Ragged:
    """The lines of a side that make up `embeddings.max_tokens`."""
    tokens = context.tokens(side)
    budget = context.config.embeddings.max_tokens
    if budget is None or budget >= len(tokens.values):
        return tokens
    return Ragged.of([tokens[line] for line in choose_lines(tokens.lengths(), budget).tolist()])
