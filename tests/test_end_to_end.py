"""The whole method, small, with the real MiniLM on real text: English to Indonesian, and a plain model at the end."""

from __future__ import annotations

import json
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import pipeline as hugging_face_pipeline

from toy import manifests, run_toy, stamps
from trelm import pipeline
from trelm.config import Config, make_config
from trelm.steps.context import Context
from trelm.steps.training import load_model
from trelm.workspace import Run, read_json

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

# The start is good: at 1e-3 the first sixteen steps of Adam take more from it than they teach.
STAGE = {"learning_rate": 3.0e-4, "warmup": 0.1}
# Given the folders where the libraries lie, without the `.pth` files there, of which one leads to trelm.
STRANGER = """
import json, sys
sys.path[:0] = sys.argv[3:]
sys.modules["trelm"] = None  # where trelm itself lies among the libraries: as if it did not
try:
    import trelm
except ModuleNotFoundError:
    pass
else:
    sys.exit("trelm can be imported here")
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer
torch.set_num_threads(1)
model, tokenizer = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval(), AutoTokenizer.from_pretrained(sys.argv[1])
given = load_file(sys.argv[2])
with torch.inference_mode():
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
real = given["attention_mask"].bool()
print(json.dumps({
    "class": type(model).__module__ + "." + type(model).__name__,
    "layers": model.config.num_hidden_layers,
    "difference": float((logits - given["logits"])[real].abs().max()),
    "ids": tokenizer("Presiden mengatakan hal itu di Jakarta .")["input_ids"],
    "trelm": sorted(name for name, module in sys.modules.items() if name.partition(".")[0] == "trelm" and module),
}))
"""
DEVELOPMENT, TEST = "id/eval/ud_gsd/id_gsd-ud-dev.conllu.xz", "id/eval/ud_gsd/id_gsd-ud-test.conllu.xz"


def real_config(data: Path) -> Config:
    """A few hundred lines of each input, a small vocabulary, sixteen updates."""
    return make_config(
        {
            "source": {"model": "minilm", "language": "en", "text": [str(data / "en/mono/state_union.txt.xz")]},
            "target": {"language": "id", "text": [str(data / "id/mono/leipzig_news_2008.txt.xz")]},
            "parallel": sorted(str(path) for path in (data / "en-id/train").glob("*.tsv.xz"))[:2],
            "evaluation": [
                {"task": "translation", "test": [str(data / "dict/en-id.bli.test.tsv.xz")]},
                {"task": "parsing", "name": "gsd", "dev": [str(data / DEVELOPMENT)], "test": [str(data / TEST)]},
            ],
            "budget": {"updates": 16},
            "recipe": "quick",
            "corpus": {"max_lines": 1500, "held_out_lines": 100},
            "vocabulary": {"size": 4000},
            "embeddings": {"epochs": 1, "max_tokens": 60_000},
            "alignment": {"method": "parallel", "refinement_rounds": 2},
            "stages": {
                name: {"share": share, **STAGE}
                for name, share in (
                    *(("commonality", 2), ("transfer_upper", 2), ("transfer_lower", 2)),
                    *(("language_specific", 8), ("plain", 2), ("scratch", 1)),
                )
            },
            "training": {"batch_tokens": 512, "max_length": 64},
        },
        origin="end to end",
    )


