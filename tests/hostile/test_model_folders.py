"""Model and tokenizer folders of strangers: links, code, pickles, sizes that no weights have, JSON without end."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_readers import model_files
from safetensors.torch import load_file

from trelm.config import make_config
from trelm.errors import ConfigError
from trelm.model.folder import WEIGHTS_INDEX
from trelm.model.loading import load_bare_encoder
from trelm.model.source import load_masked_lm, load_source

LOADERS: dict[str, Callable[[str], Any]] = {
    "a source": load_source,
    "a tokenizer of a source": lambda name: load_source("minilm", tokenizer=name),
    "an encoder for tasks": load_bare_encoder,
    "a masked language model": load_masked_lm,
}
WANTED = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "modeling_x.XModel"}
EVERY = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS.keys())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model."""
    place = tmp_path / "model"
    place.mkdir()
    for name, content in model_files().items():
        (place / name).write_bytes(content)
    return place


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def refusal(load: Callable[[str], Any], folder: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        load(str(folder))
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


class Planted:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


class TestLinks:
    @EVERY
    @pytest.mark.parametrize("name", ["config.json", "README.md", "chat"])
    def test_one_that_leads_out_is_refused(self, folder: Path, load: Callable[[str], Any], name: str) -> None:
        elsewhere = folder.parent / "elsewhere"
        elsewhere.mkdir()
        if (folder / name).exists():
            shutil.move(folder / name, elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)
        said = refusal(load, folder)
        assert f"{folder}: expected files of its own, found {name}, a link to {elsewhere / name}; put" in said
        assert said.endswith("or set source.follow_links: true where you trust the folder")

    def test_it_is_read_where_it_was_asked_for(self, folder: Path) -> None:
        shutil.move(folder / "config.json", folder.parent / "kept.json")
        (folder / "config.json").symlink_to(folder.parent / "kept.json")
        assert load_source(str(folder), follow_links=True).config.hidden_size == 8

    def test_it_is_asked_for_in_the_configuration(self) -> None:
        values = {
            "source": {"model": "minilm", "text": ["a"], "follow_links": True},
            "target": {"language": "id", "text": ["b"]},
            "parallel": ["c"],
            "budget": {"updates": 9},
        }
        assert make_config(values).source.follow_links
        values["source"] = {"model": "minilm", "text": ["a"]}
        assert not make_config(values).source.follow_links

    def test_one_inside_the_folder_and_the_folder_itself_may_be_one(self, folder: Path) -> None:
        (folder / "vocab.txt").symlink_to("tokenizer.json")
        (folder.parent / "named").symlink_to(folder)
        assert load_source(str(folder.parent / "named")).config.hidden_size == 8

    def test_a_snapshot_in_a_cache_of_hugging_face_is_read(self, folder: Path) -> None:
        model = folder.parent / "hub" / "models--someone--small"
        snapshot = model / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (model / "blobs").mkdir()
        for number, path in enumerate(sorted(folder.iterdir())):
            shutil.copy(path, model / "blobs" / str(number))
            (snapshot / path.name).symlink_to(f"../../blobs/{number}")
        assert load_bare_encoder(str(snapshot))[0].config.hidden_size == 8
        (snapshot / "vocab.txt").symlink_to(folder / "vocab.txt")
        assert "found vocab.txt, a link to" in refusal(load_bare_encoder, snapshot)


class TestCode:
    @EVERY
    def test_a_model_that_needs_its_own_is_refused_and_named(self, folder: Path, load: Callable[[str], Any]) -> None:
        mark = folder.parent / "ran"
        for name in ("configuration_x", "modeling_x"):
            (folder / f"{name}.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
        change(folder / "config.json", model_type="strange", auto_map=WANTED)
        said = refusal(load, folder)
        assert "found one that needs code of its own (auto_map {" in said
        assert "configuration_x.XConfig" in said
        assert "code of a checkpoint is never run: give another one" in said
        assert not mark.exists()

    @EVERY
    def test_an_unknown_model_type_is_refused(self, folder: Path, load: Callable[[str], Any]) -> None:
        change(folder / "config.json", model_type="strange")
        if load is not LOADERS["a tokenizer of a source"]:  # transformers reads that without knowing the model
            assert "strange" in refusal(load, folder)

    def test_a_tokenizer_that_needs_its_own_is_refused_and_named(self, folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
        assert "tokenization_x.X" in refusal(load_source, folder)
        assert "and no tokenizer.json); code of a checkpoint" in refusal(load_bare_encoder, folder)

    def test_code_beside_a_model_that_transformers_knows_is_left_alone(self, folder: Path) -> None:
        mark = folder.parent / "ran"
        for name in ("configuration_x", "modeling_x", "tokenization_x"):
            (folder / f"{name}.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
        change(folder / "config.json", auto_map=WANTED)
        change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]})
        assert type(load_source(str(folder)).backbone).__module__.startswith("transformers.models.bert")
        assert not mark.exists()


class TestPickles:
    @pytest.mark.parametrize("load", [load_source, load_bare_encoder, load_masked_lm])
    def test_a_folder_with_nothing_else_is_refused_and_it_stays_closed(
        self, folder: Path, load: Callable[[str], Any]
    ) -> None:
        mark = folder.parent / "unpickled"
        torch.save(load_file(folder / "model.safetensors") | {"x": Planted(mark)}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        assert "safetensors" in refusal(load, folder)
        assert not mark.exists()

    def test_those_beside_safetensors_stay_closed(self, folder: Path) -> None:
        mark = folder.parent / "unpickled"
        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "last.ckpt"):
            (folder / name).write_bytes(pickle.dumps(Planted(mark)))
        load_source(str(folder))
        load_bare_encoder(str(folder))
        assert not mark.exists()


class TestSizes:
    @pytest.mark.parametrize("load", [load_source, load_bare_encoder, load_masked_lm])
    @pytest.mark.parametrize(
        ("name", "value"), [("num_hidden_layers", 10**9), ("vocab_size", 10**9), ("max_position_embeddings", 10**10)]
    )
    def test_a_model_that_its_weights_are_not_is_never_built(
        self, folder: Path, load: Callable[[str], Any], name: str, value: int
    ) -> None:
        change(folder / "config.json", **{name: value})
        said = refusal(load, folder)
        assert f"{folder}: expected a {name} that fits its weights (" in said
        assert f"found {value}; correct its config.json" in said

    def test_those_inside_the_configuration_count_too(self, folder: Path) -> None:
        change(folder / "config.json", source={"num_hidden_layers": 10**9})
        assert "expected a num_hidden_layers that fits its weights" in refusal(load_source, folder)

    @pytest.mark.parametrize(
        "header", [b"", b"\xff" * 8, (10**7).to_bytes(8, "little") + b"{", b"\x02" + bytes(7) + b"{}"]
    )
    def test_a_damaged_header_is_refused(self, folder: Path, header: bytes) -> None:
        (folder / "model.safetensors").write_bytes(header)
        assert f"source.model: {folder}: expected " in refusal(load_source, folder)

    @pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "missing.safetensors"])
    def test_a_shard_elsewhere_is_refused(self, folder: Path, shard: str) -> None:
        shutil.move(folder / "model.safetensors", folder.parent / "model.safetensors")
        (folder / WEIGHTS_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
        said = refusal(load_bare_encoder, folder)
        assert f"expected names of files of its own in {WEIGHTS_INDEX}, found '{shard}'; download" in said


class TestJson:
    @EVERY
    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "\x00", ""])
    def test_what_is_no_object_is_refused(self, folder: Path, load: Callable[[str], Any], name: str, text: str) -> None:
        (folder / name).write_text(text)
        assert f"{folder}: expected a JSON object in {name}, found " in refusal(load, folder)

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"model": {"type": "WordPiece", "vocab": 3}}', "{}", ""])
    def test_a_tokenizer_that_is_none_is_refused(self, folder: Path, text: str) -> None:
        (folder / "tokenizer.json").write_text(text)
        assert "expected a tokenizer in that folder" in refusal(load_source, folder)

    def test_a_tokenizer_of_another_model_is_refused(self, folder: Path) -> None:
        spec = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        spec["model"]["vocab"] |= {f"word{number}": 25 + number for number in range(100)}
        (folder / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
        assert "expected the tokenizer of its table of 25 embeddings, found one of 125" in refusal(load_source, folder)
        assert "expected the tokenizer of its table of 25 embeddings, found one of 125" in refusal(
            load_bare_encoder, folder
        )

    def test_a_huge_one_is_refused(self, folder: Path) -> None:
        with (folder / "config.json").open("ab") as stream:
            stream.truncate(60_000_000)
        assert "found more than 50,000,000 bytes; download" in refusal(load_source, folder)
