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
    from trelm.pipeline import transfer

__all__ = ["Config", "TrelmError", "load_config", "make_config", "transfer"]

_register.when_transformers_is_used()


def __getattr__(name: str) -> Any:
    """`trelm.transfer`, imported when it is asked for: torch takes seconds to load, `trelm --help` must not."""
    if name == "transfer":
        return importlib.import_module("trelm.pipeline").transfer
    raise AttributeError(f"module 'trelm' has no attribute '{name}'")
