"""The configuration: recipes, overrides, and what it says about a mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trelm.config import (
    RECIPES,
    Config,
    Section,
    dump_config,
    load_config,
    load_tasks,
    make_config,
    read_yaml,
    recipe_values,
)
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


def minimal(**changes: Any) -> dict[str, Any]:
    values = yaml.safe_load(MINIMAL)
    assert isinstance(values, dict)
    return {**values, **changes}


def refusal(file: Path, text: str, overrides: tuple[str, ...] = ()) -> str:
    """What is said about a file with this text."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def sections(model: type[Section], name: tuple[str, ...] = ()) -> dict[tuple[str, ...], type[Section]]:
    """Every section of the tree that is a plain mapping, by its path."""
    found = {name: model}
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= sections(field.annotation, (*name, key))
    return found


def at(config: Any, name: tuple[str, ...]) -> Any:
    for key in name:
        config = getattr(config, key)
    return config


def leaves(values: dict[str, Any], name: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        found |= leaves(value, (*name, key)) if isinstance(value, dict) else {(*name, key): value}
    return found


# Recipes


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_laid_over_the_defaults_value_by_value(recipe: str) -> None:
    named = leaves(recipe_values(recipe))
    assert named
    defaults = leaves(Config.model_validate(minimal(recipe=recipe)).model_dump())
    assert named.keys() <= defaults.keys()
    assert leaves(make_config(minimal(recipe=recipe)).model_dump()) == defaults | named


def test_the_recipes_of_the_package_are_those_that_can_be_named() -> None:
    from_package = {path.stem for path in (Path(__file__).parent.parent / "src/trelm/recipes").glob("*.yaml")}
    assert from_package == set(RECIPES) == set(get_args(Config.model_fields["recipe"].annotation))


def test_the_paper_recipe_is_the_published_setting() -> None:
    config = make_config(minimal(recipe="paper"))
    assert config.vocabulary.size == 80_000
    assert not config.embeddings.copy_shared
    assert (config.embeddings.window, config.embeddings.negatives, config.embeddings.epochs) == (5, 10, 10)
    alignment = config.alignment
    assert (alignment.method, alignment.adversarial_epochs, alignment.adversarial_samples) == (
        "adversarial",
        50,
        1_000_000,
    )
    assert (alignment.adversarial_batch, alignment.refinement_rounds, alignment.csls_neighbours) == (32, 5, 10)
    shares = [getattr(config.stages, name).share for name in ("commonality", "transfer_upper", "transfer_lower")]
    assert shares == [20_000] * 3
    assert config.stages.language_specific.share == 80_000
    assert (config.stages.commonality.learning_rate, config.stages.commonality.warmup) == (3e-5, 500)
    assert (config.training.epsilon, config.training.weight_decay, config.training.gradient_clipping) == (
        1e-6,
        0.01,
        5.0,
    )
    assert config.training.hidden_dropout is None


def test_the_user_wins_over_the_recipe_in_one_value_and_keeps_the_rest() -> None:
    config = make_config(minimal(recipe="quick", stages={"commonality": {"share": 99}}, vocabulary={"size": 400}))
    assert config.stages.commonality.share == 99
    assert config.stages.commonality.learning_rate == recipe_values("quick")["stages"]["commonality"]["learning_rate"]
    assert config.stages.transfer_upper.share == recipe_values("quick")["stages"]["transfer_upper"]["share"]
    assert config.vocabulary.size == 400


def test_null_in_the_file_wins_over_the_recipe() -> None:
    assert make_config(minimal(training={"hidden_dropout": None})).training.hidden_dropout is None


def test_an_unknown_recipe_names_the_known_and_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"recipe: unknown recipe 'qick' \(known: recommended, paper, quick\).*'quick'"
    ):
        make_config(minimal(recipe="qick"))


@pytest.mark.parametrize("recipe", [["quick"], {"name": "quick"}, 3, None])
def test_a_recipe_that_is_not_a_name_is_refused(recipe: Any) -> None:
    with pytest.raises(ConfigError, match="unknown recipe"):
        make_config(minimal(recipe=recipe))


