"""Encoders of every origin on evaluation sets: what the TreLM class is told, retrieval, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    ByT5Tokenizer,
    CLIPConfig,
    GPT2Config,
    T5Config,
)

from trelm.config import EvaluationConfig, FineTuningConfig
from trelm.errors import ConfigError, DataError
from trelm.model.loading import load_bare_encoder
from trelm.model.source import scratch_model, trelm_config
from trelm.steps.tasks import check_tunable, encoder_of, evaluate_model, load_encoder, model_digest, run_task

QUICK = FineTuningConfig(learning_rates=(1e-3,), seeds=(1,), epochs=1)
PAIRS = [("the state", "of work"), ("very good people", "how little"), ("they said", "two years"), ("from", "after")]


class Silence:
    def update(self, *_: Any, **__: Any) -> None: ...

    def note(self, text: str) -> None: ...


def tagged(folder: Path, name: str = "tags", **changes: Any) -> EvaluationConfig:
    path = folder / "tags.tsv"
    path.write_text("the\tD\nstate\tN\n\npeople\tN\nwork\tV\n\n" * 3)
    values: dict[str, Any] = {part: str(path) for part in ("train", "dev", "test")}
    return EvaluationConfig(task="tagging", name=name, fine_tuning=QUICK, **values | changes)


def pairs(folder: Path, **changes: Any) -> EvaluationConfig:
    path = folder / "pairs.tsv"
    path.write_text("".join(f"{first}\t{second}\n" for first, second in PAIRS))
    return EvaluationConfig(task="retrieval", **{"test": str(path), **changes})


def test_an_encoder_from_a_folder_is_the_one_in_memory(tiny_bert: Path) -> None:
    loaded = load_encoder(str(tiny_bert))
    model: Any = loaded.build()
    assert model.config.attention_probs_dropout_prob == 0.0
    assert model.config.hidden_dropout_prob == 0.1
    assert (loaded.width, loaded.max_length, loaded.languages) == (32, 64, ())
    assert loaded.segments
    again = encoder_of(AutoModel.from_pretrained(tiny_bert, add_pooling_layer=True), loaded.tokenizer)
    own: Any = again.build()
    names = [name for name in model.state_dict() if not name.startswith("pooler")]
    assert all(torch.equal(model.state_dict()[name], own.state_dict()[name]) for name in names)
    assert loaded.digest == load_encoder(str(tiny_bert)).digest
    model.encoder.layer[0].output.dense.bias.data += 1
    assert loaded.digest != encoder_of(model, loaded.tokenizer).digest
    model.register_buffer("scale", torch.tensor(1.0))  # a weight without dimensions
    assert model_digest(model, loaded.tokenizer) not in (loaded.digest, encoder_of(own, loaded.tokenizer).digest)


def test_what_a_tokenizer_was_last_asked_for_does_not_change_the_digest(tiny_bert: Path) -> None:
    loaded = load_encoder(str(tiny_bert))
    model = loaded.build()
    before = model_digest(model, loaded.tokenizer)
    loaded.tokenizer(["a word", "words and words"], truncation=True, max_length=4, padding=True)
    assert json.loads(loaded.tokenizer.backend_tokenizer.to_str())["truncation"] is not None
    assert model_digest(model, loaded.tokenizer) == before == loaded.digest
    assert json.loads(loaded.tokenizer.backend_tokenizer.to_str())["truncation"] is not None  # left as it was


def test_a_trelm_model_is_told_the_language_of_train_and_of_test(tmp_path: Path, tiny_bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    source = AutoConfig.from_pretrained(tiny_bert)
    config = trelm_config(source, vocabulary_size=200, special_ids={"pad": 0}, languages=("en", "id"))
    model: Any = scratch_model(config, seed=1).trelm
    encoder = encoder_of(model, tokenizer, "digest")
    assert (encoder.languages, encoder.default_language, encoder.digest) == (("en", "id"), 1, "digest")
    heard: list[list[int]] = []
    original = type(model).forward

    def listen(self: Any, *args: Any, **kwargs: Any) -> Any:
        heard.append(kwargs["language"].unique().tolist())
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", listen)
        run_task(encoder, tagged(tmp_path, train_language="en"), work=tmp_path / "w", cache=None, tell=Silence())
        assert heard == [[0], [0], [1]]  # one batch each of train, dev, test
        heard.clear()
        run_task(encoder, tagged(tmp_path), work=tmp_path / "w", cache=None, tell=Silence())
        assert heard == [[1], [1], [1]]
        heard.clear()
        run_task(encoder, pairs(tmp_path), work=tmp_path / "w", cache=None, tell=Silence())
        assert heard == [[0], [1]]
    kwargs: list[dict[str, Any]] = []
    single = encoder_of(model, tokenizer, "digest", languages=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", lambda *a, **given: kwargs.append(given) or original(*a, **given))
        for task in (tagged(tmp_path, train_language="xx"), pairs(tmp_path)):
            run_task(single, task, work=tmp_path / "w", cache=None, tell=Silence())
    assert len(kwargs) == 5
    assert not any("language" in given for given in kwargs)


def test_retrieval_is_that_of_plain_loops(tmp_path: Path, tiny_bert: Path) -> None:
    result = run_task(load_encoder(str(tiny_bert)), pairs(tmp_path), work=tmp_path / "w", cache=None, tell=Silence())
    model, tokenizer = AutoModel.from_pretrained(tiny_bert), AutoTokenizer.from_pretrained(tiny_bert)
    model.train(False)
    with torch.inference_mode():
        states = [
            [
                model(**tokenizer(pair[side], return_tensors="pt"), output_hidden_states=True).hidden_states
                for pair in PAIRS
            ]
            for side in (0, 1)
        ]
    expected = []
    for layer in range(5):
        sides = []
        for side in states:
            vectors = np.array([sentence[layer][0, 1:-1].mean(0).numpy() for sentence in side])
            vectors -= vectors.mean(0)
            sides.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        similarity = sides[0] @ sides[1].T
        right = [similarity.argmax(axis) == np.arange(len(PAIRS)) for axis in (0, 1)]
        expected.append(float(np.mean(right)))
    assert result["by_layer"] == expected
    assert (result["layer"], result["layer_chosen_on"], result["score"]) == (4, "nothing: the last", expected[4])
    assert result["scores"]["accuracy"] == (result["scores"]["forward"] + result["scores"]["backward"]) / 2
    assert result["data"] == {"test": {"examples": 4, "cut_texts": 0}}
    chosen = pairs(tmp_path, dev=str(tmp_path / "pairs.tsv"))
    result = run_task(load_encoder(str(tiny_bert)), chosen, work=tmp_path / "w", cache=None, tell=Silence())
    assert (result["layer"], result["layer_chosen_on"]) == (int(np.argmax(expected)), "dev")


def test_all_sets_of_a_file_are_judged_or_one(tmp_path: Path, tiny_bert: Path) -> None:
    tasks = [tagged(tmp_path), pairs(tmp_path), tagged(tmp_path, "as text", train=())]
    results = evaluate_model(str(tiny_bert), tasks, work=tmp_path / "work", quiet=True)
    assert list(results) == ["tags", "retrieval", "as text"]
    assert results["as text"]["lines"] == 6
    assert results["tags"]["task"] == "tagging"
    assert evaluate_model(str(tiny_bert), tasks, only="tags", quiet=True) == {"tags": results["tags"]}
    with pytest.raises(ConfigError, match=r"--only tag: unknown set \(known: tags, retrieval, as text\); did you mean"):
        evaluate_model(str(tiny_bert), tasks, only="tag", quiet=True)
    with pytest.raises(
        ConfigError, match="evaluation 'as text': expected a set with train, or retrieval, found neither"
    ):
        run_task(load_encoder(str(tiny_bert)), tasks[2], work=tmp_path, cache=None, tell=Silence())


def test_translation_is_skipped_among_others_and_refused_alone(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [EvaluationConfig(task="translation", name="words", test="nowhere"), pairs(tmp_path)]  # type: ignore[arg-type]
    results = evaluate_model(str(tiny_bert), tasks, work=tmp_path)
    assert list(results) == ["words", "retrieval"]
    assert results["words"] == {"task": "translation", "skipped": "needs the two tables of a run"}
    assert "words: skipped: needs the two tables of a run" in capsys.readouterr().err
    for chosen, only in ((tasks[:1], None), (tasks, "words")):
        with pytest.raises(ConfigError, match=r"^evaluation 'words': translation needs the two tables of a run; see"):
            evaluate_model(str(tiny_bert), chosen, only=only)


def test_what_is_wrong_with_a_set_is_told_before_anything_trains(tmp_path: Path, tiny_bert: Path) -> None:
    (tmp_path / "broken.tsv").write_text("word\n")
    with pytest.raises(DataError, match=r"broken.tsv, line 1: expected a word and its tag, found 1 column"):
        evaluate_model(str(tmp_path), [tagged(tmp_path, dev=str(tmp_path / "broken.tsv"))], quiet=True)
    words = r"'tags': expected files, found an hf:// name \('hf://a/b'\); save it to files first"
    with pytest.raises(ConfigError, match=words):
        check_tunable([tagged(tmp_path, train="hf://a/b")])
    with pytest.raises(ConfigError, match="'retrieval' has no test; name files under test"):
        check_tunable([pairs(tmp_path, test=())])
    foreign, text = tagged(tmp_path, train_language="xx"), EvaluationConfig(task="text", test=("hf://a/b",))
    check_tunable([foreign, text])
    with pytest.raises(
        ConfigError, match=r"'tags': train_language: expected a language of the model \(en, id\), found"
    ):
        check_tunable([foreign], ("en", "id"))


def test_a_model_without_head_is_tuned_and_not_scored_as_text(tmp_path: Path, tiny_bert: Path) -> None:
    AutoModel.from_pretrained(tiny_bert).save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "bare")
    tasks = [tagged(tmp_path), tagged(tmp_path, "as text", train=())]
    assert evaluate_model(str(tmp_path / "bare"), tasks[:1], quiet=True)["tags"]["metric"] == "accuracy"
    with pytest.raises(
        ConfigError, match=r"evaluation 'as text': .*expected a masked language model, found a checkpoint"
    ):
        evaluate_model(str(tmp_path / "bare"), tasks, quiet=True)


def test_what_is_no_bare_encoder_is_refused(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="expected a model folder or a reachable Hub id with weights as safetensors"):
        load_bare_encoder(str(tmp_path))
    for config, message in (
        (T5Config(), r"expected an encoder, found one with a decoder \(t5\); give another model"),
        (GPT2Config(), r"expected an encoder, found a decoder \(gpt2\); give another model"),
        (BertConfig(is_decoder=True), r"expected an encoder, found a decoder \(bert\); give another model"),
        (CLIPConfig(), r"expected an encoder of text, found a configuration without hidden_size \(clip\); give"),
    ):
        config.save_pretrained(tmp_path / "other")
        with pytest.raises(ConfigError, match=message):
            load_bare_encoder(str(tmp_path / "other"))
    folder = tmp_path / "larger"
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    rows = AutoConfig.from_pretrained(tiny_bert).vocab_size
    tokenizer.add_tokens([f"extra{i}" for i in range(rows + 1 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match=f"expected the tokenizer of its table of {rows:,} embeddings, found one of"):
        load_bare_encoder(str(folder))
    folder = tmp_path / "slow"
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    with pytest.raises(
        ConfigError, match=r"expected a fast tokenizer \(tokenizer.json\), found a slow one; convert it"
    ):
        load_bare_encoder(str(folder))
    folder = tmp_path / "deeper"
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    message = re.escape(
        "expected every weight that its config.json asks for, found 16 missing (the first: encoder.layer.4"
    )
    with pytest.raises(ConfigError, match=message):
        load_bare_encoder(str(folder))
