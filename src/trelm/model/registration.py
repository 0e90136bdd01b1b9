"""Make `AutoConfig`, `AutoModel` and `AutoModelForMaskedLM` know TreLM."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from trelm.model.configuration import TrelmConfig
from trelm.model.encoder import TrelmForMaskedLM, TrelmModel


def register() -> None:
    """Register the classes; doing it again changes nothing."""
    AutoConfig.register(TrelmConfig.model_type, TrelmConfig, exist_ok=True)
    AutoModel.register(TrelmConfig, TrelmModel, exist_ok=True)
    AutoModelForMaskedLM.register(TrelmConfig, TrelmForMaskedLM, exist_ok=True)
