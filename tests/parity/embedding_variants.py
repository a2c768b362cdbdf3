"""The State Embedding models that parity is shown for, as arguments of the oracle's make_se.py. Small: they are committed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """Sizes of a model. The reference embeds only with data set token, counts and read depth, so there is no other variant."""

    genes: int
    token_dim: int
    d_model: int
    heads: int
    layers: int
    tokens: int

    def arguments(self, folder: str, seed: int) -> list[str]:
        """For make_se.py."""
        named = {
            "--genes": self.genes, "--token-dim": self.token_dim, "--d-model": self.d_model, "--heads": self.heads,
            "--layers": self.layers, "--pad-length": self.tokens, "--seed": seed,
        }  # fmt: skip
        return [folder, *(str(part) for pair in named.items() for part in pair)]


SMALL = {
    "two_layers": Variant(60, 24, 16, 4, 2, 16),
    "one_layer": Variant(40, 12, 8, 2, 1, 12),
    "four_layers": Variant(50, 16, 16, 2, 4, 20),
    "one_head": Variant(64, 32, 24, 1, 2, 32),
    "eight_heads": Variant(70, 20, 32, 8, 2, 24),
    "every_gene": Variant(33, 16, 16, 4, 2, 34),
    "two_tokens": Variant(30, 16, 16, 4, 2, 2),
}

# made anew and thrown away, so they may be larger
LARGER = {
    "a": Variant(300, 64, 32, 4, 3, 64),
    "b": Variant(500, 48, 64, 8, 2, 128),
    "c": Variant(200, 96, 48, 6, 4, 100),
    "d": Variant(800, 32, 32, 2, 6, 256),
    "e": Variant(400, 160, 128, 4, 2, 200),
    "f": Variant(257, 40, 96, 12, 1, 33),
}
