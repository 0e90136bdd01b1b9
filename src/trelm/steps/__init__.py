"""The steps of a run: each reads what earlier ones left, calls a room, writes its outputs and returns its figures."""
