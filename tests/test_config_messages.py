"""What the configuration says about mistakes that YAML makes easy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trelm.config import Config, Section, TwoFiles, load_config, make_config
from trelm.errors import ConfigError

BASE = """\
source: {model: minilm, text: [en.txt]}
target: {language: id, text: [id.txt]}
parallel: [pairs.tsv]
budget: {minutes: 60}
"""
LIST, MAPPING, TEXT = "write it as [first, second]", "write it as {name: value}", "write one text there, in quotes"
YAML_TRUTH = "(YAML reads a bare no, yes, on or off as true or false)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("language: id", "language: no", f"target.language: expected text, found False; {TEXT} {YAML_TRUTH}"),
        ("language: id", 'language: ""', "target.language: expected text, found nothing; fill it in"),
        ("[id.txt]", "[]", "target.text: expected at least one entry, found nothing; add one"),
        ("[id.txt]", "", f"target.text.0: expected text, found nothing; {TEXT}"),
        ("[pairs.tsv]", "", "parallel: expected a list, found nothing; " + LIST),
        ("[pairs.tsv]", "[3]", f"parallel.0: expected text, found 3; {TEXT}"),
        (
            "[pairs.tsv]",
            "[{source: a, targt: b}]",
            "unknown key 'parallel.0.targt'; did you mean 'target'? (known there: source, target)",
        ),
        ("[pairs.tsv]", "[{source: a}]", "'parallel.0.target' is missing; see `trelm config show` for what it means"),
        ("{language: id, text: [id.txt]}", "id", f"target: expected a mapping of settings, found 'id'; {MAPPING}"),
        ("{language: id, text: [id.txt]}", "", f"target: expected a mapping of settings, found nothing; {MAPPING}"),
        ("minutes: 60", "minutes: .inf", "budget.minutes: expected a finite number, found inf; choose one"),
        ("minutes: 60", "minutes: 1h", "budget.minutes: expected a number, found '1h'; write it as in 0.5"),
        (
            "minutes: 60",
            "tokens: 1e6",
            "budget.tokens: expected a whole number, found '1e6'; write it in digits, as in 1000000",
        ),
        ("minutes: 60", "str: 60", "unknown key 'budget.str' (known there: minutes, tokens, updates, flops)"),
        ("minutes: 60}", "minutes: 60}\nevaluation: 5", f"evaluation: expected a list, found 5; {LIST}"),
        ("minutes: 60}", "minutes: 60}\n5: 5", "5: expected names as keys, found 5; put the key in quotes"),
        (
            "minutes: 60}",
            "minutes: 60}\nseed: [1]",
            "seed: expected a whole number, found [1]; write it in digits, as in 1000000",
        ),
    ],
)
def test_the_message_says_what_was_expected_what_was_found_and_what_to_do(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "run.yaml"
    assert BASE.count(old) == 1
    path.write_text(BASE.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_choice_that_is_misspelled_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(BASE + "alignment: {method: adversrial}\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"alignment\.method: .* \(found 'adversrial'\); did you mean 'adversarial'\?$"
    ):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "line"), [(f"{BASE}seed: 1\nseed: 2\n", 6), (BASE.replace("{minutes: 60", "{tokens: 1, tokens: 2"), 4)]
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"run\.yaml, line {line}: expected YAML, found the key '\w+' twice; mend the line"
    ):
        load_config(path)


def test_anchors_and_merges_of_yaml_work(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    stages = "stages:\n  commonality: &one {share: 1, warmup: 7}\n  transfer_upper: {<<: *one, share: 2}\n"
    path.write_text(BASE + stages, encoding="utf-8")
    loaded = load_config(path).stages.transfer_upper
    assert (loaded.share, loaded.warmup) == (2, 7)


@pytest.mark.parametrize("override", ["seed=[1", "seed='1"])
def test_an_override_that_is_no_yaml_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(BASE, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--set seed=.*: expected a YAML value, found .*; put it in quotes"):
        load_config(path, [override])


@pytest.mark.parametrize("override", ["source..x=1", ".seed=1", "seed.=1"])
def test_an_override_with_an_empty_name_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(BASE, encoding="utf-8")
    with pytest.raises(ConfigError, match="expected name=value, as in --set"):
        load_config(path, [override])


def test_from_python_tuples_and_sections_may_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELM_TEST_FOLDER", "/data")
    values: dict[str, Any] = {
        "source": {"model": "minilm", "text": ("${TRELM_TEST_FOLDER}/en.txt",)},
        "target": {"language": "id", "text": ("id.txt",)},
        "parallel": ("p.tsv", TwoFiles(source="a.en", target="a.id")),
        "budget": {"updates": 1},
        "evaluation": ({"task": "text", "test": ("t.txt",)},),
    }
    config = make_config(values, base=tmp_path)
    assert config.source.text == ("/data/en.txt",)
    assert config.target.text == (str(tmp_path / "id.txt"),)
    assert config.parallel == (
        str(tmp_path / "p.tsv"),
        TwoFiles(source=str(tmp_path / "a.en"), target=str(tmp_path / "a.id")),
    )
    assert config.evaluation[0].test == (str(tmp_path / "t.txt"),)
    assert values["target"]["text"] == ("id.txt",)


def test_a_model_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "encoder").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "run.yaml"
    path.write_text(BASE.replace("minilm", "~/encoder"), encoding="utf-8")
    assert load_config(path).source.model == str(tmp_path / "home" / "encoder")


def test_every_value_is_described() -> None:
    def without(model: type[Section], name: str) -> list[str]:
        found = []
        for key, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                found += without(inner, f"{name}{key}.")
            elif not field.description and key != "evaluation":
                found.append(f"{name}{key}")
        return found

    assert without(Config, "") == []
