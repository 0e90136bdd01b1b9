"""Embedding-space maths, pure and small: CSLS, Procrustes, the adversarial game, the criterion, the choice of a map.

Everywhere: `X` [n, d] are the subword vectors, `Y` [m, d'] the encoder's raw table, both float32 and both sorted by
falling frequency; a map `W` [d', d] takes a row `x` to `W x`, that is `X @ W.T`. Mostly d' is d.
"""
