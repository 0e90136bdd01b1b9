"""Finding a sentence's translation by its mean-pooled states, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trelm.tasks.encoder import Encoder
from trelm.tasks.reading import Parts
from trelm.tasks.subwords import Part, numbers, padding_id, special_frame
from trelm.tasks.tuning import Tell, on_device
from trelm.training.order import pack

BATCH_TOKENS, CHUNK = 8192, 1024


def retrieval(encoder: Encoder, parts: Parts, max_length: int, tell: Tell) -> dict[str, Any]:
    """Accuracy of the nearest neighbour by cosine, both ways, at each layer.

    States are averaged over a sentence's tokens, special ones left out, and centred on each side's mean. A TreLM model
    reads the first column in its first language, the second in its second.

    Returns:
        `metric`, `score` and `scores` at `layer`, which dev chose (`layer_chosen_on` dev) or which is the last;
        `by_layer`: accuracy on test after the embeddings and after each layer; `data`.
    """
    model = encoder.build().to(encoder.device)
    model.train(False)
    length = encoder.longest(max_length)
    by_layer, counts = {}, {}
    for name, pairs in (("dev", parts.dev), ("test", parts.test)):
        if pairs:
            sides, cut = zip(
                *(_embedded(model, encoder, [p[side] for p in pairs], side, length, tell) for side in (0, 1))
            )
            by_layer[name] = [_accuracies(first, second) for first, second in zip(*sides)]
            counts[name] = {"examples": len(pairs), "cut_texts": sum(cut)}
    means = {name: [sum(both) / 2 for both in layers] for name, layers in by_layer.items()}
    layer = int(np.argmax(means["dev"])) if "dev" in means else len(means["test"]) - 1
    forward, backward = by_layer["test"][layer]
    return {
        "metric": "accuracy",
        "score": means["test"][layer],
        "spread": None,
        "scores": {"accuracy": means["test"][layer], "forward": forward, "backward": backward},
        "layer": layer,
        "layer_chosen_on": "dev" if "dev" in means else "nothing: the last",
        "by_layer": means["test"],
        "data": counts,
    }


def _embedded(
    model: nn.Module, encoder: Encoder, texts: Sequence[str], side: int, length: int, tell: Tell
) -> tuple[list[Tensor], int]:
    """For each layer the centred, normalised sentence vectors (N, h); and how many texts were cut."""
    prefix, suffix = special_frame(encoder.tokenizer)
    room = length - len(prefix) - len(suffix)
    bare = [encoder.tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"] for text in texts]
    ids = [(*prefix, *tokens[:room], *suffix) for tokens in bare]
    targets = [{"content": numbers([1] * min(len(tokens), room))} for tokens in bare]
    part = Part(ids, targets, texts, padding_id(encoder.tokenizer), side if encoder.languages else None)
    lengths = part.lengths()
    found: list[list[Tensor]] = [[] for _ in texts]
    done = 0
    with torch.inference_mode():
        for indices in pack(np.argsort(lengths, kind="stable"), lengths, BATCH_TOKENS):
            for index, layers in zip(indices.tolist(), _means(model, part, indices, len(prefix), encoder.device)):
                found[index] = list(layers)
            done += len(indices)
            tell.update(done, len(texts), "sentences")
    by_layer = [torch.stack([layers[number] for layers in found]) for number in range(len(found[0]))]
    centred = [functional.normalize(vectors - vectors.mean(0), dim=-1) for vectors in by_layer]
    return centred, sum(len(tokens) > room for tokens in bare)


def _means(model: nn.Module, part: Part, indices: Any, first: int, device: str) -> Tensor:
    """The mean states of each sentence at each layer, (B, layers, h)."""
    batch = on_device(part.collate(indices, np.random.default_rng(0)), device)
    content = batch.pop("content") == 1
    states = model(**batch, output_hidden_states=True).hidden_states
    weights = content.to(states[0].dtype).unsqueeze(-1)
    shown = slice(first, first + content.shape[1])
    total = weights.sum(1).clamp(min=1)
    return torch.stack([(layer[:, shown] * weights).sum(1) / total for layer in states], dim=1).float().cpu()


def _accuracies(first: Tensor, second: Tensor) -> tuple[float, float]:
    """How often row i of the one side is nearest to row i of the other, each way; ties go against it."""
    return _accuracy(first, second), _accuracy(second, first)


def _accuracy(queries: Tensor, candidates: Tensor) -> float:
    hits = 0
    for start in range(0, len(queries), CHUNK):
        similarity = queries[start : start + CHUNK] @ candidates.T
        rows = torch.arange(len(similarity))
        own = similarity[rows, rows + start].clone()
        similarity[rows, rows + start] = -torch.inf
        hits += int((own > similarity.max(1).values).sum())
    return hits / len(queries)
