"""TreLM beside its rivals and beside itself with parts taken out: the same data, the same budget, several seeds."""
