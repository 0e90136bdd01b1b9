"""The encoder against Hugging Face's own model, against a computation by hand, and against itself without padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    PAD,
    VOCABULARY,
    WIDTH,
    mask_of,
    random_ids,
    save_rough_bert,
    take_out_tri_layer,
    trelm_model,
)
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoModelForMaskedLM, BertForMaskedLM

from trelm.model.encoder import IGNORED, TrelmForMaskedLM, TrelmModel
from trelm.model.source import SourceEncoder, load_source, transferred_model, trelm_config
from trelm.model.tri_layer import NO_LINK

LAYERS, MIDDLE = 4, 2


def same_table_model(source: SourceEncoder) -> Any:
    """The source around its own word table."""
    config = trelm_config(
        source.config,
        vocabulary_size=len(source.table),
        special_ids={"pad": source.tokenizer.pad_token_id},
        languages=("en", "id"),
    )
    model: Any = transferred_model(config, source, source.table, seed=1)
    return model.eval()


@pytest.fixture
def without_tri_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    take_out_tri_layer(monkeypatch)


@pytest.fixture(scope="module")
def rough_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rough_bert(tmp_path_factory.mktemp("rough"), tiny_bert)


@pytest.fixture(scope="module")
def model() -> Any:
    """Only to be read."""
    return trelm_model(LAYERS)


def assert_is_the_source(source: SourceEncoder, found: Any, inputs: dict[str, Tensor], tolerance: float) -> None:
    """Every state (the TRILayer's, which repeats the one below it, left out) and the pooler's output."""
    expected = source.backbone.eval()(**inputs, output_hidden_states=True)
    middle = source.config.num_hidden_layers // 2
    states = [*found.hidden_states[: middle + 1], *found.hidden_states[middle + 2 :]]
    assert len(states) == len(expected.hidden_states)
    for state, other in zip(states, expected.hidden_states):
        assert torch.allclose(state, other, atol=tolerance)
    assert torch.allclose(found.last_hidden_state, expected.last_hidden_state, atol=tolerance)
    assert torch.allclose(found.pooler_output, expected.pooler_output, atol=tolerance)


@pytest.mark.usefixtures("without_tri_layer")
@pytest.mark.parametrize("lengths", [[9, 9], [9, 4]])
@torch.no_grad()
def test_without_its_tri_layer_it_is_the_source_encoder(rough_bert: Path, lengths: list[int]) -> None:
    source = load_source(str(rough_bert))
    inputs = {
        "input_ids": random_ids(2, 9, below=200),
        "attention_mask": mask_of(lengths, 9),
        "token_type_ids": random_ids(2, 9, below=2),
    }
    model = same_table_model(source)
    assert_is_the_source(source, model.trelm(**inputs, output_hidden_states=True), inputs, 1e-5)
    whole = BertForMaskedLM.from_pretrained(rough_bert).eval()
    assert whole.cls.predictions.bias.abs().min() > 0
    logits = whole(**inputs).logits - whole.cls.predictions.bias  # the output bias is of the old vocabulary
    assert torch.allclose(model(**inputs).logits, logits, atol=1e-5)


@pytest.mark.usefixtures("without_tri_layer")
@torch.no_grad()
def test_without_its_tri_layer_it_is_the_real_minilm(minilm_folder: Path) -> None:
    source = load_source(str(minilm_folder))
    texts = ["The cat sat on the mat.", "Nobody knows what the next year will bring, and that is well."]
    inputs = dict(source.tokenizer(texts, padding=True, return_tensors="pt"))
    assert inputs["attention_mask"].min() == 0
    found = same_table_model(source).trelm(**inputs, output_hidden_states=True)
    assert_is_the_source(source, found, inputs, 1e-4)


@torch.no_grad()
def test_the_whole_way_by_hand(model: Any) -> None:
    """One sentence pair, module by module, as METHOD section 4 writes it."""
    ids, ordering = random_ids(1, 4), [2, NO_LINK, 0, 0, 3, 1]
    trelm, bert = model.trelm, model.trelm.backbone
    words, languages = bert.embeddings.word_embeddings(ids), trelm.language_embeddings.weight
    positions, types = bert.embeddings.position_embeddings.weight, bert.embeddings.token_type_embeddings.weight
    expected = [bert.embeddings.LayerNorm(words + languages[0] + positions[:4] + types[0])]
    for layer in bert.encoder.layer[:MIDDLE]:
        expected.append(layer(expected[-1], attention_mask=None))
    linked = [trelm.tri_layer.null_state if link == NO_LINK else expected[-1][0, link] for link in ordering]
    arranged = torch.stack(linked).unsqueeze(0) + languages[1] + positions[:6]
    expected.append(trelm.tri_layer.layer(arranged, attention_mask=None))
    for layer in bert.encoder.layer[MIDDLE:]:
        expected.append(layer(expected[-1], attention_mask=None))
    found = model(
        ids,
        language=0,
        output_language=1,
        ordering=torch.tensor([ordering]),
        output_mask=torch.ones(1, 6),
        output_hidden_states=True,
    )
    for state, other in zip(found.hidden_states, expected, strict=True):
        assert torch.allclose(state, other, atol=1e-5)
    head = model.head.cls.predictions
    logits = head.transform(expected[-1]) @ bert.embeddings.word_embeddings.weight.T + head.bias
    assert torch.allclose(found.logits, logits, atol=1e-4)


@torch.no_grad()
def test_the_identity_ordering_is_monolingual_use_exactly(model: Any) -> None:
    ids, mask = random_ids(2, 6), mask_of([6, 4], 6)
    cdlm = model(ids, mask, language=0, ordering=torch.arange(6).expand(2, -1), output_mask=mask)
    assert torch.equal(cdlm.logits, model(ids, mask, language=0).logits)


@torch.no_grad()
def test_no_mask_is_a_mask_of_ones(model: Any) -> None:
    ids = random_ids(2, 6)
    assert torch.allclose(model(ids).logits, model(ids, torch.ones(2, 6)).logits, atol=1e-6)


PAIRS = [(5, 3), (3, 7), (6, 6), (2, 4)]
"""Real lengths (S, T) of the examples of one batch."""


def padded_pairs() -> dict[str, Tensor]:
    """A CdLM batch in which S and T are each the longer in some example, and padding is on both sides."""
    width_in, width_out = max(s for s, _ in PAIRS), max(t for _, t in PAIRS)
    generator = torch.Generator().manual_seed(8)
    ordering = torch.full((len(PAIRS), width_out), NO_LINK)
    for row, (s, t) in enumerate(PAIRS):
        ordering[row, :t] = torch.randint(NO_LINK, s, (t,), generator=generator)
    mask = mask_of([s for s, _ in PAIRS], width_in)
    return {
        "input_ids": random_ids(len(PAIRS), width_in) * mask + PAD * (1 - mask),
        "attention_mask": mask,
        "ordering": ordering,
        "output_mask": mask_of([t for _, t in PAIRS], width_out),
        "language": torch.tensor([0, 1, 0, 1]),
        "output_language": torch.tensor([1, 0, 1, 1]),
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_batch_is_its_examples_one_by_one(attention: str) -> None:
    """Which masks the halves attend under: the lower half the input's, TRILayer and upper half the output's."""
    model = trelm_model(LAYERS)
    model.set_attn_implementation(attention)
    assert model.trelm.tri_layer.layer.attention.self.config._attn_implementation == attention
    batch = padded_pairs()
    together = model(**batch, output_hidden_states=True)
    for row, (s, t) in enumerate(PAIRS):
        lengths = {"input_ids": s, "attention_mask": s, "ordering": t, "output_mask": t}
        single = {name: value[row : row + 1, : lengths.get(name)] for name, value in batch.items() if name in lengths}
        single |= {name: batch[name][row : row + 1] for name in ("language", "output_language")}
        alone = model(**single, output_hidden_states=True)
        for state, other in zip(together.hidden_states, alone.hidden_states):
            assert torch.allclose(state[row, : other.shape[1]], other[0], atol=1e-5)
        assert torch.allclose(together.logits[row, :t], alone.logits[0], atol=1e-4)


@torch.no_grad()
def test_sdpa_and_eager_attention_agree(model: Any) -> None:
    eager = trelm_model(LAYERS)
    eager.set_attn_implementation("eager")
    batch = padded_pairs()
    real = batch["output_mask"].bool()
    assert torch.allclose(eager(**batch).logits[real], model(**batch).logits[real], atol=1e-4)


@torch.no_grad()
def test_what_is_padded_changes_nothing(model: Any) -> None:
    batch = padded_pairs()
    real = batch["output_mask"].bool()
    other = batch | {
        "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], random_ids(4, 6, seed=9)),
        "ordering": torch.where(real, batch["ordering"], 1),
    }
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    assert not torch.equal(other["ordering"], batch["ordering"])
    assert torch.equal(model(**other).logits[real], model(**batch).logits[real])


@torch.no_grad()
def test_what_is_real_changes_something(model: Any) -> None:
    """The test above would also pass if nothing changed anything."""
    batch = padded_pairs()
    before = model(**batch).logits
    ordering = batch["ordering"].clone()
    ordering[0, 0] = 1 if ordering[0, 0] == 0 else 0
    assert not torch.allclose(model(**batch | {"ordering": ordering}).logits[0, :3], before[0, :3], atol=1e-3)


def test_the_gradient_reaches_the_null_state_where_a_link_is_missing() -> None:
    model = trelm_model(LAYERS)
    null = model.trelm.tri_layer.null_state
    ids, mask = random_ids(1, 3), torch.ones(1, 3)
    model(ids, ordering=torch.tensor([[0, NO_LINK, 2]]), output_mask=mask).logits.square().sum().backward()
    assert null.grad is not None
    assert null.grad.abs().min() > 0
    null.grad = None
    model(ids, ordering=torch.tensor([[0, 1, 2]]), output_mask=mask).logits.square().sum().backward()
    assert torch.equal(null.grad, torch.zeros(WIDTH))  # gradients of a where() that takes nothing


def changed_states(model: Any, row: int, **languages: Any) -> list[bool]:
    """Which states change with one language's embedding."""
    ids = random_ids(2, 5)
    ordering = torch.tensor([[4, 3, 2, 1, 0]] * 2)
    call = {"ordering": ordering, "output_mask": torch.ones(2, 5), "output_hidden_states": True, **languages}
    weight = model.trelm.language_embeddings.weight
    with torch.no_grad():
        before = model.trelm(ids, **call).hidden_states
        kept = weight.clone()
        weight[row] += torch.linspace(-1, 1, WIDTH)
        after = model.trelm(ids, **call).hidden_states
        weight.copy_(kept)
    return [not torch.equal(one, two) for one, two in zip(before, after)]


def test_the_input_language_is_read_below_and_the_output_language_in_the_tri_layer(model: Any) -> None:
    below, above = [True] * (MIDDLE + 1), [True] * (LAYERS - MIDDLE + 1)
    assert changed_states(model, 0, language=0, output_language=1) == below + above
    assert changed_states(model, 1, language=0, output_language=1) == [False] * len(below) + above
    assert changed_states(model, 1, language=1, output_language=0) == below + above
    assert changed_states(model, 0, language=1, output_language=0) == [False] * len(below) + above


def test_the_default_languages(model: Any) -> None:
    """No language is the target's; no output language is the input's."""
    everywhere, nowhere = [True] * (LAYERS + 2), [False] * (LAYERS + 2)
    assert changed_states(model, 1) == everywhere
    assert changed_states(model, 0) == nowhere
    assert changed_states(model, 0, language=0) == everywhere
    assert changed_states(model, 1, language=0) == nowhere


@torch.no_grad()
def test_each_example_has_its_own_language(model: Any) -> None:
    ids = random_ids(2, 5)
    mixed = model(ids, language=torch.tensor([1, 0])).logits
    assert torch.allclose(mixed[0], model(ids, language=1).logits[0], atol=1e-5)
    assert torch.allclose(mixed[1], model(ids, language=0).logits[1], atol=1e-5)
    assert not torch.allclose(mixed[0], model(ids, language=0).logits[0], atol=1e-2)


def test_languages_and_null_state_are_zero_at_first() -> None:
    model = trelm_model(rough=False)
    assert torch.equal(model.trelm.language_embeddings.weight, torch.zeros(2, WIDTH))
    assert torch.equal(model.trelm.tri_layer.null_state, torch.zeros(WIDTH))


@torch.no_grad()
def test_hidden_states_are_counted_and_have_the_length_of_their_side(model: Any) -> None:
    found = model(
        random_ids(2, 4), ordering=torch.zeros(2, 7).long(), output_mask=torch.ones(2, 7), output_hidden_states=True
    )
    assert [state.shape[1] for state in found.hidden_states] == [4] * (MIDDLE + 1) + [7] * (LAYERS - MIDDLE + 1)
    assert found.logits.shape == (2, 7, VOCABULARY)
    assert found.loss is None
    assert model(random_ids(2, 4)).hidden_states is None


@torch.no_grad()
def test_outputs_as_a_tuple(model: Any) -> None:
    ids = random_ids(2, 4)
    states, pooled = model.trelm(ids, return_dict=False)
    assert torch.equal(states, model.trelm(ids).last_hidden_state)
    assert torch.equal(pooled, model.trelm(ids).pooler_output)
    loss, logits, hidden = model(ids, labels=ids, output_hidden_states=True, return_dict=False)
    assert torch.equal(loss, model(ids, labels=ids).loss)
    assert torch.equal(logits, model(ids).logits)
    assert len(hidden) == LAYERS + 2


@torch.no_grad()
def test_the_configuration_may_ask_for_hidden_states_and_tuples() -> None:
    """`from_pretrained(..., output_hidden_states=True)` is how many tools ask."""
    model, ids = trelm_model(LAYERS), random_ids(2, 4)
    model.config.output_hidden_states = True
    assert len(model(ids).hidden_states) == len(model.trelm(ids).hidden_states) == LAYERS + 2
    assert model(ids, output_hidden_states=False).hidden_states is None
    model.config.return_dict = False
    logits, hidden = model(ids)
    assert torch.equal(logits, model(ids, return_dict=True).logits)
    assert len(hidden) == LAYERS + 2
    assert torch.equal(model.masked_logits(ids, torch.ones(2, 4), torch.ones(2, 4).bool()), logits.flatten(0, 1))


@torch.no_grad()
def test_embeddings_in_place_of_ids(model: Any) -> None:
    ids = random_ids(2, 4)
    vectors = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=vectors, language=0).logits, model(ids, language=0).logits)


