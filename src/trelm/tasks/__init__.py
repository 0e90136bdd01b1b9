"""Tuning an encoder for tasks, and asking it without tuning: heads, one trial, the search for a learning rate."""
