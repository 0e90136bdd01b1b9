"""A plain model in a Python that has no trelm, against the TreLM model of the run that it came from.

    python benchmarks/plain-export/without_trelm.py RUN PLAIN_FOLDER --out results.json

This process computes logits and bits per character with the TreLM model; a fresh virtual environment, which sees the
installed libraries but not trelm, does the same with `AutoModelForMaskedLM` and a few lines of its own.
"""

from __future__ import annotations

import argparse
import json
import site
import subprocess
import tempfile
import venv
from math import log, log2
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trelm.config import read_run_config
from trelm.evaluation.intrinsic import mask_lines, masked_text_scores
from trelm.steps.context import Context, quiet_transformers
from trelm.steps.export import foldable_stage
from trelm.steps.training import load_model
from trelm.workspace import Run

COMPARED = 64

STRANGER = """
import json, sys
import numpy as np, torch
try:
    import trelm
except ModuleNotFoundError:
    pass
else:
    sys.exit("trelm can be imported here")
from transformers import AutoModelForMaskedLM, AutoTokenizer, __version__
folder, data = sys.argv[1], np.load(sys.argv[2])
lines = json.loads(str(data["lines"]))
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
largest, nats = 0.0, 0.0
with torch.inference_mode():
    for number, line in enumerate(lines[: int(data["compared"])]):
        inputs = tokenizer(line, truncation=True, max_length=int(data["max_length"]), return_tensors="pt")
        ours = torch.from_numpy(data[f"logits{number}"])
        largest = max(largest, float((model(**inputs).logits[0] - ours).abs().max()))
    bounds, asked = data["bounds"], data["asked"]
    for start, end in zip(bounds[:-1], bounds[1:]):
        ids, labels = torch.from_numpy(data["ids"][start:end]), torch.from_numpy(data["labels"][start:end])
        where = torch.from_numpy(asked[start:end])
        chosen = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0][where]
        nats -= float(chosen.log_softmax(-1).gather(1, labels[where][:, None]).sum())
print(json.dumps({"class": type(model).__name__, "transformers": __version__, "largest_difference": largest,
                  "nats": nats, "parameters": model.num_parameters()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    context = Context(read_run_config(arguments.run), Run(arguments.run))
    lines = context.lines("target-held-out.txt")
    with tempfile.TemporaryDirectory() as temporary, quiet_transformers():
        data = Path(temporary) / "data.npz"
        ours = examine(context, lines, data)
        theirs = json.loads(in_fresh_python(Path(temporary), arguments.folder, data))
    theirs["bits_per_character"] = (theirs.pop("nats") / log(2) + ours["charged_bits"]) / ours["characters"]
    result = {"lines": len(lines), "trelm": ours, "without_trelm": theirs}
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def examine(context: Context, lines: list[str], data: Path) -> dict[str, Any]:
    """The TreLM model's scores; what the other process needs goes to `data`."""
    stage = foldable_stage(context)
    if stage is None:
        raise SystemExit("the run has no plain stage yet: run `trelm export RUN --plain` first")
    model, tokenizer = load_model(context, stage), context.tokenizer
    model.train(False)
    settings = {"mask_rate": context.config.training.mask_rate, "seed": context.config.seed}
    length = 2 * context.config.training.max_length
    scores = masked_text_scores(
        model, tokenizer, lines, **settings, max_length=length, batch_tokens=4096, device="cpu", precision="float32"
    )
    masked = [line for line in mask_lines(tokenizer, lines, **settings, max_length=length) if len(line.labels)]
    arrays = {f"logits{number}": logits(model, tokenizer, line, length) for number, line in enumerate(lines[:COMPARED])}
    ids = [line.ids for line in masked]
    labels, asked = [np.zeros_like(one) for one in ids], [np.zeros(len(one), dtype=bool) for one in ids]
    for line, label, where in zip(masked, labels, asked):
        label[line.positions], where[line.positions] = line.labels, True
    np.savez(
        data,
        ids=np.concatenate(ids),
        labels=np.concatenate(labels),
        asked=np.concatenate(asked),
        bounds=np.cumsum([0, *map(len, ids)]),
        lines=json.dumps(lines),
        compared=min(COMPARED, len(lines)),
        max_length=length,
        **arrays,
    )
    charged = scores.bits_per_character * scores.masked_characters - scores.masked_loss * scores.masked_tokens / log(2)
    return {
        "stage": stage,
        "bits_per_character": scores.bits_per_character,
        "characters": scores.masked_characters,
        "charged_bits": charged,
        "unknown_tokens": scores.unknown_tokens,
        "bits_of_a_character": log2(len(set().union(*lines))),
    }


def logits(model: Any, tokenizer: Any, line: str, length: int) -> Any:
    """(tokens, vocabulary) of one line, float32."""
    inputs = tokenizer(line, truncation=True, max_length=length, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        return model(**inputs).logits[0].numpy()


def in_fresh_python(folder: Path, model: Path, data: Path) -> str:
    """Standard output of the other process."""
    environment = folder / "python"
    venv.create(environment, with_pip=False)
    packages = next((environment / "lib").glob("python*/site-packages"))
    # a path by itself: the `.pth` files that lie there, an editable trelm's among them, are not followed
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    program = folder / "stranger.py"
    program.write_text(STRANGER, encoding="utf-8")
    command = [str(environment / "bin" / "python"), "-I", str(program), str(model.resolve()), str(data)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