def test_the_callers_values_are_left_as_they_were(tmp_path: Path) -> None:
    values = minimal(evaluation=[{"task": "text", "test": "a.txt"}], vocabulary={"size": 400})
    before = yaml.safe_dump(values)
    make_config(values, base=tmp_path)
    assert yaml.safe_dump(values) == before


def test_the_tree_is_frozen() -> None:
    config = make_config(minimal())
    with pytest.raises(ValidationError, match="frozen"):
        config.vocabulary.size = 3  # type: ignore[misc]


# Round trip


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("budget", ["{minutes: 1.5}", "{tokens: 1000}", "{updates: 7}"])
def test_what_is_dumped_is_read_back_to_an_equal_tree_from_any_folder(file: Path, recipe: str, budget: str) -> None:
    file.write_text(
        f"{MINIMAL.replace('{minutes: 60}', budget)}recipe: {recipe}\nseed: 9\n"
        "evaluation: [{task: parsing, name: GSD, train: [a.conllu], test: b.conllu}]\n",
        encoding="utf-8",
    )
    config = load_config(file, ["parallel=[p.tsv, {source: a.en, target: a.id}, 'hf://x:y/train#a,b']"])
    elsewhere = file.parent / "runs" / "id" / "config.yaml"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text(dump_config(config), encoding="utf-8")
    assert load_config(elsewhere) == config
    assert dump_config(load_config(elsewhere)) == dump_config(config)


def test_the_dump_writes_every_default_out_and_keeps_other_scripts_readable() -> None:
    values = yaml.safe_load(dump_config(make_config(minimal(target={"language": "zh", "text": ["中文.txt"]}))))
    for name, section in sections(Config).items():
        node = values
        for key in name:
            node = node[key]
        assert list(node) == list(section.model_fields), name
    assert "中文.txt" in dump_config(make_config(minimal(target={"language": "zh", "text": ["中文.txt"]})))


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-9, 1e3), st.integers(300, 10**6), st.integers(0, 10**7))
def test_numbers_survive_the_round_trip(rate: float, size: int, seed: int) -> None:
    stages = {"commonality": {"share": 1, "learning_rate": rate}}
    config = make_config(minimal(stages=stages, vocabulary={"size": size}, seed=seed))
    assert make_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize("seed", [-1, 10**7 + 1])
def test_a_seed_that_generators_refuse_is_refused_at_once(seed: int) -> None:
    with pytest.raises(ConfigError, match=r"seed: Input should be (greater|less) than or equal to"):
        make_config(minimal(seed=seed))


# Unknown and missing keys


@pytest.mark.parametrize("name", list(sections(Config)), ids=lambda name: ".".join(name) or "top")
def test_an_unknown_key_at_any_depth_gives_its_path_the_nearest_key_and_those_known_there(
    name: tuple[str, ...],
) -> None:
    section = sections(Config)[name]
    known = list(section.model_fields)
    wrong = known[0] + "x"
    values: Any = minimal()
    node = values
    for key in name:
        node = node.setdefault(key, {})
    node[wrong] = 1
    with pytest.raises(ConfigError) as caught:
        make_config(values, origin="run.yaml")
    path = ".".join([*name, wrong])
    expected = f"run.yaml: unknown key '{path}'; did you mean '{known[0]}'? (known there: {', '.join(known)})"
    assert str(caught.value) == expected


def test_an_unknown_key_in_a_list_gives_its_place(file: Path) -> None:
    message = refusal(file, f"{MINIMAL}evaluation: [{{task: text, test: a}}, {{task: parsing, tset: a}}]\n")
    assert f"{file}: unknown key 'evaluation.1.tset'; did you mean 'test'?" in message
    assert "(known there: task, name, train, dev, test, test_from_dev, train_language, fine_tuning)" in message


