"""What `agreement.py` runs inside the environments of the published packages: nothing of trelm is installed there.

    ENVIRONMENT/bin/python published_packages.py wechsel|focus FOLDER

FOLDER holds the inputs, and takes the tables and the auxiliary vectors that they were made from. The fastText models
are trained in one thread, so that the run can be repeated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer


def wechsel(folder: Path) -> None:
    import fasttext
    from wechsel import WECHSEL

    settings = json.loads((folder / "settings.json").read_text())["wechsel"]
    models = []
    for side in ("source", "target"):
        model = fasttext.train_unsupervised(str(folder / f"{side}.words.txt"), model="cbow", thread=1, **settings)
        model.save_model(str(folder / f"{side}.bin"))
        models.append(model)
    source, target = tokenizers(folder)
    table = np.load(folder / "table.npy", allow_pickle=False)
    method = WECHSEL(*models, bilingual_dictionary=str(folder / "dictionary.tsv"))
    rows, info = method.apply(source, target, table)
    drawn = np.zeros(len(target), dtype=np.bool_)
    drawn[target.convert_tokens_to_ids(info.not_found)] = True
    vectors = {
        side: np.stack([model.get_word_vector(tokenizer.decode(row).strip()) for row in range(len(tokenizer))])
        for side, model, tokenizer in zip(("source", "target"), models, (source, target), strict=True)
    }
    np.savez(folder / "wechsel.npz", rows=rows, drawn=drawn, **vectors)


def focus(folder: Path) -> None:
    import torch
    from deepfocus import FOCUS
    from deepfocus.fasttext_embs import train_fasttext
    from deepfocus.focus import get_overlapping_tokens

    settings = json.loads((folder / "settings.json").read_text())["focus"]
    source, target = tokenizers(folder)
    model = train_fasttext(str(folder / "target.txt"), target, processes=1, **settings)
    model.save_model(str(folder / "tokens.bin"))
    rows = FOCUS(
        target_tokenizer=target,
        source_tokenizer=source,
        source_embeddings=torch.from_numpy(np.load(folder / "table.npy", allow_pickle=False)),
        fasttext_model_path=str(folder / "tokens.bin"),
        verbosity="silent",
    )
    entries = target.convert_ids_to_tokens(list(range(len(target))))
    has_vector = np.array([entry in model for entry in entries])
    vectors = np.stack([model[entry] for entry in entries])
    shared, _ = get_overlapping_tokens(target, source, match_symbols=False, exact_match_all=True, fuzzy_match_all=False)
    pairs = np.array(sorted((token.target.id, token.source[0].id) for token in shared.values()))
    np.savez(folder / "focus.npz", rows=rows.numpy(), vectors=vectors, has_vector=has_vector, shared=pairs)


def tokenizers(folder: Path) -> tuple[AutoTokenizer, AutoTokenizer]:
    """The source's and the new one."""
    return tuple(AutoTokenizer.from_pretrained(folder / name) for name in ("source-tokenizer", "vocabulary"))


if __name__ == "__main__":
    {"wechsel": wechsel, "focus": focus}[sys.argv[1]](Path(sys.argv[2]))
