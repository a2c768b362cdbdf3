"""The State Embedding network: against itself written plainly, and what its savings may not change."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional

from state_engine.errors import ConfigError
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.embedding_config import EmbeddingConfig
from tests.small_embedding import embedding_config, random_model, random_vectors


def inputs(config: EmbeddingConfig, cells: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(config.genes, (cells, config.tokens), generator=generator)
    rows[:, 0] = config.genes
    return rows, 10 * torch.rand(cells, config.tokens, generator=generator)


def plainly(model: EmbeddingModel, vectors: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, list]:
    """One cell, no table, no shortcut: (width,) and a (h, t, t) a layer."""
    config, d = model.config, model.config.hidden
    tokens = torch.stack([model.cls_token if r == config.genes else functional.normalize(vectors[r], dim=0) for r in rows])
    if model.dataset_token is not None:
        tokens = torch.cat([tokens, model.dataset_token[None]])
    x = model.encoder(tokens) * math.sqrt(d)
    if model.count_embedding is not None:
        part = model.count_embedding
        mixed = part.down(functional.leaky_relu(part.up(counts[:, None]))).softmax(-1) @ part.bins.weight
        x[: len(rows)] = x[: len(rows)] + mixed
    maps = []
    for layer in model.layers:
        q, k, v = (t.view(len(x), config.heads, -1).transpose(0, 1) for t in layer.qkv(x).split(d, dim=1))
        weights = (q @ k.transpose(1, 2) / math.sqrt(d / config.heads)).softmax(-1)
        maps.append(weights)
        x = layer.norm_attention(x + layer.out((weights @ v).transpose(0, 1).reshape(len(x), d)))
        x = layer.norm_feed(x + layer.down(functional.gelu(layer.up(x))))
    out = model.decoder(x)
    cell = functional.normalize(out[0], dim=0)
    return (torch.cat([cell, model.dataset_embedder(out[-1])]) if model.dataset_embedder is not None else cell), maps


@pytest.mark.parametrize("changes", [{}, {"dataset_token": False}, {"counts": False}, {"layers": 1}, {"layers": 3, "heads": 1}])
def test_against_the_network_written_plainly(changes: dict) -> None:
    config = embedding_config(**changes)
    model, vectors = random_model(config), random_vectors(config)
    rows, counts = inputs(config)
    out = model.prepare(vectors)(rows, counts, attention=True)
    assert out.embedding.shape == (3, config.width)
    for k in range(3):
        wanted, maps = plainly(model, vectors, rows[k], counts[k])
        torch.testing.assert_close(out.embedding[k], wanted, atol=1e-5, rtol=1e-4)
        for seen, whole in zip(out.cls_attention, maps, strict=True):
            torch.testing.assert_close(seen[k], whole[:, 0], atol=1e-6, rtol=1e-4)
    assert len(out.cls_attention) == config.layers
    assert model(rows, counts).cls_attention is None


def test_cells_do_not_see_each_other() -> None:
    config = embedding_config()
    model = random_model(config).prepare(random_vectors(config))
    rows, counts = inputs(config, 9)
    together = model(rows, counts).embedding
    alone = torch.cat([model(rows[i : i + 1], counts[i : i + 1]).embedding for i in range(9)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert torch.allclose(together[:, : config.output_dim].norm(dim=1), torch.ones(9), atol=1e-6)


def test_bf16_keeps_amounts_in_full() -> None:
    """99.9 and 100 % are one number in bf16; their count embedding is not."""
    config = embedding_config()
    right = random_model(config)
    right.count_embedding.down.weight.data.mul_(0.01)  # else one bin is all of the mixture
    right.prepare(random_vectors(config))
    model = copy.deepcopy(right).to(torch.bfloat16)
    one, other = (model.count_embedding(torch.tensor([[c]])) for c in (99.9, 100.0))
    assert one.dtype == torch.float32 and not torch.equal(one, other)
    rows, counts = inputs(config)
    out = model(rows, counts)
    assert out.cell.dtype == torch.float32
    assert functional.cosine_similarity(out.cell, right(rows, counts).cell).min() > 0.98


def test_amounts_looked_up_are_those_of_the_mlp() -> None:
    """At, between and beyond all breaks of the line; with a unit that has no weight."""
    part = random_model(embedding_config()).count_embedding
    part.up.weight.data[3] = 0
    breaks = (-part.up.bias / part.up.weight[:, 0])[part.up.weight[:, 0] != 0]
    counts = torch.cat([breaks, breaks + 1e-3, torch.linspace(-300, 300, 2001), torch.zeros(1)])[None]
    mlp = part._mlp(counts)
    part.tabulate()
    torch.testing.assert_close(part._look_up(counts, *part.lines), mlp, atol=2e-4, rtol=1e-5)
    part.up.weight.data.zero_()
    part.tabulate()
    torch.testing.assert_close(part._look_up(counts, *part.lines), part._mlp(counts), atol=2e-4, rtol=1e-5)


def test_the_table_follows_the_weights_only_when_prepared_again() -> None:
    config = embedding_config()
    model, vectors = random_model(config), random_vectors(config)
    with pytest.raises(ConfigError, match="not prepared"):
        model(*inputs(config))
    before = model.prepare(vectors)(*inputs(config)).cell
    model.encoder[0].weight.data.mul_(2)
    assert torch.equal(model(*inputs(config)).cell, before)
    after = model.prepare(vectors)(*inputs(config)).cell
    assert not torch.allclose(after, before)
    assert torch.equal(model(*inputs(config), table=model.gene_table(vectors)).cell, after)  # as training does
    with pytest.raises(ConfigError, match=r"shape \(3, 6\).*\(24, 6\)"):
        model.prepare(vectors[:3])
    assert not any("table" in name for name in model.state_dict())


def test_decoding_is_gene_by_gene() -> None:
    config = embedding_config()
    model, vectors = random_model(config), random_vectors(config)
    cell, dataset, depth = torch.randn(4, 8), torch.randn(4, 10), torch.rand(4)
    whole = model.decode(vectors[:5], cell, dataset, depth)
    assert whole.shape == (4, 5)
    one = model.expression_decoder(torch.cat([model.encoder(vectors[2]), cell[1], depth[1:2], dataset[1]]))
    torch.testing.assert_close(whole[1, 2], one[0])
    with pytest.raises(ConfigError, match="read depth"):
        model.decode(vectors[:5], cell, dataset)
    with pytest.raises(ConfigError, match="data set part"):
        model.decode(vectors[:5], cell, None, depth)


def test_training_reaches_every_weight_of_the_embedding() -> None:
    config = embedding_config(dropout=0.5)
    model, vectors = random_model(config).train().requires_grad_(True), random_vectors(config)
    rows, counts = inputs(config)
    one, other = (model(rows, counts, table=model.gene_table(vectors)).embedding for _ in range(2))
    assert not torch.equal(one, other)  # dropout
    (one**2 * torch.randn_like(one)).sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without and all(name.startswith("expression_decoder.") for name in without)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"hidden": 9}, "2 heads do not divide"), ({"tokens": 1}, "tokens is 1"), ({"dropout": 1.0}, "dropout"), ({"layers": 0}, "layers is 0"),
     ({"cls_gene": -1}, "cls_gene")],
)  # fmt: skip
def test_sizes_that_make_no_network(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        embedding_config(**changes)


@pytest.mark.parametrize("hidden", [32, 128])
def test_a_new_network_begins_with_attention_to_all_genes_alike(hidden: int) -> None:
    """As drawn, one gene of a hundred takes most of what CLS attends to, the more so the wider the network."""
    config = embedding_config(genes=300, hidden=hidden, heads=4, layers=2, tokens=101)
    torch.manual_seed(0)
    network, vectors = EmbeddingModel(config), torch.randn(config.genes, config.token_dim)
    rows, counts = torch.randint(config.genes, (20, 101)), torch.full((20, 101), 1.0)
    rows[:, 0] = config.genes

    @torch.no_grad()
    def largest(model: EmbeddingModel) -> float:
        attention = model.eval().prepare(vectors)(rows, counts, attention=True).cls_attention
        assert attention is not None
        return float(attention[0][:, :, 1:101].amax(dim=2).mean())

    drawn = largest(copy.deepcopy(network))
    even = largest(network.even_start())
    assert drawn > 0.1 and even < 0.03
    torch.manual_seed(0)
    as_drawn, now = EmbeddingModel(config).state_dict(), network.state_dict()
    assert [name for name in now if not torch.equal(now[name], as_drawn[name])] == ["layers.0.qkv.weight", "layers.0.qkv.bias"]
    assert torch.equal(now["layers.0.qkv.weight"][2 * hidden :], as_drawn["layers.0.qkv.weight"][2 * hidden :])  # values stay
