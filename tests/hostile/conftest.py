"""Made-up pages and cards are those of other rooms' tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / room) for room in ("report", "export")]
