"""Encoders of real size with random weights: the same checks as the tests of tiny ones, with memory and time.

    python benchmarks/families/real_size.py --out benchmarks/families/real-size.json

Each encoder in a process of its own, whose peak of memory is then its own: logits with the TRILayer out against
Hugging Face's, one CdLM update with the lower half frozen and two different lengths, the saved
model read again, and the plain model against the TreLM model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, DebertaV2Config, ElectraConfig, ModernBertConfig, RobertaConfig
from transformers.utils import logging

from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.families import family_of, padding_of_positions
from trelm.model.halves import freeze_all_but, part_of_parameters
from trelm.model.plain import check, compare, plain_model
from trelm.model.source import scratch_model, trelm_config

SENTENCES, READ, SPOKEN = 8, 64, 48
ENCODERS: dict[str, Any] = {
    "ELECTRA-small": lambda: ElectraConfig(
        embedding_size=128, hidden_size=256, num_attention_heads=4, intermediate_size=1024, num_hidden_layers=12
    ),
    "RoBERTa-base": lambda: RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    ),
    "DeBERTa-v3-base": lambda: DebertaV2Config(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        vocab_size=128100,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "ModernBERT-base": lambda: ModernBertConfig(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--one", choices=list(ENCODERS), help="only this encoder, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(examine(ENCODERS[arguments.one]())))
        return
    results = {}
    for name in ENCODERS:
        output = subprocess.run(
            [sys.executable, __file__, "--one", name], check=True, capture_output=True, text=True
        ).stdout
        results[name] = json.loads(output.splitlines()[-1])
        print(name, json.dumps(results[name], indent=2), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def examine(config: Any) -> dict[str, Any]:
    """All checks of one encoder; raises where one fails."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(1)
    padding = padding_of_positions(config)
    settings = trelm_config(
        config, vocabulary_size=config.vocab_size, special_ids={"pad": padding}, languages=("en", "xx")
    )
    model, built = timed(lambda: scratch_model(settings, 1))
    ids = torch.randint(5, config.vocab_size, (SENTENCES, READ))
    mask = torch.ones_like(ids)
    mask[0, READ // 2 :], ids[0, READ // 2 :] = 0, padding
    result = {
        "parameters": model.num_parameters(),
        "layers": config.num_hidden_layers,
        "tri_position": settings.tri_position,
        "seconds_to_build": built,
        "logits_from_hugging_face": difference_without_tri_layer(model, config, ids, mask),
    }
    with torch.no_grad():
        model.trelm.language_embeddings.weight.normal_(std=0.1)  # zero until here: it is not the encoder's
    result |= {
        **one_update(model, ids, mask),
        **read_again(model, ids, mask),
    }
    model.config.plainness = 1.0
    plain = plain_model(model)
    agreement = compare(model, plain, [{"input_ids": ids[:4], "attention_mask": mask[:4]}])
    check(agreement)
    result["plain"] = {
        "class": type(plain).__name__,
        "layers": plain.config.num_hidden_layers,
        "largest_difference_in_float32": agreement.single,
        "largest_difference_in_float64": agreement.largest,
        "largest_logit": agreement.largest_logit,
    }
    return result


def difference_without_tri_layer(model: TrelmForMaskedLM, config: Any, ids: Tensor, mask: Tensor) -> float:
    """Largest difference from the logits of Hugging Face's own model with the same weights; at most 1e-5 of them."""
    family = family_of(config)
    theirs: Any = family.masked_lm(model.config.source)
    weights = model.state_dict()
    named = {family.plain_name(name): value for name, value in weights.items() if _is_of_the_encoder(name)}
    missing = theirs.load_state_dict(named, strict=False).missing_keys
    if missing:
        raise SystemExit(f"weights of Hugging Face's model that ours lacks: {missing}")
    theirs.tie_weights()
    tri_layer, model.trelm.tri_layer = model.trelm.tri_layer, _Absent()
    try:
        with torch.inference_mode():
            ours = model.train(False)(input_ids=ids, attention_mask=mask).logits
            expected = theirs.train(False)(input_ids=ids, attention_mask=mask).logits
    finally:
        model.trelm.tri_layer = tri_layer
    found = float((ours - expected)[mask.bool()].abs().max())
    if found > 1e-5 * max(1.0, float(expected.abs().max())):
        raise SystemExit(f"logits differ from Hugging Face's by {found}")
    return found


def one_update(model: TrelmForMaskedLM, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """One CdLM update that trains the upper half: shapes, seconds, and whether the lower half stayed as it was."""
    ordering = torch.randint(-1, READ // 2, (SENTENCES, SPOKEN))
    labels = torch.randint(5, model.config.vocab_size, (SENTENCES, SPOKEN))
    output_mask = torch.ones_like(labels)
    parts = part_of_parameters(model)
    before = {name: value.clone() for name, value in model.state_dict().items() if parts[name] == "lower"}
    freeze_all_but(model, ("upper", "shared"))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train(True)

    def update() -> Any:
        output = model(
            input_ids=ids,
            attention_mask=mask,
            language=0,
            output_language=1,
            ordering=ordering,
            output_mask=output_mask,
            labels=labels,
        )
        output.loss.backward()
        optimiser.step()
        return output

    output, seconds = timed(update)
    frozen = all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    if not frozen or tuple(output.logits.shape) != (SENTENCES, SPOKEN, model.config.vocab_size):
        raise SystemExit(f"frozen {frozen}, logits {tuple(output.logits.shape)}")
    freeze_all_but(model, ("lower", "upper", "shared"))
    return {
        "input": list(ids.shape),
        "logits": list(output.logits.shape),
        "loss": float(output.loss.detach()),
        "seconds_of_a_cdlm_update": seconds,
        "lower_half_unchanged": frozen,
        "peak_resident_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def read_again(model: TrelmForMaskedLM, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Saved and loaded: the same logits to the last bit."""
    model.train(False)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForMaskedLM.from_pretrained(folder).train(False)
    with torch.inference_mode():
        same = torch.equal(
            model(input_ids=ids, attention_mask=mask).logits, loaded(input_ids=ids, attention_mask=mask).logits
        )
    if not same:
        raise SystemExit("the saved model computes other logits")
    return {"same_logits_when_loaded": same}


def timed(work: Any) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _is_of_the_encoder(name: str) -> bool:
    return name.startswith(("trelm.backbone.", "head.")) and "pooler" not in name


class _Absent(torch.nn.Module):
    """A TRILayer that is not there."""

    def arrange(self, states: Tensor, *_: Any) -> Tensor:
        return states

    def forward(self, arranged: Tensor, *_: Any) -> Tensor:
        return arranged


if __name__ == "__main__":
    main()
