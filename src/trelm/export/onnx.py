"""A plain model as an ONNX file, kept only if ONNX Runtime computes the same logits as PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

from trelm.errors import ExportError, RunFolderError, first_line
from trelm.model.families import usable_positions
from trelm.workspace import atomic_path

FOLDER, FILE = "onnx", "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE = 1e-4  # of the largest logit: some hundred roundings of float32, which a deep model adds up
CHECKED_LENGTH = 128
CHECKED_BATCH = 8
LARGEST_FILE = 1_900_000_000  # bytes; protobuf ends at 2 GiB, beyond which weights go into a file beside

Batch = dict[str, Tensor]


def export_onnx(folder: Path, *, sentences: Sequence[str]) -> dict[str, Any]:
    """Write `folder/onnx/model.onnx` for a plain masked language model, and check it; without a fault, or not at all.

    Inputs are int64 (batch, sequence): input_ids, attention_mask and, where model and tokenizer have them,
    token_type_ids; the output is float32 logits (batch, sequence, entries). Both axes may have any length.

    The rule: over all tokens of the sentences, the first alone and all of them in padded batches, no logit may differ
    from PyTorch's by more than 1e-4 of the largest logit. That is far above what rounding does (about 1e-6 of it), and
    far below what a graph does that ignores its mask or keeps the example's length.

    Args:
        folder: a Hugging Face folder with a model that `AutoModelForMaskedLM` knows without TreLM, and its tokenizer.
        sentences: text of different lengths; each is cut after 128 tokens.

    Returns:
        `path` (in the folder), `inputs`, `opset`, `bytes`, `sentences`, `largest_difference`, `largest_logit`.

    Raises:
        ExportError: the extra is missing, the model is TreLM's own, it cannot be written as ONNX, or it computes
            something else there. RunFolderError: the folder holds an `onnx` already. ValueError: no sentence.
    """
    if not sentences:
        raise ValueError("expected sentences to check the ONNX file on, found none")
    require_packages()
    if (folder / FOLDER).exists():
        raise RunFolderError(f"{folder / FOLDER}: expected no such folder, found one; remove it to write it again")
    _require_plain(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.train(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batches = list(_batches(model, tokenizer, sentences))
    with atomic_path(folder / FOLDER) as temporary:
        temporary.mkdir()
        opset = _write(model, batches[-1], temporary / FILE)
        difference, largest = _compare(model, temporary / FILE, batches)
        if not difference <= TOLERANCE * largest:  # NaN, too, is refused
            raise ExportError(
                f"{folder / FOLDER / FILE}: expected the logits of PyTorch, found them to differ by up to "
                f"{difference:.2g} (largest logit {largest:.3g}); the file was removed: publish the model without ONNX"
            )
        size = sum(path.stat().st_size for path in temporary.iterdir())
    return {
        "path": f"{FOLDER}/{FILE}",
        "inputs": list(batches[0]),
        "opset": opset,
        "bytes": size,
        "sentences": len(sentences),
        "largest_difference": difference,
        "largest_logit": largest,
    }


def require_packages() -> None:
    """Refuse to go on without the extra `onnx`.

    Raises:
        ExportError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX: expected the packages of the extra `onnx`, found no {', '.join(missing)}; "
            "install them with: pip install 'trelm[onnx]'"
        )


def _require_plain(folder: Path) -> None:
    if AutoConfig.from_pretrained(folder).model_type == "trelm":
        raise ExportError(f"{folder}: expected a plain model, found one of TreLM's own class; ONNX needs --plain")


def _batches(model: Any, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> Iterator[Batch]:
    """The first sentence alone, then all of them, padded."""
    accepted = inspect.signature(model.forward).parameters
    has_types = getattr(model.config, "type_vocab_size", 0) > 0
    names = [name for name in INPUTS if name in accepted and (name != "token_type_ids" or has_types)]
    limit = _longest(model, tokenizer)
    starts = range(0, len(sentences), CHECKED_BATCH)
    for texts in ([sentences[0]], *(sentences[start : start + CHECKED_BATCH] for start in starts)):
        encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        yield {name: encoded[name] for name in names if name in encoded}


def _longest(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that a checked sentence may have: what model and tokenizer can take, and no more than is needed."""
    return min(CHECKED_LENGTH, int(tokenizer.model_max_length), usable_positions(model.config) or CHECKED_LENGTH)


class _Logits(nn.Module):
    """The model with inputs by position and one output, as the exporter wants it."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B, L) int64 each -> (B, L, V)."""
        logits: Tensor = self.model(**dict(zip(self.names, inputs))).logits
        return logits


def _write(model: Any, batch: Batch, path: Path) -> int:
    """Write the graph and return the version of its operators.

    The exporter traces one example. Of an axis of length 1 it would believe that it always has length 1.
    """
    example = tuple(_at_least_two(value) for value in batch.values())
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                _Logits(model, list(batch)),
                example,
                dynamo=True,
                input_names=list(batch),
                output_names=["logits"],
                dynamic_shapes=((axes,) * len(example),),
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"{model.config.model_type}: expected a model that PyTorch can write as ONNX, found one that it cannot "
            f"({first_line(error)}); publish it without ONNX"
        ) from None
    _forget_this_machine(program.model)
    program.save(path, external_data=_weight_bytes(model) > LARGEST_FILE)
    return int(program.model.opset_imports[""])


def _at_least_two(value: Tensor) -> Tensor:
    """(B, L) with both at least 2, by repeating."""
    return value.repeat(2 if value.shape[0] < 2 else 1, 2 if value.shape[1] < 2 else 1)


def _forget_this_machine(model: Any) -> None:
    """The exporter notes for every node the lines of Python that it came from, with the paths of this machine."""
    traversal = importlib.import_module("onnx_ir.traversal")
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in traversal.RecursiveGraphIterator(graph):
            node.metadata_props.clear()


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _run(path: Path, batches: Sequence[Batch]) -> Iterator[Tensor]:
    """The logits (B, L, V) that ONNX Runtime computes for each batch."""
    try:
        session = importlib.import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for batch in batches:
            yield torch.from_numpy(session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0])
    except Exception as error:  # its exceptions share no base class
        raise ExportError(
            f"{FOLDER}/{FILE}: expected a file that ONNX Runtime can run, found one that it cannot "
            f"({first_line(error)}); the file was removed: publish the model without ONNX"
        ) from None


def _compare(model: Any, path: Path, batches: Sequence[Batch]) -> tuple[float, float]:
    """Largest difference of a logit of a token that is no padding, and the largest of PyTorch's logits."""
    difference, largest = 0.0, 0.0
    for batch, computed in zip(batches, _run(path, batches)):
        with torch.inference_mode():
            expected = model(**batch).logits
        is_token = batch["attention_mask"].bool()
        worst = float((computed - expected)[is_token].abs().max())
        difference = math.nan if math.isnan(worst) else max(worst, difference)
        largest = max(float(expected[is_token].abs().max()), largest)
        if math.isnan(difference):
            break
    return difference, largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says to its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
