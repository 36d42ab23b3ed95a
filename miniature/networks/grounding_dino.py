"""A small Grounding DINO: transformers' `GroundingDinoForObjectDetection` at 192 px, 2.9 M weights, in its real layout.

The class wants a width that is a multiple of 32, and a vocabulary with BERT's ids for [CLS], [SEP], the full stop and
the question mark: `vocabulary.detection_vocabulary`. Its backbone comes frozen, with every batch norm turned into a
constant: `net.model.unfreeze_backbone()` before training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """How large the network is; the defaults are those that are trained."""

    image_px: int = 192
    stem: int = 32
    channels: tuple[int, ...] = (32, 64, 128, 256)
    """Of the backbone's four stages; the last two are seen by the encoder."""
    depths: tuple[int, ...] = (1, 1, 2, 1)
    width: int = 128
    heads: int = 4
    encoder_layers: int = 1
    decoder_layers: int = 2
    """At least 2: the class does not build with 1."""
    text_layers: int = 2
    text_heads: int = 2
    queries: int = 12
    max_tokens: int = 64


SIZES = Sizes()
PRIOR_LOGIT = -2.5
"""Of random weights: the logit of a token that says nothing."""


def architecture(vocabulary: Vocabulary, sizes: Sizes = SIZES) -> Any:
    """transformers' settings."""
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


def build(vocabulary: Vocabulary, seed: int, sizes: Sizes = SIZES) -> Any:
    """The network with random weights, evaluation mode, float32.

    Its boxes have nothing to do with the nouns, but differ in place, size, shape and score, so that thresholds and
    rules keep and drop: see `spread_scores` and `spread_boxes`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = GroundingDinoForObjectDetection(architecture(vocabulary, sizes)).eval()
        spread_scores(net)
        spread_boxes(net)
    return net


def save(net: Any, folder: Path, vocabulary: Vocabulary, sizes: Sizes = SIZES) -> None:
    """Write the folder that the backend `grounding_dino_hf` loads: weights, configuration and processor."""
    net.save_pretrained(folder)
    GroundingDinoProcessor(image_processor(sizes), vocabulary.tokenizer()).save_pretrained(folder)


def image_processor(sizes: Sizes = SIZES) -> Any:
    """transformers' image processor for a network of this input."""
    return GroundingDinoImageProcessor(size={"height": sizes.image_px, "width": sizes.image_px}, do_pad=False)


@torch.no_grad()
def spread_scores(net: Any, prior_logit: float = PRIOR_LOGIT) -> None:
    """Logits are products of two layer norms: their scale is the norms' weights, their prior the norms' biases."""
    text_norm = net.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    for norm, bias in ((net.model.enc_output_norm, 1.0), (net.model.decoder.layer_norm, 1.0), (text_norm, prior_logit)):
        norm.weight.fill_(0.35)
        norm.bias[0] = bias
    for layer in net.model.encoder.layers:  # 1e-4 by default: text and image would hardly see each other
        layer.fusion_layer.vision_param.fill_(0.1)
        layer.fusion_layer.text_param.fill_(0.1)


@torch.no_grad()
def spread_boxes(net: Any, std: float = 3.0) -> None:
    """The heads' last layers are zero by default, which leaves every box a small square on its grid point. Rows that
    sum to zero keep what all queries have in common from giving all boxes one shape; the wider the network, the smaller
    the `std` for the same spread."""
    first, rest = net.model.encoder_output_bbox_embed.layers[-1], net.bbox_embed[0].layers[-1]
    for last in (first, rest):
        nn.init.normal_(last.weight, std=std)
        last.weight -= last.weight.mean(dim=1, keepdim=True)
    first.bias[2:] = 3.0  # proposals are 0.05 and 0.1 of the image wide: half of it is more like an object
