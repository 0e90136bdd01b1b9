"""The TreLM model: a pretrained encoder with a TRILayer between its halves (METHOD section 4)."""
