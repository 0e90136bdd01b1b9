"""The command line, called as a shell would call it but in this process, on the toy world."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from toy import one_core, toy_values, write_toy_data
from trelm.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def mistake(self) -> str:
        """The one line about a mistake of the user's; fails where there is another line or another exit code."""
        assert self.code == 2, self.err
        (line,) = self.err.splitlines()
        assert line.startswith("trelm: "), line
        return line


@dataclass(frozen=True)
class Terminal:
    """Calls `trelm`; whatever it changes in the process is changed back."""

    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path) -> Answer:
        before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
        self.capture.readouterr()
        try:
            with self.patch.context() as patch, one_core():
                patch.setattr(sys, "argv", ["trelm", *map(str, arguments)])
                with pytest.raises(SystemExit) as ended:
                    main()
        finally:
            signal.signal(signal.SIGTERM, before)
            torch.set_num_threads(threads)
        said = self.capture.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)


def write_toy(folder: Path, encoder: Path) -> Path:
    """Write the toy data and `toy.yaml`, which names it, into `folder`; returns the path of the latter."""
    write_toy_data(folder)
    values = toy_values(folder, encoder)
    (folder / "toy.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "toy.yaml"