@pytest.mark.parametrize("key", ["source", "target", "parallel", "budget"])
def test_a_missing_section_is_named(key: str) -> None:
    values = minimal()
    del values[key]
    with pytest.raises(ConfigError, match=rf"config: '{key}' is missing; see `trelm config show`"):
        make_config(values)


def test_a_missing_key_is_named_with_its_section() -> None:
    with pytest.raises(ConfigError, match=r"'target\.language' is missing"):
        make_config(minimal(target={"text": ["a"]}))


# Values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocabulary": {"size": 12}}, r"vocabulary\.size: Input should be greater than or equal to 300 \(found 12\)"),
        ({"budget": {"minutes": 0}}, r"budget\.minutes: Input should be greater than 0 \(found 0\)"),
        ({"budget": {"minutes": float("nan")}}, r"budget\.minutes: .*found nan"),
        ({"budget": {"minutes": "5h"}}, r"budget\.minutes: .*number.*found '5h'"),
        ({"seed": "one"}, r"seed: .*found 'one'"),
        ({"corpus": {"held_out_fraction": 0.5}}, r"corpus\.held_out_fraction: .*less than 0\.5"),
        ({"training": {"precision": "float16"}}, r"training\.precision: .*'auto', 'float32' or 'bfloat16'.*'float16'"),
        ({"evaluation": [{"task": "parse"}]}, r"evaluation\.0\.task: .*'translation', 'text', .*'parsing'.*'parse'"),
        ({"baseline": {"scratch": "maybe"}}, r"baseline\.scratch: .*boolean.*\(found 'maybe'\)"),
        ({"stages": {"commonality": {"share": -1}}}, r"stages\.commonality\.share: .*\(found -1\)"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_named_with_its_path(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(minimal(**changes))


@pytest.mark.parametrize("name", [name for name in sections(Config) if name], ids=".".join)
@pytest.mark.parametrize("value", [["a"], 3, "a", None], ids=str)
def test_something_else_where_a_mapping_is_expected_is_named_with_its_path(name: tuple[str, ...], value: Any) -> None:
    values: Any = minimal()
    node = values
    for key in name[:-1]:
        node = node.setdefault(key, {})
    node[name[-1]] = value
    with pytest.raises(ConfigError, match=rf"^config: {re.escape('.'.join(name))}: "):
        make_config(values)


@pytest.mark.parametrize(
    ("budget", "given_words"),
    [
        ({}, "none"),
        ({"minutes": None}, "none"),
        ({"minutes": 1, "tokens": 1}, "minutes, tokens"),
        ({"minutes": 1, "tokens": 1, "updates": 1}, "minutes, tokens, updates"),
    ],
)
def test_a_budget_is_of_exactly_one_kind(budget: dict[str, Any], given_words: str) -> None:
    words = rf"budget: give exactly one of minutes, tokens, updates, flops \(given: {given_words}\)"
    with pytest.raises(ConfigError, match=words):
        make_config(minimal(budget=budget))


def test_evaluation_sets_have_names_of_their_own(file: Path) -> None:
    twice = "evaluation: [{task: text, test: a.txt}, {task: text, test: b.txt}]\n"
    words = "two evaluation sets are called 'text'; give each its own name"
    assert refusal(file, MINIMAL + twice) == f"{file}: config: {words}"
    file.write_text(twice, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_tasks(file)
    named = twice.replace("b.txt", "b.txt, name: other")
    file.write_text(named, encoding="utf-8")
    assert [task.label for task in load_tasks(file)] == ["text", "other"]


def test_the_two_languages_differ() -> None:
    with pytest.raises(ConfigError, match=r"source\.language and target\.language are both 'en'"):
        make_config(minimal(target={"language": "en", "text": ["a"]}))


def test_one_file_may_stand_where_a_list_is_expected(file: Path) -> None:
    file.write_text(
        f"{MINIMAL.replace('[pairs.tsv]', 'pairs.tsv').replace('[id.txt]', 'id.txt')}"
        "evaluation: [{task: text, test: held.txt}]\n",
        encoding="utf-8",
    )
    config = load_config(file)
    assert config.parallel == (str(file.parent / "pairs.tsv"),)
    assert config.target.text == (str(file.parent / "id.txt"),)
    assert config.evaluation[0].test == (str(file.parent / "held.txt"),)
    assert make_config(minimal(evaluation=[{"task": "text", "test": "held.txt"}])).evaluation[0].test == ("held.txt",)


# Files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: expected a YAML file, found nothing there; check the path"):
        load_config(tmp_path / "none.yaml")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*; give a readable UTF-8 YAML file"):
        load_config(tmp_path)


def test_a_file_that_is_not_utf_8_is_refused(file: Path) -> None:
    file.write_bytes("seed: 1 # \xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cannot be read .*utf-8.*; give a readable UTF-8 YAML file"):
        load_config(file)


@pytest.mark.parametrize(
    ("broken", "line"), [("\tseed: 1\n", 5), ("seed: [1\nname: 2\n", 6), ("seed: 'a\n", 6), ("a: b: c\n", 5)]
)
def test_a_syntax_error_gives_its_line(file: Path, broken: str, line: int) -> None:
    message = refusal(file, MINIMAL + broken)
    assert message.startswith(f"{file}, line {line}: expected YAML, found ")
    assert message.endswith("; mend the line")


def test_a_control_character_is_a_syntax_error(file: Path) -> None:
    assert refusal(file, MINIMAL + 'x: "\x01"\n') == f"{file}: expected YAML, found a syntax error; mend the line"


def test_a_python_object_in_the_file_is_never_made(file: Path) -> None:
    message = refusal(file, MINIMAL + "seed: !!python/object/apply:os.getpid []\n")
    assert f"{file}, line 5: expected YAML, found could not determine a constructor" in message


@pytest.mark.parametrize(
    ("text", "kind"), [("", "NoneType"), ("- a\n", "list"), ("only text\n", "str"), ("3\n", "int")]
)
def test_a_file_that_is_not_a_mapping_is_refused(file: Path, text: str, kind: str) -> None:
    message = refusal(file, text)
    assert message == f"{file}: expected a mapping of settings, found {kind}; see `trelm config show`"


def test_read_yaml_gives_the_plain_values(file: Path) -> None:
    assert read_yaml(file) == yaml.safe_load(MINIMAL)


# Overrides


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("training.mask_rate=0.3", ("training", "mask_rate"), 0.3),
        ("stages.commonality.learning_rate=1e-4", ("stages", "commonality", "learning_rate"), 1e-4),
        ("stages.commonality.share=3", ("stages", "commonality", "share"), 3.0),
        ("training.hidden_dropout=null", ("training", "hidden_dropout"), None),
        ("training.hidden_dropout=", ("training", "hidden_dropout"), None),
        ("vocabulary.lowercase=true", ("vocabulary", "lowercase"), True),
        ("alignment.method=identical", ("alignment", "method"), "identical"),
        ("target.language=jv", ("target", "language"), "jv"),
        ("source.model=a=b", ("source", "model"), "a=b"),
        ("recipe=quick", ("vocabulary", "size"), 8000),
        ("vocabulary={size: 400, min_frequency: 3}", ("vocabulary", "min_frequency"), 3),
        ("budget.minutes=30", ("budget", "minutes"), 30.0),
        ("budget.tokens=1000", ("budget", "tokens"), 1000),
    ],
)
def test_an_override_sets_one_value(file: Path, override: str, name: tuple[str, ...], value: Any) -> None:
    assert at(load_config(file, [override]), name) == value


def test_an_override_of_a_list_replaces_it_and_resolves_its_paths(file: Path) -> None:
    config = load_config(file, ["parallel=[a.tsv, /b.tsv]", "target.text=c.txt"])
    assert config.parallel == (str(file.parent / "a.tsv"), "/b.tsv")
    assert config.target.text == (str(file.parent / "c.txt"),)


def test_the_last_of_several_overrides_wins(file: Path) -> None:
    assert load_config(file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("kind", ["minutes", "tokens", "updates"])
def test_an_overridden_budget_replaces_the_other_kinds(file: Path, kind: str) -> None:
    budget = load_config(file, [f"budget.{kind}=5"]).budget
    assert budget.model_dump(exclude_none=True) == {kind: 5}


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_an_override_that_is_not_name_equals_value_is_refused(file: Path, override: str) -> None:
    message = refusal(file, MINIMAL, (override,))
    assert message == f"--set {override}: expected name=value, as in --set budget.minutes=30"


def test_an_override_below_a_plain_value_is_refused(file: Path) -> None:
    message = refusal(file, MINIMAL + "seed: 3\n", ("seed.x=1",))
    assert message == "--set seed.x=1: 'seed' is a value, not a section"


def test_an_override_of_an_unknown_name_names_the_nearest(file: Path) -> None:
    assert "unknown key 'vocabulary.sise'; did you mean 'size'?" in refusal(file, MINIMAL, ("vocabulary.sise=400",))


def test_wechsel_without_a_dictionary_is_refused_before_anything_runs() -> None:
    embeddings: dict[str, Any] = {"initialisation": "wechsel"}
    with pytest.raises(ConfigError, match="initialisation 'wechsel' needs a dictionary, found none; name files of"):
        make_config(minimal(embeddings=embeddings))
    embeddings["dictionary"] = "words.tsv"
    assert make_config(minimal(embeddings=embeddings)).embeddings.dictionary == ("words.tsv",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"test": "t", "test_from_dev": 0.5, "dev": "d"}, "'parsing' has both test and test_from_dev; leave one out"),
        ({"test_from_dev": 0.5}, "'parsing' has test_from_dev and no dev; name files under dev"),
        (
            {"test_from_dev": 0.5, "dev": "d", "train_language": "en"},
            "'parsing' has train_language and test_from_dev: dev is not in the test's language; name files under test",
        ),
        (
            {"name": "masked_loss"},
            "an evaluation set is called 'masked_loss', as a score on held-out text is; rename it",
        ),
        ({"fine_tuning": {"learning_rates": [0.1, 0]}}, "learning_rates: expected numbers above 0, found 0"),
        ({"fine_tuning": {"seeds": [1, 1]}}, "seeds: expected each seed once; remove the one that stands twice"),
    ],
)
def test_an_evaluation_set_that_contradicts_itself_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        make_config(minimal(evaluation=[{"task": "parsing", **values}]))


