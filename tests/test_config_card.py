"""The section `card`: licences by the names that stand in the file, whatever the names become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trelm.config import CARD_FILE, Config, dump_card, dump_config, load_config, make_config, read_run_config
from trelm.errors import ConfigError

BASE = """\
source: {model: minilm, text: [en.txt, 'hf://x:y/train#text']}
target: {language: id, text: data/id/*.txt.xz}
parallel: [opus.tsv, {source: bible.en, target: bible.id}]
budget: {minutes: 60}
evaluation: [{task: text, name: news, test: news.txt}, {task: translation, test: words.tsv}]
"""
NAMES = ["en.txt", "hf://x:y/train#text", "data/id/*.txt.xz", "opus.tsv", "bible.en", "bible.id", "news", "translation"]


def card(licences: Any) -> str:
    return BASE + yaml.safe_dump({"card": {"license": "cc-by-sa-4.0", "data_licenses": licences}})


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_is_stated_by_default(tmp_path: Path) -> None:
    stated = load_config(written(tmp_path, BASE)).card
    assert (stated.license, stated.source_license, stated.data_licenses) == (None, None, {})
    assert stated.license_of("en.txt") is None


def test_every_input_and_evaluation_set_can_have_a_licence_under_the_name_that_it_has_by_then(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, card({name: f"licence of {name}" for name in NAMES})))
    assert config.card.license == "cc-by-sa-4.0"
    used = [
        *(config.source.text + config.target.text),
        config.parallel[0],
        *(getattr(config.parallel[1], side) for side in ("source", "target")),
        *(task.label for task in config.evaluation),
    ]
    assert [config.card.license_of(str(name)) for name in used] == [f"licence of {name}" for name in NAMES]
    assert len(config.card.data_licenses) == len(NAMES)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, card({"data/id/*.txt.xz": "cc-by-4.0"})))
    assert config.card.license_of(*config.target.text) == "cc-by-4.0"
    assert config.card.data_licenses == {str(tmp_path / "data/id/*.txt.xz"): "cc-by-4.0"}


def test_of_two_files_either_may_be_named(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, card({"bible.id": "mit"})))
    assert config.card.license_of(str(tmp_path / "bible.en"), str(tmp_path / "bible.id")) == "mit"


def test_variables_and_the_home_folder_are_filled_in_as_in_the_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRELM_TEST_FOLDER", "/data")
    monkeypatch.setenv("HOME", "/home/someone")
    text = BASE.replace("opus.tsv", "'${TRELM_TEST_FOLDER}/opus.tsv'").replace("en.txt", "~/en.txt")
    licences = {"${TRELM_TEST_FOLDER}/opus.tsv": "cc0-1.0", "~/en.txt": "mit"}
    path = written(tmp_path, text + yaml.safe_dump({"card": {"data_licenses": licences}}))
    assert load_config(path).card.data_licenses == {"/data/opus.tsv": "cc0-1.0", "/home/someone/en.txt": "mit"}


def test_a_file_and_an_evaluation_set_of_one_name_have_one_licence(tmp_path: Path) -> None:
    text = BASE.replace("name: news", "name: en.txt") + "card: {data_licenses: {en.txt: mit}}\n"
    stated = load_config(written(tmp_path, text)).card
    assert stated.license_of("en.txt") == stated.license_of(str(tmp_path / "en.txt")) == "mit"


def test_without_a_base_names_stay_as_they_are() -> None:
    values = yaml.safe_load(card({"opus.tsv": "mit"}).replace("text: data/id/*.txt.xz", "text: [data/id/*.txt.xz]"))
    assert make_config(values).card.data_licenses == {"opus.tsv": "mit"}


@pytest.mark.parametrize(
    ("name", "nearest"), [("opus.tvs", "; did you mean 'opus.tsv'?"), ("§", ""), ("news.txt", "?")]
)
def test_an_unknown_input_is_refused_with_the_nearest_known_one(tmp_path: Path, name: str, nearest: str) -> None:
    path = written(tmp_path, card({name: "mit"}))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: card.data_licenses: unknown input '{name}'{nearest if nearest != '?' else ''}")
    assert message.endswith(f" (known: {', '.join(NAMES)})")
    assert str(tmp_path) not in message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"licence": "mit"}, "unknown key 'card.licence'; did you mean 'license'?"),
        ({"license": ""}, "card.license: expected text, found nothing; fill it in"),
        ({"license": 4}, "card.license: expected text, found 4; write one text there, in quotes"),
        ({"source_license": ["mit"]}, "card.source_license: expected text, found ['mit']"),
        ({"data_licenses": {"opus.tsv": 4}}, "card.data_licenses.FOLDER/opus.tsv: expected text, found 4"),
        ({"data_licenses": {4: "mit"}}, "card.data_licenses.4: expected text, found 4"),
        (
            {"data_licenses": ["mit"]},
            "card.data_licenses: expected a mapping, found ['mit']; write it as {name: value}",
        ),
        (["mit"], "card: expected a mapping of settings, found ['mit']; write it as {name: value}"),
    ],
)
def test_what_is_malformed_is_one_line(tmp_path: Path, section: Any, message: str) -> None:
    path = written(tmp_path, BASE + yaml.safe_dump({"card": section}))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message.replace('FOLDER', str(tmp_path))}")


@pytest.mark.parametrize("old", ["target: {language: id, text: data/id/*.txt.xz}\n", "parallel: [opus.tsv, {"])
def test_other_mistakes_are_told_as_ever(tmp_path: Path, old: str) -> None:
    path = written(
        tmp_path, card({"opus.tsv": "mit"}).replace(old, "parallel: [opus.tsv, 3, {" if "opus" in old else "")
    )
    with pytest.raises(ConfigError, match=r"'target' is missing|parallel\.1: expected text, found 3"):
        load_config(path)


# What a run belongs to, and what it only tells


def test_without_the_card_the_rest_is_the_same(tmp_path: Path) -> None:
    with_card, without = (load_config(written(tmp_path, text)) for text in (card({"opus.tsv": "mit"}), BASE))
    assert dump_config(with_card, card=False) == dump_config(without, card=False)
    assert dump_config(with_card) != dump_config(without)
    assert "card" not in yaml.safe_load(dump_config(with_card, card=False))
    assert dump_config(with_card) == dump_config(with_card, card=False) + dump_card(with_card)


def test_a_run_folder_may_keep_the_card_beside_its_configuration(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, card(dict.fromkeys(NAMES, "mit"))))
    (tmp_path / "config.yaml").write_text(dump_config(config, card=False), encoding="utf-8")
    assert read_run_config(tmp_path).card == Config.model_fields["card"].default
    (tmp_path / CARD_FILE).write_text(dump_card(config), encoding="utf-8")
    assert read_run_config(tmp_path) == config


def test_a_run_of_an_older_version_is_read_without_its_retired_keys(tmp_path: Path) -> None:
    text = dump_config(load_config(written(tmp_path, BASE)), card=False)
    (tmp_path / "config.yaml").write_text(
        text.replace("source:\n", "source:\n  trust_remote_code: false\n", 1), "utf-8"
    )
    assert "trust_remote_code" in (tmp_path / "config.yaml").read_text("utf-8")
    assert dump_config(read_run_config(tmp_path), card=False) == text
