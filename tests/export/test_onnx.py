"""The ONNX file: the logits of PyTorch at every batch size and length, for every family; and what is refused."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EuroBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from trelm.errors import ExportError, RunFolderError
from trelm.export import onnx as onnx_module
from trelm.export.onnx import export_onnx

ENTRIES = 200
SENTENCES = ["the people said that it was good .", "how are you ?", "i", "before the world " * 30]
COMMON: dict[str, Any] = {
    "vocab_size": ENTRIES,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
DISTILBERT = {"vocab_size": ENTRIES, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "type_vocab_size": 0}
ENDS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**COMMON),
    "roberta": RobertaConfig(**COMMON),
    "electra": ElectraConfig(**COMMON, embedding_size=8),
    "distilbert": DistilBertConfig(**DISTILBERT, max_position_embeddings=40, pad_token_id=0),
    "mpnet": MPNetConfig(**COMMON),
    "deberta-v2": DebertaV2Config(**COMMON, **DEBERTA, share_att_key=True, norm_rel_ebd="layer_norm", legacy=False),
    "modernbert": ModernBertConfig(**COMMON, global_attn_every_n_layers=2, local_attention=8, **ENDS),
    "eurobert": EuroBertConfig(**COMMON, num_key_value_heads=1, bos_token_id=2, eos_token_id=3, mask_token_id=4),
}


def save_family(folder: Path, family: str, tokenizer_folder: Path) -> Path:
    """A model of this family, with noise on every weight so that nothing is hidden by a zero, and a tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = AutoModelForMaskedLM.from_config(FAMILIES[family])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


