"""Text, parallel text and treebanks: streaming readers, cleaning, deduplication, held-out split."""
