"""The State Embedding network: cell sentences in, cell embeddings out.

Source: bioRxiv 2025.06.26.661135. Notation: b cells, p positions of a sentence (CLS and p - 1 genes), t positions of the
transformer (p, one more for the data set token), d hidden width, h heads, e columns of the cell part, g genes.

    gene vectors (g, token_dim) ── prepare, once ──> table (g + 2, d)
    rows, counts (b, p) -> table[rows] + count embedding, data set token -> layers -> decoder -> cell (b, e), data set (b, 10)

A gene's token is the same in every cell, so all of them are encoded once. Only the first and the last position are read, so the
last layer computes no other; both are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from state_engine.errors import ConfigError
from state_engine.models.embedding_config import DATASET_WIDTH, EmbeddingConfig

COUNT_BINS = 10
COUNT_HIDDEN = 512
SKIP_WIDENING = 2
LEAK = 0.01


@dataclass(frozen=True)
class EmbeddingOutput:
    """What a forward pass gives.

    Args:
        cell: (b, e) float32 of length one.
        dataset: (b, 10) float32, or None when the model has no data set token.
        cls_attention: a (b, h, t) float32 a layer: what CLS attends to; rows sum to one. None when not asked for.
        dataset_hidden: (b, e), what `dataset` is computed from: the decoded data set token. The data set is classified from it.
    """

    cell: Tensor
    dataset: Tensor | None = None
    cls_attention: tuple[Tensor, ...] | None = None
    dataset_hidden: Tensor | None = None

    @property
    def embedding(self) -> Tensor:
        """(b, e + 10): the parts side by side, as they are written to files."""
        return self.cell if self.dataset is None else torch.cat([self.cell, self.dataset], dim=1)


class EmbeddingModel(nn.Module):
    """The network of an `EmbeddingConfig`. `prepare` it with the gene vectors before embedding."""

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden
        self.encoder = nn.Sequential(nn.Linear(config.token_dim, d), nn.LayerNorm(d), nn.SiLU())
        self.cls_token = nn.Parameter(nn.init.normal_(torch.empty(config.token_dim)))
        self.dataset_token = nn.Parameter(nn.init.normal_(torch.empty(config.token_dim))) if config.dataset_token else None
        self.count_embedding = CountEmbedding(d) if config.counts else None
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.decoder = nn.Sequential(SkipBlock(d), nn.Linear(d, config.output_dim))
        self.dataset_embedder = nn.Linear(config.output_dim, DATASET_WIDTH) if config.dataset_token else None
        wide = config.decoder_width
        self.expression_decoder = nn.Sequential(SkipBlock(wide), SkipBlock(wide), nn.Linear(wide, 1))
        self.register_buffer("table", torch.empty(0), persistent=False)

    @property
    def cls_row(self) -> int:
        """The row of the table that is CLS."""
        return self.config.genes

    @torch.no_grad()
    def even_start(self) -> EmbeddingModel:
        """Let a new network begin with attention to all genes alike, in place of the one or two that random weights would pick.

        The first layer reads tokens that are sqrt(d) times as long as what the others read, so with the usual weights its logits have a
        spread of about d / 8, and next to nothing of the cell is read. Its queries and keys are brought back to the usual size.
        """
        first = self.layers[0]
        assert isinstance(first, EncoderLayer)
        for part in (first.qkv.weight, first.qkv.bias):
            part[: 2 * self.config.hidden] /= math.sqrt(self.config.hidden)
        return self

    def gene_table(self, vectors: Tensor) -> Tensor:
        """Return the encoded tokens (g + 2, d): a row for each gene, then CLS, then the data set token.

        Args:
            vectors: (g, token_dim) gene vectors as published, not normalised.

        Raises:
            ConfigError: another number or width of vectors than the configuration's.
        """
        wanted = (self.config.genes, self.config.token_dim)
        if tuple(vectors.shape) != wanted:
            raise ConfigError(f"The gene vectors have shape {tuple(vectors.shape)}.", f"The network was made for {wanted}.")
        return self.token_table(vectors)

    def token_table(self, vectors: Tensor) -> Tensor:
        """Do the same for any genes: (n, token_dim) -> (n + 2, d). `forward` takes it, with rows that count from its first gene."""
        # in pieces, so that the float32 copy of all vectors is never in memory at once
        like = self.cls_token
        parts = [self.encoder(functional.normalize(part.float(), dim=1).to(like)) for part in vectors.split(2048)]
        # vectors of genes count by direction alone; the two learnt tokens keep their length
        special: list[Tensor] = [self.cls_token]
        if self.dataset_token is not None:
            special.append(self.dataset_token)
        return torch.cat([*parts, self.encoder(torch.stack(special))]) * math.sqrt(self.config.hidden)

    @torch.no_grad()
    def prepare(self, vectors: Tensor) -> EmbeddingModel:
        """Encode all gene vectors and keep them. Call it again when weights or device have changed; precision may change after."""
        self.table = self.gene_table(vectors)
        if self.count_embedding is not None:
            self.count_embedding.tabulate()
        return self

    def forward(self, rows: Tensor, counts: Tensor, *, attention: bool = False, table: Tensor | None = None) -> EmbeddingOutput:
        """Embed cells.

        Args:
            rows: (b, p) long, rows of the table; position 0 is CLS (`cls_row`).
            counts: (b, p) float, amounts as a percentage of the cell.
            attention: also return what CLS attends to.
            table: (g + 2, d) tokens in place of those prepared (training).

        Raises:
            ConfigError: the network was not prepared.
        """
        x = self._tokens(rows, counts, self.table if table is None else table)
        weights: list[Tensor] = []
        for layer in self.layers[:-1]:
            x, seen = layer(x, attention=attention)
            weights += [seen] if seen is not None else []
        # CLS and the data set token, where there is one: the only positions that are read, so the last layer has no other queries
        ends = [0, x.shape[1] - 1] if self.dataset_token is not None else [0]
        last = self.layers[-1]
        assert isinstance(last, EncoderLayer)
        x, seen = last.at(x, ends)
        weights.append(seen)
        decoded = self.decoder(x)
        # in float32: cosines between cells differ in digits that half precision does not have
        cell = functional.normalize(decoded[:, 0].float(), dim=1)
        hidden = decoded[:, -1] if self.dataset_embedder is not None else None
        dataset = self.dataset_embedder(hidden).float() if self.dataset_embedder is not None else None
        return EmbeddingOutput(cell, dataset, tuple(weights) if attention else None, hidden)

    def _tokens(self, rows: Tensor, counts: Tensor, table: Tensor) -> Tensor:
        """Return what the first layer reads, (b, t, d): each gene's token plus its amount, then the data set token."""
        if not len(table):
            raise ConfigError("The gene vectors are missing.", "The network was not prepared.", "Call prepare(vectors).")
        x = functional.embedding(rows, table)
        if self.count_embedding is not None:
            x = x + self.count_embedding(counts).to(x.dtype)
        return x if self.dataset_token is None else torch.cat([x, table[-1].expand(len(x), 1, -1)], dim=1)

    def decode(self, vectors: Tensor, cell: Tensor, dataset: Tensor | None = None, read_depth: Tensor | None = None) -> Tensor:
        """Return the log expression of genes in cells, (b, k).

        Args:
            vectors: (k, token_dim) vectors of the genes, as published: here they are not normalised.
            cell: (b, e) cell part of the embedding.
            dataset: (b, 10) data set part, when the model has one.
            read_depth: (b,) the cell's read depth, when the model is told it (`config.read_depth`).

        Raises:
            ConfigError: a part that the model needs is missing.
        """
        genes = self.encoder(vectors.to(self.cls_token))
        return self.decode_pairs(genes.expand(len(cell), -1, -1), cell, dataset, read_depth)

    def decode_pairs(
        self, genes: Tensor, cell: Tensor, dataset: Tensor | None = None, read_depth: Tensor | None = None
    ) -> Tensor:
        """Do the same for genes of each cell's own, encoded by `encoder` without normalisation: (b, k, d) -> (b, k)."""
        like = self.cls_token
        parts = [cell.to(like)]
        if self.config.read_depth:
            if read_depth is None:
                raise ConfigError("The expression decoder of this model is told the read depth.", "None was given.")
            parts.append(read_depth.to(like)[:, None])
        if self.config.dataset_token:
            if dataset is None:
                raise ConfigError("The expression decoder of this model reads the data set part.", "None was given.")
            parts.append(dataset.to(like))
        # each cell beside each gene, (b, k, width of both): `expand` is a view, the concatenation is what takes memory
        pairs = torch.cat([genes, torch.cat(parts, dim=1)[:, None].expand(-1, genes.shape[1], -1)], dim=2)
        return self.expression_decoder(pairs).squeeze(-1).float()


