"""Semantic roles of given predicates, and the predicates' senses (Cai et al. 2018, on dependencies)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trelm.corpus.treebanks import Frame, Sentence
from trelm.evaluation.roles import role_scores
from trelm.tasks.encoder import Encoder
from trelm.tasks.heads import Batch, Biaffine, first_states, mean_cross_entropy, mean_states, perceptron
from trelm.tasks.labelling import word_figures
from trelm.tasks.problem import Problem, count_unseen, label_index, most_frequent
from trelm.tasks.reading import Parts
from trelm.tasks.subwords import Arrays, Part, WordEncoder, WordPieces, numbers, padding_id
from trelm.training.batches import IGNORED

NO_ROLE = ""  # before every label in the alphabet: its number is 0
PREDICATE_SIZE, DROPOUT = 256, 0.33

Found = tuple[list[int], list[list[int]]]


@dataclass(frozen=True)
class Senses:
    """How a sense is spelled: the name of its frame, a full stop, its number.

    Attributes:
        numbers: those of train. frames: lemma -> the name that its frames have most often in train.
        fallback: the most frequent number.
    """

    numbers: Mapping[str, int]
    frames: Mapping[str, str]
    fallback: str

    @classmethod
    def of(cls, sentences: Sequence[Sentence]) -> Senses:
        """Those of a training set."""
        seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        numbers_seen = []
        for sentence in sentences:
            for frame in sentence.frames:
                name, number = split_sense(frame.sense)
                seen[sentence.words[frame.predicate - 1].lemma][name] += 1
                numbers_seen.append(number)
        frames = {lemma: most_frequent(counts.elements()) for lemma, counts in seen.items()}
        return cls(label_index(numbers_seen), frames, most_frequent(numbers_seen))

    def spelled(self, lemma: str, number: str) -> str:
        """The whole sense; an unseen lemma names its frame itself."""
        name = self.frames.get(lemma, lemma)
        return f"{name}.{number}" if number else name


def split_sense(sense: str) -> tuple[str, str]:
    """`come.03` in two; without a full stop there is no number."""
    name, dot, number = sense.rpartition(".")
    return (name, number) if dot else (sense, "")


def roles(encoder: Encoder, parts: Parts, max_length: int, languages: Sequence[int | None]) -> Problem:
    """Labelled F1 of roles and senses. What is beyond `max_length` gets no role, and the most frequent sense.

    Sentences of train without a predicate are dropped and counted; of two roles of one word in one frame, train has the
    first.
    """
    trained = [sentence for sentence in parts.train if sentence.frames]
    senses = Senses.of(trained)
    labels = label_index(
        [NO_ROLE, *(role for sentence in trained for frame in sentence.frames for _, role in frame.roles)]
    )
    made: dict[str, Part] = {}
    figures: dict[str, Any] = {}
    named = {"train": trained, "dev": parts.dev, "test": parts.test}
    for (name, sentences), language in zip(named.items(), languages):
        words = WordEncoder(encoder.tokenizer, encoder.longest(max_length))
        pieces = [words.encode([word.form for word in sentence.words]) for sentence in sentences]
        targets = [_targets(piece, sentence, labels, senses) for piece, sentence in zip(pieces, sentences)]
        made[name] = Part([piece.ids for piece in pieces], targets, sentences, padding_id(encoder.tokenizer), language)
        asked = [role for sentence in sentences for frame in sentence.frames for _, role in frame.roles]
        figures[name] = {
            **word_figures(sentences, words),
            "predicates": sum(len(sentence.frames) for sentence in sentences),
            "second_roles_of_a_word": sum(
                len(frame.roles) - len(dict(frame.roles)) for sentence in sentences for frame in sentence.frames
            ),
            "unseen_labels": count_unseen(labels, asked),
        }
    figures["train"]["without_predicates"] = len(parts.train) - len(trained)
    return Problem(
        "labelled_f1",
        made,
        make_head=lambda width: RolesHead(width, len(labels), len(senses.numbers)),
        score=lambda part, found: _scores(list(labels), senses, part, found),
        figures={**figures, "labels": len(labels) - 1, "senses": len(senses.numbers)},
    )


def _targets(piece: WordPieces, sentence: Sentence, labels: Mapping[str, int], senses: Senses) -> Arrays:
    """`predicates`, `senses` (P,) and `roles` (P, W) of the predicates that were kept; at least one row."""
    words = len(piece.starts)
    frames = [frame for frame in sentence.frames if frame.predicate <= words]
    table = [_row(frame, words, labels) for frame in frames] or [[IGNORED] * words]
    sense = [senses.numbers.get(split_sense(frame.sense)[1], IGNORED) for frame in frames]
    return {
        "starts": numbers(piece.starts),
        "ends": numbers(piece.ends),
        "predicates": numbers([frame.predicate - 1 for frame in frames] or [IGNORED]),
        "senses": numbers(sense or [IGNORED]),
        "roles": numbers(table),
    }


def _row(frame: Frame, words: int, labels: Mapping[str, int]) -> list[int]:
    row = [labels[NO_ROLE]] * words
    for word, label in reversed(frame.roles):
        if word <= words:
            row[word - 1] = labels.get(label, IGNORED)
    return row


def _scores(labels: Sequence[str], senses: Senses, part: Part, found: Sequence[Found]) -> dict[str, float]:
    names = list(senses.numbers)
    predicted = []
    for (numbers_found, table), sentence in zip(found, part.gold):
        frames, rows = [], iter(zip(numbers_found, table))
        kept = len(table[0]) if table else 0
        for frame in sentence.frames:
            lemma = sentence.words[frame.predicate - 1].lemma
            if frame.predicate > kept:
                frames.append(Frame(frame.predicate, senses.spelled(lemma, senses.fallback), ()))
                continue
            number, row = next(rows)
            given = tuple((word, labels[role]) for word, role in enumerate(row, start=1) if labels[role] != NO_ROLE)
            frames.append(Frame(frame.predicate, senses.spelled(lemma, names[number]), given))
        predicted.append(frames)
    scores = role_scores([sentence.frames for sentence in part.gold], predicted).as_dict()
    wanted = ("labelled_f1", "labelled_precision", "labelled_recall", "unlabelled_f1", "argument_f1", "sense_accuracy")
    return {name: float(scores[name]) for name in wanted}


class RolesHead(nn.Module):
    """A role, or none, for each pair of a predicate and a word; a sense number for each predicate."""

    def __init__(self, width: int, labels: int, senses: int) -> None:
        super().__init__()
        self.predicate, self.argument = (perceptron(width, PREDICATE_SIZE, DROPOUT) for _ in range(2))
        self.pairs = Biaffine(PREDICATE_SIZE, PREDICATE_SIZE, labels, bias_left=True, bias_right=True)
        self.senses = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(width, senses))

    def loss(self, states: Tensor, batch: Batch) -> Tensor:
        roles_of, senses_of = self._logits(states, batch)
        return mean_cross_entropy(roles_of, batch["roles"]) + mean_cross_entropy(senses_of, batch["senses"])

    def predict(self, states: Tensor, batch: Batch) -> list[Any]:
        """A pair (senses, roles) of each sentence: one number and one row of words a predicate that was kept."""
        roles_of, senses_of = self._logits(states, batch)
        words = (batch["starts"] != IGNORED).sum(1).tolist()
        predicates = (batch["predicates"] != IGNORED).sum(1).tolist()
        return [
            (senses[:count], [row[:length] for row in table[:count]])
            for table, senses, length, count in zip(
                roles_of.argmax(-1).tolist(), senses_of.argmax(-1).tolist(), words, predicates
            )
        ]

    def _logits(self, states: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, P, W, labels) and (B, P, senses)."""
        words = mean_states(states, batch["starts"], batch["ends"])
        chosen = first_states(words, batch["predicates"])
        return self.pairs(self.predicate(chosen), self.argument(words)), self.senses(chosen)