@pytest.fixture(scope="module")
def real_run(
    data_folder: Path, minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished run and its report."""
    assert minilm_folder.is_dir()
    folder = tmp_path_factory.mktemp("end-to-end") / "run"
    return folder, run_toy(real_config(data_folder), folder)


def test_the_report_has_the_names_that_others_rely_on(real_run: tuple[Path, dict[str, Any]], data_folder: Path) -> None:
    folder, report = real_run
    for model in ("start", "transferred", "scratch"):
        scores = report["models"][model]
        assert 0 < scores["bits_per_character"] < 20
        assert 0 <= scores["masked_accuracy"] <= 1
        assert scores["masked_loss"] > 0
        assert scores["tasks"]["gsd"]["lines"] > 300
    assert report["alignment"]["method"] == "parallel"
    assert report["alignment"]["precision_at_1"] >= 0
    assert report["export"]["path"] == str(folder / "export")
    assert report["export"]["kind"] == "plain"
    assert list(report["steps"]) == [step.name for step in pipeline.steps(real_config(data_folder))]
    assert all(cost.keys() >= {"seconds", "tokens", "flops"} for cost in report["steps"].values())
    assert read_json(folder / "report.json") == report
    assert (folder / "report.html").stat().st_size > 0
    assert (folder / "report.md").stat().st_size > 0
    assert manifests(folder).keys() == report["steps"].keys()


def test_the_transferred_model_beats_its_own_start(real_run: tuple[Path, dict[str, Any]]) -> None:
    models = real_run[1]["models"]
    assert models["transferred"]["bits_per_character"] < models["start"]["bits_per_character"]
    tasks = {name: models[name]["tasks"]["gsd"]["bits_per_character"] for name in ("start", "transferred")}
    assert tasks["transferred"] < tasks["start"]


def test_the_body_is_minilms_until_it_is_trained(real_run: tuple[Path, dict[str, Any]], minilm_folder: Path) -> None:
    source = load_file(minilm_folder / "model.safetensors")
    start = load_file(real_run[0] / "model" / "start" / "model.safetensors")
    name = "encoder.layer.3.attention.self.query.weight"
    (own,) = (value for key, value in start.items() if key.endswith(name))
    (theirs,) = (value for key, value in source.items() if key.endswith(name))
    assert torch.equal(own, theirs.float())


def test_the_export_fills_a_mask(real_run: tuple[Path, dict[str, Any]]) -> None:
    fill = hugging_face_pipeline("fill-mask", model=str(real_run[0] / "export"), device="cpu")
    guesses = fill(f"Presiden {fill.tokenizer.mask_token} mengatakan hal itu di Jakarta .")
    assert len(guesses) == 5
    scores = [guess["score"] for guess in guesses]
    assert scores == sorted(scores, reverse=True)
    assert all(guess["token_str"].strip() for guess in guesses)


def test_the_export_is_an_ordinary_bert_with_one_layer_more(
    real_run: tuple[Path, dict[str, Any]], minilm_folder: Path
) -> None:
    plain, source = (read_json(folder / "config.json") for folder in (real_run[0] / "export", minilm_folder))
    assert plain["architectures"] == ["BertForMaskedLM"]
    assert plain["model_type"] == "bert"
    assert (plain["num_hidden_layers"], source["num_hidden_layers"]) == (7, 6)
    for setting in ("hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings"):
        assert plain[setting] == source[setting]
    check = real_run[1]["export"]["check"]
    assert check["sentences"] == 64
    assert check["tokens"] > 640
    assert check["largest_difference"] <= check["limit"]
    assert check["trained_away"] == ["positions at the TRILayer"]


@torch.inference_mode()
def test_a_python_without_trelm_computes_the_same_logits(
    real_run: tuple[Path, dict[str, Any]], data_folder: Path, tmp_path: Path
) -> None:
    context = Context(real_config(data_folder), Run(real_run[0]))
    model, tokenizer = load_model(context, "plain").eval(), context.tokenizer
    batch = tokenizer(
        context.lines("target-held-out.txt")[:16],
        padding=True,
        truncation=True,
        max_length=64,
        return_tensors="pt",
        return_token_type_ids=False,
    )
    expected = model(**batch).logits
    save_file(
        {**{name: batch[name] for name in ("input_ids", "attention_mask")}, "logits": expected}, tmp_path / "ours"
    )
    command = [sys.executable, "-I", "-S", "-c", STRANGER, str(real_run[0] / "export"), str(tmp_path / "ours")]
    done = subprocess.run(
        [*command, *site.getsitepackages()], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("difference") < 1e-5 * max(1.0, float(expected.abs().max()))
    assert told == {
        "class": "transformers.models.bert.modeling_bert.BertForMaskedLM",
        "layers": 7,
        "ids": tokenizer("Presiden mengatakan hal itu di Jakarta .")["input_ids"],
        "trelm": [],
    }


def test_sentence_transformers_load_the_export(real_run: tuple[Path, dict[str, Any]]) -> None:
    encoder = SentenceTransformer(str(real_run[0] / "export"), device="cpu")
    vectors = encoder.encode(["Selamat pagi.", "Presiden mengatakan hal itu di Jakarta ."])
    assert vectors.shape == (2, 384)
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1).min() > 0


def test_running_again_does_nothing(real_run: tuple[Path, dict[str, Any]], data_folder: Path) -> None:
    folder, report = real_run
    before = {name: stamp for name, stamp in stamps(folder).items() if "/" in name}
    assert run_toy(real_config(data_folder), folder) == report
    assert {name: stamp for name, stamp in stamps(folder).items() if "/" in name} == before
