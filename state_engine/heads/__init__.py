"""Heads: small networks that call labels or numbers of cells from their vectors, fitted here and applied to other or predicted cells."""
