"""A comparison of the toy world: every arm in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toy import in_target, one_core, sentences, toy_values, write_toy_data
from trelm import pipeline
from trelm.config import Config, make_config, override_values

TAGGED_SENTENCES = 24


def comparison_config(data: Path, model: Path, *overrides: str) -> Config:
    """Two arms, one seed, a budget of twelve updates, and parts of speech that are told by a word's last letter."""
    if not (data / "pairs.tsv").exists():
        write_toy_data(data)
        for number, part in enumerate(("train", "dev", "test")):
            write_tagged(data / f"{part}.conll", seed=number)
    tuning = {"learning_rates": [1e-3], "epochs": 1}
    values: dict[str, Any] = toy_values(data, model) | {
        "evaluation": [
            {"task": "translation", "test": str(data / "dictionary.tsv")},
            {"task": "tagging", "name": "letters", "fine_tuning": tuning}
            | {part: str(data / f"{part}.conll") for part in ("train", "dev", "test")},
        ],
        "comparison": {"arms": ["trelm-recommended", "scratch"], "seeds": [1], "evaluations": 3, "curve_lines": 10},
    }
    values["alignment"] |= {"adversarial_epochs": 1, "adversarial_samples": 300, "discriminator_width": 16}
    return make_config(override_values(values, overrides), origin="toy")


def write_tagged(path: Path, seed: int) -> None:
    """CoNLL columns: words of toy sentences, and their last letter."""
    lines = []
    for words in sentences(TAGGED_SENTENCES, 50 + seed):
        lines += [f"{word}\t{word[-1]}" for word in in_target(words).split()] + [""]
    path.write_text("\n".join(lines), encoding="utf-8")


def compare_toy(config: Config, folder: Path) -> dict[str, Any]:
    """`trelm.pipeline.compare`, quiet, on one core."""
    with one_core():
        return pipeline.compare(config, folder, quiet=True)
