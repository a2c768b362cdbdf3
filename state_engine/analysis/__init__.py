"""What changed: differential expression, effects, and the two-dimensional projection."""
