"""A small latent space: diffusers' `AutoencoderKL`, 64 px to 16 x 16 x 16, in its real folder layout.

Its encoder is a fixed linear code: the orthogonal PCA of 4 x 4 patches, partly whitened, exact to rounding. The class
can represent it because silu(x) - silu(-x) = x, so pairs of channels with opposite signs pass the last activation
unchanged, and because two large constants of opposite signs dominate the statistics of a group norm. The decoder starts
from two least-squares fits and is then trained. It cannot represent the transposed PCA: upsampling repeats pixels and
convolutions treat all places alike, so a constant latent decodes to one colour, never to a 4 x 4 pattern. The variance
of the posterior is practically zero.
"""

from pathlib import Path
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SIDE_PX, PATCH_PX, CHANNELS = 64, 4, 16
WIDTH, GROUPS = 48, 4
ARCHITECTURE: dict[str, object] = {
    "sample_size": SIDE_PX,
    "block_out_channels": (WIDTH,) * 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 0,
    "latent_channels": CHANNELS,
    "norm_num_groups": GROUPS,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
"""Settings of the class: the encoder's blocks have no resnet, the decoder's have one each."""
WHITENING = 0.5
"""Exponent of the standard deviation by which a channel is divided: 0 keeps PCA's scale, 1 makes all channels equal."""
_CONSTANT = 256.0
_GROUP = WIDTH // GROUPS
_LOG_VARIANCE = -20.0


class _Affine(Protocol):
    weight: Tensor
    bias: Tensor


def build(seed: int) -> AutoencoderKL:
    """Return the autoencoder before `fit`, in float32; its resnets are identities."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(**ARCHITECTURE)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return vae


@torch.no_grad()
def fit(vae: AutoencoderKL, images: Float[Tensor, "N 3 64 64"]) -> None:
    """Compute the encoder's code and the decoder's initial weights from images in [-1, 1]; more images fit better."""
    patches = F.unfold(images, PATCH_PX, stride=PATCH_PX).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh((patches - mean).T.double() @ (patches - mean).double() / len(patches))
    stds = variances.flip(0)[:CHANNELS].sqrt()
    scales = stds**WHITENING
    scales *= (stds / scales).square().mean().sqrt()  # the latent has standard deviation 1 over all channels
    code = (directions.flip(1)[:, :CHANNELS] / scales).T.float()
    _write_encoder(vae, code, -code @ mean)
    _fit_decoder(vae, images)


def encoder_code(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Return the rows of the linear code, [16, 48], and its offsets, [16], of an encoder that `fit` wrote."""
    pixels = torch.eye(3 * PATCH_PX**2).reshape(-1, 3, PATCH_PX, PATCH_PX)
    probes = torch.cat([torch.zeros(1, 3, PATCH_PX, PATCH_PX), pixels]).repeat(1, 1, SIDE_PX // PATCH_PX, 16)
    with torch.no_grad():
        means = vae.encode(probes).latent_dist.mean[..., 8, 8]
    return (means[1:] - means[0]).T, means[0]


def save(vae: AutoencoderKL, folder: Path) -> None:
    """Write the folder that `AutoencoderKL.from_pretrained` loads."""
    vae.save_pretrained(folder)


def _write_encoder(vae: AutoencoderKL, code: Tensor, offset: Tensor) -> None:
    encoder = vae.encoder
    _clear(encoder.conv_in, *(block.downsamplers[0].conv for block in encoder.down_blocks[:2]), encoder.conv_out)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1.0
    halves, quarters = (block.downsamplers[0].conv for block in encoder.down_blocks[:2])
    for colour in range(3):  # 2 x 2 pixels become channels
        for y in range(2):
            for x in range(2):
                halves.weight[4 * colour + 2 * y + x, colour, y, x] = 1.0
    # code [16, colour, Y, y, X, x] for row 2 Y + y of the patch, in the channel order of the first convolution
    taps = code.reshape(CHANNELS, 3, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(CHANNELS, 12, 2, 2)
    per_group = CHANNELS // GROUPS
    for channel in range(CHANNELS):
        group, place = divmod(channel, per_group)
        first = group * _GROUP + 2 * place
        for index, sign in ((first, 1.0), (first + 1, -1.0)):
            quarters.weight[index, :12, :2, :2] = sign * taps[channel]
            quarters.bias[index] = sign * offset[channel]
            encoder.conv_out.weight[channel, index, 1, 1] = sign
    for group in range(GROUPS):
        _make_norm_identity(quarters, encoder.conv_norm_out, group)
    _set_identity(vae.quant_conv)
    vae.quant_conv.weight[CHANNELS:] = 0.0
    vae.quant_conv.bias[CHANNELS:] = _LOG_VARIANCE


def _fit_decoder(vae: AutoencoderKL, images: Tensor) -> None:
    """Fit a convolution from the latent to blocks of 2 x 2 pixels, then one from latent and blocks to the image."""
    latents = vae.encode(images).latent_dist.mean
    decoder = vae.decoder
    halves, whole = (block.upsamplers[0].conv for block in decoder.up_blocks[:2])
    _set_identity(vae.post_quant_conv)
    decoder.conv_in.weight[:CHANNELS], decoder.conv_in.bias[:CHANNELS] = 0.0, 0.0
    for channel in range(CHANNELS):
        decoder.conv_in.weight[channel, channel, 1, 1] = 1.0
    wide = _upsample(latents)
    _regress(halves, wide, F.pixel_unshuffle(images, 2))
    carried = slice(12, 12 + CHANNELS)
    halves.weight[carried], halves.bias[carried] = 0.0, 0.0
    for channel in range(CHANNELS):
        halves.weight[12 + channel, channel, 1, 1] = 1.0
    guessed = F.conv2d(wide, halves.weight[: 12 + CHANNELS, :CHANNELS], halves.bias[: 12 + CHANNELS], padding=1)
    _regress(whole, _upsample(guessed), images)
    _write_colour_pairs(whole, decoder)


def _write_colour_pairs(whole: _Affine, decoder: Decoder) -> None:
    """Write the three colours as six channels that pass the last norm and activation unchanged."""
    colours, offsets = whole.weight[:3].clone(), whole.bias[:3].clone()
    nn.init.zeros_(decoder.conv_out.weight)
    nn.init.zeros_(decoder.conv_out.bias)
    for colour in range(3):
        for index, sign in ((2 * colour, 1.0), (2 * colour + 1, -1.0)):
            whole.weight[index], whole.bias[index] = sign * colours[colour], sign * offsets[colour]
            decoder.conv_out.weight[colour, index, 1, 1] = sign
    _make_norm_identity(whole, decoder.conv_norm_out, 0)
    decoder.up_blocks[2].resnets[0].norm1.weight[:_GROUP] = decoder.conv_norm_out.weight[:_GROUP]


def _make_norm_identity(before: _Affine, norm: _Affine, group: int) -> None:
    """Make `norm` the identity on a group of the outputs of `before`, whose last two channels become the constants."""
    last = (group + 1) * _GROUP
    for index, sign in ((last - 2, 1.0), (last - 1, -1.0)):
        before.weight[index], before.bias[index] = 0.0, sign * _CONSTANT
    norm.weight[last - _GROUP : last] = _CONSTANT * (2 / _GROUP) ** 0.5


def _regress(conv: _Affine, inputs: Tensor, targets: Tensor) -> None:
    """Fit a 3 x 3 convolution by least squares, from the first channels of its input to the first of its output."""
    n_in, n_out = inputs.shape[1], targets.shape[1]
    products = torch.zeros(9 * n_in + 1, 9 * n_in + 1 + n_out, dtype=torch.float64)
    for image, target in zip(torch.split(inputs, 8), torch.split(targets, 8), strict=True):
        windows = F.unfold(image, 3, padding=1).transpose(1, 2).flatten(0, 1)
        windows = torch.cat([windows, torch.ones(len(windows), 1)], dim=1)
        products += windows.T @ torch.cat([windows, target.flatten(2).transpose(1, 2).flatten(0, 1)], dim=1)
    squares = products[:, : 9 * n_in + 1]
    squares += 1e-6 * squares.diagonal().mean() * torch.eye(len(squares))
    solution = torch.linalg.solve(squares, products[:, 9 * n_in + 1 :]).T.float()
    conv.weight[:n_out], conv.bias[:n_out] = 0.0, solution[:, -1]
    conv.weight[:n_out, :n_in] = solution[:, :-1].reshape(n_out, n_in, 3, 3)


def _upsample(pixels: Tensor) -> Tensor:
    return F.interpolate(pixels, scale_factor=2.0, mode="nearest")


def _set_identity(conv: _Affine) -> None:
    _clear(conv)
    conv.weight[:, :, 0, 0] = torch.eye(len(conv.weight))


def _clear(*convs: _Affine) -> None:
    for conv in convs:
        nn.init.zeros_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
