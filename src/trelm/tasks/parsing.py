"""Dependency parsing: a deep biaffine parser (Dozat & Manning 2017) whose trees are exact maxima."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trelm.corpus.treebanks import Word
from trelm.evaluation.attachment import attachment_scores
from trelm.evaluation.trees import maximum_spanning_tree
from trelm.tasks.encoder import Encoder
from trelm.tasks.heads import Batch, Biaffine, mean_cross_entropy, mean_states, perceptron
from trelm.tasks.labelling import word_figures
from trelm.tasks.problem import Problem, count_unseen, label_index, most_frequent
from trelm.tasks.reading import Parts
from trelm.tasks.subwords import Arrays, Part, WordEncoder, numbers, padding_id
from trelm.training.batches import IGNORED

ROOT = "root"
ARC_SIZE, RELATION_SIZE, DROPOUT = 384, 128, 0.33

Tree = tuple[list[int], list[int]]


def parsing(encoder: Encoder, parts: Parts, max_length: int, languages: Sequence[int | None]) -> Problem:
    """Labelled attachment. Words beyond `max_length` hang on the word before, by the most frequent relation."""
    named = {"train": parts.train, "dev": parts.dev, "test": parts.test}
    trained = [relation(word) for sentence in parts.train for word in sentence.words]
    relations, fallback = label_index([*trained, ROOT]), most_frequent(trained)
    made: dict[str, Part] = {}
    figures: dict[str, Any] = {}
    for (name, sentences), language in zip(named.items(), languages):
        words = WordEncoder(encoder.tokenizer, encoder.longest(max_length))
        pieces = [words.encode([word.form for word in sentence.words]) for sentence in sentences]
        targets: list[Arrays] = []
        for piece, sentence in zip(pieces, sentences):
            kept = sentence.words[: len(piece.starts)]
            heads = [word.head if word.head is not None and word.head <= len(kept) else IGNORED for word in kept]
            known = [relations.get(relation(word), IGNORED) for word in kept]
            targets.append(
                {
                    "starts": numbers(piece.starts),
                    "ends": numbers(piece.ends),
                    "heads": numbers(heads),
                    "relations": numbers([one if head != IGNORED else IGNORED for one, head in zip(known, heads)]),
                }
            )
        made[name] = Part([piece.ids for piece in pieces], targets, sentences, padding_id(encoder.tokenizer), language)
        unseen = count_unseen(relations, (relation(word) for sentence in sentences for word in sentence.words))
        figures[name] = word_figures(sentences, words) | {"unseen_labels": unseen}
    names = list(relations)
    return Problem(
        "las",
        made,
        make_head=lambda width: ParserHead(width, len(names), relations[ROOT]),
        score=partial(_tree_scores, names, fallback),
        figures={**figures, "labels": len(names)},
    )


def relation(word: Word) -> str:
    """The universal relation, without its subtype."""
    return word.deprel.partition(":")[0]


def _tree_scores(names: Sequence[str], fallback: str, part: Part, found: Sequence[Tree]) -> dict[str, float]:
    heads, relations = [], []
    for (known_heads, known_relations), sentence in zip(found, part.gold):
        beyond = range(len(known_heads), len(sentence.words))
        heads.append([*known_heads, *beyond])  # word i hangs on the word before it, which has the id i
        relations.append([*(names[number] for number in known_relations), *[fallback] * len(beyond)])
    scores = attachment_scores(part.gold, heads, relations)
    return {"las": scores.las, "uas": scores.uas, "clas": scores.clas}


class ParserHead(nn.Module):
    """Scores of arcs and of their relations; position 0 among the heads is the root, a learned vector.

    Args:
        root: the relation that hangs words on the root: these have no other, and no others have it.
    """

    def __init__(self, width: int, relations: int, root: int) -> None:
        super().__init__()
        self.root = root
        self.root_state = nn.Parameter(torch.zeros(width))
        self.arc_dependent, self.arc_head = (perceptron(width, ARC_SIZE, DROPOUT) for _ in range(2))
        self.relation_dependent, self.relation_head = (perceptron(width, RELATION_SIZE, DROPOUT) for _ in range(2))
        self.arcs = Biaffine(ARC_SIZE, ARC_SIZE, 1, bias_left=True, bias_right=False)
        self.relations = Biaffine(RELATION_SIZE, RELATION_SIZE, relations, bias_left=True, bias_right=True)

    def loss(self, states: Tensor, batch: Batch) -> Tensor:
        words, nodes = self._nodes(states, batch)
        arcs = mean_cross_entropy(self._arcs(words, nodes, batch), batch["heads"])
        relations = self._relations(words, nodes, batch["heads"].clamp(min=0))
        return arcs + mean_cross_entropy(relations, batch["relations"])

    def predict(self, states: Tensor, batch: Batch) -> list[Any]:
        """A pair (heads, relations) of each sentence."""
        words, nodes = self._nodes(states, batch)
        scores = self._arcs(words, nodes, batch).log_softmax(-1).double().cpu().numpy()
        lengths = (batch["starts"] != IGNORED).sum(1).tolist()
        trees = [_best_tree(matrix[:length, : length + 1]) for matrix, length in zip(scores, lengths)]
        heads = torch.zeros(batch["starts"].shape, dtype=torch.int64)
        for row, tree in zip(heads, trees):
            row[: len(tree)] = torch.from_numpy(tree)
        heads = heads.to(states.device)
        logits = self._relations(words, nodes, heads)
        logits[..., self.root] = -torch.inf
        best = torch.where(heads == 0, self.root, logits.argmax(-1)).tolist()
        return [(tree.tolist(), row[: len(tree)]) for tree, row in zip(trees, best)]

    def _nodes(self, states: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The words (B, W, h), and the same after the root (B, W + 1, h)."""
        words = mean_states(states, batch["starts"], batch["ends"])
        root = self.root_state.expand(len(words), 1, -1)
        return words, torch.cat([root, words], dim=1)

    def _arcs(self, words: Tensor, nodes: Tensor, batch: Batch) -> Tensor:
        """(B, W, W + 1), the score of each node as the head of each word; words that are none are out."""
        scores: Tensor = self.arcs(self.arc_dependent(words), self.arc_head(nodes)).squeeze(-1)
        none = torch.nn.functional.pad(batch["starts"] == IGNORED, (1, 0), value=False)
        return scores.masked_fill(none.unsqueeze(1), torch.finfo(scores.dtype).min)

    def _relations(self, words: Tensor, nodes: Tensor, heads: Tensor) -> Tensor:
        """(B, W, relations), the scores of the relations to the given heads (B, W)."""
        of_heads = self.relation_head(nodes)
        chosen = of_heads.gather(1, heads.unsqueeze(-1).expand(-1, -1, of_heads.shape[-1]))
        return self.relations.paired(self.relation_dependent(words), chosen)


def _best_tree(scores: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Heads (n,) from scores (n, n + 1)."""
    square = np.zeros((len(scores) + 1, len(scores) + 1))
    square[1:] = scores
    return maximum_spanning_tree(square)
