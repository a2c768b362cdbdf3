"""The State Transition network: basal cells of a set and a perturbation in, the perturbed cells out.

Source: bioRxiv 2025.06.26.661135. Notation: b sets, s cells in a set, g input features, p width of a perturbation's vector,
d hidden width, o output features, t positions of the backbone (s, one more for each token).

    basal (b, s, g) -> encode_basal -> (b, s, d) ─┐
    perturbation (b, p) -> encode_perturbation ───┴─> transform -> predicted (b, s, o) -> decode -> (b, s, genes)

The three steps are public because two of them are often shared: a control cell needs to be encoded once however many
perturbations it is predicted under, and a perturbation once per set. Using them gives the same numbers as `forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from state_engine.errors import ConfigError
from state_engine.models.backbones import INITIAL_SPREAD, Backbone
from state_engine.models.blocks import mlp, normed_block
from state_engine.models.config import AttentionMode, TransitionConfig
from state_engine.models.decoders import GeneDecoder

BOTTLENECK = 8  # in the space `genes` the residual sum passes through an eighth of its width


@dataclass(frozen=True)
class TransitionOutput:
    """What a forward pass gives.

    Args:
        predicted: (b, s, o), log1p expression or embedding.
        confidence: (b,) the model's own estimate of its loss on the set (10 x the loss, as trained), or None.
        attention: a (b, heads, t, t) a layer, rows sum to one, or None when not asked for. Tokens are positions too:
            cells are `tokens_before : tokens_before + s`.
        token: (b, d) the batch token behind the backbone, from which its batch is learnt in training, or None.
        hidden: (b, s, d) the cells behind the backbone, before they are read; by `transform` alone.
    """

    predicted: Tensor
    confidence: Tensor | None = None
    attention: tuple[Tensor, ...] | None = None
    token: Tensor | None = None
    hidden: Tensor | None = None


class TransitionModel(nn.Module):
    """The network of a `TransitionConfig`.

    Raises:
        ConfigError: parts of the configuration contradict each other.
    """

    def __init__(self, config: TransitionConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        d, dropout, activation = config.backbone.hidden, config.dropout, config.activation
        basal_layers = config.encoder_layers if config.basal_mlp else 1
        self.perturbation_encoder = mlp(config.perturbation_dim, d, d, config.encoder_layers, dropout, activation)
        self.basal_encoder = mlp(config.input_dim, d, d, basal_layers, dropout, activation)
        self.backbone = Backbone(config.backbone)
        self.project_out = mlp(d, d, config.output_dim, config.decoder_layers, dropout, activation)
        self.batch_encoder = nn.Embedding(config.batch_dim, d) if config.batch_encoder else None
        self.batch_token = _token(d) if config.batch_token else None
        self.confidence_token = _token(d) if config.confidence_token else None
        self.confidence_head = ConfidenceHead(d, dropout) if config.confidence_token else None
        self.bottleneck: nn.Sequential | None = None
        if config.has_bottleneck:
            wide, narrow = config.output_dim, config.output_dim // BOTTLENECK
            self.bottleneck = nn.Sequential(nn.Linear(wide, narrow), nn.GELU(), nn.Linear(narrow, wide))
        self.gene_decoder = GeneDecoder(config.decoder) if config.decoder else None

    @property
    def tokens_before(self) -> int:
        """Positions of the backbone before the first cell."""
        return int(self.config.batch_token)

    @property
    def needs_basal(self) -> bool:
        """`transform` wants the basal cells themselves too, because the prediction is added to them."""
        return self.bottleneck is not None

    def encode_basal(self, basal: Tensor) -> Tensor:
        """Encode cells: (..., g) -> (..., d)."""
        return self.basal_encoder(basal)

    def encode_perturbation(self, perturbation: Tensor) -> Tensor:
        """Encode perturbations: (..., p) -> (..., d)."""
        return self.perturbation_encoder(perturbation)

    def forward(
        self,
        basal: Tensor,
        perturbation: Tensor,
        batch: Tensor | None = None,
        *,
        attention: AttentionMode,
        maps: bool = False,
    ) -> TransitionOutput:
        """Predict sets of cells, all of one size.

        Args:
            basal: (b, s, g) control cells.
            perturbation: (b, p), one for each set.
            batch: (b, s) or (b,) batch indices, long; needed when the model has a batch encoder, else ignored.
            attention: which cells of a set see which.
            maps: also return the attention weights.
        """
        return self.transform(
            self.encode_basal(basal), self.encode_perturbation(perturbation), basal, batch, attention=attention, maps=maps
        )

    def transform(
        self,
        encoded_basal: Tensor,
        encoded_perturbation: Tensor,
        basal: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        attention: AttentionMode,
        maps: bool = False,
    ) -> TransitionOutput:
        """Predict from encoded cells and encoded perturbations; the arguments are those of `forward`.

        Args:
            encoded_basal: (b, s, d).
            encoded_perturbation: (b, d).
            basal: (b, s, g), only when `needs_basal`.
            batch: as in `forward`.
            attention: as in `forward`.
            maps: as in `forward`.

        Raises:
            ConfigError: batch indices or basal cells are needed and not given.
        """
        x = encoded_basal + encoded_perturbation[:, None]
        if self.batch_encoder is not None:
            x = x + self._encode_batch(batch)
        s = x.shape[1]
        x, weights = self.backbone(self._with_tokens(x), attention, self.config.mask_attention, maps)
        hidden = x[:, self.tokens_before : self.tokens_before + s]
        confidence = self.confidence_head(x[:, -1]) if self.confidence_head is not None else None
        token = x[:, 0] if self.batch_token is not None else None
        predicted = self._project(hidden, encoded_basal, basal)
        return TransitionOutput(predicted, confidence, weights if maps else None, token, hidden)

    def transform_packed(
        self,
        encoded_basal: Tensor,
        encoded_perturbation: Tensor,
        sizes: Sequence[int],
        basal: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        attention: AttentionMode,
    ) -> TransitionOutput:
        """Do what `transform` does for sets of different sizes at once: their cells lie one after the other, nothing is padded.

        The linears see all cells together, attention each set alone, so the numbers are those of one set after the other.

        Args:
            encoded_basal: (n, d), n the sum of `sizes`.
            encoded_perturbation: (b, d).
            sizes: cells of each of the b sets.
            basal: (n, g), only when `needs_basal`.
            batch: (n,) batch indices, when the model has a batch encoder.
            attention: as in `forward`.

        Returns:
            predicted (n, o), confidence (b,) and token (b, d).
        """
        repeats = torch.tensor(sizes, device=encoded_basal.device)
        x = encoded_basal + encoded_perturbation.repeat_interleave(repeats, dim=0)
        if self.batch_encoder is not None:
            x = x + self._encode_batch(None if batch is None else batch[:, None])[:, 0]
        rows = [self._with_tokens(part[None])[0] for part in x.split(list(sizes))]
        lengths = [len(row) for row in rows]
        hidden, _ = self.backbone(torch.cat(rows)[None], attention, self.config.mask_attention, sizes=lengths)
        parts = hidden[0].split(lengths)
        first = self.tokens_before
        cells = torch.cat([part[first : first + size] for part, size in zip(parts, sizes, strict=True)])
        last = torch.stack([part[-1] for part in parts])
        confidence = self.confidence_head(last) if self.confidence_head is not None else None
        token = torch.stack([part[0] for part in parts]) if self.batch_token is not None else None
        return TransitionOutput(self._project(cells, encoded_basal, basal), confidence, token=token)

    def decode(self, embedding: Tensor) -> Tensor:
        """Decode predicted embeddings: (..., o) -> (..., genes), log1p expression.

        Raises:
            ConfigError: the model has no gene decoder.
        """
        if self.gene_decoder is None:
            raise ConfigError("This model has no gene decoder.", "It predicts " + self.config.output_space + " only.")
        return self.gene_decoder(embedding)

    def _encode_batch(self, batch: Tensor | None) -> Tensor:
        if batch is None or self.batch_encoder is None:
            raise ConfigError(
                "This model has a batch encoder.", "It needs the batch of every cell or set.", "Give batch indices."
            )
        encoded = self.batch_encoder(batch)
        return encoded[:, None] if batch.ndim == 1 else encoded

    def _with_tokens(self, x: Tensor) -> Tensor:
        before = [] if self.batch_token is None else [self.batch_token.expand(len(x), 1, -1)]
        behind = [] if self.confidence_token is None else [self.confidence_token.expand(len(x), 1, -1)]
        return torch.cat([*before, x, *behind], dim=1) if before or behind else x

    def _project(self, hidden: Tensor, encoded_basal: Tensor, basal: Tensor | None) -> Tensor:
        if self.bottleneck is not None:
            if basal is None:
                raise ConfigError("This model adds its prediction to the basal cells.", "They were not given.")
            predicted = self.bottleneck(self.project_out(hidden) + basal)
        else:
            predicted = self.project_out(hidden + encoded_basal if self.config.predict_residual else hidden)
        return functional.relu(predicted) if self.config.final_relu else predicted


class ConfidenceHead(nn.Module):
    """Predicted loss of a set from the last position: d -> d/2 -> d/4 -> 1, never negative."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(normed_block(hidden, hidden // 2, dropout), normed_block(hidden // 2, hidden // 4, dropout))
        self.out = nn.Linear(hidden // 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, d) -> (b,)."""
        return functional.relu(self.out(self.blocks(x))).squeeze(-1)


def _token(hidden: int) -> nn.Parameter:
    return nn.Parameter(INITIAL_SPREAD * torch.randn(1, 1, hidden))


def _check(config: TransitionConfig) -> None:
    if config.batch_encoder and config.batch_dim < 1:
        raise ConfigError("The model has a batch encoder, but batch_dim is 0.", fix="Say how many batches there are.")
    if config.batch_encoder and config.batch_token:
        raise ConfigError("A model has a batch encoder or a batch token, not both.")
    if config.output_space == "genes" and config.predict_residual and config.input_dim != config.output_dim:
        raise ConfigError(
            f"The prediction ({config.output_dim} features) is added to the basal cells ({config.input_dim} features).",
            fix="Both must be equal, or predict_residual off.",
        )
    if config.decoder is not None and config.decoder.latent != config.output_dim:
        raise ConfigError(f"The gene decoder reads {config.decoder.latent} features.", f"The model predicts {config.output_dim}.")
