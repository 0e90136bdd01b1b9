"""What the device does well, and what is set for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_training import loop_settings, same_weights, toy_batches, toy_model

from trelm.training import trainer
from trelm.training.device import LONGEST_UNFUSED, compile_layers, has_fast_bfloat16, prepared, quick_attention


@pytest.mark.parametrize(
    ("mkldnn", "avx512", "native", "expected"),
    [
        (True, True, True, True),
        (True, True, False, False),  # computed in float32 and converted: four times slower than float32
        (True, False, False, True),  # ARM, or AVX2 with bfloat16
        (False, False, False, False),
    ],
)
def test_fast_bfloat16_is_what_the_processor_does_itself(
    monkeypatch: pytest.MonkeyPatch, mkldnn: bool, avx512: bool, native: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert has_fast_bfloat16("cpu") is expected


@pytest.mark.parametrize("supported", [True, False])
def test_fast_bfloat16_of_a_card_is_without_emulation(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or supported)
    assert has_fast_bfloat16("cuda") is supported


@pytest.mark.parametrize(
    ("device", "is_bfloat16", "length", "unfused"),
    [
        ("cpu", True, 24, True),
        ("cpu", True, LONGEST_UNFUSED + 1, False),
        ("cpu", False, 24, False),
        ("cuda", True, 24, False),
    ],
)
def test_attention_in_bfloat16_on_a_cpu_is_not_fused(
    device: str, is_bfloat16: bool, length: int, unfused: bool
) -> None:
    query = torch.randn(2, 2, 5, 8, dtype=torch.bfloat16, requires_grad=True)
    with quick_attention(device, is_bfloat16, length):
        attended = nn.functional.scaled_dot_product_attention(query, query, query)
    fused = "ScaledDotProductFlashAttention" in type(attended.grad_fn).__name__
    assert fused is not unfused


def test_both_ways_of_attention_give_the_same() -> None:
    query, key, value = (torch.randn(2, 3, 7, 8, dtype=torch.bfloat16) for _ in range(3))
    mask = torch.rand(2, 1, 1, 7) > 0.3
    mask[..., 0] = True
    exact = nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask)
    with quick_attention("cpu", True, 7):
        torch.testing.assert_close(
            nn.functional.scaled_dot_product_attention(query, key, value, mask).float(), exact, rtol=2e-2, atol=2e-2
        )


def test_layers_are_compiled_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the encoder's stack, and the TRILayer's, which is of the same kind."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiled.append((self, how)))  # type: ignore[arg-type]
    model: Any = toy_model()
    compile_layers(model)
    layers = [*model.trelm.lower_layers, model.trelm.tri_layer.layer, *model.trelm.upper_layers]
    assert {id(layer) for layer, _ in compiled} == {id(layer) for layer in layers}  # type: ignore[misc]
    assert all(how == {"dynamic": True} for _, how in compiled)  # type: ignore[misc]


def test_compiled_layers_train_as_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Module.compile
    # without a compiler of C++, which a machine may lack: graphs are taken and run as they are
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: plain(self, backend="eager", **how))
    one, other = toy_model(), toy_model()
    trainer.train(one, toy_batches(3), loop_settings(), tmp_path / "one")
    trainer.train(other, toy_batches(3), loop_settings(compiled=True), tmp_path / "other")
    assert same_weights(one, other)


def test_a_card_is_kept_off_plans_for_each_shape() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        with prepared("cuda"):
            assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
