"""The folder itself, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trelm.errors import RunFolderError
from trelm.export.card import render_card
from trelm.export.hub import require_token
from trelm.export.onnx import export_onnx, require_packages
from trelm.vocabulary import save_tokenizer
from trelm.workspace import atomic_path, write_text


def check_before(folder: Path, *, onnx: bool = False, repo: str | None = None) -> None:
    """Refuse at once what would otherwise be refused after all the work.

    Args:
        folder: where the model is to go. onnx: whether an ONNX file is wanted. repo: the Hub's repository, if any.

    Raises:
        RunFolderError: the folder exists and is not empty.
        ExportError: the extra `onnx` is missing, or there is no token of the Hub.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder}: expected a new or empty folder, found files there; choose another --to folder")
    if onnx:
        require_packages()
    if repo is not None:
        require_token(repo)


def write_folder(
    folder: Path,
    write: Callable[[Path], Any],
    tokenizer: PreTrainedTokenizerBase,
    card: Mapping[str, Any],
    *,
    verify: Callable[[Path], Mapping[str, Any]] | None = None,
    onnx_sentences: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `folder` with weights (safetensors), configuration, tokenizer and `README.md`, whole or not at all.

    Args:
        write: writes weights and configuration into a folder, as a model's `save_pretrained` does.
        card: see `trelm.export.card.render_card`.
        verify: looks at the folder, model and tokenizer in it, and gives the card's `check`; what it raises leaves no
            folder.
        onnx_sentences: sentences that the ONNX file is checked on; without any, none is written. For plain models only.

    Returns:
        `check`: what `verify` returned, `onnx`: what `export_onnx` returned; each where it was asked for.

    Raises:
        RunFolderError: the folder exists and is not empty.
        ExportError: see `export_onnx`.
    """
    check_before(folder)
    figures: dict[str, Any] = {}
    with atomic_path(folder) as temporary:
        write(temporary)
        save_tokenizer(tokenizer, temporary)
        if verify is not None:
            figures["check"] = dict(verify(temporary))
        if onnx_sentences:
            figures["onnx"] = export_onnx(temporary, sentences=onnx_sentences)
        write_text(temporary / "README.md", render_card({**card, **figures}))
    return figures
