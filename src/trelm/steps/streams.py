"""Text that is read while training: the streams that the configuration names, each process's own part of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from trelm import processes
from trelm.corpus.cleaning import fingerprint, normalise
from trelm.corpus.streaming import StreamedLines
from trelm.stages import SOURCE, TARGET, Feed
from trelm.steps.context import Context, vocabulary_of
from trelm.steps.preparation import evaluation_sentences
from trelm.steps.selection import DEVELOPMENT
from trelm.training.batches import MaskedExamples
from trelm.training.streaming import SequentialStream
from trelm.vocabulary import encode_lines


@dataclass(frozen=True)
class StreamedText:
    """Text of one language that is read while training.

    Attributes:
        sources: `hf://` names. language: id of their language. tokenizer: of the model that trains.
        mask_rate: share of the tokens to be predicted; None: the configuration's.
    """

    context: Context
    sources: tuple[str, ...]
    language: int
    tokenizer: PreTrainedTokenizerBase
    mask_rate: float | None = None

    def sequence(self, batch_tokens: int, seed: int) -> SequentialStream:
        """This process's batches of it, from its beginning.

        Args:
            batch_tokens: of a batch of all processes together.
            seed: of the order of the text, and of the masks.
        """
        corpus, training = self.context.config.corpus, self.context.config.training
        rank, world = processes.rank(), processes.count()
        lines = StreamedLines(
            self.sources,
            rank=rank,
            world=world,
            seed=seed,
            block_lines=training.stream_lines,
            min_characters=corpus.min_characters,
            max_characters=corpus.max_characters,
            dropped=frozenset(map(fingerprint, judged_sentences(self.context))),
        )
        own_tokens = max(1, round(batch_tokens / world))
        return SequentialStream(lines, self._examples, batch_tokens=own_tokens, seed=seed, rank=rank)

    def _examples(self, lines: list[str]) -> MaskedExamples:
        training = self.context.config.training
        ids, _ = encode_lines(self.tokenizer, lines, max_pieces=training.max_length - 2)
        rate = training.mask_rate if self.mask_rate is None else self.mask_rate
        return MaskedExamples(ids, self.language, vocabulary_of(self.tokenizer), training.max_length, rate)

    def masked_at(self, mask_rate: float) -> StreamedText:
        """The same text with another share of the tokens to be predicted."""
        return replace(self, mask_rate=mask_rate)


def text_streams(context: Context, tokenizer: PreTrainedTokenizerBase) -> dict[Feed, StreamedText]:
    """By the feed that it stands for, the text that the configuration streams; empty where it streams nothing.

    Args:
        tokenizer: of the model that trains.
    """
    source, target = context.config.source.stream, context.config.target.stream
    streams: dict[Feed, StreamedText] = {
        "source-text": StreamedText(context, source, SOURCE, tokenizer),
        "target-text": StreamedText(context, target, TARGET, tokenizer),
    }
    return {feed: text for feed, text in streams.items() if text.sources}


def judged_sentences(context: Context) -> Iterator[str]:
    """What no model may train on: held-out text and pairs of the run, dev and test sentences of its evaluation sets."""
    for side in ("source", "target"):
        yield from context.lines(f"{side}-held-out.txt")
    if context.config.corpus.development_lines:
        yield from context.lines(DEVELOPMENT)
    for pair in context.lines("parallel-held-out.tsv"):
        yield from pair.split("\t")
    yield from filter(None, map(normalise, evaluation_sentences(context.config.evaluation)))
