"""How good a model or an embedding table is, by measures that can be compared between vocabularies."""
