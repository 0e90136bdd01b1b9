"""Move a pretrained encoder to another language."""
