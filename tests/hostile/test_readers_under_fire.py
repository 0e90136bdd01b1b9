"""Every reader, given anything: it reads it, or refuses it in one line.

`benchmarks/hostile/fuzz.py` does the same with thousands of inputs a reader, with limits of time and memory.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hostile_inputs import harmed
from hostile_readers import CONLLU, Reader, model_readers, npy, run_readers, settings_readers, text_readers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import report_values

from trelm.config import make_config
from trelm.corpus import hub
from trelm.errors import LONGEST_MESSAGE, ConfigError, DataError, RunFolderError, TrelmError
from trelm.report.page import write_report
from trelm.workspace import read_json

READERS = [*text_readers(), *settings_readers(), *run_readers()]
Input = bytes | int


def throw(reader: Reader, thrown: Input) -> None:
    """Bytes as they are, or those that the dice of this seed make."""
    content = thrown if isinstance(thrown, bytes) else harmed(reader.examples, random.Random(thrown))
    with tempfile.TemporaryDirectory() as place:
        reader.prepare(Path(place))
        said = ""
        try:
            reader(Path(place), content)
        except TrelmError as error:
            said = str(error)
        assert len(said.splitlines()) <= 1
        assert said.isprintable()


@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_honest_input_is_read(reader: Reader, tmp_path: Path) -> None:
    for content in reader.examples:
        reader.prepare(tmp_path)
        reader(tmp_path, content)


@pytest.mark.parametrize(
    "reader", [one for one in READERS if not one.dear], ids=[one.name for one in READERS if not one.dear]
)
@settings(max_examples=20, derandomize=True)
@given(thrown=st.one_of(st.binary(max_size=300), st.integers(0, 10**9), st.integers(0, 10**9)))
def test_anything_is_read_or_refused_in_one_line(reader: Reader, thrown: Input) -> None:
    throw(reader, thrown)


@pytest.mark.parametrize("number", range(4), ids=["config", "weights", "tokenizer", "tokenizer settings"])
def test_any_file_of_a_model_folder_is_read_or_refused_in_one_line(number: int) -> None:
    reader = model_readers()[number]
    throw(reader, reader.examples[0])
    for seed in range(6):
        throw(reader, seed)


CRASHES = [
    ("configuration", b"seed: 2001-99-99"),  # a date that is none, in PyYAML's own constructor
    ("configuration", b"seed: !!int x"),
    ("configuration", b"seed: !!bool x"),
    ("configuration", b"seed: !!timestamp x"),
    ("configuration", b"seed: " + b"9" * 5000),  # more digits than Python converts
    ("configuration", b"seed: " + b"[" * 3000),
    ("configuration", b"source: &a {model: [*a]}"),
    ("--set", b"seed=[" + b"[" * 3000),
    ("--set", b"a\nb"),  # the message had as many lines
    ("--set", b"\x1b[2J"),  # the message steered the terminal
    ("hf:// names", b"a\nb"),
    ("treebank", CONLLU.replace(b"\t0\troot", b"\t" + b"9" * 5000 + b"\troot")),
    ("treebank", CONLLU.replace(b"# text", b"# no").replace(b"1-2", b"1-" + "²".encode())),
    ("treebank", CONLLU.replace(b"# text", b"# no").replace(b"1-2", b"1-" + b"9" * 5000)),
    ("JSON of a run", b"[" * 3000),
    ("ragged values", b""),
    ("ragged offsets", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 60),
    ("checkpoint, optimizer.json", b"{}"),
    ("checkpoint, optimizer.safetensors", b"x" * 20),
    ("checkpoint, random.safetensors", b""),
    ("checkpoint, scheduler.json", b"3"),
    ("pairs, TMX", b"<?xml version='1.0' encoding='big5'?><a/>"),  # the parser's ValueError
    ("pairs, TMX", b"<?xml version='1.0' encoding='nonsense'?><a/>"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), CRASHES, ids=[f"{name} {text[:20]!r}" for name, text in CRASHES])
def test_what_once_was_a_traceback_is_a_refusal(name: str, content: bytes, tmp_path: Path) -> None:
    (reader,) = [one for one in READERS if one.name == name]
    reader.prepare(tmp_path)
    with pytest.raises(TrelmError) as refused:
        reader(tmp_path, content)
    assert len(str(refused.value).splitlines()) == 1
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["hf:///" + "x" * 300 + "/y", "hf://~nobody/x/y"])
def test_a_folder_that_cannot_be_is_not_there(name: str) -> None:
    with pytest.raises(TrelmError, match=r"expected a folder, found no .*; check the path"):
        next(hub.read_columns(name, 1))


RATE = b'{"groups": [{"lr": {}, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "params": [0]}], "numbers": {}}'
WORDS = [
    ("ragged values", b"", r"a\.values\.npy: expected a row of <i4, found an error \(.*\); remove the folder"),
    ("ragged values", npy(np.zeros((2, 2), np.int32)), "expected a row of <i4, found 2 dimensions of int32; remove"),
    ("ragged offsets", npy(np.array([0, 5, 99])), r"expected the bounds of 12 values, found others; remove"),
    (
        "checkpoint, optimizer.json",
        b"{}",
        r"expected a checkpoint of ours, found one that cannot be read \(.*\); remove",
    ),
    (
        "checkpoint, optimizer.json",
        RATE,
        r"\(a group of the optimiser whose settings are no numbers\); remove the folder",
    ),
    ("JSON of a run", b"{", r"a\.json: expected JSON, found .*; remove the file and run again"),
]


@pytest.mark.parametrize(("name", "content", "words"), WORDS)
def test_what_is_said_of_a_damaged_run(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (reader,) = [one for one in READERS if one.name == name]
    reader.prepare(tmp_path)
    with pytest.raises(RunFolderError, match=words):
        reader(tmp_path, content)


def test_json_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"none\.json: expected JSON, found .*No such file"):
        read_json(tmp_path / "none.json")


def test_a_message_is_one_line_that_steers_nothing_and_ends() -> None:
    assert str(DataError("a\nb\x1b[2J\u202e\ud800 ü")) == "a\\nb\\x1b[2J\\u202e\\ud800 ü"
    said = str(DataError("start " + "x" * 10**6 + " end"))
    assert len(said) <= LONGEST_MESSAGE
    assert said.startswith("start x")
    assert said.endswith("x end")


@pytest.mark.parametrize("name", ["~a\0b", "~\ud800", "x\0"])
def test_names_that_no_system_takes_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r": expected a name, found a NUL or half a character in it; take it out"):
        hub.parse_name(f"hf://{name}/train")
    values = {"source": {"model": name, "text": ["a"]}, "target": {"language": "id", "text": ["b"]}}
    with pytest.raises(ConfigError, match=r": expected text, found a NUL or half a character; take it out"):
        make_config({**values, "parallel": ["c"], "budget": {"updates": 9}}, base=Path("x"))


def test_half_a_surrogate_pair_in_a_report_is_shown_as_its_escape(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**report_values(), "versions": {"x": "\ud800"}}), "utf-8")
    for path in write_report(tmp_path).values():
        assert "\\ud800" in path.read_text("utf-8")


def test_a_share_that_is_no_number_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**report_values(), "word_links": {"share_x": "<most>"}}), "utf-8")
    assert "&lt;most&gt;" in write_report(tmp_path)["html"].read_text("utf-8")
