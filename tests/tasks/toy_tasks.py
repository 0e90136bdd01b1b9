"""Small tasks whose truth a random BERT of width 32 learns in seconds, and an encoder to learn them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from trelm.config import EvaluationConfig, FineTuningConfig
from trelm.steps.tasks import encoder_of
from trelm.tasks.encoder import Encoder

VERBS = {"said": "say.01", "made": "make.02", "come": "come.03"}
NOUNS = ["people", "state", "work", "years", "man"]
OTHERS = ["the", "of", "very", "good", "long"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Told:
    """What was told of progress."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.updates = 0

    def update(self, done: float, total: float | None = None, unit: str = "", **figures: float) -> None:
        self.updates += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def toy_encoder(**changes: Any) -> Encoder:
    """A random BERT whose vocabulary is the toy words."""
    words = [*SPECIAL, *VERBS, *NOUNS, *OTHERS, "un", "##known"]
    tokenizer = BertTokenizer(vocab={word: row for row, word in enumerate(words)}, do_lower_case=False)
    settings = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, pad_token_id=0, **settings | changes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return encoder_of(BertModel(config), tokenizer, device="cpu", precision="float32")


def sentences(count: int, seed: int) -> list[list[str]]:
    """Three to eight words, exactly one of them a verb."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words = [str(word) for word in random.choice(NOUNS + OTHERS, size=random.integers(2, 8))]
        words.insert(int(random.integers(len(words) + 1)), str(random.choice(list(VERBS))))
        made.append(words)
    return made


def write_part(kind: str, path: Path, found: list[list[str]]) -> Path:
    """The sentences as a file of the task, their truth a function of the words."""
    lines: list[str] = []
    for words in found:
        verb = next((i for i, word in enumerate(words) if word in VERBS), -1)
        if kind == "classification":
            lines.append(json.dumps({"text": " ".join(words), "label": words[verb]}))
        elif kind in ("tagging", "entities"):
            names = ("NOUN", "VERB", "X") if kind == "tagging" else ("B-PER", "B-LOC", "O")
            tags = [names[0] if word in NOUNS else names[1] if word in VERBS else names[2] for word in words]
            lines += [*(f"{word}\t{tag}" for word, tag in zip(words, tags)), ""]
        else:
            for number, word in enumerate(words):
                head, relation = (0, "root") if number == verb else (verb + 1, "nsubj" if word in NOUNS else "advmod:x")
                columns = [str(number + 1), word, word, "X", "_", "_", str(head), relation, "_", "_"]
                if kind == "roles":
                    role = "V" if number == verb else "A0" if word in NOUNS else "_"
                    columns += [VERBS.get(word, "_"), role]
                lines.append("\t".join(columns))
            lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def toy_task(kind: str, folder: Path, *, count: int = 150, **tuning: Any) -> EvaluationConfig:
    """A task with train, dev and test in `folder`."""
    ending = {"classification": "jsonl", "tagging": "tsv", "entities": "tsv"}.get(kind, "conllu")
    parts = {
        part: (str(write_part(kind, folder / f"{kind}-{part}.{ending}", sentences(size, seed))),)
        for seed, (part, size) in enumerate({"train": count, "dev": 40, "test": 40}.items())
    }
    settings = {"learning_rates": (2e-3,), "head_learning_rate": 5e-3, "seeds": (1,), "epochs": 6, "batch_tokens": 256}
    return EvaluationConfig(task=kind, fine_tuning=FineTuningConfig(**settings | tuning), **parts)  # type: ignore[arg-type]
