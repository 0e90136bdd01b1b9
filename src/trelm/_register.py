"""Teach transformers the TreLM classes at the moment its Auto classes are loaded, and not before.

The classes register themselves where they are defined. Defining them needs torch and transformers, which take seconds
to import; `import trelm` and `trelm --help` must not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

REGISTERS = {
    "transformers.models.auto.configuration_auto": "trelm.model.configuration",
    "transformers.models.auto.modeling_auto": "trelm.model.encoder",
}
"""Modules of transformers, and our module that registers itself with each."""


def when_transformers_is_used() -> None:
    """Register with what is loaded now, and with the rest right after it is."""
    for module, ours in REGISTERS.items():
        if module in sys.modules:
            importlib.import_module(ours)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules of `REGISTERS` as Python would, and imports ours once they have been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REGISTERS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, REGISTERS[fullname])
        return spec


class _Then(Loader):
    """Another loader's work, and then the import of a module."""

    def __init__(self, loader: Loader, module: str) -> None:
        self.loader = loader
        self.module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        # Where our module set this import off, it is half-way through its own and registers itself at its end.
        importlib.import_module(self.module)
