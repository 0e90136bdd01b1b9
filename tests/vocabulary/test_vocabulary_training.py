from __future__ import annotations

import json
import re
from weakref import finalize

import pytest
from joint_vocabularies import LINES, MINILM, other_kind, roberta, sentencepiece_kind, train, words
from tokenizers import models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tiny_tokenizers import FAMILIES, source_tokenizer
from trelm.errors import ConfigError, DataError
from trelm.vocabulary import ROLES, check_tokenizer, default_alphabet_limit, encode_lines


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerBase:
    return MINILM


@pytest.fixture(scope="module")
def joint(minilm: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    return train(minilm)


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
    changed = {key for key, value in after["model"].items() if value != before["model"][key]}
    assert changed == {"vocab", "max_input_chars_per_word"}
    assert after["model"]["max_input_chars_per_word"] == 1_000
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


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (models.Unigram([("<unk>", 0.0)], unk_id=0), "Unigram without Metaspace"),
        (models.BPE(), "BPE without bytes"),
        (models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"), "WordLevel"),
    ],
)
def test_other_kinds_are_refused_by_name(model, name):
    with pytest.raises(
        ConfigError, match=f"expected a WordPiece, Unigram or byte-level BPE tokenizer, found {name}; choose"
    ):
        train(other_kind(model))
    with pytest.raises(ConfigError, match=f"found {name}; choose another encoder"):
        check_tokenizer(other_kind(model))


def test_tokenizer_without_a_mask_is_refused():
    source = other_kind(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), unk_token="[UNK]")
    message = (
        "expected a tokenizer with cls (or bos), sep (or eos), pad, unk, mask tokens, "
        "found no cls (or bos), sep (or eos), pad, mask; choose an encoder"
    )
    for refuse in (train, check_tokenizer):
        with pytest.raises(ConfigError, match=re.escape(message)):
            refuse(source)


def test_slow_tokenizer_is_refused():
    for refuse in (train, check_tokenizer):
        with pytest.raises(ConfigError, match=r"expected a fast tokenizer \(tokenizer.json\), found object; choose"):
            refuse(object())  # type: ignore[operator]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_of_every_family_may_be_trained_after(family):
    before = source_tokenizer(family)
    spec = before.backend_tokenizer.to_str()
    check_tokenizer(before)
    assert before.backend_tokenizer.to_str() == spec


def test_bytes_need_no_unknown_token():
    source = roberta()
    source.unk_token = None
    check_tokenizer(source)
    source = sentencepiece_kind(models.Unigram([("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<mask>", 0.0)], None))
    source.unk_token = None
    with pytest.raises(ConfigError, match=r"expected a tokenizer with .*, found no unk; choose an encoder"):
        check_tokenizer(source)


def test_alphabet_limit_follows_the_script():
    assert default_alphabet_limit("Selamat pagi, dunia. مرحبا Xin chào") == 1_000
    assert default_alphabet_limit("") == 1_000
    assert default_alphabet_limit("我们的房子很大") == 30_000
    assert default_alphabet_limit("The house of our friends is big. 我们朋友的房子很大。") == 30_000
    assert default_alphabet_limit("새집은 아주 큽니다 " * 10 + "家") == 1_000


def test_lines_that_can_be_read_again_are_not_kept():
    class Lines:
        """Made anew each time; remembers how many were there at once."""

        def __init__(self) -> None:
            self.most = self.now = 0

        def __iter__(self):
            self.now = 0
            for line in [*LINES, " "] * 500:
                kept = Line(line)
                self.now += 1
                finalize(kept, self.leave)
                self.most = max(self.most, self.now)
                yield kept

        def leave(self) -> None:
            self.now -= 1

    class Line(str):
        """A string that can be watched."""

    again = Lines()
    rows = train(MINILM, again).get_vocab()
    assert rows == train(MINILM, LINES * 500).get_vocab() == train(MINILM, iter(LINES * 500)).get_vocab()
    assert again.most < 5_000 < len(LINES) * 500