@pytest.mark.parametrize(
    ("values", "lacks"),
    [
        ({"train": "a", "dev": "b", "test": "c"}, None),
        ({"train": "a", "dev": "b", "test_from_dev": 0.5}, None),
        ({"task": "retrieval"}, "'retrieval' has no test; name files under test, or give test_from_dev"),
        ({"task": "retrieval", "test": "a"}, None),
        ({"test": "c"}, None),  # as text
        ({"train": "a", "test": "c"}, "has train and no dev"),
        ({"train": "a", "dev": "b"}, "has train and no test"),
    ],
)
def test_what_tuning_lacks_is_said(values: dict[str, Any], lacks: str | None) -> None:
    (task,) = make_config(minimal(evaluation=[{"task": "tagging", **values}])).evaluation
    assert (task.lacks is None) == (lacks is None)
    assert lacks is None or (task.lacks is not None and lacks in task.lacks)


@pytest.mark.parametrize(("key", "twice"), [("arms", ["scratch", "counts", "scratch"]), ("seeds", [3, 3])])
def test_a_comparison_names_nothing_twice(key: str, twice: list[Any]) -> None:
    with pytest.raises(ConfigError, match=f"'{twice[0]}' stands twice; name it once"):
        make_config(minimal(comparison={key: twice}))


def test_an_unknown_arm_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        ConfigError, match=r"comparison: arms: unknown arm 'source-tokeniser' .*did you mean 'source-tokenizer'"
    ):
        make_config(minimal(comparison={"arms": ["source-tokeniser"]}))
