"""Move a pretrained encoder to another language (TreLM, Li et al., arXiv 2107.12627).

    import trelm
    config = trelm.load_config("indonesian.yaml")
    report = trelm.transfer(config, "runs/id")

After `import trelm`, `AutoModel` and `AutoModelForMaskedLM` load what it exports.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trelm import _register
from trelm.config import Config, load_config, make_config
from trelm.errors import TrelmError

if TYPE_CHECKING:
    from trelm.pipeline import compare, diagnose, evaluate, transfer

__all__ = ["Config", "TrelmError", "compare", "diagnose", "evaluate", "load_config", "make_config", "transfer"]

_register.when_transformers_is_used()


def __getattr__(name: str) -> Any:
    """What is of `trelm.pipeline`, imported when asked for: torch takes seconds to load, `trelm --help` must not."""
    if name in ("compare", "diagnose", "evaluate", "transfer"):
        return getattr(importlib.import_module("trelm.pipeline"), name)
    raise AttributeError(f"module 'trelm' has no attribute '{name}'")