class EncoderLayer(nn.Module):
    """Full self-attention and a GELU feed-forward, each followed by its norm."""

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        d = config.hidden
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.norm_attention = nn.LayerNorm(d)
        self.up = nn.Linear(d, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, d)
        self.norm_feed = nn.LayerNorm(d)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """(b, t, d) -> (b, t, d); and what position 0 attends to, (b, h, t), when asked for."""
        queries, keys, values = (self._heads(part) for part in self.qkv(x).chunk(3, dim=2))
        seen = None
        if attention:  # the row of CLS alone: the whole map is t times as large
            first = queries[:, :, :1].float() / math.sqrt(queries.shape[-1])
            seen = (first @ keys.float().transpose(2, 3)).squeeze(2).softmax(dim=-1)
        drop = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=drop)
        return self._feed(x, mixed.transpose(1, 2).flatten(2)), seen

    def at(self, x: Tensor, places: list[int]) -> tuple[Tensor, Tensor]:
        """Do the same for n of the positions only: (b, t, d) -> (b, n, d), and what the first of them attends to, (b, h, t).

        For so few queries keys and values are not made: a query is brought to the space of x instead (what the keys' bias adds is
        the same for all positions, so the softmax does not see it), and what is mixed is x itself, which then becomes a value.
        """
        d = x.shape[2]
        kept = x[:, places]
        weight, bias = self.qkv.weight, self.qkv.bias
        queries = self._heads(functional.linear(kept, weight[:d], bias[:d]))
        to_keys, to_values = (part.unflatten(0, (self.heads, -1)) for part in weight[d:].chunk(2))  # (h, c, d)
        asked = (queries / math.sqrt(queries.shape[-1])) @ to_keys  # (b, h, n, d)
        weights = (asked.flatten(1, 2) @ x.transpose(1, 2)).float().softmax(dim=-1)  # (b, h n, t)
        mixed = functional.dropout(weights, self.dropout, self.training).to(x.dtype) @ x
        values = mixed.unflatten(1, (self.heads, -1)) @ to_values.transpose(1, 2)
        mixed = values.transpose(1, 2).flatten(2) + bias[2 * d :]
        return self._feed(kept, mixed), weights.unflatten(1, (self.heads, -1))[:, :, 0]

    def _feed(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.norm_attention(x + self.drop(self.out(mixed)))
        return self.norm_feed(x + self.drop(self.down(self.drop(functional.gelu(self.up(x))))))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CountEmbedding(nn.Module):
    """An amount as a mixture of a few learned vectors, in float32 whatever the precision of the rest.

    The MLP's input is one number, so each of its outputs is a broken line with one break a hidden unit. `tabulate` writes the lines
    down once; an amount is then a look-up of slope and offset in place of 512 hidden units, and the same up to rounding.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(1, COUNT_HIDDEN)
        self.down = nn.Linear(COUNT_HIDDEN, COUNT_BINS)
        self.bins = nn.Embedding(COUNT_BINS, hidden)
        self.lines: tuple[Tensor, Tensor] | None = None  # no buffer: `to(bfloat16)` must not round it

    def forward(self, counts: Tensor) -> Tensor:
        """(b, p) -> (b, p, d)."""
        # cells of counts hold few different amounts: each is embedded once, and its gradient adds up in the gather
        if self.training:
            amounts, places = counts.float().unique(return_inverse=True)
            return functional.embedding(places, self._mlp(amounts).softmax(dim=-1) @ self.bins.weight.float())
        mixture = self._mlp(counts.float()) if self.lines is None else self._look_up(counts.float(), *self.lines)
        # along the first dimension the softmax of so few numbers is several times as fast
        mixed = mixture.flatten(0, -2).t().contiguous().softmax(dim=0).t()
        return (mixed @ self.bins.weight.float()).view(*counts.shape, -1)

    def _mlp(self, counts: Tensor) -> Tensor:
        x = functional.linear(counts[..., None], self.up.weight.float(), self.up.bias.float())
        return functional.linear(functional.leaky_relu(x, LEAK), self.down.weight.float(), self.down.bias.float())

    @staticmethod
    def _look_up(counts: Tensor, breaks: Tensor, lines: Tensor) -> Tensor:
        slope, offset = functional.embedding(torch.bucketize(counts, breaks), lines).chunk(2, dim=-1)
        return torch.addcmul(offset, slope, counts[..., None])

    @torch.no_grad()
    def tabulate(self) -> None:
        """Write the broken lines down, from the weights as they are now."""
        # once, on the CPU, in float64: each slope is a sum over 512 units
        weight, bias = self.up.weight[:, 0].double().cpu(), self.up.bias.double().cpu()
        breaks = (-bias / weight)[weight != 0].float().unique()  # sorted; a unit without weight has no break
        breaks = breaks[breaks.isfinite()]
        ends = torch.cat([breaks[:1] - 1, breaks, breaks[-1:] + 1]).double()
        # which units are active is the same all along a piece, so any point inside it tells; a point beyond each outer break too
        middles = (ends[1:] + ends[:-1]) / 2 if len(breaks) else torch.zeros(1, dtype=torch.float64)
        active = torch.where(middles[:, None] * weight + bias > 0, 1.0, LEAK)  # (pieces, 512)
        out = self.down.weight.double().cpu()
        slopes, offsets = (active * weight) @ out.T, (active * bias) @ out.T + self.down.bias.double().cpu()
        device = self.up.weight.device
        self.lines = (breaks.to(device), torch.cat([slopes, offsets], dim=1).float().to(device))


class SkipBlock(nn.Module):
    """x + a widened MLP of x, then a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, SKIP_WIDENING * width)
        self.down = nn.Linear(SKIP_WIDENING * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.norm(x + self.down(functional.relu(self.up(x))))
