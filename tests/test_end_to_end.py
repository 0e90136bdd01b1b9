"""The whole method, small, with the real MiniLM on real text: English to Indonesian."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline as hugging_face_pipeline

from toy import manifests, run_toy, stamps
from trelm import pipeline
from trelm.config import Config, make_config
from trelm.workspace import read_json

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

STAGE = {"learning_rate": 1.0e-3, "warmup": 0.1}
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
                    *(("language_specific", 10), ("scratch", 1)),
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


def test_running_again_does_nothing(real_run: tuple[Path, dict[str, Any]], data_folder: Path) -> None:
    folder, report = real_run
    before = {name: stamp for name, stamp in stamps(folder).items() if "/" in name}
    assert run_toy(real_config(data_folder), folder) == report
    assert {name: stamp for name, stamp in stamps(folder).items() if "/" in name} == before
