"""The model card: front matter that the Hub understands, and what a reader must know, all of it from the run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import ModelCardData, metadata_load, model_info
from jinja2 import Environment, StrictUndefined

from trelm.export.licences import NOT_STATED, hub_licence

CARD = """\
---
{{ front_matter }}
---

# {{ base_model }} moved to `{{ languages.target }}` by TreLM

An encoder of language `{{ languages.target }}`, made from `{{ base_model }}` (language `{{ languages.source }}`) with
`trelm`, after *Cross-lingual Transferring of Pre-trained Contextualized Language
Models* (Li et al., arXiv 2107.12627).

{% if plain -%}
An ordinary model of the class that `{{ base_model }}` has: nothing but `transformers` is needed, version 5 or
later.

```python
{% else -%}
The architecture is TreLM's own; its class comes with the package `trelm`.

```python
import trelm  # teaches transformers the class
{% endif -%}
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained("{{ repo }}")
tokenizer = AutoTokenizer.from_pretrained("{{ repo }}")
```
{% if onnx %}
`{{ onnx.path }}` is the same model for ONNX Runtime: inputs {{ onnx.inputs | join(", ") }}; output `logits`.
{% endif %}
## Languages and licences

| | | |
|---|---|---|
| language of this model | `{{ languages.target }}` | licence: {{ (license or not_stated) | cell }} |
| language of `{{ base_model }}` | `{{ languages.source }}` | licence: {{ (source_license or not_stated) | cell }} |

The licences of the text and of `{{ base_model }}` apply to what is made of them: check them before you publish it.

## How good it is

Held-out text of `{{ languages.target }}` that no training step saw; the same masked words for every model.
{{ baseline_rule }}

| model | bits per character (lower is better) | masked accuracy | masked loss (nats) |
|---|---|---|---|
{% for name, scores in models.items() -%}
| {{ name }} | {{ "%.3f" | format(scores.bits_per_character) }} \
| {{ "%.1f" | format(100 * scores.masked_accuracy) }} % \
| {{ "%.3f" | format(scores.masked_loss) }} |
{% endfor %}
{% if check or onnx -%}
## How it was checked
{% if check %}
This model and the TreLM model that it was folded from computed the logits of \
{{ "{:,}".format(check.sentences) }} sentences; the largest difference was \
{{ "%.2g" | format(check.largest_difference) }}\
{% if check.largest_difference_in_float32 is defined %} in float64, \
{{ "%.2g" | format(check.largest_difference_in_float32) }} in float32{% endif %}.
{% endif %}{% if onnx %}
ONNX Runtime computed the logits of {{ "{:,}".format(onnx.sentences) }} sentences from `{{ onnx.path }}`;
the largest difference from PyTorch's was {{ "%.2g" | format(onnx.largest_difference) }}, where the largest logit was
{{ "%.3g" | format(onnx.largest_logit) }}.
{% endif %}
{% endif -%}
{% if data -%}
## Data

| data | used as | lines | licence |
|---|---|---|---|
{% for row in data -%}
| {{ row.name | cell }} | {{ row.role }} | {{ not_stated if row.lines is none else "{:,}".format(row.lines) }} \
| {{ (row.license or not_stated) | cell }} |
{% endfor %}
{% endif -%}
## How it was made

| | |
|---|---|
| budget | {{ budget }} |
| alignment of the embeddings | {{ alignment.method }} |
| text | {% for name, count in text.items() %}{{ name }}: {{ "{:,}".format(count | int) }} lines\
{{ "; " if not loop.last }}{% endfor %} |
| stages | {% for name, step in stages.items() %}\
{{ name }}: {{ step.updates }} updates, {{ "{:,}".format(step.tokens | int) }} tokens\
{{ "; " if not loop.last }}{% endfor %} |
| seed | {{ seed }} |
| trelm | {{ trelm_version }} |
"""

OPTIONAL: Mapping[str, Any] = {
    "plain": False,
    "repo": "PATH_TO_THIS_FOLDER",
    "license": None,
    "source_license": None,
    "data": (),
    "check": None,
    "onnx": None,
}
# What the Hub calls a model or a data set that somebody owns. Its few old names without an owner look like folders.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_DATA = re.compile(r"hf://(?![/.~])([^:#]+?)(?::[^/#]+)?/[^/#]+(?:#.*)?")
_TIMEOUT = 10.0


def render_card(card: Mapping[str, Any]) -> str:
    """The model card as Markdown; every number comes from the run.

    Args:
        card: what must be there: `languages` {source, target: code}, `base_model` (a name, no path), `models` {name:
            {bits_per_character, masked_accuracy, masked_loss}}, `baseline_rule`, `budget`, `alignment` {method},
            `text` {file: lines}, `stages` {name: {updates, tokens}}, `seed`.
            What may be left out: `plain` (False: the class is TreLM's own), `repo` (what the loading code loads),
            `license` and `source_license` (None: not stated), `data` (rows as `data_row` makes them), `check`
            {sentences, largest_difference} of the plain model against the TreLM model, `onnx` as `export_onnx` returns.

    Raises:
        jinja2.UndefinedError: a value that must be there is missing.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    values = {**OPTIONAL, "trelm_version": version("trelm"), "not_stated": NOT_STATED, **card}
    return environment.from_string(CARD).render(front_matter=front_matter(values), **values)


def front_matter(card: Mapping[str, Any]) -> str:
    """The metadata of a card as YAML, without the lines of dashes: only what the Hub can check or link.

    A base model or a data set is named only where its name is a Hub id; a licence that the Hub has no name for becomes
    `other` with a `license_name`.
    """
    data = [row["dataset"] for row in card.get("data", ()) if row.get("dataset")]
    base = str(card.get("base_model", ""))
    tags = ["trelm", "cross-lingual-transfer", *(["onnx"] if card.get("onnx") else [])]
    licence, licence_name = hub_licence(card.get("license"))
    metadata = ModelCardData(
        language=str(card.get("languages", {}).get("target", "")).lower() or None,
        base_model=base if _HUB_ID.fullmatch(base) else None,
        datasets=list(dict.fromkeys(data)) or None,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=tags,
        license=licence,
        license_name=licence_name,
    )
    return str(metadata.to_yaml())


def data_row(source: str | Sequence[str], role: str, *, lines: int | None, licence: str | None) -> dict[str, Any]:
    """One row of the card's table of data, as `render_card` takes it.

    Args:
        source: an input as the configuration names it; several names where the input is aligned files.
        role: what it was used as: "source text", "target text", "parallel text", "evaluation".
        lines: lines or pairs that were read, None where nobody counted them. licence: as the user gave it.
    """
    names = [source] if isinstance(source, str) else list(source)
    dataset = hub_dataset(names[0])
    name = ", ".join(public_data_name(name) for name in names)
    return {"name": name, "role": role, "lines": lines, "license": licence, "dataset": dataset}


def public_data_name(source: str) -> str:
    """What an input is called elsewhere: no folders of this machine, but for the one above a pattern."""
    if (dataset := hub_dataset(source)) is not None:
        return dataset
    path = PurePosixPath(source.removeprefix("hf://").partition("#")[0])
    is_pattern = any(sign in path.name for sign in "*?[")
    return f"{path.parent.name}/{path.name}" if is_pattern and path.parent.name else path.name


def hub_dataset(source: str) -> str | None:
    """The Hub id in `hf://DATASET:CONFIG/SPLIT#COLUMN`; None for a file or a folder."""
    match = _HUB_DATA.fullmatch(source)
    return match[1] if match else None


def source_licence(path_or_id: str, revision: str | None = None) -> str | None:
    """The licence that a model's own card states, from a folder's README.md or, for a Hub id, from the Hub.

    None where nothing is stated, the card cannot be read, or the Hub cannot be reached: an export never fails on it.
    """
    try:
        if Path(path_or_id).is_dir():
            metadata: Any = metadata_load(Path(path_or_id) / "README.md")
        else:
            metadata = model_info(path_or_id, revision=revision, timeout=_TIMEOUT).card_data
    except Exception:  # the Hub's client, its transport and YAML share no base class; without an answer: not stated
        return None
    stated = (metadata or {}).get("license")
    if stated == "other":
        stated = metadata.get("license_name") or stated
    stated = [stated] if isinstance(stated, str) else stated
    return ", ".join(str(one) for one in stated) if isinstance(stated, list) and stated else None


def _cell(text: object) -> str:
    """Text that cannot end a cell of a Markdown table, and is neither HTML nor a link in it."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`|\[\]])", r"\\\1", line)
