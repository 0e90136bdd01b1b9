"""The configuration that `AutoConfig` loads for model type `trelm`."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


@strict
class TrelmConfig(PreTrainedConfig):
    """Configuration of a `TrelmModel`.

    Attributes:
        source: configuration of the encoder that was transferred, with the joint vocabulary's size.
        languages: codes of the two languages; a language id is an index into them.
        default_language: language id that is meant where none is given: the target's.
        tri_position: body layers below the TRILayer, `m = N // 2`.
        has_tri_layer: without it, what it would read (reordered states, language, positions) goes straight into the
            upper half: N layers, for comparisons.
        sparse_prediction: with labels, compute logits only where a label is; the output's logits are then
            `(labelled positions, vocabulary)`.
        plainness: from 0 to 1, how much is taken away of what a plain model cannot hold: the position input of the
            TRILayer, and a language embedding where no bias can take it. At 1 the model folds into a plain one.
        max_position_embeddings: tokens of the longest sequence.
    """

    model_type = "trelm"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "source": SubConfigSpec(config_class=AutoConfig, model_type="bert")
    }

    source: PreTrainedConfig | dict[str, Any] | None = None
    languages: list[str] | tuple[str, ...] = ("source", "target")
    default_language: int = 1
    tri_position: int = 3
    has_tri_layer: bool = True
    sparse_prediction: bool = False
    plainness: float = 0.0
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    max_position_embeddings: int | None = None
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        source = self.source
        if isinstance(source, PreTrainedConfig):
            # what tools for Hugging Face encoders look for is the source's; the TRILayer is one more layer
            self.vocab_size = source.vocab_size
            self.hidden_size = source.hidden_size
            self.num_hidden_layers = source.num_hidden_layers + self.has_tri_layer
            self.num_attention_heads = source.num_attention_heads
            self.max_position_embeddings = self.max_position_embeddings or source.max_position_embeddings
            self.initializer_range = source.initializer_range
            self.pad_token_id = source.pad_token_id
            self.tie_word_embeddings = source.tie_word_embeddings


AutoConfig.register(TrelmConfig.model_type, TrelmConfig, exist_ok=True)
