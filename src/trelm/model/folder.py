"""What a model folder may hold: it comes from others, and is looked through before any library opens it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING

from trelm.errors import ConfigError, first_line

CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer_config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"
LARGEST_JSON = 50_000_000
"""Bytes of a configuration or of the list of shards; those of real models take some thousands, rarely a million."""
LAYER_COUNTS = ("num_hidden_layers", "n_layers", "num_layers")
SIZES = ("vocab_size", "hidden_size", "dim", "intermediate_size", "hidden_dim", "embedding_size", "type_vocab_size",
         "max_position_embeddings", "head_dim")  # fmt: skip
ANY_SIZE = 100_000
"""Up to here a size needs nothing of that size in the weights: rotary encoders have no table of positions."""


def check_folder(key: str, name: str, *, follow_links: bool = False) -> None:
    """Refuse a folder that would read elsewhere, needs code of its own, or asks for a model that its weights are not.

    Nothing is loaded, and nothing here or later unpickles or runs anything of it. What is no folder is left alone.

    Args:
        key: begins the message, as in "source.model: ". follow_links: let links lead out of the folder.

    Raises:
        ConfigError: a link that leads out of the folder (to the blobs of the same model in a cache of Hugging Face it
            may), a configuration that is no JSON object or too large, one that needs code of the checkpoint, a shard
            elsewhere, or sizes that nothing in the weights has.
    """
    folder = Path(name)
    if not os.path.isdir(folder):
        return
    if not follow_links:
        _check_links(key, folder)
    config, tokenizer = (_read_object(key, folder / file) for file in (CONFIG_FILE, TOKENIZER_FILE))
    _check_code(key, folder, config, tokenizer)
    _check_sizes(key, folder, config)


def needs_code(config: Mapping[str, Any]) -> str | None:
    """The code of a checkpoint without which its configuration means nothing, in words; None where none is needed."""
    wanted, kind = config.get("auto_map"), config.get("model_type")
    if not wanted or (isinstance(kind, str) and kind in CONFIG_MAPPING):
        return None  # transformers has a class of its own for it: the code that lies beside is not looked at
    return f"auto_map {json.dumps(wanted)[:200]} for the model type '{kind}'"


def _check_links(key: str, folder: Path) -> None:
    root = os.path.realpath(folder)
    cache = Path(root).parents[1] if len(Path(root).parents) > 2 else None
    if cache is not None and Path(root).parent.name == "snapshots" and cache.name.startswith("models--"):
        root = str(cache)  # a snapshot in a cache of Hugging Face is made of links to the blobs beside it
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        leads_to = os.path.realpath(entry.path) if entry.is_symlink() else root
        if leads_to != root and not leads_to.startswith(root + os.sep):
            raise ConfigError(
                f"{key}{folder}: expected files of its own, found {entry.name}, a link to {leads_to}; put the file in "
                "its place, or set source.follow_links: true where you trust the folder"
            )


def _read_object(key: str, path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON:,} bytes")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"a value of type {type(value).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{key}{path.parent}: expected a JSON object in {path.name}, found {first_line(error)}; download the model "
            "again"
        ) from None
    return value


def _check_code(key: str, folder: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    found = needs_code(config)
    wanted = tokenizer.get("auto_map")
    if found is None and wanted and not (folder / "tokenizer.json").is_file():
        found = f"auto_map {json.dumps(wanted)[:200]} and no tokenizer.json"
    if found is not None:
        raise ConfigError(
            f"{key}{folder}: expected a model that transformers reads by itself, found one that needs code of its own "
            f"({found}); code of a checkpoint is never run: give another one"
        )


def _check_sizes(key: str, folder: Path, config: Mapping[str, Any]) -> None:
    """A model is built as its configuration asks, before any weight is read: so many layers, tables of such sizes."""
    shapes = list(_shapes(key, folder))
    if not shapes:
        return
    largest = max((size for shape in shapes for size in shape), default=0)
    for name, value in _numbers(config):
        most = len(shapes) if name in LAYER_COUNTS else max(largest, ANY_SIZE)
        if value > most:
            raise ConfigError(
                f"{key}{folder}: expected a {name} that fits its weights ({len(shapes)} tensors, none larger than "
                f"{largest:,} in any dimension), found {value}; correct its config.json, or download the model again"
            )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every layer count and size, also of configurations inside the configuration."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif name in (*LAYER_COUNTS, *SIZES) and isinstance(value, (int, float)):
            yield name, value


def _shapes(key: str, folder: Path) -> Iterator[list[int]]:
    """The shapes of all tensors in the folder's weights."""
    for path in _weight_files(key, folder):
        try:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (it is no mapping)
                    yield weights.get_slice(name).get_shape()
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError(
                f"{key}{folder}: expected weights as safetensors, found a damaged {path.name} ({first_line(error)}); "
                "download the model again"
            ) from None


def _weight_files(key: str, folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    shards = _read_object(key, folder / WEIGHTS_INDEX).get("weight_map", {})
    names = sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []
    for name in names:
        if name != Path(name).name or not (folder / name).is_file():
            raise ConfigError(
                f"{key}{folder}: expected names of files of its own in {WEIGHTS_INDEX}, found '{name}'; download the "
                "model again"
            )
    return [folder / name for name in names]
