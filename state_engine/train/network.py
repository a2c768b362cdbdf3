"""The network that a request asks for. No torch: what a training will take is estimated from it."""

from __future__ import annotations

from state_engine.models.config import BackboneConfig, DecoderConfig, TransitionConfig
from state_engine.train.request import TrainRequest

WIDE = 4  # intermediate width, in hidden widths, where the request does not say


def network_config(
    request: TrainRequest, features: int, perturbation: int, batches: int = 0, decoded: int = 0
) -> TransitionConfig:
    """The network of a request, given the sizes of the data.

    Args:
        request: the training.
        features: of a cell.
        perturbation: width of a perturbation's vector; with one-hot vectors the number of labels, the control included.
        batches: labels of batches.
        decoded: genes of the gene decoder.
    """
    d = request.hidden
    backbone = BackboneConfig(
        kind=request.backbone,
        hidden=d,
        layers=request.layers,
        heads=request.heads,
        kv_heads=request.kv_heads or request.heads,
        head_dim=request.head_dim or d // request.heads,
        intermediate=request.intermediate or WIDE * d,
    )
    decoder = None
    if request.gene_decoder:
        decoder = DecoderConfig(features, decoded, request.decoder_hidden, request.decoder_dropout, request.decoder_residual)
    return TransitionConfig(
        input_dim=features,
        output_dim=features,
        perturbation_dim=perturbation,
        backbone=backbone,
        output_space=request.output_space or ("hvg" if request.reads_genes or request.gene_decoder else "embedding"),
        set_size=request.set_size,
        batch_dim=batches if request.batch_encoder else 0,
        encoder_layers=request.encoder_layers,
        decoder_layers=request.decoder_layers,
        basal_mlp=request.basal_mlp,
        predict_residual=request.predict_residual,
        final_relu=request.reads_genes,
        batch_encoder=request.batch_encoder,
        batch_token=request.batch_token,
        confidence_token=request.confidence_token,
        mask_attention=request.mask_attention,
        dropout=request.dropout,
        activation=request.activation,
        decoder=decoder,
    )
