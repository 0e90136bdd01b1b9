from __future__ import annotations

from math import log, log2
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from trelm.errors import ConfigError, DataError
from trelm.evaluation.intrinsic import (
    IntrinsicScores,
    mask_lines,
    masked_text_scores,
    unigram_scores,
)
from trelm.evaluation.units import choose_units

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "dog", "##s", "sat", "on", "mat", "un", "##believ", "##able", ".", ",", "我", "们"]
LINES = [
    "the cats sat on the mat.",
    "The unbelievable dog, the dogs",
    "我们 sat",
    "cat",
    "the dog sat on the cat on the mat on the dog, the cat sat.",
]
SETTINGS: dict[str, Any] = {"seed": 3, "mask_rate": 0.4, "max_length": 64}
RUN: dict[str, Any] = {**SETTINGS, "batch_tokens": 64, "device": "cpu"}


def word_tokenizer(words: list[str] = WORDS, **special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    settings = special or {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def character_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted({letter for line in LINES for letter in line.lower() if not letter.isspace()})
    return word_tokenizer([*letters, *(f"##{letter}" for letter in letters)])


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, as byte-level BPE has it where nothing was merged."""
    entries = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({entry: index for index, entry in enumerate(entries)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def tiny_bert(size: int) -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    return BertForMaskedLM(config)


class Uniform(nn.Module):
    """Knows nothing."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, self.vocabulary))


class Recorder(Uniform):
    """Remembers the shapes that it was given."""

    def __init__(self) -> None:
        super().__init__(64)
        self.shapes: list[tuple[int, int]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
        return super().forward(input_ids, attention_mask)


class Oracle(nn.Module):
    """Knows the original of every masked line, and gives it through `masked_logits`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, lines: list[str], sharpness: float = 1e4) -> None:
        super().__init__()
        masked = mask_lines(tokenizer, lines, **SETTINGS)
        self.answers = {tuple(line.ids.tolist()): line.labels.tolist() for line in masked}
        self.vocabulary, self.sharpness = len(tokenizer), sharpness

    def masked_logits(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        rows = [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(input_ids, attention_mask)]
        labels = torch.tensor([label for row in rows for label in self.answers[row]])
        assert len(labels) == int(positions.sum())
        return nn.functional.one_hot(labels, self.vocabulary) * self.sharpness


def naive_scores(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> dict[str, float]:
    """One sentence at a time, straight from the definition."""
    model.eval()
    bits, characters, right, tokens, right_units, units = 0.0, 0, 0, 0, 0, 0
    for line in lines:
        chosen = choose_units(line, SETTINGS["mask_rate"], SETTINGS["seed"])
        encoded = tokenizer(line, return_offsets_mapping=True)
        hit = [[s < end and start < e for s, e in encoded["offset_mapping"]] for start, end in chosen]
        masked = [any(column) for column in zip(*hit)]
        ids = torch.tensor(encoded["input_ids"])
        given = torch.where(torch.tensor(masked), tokenizer.mask_token_id, ids)
        with torch.no_grad():
            probabilities = model(input_ids=given[None]).logits[0].double().softmax(dim=-1)
        good = (probabilities.argmax(dim=-1) == ids).tolist()
        bits += sum(-log2(probabilities[i, ids[i]]) for i in range(len(ids)) if masked[i])
        characters += sum(end - start for start, end in chosen)
        right += sum(good[i] for i in range(len(ids)) if masked[i])
        tokens += sum(masked)
        units += len(chosen)
        right_units += sum(all(good[i] for i in range(len(ids)) if row[i]) for row in hit)
    return {
        "bits_per_character": bits / characters,
        "masked_loss": bits * log(2) / tokens,
        "masked_accuracy": right / tokens,
        "unit_accuracy": right_units / units,
        "masked_tokens": tokens,
        "masked_units": units,
        "masked_characters": characters,
        "lines": len(lines),
        "unscored_lines": 0,
        "truncated_lines": 0,
        "dropped_units": 0,
        "unknown_tokens": 0,
        "uncovered_units": 0,
    }


@pytest.mark.parametrize(
    "tokenizer", [word_tokenizer(), character_tokenizer(), byte_tokenizer()], ids=["words", "characters", "bytes"]
)
def test_scores_equal_a_naive_loop_whatever_the_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_bert(len(tokenizer))
    expected = naive_scores(model, tokenizer, LINES)
    for batch_tokens in (1, 40, 10_000):
        scores = masked_text_scores(model, tokenizer, LINES, **{**RUN, "batch_tokens": batch_tokens})
        assert scores.as_dict() == pytest.approx(expected, rel=1e-5)


def test_uniform_logits_cost_log_vocabulary_a_token() -> None:
    tokenizer = word_tokenizer()
    scores = masked_text_scores(Uniform(64), tokenizer, LINES, **RUN)
    assert scores.bits_per_character == pytest.approx(6 * scores.masked_tokens / scores.masked_characters, rel=1e-7)
    assert scores.masked_loss == pytest.approx(log(64), rel=1e-7)
    assert scores.masked_tokens > scores.masked_units


def test_a_perfect_model_pays_nothing() -> None:
    tokenizer = word_tokenizer()
    scores = masked_text_scores(Oracle(tokenizer, LINES), tokenizer, LINES, **RUN)
    assert (scores.bits_per_character, scores.masked_accuracy, scores.unit_accuracy) == (0, 1, 1)


def test_two_tokenizers_have_to_fill_the_same_gaps() -> None:
    one, two = (
        masked_text_scores(Uniform(64), tokenizer, LINES, **RUN)
        for tokenizer in (word_tokenizer(), character_tokenizer())
    )
    assert one.masked_tokens < two.masked_tokens
    for name in ("masked_units", "masked_characters", "lines"):
        assert getattr(one, name) == getattr(two, name)


def test_only_the_tokens_of_chosen_units_are_masked() -> None:
    line = "the unbelievable cats"
    (masked,) = mask_lines(word_tokenizer(), [line], mask_rate=0.01, seed=1, max_length=64)
    ((start, end),) = choose_units(line, 0.01, 1)
    pieces = {"the": [5], "unbelievable": [12, 13, 14], "cats": [6, 8]}
    expected = {word: [4] * len(ids) if word == line[start:end] else ids for word, ids in pieces.items()}
    assert masked.ids.tolist() == [2, *expected["the"], *expected["unbelievable"], *expected["cats"], 3]
    assert masked.labels.tolist() == pieces[line[start:end]]


def test_all_bytes_of_a_character_are_masked_and_no_space() -> None:
    (masked,) = mask_lines(byte_tokenizer(), ["我 é"], mask_rate=1, seed=0, max_length=64)
    assert masked.positions.tolist() == [0, 1, 2, 4, 5]
    assert masked.units == ((0, 1, 2), (3, 4))
    assert masked.unit_characters == (1, 1)


def test_a_cut_inside_a_character_drops_it() -> None:
    (masked,) = mask_lines(byte_tokenizer(), ["é我"], mask_rate=1, seed=0, max_length=4)
    assert (masked.positions.tolist(), masked.dropped_units, masked.truncated) == ([0, 1], 1, True)


def test_a_unit_is_right_only_where_all_of_its_tokens_are() -> None:
    """A model that always says `un`: one token of three, no unit."""
    tokenizer = word_tokenizer()
    scores = unigram_scores([0] * 12 + [9] + [0] * 6, tokenizer, ["unbelievable un"], **{**SETTINGS, "mask_rate": 1})
    assert scores.masked_accuracy == pytest.approx(2 / 4)
    assert scores.unit_accuracy == pytest.approx(1 / 2)


def test_an_unknown_token_is_charged_for_each_of_its_characters() -> None:
    """`xyzzy` is one [UNK]: a model that is sure of it still pays 5 characters of 32 letters, and is not right."""
    tokenizer, lines = word_tokenizer(), ["xyzzy"]
    scores = masked_text_scores(Oracle(tokenizer, lines), tokenizer, lines, alphabet_size=32, **RUN)
    assert scores.bits_per_character == pytest.approx(log2(32))
    assert (scores.unknown_tokens, scores.masked_accuracy, scores.unit_accuracy) == (1, 0, 0)


def test_the_alphabet_is_that_of_the_lines_by_default() -> None:
    tokenizer, lines = word_tokenizer(), ["abcd", "efgh"]
    scores = masked_text_scores(Oracle(tokenizer, lines), tokenizer, lines, **RUN)
    assert scores.bits_per_character == pytest.approx(log2(8))


def test_the_spaces_of_an_unknown_token_are_not_charged() -> None:
    """A tokenizer whose unknown token swallows two words and the space between."""
    vocabulary = {entry: index for index, entry in enumerate(SPECIAL)}
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    whole_lines = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole_lines, **special)
    (masked,) = mask_lines(tokenizer, ["ab cde"], mask_rate=1, seed=0, max_length=8)
    assert masked.unknown_characters.tolist() == [5]


def test_a_unit_without_tokens_is_charged_too() -> None:
    """The normaliser drops U+FFFD: the model is asked nothing, and gets nothing for free."""
    tokenizer = word_tokenizer()
    scores = masked_text_scores(Uniform(64), tokenizer, ["\ufffd\ufffd"], alphabet_size=16, **{**RUN, "mask_rate": 1})
    assert scores.bits_per_character == pytest.approx(4)
    assert (scores.uncovered_units, scores.masked_tokens, scores.masked_loss, scores.unit_accuracy) == (2, 0, 0, 0)


def test_what_is_cut_is_dropped_and_counted() -> None:
    tokenizer = word_tokenizer()
    line = "the cat sat on unbelievable dogs"
    (masked,) = mask_lines(tokenizer, [line], mask_rate=1, seed=0, max_length=8)
    # [CLS] the cat sat on un ##believ [SEP]: the cut goes through `unbelievable`, which is dropped but stays visible.
    assert masked.ids.tolist() == [2, 4, 4, 4, 4, 12, 13, 3]
    scores = masked_text_scores(Uniform(64), tokenizer, [line, "cat"], **{**RUN, "mask_rate": 1, "max_length": 8})
    assert (scores.truncated_lines, scores.dropped_units, scores.masked_units, scores.lines) == (1, 2, 5, 2)
    assert scores.masked_characters == len("thecatsaton" + "cat")


def test_batches_keep_to_their_tokens_and_are_full() -> None:
    model = Recorder()
    masked_text_scores(model, word_tokenizer(), ["cat"] * 7 + ["cat sat on"] * 3, **{**RUN, "batch_tokens": 12})
    # Lines of 3 tokens go by four; a line of 5 does not fit beside the three of 3 that are left over.
    assert model.shapes == [(4, 3), (3, 3), (2, 5), (1, 5)]
    model.shapes.clear()
    masked_text_scores(model, word_tokenizer(), ["cat", "cat sat on"], **{**RUN, "batch_tokens": 1})
    assert model.shapes == [(1, 3), (1, 5)]


def test_blank_lines_are_counted_apart() -> None:
    scores = masked_text_scores(Uniform(64), word_tokenizer(), ["", "cat", "  "], **RUN)
    assert (scores.lines, scores.unscored_lines) == (1, 2)


def test_the_frequency_floor_by_hand() -> None:
    """`cat` 7 times, `dog` once, one added to each of 19 entries: p(cat) = 8/27, p(dog) = 2/27."""
    counts = [0] * 19
    counts[6], counts[7] = 7, 1
    settings: dict[str, Any] = {"seed": 1, "mask_rate": 1, "max_length": 8}
    scores = unigram_scores(counts, word_tokenizer(), ["cat dog"], **settings)
    assert scores.bits_per_character == pytest.approx((log2(27 / 8) + log2(27 / 2)) / 6)
    assert scores.masked_accuracy == 0.5


def test_training_modes_are_restored_also_after_an_error() -> None:
    tokenizer = word_tokenizer()
    model = tiny_bert(len(tokenizer)).train()
    model.bert.embeddings.eval()
    before = [module.training for module in model.modules()]
    masked_text_scores(model, tokenizer, LINES, **RUN)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(TypeError, match="input_ids"):
        masked_text_scores(model, tokenizer, LINES, forward_kwargs={"input_ids": None}, **RUN)
    assert [module.training for module in model.modules()] == before


def test_bfloat16_is_near_float32() -> None:
    tokenizer = word_tokenizer()
    model = tiny_bert(len(tokenizer))
    exact = masked_text_scores(model, tokenizer, LINES, **RUN)
    rounded = masked_text_scores(model, tokenizer, LINES, precision="bfloat16", **RUN)
    assert rounded.bits_per_character == pytest.approx(exact.bits_per_character, rel=0.05)
    assert rounded.bits_per_character != exact.bits_per_character


def test_progress_and_forward_arguments_are_passed_on() -> None:
    tokenizer = word_tokenizer()
    seen: list[int] = []
    model = tiny_bert(len(tokenizer))
    plain = masked_text_scores(model, tokenizer, LINES, on_progress=seen.append, **RUN)
    assert seen == sorted(set(seen))
    assert seen[-1] == len(LINES)
    types = torch.ones(1, 1, dtype=torch.int64)
    other = masked_text_scores(model, tokenizer, LINES, forward_kwargs={"inputs_embeds": None}, **RUN)
    shifted = masked_text_scores(
        model, tokenizer, LINES[:1], forward_kwargs={"token_type_ids": types.expand(1, 10)}, **RUN
    )
    assert plain == other
    assert shifted != masked_text_scores(model, tokenizer, LINES[:1], **RUN)


def test_scores_as_plain_values() -> None:
    scores = masked_text_scores(Uniform(64), word_tokenizer(), LINES, **RUN)
    assert IntrinsicScores(**scores.as_dict()) == scores  # type: ignore[arg-type]


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_nothing_to_mask_is_refused(lines: list[str]) -> None:
    words = rf"evaluation text: expected a line with something to mask, found none in {len(lines)} lines; give held-out"
    with pytest.raises(DataError, match=words):
        masked_text_scores(Uniform(64), word_tokenizer(), lines, **RUN)


@pytest.mark.parametrize("missing", ["mask_token", "pad_token"])
def test_a_tokenizer_without_mask_or_padding_is_refused(missing: str) -> None:
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    del special[missing]
    with pytest.raises(ConfigError, match=f"expected a tokenizer with a {missing}, found .* without one; only masked"):
        masked_text_scores(Uniform(64), word_tokenizer(**special), LINES, **RUN)


def test_a_slow_tokenizer_is_refused() -> None:
    slow: Any = SimpleNamespace(mask_token_id=4, pad_token_id=0, is_fast=False)
    with pytest.raises(
        ConfigError, match=r"expected a fast tokenizer, found SimpleNamespace; save it with a tokenizer"
    ):
        masked_text_scores(Uniform(64), slow, LINES, **RUN)
