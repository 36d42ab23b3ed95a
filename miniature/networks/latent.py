"""A small latent space of 16 x 16 positions: diffusers' `AutoencoderKL`, in its real folder layout.

Its encoder is a fixed linear code: the orthogonal PCA of square patches, partly whitened, exact to rounding. The class
can represent it because silu(x) - silu(-x) = x, so pairs of channels with opposite signs pass the last activation
unchanged, and because two large constants of opposite signs dominate the statistics of a group norm. The decoder starts
from one least-squares fit for each doubling and is then trained. It cannot represent the transposed PCA: upsampling
repeats pixels and convolutions treat all places alike, so a constant latent decodes to one colour, never to a pattern.
The variance of the posterior is practically zero.

Axes: C channels of the latent, P side of a patch in pixels, S side of a picture in pixels.
"""

import math
from pathlib import Path
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from infra.config import Config
from infra.ranges import Count, Pixels

GROUPS = 4


class LatentShape(Config):
    """Sizes of an autoencoder."""

    side_px: Pixels = 64
    """Side of a picture in pixels."""
    patch_px: Count = 4
    """Side of the patch that a position stands for, in pixels; a power of two."""
    channels: Count = 16
    """Numbers of a position, a multiple of the 4 groups of the norms."""
    width: Count = 48
    """Channels of the layers, a multiple of 4 and at least 2 * channels + 8: a group of them holds its numbers twice,
    and two constants."""

    @property
    def settings(self) -> dict[str, object]:
        """Settings of the class: the encoder's blocks have no resnet, the decoder's have one each."""
        levels = self.patch_px.bit_length()
        return {
            "sample_size": self.side_px,
            "block_out_channels": (self.width,) * levels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "layers_per_block": 0,
            "latent_channels": self.channels,
            "norm_num_groups": GROUPS,
            "mid_block_add_attention": False,
            "scaling_factor": 1.0,
        }


SHAPE = LatentShape()
"""The shape of the committed base."""
WHITENING = 0.5
"""Exponent of the standard deviation by which a channel is divided: 0 keeps PCA's scale, 1 makes all channels equal."""
_CONSTANT = 256.0
_LOG_VARIANCE = -20.0
_FITTED_POSITIONS = 1_600_000
"""Largest number of positions that a convolution of the decoder is fitted to."""


class _Affine(Protocol):
    weight: Tensor
    bias: Tensor


def shape_of(vae: AutoencoderKL) -> LatentShape:
    """Return the sizes of an autoencoder that `build` made."""
    widths = vae.config.block_out_channels
    return LatentShape(
        side_px=vae.config.sample_size,
        patch_px=1 << len(widths) - 1,
        channels=vae.config.latent_channels,
        width=widths[0],
    )


def build(seed: int, shape: LatentShape = SHAPE) -> AutoencoderKL:
    """Return the autoencoder before `fit`, in float32; its resnets are identities."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(**shape.settings)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return vae


@torch.no_grad()
def fit(vae: AutoencoderKL, images: Float[Tensor, "N 3 S S"]) -> None:
    """Compute the encoder's code and the decoder's initial weights from images in [-1, 1]; more images fit better."""
    shape = shape_of(vae)
    patches = F.unfold(images, shape.patch_px, stride=shape.patch_px).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh((patches - mean).T.double() @ (patches - mean).double() / len(patches))
    stds = variances.flip(0)[: shape.channels].sqrt()
    scales = stds**WHITENING
    scales *= (stds / scales).square().mean().sqrt()  # the latent has standard deviation 1 over all channels
    code = (directions.flip(1)[:, : shape.channels] / scales).T.float()
    _write_encoder(vae, code, -code @ mean)
    _fit_decoder(vae, images)


def encoder_code(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Return the rows of the linear code, [C, 3 P P], and its offsets, [C], of an encoder that `fit` wrote."""
    side = shape_of(vae).patch_px
    pixels = torch.eye(3 * side**2).reshape(-1, 3, side, side)
    probes = torch.cat([torch.zeros(1, 3, side, side), pixels]).repeat(1, 1, 5, 5)
    with torch.no_grad():
        means = vae.encode(probes).latent_dist.mean[..., 2, 2]
    return (means[1:] - means[0]).T, means[0]


def save(vae: AutoencoderKL, folder: Path) -> None:
    """Write the folder that `AutoencoderKL.from_pretrained` loads."""
    vae.save_pretrained(folder)


