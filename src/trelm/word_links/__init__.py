"""Word links: a statistical aligner joins the positions of parallel sentences in both directions (METHOD section 5)."""
