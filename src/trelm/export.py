"""A folder that Hugging Face tools load: weights, tokenizer and a model card that says how good the model is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from transformers import PreTrainedTokenizerBase

from trelm.errors import RunFolderError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.workspace import atomic_path, write_text

CARD = """\
---
language: {{ languages.target | string | tojson }}
base_model: {{ base_model | string | tojson }}
library_name: transformers
pipeline_tag: fill-mask
tags: [trelm, cross-lingual-transfer]
---

# {{ base_model }} moved to `{{ languages.target }}` by TreLM

An encoder of language `{{ languages.target }}`, made from `{{ base_model }}` (language `{{ languages.source }}`) with
`trelm`, after *Cross-lingual Transferring of Pre-trained Contextualized Language
Models* (Li et al., arXiv 2107.12627).

```python
import trelm  # teaches transformers the class
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained("PATH_TO_THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH_TO_THIS_FOLDER")
```

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

The licences of the text and of `{{ base_model }}` apply to what is made of them: check them before you publish it.
"""


def export_model(
    folder: Path, model: TrelmForMaskedLM, tokenizer: PreTrainedTokenizerBase, card: Mapping[str, Any]
) -> None:
    """Write `folder` with weights (safetensors), configuration, tokenizer and `README.md`, whole or not at all.

    Raises:
        RunFolderError: the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder}: expected a new or empty folder, found files there; choose another --to folder")
    with atomic_path(folder) as temporary:
        model.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        write_text(temporary / "README.md", render_card(card))


def render_card(card: Mapping[str, Any]) -> str:
    """The model card as Markdown; every number comes from the run.

    Args:
        card: `languages`, `base_model`, `models`, `baseline_rule`, `budget`, `alignment`, `text`, `stages`, `seed`.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    return environment.from_string(CARD).render(**card)
