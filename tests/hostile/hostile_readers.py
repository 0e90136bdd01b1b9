"""Everything of the package that reads what others wrote, each as a function of one harmed file beside honest ones."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
import zstandard
from made_up import cell, comparison
from test_report import report_values
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from trelm.config import load_config, load_tasks, override_values, read_run_config
from trelm.corpus import hub
from trelm.corpus.files import read_lines
from trelm.corpus.labelled import read_labelled
from trelm.corpus.parallel import read_pairs
from trelm.corpus.ragged import Ragged
from trelm.corpus.tagged import read_tagged
from trelm.corpus.text import read_text
from trelm.corpus.treebanks import read_propositions, read_treebank
from trelm.evaluation.translation import read_dictionary
from trelm.model.loading import load_bare_encoder
from trelm.model.source import load_masked_lm, load_source
from trelm.report.comparison_page import write_comparison
from trelm.report.page import write_report
from trelm.training import checkpoints
from trelm.workspace import Step, read_json

LANGUAGES = ("en", "id")


@dataclass(frozen=True)
class Reader:
    """A reader under fire.

    Attributes:
        name: in the table. file: the name of the harmed file in its folder. examples: honest contents of it.
        read: reads it to its end; is given the folder. others: honest files that lie beside it.
        dear: whether one input takes so long that fewer are tried.
    """

    name: str
    file: str
    examples: tuple[bytes, ...]
    read: Callable[[Path], Any]
    others: tuple[tuple[str, bytes], ...] = ()
    dear: bool = False

    def prepare(self, folder: Path) -> None:
        for name, content in self.others:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)

    def __call__(self, folder: Path, content: bytes) -> None:
        place = folder / self.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        self.read(folder)


def exhaust(values: Iterator[Any]) -> None:
    for _ in values:
        pass


TEXT = "Erste Zeile.\n\nZwei: ä 中文 🙂\nThe third line is longer than the others.\n".encode() * 3
TSV = "one\tsatu\ntwo words\tdua kata\n\nähm\teh\n".encode() * 3
TMX = b"""<?xml version="1.0" encoding="UTF-8"?>
<tmx version="1.4"><header srclang="en" datatype="plaintext"/><body>
<tu tuid="1"><tuv xml:lang="en"><seg>One <bpt i="1">&lt;b&gt;</bpt>two<ept i="1"/> <hi>three</hi>.</seg></tuv>
<tuv xml:lang="id-ID"><seg>Satu &#x4e2d; &amp; dua.</seg></tuv></tu>
<tu><tuv lang="EN_us"><seg>Yes</seg></tuv><tuv lang="id"><seg>Ya</seg></tuv></tu>
</body></tmx>"""
ROWS = (
    ("1-2", "vamonos", "_", "_", "_", "_", "_", "_", "_", "SpaceAfter=No"),
    ("1", "vamos", "ir", "VERB", "_", "Mood=Imp", "0", "root", "_", "_"),
    ("2", "nos", "nosotros", "PRON", "_", "_", "1", "obj", "_", "_"),
    ("2.1", "al", "_", "_", "_", "_", "_", "_", "2:x", "_"),
    ("3", "mar", "mar", "NOUN", "_", "_", "1", "obl", "_", "_"),
)
CONLLU = ("# text = vamonos al mar\n" + "\n".join("\t".join(row) for row in ROWS) + "\n\n").encode() * 2
PROPOSITIONS = (
    b"# text = They come\n"
    b"1\tThey\tthey\tPRON\t_\t_\t2\tnsubj\t_\t_\t_\tA0\n"
    b"2\tcome\tcome\tVERB\t_\t_\t0\troot\t_\t_\tcome.03\tV\n\n"
) * 2
JSONL = (
    b'{"text": "good \\ud83d\\ude42", "label": "yes", "x": [1, {"y": null}]}\n{"text": "bad", "label": 0}\n',
    b'{"text_a": "one", "text_b": "two", "label": true}\n' * 3,
)
COLUMNS = b"-DOCSTART- -X- O O\n\nJakarta NNP B-LOC\nist VB O\n\nA\tNN\tO\n" * 2


def _values(folder: str = "data") -> dict[str, Any]:
    return {
        "recipe": "quick",
        "source": {"model": "minilm", "language": "en", "text": [f"{folder}/en.txt"], "revision": None},
        "target": {"language": "id", "text": [f"{folder}/id.txt"]},
        "parallel": [f"{folder}/pairs.tsv", {"source": "a", "target": "b"}, "hf://x/train#en,id"],
        "budget": {"updates": 60},
        "evaluation": _tasks(),
        "embeddings": {"initialisation": "wechsel", "dictionary": ["words.tsv"], "epochs": 3},
        "stages": {"plain": {"share": 0.5, "warmup": 10}},
        "comparison": {"arms": ["scratch", "counts"], "seeds": [1, 2]},
        "card": {"license": "mit", "data_licenses": {f"{folder}/en.txt": "cc-by"}},
    }


def _tasks() -> list[dict[str, Any]]:
    tuning = {"learning_rates": [1e-4], "seeds": [1], "epochs": 2}
    return [
        {"task": "tagging", "name": "pos", "train": ["a.conllu"], "dev": ["b"], "test": ["c"], "fine_tuning": tuning},
        {"task": "classification", "train": ["${HOME}/a"], "dev": ["b"], "test_from_dev": 0.5},
    ]


def _yaml(values: Any) -> bytes:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


CONFIG = _yaml(_values())
TASKS = _yaml({"evaluation": _tasks()})
MANIFEST = json.dumps({"step": "corpus", "inputs": "ab12", "seconds": 1.5, "counts": {"a": [1, 2]}}, indent=2).encode()
OVERRIDES = (b"budget.minutes=30", b"evaluation=[{task: text, test: [a]}]", b"seed=3", b"source.text=[a, b]")
NAMES = (b"hf://user/data:config/train#en,id", b"hf://x/train", b"hf:///tmp/none#text", b"hf://./x/y#a.b,c.d")


def _override(folder: Path) -> None:
    text = (folder / "override").read_bytes().decode("utf-8", "surrogateescape")
    override_values(_values(), [text])


def _hub_name(folder: Path) -> None:
    text = (folder / "name").read_bytes().decode("utf-8", "surrogateescape")
    hub.parse_name(text)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _read_ragged(folder: Path) -> None:
    ragged = Ragged.load(folder, "a")
    ragged.lengths().sum()
    exhaust(iter([ragged[i].sum() for i in range(len(ragged))]))


def packed_readers() -> list[Reader]:
    packers = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
    return [
        Reader(f"text lines {ending}", f"a.txt{ending}", (pack(TEXT), pack(TEXT) * 2, pack(b"x" * 30_000)),
               lambda folder, ending=ending: exhaust(read_lines(folder / f"a.txt{ending}")))
        for ending, pack in packers.items()
    ]  # fmt: skip


def text_readers() -> list[Reader]:
    def pairs(name: str) -> Callable[[Path], None]:
        return lambda folder: exhaust(read_pairs(str(folder / name), LANGUAGES))

    def of(read: Callable[[Path], Iterator[Any]], name: str) -> Callable[[Path], None]:
        return lambda folder: exhaust(read(folder / name))

    aligned = ("b.txt", b"1\n\n2\n3\n" * 3)
    return [
        Reader("text lines", "a.txt", (TEXT,), lambda folder: exhaust(read_text(str(folder / "a.txt")))),
        *packed_readers(),
        Reader("pairs, TSV", "a.tsv", (TSV,), pairs("a.tsv")),
        Reader("pairs, two files", "a.txt", (TEXT,), lambda folder: exhaust(
            read_pairs((str(folder / "a.txt"), str(folder / "b.txt")), LANGUAGES)), (aligned,)),
        Reader("pairs, TMX", "a.tmx", (TMX, TMX.replace(b'xml:lang="en"', b'xml:lang="id"')), pairs("a.tmx")),
        Reader("treebank", "a.conllu", (CONLLU,), of(read_treebank, "a.conllu")),
        Reader("propositions", "a.conllu", (PROPOSITIONS,), of(read_propositions, "a.conllu")),
        Reader("labelled, JSON", "a.jsonl", JSONL, of(read_labelled, "a.jsonl")),
        Reader("labelled, TSV", "a.tsv", (TSV, b"a\tb\tyes\n" * 4), of(read_labelled, "a.tsv")),
        Reader("tagged, columns", "a.txt", (COLUMNS,), of(read_tagged, "a.txt")),
        Reader("tagged, treebank", "a.conllu", (CONLLU,), of(read_tagged, "a.conllu")),
        Reader("dictionary", "a.tsv", (TSV,), lambda folder: read_dictionary([folder / "a.tsv"])),
        Reader("hf:// names", "name", NAMES, _hub_name),
        Reader("hf:// folder", "data/a.jsonl", (b'{"text": "one"}\n{"text": null}\n' * 4,), lambda folder: exhaust(
            hub.read_columns(f"hf://{folder}/data/train#text", 1)), dear=True),
    ]  # fmt: skip


def settings_readers() -> list[Reader]:
    return [
        Reader("configuration", "c.yaml", (CONFIG,), lambda folder: load_config(folder / "c.yaml")),
        Reader("--set", "override", OVERRIDES, _override),
        Reader("tasks", "t.yaml", (TASKS,), lambda folder: load_tasks(folder / "t.yaml")),
        Reader("run configuration", "config.yaml", (CONFIG,), read_run_config,
               (("card.yaml", b"card: {license: mit}\n"),)),
        Reader("run card", "card.yaml", (b"card: {license: mit, data_licenses: {data/en.txt: x}}\n",), read_run_config,
               (("config.yaml", CONFIG),)),
    ]  # fmt: skip


def run_readers() -> list[Reader]:
    report, whole = json.dumps(report_values()).encode(), json.dumps(comparison()).encode()
    cells = tuple((f"results/{arm}/seed-1.json", json.dumps(cell(arm, 1)).encode()) for arm in ("scratch", "counts"))
    first = cells[0]
    numbers = npy(np.arange(12, dtype=np.int32)), npy(np.array([0, 5, 5, 12]))
    return [
        Reader("manifest", "manifest.json", (MANIFEST,), lambda folder: Step("x", folder).is_done("ab12")),
        Reader("JSON of a run", "a.json", (MANIFEST, b"[]", b"{}"), lambda folder: read_json(folder / "a.json")),
        Reader("report.json", "report.json", (report,), write_report),
        Reader("comparison.json", "comparison.json", (whole,), write_comparison, cells),
        Reader("result of a cell", first[0], (first[1],), write_comparison, (("comparison.json", whole),)),
        Reader("ragged values", "a.values.npy", numbers[:1], _read_ragged, (("a.offsets.npy", numbers[1]),)),
        Reader("ragged offsets", "a.offsets.npy", numbers[1:], _read_ragged, (("a.values.npy", numbers[0]),)),
        *checkpoint_readers(),
    ]


def checkpoint_readers() -> list[Reader]:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with tempfile.TemporaryDirectory() as place:
        checkpoints.save_optimizer(optimizer, Path(place))
        checkpoints.save_scheduler(schedule, Path(place))
        checkpoints.save_random_states({"cpu": [torch.get_rng_state()]}, Path(place))
        saved = {path.name: path.read_bytes() for path in Path(place).iterdir()}

    def restore(folder: Path) -> None:
        made = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
        schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1.0)
        checkpoints.load_optimizer(made, folder)
        checkpoints.load_scheduler(schedule, folder)
        checkpoints.load_random_state(folder)

    return [
        Reader(f"checkpoint, {name}", name, (content,), restore,
               tuple((other, kept) for other, kept in saved.items() if other != name))
        for name, content in sorted(saved.items())
    ]  # fmt: skip


def model_files() -> dict[str, bytes]:
    """The files of a BERT of two layers of width 8."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij")]
    with tempfile.TemporaryDirectory() as place:
        config = BertConfig(vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                            intermediate_size=8, max_position_embeddings=16)  # fmt: skip
        BertForMaskedLM(config).save_pretrained(place)
        BertTokenizer({word: number for number, word in enumerate(words)}).save_pretrained(place)
        return {path.name: path.read_bytes() for path in Path(place).iterdir()}


def model_readers() -> list[Reader]:
    files = model_files()

    def load(folder: Path) -> None:
        for loading in (load_bare_encoder, load_masked_lm, load_source):
            loading(str(folder))

    first = Reader("", "", (), load, dear=True)
    return [
        replace(first, name=f"model, {name}", file=name, examples=(content,),
                others=tuple((other, kept) for other, kept in files.items() if other != name))
        for name, content in sorted(files.items()) if name != "README.md"
    ]  # fmt: skip


def all_readers() -> list[Reader]:
    return [*text_readers(), *settings_readers(), *run_readers(), *model_readers()]
