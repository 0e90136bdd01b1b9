"""Text that is read while training: the streams that the configuration names, each process's own part of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from transformers import PreTrainedTokenizerBase

from trelm import processes
from trelm.corpus.cleaning import fingerprint, normalise
from trelm.corpus.streaming import StreamedLines
from trelm.stages import SOURCE, TARGET, Feed
from trelm.steps.context import Context, vocabulary_of
from trelm.steps.preparation import evaluation_sentences
from trelm.training.batches import MaskedExamples
from trelm.training.streaming import SequentialStream
from trelm.vocabulary import encode_lines

MakeStream = Callable[[int, int], SequentialStream]
"""Makes the stream of a feed from the tokens of a batch and a seed."""


def text_streams(context: Context, tokenizer: PreTrainedTokenizerBase) -> dict[Feed, MakeStream]:
    """For each feed of text that the configuration streams, what makes its batches; empty where it streams nothing.

    Args:
        tokenizer: of the model that trains.
    """
    config = context.config
    named: tuple[tuple[Feed, tuple[str, ...], int], ...] = (
        ("source-text", config.source.stream, SOURCE),
        ("target-text", config.target.stream, TARGET),
    )
    return {
        feed: partial(_stream, context, tokenizer, sources, language) for feed, sources, language in named if sources
    }


def _stream(
    context: Context,
    tokenizer: PreTrainedTokenizerBase,
    sources: tuple[str, ...],
    language: int,
    batch_tokens: int,
    seed: int,
) -> SequentialStream:
    corpus, training = context.config.corpus, context.config.training
    lines = StreamedLines(
        sources,
        rank=processes.rank(),
        world=processes.count(),
        seed=seed,
        block_lines=training.stream_lines,
        min_characters=corpus.min_characters,
        max_characters=corpus.max_characters,
        dropped=frozenset(map(fingerprint, judged_sentences(context))),
    )
    vocabulary = vocabulary_of(tokenizer)

    def examples(block: list[str]) -> MaskedExamples:
        ids, _ = encode_lines(tokenizer, block, max_pieces=training.max_length - 2)
        return MaskedExamples(ids, language, vocabulary, training.max_length, training.mask_rate)

    return SequentialStream(lines, examples, batch_tokens=batch_tokens, seed=seed, rank=processes.rank())


def judged_sentences(context: Context) -> Iterator[str]:
    """What no model may train on: held-out text and pairs of the run, dev and test sentences of its evaluation sets."""
    for side in ("source", "target"):
        yield from context.lines(f"{side}-held-out.txt")
    for pair in context.lines("parallel-held-out.tsv"):
        yield from pair.split("\t")
    yield from filter(None, map(normalise, evaluation_sentences(context.config.evaluation)))
