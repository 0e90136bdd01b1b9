"""Pages that load nothing from anywhere: the templates of this folder, filled; figures and their script inlined."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs


def render_template(name: str, figures: Mapping[str, Any], **values: Any) -> str:
    """The page that the template `name` makes of the values; text from data is escaped.

    Args:
        figures: for each name a figure as `figures.py` makes them; without any, Plotly's script is left out.
    """
    environment = Environment(
        loader=PackageLoader("trelm.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(
        figures=figures,
        figures_json=_script_safe(json.dumps(_finite(figures), ensure_ascii=True, allow_nan=False)),
        plotly=Markup(get_plotlyjs()) if figures else "",
        **values,
    )


def _finite(value: Any) -> Any:
    """The same with null for what is no finite number: browsers' JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _script_safe(text: str) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
