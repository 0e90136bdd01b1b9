"""Batches, objectives and the one training loop, on Hugging Face's `Trainer` (METHOD section 5)."""
