"""Every family's tokenizer, trained on text of five languages and four scripts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_vocabularies import sentencepiece_kind, train, words
from sentences_of_five import LINES, NEW_WORDS, SENTENCES
from tokenizers import decoders, models, normalizers
from transformers import AddedToken, AutoTokenizer, DebertaV2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tiny_tokenizers import FAMILIES, source_tokenizer
from trelm.errors import ConfigError
from trelm.vocabulary import encode_lines, is_continuation, save_tokenizer, special_rows, unigram
from trelm.vocabulary.models import BYTES

BYTE_LEVEL = ("roberta", "modernbert", "eurobert")
UNIGRAM = ("xlm-roberta", "camembert", "deberta-v2")
WORDPIECE = ("bert", "electra", "distilbert", "nomic_bert", "mpnet")
FALLBACKS = ("unigram", "bpe", "deberta-v3", "bpe-v3")  # of SentencePiece's kind, with bytes
FORGETFUL = ("deberta-v3", "bpe-v3")  # they have entries for all bytes, and their classes do not use them
SPECIALS = {
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "xlm-roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "camembert": ["<unk>", "<pad>", "<s>", "</s>", "<mask>"],
    "mpnet": ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"],
    "deberta-v2": ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
    "modernbert": ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
    "eurobert": ["<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|pad|>"],
}
BERTS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNSEEN = "한국어 ქართული 😀 ꙮ"
CHARACTERS = sorted({character for line in LINES for character in line})


@cache
def source(family: str) -> PreTrainedTokenizerBase:
    return byte_fallback(family) if family in FALLBACKS else source_tokenizer(family)


@cache
def joint(family: str) -> PreTrainedTokenizerFast:
    return train(source(family), LINES, size=900)


def byte_fallback(kind: str) -> PreTrainedTokenizerBase:
    entries = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *BYTES, "▁", "a"]
    if kind == "deberta-v3":
        specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
        pieces = [(entry, 0.0) for entry in (*specials, *BYTES, "▁", "a", "[MASK]")]
        return DebertaV2Tokenizer(vocab=pieces, model_max_length=512)
    if kind == "unigram":
        return sentencepiece_kind(models.Unigram([(entry, -1.0) for entry in entries], 3, True))
    rows = {entry: row for row, entry in enumerate(entries)}
    uses = kind not in FORGETFUL
    tokenizer = sentencepiece_kind(models.BPE(rows, [], byte_fallback=uses, unk_token="<unk>", fuse_unk=True))
    if not uses:
        tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def there_and_back(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    return str(tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True))


def without_spaces(text: str) -> str:
    return "".join(text.split())


def one_space(text: str) -> str:
    return " ".join(text.split())


def unknowns(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return tokenizer.encode(text).count(tokenizer.unk_token_id)


def allowed(family: str, text: str) -> str:
    """What may become of a text: nothing else may be lost.

    BERT's kind: lower case, and spaces anywhere (they are compared without). XLM-R and CamemBERT: NFKC and single
    spaces. DeBERTa: NFC and single spaces. ModernBERT: NFC. RoBERTa and EuroBERT: not a single byte changes.
    """
    if family in WORDPIECE:
        return without_spaces(text.lower())
    if family in ("xlm-roberta", "camembert"):
        return one_space(unicodedata.normalize("NFKC", text))
    if family in ("deberta-v2", "deberta-v3"):
        return one_space(unicodedata.normalize("NFC", text))
    return unicodedata.normalize("NFC", text) if family == "modernbert" else text


def test_new_words_are_of_characters_that_the_text_has():
    assert set("".join(NEW_WORDS.values())) <= {*CHARACTERS, " "}
    assert not any(word in line for word in NEW_WORDS.values() for line in LINES)


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("family", [*FAMILIES, *FALLBACKS])
def test_sentences_and_new_words_come_back_with_every_sign(family, language):
    for text in [*SENTENCES[language], NEW_WORDS[language]]:
        back = there_and_back(joint(family), text)
        assert (without_spaces(back) if family in WORDPIECE else back) == allowed(family, text)
        assert unknowns(joint(family), text) == 0


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40)
@given(st.lists(st.text(st.sampled_from(CHARACTERS), max_size=12), max_size=6))
def test_any_text_of_the_alphabet_comes_back_as_the_normaliser_leaves_it(family, pieces):
    # The normaliser is judged by the sentences above: on marks in impossible places it need not equal NFKC.
    tokenizer, text = joint(family), " ".join(pieces)
    normaliser = tokenizer.backend_tokenizer.normalizer
    normalised = normaliser.normalize_str(text) if normaliser else text
    back = there_and_back(tokenizer, text)
    if family in BYTE_LEVEL:
        assert back == normalised
    else:
        assert without_spaces(back) == without_spaces(normalised)
        assert family in WORDPIECE or one_space(back) == one_space(normalised)
    assert unknowns(tokenizer, text) == 0


@settings(max_examples=60)
@given(st.text())
def test_bytes_are_never_unknown_whatever_the_text(text):
    for family in ("roberta", "eurobert"):
        assert there_and_back(joint(family), text) == text
        assert unknowns(joint(family), text) == 0


@pytest.mark.parametrize("family", [*BYTE_LEVEL, *FALLBACKS])
def test_unseen_scripts_come_back_by_their_bytes(family):
    assert there_and_back(joint(family), UNSEEN) == UNSEEN
    assert unknowns(joint(family), UNSEEN) == 0


@pytest.mark.parametrize("family", [*WORDPIECE, *UNIGRAM])
def test_unseen_scripts_are_unknown_without_bytes(family):
    assert unknowns(joint(family), UNSEEN) >= 4


@pytest.mark.parametrize("family", FALLBACKS)
def test_all_bytes_have_entries_of_their_own(family):
    vocabulary = joint(family).get_vocab()
    assert [vocabulary[entry] for entry in BYTES] == list(range(5, 261))
    assert json.loads(joint(family).backend_tokenizer.to_str())["model"]["byte_fallback"] is True
    assert vocabulary["<0x41>"] not in joint(family).encode("<0x41> a")


@pytest.mark.parametrize("family", FORGETFUL)
def test_bytes_that_the_class_of_the_source_forgets_are_used(family):
    """DeBERTa-v3's vocabulary falls back on bytes; transformers' tokenizer of it gives the unknown token instead."""
    spec = json.loads(source(family).backend_tokenizer.to_str())
    assert not spec["model"]["byte_fallback"]
    assert unknowns(source(family), UNSEEN) > 0
    assert unknowns(joint(family), UNSEEN) == 0
    made = json.loads(joint(family).backend_tokenizer.to_str())
    types = [part["type"] for part in made["decoder"]["decoders"]]
    assert types.count("ByteFallback") == 1
    assert types.index("ByteFallback") < types.index("Metaspace")


@pytest.mark.parametrize("family", FORGETFUL)
def test_bytes_come_back_after_saving(family, tmp_path):
    save_tokenizer(joint(family), tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert there_and_back(loaded, UNSEEN) == UNSEEN
    assert loaded(UNSEEN)["input_ids"] == joint(family)(UNSEEN)["input_ids"]


def test_fewer_than_all_bytes_are_no_fallback():
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    pieces = [(entry, 0.0) for entry in (*specials, *BYTES[:-1], "▁", "a", "[MASK]")]
    tokenizer = train(DebertaV2Tokenizer(vocab=pieces, model_max_length=512), LINES, size=900)
    assert not json.loads(tokenizer.backend_tokenizer.to_str())["model"]["byte_fallback"]
    assert unknowns(tokenizer, UNSEEN) > 0


def test_a_long_phrase_without_spaces_is_not_unknown():
    phrase = without_spaces("".join(SENTENCES["Thai"]))
    assert len(max(phrase.split("3"), key=len)) > 100
    for family in FAMILIES:
        assert unknowns(joint(family), "ก" * 900) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_are_those_with_a_role_and_the_padding_keeps_a_low_id(family):
    old, new = source(family), joint(family)
    expected = SPECIALS.get(family, BERTS)
    assert words(new.get_vocab())[: len(expected)] == expected
    assert sorted(new.added_tokens_decoder) == list(range(len(expected)))
    assert new.pad_token_id == (old.pad_token_id if old.pad_token_id < len(expected) else expected.index(old.pad_token))
    assert new.special_tokens_map == old.special_tokens_map
    matched = dict(special_rows(new, old).tolist())
    assert [old.convert_ids_to_tokens(matched[row]) for row in range(len(expected))] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_are_put_together_as_the_source_does(family):
    old, new = source(family), joint(family)
    specials = set(old.all_special_tokens)
    shapes = [
        [token if token in specials else "." for token in t.convert_ids_to_tokens(t("a", "a")["input_ids"])]
        for t in (old, new)
    ]
    first, second = ([token for token in shape if token != "."] for shape in shapes)
    assert first == second
    assert new("a", "a").keys() == old("a", "a").keys()
    assert shapes[1][0] == (old.cls_token or old.bos_token)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_but_model_and_normaliser_is_the_source_s(family):
    old, new = (json.loads(t.backend_tokenizer.to_str()) for t in (source(family), joint(family)))
    assert old["model"]["type"] == new["model"]["type"]
    for part in ("pre_tokenizer", "decoder"):
        assert new[part] == old[part]
    if family in WORDPIECE:
        assert new["normalizer"] == {**old["normalizer"], "strip_accents": False}
    else:
        assert (new["normalizer"] or {}).get("type") != "Sequence" or new["normalizer"] == old["normalizer"]
        assert source(family).backend_tokenizer.normalizer is None or new["normalizer"] is not None
    for option in ("ignore_merges", "byte_fallback", "unk_token", "continuing_subword_prefix", "dropout"):
        assert new["model"].get(option) == old["model"].get(option)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_tokenizer_loads_as_it_was_beside_the_family_s_own_configuration(family, tmp_path: Path):
    save_tokenizer(joint(family), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.to_str() == joint(family).backend_tokenizer.to_str()
    assert loaded.special_tokens_map == joint(family).special_tokens_map
    assert loaded.model_max_length == source(family).model_max_length
    assert [loaded.encode(line) for line in LINES] == [joint(family).encode(line) for line in LINES]


def test_a_class_of_its_own_keeps_its_name(tmp_path: Path):
    save_tokenizer(source("bert"), tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "BertTokenizer"


@pytest.mark.parametrize("family", [*FAMILIES, *FALLBACKS])
def test_spelling_of_a_special_token_is_ordinary_text_in_both_vocabularies(family):
    for tokenizer in (joint(family), source(family)):
        spelled = [f"a{token} {token}" for token in tokenizer.all_special_tokens]
        values = encode_lines(tokenizer, spelled, max_pieces=None)[0].values
        # a character without an entry may be unknown
        assert set(values.tolist()) & set(tokenizer.all_special_ids) <= {tokenizer.unk_token_id}


@pytest.mark.parametrize("family", [*UNIGRAM, "unigram"])
def test_special_tokens_of_a_unigram_are_spelled_out_where_the_text_has_their_characters(family):
    lines = ["<s> </s> <unk> <pad> <mask> <0x41> [MASK] [PAD] [CLS] [SEP] [UNK]", "a b"] * 3
    tokenizer = train(source(family), lines)
    back, _ = encode_lines(tokenizer, lines, max_pieces=None)
    assert [tokenizer.decode(row.tolist()) for row in back] == lines


def test_hidden_special_tokens_leave_the_ids_of_others():
    tokenizer = source_tokenizer("xlm-roberta")
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    tokenizer.add_tokens(["qqq"])
    values = encode_lines(tokenizer, ["the qqq <extra>"], max_pieces=None)[0].values.tolist()
    assert tokenizer.convert_tokens_to_ids("qqq") in values
    assert tokenizer.convert_tokens_to_ids("<extra>") not in values


@pytest.mark.parametrize("family", FAMILIES)
def test_words_begin_where_the_text_has_spaces(family):
    tokenizer = joint(family)
    ids = encode_lines(tokenizer, [" budi beras naik"], max_pieces=None)[0].values
    assert int((~is_continuation(tokenizer)[ids]).sum()) == 3


def test_reserved_tokens_that_the_post_processor_adds_are_kept():
    tokenizer = source_tokenizer("eurobert")
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    template = spec["post_processor"]["processors"][1]
    extra = "<|reserved_special_token_7|>"
    row = tokenizer.convert_tokens_to_ids(extra)
    template["single"].insert(1, {"SpecialToken": {"id": extra, "type_id": 0}})
    template["special_tokens"][extra] = {"id": extra, "ids": [row], "tokens": [extra]}
    changed = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(spec)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        mask_token=AddedToken(tokenizer.mask_token, lstrip=True, special=True),
    )
    trained = train(changed, LINES)
    assert words(trained.get_vocab())[:5] == [*SPECIALS["eurobert"], extra]
    assert trained.encode("")[:2] == [0, 4]


def test_padding_may_be_the_end_of_the_text():
    tokenizer = source_tokenizer("eurobert")
    tokenizer.pad_token = tokenizer.eos_token
    trained = train(tokenizer, LINES)
    assert words(trained.get_vocab())[:3] == SPECIALS["eurobert"][:3]
    assert trained.pad_token_id == trained.eos_token_id == 1


def test_normaliser_of_a_unigram_keeps_accents_and_its_table():
    tokenizer = source_tokenizer("xlm-roberta")
    table = tokenizer.backend_tokenizer.normalizer
    parts = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), table]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(parts)  # as ALBERT has it
    text = "NGƯỜI Đẹp ﬁ Ｘ"
    assert there_and_back(train(tokenizer, [text] * 3), text) == "người đẹp fi x"
    assert there_and_back(train(tokenizer, [text] * 3, lowercase=False), text) == "NGƯỜI Đẹp fi X"


@pytest.mark.parametrize("family", UNIGRAM)
def test_rare_characters_of_a_unigram_and_those_beyond_the_limit_get_no_entry(family):
    lines = ["óóóó ééé úú"] * 3 + ["ý"]
    assert "ý" not in train(source(family), lines).get_vocab()
    limited = train(source(family), lines, alphabet_limit=2).get_vocab()
    assert {"ó", "é"} <= set(limited)
    assert not [piece for piece in limited if "ú" in piece]


@pytest.mark.parametrize("family", UNIGRAM)
def test_every_longer_piece_of_a_unigram_is_used_as_often_as_asked(family):
    tokenizer = train(source(family), LINES, size=900, min_frequency=6)
    values = encode_lines(tokenizer, LINES, max_pieces=None)[0].values
    counts = np.bincount(values, minlength=len(tokenizer))
    longer = [row for piece, row in tokenizer.get_vocab().items() if row >= 5 and len(piece) > 1]
    assert len(longer) >= 40
    assert counts[longer].min() >= 6


def test_only_the_most_frequent_words_train_a_unigram_where_there_are_too_many(monkeypatch):
    words_of_text = {"▁aa": 2, "▁bb": 9, "▁cc": 2, "▁dd": 2}
    assert next(iter(unigram._most_frequent(words_of_text, 100))) == "▁bb"
    assert unigram._most_frequent(words_of_text, 100) == words_of_text
    few = unigram._most_frequent(words_of_text, 8)
    assert few.keys() < words_of_text.keys()
    assert len(few) == 2
    whole = train(source("xlm-roberta"), LINES, size=900)
    monkeypatch.setattr(unigram, "MOST_CHARACTERS", 500)
    part = train(source("xlm-roberta"), LINES, size=900)
    assert len(part) < len(whole)
    assert {piece for piece in part.get_vocab() if len(piece) == 1} == {
        piece for piece in whole.get_vocab() if len(piece) == 1
    }


def test_size_of_a_unigram_is_kept_to():
    fits = len([piece for piece in train(source("xlm-roberta"), ["abc abc"] * 3).get_vocab() if len(piece) == 1]) + 5
    assert len(train(source("xlm-roberta"), ["abc abc"] * 3, size=fits)) == fits
    with pytest.raises(ConfigError, match=rf"expected at least {fits} \(5 special tokens, an alphabet of {fits - 5}\)"):
        train(source("xlm-roberta"), ["abc abc"] * 3, size=fits - 1)
    for size in (400, 600):
        assert 380 < len(train(source("deberta-v2"), LINES, size=size)) <= size


@pytest.mark.parametrize("line", ["▅ ▅", "\0 a\0b", "<s> <unk> [MASK] <0x41>", "]^-[\\ a-z", "▁ ▁a", "x" * 5000])
def test_signs_that_the_trainer_keeps_for_itself_do_no_harm(line):
    tokenizer = train(source("deberta-v2"), [line] * 3)
    values = encode_lines(tokenizer, [line], max_pieces=None)[0].values
    assert tokenizer.unk_token_id not in values


DIGESTS = """
import sys
sys.path[:0] = sys.argv[1:]
from test_vocabulary_families import digests
print("\\n".join(digests()))
"""


def digests() -> list[str]:
    """Of vocabularies of every kind; ties abound in this text."""
    sources = [source(name) for name in ("bert", "roberta", "xlm-roberta", "deberta-v2", "eurobert", *FALLBACKS)]
    texts = [train(tokenizer, LINES, size=700, min_frequency=1, alphabet_limit=200) for tokenizer in sources]
    return [hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest() for tokenizer in texts]


@pytest.mark.parametrize(("seed", "threads"), [("1", "1"), ("2", "3")])
def test_same_lines_give_the_same_vocabulary_in_another_process(seed, threads):
    here = Path(__file__).parent
    variables = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS, str(here), str(here.parent)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == digests()
    assert len(set(done.stdout.split())) == 5 + len(FALLBACKS) - 1  # `bpe-v3` becomes what `bpe` is
