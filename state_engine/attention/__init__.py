"""Attention maps of one cell set, attention modes, and how modes compare."""
