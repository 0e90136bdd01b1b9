"""Lower half, TRILayer, upper half and head on Hugging Face's own layers (METHOD section 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput

from trelm.model import families  # as a module: whoever imports families first gets here half-way through
from trelm.model.configuration import TrelmConfig
from trelm.model.cross_entropy import summed_cross_entropy
from trelm.model.tri_layer import TriLayer

IGNORED = -100


class LanguageEmbeddings(nn.Embedding):
    """One row a language, zero at first: a model with its TRILayer taken out is then the source encoder exactly."""


class TrelmPreTrainedModel(PreTrainedModel):
    """What the two TreLM classes share."""

    config_class = TrelmConfig
    base_model_prefix = "trelm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the family initialises its own, so that a from-scratch model is one of its kind; ours start at zero."""
        trelm: Any = self.base_model
        trelm.backbone._init_weights(module)
        if isinstance(module, TriLayer):
            initialization.zeros_(module.null_state)
        if isinstance(module, LanguageEmbeddings):
            initialization.zeros_(module.weight)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Change the vocabulary's size here and in the source's configuration, from which a saved model is built."""
        words: Any = self.get_input_embeddings()
        before = words.num_embeddings
        resized: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.source.vocab_size = self.config.vocab_size
        head = getattr(self, "head", None)
        if head is not None and self.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
            _resize_biases(head, int(before), resized.num_embeddings)
        return resized

    def _wants_tuple(self, return_dict: bool | None) -> bool:
        """Whether the call, or else the configuration, asks for a tuple in place of an output object."""
        return not (self.config.return_dict if return_dict is None else return_dict)


class TrelmModel(TrelmPreTrainedModel):
    """The encoder without a head.

    Plain use is monolingual: `model(input_ids, attention_mask)` reads and speaks the target language.
    """

    def __init__(self, config: TrelmConfig) -> None:
        super().__init__(config)
        source: Any = config.source
        self.family = families.family_of(source)
        self.backbone: Any = self.family.backbone(source)
        layer = self.family.new_tri_layer(source, config.tri_position) if config.has_tri_layer else None
        self.tri_layer = TriLayer(layer, source.hidden_size)
        width = self.get_input_embeddings().embedding_dim
        self.language_embeddings = LanguageEmbeddings(len(config.languages), width)
        self._words_are_tied = source.tie_word_embeddings or self.family.decoder_at(source) is None
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Embedding:
        embeddings: nn.Embedding = self.backbone.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    @property
    def lower_layers(self) -> list[nn.Module]:
        """The body layers below the TRILayer."""
        return list(self.family.layers(self.backbone))[: self.config.tri_position]

    @property
    def upper_layers(self) -> list[nn.Module]:
        """The body layers above the TRILayer."""
        return list(self.family.layers(self.backbone))[self.config.tri_position :]

    def _language(self, language: Tensor | int | None, batch: int, device: torch.device) -> Tensor:
        """(B, d), the language embedding of each example; None means the default language."""
        if language is None:
            language = self.config.default_language
        ids = torch.as_tensor(language, device=device).expand(batch)
        embedded: Tensor = self.language_embeddings(ids)
        return embedded

    @property
    def kept(self) -> float:
        """The factor of the inputs that a plain model cannot hold: 1, or less where the plain stage takes them away."""
        return 1.0 - float(self.config.plainness)

    @property
    def input_bias(self) -> nn.Embedding | None:
        """The table into which the language embedding of the lower half can fold; see `Family.input_bias`."""
        return self.family.input_bias(self.backbone, words_are_tied=self._words_are_tied)

    @property
    def tri_bias(self) -> nn.Parameter | None:
        """The vector into which the language embedding of the TRILayer can fold; None where there is none."""
        return self.family.output_bias(self.backbone, self.lower_layers[-1])

    def _run(self, layers: list[nn.Module], states: Tensor, prepared: Any) -> list[Tensor]:
        """The states after each of `layers`."""
        outputs = []
        for layer in layers:
            states = self.family.run_layer(layer, states, prepared)
            outputs.append(states)
        return outputs

    def _embed(
        self,
        ids: Tensor | None,
        embeddings: Tensor | None,
        types: Tensor | None,
        mask: Tensor | None,
        language: Tensor | int | None,
    ) -> Tensor:
        """(B, S, h): word, language, position and type embeddings, normalised as the encoder does."""
        words = self.get_input_embeddings()(ids) if embeddings is None else embeddings
        spoken = self._language(language, words.shape[0], words.device)
        spoken = spoken if self.input_bias is not None else self.kept * spoken
        return self.family.embed(self.backbone, words + spoken.unsqueeze(1), ids, types, mask)

    def _arrange(
        self, states: Tensor, ordering: Tensor | None, mask: Tensor | None, language: Tensor | int | None
    ) -> Tensor:
        """z (B, T, h), the TRILayer's input."""
        length = states.shape[1] if ordering is None else ordering.shape[1]
        spoken = self.family.project(self.backbone, self._language(language, states.shape[0], states.device))
        spoken = spoken if self.tri_bias is not None else self.kept * spoken
        positions = self.family.positions(self.backbone, length, mask) if self.kept else None
        if positions is not None:
            positions = self.kept * self.family.project(self.backbone, positions)
        return self.tri_layer.arrange(states, ordering, spoken, positions)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        language: Tensor | int | None = None,
        output_language: Tensor | int | None = None,
        ordering: Tensor | None = None,
        output_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode.

        Args:
            input_ids: (B, S). attention_mask: (B, S), 1 for real tokens. token_type_ids: (B, S).
            inputs_embeds: (B, S, d), instead of `input_ids`.
            language: (B,) ids of the input's language; None means the target's.
            output_language: (B,) ids of the language to be predicted; None means `language`.
            ordering: (B, T) input position of each output position, -1 for none; None for the identity, T = S.
            output_mask: (B, T), 1 for real output positions; with no ordering it is `attention_mask`.
            output_hidden_states: also return the embeddings and the states after every layer, the TRILayer's among
                them; those from the TRILayer on have length T.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`, or an ordering without its mask.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected exactly one of input_ids and inputs_embeds")
        if ordering is not None and output_mask is None:
            raise ValueError("expected output_mask together with ordering: it says which output positions are real")
        if ordering is None:
            output_mask = attention_mask
        output_language = language if output_language is None else output_language
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = [self._embed(input_ids, inputs_embeds, token_type_ids, attention_mask, language)]
        below = self.family.prepare(self.backbone, states[0], attention_mask)
        states += self._run(self.lower_layers, states[0], below)
        arranged = self._arrange(states[-1], ordering, output_mask, output_language)
        above = below if ordering is None else self.family.prepare(self.backbone, arranged, output_mask)
        ordered = self.tri_layer(arranged, above, self.family.run_layer)
        states += [ordered] * self.config.has_tri_layer + self._run(self.upper_layers, ordered, above)
        states[-1] = self.family.finish(self.backbone, states[-1])
        pooler = getattr(self.backbone, "pooler", None)
        output = BaseModelOutputWithPooling(
            last_hidden_state=states[-1],
            pooler_output=None if pooler is None else pooler(states[-1]),
            hidden_states=tuple(states) if output_hidden_states else None,
        )
        return output.to_tuple() if self._wants_tuple(return_dict) else output


class TrelmForMaskedLM(TrelmPreTrainedModel):
    """The encoder with the masked-language-modelling head of its own kind, tied as the source ties it."""

    def __init__(self, config: TrelmConfig) -> None:
        super().__init__(config)
        self._tied_weights_keys = families.family_of(config.source).tied(config.source)
        self.trelm = TrelmModel(config)
        self.head: Any = nn.ModuleDict(self.trelm.family.new_head(config.source))
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Module | None:
        place = self.trelm.family.decoder_at(self.config.source)
        return None if place is None else self.head.get_submodule(place)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        place = self.trelm.family.decoder_at(self.config.source)
        if place is None:
            raise ValueError("this head multiplies with the word embeddings: it has no output embeddings to set")
        parent, _, name = place.rpartition(".")
        around = self.head.get_submodule(parent)
        setattr(around, name, new_embeddings) if parent else around.update({name: new_embeddings})
        if hasattr(around, "bias"):
            around.bias = new_embeddings.bias

    def predict(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., h)."""
        return self.trelm.family.predict(self.head, states, self.trelm.get_input_embeddings())

    def masked_logits(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, **kwargs: Any) -> Tensor:
        """Logits at the chosen positions only.

        Args:
            input_ids, attention_mask: (B, S). positions: (B, T) bool.

        Returns:
            (chosen positions, vocabulary), in row-major order.
        """
        encoded = self.trelm(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        return self.predict(encoded.last_hidden_state[positions])

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        language: Tensor | int | None = None,
        output_language: Tensor | int | None = None,
        ordering: Tensor | None = None,
        output_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Encode and predict; arguments as in `TrelmModel.forward`.

        Args:
            labels: (B, T), -100 where there is none. With `config.sparse_prediction` the logits are computed at the
                labels only, (labels, vocabulary), and in training mode none are returned: they are never whole.
            num_items_in_batch: by what the sum of the cross-entropies is divided to make the loss; None: by the number
                of labels, or by 1 without any.
        """
        encoded = self.trelm(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            language=language,
            output_language=output_language,
            ordering=ordering,
            output_mask=output_mask,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        loss, logits = self._loss_and_logits(encoded.last_hidden_state, labels, num_items_in_batch)
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output.to_tuple() if self._wants_tuple(return_dict) else output

    def _loss_and_logits(
        self, states: Tensor, labels: Tensor | None, items: Tensor | int | None
    ) -> tuple[Any, Tensor | None]:
        """The loss where there are labels, and the logits where somebody may want them; see `forward`."""
        if labels is None:
            return None, self.predict(states)
        chosen = labels != IGNORED
        if self.config.sparse_prediction:
            states, labels = states[chosen], labels[chosen]
        output = self.trelm.family.output(self.head, states, self.trelm.get_input_embeddings())
        if self.config.sparse_prediction and self.training:
            logits, loss = None, summed_cross_entropy(output.features, output.weight, output.bias, labels)
        else:
            logits = output.logits()
            loss = functional.cross_entropy(
                logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        return loss / (chosen.sum().clamp(min=1) if items is None else items), logits


def _resize_biases(head: nn.Module, before: int, after: int) -> None:
    """Biases of a head that has no output layer to be resized; new entries start at 0."""
    for module in head.modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter) and tuple(bias.shape) == (before,):
            module.bias = nn.Parameter(functional.pad(bias.detach(), (0, after - before)))


AutoModel.register(TrelmConfig, TrelmModel, exist_ok=True)
AutoModelForMaskedLM.register(TrelmConfig, TrelmForMaskedLM, exist_ok=True)
