"""The network that a request asks for. No torch: what a training will take is estimated from it."""

from __future__ import annotations

from state_engine.models.config import BackboneConfig, DecoderConfig, TransitionConfig
from state_engine.train.request import TrainRequest

WIDE = 4  # intermediate width, in hidden widths, where the request does not say


def network_config(
    request: TrainRequest, features: int, perturbation: int, batches: int = 0, decoded: int = 0
) -> TransitionConfig:
    """Return the network of a request, given the sizes of the data.

    Args:
        request: the training.
        features: of a cell.
        perturbation: width of a perturbation's vector; with one-hot vectors the number of labels, the control included.
        batches: labels of batches.
        decoded: genes of the gene decoder.
    """
    asked, d = request.network, request.network.hidden
    backbone = BackboneConfig(
        kind=asked.backbone,
        hidden=d,
        layers=asked.layers,
        heads=asked.heads,
        kv_heads=asked.kv_heads or asked.heads,
        head_dim=asked.head_dim or d // asked.heads,
        intermediate=asked.intermediate or WIDE * d,
    )
    decoder = None
    if asked.gene_decoder:
        decoder = DecoderConfig(features, decoded, asked.decoder_hidden, asked.decoder_dropout, asked.decoder_residual)
    return TransitionConfig(
        input_dim=features,
        output_dim=features,
        perturbation_dim=perturbation,
        backbone=backbone,
        output_space=asked.output_space or ("hvg" if asked.reads_genes or asked.gene_decoder else "embedding"),
        set_size=request.sets.set_size,
        batch_dim=batches if asked.batch_encoder else 0,
        encoder_layers=asked.encoder_layers,
        decoder_layers=asked.decoder_layers,
        basal_mlp=asked.basal_mlp,
        predict_residual=asked.predict_residual,
        final_relu=asked.reads_genes,
        batch_encoder=asked.batch_encoder,
        batch_token=asked.batch_token,
        confidence_token=asked.confidence_token,
        mask_attention=asked.mask_attention,
        dropout=asked.dropout,
        activation=asked.activation,
        decoder=decoder,
    )
