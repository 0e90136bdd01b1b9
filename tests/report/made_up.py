"""A comparison as `trelm compare` leaves it, made up: curves fall to a floor of each arm, seeds differ a little."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

HOSTILE = "</script><script>alert('x')</script> & \"quotes\" | `ticks` <b>"
# For each arm what it is, and its bits per character at the start and at the end.
ARMS = {
    "trelm-recommended": ("the whole method as we recommend it", 3.2, 1.86),
    "trelm-paper": ("the whole method with the paper's settings", 4.6, 1.97),
    "scratch": ("the same architecture, every weight drawn at random", 5.9, 2.31),
    "source-tokenizer": ("the source's own tokenizer and weights, trained on", 3.9, 2.12),
    "random": ("the source's body, rows of the new vocabulary drawn at random", 5.6, 2.08),
    "counts": ("rows as mixtures of linked source rows, by counts of links", 3.1, 1.93),
    "focus": ("rows as mixtures of overlapping entries (FOCUS)", 3.7, 1.99),
    "no-cdlm": ("the whole method without the cross-lingual objective", 3.2, 1.91),
}
SEEDS = (1, 2, 3)
TASKS = {
    "GSD": ("parsing", "las"),
    "NusaX sentiment": ("classification", "accuracy"),
    "NERGrit": ("entities", "f1"),
}


def write_made_up(run: Path, **changes: Any) -> Path:
    """The whole comparison in `run`, with parts of `comparison.json` changed; gives `run`."""
    run.mkdir(parents=True, exist_ok=True)
    write(run / "comparison.json", comparison() | changes)
    for arm in ARMS:
        for seed in SEEDS:
            write(run / "results" / arm / f"seed-{seed}.json", cell(arm, seed))
    return run


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def cell(arm: str, seed: int) -> dict[str, Any]:
    noise = random.Random(f"{arm} {seed}")
    _, start, end = ARMS[arm]
    end += noise.gauss(0, 0.012)
    updates = [0, 50, 100, 200, 400, 600, 800, 1000, 1200]
    bits = [end + (start - end) * 2 ** (-update / 150) for update in updates]
    quality = (2.6 - end) / 1.2
    scores = {
        "GSD": {"uas": 0.72 + 0.15 * quality, "las": 0.63 + 0.2 * quality, "clas": 0.58 + 0.22 * quality},
        "NusaX sentiment": {"accuracy": 0.55 + 0.3 * quality, "macro_f1": 0.52 + 0.3 * quality},
        "NERGrit": {"f1": 0.4 + 0.4 * quality, "precision": 0.38 + 0.4 * quality, "recall": 0.41 + 0.4 * quality},
    }
    tasks = {
        label: {"task": task, "metric": metric, "score": scores[label][metric], "scores": scores[label]}
        for label, (task, metric) in TASKS.items()
    }
    return {
        "arm": arm,
        "seed": seed,
        "budget": {"flops": 8e13},
        "metrics": {
            "bits_per_character": end,
            "unit_accuracy": 0.55 * quality,
            **{label: result["score"] for label, result in tasks.items()},
        },
        "tasks": tasks,
        "curve": {
            "updates": updates,
            "tokens": [update * 4096 for update in updates],
            "seconds": [update * (0.6 + 0.02 * seed) for update in updates],
            "flops": [update * 6.6e10 for update in updates],
            "bits_per_character": bits,
        },
        "cost": {
            "seconds": 1200 * (0.6 + 0.02 * seed),
            "tokens": 4915200,
            "flops": 8e13,
            "updates": 1200,
            "preparation_seconds": 0.0 if arm in ("scratch", "random") else 212.5,
            "parameters": 22713216,
        },
        "start": {"unit_accuracy": 0.02 * (6 - start), "bits_per_character": start},
        "examples": [
            {"text": text, "truth": truth, "predictions": guesses(noise, truth)} for text, truth in sentences()
        ],
        "device": "cpu",
        "precision": "bfloat16",
        "versions": {"torch": "2.13.0"},
    }


def sentences() -> list[tuple[str, str]]:
    return [
        ("Jakarta adalah [MASK] kota negara Indonesia sejak tahun 1945.", "ibu"),
        ("Dia membaca [MASK] di perpustakaan setiap hari.", "buku"),
        ("Kami akan pergi ke [MASK] besok pagi untuk membeli sayur dan buah-buahan.", "pasar"),
    ]


def guesses(noise: random.Random, truth: str) -> list[dict[str, Any]]:
    words = noise.sample(["orang", "rumah", "koran", "sekolah", "nama", truth, truth + "nya"], 5)
    left = 0.9
    found = []
    for word in words:
        found.append({"token": word, "score": left * 0.5})
        left *= 0.5
    return found


def comparison() -> dict[str, Any]:
    noise = random.Random(7)
    words = [("house", "rumah"), ("book", "buku"), ("water", "air"), ("city", "kota"), ("mother", "ibu")]
    points = []
    for group, pair in enumerate(words):
        x, y = noise.gauss(0, 1), noise.gauss(0, 1)
        points += [
            {"x": x + noise.gauss(0, 0.1), "y": y, "token": token, "side": side, "group": group}
            for token, side in zip(pair, ("source", "target"))
        ]
    points += [
        {"x": noise.gauss(0, 1), "y": noise.gauss(0, 1), "token": f"kata{i}", "side": "target", "group": None}
        for i in range(60)
    ]
    return {
        "title": "MiniLM, English to Indonesian: eight ways of starting",
        "languages": {"source": "en", "target": "id"},
        "budget": {"flops": 8e13},
        "budget_rule": "Every arm spends the same 8 × 10¹³ FLOPs of training; its preparation is not counted.",
        "arms": {arm: words for arm, (words, _, _) in ARMS.items()},
        "seeds": list(SEEDS),
        "tasks": {label: {"task": task, "metric": metric} for label, (task, metric) in TASKS.items()},
        "failed": {},
        "word_links": {
            "source": ["we", "are", "going", "to", "the", "market", "tomorrow", "morning", "."],
            "target": ["kami", "akan", "pergi", "ke", "pasar", "besok", "pagi", "."],
            "forward": [[0, 0], [1, 1], [2, 2], [3, 3], [5, 4], [6, 5], [7, 6], [8, 7]],
            "reverse": [[0, 0], [2, 1], [2, 2], [3, 3], [4, 4], [5, 4], [6, 5], [7, 6], [8, 7]],
        },
        "projection": {"method": "PCA of 70 rows: 5 translation pairs and frequent words", "points": points},
        "diagnosis": {
            "initialisation": "counts",
            "entries": {"shared": {"entries": 4321, "share_of_entries": 0.2161}},
            "tokenizers": {"new": {"fertility": 1.342}, "source": {"fertility": 2.499}},
            "warnings": [],
        },
        "config": "seed: 17\ncomparison:\n  arms: [trelm-recommended, scratch]\n",
        "versions": {"torch": "2.13.0", "trelm": "0.1.0"},
    }
