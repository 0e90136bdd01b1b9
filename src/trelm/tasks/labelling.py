"""Classification, tagging and entities as problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from trelm.corpus.labelled import LabelledText
from trelm.corpus.tagged import TaggedSentence
from trelm.evaluation.labels import label_scores, tag_accuracy
from trelm.evaluation.spans import span_scores
from trelm.tasks.encoder import Encoder
from trelm.tasks.heads import TagHead, TextHead
from trelm.tasks.problem import Problem, count_unseen, label_index, most_frequent
from trelm.tasks.reading import Parts
from trelm.tasks.subwords import Part, WordEncoder, numbers, padding_id
from trelm.training.batches import IGNORED

OUTSIDE = "O"


def classification(encoder: Encoder, parts: Parts, max_length: int, languages: Sequence[int | None]) -> Problem:
    """Accuracy and macro F1 of one label a text or pair.

    Args:
        languages: of train, dev and test, as the encoder is told them.
    """
    labels = label_index(text.label for text in parts.train)
    names = list(labels)
    made: dict[str, Part] = {}
    figures: dict[str, Any] = {}
    for name, language in zip(("train", "dev", "test"), languages):
        texts: Sequence[LabelledText] = getattr(parts, name)
        part, cut = _text_part(encoder, texts, labels, encoder.longest(max_length), language)
        made[name] = part
        unseen = count_unseen(labels, (text.label for text in texts))
        figures[name] = {"examples": len(texts), "cut_texts": cut, "unseen_labels": unseen}
    return Problem(
        "accuracy",
        made,
        make_head=lambda width: TextHead(width, len(names)),
        score=lambda part, found: label_scores(part.gold, [names[number] for number in found]),
        figures={**figures, "labels": len(names)},
    )


def _text_part(
    encoder: Encoder, texts: Sequence[LabelledText], labels: Mapping[str, int], length: int, language: int | None
) -> tuple[Part, int]:
    """The examples, and how many texts were cut."""
    rows = [encoder.tokenizer(*_arguments(text), truncation=False) for text in texts]
    long = [number for number, row in enumerate(rows) if len(row["input_ids"]) > length]
    for number in long:
        rows[number] = encoder.tokenizer(*_arguments(texts[number]), truncation="longest_first", max_length=length)
    segments = encoder.segments and bool(texts) and texts[0].second is not None
    targets = [
        {
            "labels": numbers([labels.get(text.label, IGNORED)]),
            **({"token_type_ids": numbers(row["token_type_ids"])} if segments else {}),
        }
        for text, row in zip(texts, rows)
    ]
    ids = [row["input_ids"] for row in rows]
    return Part(ids, targets, [text.label for text in texts], padding_id(encoder.tokenizer), language), len(long)


def _arguments(text: LabelledText) -> tuple[str, ...]:
    return (text.text,) if text.second is None else (text.text, text.second)


def tagging(
    encoder: Encoder, parts: Parts, max_length: int, languages: Sequence[int | None], *, entities: bool
) -> Problem:
    """Accuracy of one tag a word, or F1 of the entities that IOB tags spell.

    Words beyond `max_length` get the most frequent tag, or `O` among entities.
    """
    tags = label_index(tag for sentence in parts.train for tag in sentence.tags)
    fallback = OUTSIDE if entities else most_frequent(tag for sentence in parts.train for tag in sentence.tags)
    made: dict[str, Part] = {}
    figures: dict[str, Any] = {}
    for name, language in zip(("train", "dev", "test"), languages):
        sentences: Sequence[TaggedSentence] = getattr(parts, name)
        words = WordEncoder(encoder.tokenizer, encoder.longest(max_length))
        pieces = [words.encode(sentence.words) for sentence in sentences]
        targets = [
            {
                "starts": numbers(piece.starts),
                "tags": numbers([tags.get(tag, IGNORED) for tag in sentence.tags[: len(piece.starts)]]),
            }
            for piece, sentence in zip(pieces, sentences)
        ]
        gold = [sentence.tags for sentence in sentences]
        made[name] = Part([piece.ids for piece in pieces], targets, gold, padding_id(encoder.tokenizer), language)
        figures[name] = word_figures(sentences, words)
        figures[name]["unseen_labels"] = count_unseen(tags, (tag for sentence in sentences for tag in sentence.tags))
    names = list(tags)
    return Problem(
        "f1" if entities else "accuracy",
        made,
        make_head=lambda width: TagHead(width, len(names)),
        score=partial(_tag_scores, names, fallback, entities),
        figures={**figures, "labels": len(names)},
    )


def word_figures(sentences: Sequence[Any], words: WordEncoder) -> dict[str, Any]:
    """Counts of a part that is made of words."""
    return {
        "examples": len(sentences), "words": words.words, "cut_words": words.cut, "unknown_words": words.unknown
    }  # fmt: skip


def _tag_scores(
    names: Sequence[str], fallback: str, entities: bool, part: Part, found: Sequence[Sequence[int]]
) -> dict[str, float]:
    predicted = [
        [*(names[number] for number in row), *[fallback] * (len(gold) - len(row))]
        for row, gold in zip(found, part.gold)
    ]
    if not entities:
        return {"accuracy": tag_accuracy(part.gold, predicted)}
    scores = span_scores(part.gold, predicted)
    return {name: scores[name] for name in ("f1", "precision", "recall")}
