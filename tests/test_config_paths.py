"""The configuration: environment variables and paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trelm.config import TwoFiles, load_config, make_config
from trelm.errors import ConfigError

MINIMAL = """\
source: {model: minilm, text: [en.txt]}
target: {language: id, text: [id.txt]}
parallel: [pairs.tsv]
budget: {minutes: 60}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


# Environment


def test_an_environment_variable_is_filled_in_wherever_there_is_text(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRELM_TEST_FOLDER", "/data")
    file.write_text(
        MINIMAL.replace("[pairs.tsv]", "[{source: '${TRELM_TEST_FOLDER}/a', target: 'x${TRELM_TEST_FOLDER}'}]").replace(
            "[id.txt]", "['${TRELM_TEST_FOLDER}/${TRELM_TEST_FOLDER}.txt']"
        ),
        encoding="utf-8",
    )
    config = load_config(file)
    assert config.parallel == (TwoFiles(source="/data/a", target=str(file.parent / "x/data")),)
    assert config.target.text == ("/data/data.txt",)


def test_an_environment_variable_that_is_not_set_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELM_TEST_FOLDER", raising=False)
    file.write_text(MINIMAL.replace("id.txt", "'${TRELM_TEST_FOLDER}/id.txt'"), encoding="utf-8")
    expected = "${TRELM_TEST_FOLDER}/id.txt: the environment variable TRELM_TEST_FOLDER is not set; set it to a folder"
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f"{file}: {expected}"


def test_a_dollar_without_braces_is_left_alone(file: Path) -> None:
    assert load_config(file, ["target.text=[$HOME.txt]"]).target.text == (str(file.parent / "$HOME.txt"),)


# Paths


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs"
    (folder / "encoder").mkdir(parents=True)
    (folder / "pieces").mkdir()
    monkeypatch.chdir(tmp_path)
    (folder / "run.yaml").write_text(
        "source: {model: encoder, tokenizer: pieces, text: [../en/*.txt.xz, 'hf://x:y/train#text']}\n"
        "target: {language: id, text: [id.txt]}\n"
        "parallel: [a.tsv, {source: a.en, target: /abs/a.id}]\n"
        "budget: {updates: 1}\n"
        "evaluation: [{task: parsing, train: a.conllu, dev: [b.conllu]}]\n"
        "embeddings: {dictionary: words.tsv}\n",
        encoding="utf-8",
    )
    config = load_config(Path("configs") / "run.yaml")
    assert config.source.model == str(folder / "encoder")
    assert config.source.tokenizer == str(folder / "pieces")
    assert config.source.text == (str(tmp_path / "en/*.txt.xz"), "hf://x:y/train#text")
    assert config.target.text == (str(folder / "id.txt"),)
    assert config.parallel == (str(folder / "a.tsv"), TwoFiles(source=str(folder / "a.en"), target="/abs/a.id"))
    assert config.evaluation[0].train == (str(folder / "a.conllu"),)
    assert config.embeddings.dictionary == (str(folder / "words.tsv"),)
    assert config.evaluation[0].dev == (str(folder / "b.conllu"),)


def test_the_home_folder_is_filled_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_config(file, ["target.text=[~/id.txt]"]).target.text == ("/home/someone/id.txt",)


@pytest.mark.parametrize("model", ["minilm", "google/electra-small-discriminator", "/no/such/folder"])
def test_a_model_that_is_no_folder_stays_as_it_is(file: Path, model: str) -> None:
    assert load_config(file, [f"source.model={model}"]).source.model == model


def test_without_a_base_paths_stay_as_they_are() -> None:
    assert make_config(yaml.safe_load(MINIMAL)).target.text == ("id.txt",)
