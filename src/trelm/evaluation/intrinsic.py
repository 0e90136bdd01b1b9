"""Masked-text scores that can be compared between models of different vocabularies: bits per character.

What is masked is chosen in the text (`trelm.evaluation.units`), not in the tokens, so every model has to fill the same
gaps, and what it pays is divided by the characters of the gaps, not by its own tokens:

    bits per character = sum over masked tokens of -log2 p(token | text with the gaps) / characters of the chosen units

Three things to know when comparing. The tokens of a gap are predicted at once, each without the others. A token that
reaches beyond its unit is masked and paid for whole. The number of [MASK] tokens tells a model how many pieces fill the
gap, and a lower-casing tokenizer does not pay for case: neither is corrected for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import log, log2
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from trelm.errors import ConfigError, DataError
from trelm.evaluation.units import Span, choose_units

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
NO_FORWARD_ARGUMENTS: Mapping[str, Any] = {}


@dataclass(frozen=True)
class IntrinsicScores:
    """What a masked language model scored on some lines.

    Attributes:
        bits_per_character: see the module; lower is better.
        masked_loss: mean -ln p of a masked token (nats); not comparable between vocabularies.
        masked_accuracy: share of masked tokens predicted exactly; an unknown token never counts as right.
        unit_accuracy: share of scored units all of whose tokens are right; comparable between vocabularies.
        masked_tokens, masked_units, masked_characters: how much was masked and scored.
        lines: lines scored; unscored_lines: those with nothing to mask (blank, or only units beyond the cut).
        truncated_lines: lines cut at the maximal length; dropped_units: chosen units beyond the cuts, scored nowhere.
            Models whose `dropped_units` are 0 were scored on exactly the same units.
        unknown_tokens: masked tokens that are the unknown token, each charged log2(alphabet size) a character.
        uncovered_units: chosen units that the tokenizer left without any token, charged in the same way.
    """

    bits_per_character: float
    masked_loss: float
    masked_accuracy: float
    unit_accuracy: float
    masked_tokens: int
    masked_units: int
    masked_characters: int
    lines: int
    unscored_lines: int
    truncated_lines: int
    dropped_units: int
    unknown_tokens: int
    uncovered_units: int

    def as_dict(self) -> dict[str, float | int]:
        """The scores by name."""
        return asdict(self)


@dataclass(frozen=True)
class MaskedLine:
    """One line as a model sees it.

    Attributes:
        ids: token ids with [MASK] at `positions`, special tokens included; positions: ascending.
        labels: the token ids that [MASK] replaced.
        unknown_characters: visible characters of each masked token that is the unknown token, else 0.
        units: for each scored unit, the indices into `positions` of its tokens (empty where no token covers it).
        unit_characters: characters of each scored unit.
        dropped_units: chosen units beyond the cut; truncated: whether the line was cut.
    """

    ids: Integers
    positions: Integers
    labels: Integers
    unknown_characters: Integers
    units: tuple[tuple[int, ...], ...]
    unit_characters: tuple[int, ...]
    dropped_units: int
    truncated: bool


def masked_text_scores(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[str],
    *,
    mask_rate: float = 0.15,
    seed: int,
    batch_tokens: int,
    max_length: int,
    device: torch.device | str,
    alphabet_size: int | None = None,
    forward_kwargs: Mapping[str, Any] = NO_FORWARD_ARGUMENTS,
    precision: Literal["float32", "bfloat16"] = "float32",
    on_progress: Callable[[int], None] | None = None,
) -> IntrinsicScores:
    """Score a masked language model on text (METHOD section 6).

    Args:
        model: called as `model(input_ids=..., attention_mask=..., **forward_kwargs).logits`; where it has a method
            `masked_logits(input_ids, attention_mask, positions, **forward_kwargs)`, that is called instead and gives
            logits [number of True in positions, vocabulary], row by row. Moved to `device`; training mode restored.
        tokenizer: a fast one, with a mask and a padding token.
        mask_rate: share of a line's units that are masked, all by [MASK]; at least one a line.
        batch_tokens: tokens of a batch, padding counted.
        max_length: tokens of a line, special ones counted; what does not fit is cut, dropped and counted.
        alphabet_size: what a character of an unknown token is chosen from; default: distinct characters of `lines`.
        precision: of the forward pass; probabilities are always float32.
        on_progress: called with the number of lines done so far.

    Raises:
        ConfigError: the tokenizer is not fast or lacks a mask or padding token, or `mask_rate` is out of range.
        DataError: no line has anything to mask.
    """
    padding = _special_id(tokenizer, "pad_token")
    masked = mask_lines(tokenizer, lines, mask_rate=mask_rate, seed=seed, max_length=max_length)
    masked.sort(key=lambda line: len(line.ids))
    log_probabilities, best, done = [np.zeros(0)], [np.zeros(0, dtype=np.int64)], 0
    model.to(device)
    with _evaluation_mode(model), torch.inference_mode():
        for batch in _batches(masked, batch_tokens):
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = _logits(model, batch, padding, device, forward_kwargs)
            labels = torch.from_numpy(_all_labels(batch)).to(device)
            log_probabilities.append(_label_log_probabilities(logits, labels).double().cpu().numpy())
            best.append(logits.argmax(dim=-1).cpu().numpy())
            done += len(batch)
            if on_progress:
                on_progress(done)
    predictions = np.concatenate(log_probabilities), np.concatenate(best)
    return _summarise(masked, *predictions, alphabet_size or _alphabet_size(lines))


def unigram_scores(
    counts: Sequence[int] | Integers,
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[str],
    *,
    mask_rate: float = 0.15,
    seed: int,
    max_length: int,
    alphabet_size: int | None = None,
) -> IntrinsicScores:
    """A floor: every masked token is predicted by its relative frequency in the training text, whatever the context.

    Args:
        counts: [vocabulary] occurrences of each id in the training text. One is added to each, since a probability of
            0 would cost infinitely many bits.
        Others, and what is raised: as in `masked_text_scores`.
    """
    frequencies = np.asarray(counts, dtype=np.float64) + 1
    masked = mask_lines(tokenizer, lines, mask_rate=mask_rate, seed=seed, max_length=max_length)
    labels = _all_labels(masked)
    log_probabilities = np.log(frequencies / frequencies.sum())[labels]
    best = np.full(len(labels), frequencies.argmax(), dtype=np.int64)
    return _summarise(masked, log_probabilities, best, alphabet_size or _alphabet_size(lines))


def mask_lines(
    tokenizer: PreTrainedTokenizerBase, lines: Sequence[str], *, mask_rate: float, seed: int, max_length: int
) -> list[MaskedLine]:
    """Each line tokenised, with every token that overlaps one of its chosen units replaced by the mask token.

    Raises:
        ConfigError: the tokenizer is not fast or has no mask token, or `mask_rate` is out of range.
        DataError: no line has anything to mask.
    """
    mask_id = _special_id(tokenizer, "mask_token")
    if not tokenizer.is_fast:
        raise ConfigError(
            f"evaluation: expected a fast tokenizer, found {type(tokenizer).__name__}; save it with a tokenizer.json"
        )
    chosen = [choose_units(line, mask_rate, seed) for line in lines]
    masked: list[MaskedLine] = []
    if lines:
        encodings = tokenizer(list(lines), truncation=True, max_length=max_length).encodings
        parts = zip(lines, encodings, chosen)
        masked = [_mask_line(line, encoding, units, mask_id, tokenizer.unk_token_id) for line, encoding, units in parts]
    if not any(line.units for line in masked):
        raise DataError(
            f"evaluation text: expected a line with something to mask, found none in {len(lines)} lines; "
            "give held-out text of the language, or raise max_length"
        )
    return masked


def _mask_line(line: str, encoding: Any, chosen: Sequence[Span], mask_id: int, unknown_id: int | None) -> MaskedLine:
    """`encoding` is a `tokenizers.Encoding`, cut at the maximal length, with what was cut as its overflow."""
    limit = _cut(encoding)
    kept = [span for span in chosen if limit is None or span[1] <= limit]
    tokens = _overlaps(encoding, kept)
    positions = sorted({position for unit in tokens for position in unit})
    rank = {position: index for index, position in enumerate(positions)}
    ids = np.array(encoding.ids, dtype=np.int64)
    labels = ids[positions]
    ids[positions] = mask_id
    unknown = [
        _visible_characters(line, encoding.offsets[position]) if label == unknown_id else 0
        for position, label in zip(positions, labels.tolist())
    ]
    return MaskedLine(
        ids=ids,
        positions=np.array(positions, dtype=np.int64),
        labels=labels,
        unknown_characters=np.array(unknown, dtype=np.int64),
        units=tuple(tuple(rank[position] for position in unit) for unit in tokens),
        unit_characters=tuple(end - start for start, end in kept),
        dropped_units=len(chosen) - len(kept),
        truncated=limit is not None,
    )


def _cut(encoding: Any) -> int | None:
    """The first character of what was cut off, or None where nothing was."""
    cut = [
        start
        for part in encoding.overflowing
        for (start, _), special in zip(part.offsets, part.special_tokens_mask)
        if not special
    ]
    return min(cut) if cut else None


def _overlaps(encoding: Any, spans: Sequence[Span]) -> list[list[int]]:
    """For each of `spans` (ascending), the positions of the tokens that overlap it."""
    found: list[list[int]] = [[] for _ in spans]
    first = 0
    for position, ((start, end), special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask)):
        if special or start == end:
            continue
        while first < len(spans) and spans[first][1] <= start:
            first += 1
        for index in range(first, len(spans)):
            if spans[index][0] >= end:
                break
            found[index].append(position)
    return found


def _visible_characters(line: str, span: Span) -> int:
    return sum(not character.isspace() for character in line[span[0] : span[1]])


def _alphabet_size(lines: Sequence[str]) -> int:
    return len(set().union(*lines))


def _special_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """The id of the tokenizer's `mask_token` or `pad_token`."""
    identifier = getattr(tokenizer, f"{name}_id")
    if identifier is None:
        raise ConfigError(
            f"evaluation: expected a tokenizer with a {name}, found {type(tokenizer).__name__} without one; "
            "only masked language models can be scored"
        )
    return int(identifier)


