"""The micro-batch and the helpers that work on its arrays: compiled loops, rankings, labels, packed strings."""
