"""Several processes, as `torchrun` starts them, train like one: with whole weights and with split ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from toy import toy_values, write_toy_data
from trelm import pipeline
from trelm.config import load_config

pytestmark = pytest.mark.slow

TRAINING = ("stages", "evaluation", "export", "report.json", "report.html", "report.md")
SECONDS = 240


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder with a configuration and a run of it that is done up to the plan."""
    folder = tmp_path_factory.mktemp("distributed")
    write_toy_data(folder / "data")
    values = toy_values(folder / "data", tiny_bert)
    values["budget"] = {"updates": 14}
    values["training"]["checkpoint_minutes"] = 1e9
    for stage in ("transfer_upper", "language_specific"):  # with two groups of parameters, the others with one
        values["stages"][stage]["body_learning_rate"] = 3.0e-4
        values["stages"][stage]["mask_rate"] = 0.3
    (folder / "toy.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    pipeline.transfer(load_config(folder / "toy.yaml"), folder / "run", until="plan", quiet=True)
    return folder


@pytest.fixture(scope="module")
def whole(prepared: Path) -> Path:
    """The run of one process."""
    finish(prepared, "one", processes=1)
    return prepared / "one"


def finish(prepared: Path, name: str, *, processes: int, settings: dict[str, str] | None = None) -> None:
    begun(prepared, name, settings or {})
    done = start(prepared, name, processes)
    _, said = done.communicate(timeout=SECONDS)
    assert done.returncode == 0, said


def begun(prepared: Path, name: str, settings: dict[str, str]) -> None:
    """A copy of the prepared run; settings of training in its configuration changed, as if it had begun with them."""
    shutil.copytree(prepared / "run", prepared / name)
    shutil.copy(prepared / "toy.yaml", prepared / f"{name}.yaml")
    if settings:  # another configuration: its steps are not done
        shutil.rmtree(prepared / name)
        values = yaml.safe_load((prepared / "toy.yaml").read_text(encoding="utf-8"))
        values["training"].update(settings)
        (prepared / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def start(prepared: Path, name: str, processes: int) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m", "--", "trelm"]
    launch = launcher if processes > 1 else ["-m", "trelm"]
    command = [sys.executable, *launch, "transfer", str(prepared / f"{name}.yaml"), "--run", str(prepared / name)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, "--quiet"], stdout=pipe, stderr=pipe, text=True, env=environment)


def stages(run: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, torch.Tensor]]]:
    for manifest in sorted(run.glob("stages/*/manifest.json")):
        weights = load_file(manifest.parent / "model" / "model.safetensors")
        yield manifest.parent.name, json.loads(manifest.read_text(encoding="utf-8")), weights


def assert_alike(one: Path, other: Path, processes: int) -> None:
    """The same loss curves and weights within float tolerance, and the same final score."""
    pairs = list(zip(stages(one), stages(other), strict=True))
    assert len(pairs) == 6
    for (name, figures, weights), (_, others, other_weights) in pairs:
        if "curve" in figures:
            assert others["processes"] == processes
            assert others["tokens"] == figures["tokens"], name
            assert others["curve"]["loss"] == pytest.approx(figures["curve"]["loss"], abs=1e-5), name
        for key, weight in weights.items():
            torch.testing.assert_close(other_weights[key], weight, rtol=1e-3, atol=2e-5)
    scores = [json.loads((run / "report.json").read_text(encoding="utf-8"))["models"] for run in (one, other)]
    for model in ("transferred", "scratch"):
        assert scores[1][model]["bits_per_character"] == pytest.approx(scores[0][model]["bits_per_character"], abs=1e-5)


def test_two_processes_train_as_one(prepared: Path, whole: Path) -> None:
    finish(prepared, "two", processes=2)
    assert_alike(whole, prepared / "two", 2)


def test_two_processes_with_split_weights_train_as_one(prepared: Path, whole: Path) -> None:
    finish(prepared, "split", processes=2, settings={"sharding": "fsdp"})
    assert_alike(whole, prepared / "split", 2)


@pytest.mark.parametrize(("settings", "processes_after"), [({}, 1), ({"sharding": "fsdp"}, 2)])
def test_a_process_that_dies_ends_the_run_and_it_goes_on(
    prepared: Path, whole: Path, settings: dict[str, str], processes_after: int
) -> None:
    """SIGKILL to the second process in the middle of the last stage; then one process goes on, or two again."""
    name = f"killed-{processes_after}"
    begun(prepared, name, {"checkpoint_minutes": 1e-6, **settings})  # type: ignore[dict-item]
    run = start(prepared, name, 2)
    stage = prepared / name / "stages" / "5-language-specific"
    wait_for(lambda: len(list(stage.glob("checkpoint-*/complete.json"))) > 0, run)
    os.kill(second_process(prepared / name), signal.SIGKILL)
    _, said = run.communicate(timeout=SECONDS)
    assert run.returncode != 0
    assert "expected all 2 processes to train together, found one gone" in said or "trelm: stopped" in said
    again = start(prepared, name, processes_after)
    _, said = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, said
    last = list(zip(stages(whole), stages(prepared / name), strict=True))[4]
    assert last[1][1]["curve"]["loss"] == pytest.approx(last[0][1]["curve"]["loss"], abs=1e-5)
    for key, weight in last[0][2].items():
        torch.testing.assert_close(last[1][2][key], weight, rtol=1e-3, atol=2e-5)


def wait_for(done: Any, run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def second_process(folder: Path) -> int:
    """The process of rank 1 that works on a run folder, by what the system knows of it."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            arguments, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(folder).encode() in arguments and b"\0RANK=1\0" in b"\0" + environment:
            return int(process.name)
    raise AssertionError(f"no second process on {folder}")
