"""A small SAM: transformers' `SamModel` at 192 px, 0.58 M weights, in its real folder layout.

Two of the class's defaults suit pretrained weights only and prevent training from scratch: the image encoder's
`initializer_range` of 1e-10, and `scale`, half the width, which makes the Fourier features of positions far too fine.
The decoder has heads of 32 channels, so that the weights can also be written in the original layout.
"""

from pathlib import Path

import torch
from torch.nn.functional import gelu, interpolate
from transformers import SamConfig, SamModel

from labeling.backends.sam.checkpoint import SamArchitecture
from labeling.backends.sam.convert import configuration, processor

SIZES = SamArchitecture(
    image_px=192,
    patch_px=8,
    width=96,
    depth=4,
    heads=3,
    mlp_width=192,
    window=6,
    global_layers=(1, 3),
    embedding_channels=64,
    mask_input_channels=8,
    masks=3,
    decoder_depth=2,
    decoder_heads=2,
    decoder_mlp_width=128,
    decoder_downsample=2,
    iou_head_width=64,
)
"""Sizes of the trained network: ViT 4 x 96 without relative positions, decoder of 64 channels, masks of 96 x 96."""
MEAN_FILL = 0.3
"""Mean share of the image that masks of a network with random weights cover, 0 to 1."""
_CONSTANT = 2.0


def architecture(sizes: SamArchitecture = SIZES) -> SamConfig:
    """Return the configuration for transformers, with an initialisation from which the network can be trained."""
    config = configuration(sizes)
    config.initializer_range = 0.2
    config.vision_config.initializer_range = 0.06
    config.vision_config.scale = 1.0
    config.vision_config.use_rel_pos = False
    return config


def build(seed: int, sizes: SamArchitecture = SIZES) -> SamModel:
    """Return the network with random weights, in evaluation mode, float32.

    Its masks do not depend on the picture. Their areas range from empty to full, so the rules on masks keep some and
    drop others (see `spread_areas`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SamModel(architecture(sizes)).eval()
        spread_areas(net, sizes)
    return net


def save(net: SamModel, folder: Path, sizes: SamArchitecture = SIZES) -> None:
    """Write the folder that the backend `sam_hf` loads: weights, configuration and processor."""
    net.save_pretrained(folder)
    processor(sizes.image_px, 4 * sizes.image_px // sizes.patch_px).save_pretrained(folder)


@torch.no_grad()
def spread_areas(net: SamModel, sizes: SamArchitecture, pictures: int = 16) -> None:
    """Make the areas of random masks vary; otherwise all masks of a seed have about the same area.

    One channel of the upscaled embedding becomes constant, so that its weight, which varies with box and image, is an
    offset of the whole mask. Its bias is set so that masks of `pictures` noise pictures cover `MEAN_FILL` on average.
    """
    decoder = net.mask_decoder
    decoder.upscale_conv2.weight[:, 0] = 0.0
    decoder.upscale_conv2.bias[0] = _CONSTANT
    noise = interpolate(torch.randn(pictures, 3, 6, 6), (sizes.image_px, sizes.image_px))
    corners = torch.rand(pictures, 4, 2, 2) * sizes.image_px
    boxes = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
    logits = net(pixel_values=noise, input_boxes=boxes, multimask_output=False).pred_masks
    offset = torch.quantile(logits.flatten(), 1 - MEAN_FILL) / gelu(torch.tensor(_CONSTANT))
    decoder.output_hypernetworks_mlps[0].proj_out.bias[0] -= offset
