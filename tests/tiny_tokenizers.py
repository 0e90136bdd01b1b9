"""Tokenizers of a few hundred entries, each of the very kind that its family's real checkpoints have."""

from __future__ import annotations

import io
import json
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AddedToken,
    BertTokenizer,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

# The toy world's words, written out here: this file needs nothing of the package.
WORDS = """
the of and to in is was that for it he on with as by at his this be from an are had not her have they you were their she
which one all we can has there been if more when will would who so no out up into said what its about than them some
could him time these two may then do first any my now such like our over man me even most made after also did many off
before must through back years where much your way well down should because each just those people how too little state
"""
SIZE = 400
BERT_UNUSED = [f"[unused{number}]" for number in range(99)]  # real BERTs have [PAD] 0, [UNK] 100, ... [MASK] 103
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def default_lines() -> list[str]:
    """English sentences of the toy world, half of them with a capital, digits and signs; and every English letter."""
    random = np.random.default_rng(1)
    plain = [" ".join(random.choice(WORDS.split(), random.integers(8, 15))) + " ." for _ in range(300)]
    return [
        " ".join(string.ascii_letters),
        *plain,
        *(f"{line.capitalize()[:-1]}, 1{number % 10} (so it said)!" for number, line in enumerate(plain)),
    ]


def source_tokenizer(model_type: str, lines: Sequence[str] | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer as the real checkpoints of the family have it, trained on `lines`; always the same for the same."""
    return MAKERS[model_type](default_lines() if lines is None else list(lines))


def _bert(lines: list[str], maker: type[PreTrainedTokenizerBase] = BertTokenizer) -> PreTrainedTokenizerBase:
    specials = ["[PAD]", *BERT_UNUSED, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return maker(vocab=_numbered([*specials, *_wordpieces(lines)]), do_lower_case=True, model_max_length=512)


def _distilbert(lines: list[str]) -> PreTrainedTokenizerBase:
    return _bert(lines, DistilBertTokenizer)


def _nomic_bert(lines: list[str]) -> PreTrainedTokenizerBase:
    tokenizer = _bert(lines)
    tokenizer.model_max_length = 8192
    return tokenizer


def _mpnet(lines: list[str]) -> PreTrainedTokenizerBase:
    # MPNet's vocabulary is BERT's behind four entries of its own: <unk> is 3, but [UNK] at 104 is what it uses
    entries = ["<s>", "<pad>", "</s>", "<unk>", "[PAD]", *BERT_UNUSED, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = _numbered([*entries, *_wordpieces(lines), "<mask>"])
    return MPNetTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=512)


def _roberta(lines: list[str]) -> PreTrainedTokenizerBase:
    vocabulary, merges = _byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False))
    entries = _numbered(["<s>", "<pad>", "</s>", "<unk>", *vocabulary, "<mask>"])
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return RobertaTokenizer(vocab=entries, merges=merges, mask_token=mask, model_max_length=512)


def _xlm_roberta(lines: list[str]) -> PreTrainedTokenizerBase:
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return XLMRobertaTokenizer(
        vocab=[*specials, *_unigrams(lines), ("<mask>", 0.0)],
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        _spm_precompiled_charsmap=_charsmap(),
        model_max_length=512,
    )


def _camembert(lines: list[str]) -> PreTrainedTokenizerBase:
    unused = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    return CamembertTokenizer(
        vocab=[*unused, ("<s>", 0.0), ("</s>", 0.0), *_unigrams(lines), ("<mask>", 0.0)],
        _spm_precompiled_charsmap=_charsmap(),
        model_max_length=512,
    )


def _deberta_v2(lines: list[str]) -> PreTrainedTokenizerBase:
    specials = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)]
    return DebertaV2Tokenizer(vocab=[*specials, *_unigrams(lines), ("[MASK]", 0.0)], model_max_length=512)


def _modernbert(lines: list[str]) -> PreTrainedTokenizerBase:
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary, merges = _byte_level(lines, splitter)
    backend = _byte_level_backend(["<|endoftext|>", "<|padding|>", *vocabulary], merges, splitter)
    backend.normalizer = normalizers.NFC()
    spaces = [" " * count for count in range(24, 1, -1)]
    backend.add_tokens([AddedToken(text, normalized=True) for text in ("|||IP_ADDRESS|||", *spaces)])
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    backend.add_special_tokens(["<|endoftext|>", "<|padding|>", *names, mask])
    backend.add_tokens([f"[unused{number}]" for number in range(83)])
    ends = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": mask}
    return _from_backend(backend, **roles)


def _eurobert(lines: list[str]) -> PreTrainedTokenizerBase:
    parts = [
        pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    splitter = pre_tokenizers.Sequence(parts)
    vocabulary, merges = _byte_level(lines, splitter)
    backend = _byte_level_backend(vocabulary, merges, splitter)
    bos, eos, mask = "<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(252)]
    backend.add_special_tokens([bos, eos, AddedToken(mask, lstrip=True, special=True), "<|pad|>", *reserved])
    template = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {bos}:1 $B:1 {eos}:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in (bos, eos)],
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    mask_token = AddedToken(mask, lstrip=True, special=True)
    return _from_backend(backend, bos_token=bos, eos_token=eos, pad_token="<|pad|>", mask_token=mask_token)


MAKERS: dict[str, Callable[[list[str]], PreTrainedTokenizerBase]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
    "camembert": _camembert,
    "electra": _bert,
    "distilbert": _distilbert,
    "mpnet": _mpnet,
    "deberta-v2": _deberta_v2,
    "modernbert": _modernbert,
    "eurobert": _eurobert,
    "nomic_bert": _nomic_bert,
}
FAMILIES = tuple(MAKERS)


def _numbered(entries: Iterable[str]) -> dict[str, int]:
    return {entry: row for row, entry in enumerate(entries)}


def _wordpieces(lines: Iterable[str]) -> list[str]:
    """Characters, at the beginning of a word and after it, and the most frequent words; lower case."""
    backend = BertTokenizer().backend_tokenizer
    words: Counter[str] = Counter()
    for line in lines:
        normalised = backend.normalizer.normalize_str(line)
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalised))
    characters = sorted({character for word in words for character in word})
    continued = [f"##{character}" for character in characters if character.isalnum()]
    frequent = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    return [*characters, *continued, *frequent[: max(0, SIZE - 108 - len(characters) - len(continued))]]


def _byte_level(lines: Iterable[str], splitter: pre_tokenizers.PreTokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    """Entries in the order of their ids, and merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = splitter
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(lines, trainer)
    model = json.loads(backend.to_str())["model"]
    vocabulary = model["vocab"]
    return sorted(vocabulary, key=vocabulary.__getitem__), [tuple(merge) for merge in model["merges"]]


def _byte_level_backend(
    entries: Iterable[str], merges: list[tuple[str, str]], splitter: pre_tokenizers.PreTokenizer
) -> Tokenizer:
    backend = Tokenizer(models.BPE(vocab=_numbered(entries), merges=merges))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    return backend


def _from_backend(backend: Tokenizer, **roles: str | AddedToken) -> PreTrainedTokenizerBase:
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=8192,
        model_input_names=inputs,
        clean_up_tokenization_spaces=False,
        **roles,
    )


def _unigrams(lines: Iterable[str]) -> list[tuple[str, float]]:
    """Pieces and their logarithmic probabilities, by SentencePiece itself."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="unigram",
        vocab_size=SIZE,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    rows = [row for row in range(model.get_piece_size()) if not (model.is_control(row) or model.is_unknown(row))]
    return [(model.id_to_piece(row), model.get_score(row)) for row in rows]


def _charsmap() -> bytes:
    """SentencePiece's own NFKC with the extensions of neural machine translation, as XLM-R and CamemBERT have it."""
    normaliser = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    model = sentencepiece_model_pb2.ModelProto.FromString(normaliser.serialized_model_proto())
    return bytes(model.normalizer_spec.precompiled_charsmap)
