"""Which process of a run this is, and what only one may do."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from trelm import pipeline, processes
from trelm.errors import ConfigError


@pytest.fixture
def second_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.rank(), processes.count(), processes.is_first()) == (0, 1, True)


@pytest.mark.usefixtures("second_of_three")
def test_what_the_launcher_says() -> None:
    assert (processes.rank(), processes.count(), processes.is_first()) == (1, 3, False)


@pytest.mark.usefixtures("second_of_three")
def test_alone_the_launch_is_hidden_and_comes_back() -> None:
    before = dict(os.environ)
    with processes.alone():
        assert (processes.rank(), processes.count()) == (0, 1)
        assert "LOCAL_RANK" not in os.environ
    assert dict(os.environ) == before
    with pytest.raises(ZeroDivisionError), processes.alone():
        raise ZeroDivisionError
    assert dict(os.environ) == before


@pytest.mark.usefixtures("second_of_three")
@pytest.mark.parametrize("command", ["compare", "evaluate", "export", "diagnose", "plan"])
def test_commands_of_one_process_refuse_several(command: str, tmp_path: Path) -> None:
    calls = {
        "compare": lambda: pipeline.compare(None, tmp_path),  # type: ignore[arg-type]
        "evaluate": lambda: pipeline.evaluate("model", tmp_path),
        "export": lambda: pipeline.export(tmp_path),
        "diagnose": lambda: pipeline.diagnose(None),  # type: ignore[arg-type]
        "plan": lambda: pipeline.estimate(None),  # type: ignore[arg-type]
    }
    message = rf"^trelm {command}: expected one process, found 3; only transfer runs in several: start this one without"
    with pytest.raises(ConfigError, match=message):
        calls[command]()
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_when_it_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "POLLING_SECONDS", 0.01)
    path = tmp_path / "done"

    def write() -> None:
        time.sleep(0.05)
        path.write_text("yes")

    threading.Thread(target=write).start()
    looks = []

    def is_done() -> bool:
        looks.append(1)
        return path.read_text() == "yes"  # not there at first: a file that is being written anew

    processes.wait_until(is_done)
    assert len(looks) > 1