def test_what_is_refused(model: Any) -> None:
    ids = random_ids(1, 3)
    one_of_two = "^expected exactly one of input_ids and inputs_embeds$"
    with pytest.raises(ValueError, match=one_of_two):
        model()
    with pytest.raises(ValueError, match=one_of_two):
        model(ids, inputs_embeds=torch.zeros(1, 3, WIDTH))
    with pytest.raises(ValueError, match="expected output_mask together with ordering: it says which output pos"):
        model(ids, ordering=torch.zeros(1, 3).long())


def some_labels() -> tuple[Tensor, Tensor]:
    ids = random_ids(3, 6)
    chosen = torch.rand(3, 6, generator=torch.Generator().manual_seed(2)) < 0.4
    return ids, ids.masked_fill(~chosen, IGNORED)


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_labels(model: Any) -> None:
    ids, labels = some_labels()
    found = model(ids, labels=labels)
    log_probabilities = functional.log_softmax(found.logits, -1)
    terms = [-log_probabilities[b, j, labels[b, j]] for b, j in (labels != IGNORED).nonzero().tolist()]
    assert 1 < len(terms) < labels.numel()
    assert found.loss == pytest.approx(sum(float(term) for term in terms) / len(terms), abs=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_sparse_prediction_has_the_loss_and_gradient_of_dense(training: bool) -> None:
    dense, sparse = trelm_model(LAYERS), trelm_model(LAYERS)
    sparse.config.sparse_prediction = True
    sparse.train(training)
    ids, labels = some_labels()
    one, two = dense(ids, labels=labels), sparse(ids, labels=labels)
    chosen = labels != IGNORED
    if training:
        assert two.logits is None
    else:
        assert two.logits.shape == (int(chosen.sum()), VOCABULARY)
        assert torch.allclose(two.logits, one.logits[chosen], atol=1e-5)
    assert torch.allclose(two.loss, one.loss, atol=1e-6)
    one.loss.backward()
    two.loss.backward()
    for (name, left), right in zip(dense.named_parameters(), sparse.parameters()):
        if left.grad is None or right.grad is None:
            assert left.grad is right.grad, name
        else:
            assert torch.allclose(left.grad, right.grad, atol=1e-5), name
    assert sparse(ids).logits.shape == (3, 6, VOCABULARY)  # without labels everything is predicted


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("items", [7, torch.tensor(7)])
@torch.no_grad()
def test_the_sum_is_divided_by_the_items_that_are_given(sparse: bool, items: Any) -> None:
    model = trelm_model(LAYERS)
    model.config.sparse_prediction = sparse
    ids, labels = some_labels()
    mean = model(ids, labels=labels).loss
    found = model.train(True)(ids, labels=labels, num_items_in_batch=items).loss
    torch.testing.assert_close(found, mean * int((labels != IGNORED).sum()) / 7)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("items", [None, 5])
def test_without_labels_the_loss_and_the_gradients_are_zero(sparse: bool, items: int | None) -> None:
    model = trelm_model(LAYERS).train(True)
    model.config.sparse_prediction = sparse
    ids, labels = some_labels()
    model(ids, labels=labels).loss.backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    loss = model(ids, labels=torch.full_like(labels, IGNORED), num_items_in_batch=items).loss
    assert loss.item() == 0
    loss.backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == (name in reached), name
        assert weight.grad is None or float(weight.grad.abs().max()) == 0, name


def test_what_is_frozen_below_keeps_no_graph() -> None:
    """With embeddings and lower half frozen, nothing is kept of them: as many tensors as without them."""

    def kept(model: Any, below: int) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        for layer in model.trelm.lower_layers:
            layer.register_forward_hook(lambda module, given, output: outputs.append(output))
        with torch.autograd.graph.saved_tensors_hooks(lambda one: shapes.append(one.shape) or one, lambda one: one):
            model.train(True)(ids, labels=labels).loss.backward()
        assert len(outputs) == below
        return shapes

    ids, labels = some_labels()
    amounts = []
    for depth in (2, 4, 6):  # the lower half has 1, 2 and 3 layers
        outputs: list[Any] = []
        model = trelm_model(depth)
        for name, weight in model.named_parameters():
            frozen = name.startswith("trelm.backbone.embeddings") or "language" in name
            weight.requires_grad_(not frozen and weight not in set(_weights(model.trelm.lower_layers)))
        found = kept(model, depth // 2)
        assert not any(part.requires_grad for output in outputs for part in _tensors(output))
        assert all(weight.grad is None for weight in _weights(model.trelm.lower_layers))
        amounts.append(len(found))
    per_layer = amounts[1] - amounts[0]
    assert amounts[2] - amounts[1] == per_layer  # what grows is the upper half, by one layer each time
    model = trelm_model(4)
    outputs = []
    assert len(kept(model, 2)) >= amounts[1] + 2 * per_layer  # here the lower half trains too


def _weights(layers: list[torch.nn.Module]) -> list[Tensor]:
    return [weight for layer in layers for weight in layer.parameters()]


def _tensors(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


@torch.no_grad()
def test_masked_logits_are_the_dense_ones_at_the_positions(model: Any) -> None:
    ids, mask = random_ids(2, 6), mask_of([6, 4], 6)
    positions = torch.zeros(2, 6).bool()
    positions[0, [1, 4]] = positions[1, 2] = True
    found = model.masked_logits(ids, mask, positions, language=0)
    dense = model(ids, mask, language=0).logits
    assert torch.allclose(found, torch.stack([dense[0, 1], dense[0, 4], dense[1, 2]]), atol=1e-5)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = trelm_model(LAYERS).train(), trelm_model(LAYERS).train()
    saving.gradient_checkpointing_enable()
    ids, labels = some_labels()
    for model in (plain, saving):
        model(ids, labels=labels).loss.backward()
    for (name, left), right in zip(plain.named_parameters(), saving.parameters()):
        if left.grad is not None:
            assert right.grad is not None, name
            assert torch.allclose(left.grad, right.grad, atol=1e-6), name


def is_tied(model: Any) -> bool:
    head = model.head.cls.predictions
    pairs = [(head.decoder.weight, model.get_input_embeddings().weight), (head.decoder.bias, head.bias)]
    return all(one.data_ptr() == two.data_ptr() for one, two in pairs)


@torch.no_grad()
def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    model = trelm_model(LAYERS)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again, ids = AutoModelForMaskedLM.from_pretrained(tmp_path), random_ids(2, 5)
    assert isinstance(again, TrelmForMaskedLM)
    assert is_tied(model)
    assert is_tied(again)
    assert torch.equal(again(ids).logits, model(ids).logits)
    body = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert isinstance(body, TrelmModel)
    assert body.config.source._attn_implementation == "eager"
    assert torch.allclose(body(ids).last_hidden_state, model.trelm(ids).last_hidden_state, atol=1e-5)


@torch.no_grad()
def test_an_untied_source_stays_untied(tmp_path: Path) -> None:
    model = trelm_model(LAYERS, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    again, ids = AutoModelForMaskedLM.from_pretrained(tmp_path), random_ids(2, 5)
    for one in (model, again):
        assert not torch.equal(one.head.cls.predictions.decoder.weight, one.get_input_embeddings().weight)
    assert torch.equal(again(ids).logits, model(ids).logits)


@torch.no_grad()
def test_a_vocabulary_that_grew_is_saved_and_comes_back(tmp_path: Path) -> None:
    """As whoever fine-tunes does after adding tokens."""
    model, ids = trelm_model(LAYERS), random_ids(2, 5)
    before = model(ids).logits
    model.resize_token_embeddings(VOCABULARY + 3)
    assert is_tied(model)
    assert torch.allclose(model(ids).logits[..., :VOCABULARY], before, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert again.config.vocab_size == again.config.source.vocab_size == VOCABULARY + 3
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_new_embeddings_can_be_set() -> None:
    model = trelm_model(LAYERS)
    table, decoder = torch.nn.Embedding(7, WIDTH), torch.nn.Linear(WIDTH, 7)
    model.set_input_embeddings(table)
    model.set_output_embeddings(decoder)
    assert model.trelm.backbone.embeddings.word_embeddings is model.get_input_embeddings() is table
    assert model.get_output_embeddings() is decoder
    assert model.head.cls.predictions.bias is decoder.bias


@pytest.mark.parametrize("lengths", [[9, 9], [9, 4]])
@torch.no_grad()
def test_made_without_a_tri_layer_it_is_the_source_encoder_with_as_many_layers(
    rough_bert: Path, lengths: list[int], tmp_path: Path
) -> None:
    source = load_source(str(rough_bert))
    config = trelm_config(
        source.config,
        vocabulary_size=len(source.table),
        special_ids={"pad": source.tokenizer.pad_token_id},
        languages=("en", "id"),
        has_tri_layer=False,
    )
    config.plainness = 1.0  # nor positions in the middle
    made: Any = transferred_model(config, source, source.table, seed=1)
    made.save_pretrained(str(tmp_path))
    model: Any = AutoModel.from_pretrained(str(tmp_path)).eval()
    inputs = {"input_ids": random_ids(2, 9, below=200), "attention_mask": mask_of(lengths, 9)}
    found = model(**inputs, output_hidden_states=True)
    expected = source.backbone.eval()(**inputs, output_hidden_states=True)
    assert model.config.num_hidden_layers == source.config.num_hidden_layers
    assert len(found.hidden_states) == len(expected.hidden_states)
    for state, other in zip(found.hidden_states, expected.hidden_states):
        assert torch.allclose(state, other, atol=1e-6)


@torch.no_grad()
def test_without_a_tri_layer_the_reordered_states_go_into_the_upper_half() -> None:
    model = trelm_model(LAYERS, has_tri_layer=False)
    ids, reversed_order = random_ids(1, 5), torch.tensor([[4, 3, 2, 1, 0]])
    ordered = model.trelm(
        ids, ordering=reversed_order, output_mask=torch.ones(1, 5, dtype=torch.long), output_hidden_states=True
    )
    plain = model.trelm(ids, output_hidden_states=True)
    middle = plain.hidden_states[MIDDLE]
    arranged = model.trelm._arrange(middle.flip(1), None, None, None)
    expected = model.trelm._run(model.trelm.upper_layers, arranged, None)[-1]
    assert torch.allclose(ordered.hidden_states[MIDDLE], middle)
    assert torch.allclose(ordered.last_hidden_state, expected, atol=1e-5)