def _batches(lines: Sequence[MaskedLine], batch_tokens: int) -> Iterator[list[MaskedLine]]:
    """`lines` (by rising length) in groups of at most `batch_tokens`, padding counted.

    Lines without a label are left out: their chosen units have no token, so there is nothing to ask a model.
    """
    batch: list[MaskedLine] = []
    for line in lines:
        if not len(line.labels):
            continue
        if batch and (len(batch) + 1) * len(line.ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


def _logits(
    model: nn.Module,
    batch: Sequence[MaskedLine],
    padding: int,
    device: torch.device | str,
    forward_kwargs: Mapping[str, Any],
) -> Tensor:
    """The logits [masked tokens, vocabulary] of a batch, line by line, in float32."""
    shape = (len(batch), max(len(line.ids) for line in batch))
    ids = torch.full(shape, padding)
    attention = torch.zeros(shape, dtype=torch.int64)
    asked = torch.zeros(shape, dtype=torch.bool)
    for row, line in enumerate(batch):
        ids[row, : len(line.ids)] = torch.from_numpy(line.ids)
        attention[row, : len(line.ids)] = 1
        asked[row, torch.from_numpy(line.positions)] = True
    ids, attention, asked = ids.to(device), attention.to(device), asked.to(device)
    masked_logits = getattr(model, "masked_logits", None)
    if masked_logits is not None:
        logits: Tensor = masked_logits(ids, attention, asked, **forward_kwargs)
    else:
        logits = model(input_ids=ids, attention_mask=attention, **forward_kwargs).logits[asked]
    return logits.float()


def _label_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """ln p of each label: logits [n, vocabulary], labels [n] -> [n], without a second table of that size."""
    return logits.gather(1, labels[:, None]).squeeze(1) - logits.logsumexp(dim=-1)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode inside the block, and as it was after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _all_labels(masked: Sequence[MaskedLine]) -> Integers:
    """The labels of all lines, end to end."""
    return np.concatenate([line.labels for line in masked])


def _label_starts(masked: Sequence[MaskedLine]) -> Integers:
    """Where each line's labels start when all are laid end to end, and where the last end: [lines + 1]."""
    return np.cumsum([0, *(len(line.labels) for line in masked)])


def _right_units(masked: Sequence[MaskedLine], right: Flags) -> int:
    """Units that have tokens, all of them right: `right` [masked tokens]."""
    spans = pairwise(_label_starts(masked).tolist())
    return sum(
        bool(unit) and bool(right[start:end][list(unit)].all())
        for line, (start, end) in zip(masked, spans)
        for unit in line.units
    )


def _summarise(
    masked: Sequence[MaskedLine], log_probabilities: Floats, best: Integers, alphabet_size: int
) -> IntrinsicScores:
    """The scores of ln p(label) and the likeliest id of every masked token, line by line."""
    labels = _all_labels(masked)
    unknown = np.concatenate([line.unknown_characters for line in masked])
    right = (best == labels) & (unknown == 0)
    sizes = [(size, bool(unit)) for line in masked for unit, size in zip(line.units, line.unit_characters)]
    characters, tokens = sum(size for size, _ in sizes), len(labels)
    charged = int(unknown.sum()) + sum(size for size, covered in sizes if not covered)
    nats = -float(log_probabilities.sum())
    return IntrinsicScores(
        bits_per_character=(nats / log(2) + charged * log2(alphabet_size)) / characters,
        masked_loss=nats / max(tokens, 1),
        masked_accuracy=float(right.sum()) / max(tokens, 1),
        unit_accuracy=_right_units(masked, right) / len(sizes),
        masked_tokens=tokens,
        masked_units=len(sizes),
        masked_characters=characters,
        lines=sum(bool(line.units) for line in masked),
        unscored_lines=sum(not line.units for line in masked),
        truncated_lines=sum(line.truncated for line in masked),
        dropped_units=sum(line.dropped_units for line in masked),
        unknown_tokens=int((unknown > 0).sum()),
        uncovered_units=sum(not covered for _, covered in sizes),
    )