def largest_difference(folder: Path, batch: int, length: int) -> float:
    """Largest difference of ONNX Runtime's logits from PyTorch's on random ids, some of them padding."""
    model: Any = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = torch.randint(5, ENTRIES, (batch, length), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, max(length // (row + 1), 1) :] = 0
    ids = ids * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    named = {value.name: inputs[value.name] for value in session.get_inputs()}
    computed = session.run(["logits"], {name: value.numpy() for name, value in named.items()})[0]
    with torch.no_grad():
        expected = model(**named).logits.numpy()
    assert computed.shape == (batch, length, ENTRIES)
    return float(np.abs(computed - expected)[mask.bool().numpy()].max() / np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_logits_at_every_shape(tmp_path: Path, tiny_bert: Path, family: str) -> None:
    folder = save_family(tmp_path / family, family, tiny_bert)
    figures = export_onnx(folder, sentences=SENTENCES)
    for batch, length in ((1, 1), (1, 37), (2, 9), (5, 17)):
        assert largest_difference(folder, batch, length) < 1e-5
    assert figures["path"] == "onnx/model.onnx"
    assert figures["inputs"] == ["input_ids", "attention_mask", *(["token_type_ids"] if has_types(folder) else [])]
    assert figures["sentences"] == len(SENTENCES)
    assert figures["largest_difference"] <= 1e-5 * figures["largest_logit"]
    assert figures["bytes"] == (folder / "onnx" / "model.onnx").stat().st_size
    check_graph(folder / "onnx" / "model.onnx", figures)


def has_types(folder: Path) -> bool:
    """Whether the tokenizer, BERT's here, and the model have token types."""
    return bool(getattr(AutoConfig.from_pretrained(folder), "type_vocab_size", 0))


def check_graph(path: Path, figures: dict[str, Any]) -> None:
    """Both axes free, the checker content, and nothing of this machine in it."""
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert graph.opset_import[0].version == figures["opset"]
    assert [value.name for value in graph.graph.input] == figures["inputs"]
    for value, rest in [*((value, []) for value in graph.graph.input), (graph.graph.output[0], [ENTRIES])]:
        axes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        assert axes == ["batch", "sequence", *rest]
    written = path.read_bytes()
    for place in (str(Path(torch.__file__).parents[2]), str(Path.home()), str(path.parent), ".py"):
        assert place.encode() not in written


def test_the_table_is_written_once(tmp_path: Path, tiny_bert: Path) -> None:
    """Input and output share it; a second copy would double the file of a small model with many entries."""
    folder = tmp_path / "wide"
    model: Any = AutoModelForMaskedLM.from_config(BertConfig(**{**COMMON, "vocab_size": 30_000}))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    table = 30_000 * COMMON["hidden_size"] * 4
    assert export_onnx(folder, sentences=["the people"])["bytes"] < 1.5 * table


@pytest.fixture
def folder(tmp_path: Path, tiny_bert: Path) -> Path:
    return save_family(tmp_path / "model", "bert", tiny_bert)


def test_one_short_sentence_is_enough(folder: Path) -> None:
    export_onnx(folder, sentences=["i"])
    assert largest_difference(folder, 3, 20) < 1e-5


@pytest.mark.parametrize("amount", [0.01, float("nan")])
def test_a_graph_that_computes_something_else_is_refused_and_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, amount: float
) -> None:
    """One bias of the written file is changed."""
    write = onnx_module._write

    def and_spoil(model: Any, batch: dict[str, torch.Tensor], path: Path) -> int:
        opset = write(model, batch, path)
        graph = onnx.load(path)
        (bias,) = (one for one in graph.graph.initializer if one.name.endswith("decoder.bias"))
        values = onnx.numpy_helper.to_array(bias).copy()
        values[7] += amount
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(graph, path)
        return opset

    monkeypatch.setattr(onnx_module, "_write", and_spoil)
    words = (
        rf"^{re.escape(str(folder))}/onnx/model\.onnx: expected the logits of PyTorch, found them to differ by up to "
        rf"{'nan' if np.isnan(amount) else '0.01'} \(largest logit [\d.]+\); the file was removed: publish the model "
        "without ONNX$"
    )
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ExportError, match=words):
        export_onnx(folder, sentences=SENTENCES)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_graph_that_ignores_the_mask_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is right for a sentence alone, and wrong for padded ones."""

    class Maskless(onnx_module._Logits):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(inputs[0], attention_mask=torch.ones_like(inputs[1])).logits
            return logits + 0 * inputs[1].unsqueeze(-1) + 0 * inputs[2].unsqueeze(-1)

    monkeypatch.setattr(onnx_module, "_Logits", Maskless)
    export_onnx(folder, sentences=["the people"])
    (folder / "onnx" / "model.onnx").unlink()
    (folder / "onnx").rmdir()
    with pytest.raises(ExportError, match="expected the logits of PyTorch"):
        export_onnx(folder, sentences=SENTENCES)


def test_a_model_that_cannot_be_written_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Jumpy(onnx_module._Logits):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            if inputs[0].sum() > 3:  # depends on the values: no graph can hold it
                return super().forward(*inputs)
            return super().forward(*inputs) + 1

    monkeypatch.setattr(onnx_module, "_Logits", Jumpy)
    words = (
        r"^bert: expected a model that PyTorch can write as ONNX, found one that it cannot \(.+\); publish it without"
    )
    with pytest.raises(ExportError, match=words):
        export_onnx(folder, sentences=SENTENCES)
    assert not (folder / "onnx").exists()


def test_a_file_that_cannot_be_run_is_refused_and_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_module, "_write", lambda model, batch, path: path.write_bytes(b"no graph"))
    words = (
        r"^onnx/model\.onnx: expected a file that ONNX Runtime can run, found one that it cannot \(.+\); the file was "
        "removed: publish the model without ONNX$"
    )
    with pytest.raises(ExportError, match=words):
        export_onnx(folder, sentences=SENTENCES)
    assert not (folder / "onnx").exists()


def test_the_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name))
    words = (
        "^ONNX: expected the packages of the extra `onnx`, found no onnx, onnxscript, onnxruntime; install them with: "
        r"pip install 'trelm\[onnx\]'$"
    )
    with pytest.raises(ExportError, match=words):
        export_onnx(folder, sentences=SENTENCES)


def test_a_trelm_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "trelm"}', encoding="utf-8")
    words = f"^{re.escape(str(tmp_path))}: expected a plain model, found one of TreLM's own class; ONNX needs --plain$"
    with pytest.raises(ExportError, match=words):
        export_onnx(tmp_path, sentences=SENTENCES)


def test_what_is_there_is_not_overwritten(folder: Path) -> None:
    (folder / "onnx").mkdir()
    words = "onnx: expected no such folder, found one; remove it to write it again$"
    with pytest.raises(RunFolderError, match=words):
        export_onnx(folder, sentences=SENTENCES)


def test_without_sentences_nothing_can_be_checked(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected sentences to check the ONNX file on, found none"):
        export_onnx(folder, sentences=[])


def test_a_tokenizer_without_token_types_gives_a_graph_without_them(folder: Path) -> None:
    path = folder / "tokenizer.json"
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    for old in folder.glob("tokenizer_config.json"):
        old.unlink()
    bare = PreTrainedTokenizerFast(
        tokenizer_file=str(path), model_input_names=["input_ids", "attention_mask"], model_max_length=20, **special
    )
    bare.save_pretrained(folder)
    assert export_onnx(folder, sentences=SENTENCES)["inputs"] == ["input_ids", "attention_mask"]
