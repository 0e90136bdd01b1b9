"""The whole configuration: one frozen, typed tree, read from a YAML file over a recipe. Imports no torch."""

from trelm.config.loading import (
    CARD_FILE,
    RECIPES,
    dump_card,
    dump_config,
    load_config,
    load_tasks,
    make_config,
    override_values,
    read_run_config,
    read_yaml,
    recipe_values,
)
from trelm.config.sections import CardConfig, Config, EvaluationConfig, Section, StageConfig, TwoFiles

__all__ = [
    "CARD_FILE",
    "RECIPES",
    "CardConfig",
    "Config",
    "EvaluationConfig",
    "Section",
    "StageConfig",
    "TwoFiles",
    "dump_card",
    "dump_config",
    "load_config",
    "load_tasks",
    "make_config",
    "override_values",
    "read_run_config",
    "read_yaml",
    "recipe_values",
]
