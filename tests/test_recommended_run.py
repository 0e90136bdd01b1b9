"""A run as `recommended` has it: the encoder's own layers, one stage, rates and masks of its own, and a plain model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from toy import ToyRun, export_toy, make_toy_run, one_core, run_toy, without_seconds
from trelm import pipeline
from trelm.config import recipe_values
from trelm.evaluation.intrinsic import mask_lines
from trelm.model.configuration import TrelmConfig
from trelm.model.encoder import TrelmForMaskedLM
from trelm.steps import training
from trelm.steps.training import STAGE_FOLDERS

UPDATES = 6
BARE = (
    "stages.commonality.share=0",
    "stages.transfer_upper.share=0",
    "stages.transfer_lower.share=0",
    "stages.language_specific.body_learning_rate=3e-4",
    "stages.language_specific.mask_rate=0.3",
    "stages.scratch.mask_rate=0.3",
    "model.tri_layer=false",
    "embeddings.initialisation=recommended",
    f"budget.updates={UPDATES}",
)
STAGE = "stages/5-language-specific"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Watched:
    """A finished run, and of each stage that trained its mask rate, its two learning rates, and where labels were."""

    run: ToyRun
    trained: dict[str, tuple[Any, ...]]


@pytest.fixture(scope="module")
def watched(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    trained: dict[str, tuple[Any, ...]] = {}
    run_stage = training.run_stage

    def watch(model: Any, stage: Any, batches: Any, settings: Any, *rest: Any, **more: Any) -> Any:
        parts = [part for number in range(len(batches)) for part in batches[number]["parts"]]
        labels = sum(int((part["labels"] != -100).sum()) for part in parts)
        tokens = sum(int(part["attention_mask"].sum()) - 2 * len(part["labels"]) for part in parts)
        trained[stage.name] = (stage.mask_rate, settings.learning_rate, settings.body_learning_rate, labels / tokens)
        return run_stage(model, stage, batches, settings, *rest, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "run_stage", watch)
        run = make_toy_run(tmp_path_factory.mktemp("recommended"), tiny_bert, *BARE)
    return Watched(run, trained)


def test_it_has_what_the_recipe_has() -> None:
    """Else this is a test of another run."""
    recipe = recipe_values("recommended")
    shares = {name: settings["share"] for name, settings in recipe["stages"].items() if settings["share"]}
    assert shares == {"language_specific": 1, "scratch": 1}
    assert recipe["model"] == {"tri_layer": False}
    assert recipe["embeddings"]["initialisation"] == "recommended"


def test_it_trains_with_the_rates_and_masks_of_its_stage(watched: Watched) -> None:
    assert set(watched.trained) == {"language-specific", "scratch"}
    assert watched.trained["language-specific"][:3] == (0.3, 1e-3, 3e-4)
    assert watched.trained["scratch"][:3] == (0.3, 1e-3, None)
    assert all(0.25 < share < 0.35 for *_, share in watched.trained.values())


def test_it_starts_plain_and_stays_so(watched: Watched, tiny_bert: Path) -> None:
    layers = AutoModelForMaskedLM.from_pretrained(tiny_bert).config.num_hidden_layers
    for place in ("model/start", "model/random", f"{STAGE}/model", "stages/scratch/model"):
        config = TrelmConfig.from_pretrained(str(watched.run.folder / place))
        assert (config.plainness, config.has_tri_layer, config.num_hidden_layers) == (1.0, False, layers), place


def test_every_part_of_the_model_learns_in_its_one_stage(watched: Watched) -> None:
    before, after = (
        load_file(watched.run.folder / place / "model.safetensors") for place in ("model/start", f"{STAGE}/model")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(any(f"encoder.layer.{number}." in name for name in moved) for number in range(4))
    assert any("word_embeddings" in name for name in moved)


def test_its_scores_are_of_the_usual_masks(watched: Watched) -> None:
    """Held-out text is masked as in any other run, so that models of different mask rates can be compared."""
    context = watched.run.context(*BARE)
    lines = context.lines("target-held-out.txt")
    masked = mask_lines(context.tokenizer, lines, mask_rate=0.15, seed=1, max_length=64)
    for name in ("start", "transferred", "scratch"):
        assert watched.run.report["models"][name]["masked_units"] == sum(len(line.units) for line in masked)


def test_it_is_exported_as_a_plain_model_at_once(watched: Watched, tmp_path: Path, tiny_bert: Path) -> None:
    """Without a plain stage: class and depth are the source's, and the logits are the trained model's."""
    run = watched.run
    assert run.report["export"]["kind"] == "plain"
    assert not (run.folder / STAGE_FOLDERS["plain"]).exists()
    written = export_toy(run, tmp_path / "plain", kind="plain")
    assert not (run.folder / STAGE_FOLDERS["plain"]).exists()
    assert written["check"]["largest_difference"] <= written["check"]["limit"]
    assert written["check"]["trained_away"] == run.report["export"]["check"]["trained_away"] == []
    source = AutoModelForMaskedLM.from_pretrained(tiny_bert)
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "plain").double().eval()
    assert type(plain) is type(source)
    assert plain.config.num_hidden_layers == source.config.num_hidden_layers
    ours = TrelmForMaskedLM.from_pretrained(str(run.folder / STAGE / "model")).double().eval()
    lines = run.context(*BARE).lines("target-held-out.txt")
    batch = AutoTokenizer.from_pretrained(tmp_path / "plain")(lines, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = ours(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found = plain(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)


def test_interrupted_it_ends_in_the_same_weights(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage = training.run_stage

    def cut_off(model: Any, stage: Any, batches: Any, settings: Any, folder: Path, _: Any, *rest: Any,
                **more: Any) -> Any:  # fmt: skip
        def stop(done: int, *_: Any) -> None:
            if done == UPDATES // 2:
                raise KeyboardInterrupt

        return run_stage(model, stage, batches, settings, folder, stop, *rest, **more)

    config = watched.run.config(*BARE)
    with monkeypatch.context() as patched:
        patched.setattr(training, "run_stage", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_toy(config, tmp_path / "run")
    assert list((tmp_path / "run" / STAGE).glob("checkpoint-*"))
    report = run_toy(config, tmp_path / "run")
    assert without_seconds(report)["models"] == without_seconds(watched.run.report)["models"]
    one, other = (
        load_file(place / STAGE / "model/model.safetensors") for place in (tmp_path / "run", watched.run.folder)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_planned(watched: Watched) -> None:
    with one_core():
        found = pipeline.estimate(watched.run.config(*BARE))
    rows = {row["name"]: row for row in found["steps"]}
    assert [name for name, row in rows.items() if row["updates"]] == ["language-specific", "scratch"]
    done = watched.run.report["steps"][STAGE]
    assert rows["language-specific"]["flops"] == pytest.approx(done["flops"], rel=0.1)
