"""A small Grounding DINO: transformers' `GroundingDinoForObjectDetection` at 192 px, 2.9 M weights, in its real layout.

The class needs a width that is a multiple of 32, and a vocabulary with BERT's ids for [CLS], [SEP], the full stop and
the question mark: `vocabulary.detection_vocabulary`. Its backbone is frozen and its batch norms are constants; call
`net.model.unfreeze_backbone()` before training.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    ResNetConfig,
)

from miniature.networks.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Sizes:
    """Size of the network; the defaults are those of the trained one."""

    image_px: int = 192
    stem: int = 32
    channels: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of the backbone's four stages; the encoder sees the last two."""
    depths: tuple[int, ...] = (1, 1, 2, 1)
    """Blocks of the backbone's four stages."""
    width: int = 128
    heads: int = 4
    encoder_layers: int = 1
    decoder_layers: int = 2
    """Number of decoder layers; the class cannot be built with 1."""
    text_layers: int = 2
    text_heads: int = 2
    queries: int = 12
    max_tokens: int = 64


SIZES = Sizes()
PRIOR_LOGIT = -2.5
"""Logit of a token without evidence, in a network with random weights."""


def architecture(vocabulary: Vocabulary, sizes: Sizes = SIZES) -> GroundingDinoConfig:
    """Return the configuration for transformers."""
    text = BertConfig(
        vocab_size=len(vocabulary.tokens),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        intermediate_size=2 * sizes.width,
        max_position_embeddings=sizes.max_tokens,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    backbone = ResNetConfig(
        embedding_size=sizes.stem,
        hidden_sizes=list(sizes.channels),
        depths=list(sizes.depths),
        layer_type="basic",
        out_features=["stage3", "stage4"],
    )
    return GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=sizes.width,
        num_queries=sizes.queries,
        num_feature_levels=2,
        encoder_layers=sizes.encoder_layers,
        encoder_ffn_dim=2 * sizes.width,
        encoder_attention_heads=sizes.heads,
        decoder_layers=sizes.decoder_layers,
        decoder_ffn_dim=2 * sizes.width,
        decoder_attention_heads=sizes.heads,
        max_text_len=sizes.max_tokens,
        dropout=0.0,
        fusion_droppath=0.0,
    )


def build(vocabulary: Vocabulary, seed: int, sizes: Sizes = SIZES) -> GroundingDinoForObjectDetection:
    """Return the network with random weights, in evaluation mode, float32.

    Its boxes do not depend on the nouns. They vary in place, size, shape and score, so thresholds and rules keep some
    and drop others (see `spread_scores` and `spread_boxes`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = GroundingDinoForObjectDetection(architecture(vocabulary, sizes)).eval()
        spread_scores(net)
        spread_boxes(net)
    return net


def save(net: GroundingDinoForObjectDetection, folder: Path, vocabulary: Vocabulary, sizes: Sizes = SIZES) -> None:
    """Write the folder that the backend `grounding_dino_hf` loads: weights, configuration and processor."""
    net.save_pretrained(folder)
    GroundingDinoProcessor(image_processor(sizes), vocabulary.tokenizer()).save_pretrained(folder)


def image_processor(sizes: Sizes = SIZES) -> GroundingDinoImageProcessor:
    """Return transformers' image processor for a network of this size."""
    return GroundingDinoImageProcessor(size={"height": sizes.image_px, "width": sizes.image_px}, do_pad=False)


@torch.no_grad()
def spread_scores(net: GroundingDinoForObjectDetection, prior_logit: float = PRIOR_LOGIT) -> None:
    """Set the scale and the prior of the logits, which are products of two layer norms, by the norms' parameters."""
    text_norm = net.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    for norm, bias in ((net.model.enc_output_norm, 1.0), (net.model.decoder.layer_norm, 1.0), (text_norm, prior_logit)):
        norm.weight.fill_(0.35)
        norm.bias[0] = bias
    for layer in net.model.encoder.layers:  # at the default of 1e-4, text and image barely interact
        layer.fusion_layer.vision_param.fill_(0.1)
        layer.fusion_layer.text_param.fill_(0.1)


@torch.no_grad()
def spread_boxes(net: GroundingDinoForObjectDetection, std: float = 3.0) -> None:
    """Randomise the last layers of the box heads, whose default of zero makes every box a small square on its grid.

    Rows that sum to zero remove the common part of all queries, which would give all boxes one shape. A wider network
    needs a smaller `std` for the same spread.
    """
    first, rest = net.model.encoder_output_bbox_embed.layers[-1], net.bbox_embed[0].layers[-1]
    for last in (first, rest):
        nn.init.normal_(last.weight, std=std)
        last.weight -= last.weight.mean(dim=1, keepdim=True)
    first.bias[2:] = 3.0  # proposals are 0.05 and 0.1 of the image wide; objects are larger