def _write_encoder(vae: AutoencoderKL, code: Tensor, offset: Tensor) -> None:
    encoder, shape = vae.encoder, shape_of(vae)
    halvings = [block.downsamplers[0].conv for block in encoder.down_blocks[:-1]]
    _clear(encoder.conv_in, *halvings, encoder.conv_out)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1.0
    *unshuffles, coding = halvings
    for step, conv in enumerate(unshuffles):  # 2 x 2 positions become channels
        for channel in range(3 * 4**step):
            for y in range(2):
                for x in range(2):
                    conv.weight[4 * channel + 2 * y + x, channel, y, x] = 1.0
    taps = _last_taps(code)
    per_group = shape.channels // GROUPS
    for channel in range(shape.channels):
        group, place = divmod(channel, per_group)
        first = group * (shape.width // GROUPS) + 2 * place
        for index, sign in ((first, 1.0), (first + 1, -1.0)):
            coding.weight[index, : taps.shape[1], :2, :2] = sign * taps[channel]
            coding.bias[index] = sign * offset[channel]
            encoder.conv_out.weight[channel, index, 1, 1] = sign
    for group in range(GROUPS):
        _make_norm_identity(coding, encoder.conv_norm_out, group)
    _set_identity(vae.quant_conv)
    vae.quant_conv.weight[shape.channels :] = 0.0
    vae.quant_conv.bias[shape.channels :] = _LOG_VARIANCE


def _last_taps(code: Tensor) -> Tensor:
    """Return the code, [C, 3 P P], as a kernel of 2 x 2 on the channels that the convolutions before it make."""
    channels, values = code.shape
    bits = math.isqrt(values // 3).bit_length() - 1
    by_bit = code.reshape(channels, 3, *(2,) * (2 * bits))  # rows, then columns, each from the highest bit
    rows, columns = range(2 + bits - 1, 1, -1), range(2 + 2 * bits - 1, 1 + bits, -1)
    pairs = [axis for pair in zip(rows, columns, strict=True) for axis in pair]  # the lowest bit first
    return by_bit.permute(0, 1, *pairs).reshape(channels, 3 * 4 ** (bits - 1), 2, 2)


def _fit_decoder(vae: AutoencoderKL, images: Tensor) -> None:
    """Fit a convolution for each doubling, from all that is known to the pixels of each position."""
    features = vae.encode(images).latent_dist.mean
    decoder, shape = vae.decoder, shape_of(vae)
    *doublings, last = [block.upsamplers[0].conv for block in decoder.up_blocks[:-1]]
    _set_identity(vae.post_quant_conv)
    _carry(decoder.conv_in, 0, shape.channels)
    for step, conv in enumerate(doublings):
        wide = _upsample(features)
        pixels = F.pixel_unshuffle(images, shape.patch_px >> (step + 1))
        _regress(conv, wide, pixels)
        inputs, known = features.shape[1], pixels.shape[1]
        carried = min(inputs, shape.width - known)
        _carry(conv, known, carried)
        kernel, offsets = conv.weight[: known + carried, :inputs], conv.bias[: known + carried]
        features = torch.cat([F.conv2d(part, kernel, offsets, padding=1) for part in torch.split(wide, 16)])
    _regress(last, _upsample(features), images)
    _write_colour_pairs(last, decoder)


def _carry(conv: _Affine, first: int, count: int) -> None:
    """Let `count` outputs of a convolution, from the output `first` on, repeat its first inputs."""
    carried = slice(first, first + count)
    conv.weight[carried], conv.bias[carried] = 0.0, 0.0
    for channel in range(count):
        conv.weight[first + channel, channel, 1, 1] = 1.0


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
    group = len(decoder.conv_norm_out.weight) // GROUPS
    decoder.up_blocks[-1].resnets[0].norm1.weight[:group] = decoder.conv_norm_out.weight[:group]


def _make_norm_identity(before: _Affine, norm: _Affine, group: int) -> None:
    """Make `norm` the identity on a group of the outputs of `before`, whose last two channels become the constants."""
    size = len(norm.weight) // GROUPS
    last = (group + 1) * size
    for index, sign in ((last - 2, 1.0), (last - 1, -1.0)):
        before.weight[index], before.bias[index] = 0.0, sign * _CONSTANT
    norm.weight[last - size : last] = _CONSTANT * (2 / size) ** 0.5


def _regress(conv: _Affine, inputs: Tensor, targets: Tensor) -> None:
    """Fit a 3 x 3 convolution by least squares, from the first channels of its input to the first of its output."""
    n_in, n_out = inputs.shape[1], targets.shape[1]
    used = max(1, _FITTED_POSITIONS // (inputs.shape[2] * inputs.shape[3]))
    products = torch.zeros(9 * n_in + 1, 9 * n_in + 1 + n_out, dtype=torch.float64)
    for image, target in zip(torch.split(inputs[:used], 4), torch.split(targets[:used], 4), strict=True):
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
