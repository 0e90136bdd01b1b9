"""The whole configuration: one frozen, typed tree, read from a YAML file over a recipe. Imports no torch."""

from trelm.config.comparison import ARM_NAMES, ArmName, ComparisonConfig
from trelm.config.evaluation import HELD_OUT_SCORES, EvaluationConfig, FineTuningConfig, TasksConfig
from trelm.config.loading import (
    CARD_FILE,
    RECIPES,
    dump_card,
    dump_config,
    lay_over,
    load_config,
    load_tasks,
    make_config,
    override_values,
    read_run_config,
    read_yaml,
    recipe_values,
)
from trelm.config.section import Section
from trelm.config.sections import CardConfig, Config, JointStageConfig, StageConfig, TwoFiles

__all__ = [
    "ARM_NAMES",
    "CARD_FILE",
    "HELD_OUT_SCORES",
    "RECIPES",
    "ArmName",
    "CardConfig",
    "ComparisonConfig",
    "Config",
    "EvaluationConfig",
    "FineTuningConfig",
    "JointStageConfig",
    "Section",
    "StageConfig",
    "TasksConfig",
    "TwoFiles",
    "dump_card",
    "dump_config",
    "lay_over",
    "load_config",
    "load_tasks",
    "make_config",
    "override_values",
    "read_run_config",
    "read_yaml",
    "recipe_values",
]
